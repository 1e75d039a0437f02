//! Pipes, events and waiting for them.

use std::time::Duration;

use rustix::io::Errno;

use super::Guest;
use crate::syscall::{Restart, Stop};
use crate::task::signal::bit;

#[test]
fn a_pipe_is_made_written_read_and_broken() {
    let guest = Guest::new();
    let [reader, writer] = guest.pair(libc::SYS_pipe, &[]);
    assert_eq!(guest.write(writer, b"hello"), Ok(5));
    assert_eq!(guest.read(reader, 100).unwrap(), b"hello");
    guest.ok(libc::SYS_close, &[reader]);
    assert_eq!(guest.write(writer, b"x"), Err(Stop::Errno(Errno::PIPE)));
    assert_eq!(guest.pending(), bit(libc::SIGPIPE));
    assert_eq!(guest.errno(libc::SYS_pipe2, &[guest.memory, 0x8000_0000]), Errno::INVAL);
    // A bad pointer leaves nothing open.
    assert_eq!(guest.errno(libc::SYS_pipe2, &[0, 0]), Errno::FAULT);
    assert_eq!(guest.process.files.open_descriptors(), [writer as i32]);
}

#[test]
fn a_blocking_write_larger_than_the_pipe_waits_until_all_is_taken() {
    let guest = Guest::new();
    let [reader, writer] = guest.pair(libc::SYS_pipe, &[]);
    guest.ok(libc::SYS_fcntl, &[writer, libc::F_SETPIPE_SZ as u64, 4096]);
    let other = guest.another_thread();
    let writing = std::thread::spawn(move || other.write(writer, &[7; 20_000]));
    let mut total = 0;
    while total < 20_000 {
        total += guest.read(reader, 3000).unwrap().len();
    }
    assert_eq!(writing.join().unwrap(), Ok(20_000));
}

#[test]
fn a_blocked_read_is_interrupted_and_can_be_run_again() {
    let guest = Guest::new();
    let [reader, writer] = guest.pair(libc::SYS_pipe, &[]);
    let other = guest.another_thread();
    let blocked = {
        let other = other.clone();
        std::thread::spawn(move || other.read(reader, 10))
    };
    other.interrupt();
    assert_eq!(blocked.join().unwrap(), Err(Stop::Interrupted(Restart::WithFlag)));
    guest.write(writer, b"now").unwrap();
    assert_eq!(other.read(reader, 10).unwrap(), b"now");
}

#[test]
fn poll_tells_readiness_bad_descriptors_and_time_outs() {
    let guest = Guest::new();
    let [reader, writer] = guest.pair(libc::SYS_pipe, &[]);
    let entry = |fd: u64, events: i16| [(fd as i32).to_ne_bytes(), [events as u8, 0, 0xff, 0xff]].concat();
    let revents = |index: u64| i16::from_ne_bytes(guest.get(index * 8 + 6, 2).try_into().unwrap());
    let request = [entry(reader, libc::POLLIN), entry(writer, libc::POLLOUT), entry(u64::MAX, 1)].concat();
    let at = guest.put(0, &request);
    assert_eq!(guest.call(libc::SYS_poll, &[at, 3, 1000]), Ok(1));
    assert_eq!((revents(0), revents(1), revents(2)), (0, libc::POLLOUT, 0));
    let at = guest.put(0, &[entry(reader, libc::POLLIN), entry(99, 1)].concat());
    assert_eq!(guest.call(libc::SYS_poll, &[at, 2, u64::MAX]), Ok(1));
    assert_eq!((revents(0), revents(1)), (0, libc::POLLNVAL));
    assert_eq!(guest.call(libc::SYS_poll, &[at, 1, 1]), Ok(0));
    guest.ok(libc::SYS_close, &[writer]);
    assert_eq!(guest.call(libc::SYS_poll, &[at, 1, u64::MAX]), Ok(1));
    assert_eq!(revents(0), libc::POLLHUP);
    assert_eq!(guest.errno(libc::SYS_poll, &[at, 1025, 0]), Errno::INVAL);
    assert_eq!(guest.errno(libc::SYS_poll, &[8, 1, 0]), Errno::FAULT);
}

