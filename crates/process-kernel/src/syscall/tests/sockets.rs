//! Sockets.

use rustix::io::Errno;

use super::Guest;
use crate::net::SocketAddress;
use crate::syscall::Stop;
use crate::task::signal::bit;

const INET: u64 = libc::AF_INET as u64;
const UNIX: u64 = libc::AF_UNIX as u64;
const STREAM: u64 = libc::SOCK_STREAM as u64;
const DATAGRAM: u64 = libc::SOCK_DGRAM as u64;
const NONBLOCK: u64 = libc::SOCK_NONBLOCK as u64;

/// Puts an address into the guest's memory; address and length.
fn address(guest: &Guest, offset: u64, text: &str) -> [u64; 2] {
    let bytes = match text.strip_prefix('/') {
        Some(_) => [&[1, 0], text.as_bytes(), &[0]].concat(),
        None => SocketAddress::Inet(text.parse().unwrap()).encode(),
    };
    [guest.put(offset, &bytes), bytes.len() as u64]
}

#[test]
fn a_server_thread_serves_a_client_thread() {
    let guest = Guest::new();
    let server = guest.ok(libc::SYS_socket, &[INET, STREAM, 0]);
    let [at, length] = address(&guest, 0, "127.0.0.1:8080");
    guest.ok(libc::SYS_bind, &[server, at, length]);
    guest.ok(libc::SYS_listen, &[server, 5]);
    let other = guest.another_thread();
    let serving = std::thread::spawn(move || {
        let length_at = other.put(100, &16_i32.to_ne_bytes());
        let accepted = other.ok(libc::SYS_accept4, &[server, other.memory, length_at, 0]);
        assert_eq!(other.number(100), 16);
        let request = other.read(accepted, 100).unwrap();
        other.write(accepted, &request.to_ascii_uppercase()).unwrap();
        other.ok(libc::SYS_shutdown, &[accepted, libc::SHUT_WR as u64]);
        other.read(accepted, 100).unwrap()
    });
    let client = guest.ok(libc::SYS_socket, &[INET, STREAM, 0]);
    guest.ok(libc::SYS_connect, &[client, at, length]);
    assert_eq!(guest.write(client, b"hello"), Ok(5));
    assert_eq!(guest.read(client, 100).unwrap(), b"HELLO");
    assert_eq!(guest.read(client, 100).unwrap(), b"");
    guest.ok(libc::SYS_close, &[client]);
    assert_eq!(serving.join().unwrap(), b"");
}

#[test]
fn what_is_not_there_is_refused_and_said() {
    let guest = Guest::new();
    let netlink = libc::AF_NETLINK as u64;
    assert_eq!(guest.errno(libc::SYS_socket, &[netlink, 3, 0]), Errno::AFNOSUPPORT);
    assert_eq!(guest.errno(libc::SYS_socket, &[INET, 3, 1]), Errno::PERM);
    assert_eq!(guest.errno(libc::SYS_socketpair, &[INET, STREAM, 0, guest.memory]), Errno::OPNOTSUPP);
    let client = guest.ok(libc::SYS_socket, &[INET, STREAM | NONBLOCK, 0]);
    let [at, length] = address(&guest, 0, "127.0.0.1:1");
    assert_eq!(guest.errno(libc::SYS_connect, &[client, at, length]), Errno::CONNREFUSED);
    let [at, length] = address(&guest, 0, "192.0.2.1:80");
    assert_eq!(guest.errno(libc::SYS_connect, &[client, at, length]), Errno::NETUNREACH);
    assert_eq!(guest.errno(libc::SYS_connect, &[client, at, 3]), Errno::INVAL);
    assert_eq!(guest.errno(libc::SYS_connect, &[client, at, 1 << 31]), Errno::INVAL);
    let [reader, _] = guest.pair(libc::SYS_pipe, &[]);
    assert_eq!(guest.errno(libc::SYS_listen, &[reader, 1]), Errno::NOTSOCK);
}

