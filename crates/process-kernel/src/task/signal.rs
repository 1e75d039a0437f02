//! Signals: sets, actions, queues, sending.

use std::collections::VecDeque;
use std::sync::Weak;

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::process::{ExitStatus, Process};
use super::thread::Thread;
use crate::ipc::{SignalRecord, SignalSource};
use crate::wait::WaitQueue;

/// A set of signals: bit `n - 1` stands for signal `n`.
pub type SignalSet = u64;

/// Signals are numbered 1 to 64.
pub const SIGNAL_COUNT: usize = 64;

/// SIGKILL and SIGSTOP can't be blocked, caught or ignored.
pub const UNBLOCKABLE: SignalSet = bit(libc::SIGKILL) | bit(libc::SIGSTOP);

/// SA_* flags of an action that matter here.
pub mod flags {
    /// SA_SIGINFO is implied on x86-64: handlers always get three arguments.
    pub const ONSTACK: u64 = 0x0800_0000;
    /// SA_RESTART
    pub const RESTART: u64 = 0x1000_0000;
    /// SA_NODEFER
    pub const NODEFER: u64 = 0x4000_0000;
    /// SA_RESETHAND
    pub const RESETHAND: u64 = 0x8000_0000;
    /// SA_RESTORER
    pub const RESTORER: u64 = 0x0400_0000;
}

/// The set of just this signal.
pub const fn bit(signal: i32) -> SignalSet {
    1 << (signal - 1)
}

/// Whether `signal` is a number that signals have.
pub const fn is_valid(signal: i32) -> bool {
    signal >= 1 && signal <= SIGNAL_COUNT as i32
}

/// What a signal carries, in the layout of `siginfo_t`'s used fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SignalInfo {
    /// Signal number.
    pub signal: i32,
    /// si_code.
    pub code: i32,
    /// si_pid, or the low half of si_addr.
    pub first: u64,
    /// si_value, or si_status.
    pub second: u64,
}

/// si_code values.
pub mod codes {
    /// kill
    pub const USER: i32 = 0;
    /// The kernel itself
    pub const KERNEL: i32 = 0x80;
    /// sigqueue
    pub const QUEUE: i32 = -1;
    /// timer_settime
    pub const TIMER: i32 = -2;
    /// tkill, tgkill
    pub const THREAD: i32 = -6;
}

impl SignalInfo {
    /// A signal sent by kill (`code` USER) or tgkill (THREAD) from `pid` and `uid`.
    pub fn from_sender(signal: i32, code: i32, pid: i32, uid: u32) -> Self {
        Self { signal, code, first: u64::from(pid as u32) | u64::from(uid) << 32, second: 0 }
    }

    /// A synchronous fault at `address`.
    pub fn fault(signal: i32, code: i32, address: u64) -> Self {
        Self { signal, code, first: address, second: 0 }
    }

    /// As `siginfo_t`: number, errno, code, padding, then the two fields.
    pub fn to_bytes(self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[0..4].copy_from_slice(&self.signal.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.second.to_le_bytes());
        bytes
    }

    /// From a guest's `siginfo_t` (rt_sigqueueinfo).
    pub fn from_bytes(bytes: &[u8; 128]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Self { signal: word(0) as i32, code: word(8) as i32, first: word(16), second: word(24) }
    }
}

/// A signal's action, in the layout of the kernel's `struct sigaction`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, bytemuck::Pod, bytemuck::Zeroable,
)]
#[repr(C)]
pub struct Action {
    /// Handler address; 0 is the default, 1 ignores.
    pub handler: u64,
    /// SA_* flags.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals blocked while the handler runs.
    pub mask: SignalSet,
}

/// SIG_DFL
pub const DEFAULT: u64 = 0;
/// SIG_IGN
pub const IGNORE: u64 = 1;

/// Alternate signal stack, in the layout of `stack_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct AltStack {
    /// Lowest address.
    pub pointer: u64,
    /// SS_* flags.
    pub flags: i32,
    #[doc(hidden)]
    pub padding: u32,
    /// Bytes.
    pub size: u64,
}

