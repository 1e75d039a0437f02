//! The guest's network: loopback inside the guest, Unix sockets, and the way out when it is switched on.

mod address;
mod options;
mod socket;

use std::sync::Arc;

pub use address::{Family, SocketAddress, UnixAddress};
pub use options::SocketOptions;
pub use socket::{Credentials, Incoming, Outgoing, ReceiveFlags, Shutdown, Socket, SocketType};

use crate::ipc::Ipc;
use crate::object::RestoreFn;

/// The guest's network.
pub struct Network {
    /// Buffers, timers and inode numbers.
    pub(crate) ipc: Arc<Ipc>,
}

impl Network {
    /// The network of a new process: loopback only.
    pub fn new(ipc: &Arc<Ipc>) -> Arc<Self> {
        Arc::new(Self { ipc: ipc.clone() })
    }
}

/// How the object kinds of this module are restored.
pub fn registry() -> Vec<(&'static str, RestoreFn)> {
    Vec::new()
}
