//! The block device (virtio 1.2, 5.2) over a file.

mod disk;
mod scratch;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

pub use disk::Disk;
pub use scratch::Scratch;

use super::{Broken, Device, Memory};
use crate::ready_threads::ReadyThreads;
use disk::{Task, Worker};

/// The unit of the device's addresses, whatever the disk's own.
const SECTOR: u64 = 512;
/// Length of the answer to "what is your name".
const ID_BYTES: usize = 20;
/// Length of a request's head.
const HEAD: usize = 16;
/// Pieces of memory in one request, and bytes in one piece, that the driver is told to stay below.
const MOST_PIECES: u32 = 32;
const LARGEST_PIECE: u32 = 128 << 10;
/// Bytes of a request at most; a larger one fails.
const MOST_BYTES: usize = MOST_PIECES as usize * LARGEST_PIECE as usize;
/// Ranges in one request to zero or discard, and sectors in one of them, at most.
const MOST_RANGES: u32 = 16;
const MOST_RANGE_SECTORS: u32 = 1 << 22;
/// Length of such a range in a request: sector, number of sectors, flags.
const RANGE: usize = 16;
/// Bytes of requests that the disk has not answered; beyond that the guest's next requests stay where they are.
const MOST_UNDER_WAY: usize = 2 * MOST_BYTES;

/// Where in guest memory an answer goes: what was read, then a byte that says how it went.
#[derive(Debug)]
struct Answer {
    /// The request's first descriptor.
    head: u16,
    data: Vec<(GuestAddress, usize)>,
    status: GuestAddress,
}

impl Answer {
    /// Writes it and hands the request back; gives the queue's users something to be interrupted for.
    fn give(&self, memory: &Memory, queue: &mut Queue, result: io::Result<Vec<u8>>) -> Result<(), Broken> {
        let (code, bytes) = match result {
            Ok(bytes) => (VIRTIO_BLK_S_OK, bytes),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => (VIRTIO_BLK_S_UNSUPP, Vec::new()),
            Err(error) => {
                tracing::debug!(%error, "a block request failed");
                (VIRTIO_BLK_S_IOERR, Vec::new())
            }
        };
        let failed = |error: vm_memory::GuestMemoryError| Broken(error.to_string());
        let mut rest = &bytes[..];
        for (address, length) in &self.data {
            let (piece, behind) = rest.split_at((*length).min(rest.len()));
            memory.write_slice(piece, *address).map_err(failed)?;
            rest = behind;
        }
        memory.write_slice(&[code as u8], self.status).map_err(failed)?;
        let written = bytes.len() - rest.len() + 1;
        Ok(queue.add_used(memory, self.head, written as u32)?)
    }
}

/// A request that the disk has not answered.
#[derive(Debug)]
struct UnderWay {
    answer: Answer,
    bytes: usize,
}

/// The device.
#[derive(Debug)]
pub(crate) struct Block {
    disk: Disk,
    sectors: u64,
    worker: Worker,
    next_number: u64,
    under_way: BTreeMap<u64, UnderWay>,
}

impl Block {
    /// Makes one; `wake` becomes readable when [`Device::poll`] has something to do.
    pub fn new(disk: Disk, wake: Arc<OwnedFd>, threads: &ReadyThreads) -> io::Result<Self> {
        let sectors = disk.length()? / SECTOR;
        let worker = Worker::start(disk.clone(), wake, threads)?;
        Ok(Self { disk, sectors, worker, next_number: 0, under_way: BTreeMap::new() })
    }

    /// Takes what the guest has asked for, as long as the disk is not too far behind.
    fn take_requests(&mut self, memory: &Memory, queue: &mut Queue) -> Result<bool, Broken> {
        let mut used = false;
        while self.under_way.values().map(|request| request.bytes).sum::<usize>() < MOST_UNDER_WAY {
            let Some(chain) = queue.pop_descriptor_chain(memory) else { break };
            used |= self.request(memory, queue, chain)?;
        }
        Ok(used)
    }

