use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::file::AccessMode;
use crate::ipc::testing::{self, open, read, write};
use crate::ipc::{EventFd, PipeEnd};
use crate::wait::Parker;

const IN: Interest = Interest::from_bits_retain(1);
const OUT: Interest = Interest::from_bits_retain(4);

fn set() -> (Arc<Ipc>, Arc<Epoll>) {
    let ipc = testing::ipc();
    let epoll = Epoll::new(&ipc);
    (ipc, epoll)
}

fn signal(file: &OpenFile) {
    write(&*file.object, &1_u64.to_ne_bytes()).unwrap();
}

fn data(epoll: &Epoll) -> Vec<u64> {
    epoll.collect(100).map_or_else(|_| Vec::new(), |events| events.iter().map(|event| event.data).collect())
}

#[test]
fn level_triggered_entries_are_reported_while_ready() {
    let (_, epoll) = set();
    let event = open(EventFd::new(0, false));
    epoll.add(3, &event, IN, 30).unwrap();
    assert_eq!(epoll.collect(10), Err(Errno::AGAIN));
    signal(&event);
    assert_eq!(data(&epoll), [30]);
    assert_eq!(data(&epoll), [30]);
    read(&*event.object, 8).unwrap();
    assert!(data(&epoll).is_empty());
}

#[test]
fn edge_triggered_entries_are_reported_per_change() {
    let (_, epoll) = set();
    let event = open(EventFd::new(1, false));
    epoll.add(3, &event, IN | Interest::EDGE, 30).unwrap();
    assert_eq!(data(&epoll), [30]);
    assert!(data(&epoll).is_empty());
    signal(&event);
    assert_eq!(data(&epoll), [30]);
    assert!(data(&epoll).is_empty());
    epoll.modify(3, &event, IN | Interest::EDGE, 31).unwrap();
    assert_eq!(data(&epoll), [31]);
}

#[test]
fn one_shot_entries_rest_until_modified() {
    let (_, epoll) = set();
    let event = open(EventFd::new(1, false));
    epoll.add(3, &event, IN | Interest::ONE_SHOT, 30).unwrap();
    assert_eq!(data(&epoll), [30]);
    signal(&event);
    assert!(data(&epoll).is_empty());
    epoll.modify(3, &event, IN | Interest::ONE_SHOT, 30).unwrap();
    assert_eq!(data(&epoll), [30]);
}

#[test]
fn ready_entries_take_turns_when_there_is_room_for_one() {
    let (_, epoll) = set();
    let files: Vec<_> = (0..3).map(|_| open(EventFd::new(1, false))).collect();
    for (fd, file) in files.iter().enumerate() {
        epoll.add(fd as Fd, file, IN, fd as u64).unwrap();
    }
    let seen: Vec<u64> = (0..6).map(|_| epoll.collect(1).unwrap()[0].data).collect();
    assert_eq!(seen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn control_errors_are_linuxs() {
    let (ipc, epoll) = set();
    let event = open(EventFd::new(0, false));
    assert_eq!(epoll.modify(3, &event, IN, 0), Err(Errno::NOENT));
    assert_eq!(epoll.remove(3, &event), Err(Errno::NOENT));
    epoll.add(3, &event, IN, 0).unwrap();
    assert_eq!(epoll.add(3, &event, IN, 0), Err(Errno::EXIST));
    epoll.add(4, &event, IN, 0).unwrap();
    let itself = open(epoll.clone());
    assert_eq!(epoll.add(5, &itself, IN, 0), Err(Errno::INVAL));
    let log = open(crate::ipc::LogSink::new(&ipc, crate::ipc::LogStream::Output));
    assert_eq!(epoll.add(6, &log, IN, 0), Err(Errno::PERM));
    let other = open(Epoll::new(&ipc));
    assert_eq!(epoll.add(7, &other, IN | Interest::EXCLUSIVE, 0), Err(Errno::INVAL));
}

#[test]
fn a_closed_file_leaves_the_set() {
    let (ipc, epoll) = set();
    let event = open(EventFd::new(1, false));
    epoll.add(3, &event, IN, 30).unwrap();
    let before = ipc.account.used();
    drop(event);
    assert!(data(&epoll).is_empty());
    assert!(ipc.account.used() < before);
}

#[test]
fn a_dropped_set_leaves_the_queues() {
    let (_, epoll) = set();
    let event = open(EventFd::new(1, false));
    epoll.add(3, &event, IN, 30).unwrap();
    assert!(!event.object.wait_queue().unwrap().is_empty());
    drop(epoll);
    assert!(event.object.wait_queue().unwrap().is_empty());
}

#[test]
fn sets_nest_but_not_in_circles() {
    let (ipc, outer) = set();
    let inner = Epoll::new(&ipc);
    let event = open(EventFd::new(0, false));
    inner.add(1, &event, IN, 10).unwrap();
    let (inner_file, outer_file) = (open(inner.clone()), open(outer.clone()));
    outer.add(2, &inner_file, IN, 20).unwrap();
    assert_eq!(inner.add(3, &outer_file, IN, 0), Err(Errno::LOOP));
    assert!(data(&outer).is_empty());
    signal(&event);
    assert_eq!(data(&outer), [20]);
    assert_eq!(data(&inner), [10]);
    read(&*event.object, 8).unwrap();
    assert!(data(&outer).is_empty());
}

#[test]
fn chains_of_sets_have_a_limit_at_either_end() {
    let (ipc, _) = set();
    for grow_at_the_top in [true, false] {
        let mut chain = vec![open(Epoll::new(&ipc))];
        let outcome: Vec<_> = (0..6)
            .map(|_| {
                let next = open(Epoll::new(&ipc));
                let last = chain.last().unwrap().clone();
                chain.push(next.clone());
                let (outer, inner) = if grow_at_the_top { (next, last) } else { (last, next) };
                Epoll::of(&outer).unwrap().add(9, &inner, IN, 0)
            })
            .take_while(Result::is_ok)
            .collect();
        assert_eq!(outcome.len(), 4);
    }
}

#[test]
fn a_waiter_on_the_set_is_woken() {
    let (_, epoll) = set();
    let event = open(EventFd::new(0, false));
    epoll.add(3, &event, IN, 30).unwrap();
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let epoll = epoll.clone();
            std::thread::spawn(move || {
                let parker = Arc::new(Parker::default());
                let as_wake: Arc<dyn Wake> = parker.clone();
                let _registration = epoll.wait_queue().unwrap().register(Arc::downgrade(&as_wake));
                loop {
                    parker.reset();
                    match epoll.collect(1) {
                        Ok(events) => return events[0].data,
                        Err(_) => assert!(parker.park(Some(Duration::from_secs(60))), "lost wake-up"),
                    }
                }
            })
        })
        .collect();
    signal(&event);
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), 30);
    }
}

