//! The same conversation without waiting: for a node that drives many workers from one event loop.
//!
//! `send_…` puts a message on its way, [`FunctionWorker::send_more`] goes on with it when the socket takes more, and
//! [`FunctionWorker::hear`] gives what has come. Whoever calls them watches the socket ([`AsFd`]) and the time.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use restore::Phase;
use worker_protocol::{
    Answer, Attached, Booted, Exit, Failure, FromWorker, Invoke, Polled, Received, Restored, Snapshotted,
    ToWorker,
};

use crate::error::WorkerError;
use crate::read_ahead::read_ahead;
use crate::{FunctionWorker, Keeping, RestoreOptions};

/// What a worker has to say. Its log goes to the sink instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// The function has initialised.
    Booted(Booted),
    /// The function goes on from its snapshot.
    Restored(Restored),
    /// A streamed answer began.
    AnswerStarted {
        /// Its media type, if the runtime gave one.
        content_type: Option<String>,
    },
    /// A piece of a streamed answer.
    AnswerPiece(Vec<u8>),
    /// The invocation is over.
    Answered(Box<Answer>),
    /// The snapshot is written.
    Snapshotted(Snapshotted),
    /// What was asked failed.
    Failed(Failure),
    /// The function's program ended while nothing was asked of it.
    ProgramEnded(Exit),
    /// It said something of its snapshot: whoever hears it has it kept, off the event loop.
    Learned(Keeping),
    /// The worker closed its socket: it has ended or is about to.
    Ended,
}

impl FunctionWorker {
    /// Asks for a boot; [`Heard::Booted`] follows.
    ///
    /// # Errors
    /// [`WorkerError::Channel`] when the worker is gone, [`WorkerError::Store`] when a linux guest has none.
    pub fn send_boot(&mut self) -> Result<(), WorkerError> {
        self.ask_boot()?;
        self.send_more().map(drop)
    }

    /// Asks for a restore as [`Self::restore`] does; [`Heard::Restored`] follows.
    ///
    /// # Errors
    /// [`WorkerError`] when the worker is gone or the snapshot can't be opened.
    pub fn send_restore(&mut self, directory: &Path, options: &RestoreOptions) -> Result<(), WorkerError> {
        self.ask_restore(directory, options)?;
        self.send_more()?;
        read_ahead(directory, options.strategy);
        Ok(())
    }

    /// Asks for a restore and an invocation, without a round trip in between, as [`Self::restore_and_invoke`] does;
    /// [`Heard::Restored`] and what follows [`Self::send_invoke`] come.
    ///
    /// # Errors
    /// As [`Self::send_restore`].
    pub fn send_restore_and_invoke(
        &mut self,
        directory: &Path,
        options: &RestoreOptions,
        invoke: Invoke,
    ) -> Result<(), WorkerError> {
        self.ask_restore(directory, options)?;
        self.send_invoke(invoke)?;
        read_ahead(directory, options.strategy);
        Ok(())
    }

    /// Asks for an invocation; [`Heard::Answered`] follows, and before it, when `invoke` asks for it, what is streamed.
    ///
    /// # Errors
    /// [`WorkerError::Channel`] when the worker is gone.
    pub fn send_invoke(&mut self, invoke: Invoke) -> Result<(), WorkerError> {
        self.send(&ToWorker::Invoke(Box::new(invoke)))
    }

    /// Asks for a snapshot below `parent`, as [`Self::snapshot`] does; [`Heard::Snapshotted`] follows.
    ///
    /// # Errors
    /// [`WorkerError`] when the worker is gone or `parent` can't be opened.
    pub fn send_snapshot(&mut self, parent: &Path) -> Result<(), WorkerError> {
        self.ask_snapshot(parent)?;
        self.send_more().map(drop)
    }

    /// Asks the instance to end; [`Heard::Ended`] follows.
    ///
    /// # Errors
    /// [`WorkerError::Channel`] when the worker is gone.
    pub fn send_stop(&mut self) -> Result<(), WorkerError> {
        self.send(&ToWorker::Stop)
    }

    fn send(&mut self, message: &ToWorker) -> Result<(), WorkerError> {
        self.channel.sender.enqueue(message, Attached::default())?;
        self.send_more().map(drop)
    }

    /// Sends what the socket takes; `true` when nothing is left to send.
    ///
    /// # Errors
    /// [`WorkerError::Channel`] when the worker is gone.
    pub fn send_more(&mut self) -> Result<bool, WorkerError> {
        let all = self.channel.sender.flush()?;
        if all && self.timeline.end_of(Phase::Sent).is_none() {
            self.timeline.reached(Phase::Sent);
        }
        Ok(all)
    }

    /// What has come, if anything; `None` means that the socket is empty.
    ///
    /// # Errors
    /// [`WorkerError::Channel`] when what came is no message of a worker.
    pub fn hear(&mut self) -> Result<Option<Heard>, WorkerError> {
        loop {
            let message = match self.channel.receiver.try_receive()? {
                Polled::Nothing => return Ok(None),
                Polled::Ended => return Ok(Some(Heard::Ended)),
                Polled::Message(Received { message, .. }) => message,
            };
            return Ok(Some(match message {
                FromWorker::Log { stream, bytes } => {
                    (self.log)(stream, &bytes);
                    continue;
                }
                // A worker that was not waited for when it was spare.
                FromWorker::Ready | FromWorker::MemoryReady => continue,
                // For who measures.
                FromWorker::Finished(_) => continue,
                FromWorker::Booted(booted) => Heard::Booted(booted),
                FromWorker::Restored(restored) => Heard::Restored(restored),
                FromWorker::AnswerStarted { content_type, .. } => Heard::AnswerStarted { content_type },
                FromWorker::AnswerPiece { bytes, .. } => Heard::AnswerPiece(bytes.into_vec()),
                FromWorker::Answered(answer) => Heard::Answered(answer),
                FromWorker::Snapshotted(snapshotted) => {
                    self.written()?;
                    Heard::Snapshotted(snapshotted)
                }
                FromWorker::Learned(learned) => match self.learned(learned) {
                    Some(keeping) => Heard::Learned(keeping),
                    None => continue,
                },
                FromWorker::Failed(failure) => Heard::Failed(failure),
                FromWorker::Exited(exit) => Heard::ProgramEnded(exit),
            }));
        }
    }
}

impl AsFd for FunctionWorker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.receiver.as_fd()
    }
}

impl AsRawFd for FunctionWorker {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