#[test]
fn a_named_socket_appears_in_the_file_tree() {
    let guest = Guest::new();
    let server = guest.ok(libc::SYS_socket, &[UNIX, STREAM, 0]);
    let [at, length] = address(&guest, 0, "/service.sock");
    guest.ok(libc::SYS_bind, &[server, at, length]);
    guest.ok(libc::SYS_listen, &[server, 5]);
    guest.ok(libc::SYS_stat, &[at + 2, guest.memory + 1024]);
    let mode = guest.number(1024 + 24) as u32;
    assert_eq!(mode & libc::S_IFMT, libc::S_IFSOCK);
    let late = guest.ok(libc::SYS_socket, &[UNIX, STREAM, 0]);
    assert_eq!(guest.errno(libc::SYS_bind, &[late, at, length]), Errno::ADDRINUSE);
    guest.ok(libc::SYS_connect, &[late, at, length]);
    let accepted = guest.ok(libc::SYS_accept, &[server, 0, 0]);
    guest.write(late, b"by name").unwrap();
    assert_eq!(guest.read(accepted, 100).unwrap(), b"by name");
    // The name outlives its socket, and then refuses.
    guest.ok(libc::SYS_close, &[server]);
    let client = guest.ok(libc::SYS_socket, &[UNIX, STREAM, 0]);
    assert_eq!(guest.errno(libc::SYS_connect, &[client, at, length]), Errno::CONNREFUSED);
    guest.ok(libc::SYS_unlink, &[at + 2]);
    assert_eq!(guest.errno(libc::SYS_connect, &[client, at, length]), Errno::NOENT);
}

/// A msghdr at 0 with its iovec at 64: bytes at 4096, control bytes at 8192.
fn header(guest: &Guest, length: u64, control: u64) -> u64 {
    guest.put(64, bytemuck::cast_slice(&[guest.memory + 4096, length]));
    guest.put(0, bytemuck::cast_slice(&[0, 0, guest.memory + 64, 1, guest.memory + 8192, control, 0]))
}

#[test]
fn descriptors_are_passed_and_cut_off_where_there_is_no_room() {
    let guest = Guest::new();
    let [first, second] = guest.pair(libc::SYS_socketpair, &[UNIX, STREAM, 0]);
    let [reader, writer] = guest.pair(libc::SYS_pipe, &[]);
    let control = |fds: &[u64]| {
        let mut bytes = (16 + 4 * fds.len() as u64).to_ne_bytes().to_vec();
        bytes.extend([libc::SOL_SOCKET, libc::SCM_RIGHTS].map(i32::to_ne_bytes).concat());
        bytes.extend(fds.iter().flat_map(|fd| (*fd as i32).to_ne_bytes()));
        bytes
    };
    guest.put(4096, b"two files");
    guest.put(8192, &control(&[reader, writer]));
    let message = header(&guest, 9, 24);
    assert_eq!(guest.call(libc::SYS_sendmsg, &[first, message, 0]), Ok(9));
    guest.write(writer, b"through a passed pipe").unwrap();
    for fd in [reader, writer] {
        guest.ok(libc::SYS_close, &[fd]);
    }
    let message = header(&guest, 100, 24);
    let flags = libc::MSG_CMSG_CLOEXEC as u64;
    assert_eq!(guest.call(libc::SYS_recvmsg, &[second, message, flags]), Ok(9));
    assert_eq!((guest.number(40), guest.number(48)), (24, libc::MSG_CMSG_CLOEXEC));
    let passed = guest.number(8192 + 16) as u64;
    assert_eq!(guest.read(passed, 100).unwrap(), b"through a passed pipe");
    // With room for one descriptor of two, the other is closed.
    let still = guest.number(8192 + 20) as u64;
    guest.put(8192, &control(&[passed, still]));
    let message = header(&guest, 1, 24);
    guest.ok(libc::SYS_sendmsg, &[first, message, 0]);
    let open = guest.process.files.open_descriptors().len();
    let message = header(&guest, 100, 20);
    assert_eq!(guest.call(libc::SYS_recvmsg, &[second, message, 0]), Ok(1));
    assert_eq!(guest.number(48), libc::MSG_CTRUNC);
    assert_eq!(guest.process.files.open_descriptors().len(), open + 1);
    // A descriptor that isn't one.
    guest.put(8192, &control(&[99]));
    let message = header(&guest, 1, 20);
    assert_eq!(guest.errno(libc::SYS_sendmsg, &[first, message, 0]), Errno::BADF);
}

