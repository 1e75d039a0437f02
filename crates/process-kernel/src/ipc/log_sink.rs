//! Standard output and error of a function: bytes go to a callback of the worker.

use std::sync::Arc;

use parking_lot::RwLock;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Ipc;
use crate::file::{FileObject, Origin, Readiness, Stat};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};

/// Which of the two log streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LogStream {
    /// Descriptor 1.
    Output,
    /// Descriptor 2.
    Error,
}

/// What takes the log; called from guest threads, and must not block for long. Bounding what is kept is its affair: one
/// call brings at most [`MAX_WRITE`] bytes.
type Receiver = Arc<dyn Fn(LogStream, &[u8]) + Send + Sync>;

/// Most bytes that one write brings.
const MAX_WRITE: usize = 64 << 10;

/// The way from a guest's log to the worker; without a receiver the log is discarded.
#[derive(Default)]
pub struct LogOutput {
    receiver: RwLock<Option<Receiver>>,
}

impl LogOutput {
    /// Sends everything written from now on to `receiver`.
    pub fn set_receiver(&self, receiver: impl Fn(LogStream, &[u8]) + Send + Sync + 'static) {
        *self.receiver.write() = Some(Arc::new(receiver));
    }

    fn deliver(&self, stream: LogStream, bytes: &[u8]) {
        // Cloned so that no lock is held in the callback.
        let receiver = self.receiver.read().clone();
        if let Some(receiver) = receiver {
            receiver(stream, bytes);
        }
    }
}

/// The object behind a function's standard output or error. Snapshot rule: saved as which stream it is; what was written
/// has left the guest.
pub struct LogSink {
    stream: LogStream,
    output: Arc<LogOutput>,
    inode: u64,
}

impl LogSink {
    /// Registry key.
    pub const KIND: &'static str = "log-sink";

    /// A sink for `stream` of the process with `ipc`.
    pub fn new(ipc: &Ipc, stream: LogStream) -> Arc<Self> {
        Arc::new(Self { stream, output: ipc.log.clone(), inode: ipc.inode() })
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError::Decode`].
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let (stream, inode) = Restorer::decode(Self::KIND, payload)?;
        restorer.context.ipc.reserve_inode(inode);
        Ok(Arc::new(Self { stream, output: restorer.context.ipc.log.clone(), inode }))
    }
}

impl Object for LogSink {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        saver.encode(Self::KIND, &(self.stream, self.inode))
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for LogSink {
    fn stat(&self) -> Result<Stat, Errno> {
        // A pipe, as it is in Lambda.
        Ok(Stat { ino: self.inode, mode: libc::S_IFIFO | 0o600, nlink: 1, blksize: 4096, ..Stat::default() })
    }

    fn write(&self, _: Option<u64>, from: &mut Origin<'_>) -> Result<usize, Errno> {
        let mut done = 0;
        while from.remaining() > 0 {
            match from.take(MAX_WRITE) {
                Ok(bytes) => {
                    self.output.deliver(self.stream, &bytes);
                    done += bytes.len();
                }
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    fn readiness(&self) -> Readiness {
        Readiness::OUT | Readiness::WRNORM
    }

    fn describe(&self) -> String {
        format!("pipe:[{}]", self.inode)
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::ipc::testing;

    #[test]
    fn writes_reach_the_receiver_with_their_stream() {
        let ipc = testing::ipc();
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let log = seen.clone();
        ipc.log.set_receiver(move |stream, bytes| {
            assert_eq!(stream, LogStream::Error);
            log.lock().extend(bytes);
        });
        let sink = LogSink::new(&ipc, LogStream::Error);
        assert_eq!(sink.write(None, &mut Origin::Own(b"hello")), Ok(5));
        assert_eq!(*seen.lock(), b"hello");
    }

    #[test]
    fn a_restored_sink_is_the_same_stream() {
        let ipc = testing::ipc();
        let sink = LogSink::new(&ipc, LogStream::Output);
        let (context, restored) = testing::round_trip(&sink);
        let seen: Arc<Mutex<Vec<LogStream>>> = Arc::default();
        let log = seen.clone();
        context.ipc.log.set_receiver(move |stream, _| log.lock().push(stream));
        assert_eq!(restored.write(None, &mut Origin::Own(b"x")), Ok(1));
        assert_eq!(*seen.lock(), [LogStream::Output]);
        assert_eq!(restored.stat().unwrap().ino, sink.inode);
        assert!(context.ipc.inode() > sink.inode);
    }
}
