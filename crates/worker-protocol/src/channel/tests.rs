use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::thread;

use serde_bytes::ByteBuf;

use super::*;
use crate::messages::{Invoke, LogStream, Record, RestoreRequest};

fn sides() -> (NodeChannel, WorkerChannel) {
    let (node, socket) = pair().unwrap();
    (node, WorkerChannel::new(socket))
}

fn log(bytes: &[u8]) -> FromWorker {
    FromWorker::Log { stream: LogStream::Error, bytes: ByteBuf::from(bytes) }
}

fn invoke(payload: Vec<u8>) -> ToWorker {
    ToWorker::Invoke(Box::new(Invoke {
        request_id: "r".to_owned(),
        payload: ByteBuf::from(payload),
        timeout: Duration::from_secs(3),
        invoked_function_arn: "arn".to_owned(),
        trace_id: None,
        client_context: None,
        cognito_identity: Some(("i".to_owned(), "p".to_owned())),
        tenant_id: None,
        streaming: false,
    }))
}

fn file_with(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

fn read(descriptor: OwnedFd) -> String {
    let mut text = String::new();
    File::from(descriptor).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn descriptors_arrive_with_their_messages() {
    let (mut node, mut worker) = sides();
    // Messages with and without descriptors, all in the socket before the first is read.
    node.sender.send(&ToWorker::Boot { kernel: None }, Attached::default()).unwrap();
    let mut beside = None;
    for name in ["one", "two"] {
        let mut attached = Attached::default();
        let snapshot = attached.attach(file_with(name));
        beside = Some(attached.attach(file_with("beside")));
        let request = RestoreRequest {
            snapshot,
            strategy: name.to_owned(),
            without: Vec::new(),
            random_access: None,
            record: Record::No,
            verify: false,
        };
        node.sender.send(&ToWorker::Restore(request), attached).unwrap();
        node.sender.send(&ToWorker::Stop, Attached::default()).unwrap();
    }
    drop(node);

    assert_eq!(worker.receiver.receive().unwrap().unwrap().message, ToWorker::Boot { kernel: None });
    for name in ["one", "two"] {
        let Received { message, mut descriptors } = worker.receiver.receive().unwrap().unwrap();
        let ToWorker::Restore(request) = message else { panic!("{message:?}") };
        assert_eq!((request.strategy.as_str(), descriptors.len()), (name, 2));
        assert_eq!(read(descriptors.take(beside.unwrap()).unwrap()), "beside");
        assert_eq!(read(descriptors.take(request.snapshot).unwrap()), name);
        let stop = worker.receiver.receive().unwrap().unwrap();
        assert!(stop.message == ToWorker::Stop && stop.descriptors.is_empty());
    }
    assert!(worker.receiver.receive().unwrap().is_none());
}

#[test]
fn passed_descriptors_are_not_inherited_by_programs() {
    let (mut node, mut worker) = sides();
    let mut attached = Attached::default();
    let into = attached.attach(file_with(""));
    node.sender.send(&ToWorker::Snapshot { into }, attached).unwrap();
    let mut received = worker.receiver.receive().unwrap().unwrap();
    let descriptor = received.descriptors.take(into).unwrap();
    assert!(rustix::io::fcntl_getfd(&descriptor).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn the_largest_payloads_pass_both_ways_at_once() {
    let (mut node, mut worker) = sides();
    let payload = vec![b'x'; 6 * 1024 * 1024 + 100];
    let answer = payload.clone();
    let echo = thread::spawn(move || {
        let received = worker.receiver.receive().unwrap().unwrap();
        worker.sender.send(&log(&answer), Attached::default()).unwrap();
        received.message
    });
    node.sender.send(&invoke(payload.clone()), Attached::default()).unwrap();
    assert_eq!(node.receiver.receive().unwrap().unwrap().message, log(&payload));
    assert_eq!(echo.join().unwrap(), invoke(payload));
}

#[test]
fn a_full_socket_holds_messages_back_without_blocking() {
    let (mut node, mut worker) = sides();
    let message = invoke(vec![1; 1024 * 1024]);
    node.sender.enqueue(&message, Attached::default()).unwrap();
    node.sender.enqueue(&ToWorker::Stop, Attached::default()).unwrap();
    let mut received = Vec::new();
    while received.len() < 2 {
        node.sender.flush().unwrap();
        if let Polled::Message(message) = worker.receiver.try_receive().unwrap() {
            received.push(message.message);
        }
    }
    assert_eq!(received, [message, ToWorker::Stop]);
    assert!(node.sender.flush().unwrap());
}

#[test]
fn ends_and_timeouts_are_told_apart() {
    let (node, mut worker) = sides();
    let soon = Duration::from_millis(1);
    assert!(
        matches!(worker.receiver.receive_within(soon), Err(ChannelError::TimedOut(time)) if time == soon)
    );
    assert!(matches!(worker.receiver.try_receive(), Ok(Polled::Nothing)));
    drop(node);
    assert!(worker.receiver.receive().unwrap().is_none());
    assert!(worker.sender.send(&log(b"nobody listens"), Attached::default()).is_err(), "and no SIGPIPE");
}

/// Bytes as a hostile peer sends them, with descriptors.
fn forged(bytes: &[u8], descriptors: usize) -> Result<Option<Received<ToWorker>>, ChannelError> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let descriptors = (0..descriptors).map(|_| file_with("").into()).collect();
    let mut outgoing = Outgoing { bytes: [&frame::preface(), bytes].concat(), sent: 0, descriptors };
    outgoing.send(ours.as_fd()).unwrap();
    drop(ours);
    WorkerChannel::new(theirs).receiver.receive()
}

#[test]
fn forged_frames_are_refused() {
    let stop = frame::encode(&ToWorker::Stop, 0).unwrap();
    assert!(forged(&stop, 0).unwrap().is_some());
    assert!(matches!(forged(&stop, 3), Err(ChannelError::SurplusDescriptors)));
    let two = frame::encode(&ToWorker::Stop, 2).unwrap();
    assert!(matches!(forged(&two, 1), Err(ChannelError::MissingDescriptors { announced: 2, arrived: 1 })));
    assert!(matches!(forged(&stop[..stop.len() - 1], 0), Err(ChannelError::Truncated)));
    assert!(matches!(forged(&[255; 20], 0), Err(ChannelError::Frame(FrameError::TooLarge(_)))));
}

#[test]
fn piled_up_descriptors_are_refused() {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let mut worker = WorkerChannel::new(theirs);
    // A frame that never ends, with descriptors at each byte of it.
    let mut bytes = frame::preface().to_vec();
    bytes.extend_from_slice(&1_000_000u32.to_le_bytes());
    let refused = (0..50).any(|_| {
        let descriptors = (0..20).map(|_| file_with("").into()).collect();
        let mut outgoing = Outgoing { bytes: std::mem::replace(&mut bytes, vec![0]), sent: 0, descriptors };
        outgoing.send(ours.as_fd()).unwrap();
        matches!(worker.receiver.try_receive(), Err(ChannelError::SurplusDescriptors))
    });
    assert!(refused);
}