#[test]
fn flags_of_sends_and_receives_do_what_they_say() {
    let guest = Guest::new();
    let [first, second] = guest.pair(libc::SYS_socketpair, &[UNIX, STREAM, 0]);
    let buffer = guest.memory + 4096;
    let receive =
        |fd, count: u64, flags: i32| guest.call(libc::SYS_recvfrom, &[fd, buffer, count, flags as u64, 0, 0]);
    assert_eq!(receive(second, 10, libc::MSG_DONTWAIT), Err(Stop::Errno(Errno::AGAIN)));
    guest.write(first, b"peeked").unwrap();
    assert_eq!(receive(second, 10, libc::MSG_PEEK), Ok(6));
    assert_eq!(receive(second, 10, 0), Ok(6));
    let other = guest.another_thread();
    let filling = std::thread::spawn(move || {
        let arguments = [second, other.memory, 10, libc::MSG_WAITALL as u64, 0, 0];
        other.call(libc::SYS_recvfrom, &arguments)
    });
    guest.write(first, b"half ").unwrap();
    guest.write(first, b"whole").unwrap();
    assert_eq!(filling.join().unwrap(), Ok(10));
    guest.ok(libc::SYS_close, &[second]);
    let send = |flags: i32| guest.call(libc::SYS_sendto, &[first, buffer, 1, flags as u64, 0, 0]);
    assert_eq!(send(libc::MSG_NOSIGNAL), Err(Stop::Errno(Errno::PIPE)));
    assert_eq!(guest.pending(), 0);
    assert_eq!(send(0), Err(Stop::Errno(Errno::PIPE)));
    assert_eq!(guest.pending(), bit(libc::SIGPIPE));
}

#[test]
fn datagrams_tell_their_length_and_sender() {
    let guest = Guest::new();
    let [server, client] = [(); 2].map(|()| guest.ok(libc::SYS_socket, &[INET, DATAGRAM, 0]));
    let [at, length] = address(&guest, 0, "127.0.0.1:53");
    guest.ok(libc::SYS_bind, &[server, at, length]);
    let from = guest.put(4096, b"question");
    assert_eq!(guest.call(libc::SYS_sendto, &[client, from, 8, 0, at, length]), Ok(8));
    let length_at = guest.put(200, &16_i32.to_ne_bytes());
    let into = guest.memory + 8192;
    let flags = libc::MSG_TRUNC as u64;
    assert_eq!(
        guest.call(libc::SYS_recvfrom, &[server, into, 4, flags, guest.memory + 300, length_at]),
        Ok(8)
    );
    assert_eq!(guest.get(8192, 4), b"ques");
    let sender = SocketAddress::decode(&guest.get(300, 16)).unwrap().inet().unwrap();
    assert!(sender.ip().is_loopback() && sender.port() >= 32_768);
}

#[test]
fn a_receive_timeout_ends_the_wait() {
    let guest = Guest::new();
    let [first, _second] = guest.pair(libc::SYS_socketpair, &[UNIX, STREAM, 0]);
    let time: [u64; 2] = [0, 1000];
    let at = guest.put(0, bytemuck::bytes_of(&time));
    let option = [first, libc::SOL_SOCKET as u64, libc::SO_RCVTIMEO as u64];
    guest.ok(libc::SYS_setsockopt, &[&option[..], &[at, 16]].concat());
    assert_eq!(guest.read(first, 1), Err(Stop::Errno(Errno::AGAIN)));
    let length_at = guest.put(100, &16_i32.to_ne_bytes());
    guest.ok(libc::SYS_getsockopt, &[&option[..], &[guest.memory + 200, length_at]].concat());
    assert_eq!(guest.get(200, 16), bytemuck::bytes_of(&time));
    let peer = [first, libc::SOL_SOCKET as u64, libc::SO_PEERCRED as u64, guest.memory + 200, length_at];
    guest.ok(libc::SYS_getsockopt, &peer);
    assert_eq!((guest.number(200), guest.number(100)), (guest.process.identity.pid, 12));
}