/// SS_DISABLE
pub const ALT_STACK_DISABLED: i32 = 2;
/// SS_ONSTACK
pub const ALT_STACK_IN_USE: i32 = 1;
/// SS_AUTODISARM
pub const ALT_STACK_AUTODISARM: i32 = i32::MIN;

impl Default for AltStack {
    fn default() -> Self {
        Self { pointer: 0, flags: ALT_STACK_DISABLED, padding: 0, size: 0 }
    }
}

impl AltStack {
    /// Whether `stack_pointer` lies on it.
    pub fn holds(&self, stack_pointer: u64) -> bool {
        self.flags & ALT_STACK_DISABLED == 0
            && stack_pointer > self.pointer
            && stack_pointer - self.pointer <= self.size
    }
}

/// Pending signals: one of each standard signal, real-time signals queued.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SignalQueue {
    queue: VecDeque<SignalInfo>,
}

/// RLIMIT_SIGPENDING, which bounds the worker's memory.
const MAX_PENDING: usize = 1024;

impl SignalQueue {
    /// Which signals are pending.
    pub fn set(&self) -> SignalSet {
        self.queue.iter().fold(0, |set, info| set | bit(info.signal))
    }

    /// Adds a signal.
    ///
    /// # Errors
    /// EAGAIN when the queue of real-time signals is full.
    pub fn push(&mut self, info: SignalInfo) -> Result<(), Errno> {
        let same_timer = |waiting: &&mut SignalInfo| {
            (waiting.signal, waiting.code, waiting.first as u32)
                == (info.signal, codes::TIMER, info.first as u32)
        };
        if info.code == codes::TIMER
            && let Some(waiting) = self.queue.iter_mut().find(same_timer)
        {
            // A timer has one signal waiting at most, which counts the others as its overrun (upper half).
            waiting.first = waiting.first.saturating_add((info.first >> 32 << 32).saturating_add(1 << 32));
            return Ok(());
        }
        let standard = info.signal < 32;
        if standard && self.set() & bit(info.signal) != 0 {
            return Ok(());
        }
        if !standard && self.queue.len() >= MAX_PENDING {
            return Err(Errno::AGAIN);
        }
        self.queue.push_back(info);
        Ok(())
    }

    /// Takes the first signal of `set`: synchronous ones before others, lower numbers first, as Linux does.
    pub fn take(&mut self, set: SignalSet) -> Option<SignalInfo> {
        const SYNCHRONOUS: SignalSet = bit(libc::SIGSEGV)
            | bit(libc::SIGBUS)
            | bit(libc::SIGILL)
            | bit(libc::SIGTRAP)
            | bit(libc::SIGFPE)
            | bit(libc::SIGSYS);
        let wanted = self.set() & set;
        let chosen = if wanted & SYNCHRONOUS != 0 { wanted & SYNCHRONOUS } else { wanted };
        if chosen == 0 {
            return None;
        }
        let signal = chosen.trailing_zeros() as i32 + 1;
        let index = self.queue.iter().position(|info| info.signal == signal)?;
        self.queue.remove(index)
    }

    /// Forgets a signal (it was set to be ignored).
    pub fn discard(&mut self, signal: i32) {
        self.queue.retain(|info| info.signal != signal);
    }
}

/// A thread's own part of signal handling.
#[derive(Clone, Debug, Default)]
pub struct ThreadSignals {
    /// Blocked signals.
    pub mask: SignalSet,
    /// The mask to return to when a call replaced it for its duration (sigsuspend, ppoll).
    pub saved_mask: Option<SignalSet>,
    /// Signals sent to this thread.
    pub pending: SignalQueue,
    /// Alternate stack.
    pub alt_stack: AltStack,
}

/// Saved form of [`ThreadSignals`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedThreadSignals {
    mask: SignalSet,
    saved_mask: Option<SignalSet>,
    pending: SignalQueue,
    alt_stack: AltStack,
}

impl ThreadSignals {
    /// What a new thread starts with: its maker's mask, nothing else.
    pub fn inherited(&self) -> Self {
        Self { mask: self.saved_mask.unwrap_or(self.mask), ..Self::default() }
    }

