//! The file behind a disk, and the thread that waits for it.
//!
//! What is in the page cache is read at once. Everything else goes to the disk's own thread, one piece of work after the other in the
//! order in which it was given, so that a slow disk holds neither a processor of the guest nor another device.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::io::ReadWriteFlags;

/// The stack of a disk's thread: it calls nothing deep.
const STACK: usize = 128 << 10;

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

/// Something to do with the file; the range is inside the disk.
#[derive(Debug)]
pub(super) enum Task {
    Read { offset: u64, length: usize },
    Write { offset: u64, bytes: Vec<u8> },
    Flush,
}

impl Task {
    /// Does it, and gives what was read.
    fn carry_out(self, file: &File) -> io::Result<Vec<u8>> {
        match self {
            Self::Read { offset, length } => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes)
            }
            Self::Write { offset, bytes } => file.write_all_at(&bytes, offset).map(|()| Vec::new()),
            Self::Flush => file.sync_data().map(|()| Vec::new()),
        }
    }
}

/// What is read without waiting for the disk; `None` when that can't be.
pub(super) fn read_at_once(file: &File, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    // A part of it is as good as nothing: the rest has to be waited for.
    let read = rustix::io::preadv2(file, slices, offset, ReadWriteFlags::NOWAIT);
    read.is_ok_and(|read| read == length).then_some(bytes)
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
    pub fn start(file: File, wake: Arc<OwnedFd>) -> io::Result<Self> {
        let (tasks, todo) = channel::<(u64, Task)>();
        let (tell, done) = channel();
        let builder = thread::Builder::new().name("disk".to_owned()).stack_size(STACK);
        builder.spawn(move || {
            jail::narrow(jail::Role::Microvm);
            for (number, task) in todo {
                if tell.send((number, task.carry_out(&file))).is_err() {
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
