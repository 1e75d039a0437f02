//! The threads of a machine: one drives each processor, one more waits for the host's side of the devices.

use std::os::fd::OwnedFd;

use machine::{Bus, SystemExit, SystemVcpu};
use rustix::event::epoll::{self, Event, EventData, EventFlags};

use super::{End, Shared, Wish};

/// A processor's accesses, passed to the devices.
struct Port<'a>(&'a Shared);

impl Bus for Port<'_> {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        self.0.devices.lock().port_read(port, data);
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        let reset = {
            let mut devices = self.0.devices.lock();
            devices.port_write(port, data);
            devices.reset
        };
        if reset {
            self.0.make(Wish::End(End::Reset));
        }
    }

    fn memory_read(&mut self, address: u64, data: &mut [u8]) {
        self.0.devices.lock().memory_read(address, data);
    }

    fn memory_write(&mut self, address: u64, data: &[u8]) {
        self.0.devices.lock().memory_write(address, data);
    }
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Runs a processor until the guest ends.
pub(super) fn drive(shared: &Shared, number: usize, mut processor: SystemVcpu) {
    let attached = processor.attach();
    // A wish from before the thread could be kicked.
    let mut go_on = heed(shared, number, &processor);
    while go_on {
        match processor.run(&mut Port(shared)) {
            SystemExit::Served => {
                shared.first_exit.get_or_init(monotonic_ns);
            }
            SystemExit::Interrupted => go_on = heed(shared, number, &processor),
            SystemExit::Dead(reason) => {
                shared.make(Wish::End(End::Broken(reason)));
                go_on = false;
            }
        }
    }
    drop(attached);
    shared.control.lock().running -= 1;
    shared.changed.notify_all();
}

/// Does what is wished for: rests while it is a pause. False when it is the end.
fn heed(shared: &Shared, number: usize, processor: &SystemVcpu) -> bool {
    let mut control = shared.control.lock();
    if control.wish == Wish::Pause {
        let state = processor.save().map_err(|error| error.to_string());
        if let Some(place) = control.resting.get_mut(number) {
            *place = Some(state);
        }
        shared.changed.notify_all();
        while control.wish == Wish::Pause {
            shared.changed.wait(&mut control);
        }
        if let Some(place) = control.resting.get_mut(number) {
            *place = None;
        }
    }
    control.wish == Wish::Run
}

/// Tells the devices when something happens on the host's side, until the guest ends.
pub(super) fn watch(shared: &Shared, events: &OwnedFd) {
    loop {
        let mut buffer: [Event; 16] =
            std::array::from_fn(|_| Event { flags: EventFlags::empty(), data: EventData::new_u64(0) });
        match epoll::wait(events, &mut buffer[..], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => shared.make(Wish::End(End::Broken(format!("waiting for events failed: {errno}")))),
        }
        let _ = rustix::io::read(&shared.wake, &mut [0; 8][..]);
        let mut control = shared.control.lock();
        while control.wish == Wish::Pause {
            shared.changed.wait(&mut control);
        }
        if control.wish != Wish::Run {
            return;
        }
        // With the control held: nothing changes in memory once a pause has been wished for and the processors rest.
        shared.devices.lock().poll();
    }
}