    /// Answers a request, or gives it to the disk's thread. True for the former.
    fn request(
        &mut self,
        memory: &Memory,
        queue: &mut Queue,
        chain: DescriptorChain<&Memory>,
    ) -> Result<bool, Broken> {
        let answer = answer(&chain)?;
        let mut reader = chain.reader(memory)?;
        let mut head = [0; HEAD];
        reader.read_exact(&mut head)?;
        let [kind @ .., _, _, _, _, _, _, _, _, _, _, _, _] = head;
        let [_, _, _, _, _, _, _, _, sector @ ..] = head;
        let (kind, sector) = (u32::from_le_bytes(kind), u64::from_le_bytes(sector));
        let room = answer.data.iter().map(|(_, length)| length).sum();
        let writable = self.disk.is_writable();
        let task = match kind {
            VIRTIO_BLK_T_IN => self.offset(sector, room).map(|offset| Task::Read { offset, length: room }),
            VIRTIO_BLK_T_OUT if !writable => Err(io::ErrorKind::PermissionDenied.into()),
            VIRTIO_BLK_T_OUT => self.offset(sector, reader.available_bytes()).and_then(|offset| {
                let mut bytes = vec![0; reader.available_bytes()];
                reader.read_exact(&mut bytes)?;
                Ok(Task::Write { offset, bytes })
            }),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if writable => {
                self.ranges(&mut reader, kind).map(Task::Zero)
            }
            VIRTIO_BLK_T_FLUSH if writable => Ok(Task::Flush),
            VIRTIO_BLK_T_FLUSH => return answer.give(memory, queue, Ok(Vec::new())).map(|()| true),
            VIRTIO_BLK_T_GET_ID => {
                let mut id = vec![0; ID_BYTES];
                id.splice(..7, *b"faasnap");
                return answer.give(memory, queue, Ok(id)).map(|()| true);
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        match task {
            Err(error) => answer.give(memory, queue, Err(error)).map(|()| true),
            Ok(task) => self.carry_out(memory, queue, answer, task),
        }
    }

    fn carry_out(
        &mut self,
        memory: &Memory,
        queue: &mut Queue,
        answer: Answer,
        task: Task,
    ) -> Result<bool, Broken> {
        let bytes = match &task {
            Task::Read { length, .. } => *length,
            Task::Write { bytes, .. } => bytes.len(),
            Task::Zero(ranges) => ranges.len() * RANGE,
            Task::Flush => 0,
        };
        // Not past what was asked for before.
        if let Task::Read { offset, length } = task
            && self.under_way.is_empty()
            && let Some(read) = self.disk.read_at_once(offset, length)
        {
            return answer.give(memory, queue, Ok(read)).map(|()| true);
        }
        let number = self.next_number;
        self.next_number += 1;
        if !self.worker.give(number, task) {
            return answer.give(memory, queue, Err(io::ErrorKind::BrokenPipe.into())).map(|()| true);
        }
        self.under_way.insert(number, UnderWay { answer, bytes });
        Ok(false)
    }

    /// The ranges of a request to zero or discard, as offsets and lengths in bytes. What is discarded reads as zeros here, too.
    fn ranges(&self, reader: &mut impl Read, kind: u32) -> io::Result<Vec<(u64, u64)>> {
        let known = if kind == VIRTIO_BLK_T_WRITE_ZEROES { VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP } else { 0 };
        let mut bytes = Vec::new();
        let most = MOST_RANGES as usize * RANGE;
        reader.take(most as u64 + 1).read_to_end(&mut bytes)?;
        let (ranges, rest) = bytes.as_chunks::<RANGE>();
        if ranges.is_empty() || !rest.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let range = |[sector @ .., a, b, c, d, e, f, g, h]: &[u8; RANGE]| {
            let (count, flags) = (u32::from_le_bytes([*a, *b, *c, *d]), u32::from_le_bytes([*e, *f, *g, *h]));
            if flags & !known != 0 {
                // What a device has to say to flags that it does not know (virtio 1.2, 5.2.6.2).
                return Err(io::ErrorKind::Unsupported.into());
            }
            let start = u64::from_le_bytes(*sector);
            let end = start.checked_add(count.into()).filter(|end| *end <= self.sectors);
            if count > MOST_RANGE_SECTORS || end.is_none() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok((start * SECTOR, u64::from(count) * SECTOR))
        };
        ranges.iter().map(range).collect()
    }

    /// Where a request of `bytes` from `sector` starts in the file; all of it is inside the disk.
    fn offset(&self, sector: u64, bytes: usize) -> io::Result<u64> {
        let fits = (bytes as u64).is_multiple_of(SECTOR) && bytes <= MOST_BYTES;
        let end = sector.checked_add(bytes as u64 / SECTOR);
        if fits && end.is_some_and(|end| end <= self.sectors) {
            // No overflow: the end in bytes is at most the length of a file.
            Ok(sector * SECTOR)
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }
}

/// Where the answer to a request goes. The last byte that the device may write is the status.
fn answer(chain: &DescriptorChain<&Memory>) -> Result<Answer, Broken> {
    let mut data: Vec<(GuestAddress, usize)> =
        chain.clone().writable().map(|piece| (piece.addr(), piece.len() as usize)).collect();
    data.retain(|(_, length)| *length > 0);
    let Some((address, length)) = data.pop() else {
        return Err(Broken("a block request without room for its status".to_owned()));
    };
    let status = address.0.checked_add(length as u64 - 1).map(GuestAddress);
    let status = status.ok_or_else(|| Broken("a block request behind the end of memory".to_owned()))?;
    if length > 1 {
        data.push((address, length - 1));
    }
    Ok(Answer { head: chain.head_index(), data, status })
}

impl Device for Block {
    fn kind(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let access = match self.disk.is_writable() {
            false => 1 << VIRTIO_BLK_F_RO,
            true => {
                1 << VIRTIO_BLK_F_FLUSH
                    | 1 << VIRTIO_BLK_F_BLK_SIZE
                    | 1 << VIRTIO_BLK_F_DISCARD
                    | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            }
        };
        access | 1 << VIRTIO_BLK_F_SIZE_MAX | 1 << VIRTIO_BLK_F_SEG_MAX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256]
    }

    fn configuration(&self) -> Vec<u8> {
        let block = scratch::BLOCK as u32;
        // In fours of bytes, from the ninth byte on (virtio 1.2, 5.2.4). No geometry or topology, one queue, written back; then
        // how much is discarded at once and in which steps, and how much is zeroed at once and that it may be unmapped then.
        let fields = [
            [LARGEST_PIECE, MOST_PIECES, 0, block],
            [0, 0, 1 | 1 << 16, MOST_RANGE_SECTORS],
            [MOST_RANGES, block / SECTOR as u32, MOST_RANGE_SECTORS, MOST_RANGES],
            [1, 0, 0, 0],
        ];
        let mut bytes = self.sectors.to_le_bytes().to_vec();
        bytes.extend(fields.as_flattened().iter().flat_map(|field| field.to_le_bytes()));
        bytes
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], _index: usize) -> Result<bool, Broken> {
        let Some(queue) = queues.first_mut() else { return Ok(false) };
        let used = self.take_requests(memory, queue)?;
        Ok(used && queue.needs_notification(memory)?)
    }

    fn poll(&mut self, memory: &Memory, queues: &mut [Queue]) -> Result<bool, Broken> {
        let Some(queue) = queues.first_mut() else { return Ok(false) };
        let mut used = false;
        while let Some((number, result)) = self.worker.try_next() {
            if let Some(request) = self.under_way.remove(&number) {
                request.answer.give(memory, queue, result)?;
                used = true;
            }
        }
        used |= self.take_requests(memory, queue)?;
        Ok(used && queue.needs_notification(memory)?)
    }

    fn settle(&mut self, memory: &Memory, queues: &mut [Queue]) -> Result<bool, Broken> {
        let Some(queue) = queues.first_mut() else { return Ok(false) };
        let mut used = false;
        while !self.under_way.is_empty() {
            let Some((number, result)) = self.worker.next() else { break };
            if let Some(request) = self.under_way.remove(&number) {
                request.answer.give(memory, queue, result)?;
                used = true;
            }
        }
        Ok(used && queue.needs_notification(memory)?)
    }

    fn reset(&mut self) {
        // What is under way is not answered, but over: nothing of it may come later.
        while !self.under_way.is_empty()
            && let Some((number, _)) = self.worker.next()
        {
            self.under_way.remove(&number);
        }
        self.under_way.clear();
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn requests_stay_inside_the_disk() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 * SECTOR + 7).unwrap();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let disk = Block::new(Disk::shared(file), wake, &ReadyThreads::default()).unwrap();
        assert_eq!(disk.sectors, 10);
        assert_eq!(disk.offset(9, 512).unwrap(), 9 * SECTOR);
        for (sector, bytes) in [(10, 512), (9, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 100)] {
            assert!(disk.offset(sector, bytes).is_err(), "{sector} {bytes}");
        }
    }
}
