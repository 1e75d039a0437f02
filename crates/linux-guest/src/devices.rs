//! All devices of a machine, found by address.

use std::io::Write;

use guest_memory::MemoryView;
use machine::{FurnishedVm, Interrupt};
use serde::{Deserialize, Serialize};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, SerialState, Trigger};

use crate::error::LinuxGuestError;
use crate::layout;
use crate::virtio::{Device, MmioDevice, MmioState};

/// The keyboard controller's ports, and the command that resets the processor.
const KEYBOARD_COMMAND: u16 = 0x64;
const RESET: u8 = 0xfe;

/// An interrupt line for `vm-superio`.
pub(crate) struct Line(Interrupt);

impl Trigger for Line {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.raise();
        Ok(())
    }
}

/// Where what the guest writes to its serial port goes.
pub(crate) type Console = Box<dyn Write + Send>;

/// The devices.
pub(crate) struct Devices {
    serial: Serial<Line, NoEvents, Console>,
    virtio: Vec<MmioDevice>,
    /// The guest asked for a reset.
    pub reset: bool,
}

/// The devices' state in a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DevicesState {
    serial: SavedSerial,
    virtio: Vec<MmioState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedSerial {
    registers: [u8; 9],
    input: Vec<u8>,
}

impl SavedSerial {
    fn of(state: SerialState) -> Self {
        let registers = [
            state.baud_divisor_low,
            state.baud_divisor_high,
            state.interrupt_enable,
            state.interrupt_identification,
            state.line_control,
            state.line_status,
            state.modem_control,
            state.modem_status,
            state.scratch,
        ];
        Self { registers, input: state.in_buffer }
    }

    fn state(&self) -> SerialState {
        let [
            low,
            high,
            enable,
            identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
        ] = self.registers;
        SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer: self.input.clone(),
        }
    }
}

impl Devices {
    /// Connects `virtio` devices in this order, and the serial port; they go on from what was saved, if anything was.
    pub fn new(
        vm: &FurnishedVm,
        memory: &MemoryView,
        console: Console,
        virtio: Vec<Box<dyn Device>>,
        saved: Option<&DevicesState>,
    ) -> Result<Self, LinuxGuestError> {
        let most = layout::VIRTIO_DEVICES;
        if virtio.len() > most {
            let value = virtio.len() as u64;
            return Err(LinuxGuestError::Size { what: "the number of devices", range: "at most 19", value });
        }
        if let Some(saved) = saved.filter(|saved| saved.virtio.len() != virtio.len()) {
            let (before, here) = (saved.virtio.len(), virtio.len());
            let reason = format!("there were {before} devices, here are {here}");
            return Err(LinuxGuestError::DeviceState { device: before.min(here), reason });
        }
        let line = Line(vm.interrupt(layout::SERIAL_INTERRUPT)?);
        let serial = match saved {
            None => Serial::new(line, console),
            Some(saved) => Serial::from_state(&saved.serial.state(), line, NoEvents, console)
                .map_err(|error| LinuxGuestError::SerialState { reason: format!("{error:?}") })?,
        };
        let mut devices = Vec::new();
        for (number, device) in virtio.into_iter().enumerate() {
            let interrupt = vm.interrupt(layout::VIRTIO_INTERRUPT + number as u32)?;
            let mut connected = MmioDevice::new(device, memory.clone(), interrupt)
                .map_err(|broken| LinuxGuestError::DeviceState { device: number, reason: broken.0 })?;
            if let Some(state) = saved.and_then(|saved| saved.virtio.get(number)) {
                connected.restore(number, state)?;
            }
            devices.push(connected);
        }
        Ok(Self { serial, virtio: devices, reset: false })
    }

    pub fn virtio_count(&self) -> usize {
        self.virtio.len()
    }

    pub fn port_read(&mut self, port: u16, data: &mut [u8]) {
        if let (Some(offset), [byte]) = (serial_offset(port), &mut *data) {
            *byte = self.serial.read(offset);
        } else if port == KEYBOARD_COMMAND {
            // Its buffers are empty: a command may be written.
            data.fill(0);
        }
    }

    pub fn port_write(&mut self, port: u16, data: &[u8]) {
        match data {
            [byte] if serial_offset(port).is_some() => {
                let offset = serial_offset(port).unwrap_or_default();
                // Fails when the console does; a guest's messages are not worth its life.
                let _ = self.serial.write(offset, *byte);
            }
            [RESET] if port == KEYBOARD_COMMAND => self.reset = true,
            _ => {}
        }
    }

    pub fn memory_read(&mut self, address: u64, data: &mut [u8]) {
        if let Some((device, offset)) = self.find(address) {
            device.read(offset, data);
        }
    }

    pub fn memory_write(&mut self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device.write(offset, data);
        }
    }

    fn find(&mut self, address: u64) -> Option<(&mut MmioDevice, u64)> {
        let offset = address.checked_sub(layout::VIRTIO)?;
        let device = self.virtio.get_mut(usize::try_from(offset / layout::VIRTIO_SIZE).ok()?)?;
        Some((device, offset % layout::VIRTIO_SIZE))
    }

    /// Something may have happened on the host's side of a device.
    pub fn poll(&mut self) {
        for device in &mut self.virtio {
            device.poll();
        }
    }

    /// The state, with nothing under way.
    pub fn save(&mut self) -> DevicesState {
        DevicesState {
            serial: SavedSerial::of(self.serial.state()),
            virtio: self.virtio.iter_mut().map(MmioDevice::save).collect(),
        }
    }
}

fn serial_offset(port: u16) -> Option<u8> {
    port.checked_sub(layout::SERIAL_PORT).filter(|offset| *offset < 8).map(|offset| offset as u8)
}
