//! Host threads that drive vCPUs. One that has nothing to do any more waits for another guest thread: to start a thread on the
//! host, and to confine it, costs more than a guest's `clone` otherwise does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Weak};

use process_kernel::task::{CpuState, ExitStatus, Process, Thread};
use rustix::io::Errno;

use crate::cpu::GuestCpu;
use crate::guest::VcpuThreads;
use crate::run::run_thread;

/// Bytes of a driver's stack.
const STACK: usize = 256 << 10;

/// A guest thread and the vCPU that it is to run on.
pub(crate) struct Job {
    pub(crate) cpu: GuestCpu,
    pub(crate) process: Arc<Process>,
    pub(crate) thread: Arc<Thread>,
    pub(crate) state: CpuState,
}

/// A vCPU that no guest thread uses, and its driver, which waits. When it is dropped the driver ends.
pub(crate) struct Idle {
    pub(crate) cpu: GuestCpu,
    pub(crate) driver: Driver,
}

/// The way to a host thread that waits for a job.
pub(crate) struct Driver(Sender<Box<Job>>);

impl Driver {
    /// Gives the waiting thread its job; a thread that is not there any more gives it back.
    pub(crate) fn go_on(self, job: Box<Job>) -> Result<(), Box<Job>> {
        self.0.send(job).map_err(|mpsc::SendError(job)| job)
    }
}

/// Runs `job` on a new host thread, which then takes its place among the idle ones of `threads`.
///
/// # Errors
/// EAGAIN when the host has no thread left.
pub(crate) fn start(job: Box<Job>, threads: Weak<VcpuThreads>) -> Result<(), Errno> {
    spawn(format!("vcpu-{}", job.thread.tid), move || Some(job), threads)
}

/// A new host thread that waits for its first job.
///
/// # Errors
/// As [`start`].
pub(crate) fn ahead(threads: Weak<VcpuThreads>) -> Result<Driver, Errno> {
    let (sender, jobs) = mpsc::channel();
    spawn("vcpu".to_owned(), move || jobs.recv().ok(), threads)?;
    Ok(Driver(sender))
}

fn spawn(
    name: String,
    first: impl FnOnce() -> Option<Box<Job>> + Send + 'static,
    threads: Weak<VcpuThreads>,
) -> Result<(), Errno> {
    std::thread::Builder::new()
        .name(name)
        .stack_size(STACK)
        .spawn(move || {
            jail::take_short_turns();
            jail::narrow(jail::Role::Guest);
            let mut next = first();
            while let Some(job) = next {
                next = run(job, &threads).and_then(|cpu| wait(cpu, &threads));
            }
        })
        .map(|_| ())
        .map_err(|_| Errno::AGAIN)
}

/// Runs a guest thread to its end. The vCPU is given back unless the worker failed meanwhile.
fn run(job: Box<Job>, threads: &Weak<VcpuThreads>) -> Option<GuestCpu> {
    let Job { mut cpu, process, thread, state } = *job;
    let exits = threads.upgrade()?.exits();
    let body = AssertUnwindSafe(|| run_thread(&process, &thread, &mut cpu, state, &exits));
    if catch_unwind(body).is_err() {
        // A defect of ours, whatever the guest did: the guest can't go on, the worker says so.
        process.fail("the worker failed while it served this guest (a defect: see its log)".to_owned());
        process.remove_thread(thread.tid, ExitStatus::Signal(libc::SIGKILL));
        return None;
    }
    Some(cpu)
}

/// Waits among the idle for another job; `None` when the guest is gone.
fn wait(cpu: GuestCpu, threads: &Weak<VcpuThreads>) -> Option<Box<Job>> {
    // A channel for each wait: its sending half lies with the idle vCPU, so that this thread ends when that is dropped.
    let (sender, jobs) = mpsc::channel();
    threads.upgrade()?.put_back(Idle { cpu, driver: Driver(sender) });
    jobs.recv().ok()
}
