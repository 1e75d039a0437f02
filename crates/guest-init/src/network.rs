//! Network interfaces: the loopback, and the network card of a guest that has one.

use std::ffi::{c_int, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use guest_init::wire::Network;

use crate::Failure;
use crate::system::check;

const AF_INET: c_int = 2;
const SOCK_DGRAM: c_int = 2;
const SOCK_CLOEXEC: c_int = 0o2_000_000;
/// linux/sockios.h
const SIOCADDRT: c_ulong = 0x890b;
const SIOCSIFFLAGS: c_ulong = 0x8914;
const SIOCSIFADDR: c_ulong = 0x8916;
const SIOCSIFNETMASK: c_ulong = 0x891c;
const IFF_UP: u8 = 1;
/// linux/route.h: a route that is up and leads to a gateway.
const RTF_UP_GATEWAY: u8 = 3;

/// The kernel's name of its first network card.
const CARD: &str = "eth0";

unsafe extern "C" {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn ioctl(descriptor: c_int, request: c_ulong, ...) -> c_int;
}

/// A socket by which interfaces are set up.
struct Interfaces(File);

impl Interfaces {
    fn open() -> Result<Self, Failure> {
        // SAFETY: no pointers.
        let socket = unsafe { socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(format!("opening a socket: {}", io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just made it; nobody else has it.
        Ok(Self(unsafe { File::from_raw_fd(socket) }))
    }

    fn ask<const N: usize>(&self, what: &str, request: c_ulong, structure: &[u8; N]) -> Result<(), Failure> {
        // SAFETY: the buffer is as long as the structure that the request reads, and lives.
        check(what, unsafe { ioctl(self.0.as_raw_fd(), request, structure.as_ptr()) })
    }

    /// A request about an interface: `struct ifreq`, a name of 16 bytes, then what the request is about.
    fn of(&self, name: &str, what: &str, request: c_ulong, value: &[u8]) -> Result<(), Failure> {
        let mut structure = [0_u8; 40];
        for (to, from) in structure.iter_mut().zip(name.bytes().chain(std::iter::repeat(0)).take(16)) {
            *to = from;
        }
        put(&mut structure, 16, value);
        self.ask(&format!("{what} {name}"), request, &structure)
    }

    fn raise(&self, name: &str) -> Result<(), Failure> {
        self.of(name, "raising the interface", SIOCSIFFLAGS, &[IFF_UP])
    }
}

fn put(structure: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in structure.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

/// `struct sockaddr_in` without a port.
fn address(ip: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = ip;
    [AF_INET as u8, 0, 0, 0, a, b, c, d]
}

/// Raises the loopback interface, whose address the kernel knows.
pub(crate) fn raise_loopback() -> Result<(), Failure> {
    Interfaces::open()?.raise("lo")
}

/// Gives the network card its address and everything else a way over the gateway.
pub(crate) fn set_up(network: Network) -> Result<(), Failure> {
    if !std::path::Path::new("/sys/class/net").join(CARD).exists() {
        return Err("this kernel does not know its network card: store it again with the module virtio_net \
                    (faasnap kernel build-from-debian)"
            .to_owned());
    }
    let interfaces = Interfaces::open()?;
    let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix)).unwrap_or(0);
    interfaces.of(CARD, "giving an address to", SIOCSIFADDR, &address(network.address))?;
    interfaces.of(CARD, "giving a mask to", SIOCSIFNETMASK, &address(mask.to_be_bytes()))?;
    interfaces.raise(CARD)?;
    // struct rtentry: after eight bytes destination, gateway and mask, 16 bytes each; then flags.
    let mut route = [0_u8; 120];
    put(&mut route, 8, &address([0; 4]));
    put(&mut route, 24, &address(network.gateway));
    put(&mut route, 40, &address([0; 4]));
    put(&mut route, 56, &[RTF_UP_GATEWAY]);
    interfaces.ask("setting the route", SIOCADDRT, &route)
}
