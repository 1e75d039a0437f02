//! Making a vCPU leave guest code from another thread.
//!
//! A kick sends a signal to the vCPU's thread; the handler sets `immediate_exit` in that thread's kvm_run page. If the
//! thread is inside KVM_RUN, the signal ends it; if it is about to enter, `immediate_exit` makes KVM_RUN return at once. So
//! no kick is lost, wherever it arrives (Documentation/virt/kvm/api.rst, "immediate_exit").

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::{Arc, OnceLock};

use kvm_bindings::kvm_run;
use parking_lot::Mutex;

use crate::error::MachineError;

thread_local! {
    /// The kvm_run page of the vCPU that this thread drives. Const-initialised and without a destructor, so that the signal
    /// handler may read it at any time.
    static RUN_PAGE: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 4
}

extern "C" fn on_kick(_: libc::c_int) {
    let run = RUN_PAGE.get();
    if !run.is_null() {
        // SAFETY: the pointer was set by this very thread to its vCPU's mapped kvm_run page and is cleared before the vCPU
        // goes away; a one-byte volatile store is async-signal-safe.
        unsafe { ptr::write_volatile(&raw mut (*run).immediate_exit, 1) };
    }
}

/// Installs the handler, once per process.
pub(crate) fn install_handler() -> Result<(), MachineError> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let result = INSTALLED.get_or_init(|| {
        // SAFETY: zeroed is a valid sigaction; the handler is async-signal-safe (see there).
        let failed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_kick as *const () as usize;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(signal(), &action, ptr::null_mut()) != 0
        };
        if failed { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)) } else { Ok(()) }
    });
    result.map_err(|errno| MachineError::Signal(io::Error::from_raw_os_error(errno)))
}

/// The thread that a vCPU runs on, as others see it.
#[derive(Debug, Default)]
pub struct KickTarget {
    thread: Mutex<Option<libc::pid_t>>,
}

/// A handle that kicks one vCPU; cheap to clone.
#[derive(Clone, Debug)]
pub struct Kicker(Arc<KickTarget>);

impl Kicker {
    pub(crate) fn new() -> Self {
        Self(Arc::new(KickTarget::default()))
    }

    /// Makes the vCPU return from guest code soon ([`crate::Exit::Interrupted`]); nothing happens when no thread drives it.
    pub fn kick(&self) {
        let thread = self.0.thread.lock();
        if let Some(tid) = *thread {
            // SAFETY: tgkill with our own process id; the lock keeps the thread from ending before the signal is sent, so the
            // id can't have been used again. The signal has our own handler.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal()) };
        }
    }

    /// Marks the calling thread as the vCPU's driver.
    pub(crate) fn attach(&self, run: *mut kvm_run) {
        RUN_PAGE.set(run);
        // SAFETY: gettid has no preconditions.
        *self.0.thread.lock() = Some(unsafe { libc::gettid() });
    }

    /// The calling thread no longer drives the vCPU.
    pub(crate) fn detach(&self) {
        *self.0.thread.lock() = None;
        RUN_PAGE.set(ptr::null_mut());
    }
}
