//! The guest's network: loopback inside the guest, Unix sockets, and the way out when it is switched on.

/// The guest's network.
#[derive(Default)]
pub struct Network {}
