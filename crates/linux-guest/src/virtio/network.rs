//! The network card (virtio 1.2, 5.1): frames between the guest and a packet socket (or a tap device), each packet of which is one.
//!
//! No offloads: every frame is whole and its sums are right. A frame that the socket has no room for is lost, as on any wire.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{Errno, read, write};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU};
use virtio_queue::{Queue, QueueT};

use super::{Broken, Device, Memory};

/// Bytes before each frame (virtio 1.2, 5.1.6): nothing is offloaded, so all are zero but the number of buffers.
const HEAD: usize = 12;
/// Where in the head the number of a received frame's buffers is: one.
const BUFFERS: usize = 10;
/// The most bytes that a frame carries, and with its own head.
const MTU: u16 = 1500;
const LONGEST: usize = MTU as usize + 14;

const RECEIVE: usize = 0;
const SEND: usize = 1;

/// A network card: where its frames go.
#[derive(Debug)]
pub struct Card {
    /// A packet socket, or a tap device, that never waits.
    pub link: OwnedFd,
    /// The card's address.
    pub address: [u8; 6],
}

/// The device.
pub(crate) struct Network {
    link: OwnedFd,
    address: [u8; 6],
}

impl Network {
    /// Makes one; `events` tells whoever waits that there is a frame.
    pub fn new(card: Card, events: &OwnedFd) -> io::Result<Self> {
        let Card { link, address } = card;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(events, &link, EventData::new_u64(0), flags)?;
        Ok(Self { link, address })
    }

    /// Takes what the guest sends.
    fn send(&self, memory: &Memory, queue: &mut Queue) -> Result<bool, Broken> {
        let mut used = false;
        while let Some(chain) = queue.pop_descriptor_chain(memory) {
            let head = chain.head_index();
            let mut reader = chain.reader(memory)?;
            let length = reader.available_bytes();
            // Longer or shorter than any frame: nothing that the driver was told it may send.
            if (HEAD + 1..=HEAD + LONGEST).contains(&length) {
                let mut bytes = vec![0; length];
                reader.read_exact(&mut bytes)?;
                let _ = write(&self.link, bytes.get(HEAD..).unwrap_or_default());
            }
            queue.add_used(memory, head, 0)?;
            used = true;
        }
        Ok(used)
    }

    /// Gives the guest what has come, as long as it has buffers.
    fn receive(&self, memory: &Memory, queue: &mut Queue) -> Result<bool, Broken> {
        let mut used = false;
        // A byte more than there is room for, so that a longer one is noticed.
        let mut bytes = [0; HEAD + LONGEST + 1];
        if let Some(count) = bytes.get_mut(BUFFERS) {
            *count = 1;
        }
        while let Some(chain) = queue.pop_descriptor_chain(memory) {
            let head = chain.head_index();
            let mut writer = chain.writer(memory)?;
            if writer.available_bytes() < HEAD + LONGEST {
                return Err(Broken("a receive buffer without room for a frame".to_owned()));
            }
            let length = match self.next(bytes.get_mut(HEAD..).unwrap_or_default()) {
                Some(length) => HEAD + length,
                None => {
                    queue.set_next_avail(queue.next_avail().wrapping_sub(1));
                    break;
                }
            };
            writer.write_all(bytes.get(..length).unwrap_or_default())?;
            queue.add_used(memory, head, length as u32)?;
            used = true;
        }
        Ok(used)
    }

    /// The next frame's length; `None` when there is none, or nobody at the other end.
    fn next(&self, bytes: &mut [u8]) -> Option<usize> {
        loop {
            match read(&self.link, &mut *bytes) {
                Ok(0) => return None,
                Ok(length) if length <= LONGEST => return Some(length),
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}

impl Device for Network {
    fn kind(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MTU
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256]
    }

    fn configuration(&self) -> Vec<u8> {
        // The address, a status and a number of queue pairs that are not offered, the MTU.
        [&self.address[..], &[0; 4], &MTU.to_le_bytes()].concat()
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], index: usize) -> Result<bool, Broken> {
        let Some(queue) = queues.get_mut(index) else { return Ok(false) };
        let used = match index {
            RECEIVE => self.receive(memory, queue)?,
            SEND => self.send(memory, queue)?,
            _ => false,
        };
        Ok(used && queue.needs_notification(memory)?)
    }

    fn poll(&mut self, memory: &Memory, queues: &mut [Queue]) -> Result<bool, Broken> {
        self.serve(memory, queues, RECEIVE)
    }
}
