//! Sockets to the host (`AF_VSOCK`), which the standard library does not have.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use guest_init::wire::PORT;

const AF_VSOCK: c_int = 40;
const SOCK_STREAM: c_int = 1;
const SOCK_CLOEXEC: c_int = 0o2_000_000;
const HOST: u32 = 2;
/// VMADDR_CID_ANY
const ANY: u32 = u32::MAX;
/// linux/vm_sockets.h; the level of the option is the family.
const SO_VM_SOCKETS_CONNECT_TIMEOUT: c_int = 6;
/// Seconds that the host may take to answer. By default they are two, which a busy host can pass; whoever waits on its side has
/// limits of their own.
const PATIENCE: i64 = 60;

/// linux/vm_sockets.h
#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

const LENGTH: u32 = size_of::<Address>() as u32;

unsafe extern "C" {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(descriptor: c_int, address: *const Address, length: u32) -> c_int;
    fn bind(descriptor: c_int, address: *const Address, length: u32) -> c_int;
    fn listen(descriptor: c_int, waiting: c_int) -> c_int;
    fn setsockopt(descriptor: c_int, level: c_int, name: c_int, value: *const [i64; 2], length: u32)
    -> c_int;
    fn accept4(descriptor: c_int, address: *mut Address, length: *mut u32, flags: c_int) -> c_int;
}

fn address(cid: u32) -> Address {
    Address { family: AF_VSOCK as u16, reserved: 0, port: PORT, cid, flags: 0, zero: [0; 3] }
}

fn owned(descriptor: c_int) -> io::Result<File> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it; nobody else has it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn new() -> io::Result<File> {
    // SAFETY: no pointers.
    owned(unsafe { socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0) })
}

/// A connection to the host's port.
pub(crate) fn to_host() -> io::Result<File> {
    let (stream, host) = (new()?, address(HOST));
    // struct timeval: seconds, microseconds.
    let (limit, length) = ([PATIENCE, 0], size_of::<[i64; 2]>() as u32);
    let (descriptor, name) = (stream.as_raw_fd(), SO_VM_SOCKETS_CONNECT_TIMEOUT);
    // SAFETY: a live structure of the length that is given.
    check(unsafe { setsockopt(descriptor, AF_VSOCK, name, &raw const limit, length) })?;
    // SAFETY: a live address of the length that is given.
    check(unsafe { connect(stream.as_raw_fd(), &raw const host, LENGTH) })?;
    Ok(stream)
}

/// A port at which the host can connect.
pub(crate) struct Listener(File);

impl Listener {
    pub fn new() -> io::Result<Self> {
        let (listener, any) = (new()?, address(ANY));
        // SAFETY: a live address of the length that is given.
        check(unsafe { bind(listener.as_raw_fd(), &raw const any, LENGTH) })?;
        // SAFETY: no pointers.
        check(unsafe { listen(listener.as_raw_fd(), 1) })?;
        Ok(Self(listener))
    }

    /// Waits for the host.
    pub fn accept(&self) -> io::Result<File> {
        // SAFETY: without a place for it, no address is written.
        let accepted =
            unsafe { accept4(self.0.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), SOCK_CLOEXEC) };
        owned(accepted)
    }
}
