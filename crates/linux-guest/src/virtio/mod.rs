//! Virtio devices (OASIS Virtual I/O Device version 1.2), reached through memory-mapped registers.

mod balloon;
mod block;
mod entropy;
#[cfg(any(test, feature = "fuzzing"))]
pub mod hostile;
mod mmio;
mod network;
mod vsock;

use std::io;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

pub(crate) use balloon::Balloon;
pub(crate) use block::Block;
pub use block::{Disk, Scratch};
pub(crate) use entropy::Entropy;
pub(crate) use mmio::{MmioDevice, MmioState};
pub use network::Card;
pub(crate) use network::Network;
pub(crate) use vsock::{HostSide, Vsock, stream};

/// Guest memory as devices see it.
pub(crate) type Memory = GuestMemoryMmap<()>;

/// The driver did something that no driver may do. The device stops until it is reset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub String);

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<virtio_queue::Error> for Broken {
    fn from(error: virtio_queue::Error) -> Self {
        Self(error.to_string())
    }
}

/// What is behind the registers of a device.
pub(crate) trait Device: Send {
    /// Its kind (virtio 1.2, 5).
    fn kind(&self) -> u32;
    /// The features that it offers, `VIRTIO_F_VERSION_1` aside.
    fn features(&self) -> u64 {
        0
    }
    /// The largest sizes of its queues.
    fn queue_sizes(&self) -> &'static [u16];
    /// Its configuration space, read-only.
    fn configuration(&self) -> Vec<u8> {
        Vec::new()
    }
    /// The driver has put something into queue `index`. Says whether the driver is to be interrupted.
    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], index: usize) -> Result<bool, Broken>;
    /// Something may have happened on the host's side.
    fn poll(&mut self, _memory: &Memory, _queues: &mut [Queue]) -> Result<bool, Broken> {
        Ok(false)
    }
    /// Brings what is under way to its end, before the device's state is saved. Says whether the driver is to be interrupted.
    fn settle(&mut self, _memory: &Memory, _queues: &mut [Queue]) -> Result<bool, Broken> {
        Ok(false)
    }
    /// Forgets everything, as after being made.
    fn reset(&mut self) {}
}
