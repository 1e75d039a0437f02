use std::time::Duration;

use super::*;
use crate::ipc::{EventFd, testing};
use crate::wait::{Parker, Wake};

fn pair(carries: Carries, capacity: usize) -> (Endpoint, Endpoint) {
    Connection::pair(&testing::ipc().account, carries, [capacity; 2], [Credentials::default(); 2])
}

fn send(end: &Endpoint, bytes: &[u8]) -> Result<usize, Errno> {
    end.send(&mut Origin::Own(bytes), &mut Outgoing::default())
}

fn receive(end: &Endpoint, count: usize) -> Result<(Vec<u8>, Incoming), Errno> {
    let mut bytes = vec![0; count];
    let incoming = end.receive(&mut Destination::Own(&mut bytes), ReceiveFlags::default())?;
    bytes.truncate(incoming.count);
    Ok((bytes, incoming))
}

#[test]
fn packets_keep_their_bounds_and_tell_their_length() {
    let (first, second) = pair(Carries::Packets, 100);
    assert_eq!(send(&first, &[1; 101]), Err(Errno::MSGSIZE));
    send(&first, b"four").unwrap();
    send(&first, b"").unwrap();
    assert_eq!(send(&first, &[1; 97]), Err(Errno::AGAIN));
    let (bytes, incoming) = receive(&second, 2).unwrap();
    assert_eq!((&bytes[..], incoming.message), (&b"fo"[..], 4));
    assert_eq!(receive(&second, 2).unwrap().0, b"");
    assert_eq!(receive(&second, 2).err(), Some(Errno::AGAIN));
}

#[test]
fn empty_packets_have_a_bound_too() {
    let (first, _second) = pair(Carries::Packets, 100);
    let sent = (0..10_000).take_while(|_| send(&first, b"").is_ok()).count();
    assert_eq!(sent, MAX_MESSAGES);
    assert!(!first.readiness().contains(Readiness::OUT));
}

#[test]
fn files_go_with_the_first_byte_they_were_sent_with() {
    let (first, second) = pair(Carries::BytesAndFiles, 1000);
    send(&first, b"plain").unwrap();
    let event = testing::open(EventFd::new(0, false));
    let mut outgoing = Outgoing { rights: vec![event.clone()], ..Outgoing::default() };
    first.send(&mut Origin::Own(b"with a file"), &mut outgoing).unwrap();
    let (bytes, incoming) = receive(&second, 100).unwrap();
    assert_eq!((&bytes[..], incoming.rights.len()), (&b"plain"[..], 0));
    let (bytes, incoming) = receive(&second, 4).unwrap();
    assert_eq!(&bytes[..], b"with");
    assert!(Arc::ptr_eq(&incoming.rights[0], &event));
}

#[test]
fn files_that_nobody_receives_are_closed_with_the_connection() {
    let (first, second) = pair(Carries::BytesAndFiles, 1000);
    let event = testing::open(EventFd::new(0, false));
    let mut outgoing = Outgoing { rights: vec![event.clone()], ..Outgoing::default() };
    first.send(&mut Origin::Own(b"x"), &mut outgoing).unwrap();
    assert_eq!(Arc::strong_count(&event), 2);
    drop(second);
    assert_eq!(Arc::strong_count(&event), 1);
    assert_eq!(send(&first, b"x"), Err(Errno::PIPE));
    assert!(first.readiness().contains(Readiness::HUP));
}

#[test]
fn no_wake_up_is_lost_between_a_fast_sender_and_a_slow_receiver() {
    const TOTAL: usize = 2_000_000;
    let (first, second) = pair(Carries::Bytes, 8192);
    let wait = |end: &Endpoint, attempt: &mut dyn FnMut() -> Result<usize, Errno>| {
        let queue = Arc::new(WaitQueue::default());
        end.attach(&queue);
        let parker = Arc::new(Parker::default());
        let as_wake: Arc<dyn Wake> = parker.clone();
        let _registration = queue.register(Arc::downgrade(&as_wake));
        loop {
            parker.reset();
            match attempt() {
                Err(Errno::AGAIN) => assert!(parker.park(Some(Duration::from_secs(60))), "lost wake-up"),
                outcome => return outcome.unwrap(),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sent = 0;
            while sent < TOTAL {
                sent += wait(&first, &mut || send(&first, &[7; 3000]));
            }
            first.shutdown(Shutdown::Write);
        });
        scope.spawn(|| {
            let mut received = 0;
            loop {
                match wait(&second, &mut || receive(&second, 1111).map(|(bytes, _)| bytes.len())) {
                    0 => break,
                    count => received += count,
                }
            }
            assert!(received >= TOTAL);
        });
    });
}

#[test]
fn the_first_send_to_a_closed_tcp_peer_vanishes_and_the_next_is_a_broken_pipe() {
    let (first, second) = pair(Carries::Bytes, 100);
    drop(second);
    assert_eq!(receive(&first, 10).unwrap().0, b"");
    assert_eq!(send(&first, b"late"), Ok(4));
    assert_eq!(send(&first, b"later"), Err(Errno::PIPE));
    let (first, second) = pair(Carries::BytesAndFiles, 100);
    drop(second);
    assert_eq!(send(&first, b"late"), Err(Errno::PIPE), "a Unix socket knows at once");
}

#[test]
fn an_aborted_connection_delivers_what_was_sent_and_then_is_reset() {
    let (first, second) = pair(Carries::Bytes, 100);
    send(&second, b"data").unwrap();
    second.abort();
    drop(second);
    assert!(first.readiness().contains(Readiness::ERR | Readiness::HUP));
    assert_eq!(receive(&first, 10).unwrap().0, b"data");
    assert_eq!(receive(&first, 10).err(), Some(Errno::CONNRESET));
    assert_eq!(receive(&first, 10).unwrap().0, b"", "the reset is told once");
    assert_eq!(send(&first, b"x"), Err(Errno::PIPE));

    let (first, second) = pair(Carries::Bytes, 100);
    second.abort();
    drop(second);
    assert_eq!(first.take_error(), Some(Errno::CONNRESET));
    assert_eq!(first.take_error(), None);
    assert_eq!(send(&first, b"x"), Err(Errno::PIPE));
}