#[test]
fn select_answers_in_its_sets() {
    let guest = Guest::new();
    let [reader, writer] = guest.pair(libc::SYS_pipe, &[]);
    let set = |fds: &[u64]| fds.iter().fold(0_u64, |set, fd| set | 1 << fd).to_ne_bytes();
    let (reads, writes) = (guest.put(0, &set(&[reader])), guest.put(128, &set(&[reader, writer])));
    let none = guest.put(256, &[0; 16]);
    assert_eq!(guest.call(libc::SYS_select, &[2, reads, writes, 0, none]), Ok(1));
    assert_eq!((guest.get(0, 8), guest.get(128, 8)), (set(&[]).to_vec(), set(&[writer]).to_vec()));
    guest.put(0, &set(&[9]));
    assert_eq!(guest.errno(libc::SYS_select, &[10, reads, 0, 0, 0]), Errno::BADF);
    // A descriptor beyond the count is not looked at.
    assert_eq!(guest.call(libc::SYS_select, &[9, reads, 0, 0, none]), Ok(0));
}

#[test]
fn epoll_reports_an_event_that_another_thread_makes() {
    let guest = Guest::new();
    let epoll = guest.ok(libc::SYS_epoll_create1, &[libc::EPOLL_CLOEXEC as u64]);
    let event = guest.ok(libc::SYS_eventfd2, &[0, libc::EFD_NONBLOCK as u64]);
    let mut request = (libc::EPOLLIN as u32).to_ne_bytes().to_vec();
    request.extend(0x1122_3344_5566_7788_u64.to_ne_bytes());
    let request = guest.put(0, &request);
    let add = [epoll, libc::EPOLL_CTL_ADD as u64, event, request];
    guest.ok(libc::SYS_epoll_ctl, &add);
    assert_eq!(guest.errno(libc::SYS_epoll_ctl, &add), Errno::EXIST);
    assert_eq!(guest.call(libc::SYS_epoll_wait, &[epoll, guest.memory + 512, 10, 0]), Ok(0));
    let other = guest.another_thread();
    let waiting = std::thread::spawn(move || {
        let count = other.call(libc::SYS_epoll_wait, &[epoll, other.memory + 512, 10, u64::MAX]);
        (count, other.get(512, 12))
    });
    guest.write(event, &1_u64.to_ne_bytes()).unwrap();
    let (count, reported) = waiting.join().unwrap();
    assert_eq!(count, Ok(1));
    assert_eq!(reported, guest.get(0, 12));
    guest.ok(libc::SYS_close, &[event]);
    assert_eq!(guest.call(libc::SYS_epoll_wait, &[epoll, guest.memory + 512, 10, 0]), Ok(0));
    assert_eq!(guest.errno(libc::SYS_epoll_wait, &[epoll, guest.memory, 0, 0]), Errno::INVAL);
}

#[test]
fn a_timer_file_is_set_and_read() {
    let guest = Guest::new();
    let timer = guest.ok(libc::SYS_timerfd_create, &[libc::CLOCK_MONOTONIC as u64, 0]);
    let millisecond: [u64; 4] = [0, 0, 0, Duration::from_millis(1).as_nanos() as u64];
    let setting = guest.put(0, bytemuck::bytes_of(&millisecond));
    guest.ok(libc::SYS_timerfd_settime, &[timer, 0, setting, 0]);
    assert_eq!(guest.read(timer, 8).unwrap(), 1_u64.to_ne_bytes());
    assert_eq!(guest.errno(libc::SYS_timerfd_create, &[99, 0]), Errno::INVAL);
}

#[test]
fn a_signal_file_reads_what_was_sent() {
    let guest = Guest::new();
    let set = guest.put(0, &bit(libc::SIGUSR1).to_ne_bytes());
    guest.ok(libc::SYS_rt_sigprocmask, &[libc::SIG_BLOCK as u64, set, 0, 8]);
    let signals = guest.ok(libc::SYS_signalfd4, &[u64::MAX, set, 8, libc::SFD_NONBLOCK as u64]);
    assert_eq!(guest.read(signals, 128), Err(Stop::Errno(Errno::AGAIN)));
    let pid = guest.ok(libc::SYS_getpid, &[]);
    guest.ok(libc::SYS_kill, &[pid, libc::SIGUSR1 as u64]);
    let record = guest.read(signals, 128).unwrap();
    assert_eq!((record.len(), record[0]), (128, libc::SIGUSR1 as u8));
    assert_eq!(guest.pending(), 0);
}