    pub(super) fn save(&self) -> SavedThreadSignals {
        SavedThreadSignals {
            mask: self.mask,
            saved_mask: self.saved_mask,
            pending: self.pending.clone(),
            alt_stack: self.alt_stack,
        }
    }

    pub(super) fn restore(saved: SavedThreadSignals) -> Self {
        Self {
            mask: saved.mask,
            saved_mask: saved.saved_mask,
            pending: saved.pending,
            alt_stack: saved.alt_stack,
        }
    }
}

/// The process's part of signal handling.
pub struct ProcessSignals {
    state: Mutex<Shared>,
    /// Notified whenever a signal becomes pending (sigtimedwait, signalfd).
    pub arrived: WaitQueue,
}

/// Saved form of [`ProcessSignals`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedProcessSignals {
    actions: Vec<Action>,
    pending: SignalQueue,
}

struct Shared {
    actions: [Action; SIGNAL_COUNT],
    pending: SignalQueue,
}

impl Default for ProcessSignals {
    fn default() -> Self {
        let state = Shared { actions: [Action::default(); SIGNAL_COUNT], pending: SignalQueue::default() };
        Self { state: Mutex::new(state), arrived: WaitQueue::default() }
    }
}

/// What a signal does when nothing handles it (signal(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultAction {
    /// The process ends.
    Terminate,
    /// Nothing happens. Stopping and continuing count here: a guest has no job control.
    Ignore,
}

/// The default action of `signal`.
pub fn default_action(signal: i32) -> DefaultAction {
    match signal {
        libc::SIGCHLD
        | libc::SIGURG
        | libc::SIGWINCH
        | libc::SIGCONT
        | libc::SIGSTOP
        | libc::SIGTSTP
        | libc::SIGTTIN
        | libc::SIGTTOU => DefaultAction::Ignore,
        _ => DefaultAction::Terminate,
    }
}

impl ProcessSignals {
    /// The action of `signal`, which must be valid.
    pub fn action(&self, signal: i32) -> Action {
        self.state.lock().actions[signal as usize - 1]
    }

    /// Sets the action of `signal` and returns the old one.
    pub fn set_action(&self, signal: i32, action: Action) -> Action {
        let mut state = self.state.lock();
        let old = std::mem::replace(&mut state.actions[signal as usize - 1], action);
        if is_ignored(signal, action) {
            state.pending.discard(signal);
        }
        old
    }

    /// Signals pending for the whole process.
    pub fn pending(&self) -> SignalSet {
        self.state.lock().pending.set()
    }

    /// Takes one of `set` that is pending for the whole process.
    pub(super) fn take(&self, set: SignalSet) -> Option<SignalInfo> {
        self.state.lock().pending.take(set)
    }

    /// Sets all handlers to the default (execve); ignored signals stay ignored.
    pub fn reset_handlers(&self) {
        for action in &mut self.state.lock().actions {
            if action.handler != IGNORE {
                *action = Action::default();
            }
        }
    }

    /// Saved form.
    pub fn save(&self) -> SavedProcessSignals {
        let state = self.state.lock();
        SavedProcessSignals { actions: state.actions.to_vec(), pending: state.pending.clone() }
    }

    /// Makes it again; missing actions are defaults.
    pub fn restore(saved: SavedProcessSignals) -> Self {
        let restored = Self::default();
        {
            let mut state = restored.state.lock();
            for (action, saved) in state.actions.iter_mut().zip(saved.actions) {
                *action = saved;
            }
            state.pending = saved.pending;
        }
        restored
    }
}

fn is_ignored(signal: i32, action: Action) -> bool {
    action.handler == IGNORE || (action.handler == DEFAULT && default_action(signal) == DefaultAction::Ignore)
}

