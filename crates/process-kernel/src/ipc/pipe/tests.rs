use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ipc::testing::{self, read, write};
use crate::wait::{Parker, Wake};

#[test]
fn an_empty_pipe_waits_for_its_writers_and_ends_with_them() {
    let (reader, writer) = PipeEnd::pair(&testing::ipc(), false);
    assert_eq!(read(&*reader, 10), Err(Errno::AGAIN));
    assert_eq!(reader.readiness(), Readiness::empty());
    assert_eq!(write(&*writer, b"abc"), Ok(3));
    drop(writer);
    assert!(reader.readiness().contains(Readiness::IN | Readiness::HUP));
    assert_eq!(read(&*reader, 10).unwrap(), b"abc");
    assert_eq!(read(&*reader, 10).unwrap(), b"");
    assert_eq!(reader.readiness(), Readiness::HUP);
}

#[test]
fn writing_without_readers_is_a_broken_pipe() {
    let (reader, writer) = PipeEnd::pair(&testing::ipc(), false);
    drop(reader);
    assert_eq!(write(&*writer, b"x"), Err(Errno::PIPE));
    assert_eq!(write(&*writer, b""), Ok(0));
    assert!(writer.readiness().contains(Readiness::ERR));
}

#[test]
fn short_writes_are_whole_or_not_at_all() {
    let (reader, writer) = PipeEnd::pair(&testing::ipc(), false);
    assert_eq!(write(&*writer, &vec![1; DEFAULT_CAPACITY - 10]), Ok(DEFAULT_CAPACITY - 10));
    assert_eq!(write(&*writer, &[2; 11]), Err(Errno::AGAIN));
    assert_eq!(write(&*writer, &[2; PIPE_BUF + 1]), Ok(10));
    assert!(!writer.readiness().contains(Readiness::OUT));
    assert_eq!(read(&*reader, PIPE_BUF).unwrap().len(), PIPE_BUF);
    assert!(writer.readiness().contains(Readiness::OUT));
}

#[test]
fn capacity_follows_linux() {
    let (reader, writer) = PipeEnd::pair(&testing::ipc(), false);
    let pipe = reader.pipe();
    assert_eq!(pipe.capacity(), 65_536);
    assert_eq!(pipe.set_capacity(5000), Ok(8192));
    assert_eq!(pipe.set_capacity(1), Ok(4096));
    assert_eq!(pipe.set_capacity(0), Err(Errno::INVAL));
    assert_eq!(pipe.set_capacity(2 << 20), Err(Errno::PERM));
    assert_eq!(pipe.set_capacity(65_536), Ok(65_536));
    write(&*writer, &[0; 5000]).unwrap();
    assert_eq!(pipe.set_capacity(4096), Err(Errno::BUSY));
}

#[test]
fn packets_stay_apart() {
    let (reader, writer) = PipeEnd::pair(&testing::ipc(), true);
    write(&*writer, b"one").unwrap();
    write(&*writer, b"two").unwrap();
    assert_eq!(read(&*reader, 100).unwrap(), b"one");
    assert_eq!(read(&*reader, 1).unwrap(), b"t");
    assert_eq!(read(&*reader, 100), Err(Errno::AGAIN));
}

#[test]
fn many_full_pipes_exhaust_the_account_and_not_the_worker() {
    let ipc = testing::ipc();
    let mut pipes = Vec::new();
    let refused = loop {
        let pair = PipeEnd::pair(&ipc, false);
        match write(&*pair.1, &[0; DEFAULT_CAPACITY]) {
            Ok(_) => pipes.push(pair),
            Err(errno) => break errno,
        }
        assert!(pipes.len() < 2000);
    };
    assert_eq!(refused, Errno::NOMEM);
    drop(pipes);
    assert_eq!(ipc.account.used(), 0);
}

