//! What is behind a block device, and who waits for it.
//!
//! What the page cache has is read at once; everything else goes to the disk's own thread, one piece of work after the other in the
//! order in which it was given, so that a slow disk holds neither a processor of the guest nor another device.

use std::fs::File;
use std::io::{self, IoSliceMut, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::io::ReadWriteFlags;

use super::scratch::Scratch;
use crate::ready_threads::ReadyThreads;

/// A disk.
#[derive(Clone, Debug)]
pub enum Disk {
    /// A file that may be shared by many guests, none of which may write it. Its length is the disk's, rounded down to whole sectors.
    Shared(Arc<File>),
    /// The guest's own.
    Private(Arc<Scratch>),
}

/// Something to do with a disk; ranges are inside it.
#[derive(Debug)]
pub(super) enum Task {
    Read {
        offset: u64,
        length: usize,
    },
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Flush,
    /// Ranges, each an offset and a length, that read as zeros from then on.
    Zero(Vec<(u64, u64)>),
}

impl Disk {
    /// A disk that may be shared by many guests.
    pub fn shared(file: File) -> Self {
        Self::Shared(Arc::new(file))
    }

    pub(super) fn is_writable(&self) -> bool {
        matches!(self, Self::Private(_))
    }

    /// Its length in bytes.
    pub(super) fn length(&self) -> io::Result<u64> {
        match self {
            // Also for block devices, whose metadata have no length.
            Self::Shared(file) => (&**file).seek(SeekFrom::End(0)),
            Self::Private(scratch) => Ok(scratch.length()),
        }
    }

    /// Reads without waiting for the disk; `None` when that can't be.
    pub(super) fn read_at_once(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        match self {
            Self::Shared(file) => read_file_at_once(file, &mut bytes, offset),
            Self::Private(scratch) => scratch.read_with(&mut bytes, offset, read_file_at_once),
        }
        .ok()?;
        Some(bytes)
    }

    /// Does something, and gives what was read.
    fn carry_out(&self, task: Task) -> io::Result<Vec<u8>> {
        match (self, task) {
            (Self::Shared(file), Task::Read { offset, length }) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes)
            }
            (Self::Shared(_), _) => Err(io::ErrorKind::PermissionDenied.into()),
            (Self::Private(scratch), Task::Read { offset, length }) => {
                let mut bytes = vec![0; length];
                scratch.read(&mut bytes, offset)?;
                Ok(bytes)
            }
            (Self::Private(scratch), Task::Write { offset, bytes }) => {
                scratch.write(&bytes, offset).map(|()| Vec::new())
            }
            (Self::Private(scratch), Task::Flush) => scratch.flush().map(|()| Vec::new()),
            (Self::Private(scratch), Task::Zero(ranges)) => {
                ranges.into_iter().try_for_each(|(offset, length)| scratch.zero(offset, length))?;
                Ok(Vec::new())
            }
        }
    }
}

/// Reads what the page cache has; a part of it is as good as nothing, since the rest has to be waited for.
fn read_file_at_once(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let length = bytes.len();
    let slices = &mut [IoSliceMut::new(bytes)];
    let read = rustix::io::preadv2(file, slices, offset, ReadWriteFlags::NOWAIT)?;
    if read == length { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// A piece of work that was done: its number, and what was read.
pub(super) type Done = (u64, io::Result<Vec<u8>>);

/// The thread that does what has to be waited for. It ends with this.
#[derive(Debug)]
pub(super) struct Worker {
    tasks: Sender<(u64, Task)>,
    done: Receiver<Done>,
}

impl Worker {
    /// Starts it. After each piece of work it makes `wake` readable.
    pub fn start(disk: Disk, wake: Arc<OwnedFd>, threads: &ReadyThreads) -> io::Result<Self> {
        let (tasks, todo) = channel::<(u64, Task)>();
        let (tell, done) = channel();
        threads.run("disk", move || {
            for (number, task) in todo {
                if tell.send((number, disk.carry_out(task))).is_err() {
                    return;
                }
                // Fails when it is full, and then it is readable.
                let _ = rustix::io::write(&wake, &1_u64.to_ne_bytes());
            }
        })?;
        Ok(Self { tasks, done })
    }

    /// Gives it something to do. False when the thread is no more.
    pub fn give(&self, number: u64, task: Task) -> bool {
        self.tasks.send((number, task)).is_ok()
    }

    /// Something that was done, if there is any.
    pub fn try_next(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// The next that is done, waited for; `None` when the thread is no more.
    pub fn next(&self) -> Option<Done> {
        self.done.recv().ok()
    }
}
