//! Timers that send signals: alarm, setitimer, timer_create.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Process;
use super::signal::{SignalInfo, codes};
use crate::ipc::{Expiry, TimerClock, TimerId};

/// One of the process's timers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum TimerName {
    /// ITIMER_REAL: 0, ITIMER_VIRTUAL: 1, ITIMER_PROF: 2.
    Interval(u8),
    /// Made by timer_create.
    Posix(i32),
}

/// Who gets a timer's signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Notify {
    /// Nobody; the timer is only looked at.
    Nobody,
    /// Any thread.
    Process,
    /// The thread with this id, as long as it lives.
    Thread(i32),
}

/// What a timer does; see timer_create(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimerRule {
    /// The clock that it follows.
    pub follows: TimerClock,
    /// Who gets the signal.
    pub notify: Notify,
    /// The signal, a valid one.
    pub signal: i32,
    /// si_value.
    pub value: u64,
}

#[derive(Clone, Copy, Debug)]
struct SignalTimer {
    rule: TimerRule,
    expiry: Expiry,
    /// Expirations that the last signal stands for, but for the first.
    overrun: u32,
    scheduled: Option<TimerId>,
}

/// Saved form of [`SignalTimers`]. Snapshot rule: as for timer files; CPU time that is left stays left.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SavedTimers(Vec<(TimerName, TimerRule, Expiry)>);

/// All timers of a process that send signals.
#[derive(Default, Debug)]
pub struct SignalTimers {
    table: Mutex<BTreeMap<TimerName, SignalTimer>>,
}

/// RLIMIT_SIGPENDING's default, which bounds them in Linux too.
const MAX_TIMERS: usize = 1024;
/// However short a timer's period, its signals come no closer than this; the others are counted as overrun.
const SHORTEST: Duration = Duration::from_micros(50);

impl SignalTimer {
    fn info(&self, name: TimerName) -> SignalInfo {
        match name {
            TimerName::Interval(_) => {
                SignalInfo { signal: self.rule.signal, code: codes::KERNEL, first: 0, second: 0 }
            }
            // si_timerid, si_overrun, si_value.
            TimerName::Posix(id) => SignalInfo {
                signal: self.rule.signal,
                code: codes::TIMER,
                first: u64::from(id as u32) | u64::from(self.overrun) << 32,
                second: self.rule.value,
            },
        }
    }
}

impl Process {
    /// Makes a timer; it is not set. Returns its id.
    ///
    /// # Errors
    /// EAGAIN when there are too many.
    pub fn create_timer(&self, rule: impl FnOnce(i32) -> TimerRule) -> Result<i32, Errno> {
        let mut table = self.timers.table.lock();
        let taken = |id: &i32| table.contains_key(&TimerName::Posix(*id));
        let id = (0..MAX_TIMERS as i32).find(|id| !taken(id)).ok_or(Errno::AGAIN)?;
        let timer = SignalTimer { rule: rule(id), expiry: Expiry::default(), overrun: 0, scheduled: None };
        table.insert(TimerName::Posix(id), timer);
        Ok(id)
    }

    /// Sets a timer: `first` nanoseconds (0 stops it) from now or (`absolute`) on its clock, then every `interval`. Returns
    /// what [`Process::timer`] gave before. Interval timers come into being with `rule`; others have theirs already.
    ///
    /// # Errors
    /// EINVAL when there is no such timer, EAGAIN when the host can't time it.
    pub fn set_timer(
        self: &Arc<Self>,
        name: TimerName,
        rule: Option<TimerRule>,
        first: u64,
        interval: u64,
        absolute: bool,
    ) -> Result<(u64, u64), Errno> {
        let mut table = self.timers.table.lock();
        if let Some(rule) = rule {
            let fresh = SignalTimer { rule, expiry: Expiry::default(), overrun: 0, scheduled: None };
            table.entry(name).or_insert(fresh);
        }
        let timer = table.get_mut(&name).ok_or(Errno::INVAL)?;
        let before = timer.expiry.get(&self.clock);
        timer.expiry = Expiry::new(timer.rule.follows, &self.clock, first, interval, absolute);
        timer.overrun = 0;
        self.schedule(name, timer, Duration::ZERO)?;
        Ok(before)
    }

