//! A virtio device's registers in memory (virtio 1.2, 4.2.2).
//!
//! Registers may be written by a hostile driver in any order. What has an order (features before queues before "driver
//! ready") is checked where it matters; a write out of order does nothing.

use guest_memory::MemoryView;
use machine::Interrupt;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_queue::{Queue, QueueState, QueueT};

use super::{Broken, Device};
use crate::error::LinuxGuestError;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"FSNP");
/// Where the device's own configuration begins.
const CONFIGURATION: u64 = 0x100;

/// Why the driver is interrupted: a queue was served, the configuration or the status changed.
const USED: u32 = 1;
const CHANGED: u32 = 2;

const KNOWN_STATUS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_FAILED;

/// A device with its registers.
pub(crate) struct MmioDevice {
    device: Box<dyn Device>,
    memory: MemoryView,
    interrupt: Interrupt,
    queues: Vec<Queue>,
    offered: u64,
    registers: Registers,
}

/// What the driver has written.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    status: u32,
    device_features_page: u32,
    driver_features_page: u32,
    accepted: u64,
    queue: u32,
    interrupts: u32,
}

/// A device's registers and queues in a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MmioState {
    kind: u32,
    registers: Registers,
    queues: Vec<SavedQueue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct SavedQueue {
    size: u16,
    ready: bool,
    next_avail: u16,
    next_used: u16,
    descriptors: u64,
    avail: u64,
    used: u64,
}

impl MmioDevice {
    pub fn new(device: Box<dyn Device>, memory: MemoryView, interrupt: Interrupt) -> Result<Self, Broken> {
        let queues = device.queue_sizes().iter().map(|size| Queue::new(*size)).collect::<Result<_, _>>()?;
        let offered = device.features() | 1 << VIRTIO_F_VERSION_1;
        Ok(Self { device, memory, interrupt, queues, offered, registers: Registers::default() })
    }