#[test]
fn a_restored_set_has_its_entries_and_edges() {
    let (ipc, epoll) = set();
    let (level, seen, fresh) = (EventFd::new(1, false), EventFd::new(1, false), EventFd::new(0, false));
    let [level, seen, fresh] = [level, seen, fresh].map(|event| open(event));
    epoll.add(1, &level, IN, 1).unwrap();
    epoll.add(2, &seen, IN | Interest::EDGE, 2).unwrap();
    assert_eq!(data(&epoll), [1, 2]);
    epoll.add(3, &fresh, IN | Interest::EDGE, 3).unwrap();
    signal(&fresh);
    let outer = Epoll::new(&ipc);
    let inner_file = open(epoll);
    outer.add(4, &inner_file, IN, 4).unwrap();

    // As in a process: the files are saved on their own, too.
    let roots: [Arc<dyn Object>; 5] = [level, seen, fresh, inner_file, open(outer)];
    let (saved, ids) = testing::save(&roots);
    let (context, registry) = (testing::context(), testing::registry());
    let mut restorer = Restorer::new(&saved, &context, &registry);
    let files: Vec<Arc<OpenFile>> =
        ids.iter().map(|id| restorer.concrete::<OpenFile>(*id, "open file").unwrap()).collect();
    drop(restorer);
    assert_eq!(data(Epoll::of(&files[4]).unwrap()), [4]);
    let inner = Epoll::of(&files[3]).unwrap();
    let mut events = data(inner);
    events.sort_unstable();
    assert_eq!(events, [1, 3]);
    signal(&files[1]);
    assert!(data(inner).contains(&2));
}

proptest! {
    /// After any history, a level-triggered set reports exactly what poll(2) would.
    #[test]
    fn a_set_agrees_with_poll(steps in prop::collection::vec((0_usize..6, 0_usize..4, 0_usize..70_000), 1..60)) {
        let (ipc, epoll) = set();
        let files: Vec<Arc<OpenFile>> = (0..2)
            .flat_map(|_| {
                let (reader, writer) = PipeEnd::pair(&ipc, false);
                let open = |end, access| OpenFile::new(end, access, Default::default());
                [open(reader as Arc<dyn FileObject>, AccessMode::Read), open(writer, AccessMode::Write)]
            })
            .collect();
        let mut interests = [None; 4];
        for (step, which, count) in steps {
            let file = &files[which];
            let fd = which as Fd;
            match step {
                0 if interests[which].is_none() => {
                    interests[which] = Some(IN);
                    epoll.add(fd, file, IN, which as u64).unwrap();
                }
                1 => {
                    if interests[which].take().is_some() {
                        epoll.remove(fd, file).unwrap();
                    }
                }
                2 if interests[which].is_some() => {
                    interests[which] = Some(OUT);
                    epoll.modify(fd, file, OUT, which as u64).unwrap();
                }
                3 => drop(data(&epoll)),
                4 => drop(read(&*files[which & 2].object, count)),
                _ => drop(write(&*files[which | 1].object, &vec![0; count])),
            }
            let mut events = data(&epoll);
            events.sort_unstable();
            let expected: Vec<u64> = (0..4)
                .filter(|which| interests[*which].is_some_and(|interest: Interest| {
                    files[*which].object.readiness().bits() & (interest.bits() | 0x18) != 0
                }))
                .map(|which| which as u64)
                .collect();
            prop_assert_eq!(events, expected);
        }
    }
}
