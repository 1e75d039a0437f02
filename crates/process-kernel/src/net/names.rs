//! Which Unix sockets are bound to which names.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::address::UnixAddress;
use super::unix_datagram::UnixDatagram;
use super::unix_stream::UnixStream;

/// What a name means: the abstract name, or the inode that stands for the socket in the file tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Abstract(Vec<u8>),
    Inode(u64, u64),
}

impl Key {
    fn of(address: &UnixAddress) -> Option<Self> {
        match address {
            UnixAddress::Abstract(name) => Some(Self::Abstract(name.clone())),
            UnixAddress::File { inode: (device, inode), .. } => Some(Self::Inode(*device, *inode)),
            UnixAddress::Unnamed | UnixAddress::Path(_) => None,
        }
    }
}

/// A bound socket.
#[derive(Clone)]
pub(super) enum Bound {
    Stream(Weak<UnixStream>),
    Datagram(Weak<UnixDatagram>),
}

/// All names in use.
#[derive(Default)]
pub(super) struct Names {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    sockets: BTreeMap<Key, (u64, Bound)>,
    serial: u64,
}

/// A name that a socket has; given up when dropped.
pub(super) struct NameLease {
    names: Arc<Names>,
    key: Key,
    serial: u64,
    address: UnixAddress,
}

impl NameLease {
    pub fn address(&self) -> &UnixAddress {
        &self.address
    }
}

impl Names {
    /// Binds `socket` to `address`; the unnamed address stands for any free abstract name.
    ///
    /// # Errors
    /// EADDRINUSE; EINVAL for a path that was not followed.
    pub fn bind(self: &Arc<Self>, address: UnixAddress, socket: Bound) -> Result<NameLease, Errno> {
        let mut table = self.table.lock();
        let address = match address {
            UnixAddress::Unnamed => {
                let name = |number: u32| UnixAddress::Abstract(format!("{number:05x}").into_bytes());
                let free = |address: &UnixAddress| {
                    Key::of(address).is_some_and(|key| !table.sockets.contains_key(&key))
                };
                (0..0x10_0000).map(name).find(free).ok_or(Errno::NOSPC)?
            }
            address => address,
        };
        let key = Key::of(&address).ok_or(Errno::INVAL)?;
        if table.sockets.contains_key(&key) {
            return Err(Errno::ADDRINUSE);
        }
        table.serial += 1;
        let serial = table.serial;
        table.sockets.insert(key.clone(), (serial, socket));
        Ok(NameLease { names: self.clone(), key, serial, address })
    }

    /// The socket bound to `address`.
    ///
    /// # Errors
    /// ECONNREFUSED when there is none.
    pub fn find(&self, address: &UnixAddress) -> Result<Bound, Errno> {
        let key = Key::of(address).ok_or(Errno::CONNREFUSED)?;
        let table = self.table.lock();
        table.sockets.get(&key).map(|(_, socket)| socket.clone()).ok_or(Errno::CONNREFUSED)
    }
}

impl Drop for NameLease {
    fn drop(&mut self) {
        let mut table = self.names.table.lock();
        if table.sockets.get(&self.key).is_some_and(|(serial, _)| *serial == self.serial) {
            table.sockets.remove(&self.key);
        }
    }
}
