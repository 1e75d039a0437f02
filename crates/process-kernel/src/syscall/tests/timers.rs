//! Timers that send signals, as a program sets and awaits them.

use super::*;

const BLOCK: u64 = libc::SIG_BLOCK as u64;

/// A program that blocks a signal, so that it waits to be fetched.
fn blocking(signal: i32) -> Guest {
    let guest = Guest::new();
    let set = guest.put(0, &(1_u64 << (signal - 1)).to_ne_bytes());
    guest.ok(libc::SYS_rt_sigprocmask, &[BLOCK, set, 0, 8]);
    guest
}

/// rt_sigtimedwait for the signal of [`blocking`]; its siginfo.
fn await_signal(guest: &Guest, signal: i32) -> Vec<u8> {
    let set = guest.put(0, &(1_u64 << (signal - 1)).to_ne_bytes());
    let got = guest.ok(libc::SYS_rt_sigtimedwait, &[set, guest.memory + 64, 0, 8]);
    assert_eq!(got, signal as u64);
    guest.get(64, 32)
}

fn setting(guest: &Guest, words: [u64; 4]) -> u64 {
    guest.put(512, bytemuck::cast_slice(&words))
}

#[test]
fn setitimer_sends_its_signal_again_and_again_until_it_is_stopped() {
    let guest = blocking(libc::SIGALRM);
    // Every 2 ms, first after 1 ms; in microseconds.
    let new = setting(&guest, [0, 2000, 0, 1000]);
    guest.ok(libc::SYS_setitimer, &[0, new, 0]);
    for _ in 0..3 {
        await_signal(&guest, libc::SIGALRM);
    }
    let old = guest.memory + 1024;
    let stop = setting(&guest, [0; 4]);
    guest.ok(libc::SYS_setitimer, &[0, stop, old]);
    let before: Vec<u8> = guest.get(1024, 32);
    assert_eq!(u64::from_ne_bytes(before[8..16].try_into().unwrap()), 2000);
    guest.ok(libc::SYS_getitimer, &[0, old]);
    assert_eq!(guest.get(1024, 32), [0; 32]);
}

#[test]
fn cpu_time_makes_the_profiling_timer_expire() {
    let guest = blocking(libc::SIGPROF);
    let new = setting(&guest, [0, 0, 0, 3000]);
    guest.ok(libc::SYS_setitimer, &[libc::ITIMER_PROF as u64, new, 0]);
    while guest.pending() == 0 {
        std::hint::spin_loop();
    }
    await_signal(&guest, libc::SIGPROF);
}

#[test]
fn alarm_tells_what_was_left() {
    let guest = blocking(libc::SIGALRM);
    assert_eq!(guest.ok(libc::SYS_alarm, &[100]), 0);
    assert_eq!(guest.ok(libc::SYS_alarm, &[0]), 100);
    assert_eq!(guest.ok(libc::SYS_alarm, &[0]), 0);
}

#[test]
fn a_posix_timer_carries_its_value_and_counts_what_was_missed() {
    let signal = 40;
    let guest = blocking(signal);
    let mut event = 0xfeed_beef_u64.to_ne_bytes().to_vec();
    for word in [signal, libc::SIGEV_SIGNAL, 0, 0] {
        event.extend(word.to_ne_bytes());
    }
    let event = guest.put(256, &event);
    let at = guest.memory + 2048;
    guest.ok(libc::SYS_timer_create, &[libc::CLOCK_MONOTONIC as u64, event, at]);
    let id = guest.number(2048) as u64;
    // Long past, every 10 ms: the first signal stands for many.
    let new = setting(&guest, [0, 10_000_000, 0, 1]);
    guest.ok(libc::SYS_timer_settime, &[id, libc::TIMER_ABSTIME as u64, new, 0]);
    let info = await_signal(&guest, signal);
    let word = |at: usize| u64::from_ne_bytes(info[at..at + 8].try_into().unwrap());
    assert_eq!(word(8) as i32, crate::task::signal::codes::TIMER);
    assert_eq!(word(24), 0xfeed_beef);
    assert!(word(16) >> 32 > 0, "no overrun");
    guest.ok(libc::SYS_timer_delete, &[id]);
    assert_eq!(guest.errno(libc::SYS_timer_gettime, &[id, at]), Errno::INVAL);
    assert_eq!(guest.errno(libc::SYS_timer_create, &[99, 0, at]), Errno::INVAL);
}