    /// Nanoseconds until a timer's next expiration (0: not set) and its interval.
    ///
    /// # Errors
    /// EINVAL when there is no such timer.
    pub fn timer(&self, name: TimerName) -> Result<(u64, u64), Errno> {
        match (self.timers.table.lock().get(&name), name) {
            (Some(timer), _) => Ok(timer.expiry.get(&self.clock)),
            (None, TimerName::Interval(_)) => Ok((0, 0)),
            (None, TimerName::Posix(_)) => Err(Errno::INVAL),
        }
    }

    /// The last signal's overrun count.
    ///
    /// # Errors
    /// EINVAL when there is no such timer.
    pub fn timer_overrun(&self, name: TimerName) -> Result<u32, Errno> {
        self.timers.table.lock().get(&name).map(|timer| timer.overrun).ok_or(Errno::INVAL)
    }

    /// Removes a timer.
    ///
    /// # Errors
    /// EINVAL when there is no such timer.
    pub fn delete_timer(&self, name: TimerName) -> Result<(), Errno> {
        let removed = self.timers.table.lock().remove(&name).ok_or(Errno::INVAL)?;
        if let Some(scheduled) = removed.scheduled {
            self.ipc.timers.cancel(scheduled);
        }
        Ok(())
    }

    /// Removes what timer_create made (execve); interval timers stay.
    pub(super) fn delete_posix_timers(&self) {
        let names: Vec<TimerName> = self.timers.table.lock().keys().copied().collect();
        for name in names.into_iter().filter(|name| matches!(name, TimerName::Posix(_))) {
            // Another thread may have deleted it.
            let _ = self.delete_timer(name);
        }
    }

    /// Saved form of the timers.
    pub(super) fn save_timers(&self) -> SavedTimers {
        let table = self.timers.table.lock();
        SavedTimers(table.iter().map(|(name, timer)| (*name, timer.rule, timer.expiry.saved())).collect())
    }

    /// Makes saved timers again and starts them.
    ///
    /// # Errors
    /// EAGAIN when the host can't time them.
    pub(super) fn restore_timers(self: &Arc<Self>, saved: SavedTimers) -> Result<(), Errno> {
        let mut table = self.timers.table.lock();
        for (name, rule, expiry) in saved.0.into_iter().take(MAX_TIMERS + 3) {
            let mut timer = SignalTimer { rule, expiry: expiry.restored(), overrun: 0, scheduled: None };
            self.schedule(name, &mut timer, Duration::ZERO)?;
            table.insert(name, timer);
        }
        Ok(())
    }

    fn schedule(
        self: &Arc<Self>,
        name: TimerName,
        timer: &mut SignalTimer,
        at_least: Duration,
    ) -> Result<(), Errno> {
        if let Some(old) = timer.scheduled.take() {
            self.ipc.timers.cancel(old);
        }
        if let Some(deadline) = timer.expiry.deadline(&self.clock) {
            let process = Arc::downgrade(self);
            let deadline = deadline.max(self.clock.deadline_after(at_least));
            timer.scheduled = Some(self.ipc.timers.schedule(deadline, move || expire(&process, name))?);
        }
        Ok(())
    }
}

/// Runs on the timers' thread when a timer is due, or may be.
fn expire(process: &Weak<Process>, name: TimerName) {
    let Some(process) = process.upgrade() else { return };
    let due = {
        let mut table = process.timers.table.lock();
        let Some(timer) = table.get_mut(&name) else { return };
        let expirations = timer.expiry.expirations(&process.clock);
        if let Some(expirations) = expirations {
            timer.expiry.advance(expirations);
            timer.overrun = u32::try_from(expirations - 1).unwrap_or(i32::MAX as u32).min(i32::MAX as u32);
        }
        if let Err(errno) = process.schedule(name, timer, SHORTEST) {
            tracing::warn!(%errno, "a timer of the guest stops: the host can't time it");
        }
        expirations.map(|_| (timer.rule.notify, timer.info(name)))
    };
    let sent = match due {
        Some((Notify::Process, info)) => process.send_to_process(info),
        Some((Notify::Thread(tid), info)) => match process.thread(tid) {
            Some(thread) => process.send_to_thread(&thread, info),
            None => Ok(()),
        },
        Some((Notify::Nobody, _)) | None => Ok(()),
    };
    if sent.is_err() {
        // Full of signals that the program doesn't take: as in Linux, this one is lost.
        tracing::debug!("a timer's signal is lost: too many are pending");
    }
}
