//! A hostile driver, for tests and fuzzing: a string of bytes is a program of register accesses, descriptors, notifications and
//! of what happens on the host's side. Whatever it does, the device must survive, can be saved and taken over, and is as new
//! after a reset.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use guest_memory::{GuestMemory, MemoryView, Protection, Source};
use machine::Interrupt;
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vm_memory::{Bytes, GuestAddress};

use crate::ready_threads::ReadyThreads;

use super::{
    Balloon, Block, Card, Device, Disk, Entropy, HostSide, MmioDevice, Network, Scratch, Vsock, stream,
};

/// Pages of guest memory: enough for the rings of three queues and some buffers, few enough to be hit.
const PAGES: u64 = 16;
/// Streams that the host's side keeps open.
const MOST_STREAMS: usize = 32;

/// A kind of device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A disk that may be written.
    Block,
    /// A disk that may not.
    ReadOnlyBlock,
    /// Randomness.
    Entropy,
    /// Streams.
    Vsock,
    /// Free memory.
    Balloon,
    /// Frames.
    Network,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Block, Self::ReadOnlyBlock, Self::Entropy, Self::Vsock, Self::Balloon, Self::Network];

    pub(super) fn queues(self) -> u32 {
        match self {
            Self::Vsock | Self::Balloon => 3,
            Self::Network => 2,
            Self::Block | Self::ReadOnlyBlock | Self::Entropy => 1,
        }
    }
}

/// A device with a memory of its own and both sides in one hand.
pub struct Rig {
    kind: Kind,
    reservation: Arc<GuestMemory>,
    pub(super) memory: MemoryView,
    pub(super) device: MmioDevice,
    dial: Sender<(u32, File)>,
    accepted: Receiver<File>,
    streams: Vec<File>,
}

/// What the machine that runs this lacks.
type Lacking = Box<dyn std::error::Error>;

fn made(
    kind: Kind,
    reservation: &Arc<GuestMemory>,
    memory: &MemoryView,
) -> Result<(MmioDevice, Sender<(u32, File)>, Receiver<File>), Lacking> {
    let (dial, dialled) = channel();
    let (sender, accepted) = channel();
    let file = || -> Result<File, Lacking> {
        let file = memfd_create("disk", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, 64 << 10)?;
        Ok(file.into())
    };
    let disk = |disk| -> Result<Box<dyn Device>, Lacking> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Box::new(Block::new(disk, wake, &ReadyThreads::default())?))
    };
    let device: Box<dyn Device> = match kind {
        Kind::Block => disk(Disk::Private(Arc::new(Scratch::new(file()?, Some(file()?))?)))?,
        Kind::ReadOnlyBlock => disk(Disk::shared(file()?))?,
        Kind::Entropy => Box::new(Entropy),
        Kind::Vsock => {
            let accept = Box::new(move |port: u32| {
                let (device, other) = stream().ok().filter(|_| port % 4 != 3)?;
                sender.send(other).is_ok().then_some(device)
            });
            let events = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
            Box::new(Vsock::new(HostSide { accept, dialled }, events))
        }
        Kind::Network => {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (link, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            sender.send(other.into())?;
            let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            Box::new(Network::new(Card { link, address: [2; 6] }, &events)?)
        }
        Kind::Balloon => {
            let reservation = reservation.clone();
            let give_back = Box::new(move |range| {
                let _ = reservation.map(range, Source::Anonymous, Protection::ReadWrite);
            });
            Box::new(Balloon::new(PageCount(1), give_back))
        }
    };
    let device = MmioDevice::new(device, memory.clone(), Interrupt::unconnected()?);
    Ok((device.map_err(|broken| broken.0)?, dial, accepted))
}

