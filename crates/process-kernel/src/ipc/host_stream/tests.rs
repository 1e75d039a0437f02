use std::io::{Read, Seek, Write};
use std::time::Duration;

use super::*;
use crate::ipc::testing::{self, read, write};
use crate::wait::{Parker, Wake};

fn flags(fd: &impl AsFd) -> OFlags {
    fcntl_getfl(fd).unwrap()
}

#[test]
fn a_pipe_waits_without_changing_the_callers_flags() {
    let ipc = testing::ipc();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let callers = reader.try_clone().unwrap();
    let file = HostStream::inherit(&ipc, reader.into()).unwrap();
    assert_eq!(file.access, AccessMode::Read);
    assert_eq!(read(&*file.object, 10), Err(Errno::AGAIN));
    assert!(!flags(&callers).contains(OFlags::NONBLOCK));
    let parker = Arc::new(Parker::default());
    let as_wake: Arc<dyn Wake> = parker.clone();
    let _registration = file.object.wait_queue().unwrap().register(Arc::downgrade(&as_wake));
    parker.reset();
    writer.write_all(b"typed").unwrap();
    while !file.object.readiness().contains(Readiness::IN) {
        assert!(parker.park(Some(Duration::from_secs(60))), "lost wake-up");
        parker.reset();
    }
    assert_eq!(read(&*file.object, 10).unwrap(), b"typed");
    drop(writer);
    assert_eq!(read(&*file.object, 10).unwrap(), b"");
}

#[test]
fn a_full_pipe_makes_writers_wait_and_a_closed_one_breaks() {
    let ipc = testing::ipc();
    let (reader, writer) = std::io::pipe().unwrap();
    let file = HostStream::inherit(&ipc, writer.into()).unwrap();
    let mut written = 0;
    let refused = loop {
        match write(&*file.object, &[0; 4096]) {
            Ok(count) => written += count,
            Err(errno) => break errno,
        }
    };
    assert_eq!((refused, written), (Errno::AGAIN, 65_536));
    drop(reader);
    assert_eq!(write(&*file.object, b"x"), Err(Errno::PIPE));
}

#[test]
fn sockets_do_not_block_either() {
    let ipc = testing::ipc();
    let (inside, mut outside) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = HostStream::inherit(&ipc, inside.into()).unwrap();
    assert_eq!(read(&*file.object, 10), Err(Errno::AGAIN));
    outside.write_all(b"in").unwrap();
    assert_eq!(read(&*file.object, 10).unwrap(), b"in");
    assert_eq!(write(&*file.object, b"out"), Ok(3));
    let mut seen = [0; 3];
    outside.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"out");
}

#[test]
fn a_regular_file_starts_at_the_callers_position_and_moves_it() {
    let ipc = testing::ipc();
    let mut callers = tempfile::tempfile().unwrap();
    callers.write_all(b"before").unwrap();
    let file = HostStream::inherit(&ipc, callers.try_clone().unwrap().into()).unwrap();
    assert!(file.object.wait_queue().is_none());
    assert_eq!(file.write(&mut Origin::Own(b" and after")), Ok(10));
    assert_eq!(callers.stream_position().unwrap(), 16);
    callers.rewind().unwrap();
    let mut text = String::new();
    callers.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and after");
}

#[test]
fn the_null_device_is_always_ready() {
    let ipc = testing::ipc();
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let file = HostStream::inherit(&ipc, null.into()).unwrap();
    assert!(file.object.wait_queue().is_none());
    assert_eq!(read(&*file.object, 10).unwrap(), b"");
    assert_eq!(write(&*file.object, b"gone"), Ok(4));
}

#[test]
fn a_process_with_an_inherited_descriptor_cannot_be_saved() {
    let ipc = testing::ipc();
    let (reader, _writer) = std::io::pipe().unwrap();
    let file = HostStream::inherit(&ipc, reader.into()).unwrap();
    let error = Saver::default().save(file).unwrap_err();
    assert!(matches!(error, SaveError::NotSnapshotable { .. }), "{error}");
}
