//! How soon a thread runs once it has something to do.

use crate::sys;

/// Nanoseconds that a thread runs at a time while others want its processor: the least that Linux takes (kernel/sched/syscalls.c,
/// `__setparam_fair`).
const TURN: u64 = 100_000;

/// Has this thread, and those that it starts, run in short turns: one that wakes then runs at once, and need not wait for the end of
/// another's longer turn (1.4 ms on two processors). What it gets of a processor in all stays as it is. For vCPUs, so that a guest
/// does not wait for the threads that read behind it. Linux has it since 6.12; elsewhere nothing changes.
pub fn take_short_turns() {
    sys::set_turn(TURN);
}
