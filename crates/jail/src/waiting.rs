//! Threads that are started, and confined, before there is work for them: that costs 0.1 ms or more, most of it for confining.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread::{Builder, JoinHandle};

use crate::filter::{Role, narrow};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that waits for its only job. When it is dropped before, it ends.
#[derive(Debug)]
pub struct WaitingThread {
    job: Sender<Job>,
    thread: JoinHandle<()>,
}

impl WaitingThread {
    /// Starts one, which narrows itself to `role`, if it is to, and then does what comes `first`. This process must be as confined
    /// as it is to be.
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn start(
        builder: Builder,
        role: Option<Role>,
        first: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (job, jobs) = mpsc::channel::<Job>();
        let thread = builder.spawn(move || {
            if let Some(role) = role {
                narrow(role);
            }
            first();
            if let Ok(job) = jobs.recv() {
                job();
            }
        })?;
        Ok(Self { job, thread })
    }

    /// Gives it its job.
    ///
    /// # Errors
    /// When it is gone.
    pub fn give(self, job: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let sent = self.job.send(Box::new(job));
        sent.map_err(|_| io::Error::other("a thread that waited for work is gone"))?;
        Ok(self.thread)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn waiting() -> WaitingThread {
        WaitingThread::start(Builder::new(), None, || {}).unwrap()
    }

    #[test]
    fn a_job_is_done_by_the_thread_that_waited() {
        let (waiting, (sender, done)) = (waiting(), mpsc::channel());
        let id = waiting.thread.thread().id();
        waiting.give(move || sender.send(thread::current().id()).unwrap()).unwrap().join().unwrap();
        assert_eq!(done.recv(), Ok(id));
    }

    #[test]
    fn a_thread_without_work_ends() {
        let WaitingThread { job, thread } = waiting();
        drop(job);
        thread.join().unwrap();
    }
}
