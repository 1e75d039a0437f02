//! The first program in a linux guest.
//!
//! It asks the host over a socket what to run, mounts what that expects, runs it as an ordinary user, passes on what it says
//! and what is said to its served port, reaps whatever loses its parent, and tells the host how it ended. It uses the standard library and the C library's functions only, and is
//! linked statically.

mod freezer;
mod host;
mod network;
mod relay;
mod sockets;
mod system;

use std::process::exit;
use std::thread;
use std::time::Duration;

/// How long the host may take to hear the last word.
const FAREWELL: Duration = Duration::from_secs(30);

fn main() {
    if std::process::id() != 1 {
        eprintln!("this is the first program of a linux guest; it can't be started by hand");
        exit(2);
    }
    if let Err(error) = run() {
        // The console is the serial port, which the host shows when a guest ends unexpectedly.
        eprintln!("init: {error}");
    }
    system::reset();
}

/// What could not be done, and why.
type Failure = String;

fn run() -> Result<(), Failure> {
    system::mount_kernel_files()?;
    system::load_modules()?;
    let mut host = host::Host::connect()?;
    let result = host.take_start().and_then(|start| {
        system::set_up(&start)?;
        host.serve(&start)
    });
    if let Err(failure) = &result {
        host.report(failure);
    }
    system::settle();
    // What was written last is still on its way: the kernel sends it beside us, and a reset takes its connection away. The host ends
    // the machine when it has it.
    thread::sleep(FAREWELL);
    result
}