    /// A load from the device's page. Registers are read as four aligned bytes, configuration in any piece.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(at) = offset.checked_sub(CONFIGURATION) {
            let configuration = self.device.configuration();
            for (to, index) in data.iter_mut().zip(at as usize..) {
                *to = configuration.get(index).copied().unwrap_or(0);
            }
        } else if data.len() == 4 {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let registers = &self.registers;
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.device.kind(),
            0x0c => VENDOR,
            0x10 => match registers.device_features_page {
                0 => self.offered as u32,
                1 => (self.offered >> 32) as u32,
                _ => 0,
            },
            0x34 => self.selected().map_or(0, |queue| u32::from(queue.max_size())),
            0x44 => self.selected().map_or(0, |queue| u32::from(queue.ready())),
            0x60 => registers.interrupts,
            0x70 => registers.status,
            // There is no shared memory: its length reads as all ones.
            0xb0 | 0xb4 => u32::MAX,
            _ => 0,
        }
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(self.registers.queue as usize)
    }

    /// A store to the device's page.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(bytes);
        match offset {
            0x14 => self.registers.device_features_page = value,
            0x20 => self.accept(value),
            0x24 => self.registers.driver_features_page = value,
            0x30 => self.registers.queue = value,
            0x38 => self.configure(|queue| queue.set_size(value as u16), value <= u32::from(u16::MAX)),
            0x44 => self.enable(value),
            0x50 => self.notify(value as usize),
            0x64 => self.registers.interrupts &= !value,
            0x70 => self.set_status(value),
            0x80 => self.configure(|queue| queue.set_desc_table_address(Some(value), None), true),
            0x84 => self.configure(|queue| queue.set_desc_table_address(None, Some(value)), true),
            0x90 => self.configure(|queue| queue.set_avail_ring_address(Some(value), None), true),
            0x94 => self.configure(|queue| queue.set_avail_ring_address(None, Some(value)), true),
            0xa0 => self.configure(|queue| queue.set_used_ring_address(Some(value), None), true),
            0xa4 => self.configure(|queue| queue.set_used_ring_address(None, Some(value)), true),
            _ => {}
        }
    }

    fn has(&self, status: u32) -> bool {
        self.registers.status & status != 0
    }

    /// Features count until the driver has said that it is through with them.
    fn accept(&mut self, value: u32) {
        if !self.has(VIRTIO_CONFIG_S_DRIVER) || self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        let accepted = self.registers.accepted;
        self.registers.accepted = match self.registers.driver_features_page {
            0 => accepted & !u64::from(u32::MAX) | u64::from(value),
            1 => accepted & u64::from(u32::MAX) | u64::from(value) << 32,
            _ => accepted,
        };
    }

    /// Queues are set up between the features and the driver's start, each until it is enabled.
    fn configure(&mut self, change: impl FnOnce(&mut Queue), possible: bool) {
        let now = self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.has(VIRTIO_CONFIG_S_DRIVER_OK);
        let queue = self.queues.get_mut(self.registers.queue as usize).filter(|queue| !queue.ready());
        if let Some(queue) = queue.filter(|_| now && possible) {
            change(queue);
        }
    }

    fn enable(&mut self, value: u32) {
        let now = self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.has(VIRTIO_CONFIG_S_DRIVER_OK);
        let Some(queue) = self.queues.get_mut(self.registers.queue as usize).filter(|_| now) else { return };
        queue.set_ready(value == 1);
        if value == 1 && !queue.is_valid(&*self.memory) {
            queue.set_ready(false);
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        // Bits are only ever added.
        if value & self.registers.status & KNOWN_STATUS != self.registers.status & KNOWN_STATUS {
            return;
        }
        let mut value = value & KNOWN_STATUS | self.registers.status;
        let added = value & !self.registers.status;
        if added & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            let unknown = self.registers.accepted & !self.offered != 0;
            let modern = self.registers.accepted & 1 << VIRTIO_F_VERSION_1 != 0;
            if unknown || !modern || value & VIRTIO_CONFIG_S_DRIVER == 0 {
                value &= !VIRTIO_CONFIG_S_FEATURES_OK;
            }
        }
        if added & VIRTIO_CONFIG_S_DRIVER_OK != 0 && value & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            value &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        self.registers.status = value;
    }

    fn reset(&mut self) {
        self.device.reset();
        for queue in &mut self.queues {
            queue.reset();
        }
        self.registers = Registers::default();
    }

    /// Whether the driver runs and nothing is wrong.
    fn is_live(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
            && !self.has(VIRTIO_CONFIG_S_NEEDS_RESET)
            && !self.has(VIRTIO_CONFIG_S_FAILED)
    }

    fn notify(&mut self, index: usize) {
        if self.is_live() && self.queues.get(index).is_some_and(QueueT::ready) {
            let result = self.device.serve(&self.memory, &mut self.queues, index);
            self.finish(result);
        }
    }

    /// Something may have happened on the host's side.
    pub fn poll(&mut self) {
        if self.is_live() && self.queues.iter().all(QueueT::ready) {
            let result = self.device.poll(&self.memory, &mut self.queues);
            self.finish(result);
        }
    }

    fn finish(&mut self, result: Result<bool, Broken>) {
        match result {
            Ok(false) => return,
            Ok(true) => self.registers.interrupts |= USED,
            Err(Broken(reason)) => {
                tracing::warn!(kind = self.device.kind(), reason, "a guest's driver broke its device");
                self.registers.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
                self.registers.interrupts |= CHANGED;
            }
        }
        self.interrupt.raise();
    }

    /// The state, with nothing under way.
    pub fn save(&mut self) -> MmioState {
        if self.is_live() {
            let result = self.device.settle(&self.memory, &mut self.queues);
            self.finish(result);
        }
        let queue = |queue: &Queue| {
            let state = queue.state();
            SavedQueue {
                size: state.size,
                ready: state.ready,
                next_avail: state.next_avail,
                next_used: state.next_used,
                descriptors: state.desc_table,
                avail: state.avail_ring,
                used: state.used_ring,
            }
        };
        MmioState {
            kind: self.device.kind(),
            registers: self.registers,
            queues: self.queues.iter().map(queue).collect(),
        }
    }

    /// Takes over what was saved; a device of the same kind must be behind it. The guest is interrupted for what it has not taken
    /// notice of, so its interrupt controllers must have been restored.
    pub fn restore(&mut self, number: usize, state: &MmioState) -> Result<(), LinuxGuestError> {
        let refuse = |reason: String| LinuxGuestError::DeviceState { device: number, reason };
        if state.kind != self.device.kind() {
            return Err(refuse(format!("it is of kind {}, here is kind {}", state.kind, self.device.kind())));
        }
        let settled = state.registers.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if settled && state.registers.accepted & !self.offered != 0 {
            return Err(refuse("it uses features that are not offered here".to_owned()));
        }
        if state.queues.len() != self.queues.len() {
            return Err(refuse(format!(
                "it has {} queues instead of {}",
                state.queues.len(),
                self.queues.len()
            )));
        }
        for (queue, saved) in self.queues.iter_mut().zip(&state.queues) {
            let restored = Queue::try_from(QueueState {
                max_size: queue.max_size(),
                next_avail: saved.next_avail,
                next_used: saved.next_used,
                event_idx_enabled: false,
                size: saved.size,
                ready: saved.ready,
                desc_table: saved.descriptors,
                avail_ring: saved.avail,
                used_ring: saved.used,
            });
            *queue = restored.map_err(|error| refuse(error.to_string()))?;
        }
        self.registers = state.registers;
        if self.registers.interrupts != 0 {
            // Raised before the machine was saved, and maybe not yet with its interrupt controller then, which KVM tells of it
            // later. One too many finds nothing to do.
            self.interrupt.raise();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