impl Rig {
    /// Makes one.
    ///
    /// # Errors
    /// When this process has no descriptors or memory left.
    pub fn new(kind: Kind) -> Result<Self, Lacking> {
        let reservation = Arc::new(GuestMemory::reserve(PageCount(PAGES))?);
        let range = PageRange::new(PageIndex(0), PageCount(PAGES));
        reservation.map(range, Source::Anonymous, Protection::ReadWrite)?;
        let memory = MemoryView::new(&reservation, &[range])?;
        let (device, dial, accepted) = made(kind, &reservation, &memory)?;
        Ok(Self { kind, reservation, memory, device, dial, accepted, streams: Vec::new() })
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// A sentence about the device that did not keep what it promises.
    pub fn run(&mut self, mut program: &[u8]) -> Result<(), String> {
        while let Some((first, rest)) = program.split_first() {
            program = rest;
            self.step(*first, &mut program)?;
        }
        self.write(0x70, 0);
        match self.read(0x70) {
            0 => Ok(()),
            status => Err(format!("after a reset the status is {status:#x}")),
        }
    }

    fn step(&mut self, action: u8, program: &mut &[u8]) -> Result<(), String> {
        match action % 12 {
            0 => {
                let (offset, value) = (take::<2>(program), take::<4>(program));
                self.write(u64::from(u16::from_le_bytes(offset) % 0x200), u32::from_le_bytes(value));
            }
            1 => {
                let [size] = take(program);
                self.start(u32::from(size));
            }
            2 => {
                let (at, bytes) = (take::<2>(program), take::<16>(program));
                self.put(u64::from(u16::from_le_bytes(at)), &bytes);
            }
            3 => {
                let ([queue, index, flags, next], address, length) =
                    (take(program), take::<4>(program), take::<3>(program));
                let [a, b, c] = length;
                // Mostly inside memory and small, and now and then anywhere.
                let address =
                    u32::from_le_bytes(address) % if queue & 0x80 == 0 { 0x1_1000 } else { u32::MAX };
                let length =
                    u32::from_le_bytes([a, b, c, 0]) % if index & 0x80 == 0 { 0x2000 } else { u32::MAX };
                self.describe(
                    queue.into(),
                    u64::from(index % 16),
                    address.into(),
                    length,
                    flags.into(),
                    next.into(),
                );
            }
            4 => {
                let [queue, count, head] = take(program);
                self.offer(queue.into(), count.into(), head.into());
            }
            5 => {
                let [queue] = take(program);
                self.write(0x50, u32::from(queue % 4));
            }
            6 => self.device.poll(),
            7 => {
                let ([offset, length], mut data) = (take(program), [0; 8]);
                self.device
                    .read(u64::from(offset) * 2, data.get_mut(..usize::from(length % 9)).unwrap_or_default());
            }
            8 => self.host_writes(program),
            9 => {
                let [index] = take(program);
                let count = self.streams.len();
                if count > 0 {
                    drop(self.streams.swap_remove(usize::from(index) % count));
                }
            }
            10 => {
                let [port] = take(program);
                if let Ok((device, other)) = stream() {
                    let _ = self.dial.send((port.into(), device));
                    self.keep(other);
                }
            }
            _ => self.take_over()?,
        }
        while let Ok(stream) = self.accepted.try_recv() {
            self.keep(stream);
        }
        Ok(())
    }

    fn keep(&mut self, stream: File) {
        if self.streams.len() < MOST_STREAMS
            && rustix::fs::fcntl_setfl(&stream, rustix::fs::OFlags::NONBLOCK).is_ok()
        {
            self.streams.push(stream);
        }
    }

    /// The host's side writes and reads; neither waits.
    fn host_writes(&mut self, program: &mut &[u8]) {
        let [index, length] = take(program);
        let count = self.streams.len().max(1);
        if let Some(stream) = self.streams.get_mut(usize::from(index) % count) {
            let _ = stream.write(&vec![index; usize::from(length) * 64]);
            let _ = stream.read(&mut [0; 4096]);
        }
    }

    /// State that came about in a device can always be taken over, and is the same there.
    fn take_over(&mut self) -> Result<(), String> {
        let saved = self.device.save();
        let (device, dial, accepted) =
            made(self.kind, &self.reservation, &self.memory).map_err(|error| error.to_string())?;
        (self.device, self.dial, self.accepted) = (device, dial, accepted);
        self.device.restore(0, &saved).map_err(|error| error.to_string())?;
        if self.device.save() != saved {
            return Err("a device's state changed on its way".to_owned());
        }
        Ok(())
    }

    pub(super) fn write(&mut self, offset: u64, value: u32) {
        self.device.write(offset, &value.to_le_bytes());
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.device.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        // What does not fit is not written.
        let _ = self.memory.write_slice(bytes, GuestAddress(at));
    }

    /// Sets the device up as a good driver does: queue `n` has its rings in pages `3n`, `3n + 1` and `3n + 2`.
    pub(super) fn start(&mut self, size: u32) {
        for status in [1, 3] {
            self.write(0x70, status);
        }
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(0x70, 11);
        for queue in 0..self.kind.queues() {
            self.write(0x30, queue);
            self.write(0x38, size);
            for (offset, page) in [(0x80, 3 * queue), (0x90, 3 * queue + 1), (0xa0, 3 * queue + 2)] {
                self.write(offset, page << 12);
            }
            self.write(0x44, 1);
        }
        self.write(0x70, 15);
    }

    /// The page of a queue's rings: 0 for descriptors, 1 for what is offered, 2 for what was used.
    fn ring(&self, queue: u32, which: u64) -> u64 {
        (u64::from(queue % self.kind.queues()) * 3 + which) * PAGE_SIZE
    }

    /// Writes a descriptor.
    pub(super) fn describe(&self, queue: u32, index: u64, address: u64, length: u32, flags: u16, next: u16) {
        let bytes =
            [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
                .concat();
        self.put(self.ring(queue, 0) + index * 16, &bytes);
    }

    /// Offers `count` chains in all, the last of which starts with descriptor `head`.
    pub(super) fn offer(&self, queue: u32, count: u16, head: u16) {
        let ring = self.ring(queue, 1);
        self.put(ring + 4 + u64::from(count.wrapping_sub(1) % 8) * 2, &head.to_le_bytes());
        self.put(ring + 2, &count.to_le_bytes());
    }
}

/// The next bytes of a program; zeros behind its end.
fn take<const N: usize>(program: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let count = N.min(program.len());
    let (first, rest) = program.split_at(count);
    bytes.iter_mut().zip(first).for_each(|(to, from)| *to = *from);
    *program = rest;
    bytes
}
