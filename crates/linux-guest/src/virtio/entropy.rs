//! The entropy device (virtio 1.2, 5.4): the guest's buffers are filled with the host's random bytes.

use std::io::Write;

use virtio_queue::{Queue, QueueT};

use super::{Broken, Device, Memory};

/// Bytes given for one buffer at most; a driver that wants more asks again.
const AT_ONCE: usize = 4096;

/// The device.
#[derive(Debug)]
pub(crate) struct Entropy;

impl Device for Entropy {
    fn kind(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], _index: usize) -> Result<bool, Broken> {
        let Some(queue) = queues.first_mut() else { return Ok(false) };
        let mut used = false;
        while let Some(chain) = queue.pop_descriptor_chain(memory) {
            let head = chain.head_index();
            let mut writer = chain.writer(memory)?;
            let mut bytes = vec![0; writer.available_bytes().min(AT_ONCE)];
            let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
            bytes.truncate(filled.unwrap_or(0));
            writer.write_all(&bytes)?;
            queue.add_used(memory, head, bytes.len() as u32)?;
            used = true;
        }
        Ok(used && queue.needs_notification(memory)?)
    }
}
