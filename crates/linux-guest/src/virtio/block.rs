//! The block device (virtio 1.2, 5.2) over a file. Requests are served one after the other, as they come.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_queue::{DescriptorChain, Queue, QueueT, Reader, Writer};

use super::{Broken, Device, Memory};

/// The unit of the device's addresses, whatever the disk's own.
const SECTOR: u64 = 512;
/// Bytes copied at once.
const PIECE: usize = 64 << 10;
/// Length of the answer to "what is your name".
const ID_BYTES: usize = 20;
/// Length of a request's head.
const HEAD: usize = 16;

/// What a guest may do with a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskAccess {
    /// Only read: the file may be shared by many guests.
    Read,
    /// Read and write: the file is this guest's own.
    ReadWrite,
}

/// A disk.
#[derive(Debug)]
pub struct Disk {
    /// The file behind it; its length is the disk's, rounded down to whole sectors.
    pub file: File,
    /// What the guest may do.
    pub access: DiskAccess,
}

/// The device.
#[derive(Debug)]
pub(crate) struct Block {
    disk: Disk,
    sectors: u64,
}

impl Block {
    pub fn new(disk: Disk) -> io::Result<Self> {
        // Also for block devices, whose metadata have no length.
        let bytes = (&disk.file).seek(SeekFrom::End(0))?;
        Ok(Self { disk, sectors: bytes / SECTOR })
    }

    /// Serves a request; gives the number of bytes written into guest memory.
    fn request(&self, memory: &Memory, chain: DescriptorChain<&Memory>) -> Result<u32, Broken> {
        let mut reader = chain.clone().reader(memory)?;
        let mut writer = chain.writer(memory)?;
        let mut head = [0; HEAD];
        reader.read_exact(&mut head)?;
        let [kind @ .., _, _, _, _, _, _, _, _, _, _, _, _] = head;
        let [_, _, _, _, _, _, _, _, sector @ ..] = head;
        let (kind, sector) = (u32::from_le_bytes(kind), u64::from_le_bytes(sector));
        // The last byte that the device may write is the status.
        let Some(room) = writer.available_bytes().checked_sub(1) else {
            return Err(Broken("a block request without room for its status".to_owned()));
        };
        let mut status = writer.split_at(room).map_err(|error| Broken(error.to_string()))?;
        let result = match kind {
            VIRTIO_BLK_T_IN => self.read(sector, &mut writer),
            VIRTIO_BLK_T_OUT => self.write(sector, &mut reader),
            VIRTIO_BLK_T_FLUSH => self.flush(),
            VIRTIO_BLK_T_GET_ID => {
                let mut id = [0; ID_BYTES];
                id[..7].copy_from_slice(b"faasnap");
                writer.write_all(&id)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        let code = match result {
            Ok(()) => VIRTIO_BLK_S_OK,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => VIRTIO_BLK_S_UNSUPP,
            Err(error) => {
                tracing::debug!(%error, kind, sector, "a block request failed");
                VIRTIO_BLK_S_IOERR
            }
        };
        status.write_all(&[code as u8])?;
        Ok(writer.bytes_written() as u32 + 1)
    }

    /// Where a request of `bytes` from `sector` starts in the file; all of it is inside the disk.
    fn offset(&self, sector: u64, bytes: usize) -> io::Result<u64> {
        let whole = (bytes as u64).is_multiple_of(SECTOR);
        let end = sector.checked_add(bytes as u64 / SECTOR);
        if whole && end.is_some_and(|end| end <= self.sectors) {
            // No overflow: the end in bytes is at most the length of a file.
            Ok(sector * SECTOR)
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    fn read(&self, sector: u64, writer: &mut Writer<'_>) -> io::Result<()> {
        let mut left = writer.available_bytes();
        let mut offset = self.offset(sector, left)?;
        let mut buffer = vec![0; left.min(PIECE)];
        while left > 0 {
            let length = left.min(PIECE);
            let piece = buffer.get_mut(..length).unwrap_or_default();
            self.disk.file.read_exact_at(piece, offset)?;
            writer.write_all(piece)?;
            offset += length as u64;
            left -= length;
        }
        Ok(())
    }

    fn write(&self, sector: u64, reader: &mut Reader<'_>) -> io::Result<()> {
        if self.disk.access == DiskAccess::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut left = reader.available_bytes();
        let mut offset = self.offset(sector, left)?;
        let mut buffer = vec![0; left.min(PIECE)];
        while left > 0 {
            let length = left.min(PIECE);
            let piece = buffer.get_mut(..length).unwrap_or_default();
            reader.read_exact(piece)?;
            self.disk.file.write_all_at(piece, offset)?;
            offset += length as u64;
            left -= length;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        match self.disk.access {
            DiskAccess::Read => Ok(()),
            DiskAccess::ReadWrite => self.disk.file.sync_data(),
        }
    }
}

impl Device for Block {
    fn kind(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        match self.disk.access {
            DiskAccess::Read => 1 << VIRTIO_BLK_F_RO,
            DiskAccess::ReadWrite => 1 << VIRTIO_BLK_F_FLUSH,
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[128]
    }

    fn configuration(&self) -> Vec<u8> {
        self.sectors.to_le_bytes().to_vec()
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], _index: usize) -> Result<bool, Broken> {
        let Some(queue) = queues.first_mut() else { return Ok(false) };
        let mut used = false;
        while let Some(chain) = queue.pop_descriptor_chain(memory) {
            let head = chain.head_index();
            let written = self.request(memory, chain)?;
            queue.add_used(memory, head, written)?;
            used = true;
        }
        Ok(used && queue.needs_notification(memory)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_stay_inside_the_disk() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 * SECTOR + 7).unwrap();
        let disk = Block::new(Disk { file, access: DiskAccess::Read }).unwrap();
        assert_eq!(disk.sectors, 10);
        assert_eq!(disk.offset(9, 512).unwrap(), 9 * SECTOR);
        for (sector, bytes) in [(10, 512), (9, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 100)] {
            assert!(disk.offset(sector, bytes).is_err(), "{sector} {bytes}");
        }
    }
}