#[test]
fn a_restored_pipe_has_its_bytes_and_its_ends() {
    let ipc = testing::ipc();
    let (reader, writer) = PipeEnd::pair(&ipc, false);
    reader.pipe().set_capacity(4096).unwrap();
    write(&*writer, b"kept").unwrap();
    let (_, restored) = testing::round_trip_all(&[reader, writer]);
    let [reader, writer] = &restored[..] else { panic!("two ends") };
    assert_eq!(write(&**writer, &[7; 4093]), Err(Errno::AGAIN));
    assert_eq!(write(&**writer, b"!"), Ok(1));
    assert_eq!(read(&**reader, 10).unwrap(), b"kept!");
    assert_eq!(read(&**reader, 10), Err(Errno::AGAIN));
}

#[test]
fn a_restored_reader_without_writers_is_at_its_end() {
    let (reader, writer) = PipeEnd::pair(&testing::ipc(), false);
    drop(writer);
    let (_, reader) = testing::round_trip(&reader);
    assert_eq!(read(&*reader, 10).unwrap(), b"");
}

/// Waits as [`Cx::wait`] does; fails instead of hanging when a wake-up was lost.
fn wait<T>(file: &PipeEnd, mut attempt: impl FnMut() -> Result<T, Errno>) -> T {
    let parker = Arc::new(Parker::default());
    let as_wake: Arc<dyn Wake> = parker.clone();
    let _registration = file.wait_queue().unwrap().register(Arc::downgrade(&as_wake));
    loop {
        parker.reset();
        match attempt() {
            Err(Errno::AGAIN) => assert!(parker.park(Some(Duration::from_secs(60))), "lost wake-up"),
            outcome => return outcome.unwrap(),
        }
    }
}

#[test]
fn no_wake_up_is_lost_between_many_writers_and_readers() {
    const WRITERS: usize = 3;
    const PER_WRITER: usize = 2000;
    const MESSAGE: usize = 64;
    let (reader, writer) = PipeEnd::pair(&testing::ipc(), false);
    reader.pipe().set_capacity(4096).unwrap();
    let pipe = reader.pipe().clone();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let reader = reader.clone();
            std::thread::spawn(move || {
                let mut total = 0;
                loop {
                    let bytes = wait(&reader, || read(&*reader, MESSAGE));
                    if bytes.is_empty() {
                        return total;
                    }
                    assert!(bytes.windows(2).all(|pair| pair[0] == pair[1]), "a write was torn");
                    total += bytes.len();
                }
            })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let writer = pipe.end(AccessMode::Write);
            std::thread::spawn(move || {
                for _ in 0..PER_WRITER {
                    assert_eq!(wait(&writer, || write(&*writer, &[number as u8; MESSAGE])), MESSAGE);
                }
            })
        })
        .collect();
    drop(writer);
    writers.into_iter().for_each(|thread| thread.join().unwrap());
    let total: usize = readers.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(total, WRITERS * PER_WRITER * MESSAGE);
}

proptest! {
    #[test]
    fn a_pipe_behaves_like_a_bounded_queue(steps in prop::collection::vec((any::<bool>(), 0_usize..12_000), 1..80)) {
        let (reader, writer) = PipeEnd::pair(&testing::ipc(), false);
        let capacity = reader.pipe().set_capacity(16_384).unwrap();
        let mut model: VecDeque<u8> = VecDeque::new();
        let mut next = 0_u8;
        for (is_write, count) in steps {
            if is_write {
                let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                let room = capacity - model.len();
                let expected = match count {
                    0 => Ok(0),
                    _ if room == 0 || (count <= PIPE_BUF && room < count) => Err(Errno::AGAIN),
                    _ => Ok(count.min(room)),
                };
                prop_assert_eq!(write(&*writer, &bytes), expected);
                model.extend(&bytes[..expected.unwrap_or(0)]);
            } else {
                let expected = match count {
                    0 => Ok(Vec::new()),
                    _ if model.is_empty() => Err(Errno::AGAIN),
                    _ => Ok(model.drain(..count.min(model.len())).collect()),
                };
                prop_assert_eq!(read(&*reader, count), expected);
            }
            prop_assert_eq!(reader.readiness().contains(Readiness::IN), !model.is_empty());
            prop_assert_eq!(writer.readiness().contains(Readiness::OUT), capacity - model.len() >= PIPE_BUF);
        }
    }
}