impl Process {
    /// Sends a signal to one thread.
    ///
    /// # Errors
    /// EAGAIN when too many are pending.
    pub fn send_to_thread(&self, thread: &Thread, info: SignalInfo) -> Result<(), Errno> {
        let blocked = {
            let mut signals = thread.signals.lock();
            let blocked = signals.mask & bit(info.signal) != 0;
            if !blocked && is_ignored(info.signal, self.signals.action(info.signal)) {
                return Ok(());
            }
            signals.pending.push(info)?;
            blocked
        };
        if !blocked {
            thread.notify();
        }
        self.signals.arrived.notify();
        self.ipc.signals.signal_arrived();
        Ok(())
    }

    /// Sends a signal to the process: to any thread that doesn't block it.
    ///
    /// # Errors
    /// EAGAIN when too many are pending.
    pub fn send_to_process(&self, info: SignalInfo) -> Result<(), Errno> {
        if info.signal == libc::SIGKILL {
            self.exit(ExitStatus::Signal(libc::SIGKILL));
            return Ok(());
        }
        let threads = self.threads();
        let willing = threads.iter().find(|thread| thread.signals.lock().mask & bit(info.signal) == 0);
        if willing.is_some() && is_ignored(info.signal, self.signals.action(info.signal)) {
            return Ok(());
        }
        self.signals.state.lock().pending.push(info)?;
        if let Some(thread) = willing {
            thread.notify();
        }
        self.signals.arrived.notify();
        self.ipc.signals.signal_arrived();
        Ok(())
    }

    /// Takes the next signal of `set` that is pending for `thread` or the process.
    pub fn take_pending(&self, thread: &Thread, set: SignalSet) -> Option<SignalInfo> {
        let own = thread.signals.lock().pending.take(set);
        own.or_else(|| self.signals.take(set))
    }

    /// Signals pending for `thread` or the process.
    pub fn pending_for(&self, thread: &Thread) -> SignalSet {
        thread.signals.lock().pending.set() | self.signals.pending()
    }
}

/// The process's signals as signal files take them. Reading does not tell which thread reads, so a signal that was sent to
/// one thread can be read by any.
pub(super) struct ProcessSignalSource(pub Weak<Process>);

impl ProcessSignalSource {
    fn with_pending<T>(&self, set: SignalSet, found: impl Fn(&Process, &Thread) -> Option<T>) -> Option<T> {
        let process = self.0.upgrade()?;
        let threads = process.threads();
        let pending = threads.iter().find(|thread| process.pending_for(thread) & set != 0)?;
        found(&process, pending)
    }
}

impl SignalSource for ProcessSignalSource {
    fn take(&self, set: SignalSet) -> Option<SignalRecord> {
        let info = self.with_pending(set, |process, thread| process.take_pending(thread, set))?;
        let mut record = [0; 128];
        // struct signalfd_siginfo: signal, errno, code, pid, uid; the value at 44 and 48, the address at 72.
        record[0..4].copy_from_slice(&info.signal.to_le_bytes());
        record[8..12].copy_from_slice(&info.code.to_le_bytes());
        record[12..20].copy_from_slice(&info.first.to_le_bytes());
        record[44..48].copy_from_slice(&(info.second as u32).to_le_bytes());
        record[48..56].copy_from_slice(&info.second.to_le_bytes());
        record[72..80].copy_from_slice(&info.first.to_le_bytes());
        Some(record)
    }

    fn pending(&self, set: SignalSet) -> bool {
        self.with_pending(set, |_, _| Some(())).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_signals_are_kept_once_and_synchronous_ones_come_first() {
        let mut queue = SignalQueue::default();
        let info = |signal| SignalInfo { signal, ..SignalInfo::default() };
        for signal in [libc::SIGUSR1, libc::SIGUSR1, 40, 40, libc::SIGSEGV] {
            queue.push(info(signal)).unwrap();
        }
        let order: Vec<i32> =
            std::iter::from_fn(|| queue.take(SignalSet::MAX)).map(|info| info.signal).collect();
        assert_eq!(order, [libc::SIGSEGV, libc::SIGUSR1, 40, 40]);
    }

    #[test]
    fn siginfo_survives_its_layout() {
        let info = SignalInfo { signal: 34, code: codes::QUEUE, first: 7 << 32 | 9, second: 0xdead_beef };
        assert_eq!(SignalInfo::from_bytes(&info.to_bytes()), info);
    }
}
