//! A process that is jailed as a worker is and then does what an attacker would, and the warden that starts it.
//!
//! `jail-prisoner warden HOME FILTER ATTACK...` starts one prisoner for each attack and prints, line by line, the attack's
//! name and what came of it. FILTER is `filter` or `none`: without the filter, what is left must stop the attack too.
#![allow(missing_docs, clippy::unwrap_used, reason = "a part of the tests: what goes wrong ends it")]

mod attacks;
mod descriptors;

use std::fs::File;
use std::io::Read;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use jail::{Access, Inherited, Launched, Program, ResourceLimits};
use rustix::fs::{Mode, OFlags};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("warden") => warden(Path::new(&arguments[2]), &arguments[3], &arguments[4..]),
        Some(mode) => prisoner(mode, &arguments),
        None => panic!("see the head of this program"),
    }
}

/// A jailed process and the other end of its socket.
fn start(filter: &str) -> (Launched, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let program = Program {
        path: Path::new("/proc/self/exe"),
        arguments: &["jail-prisoner", filter],
        socket: theirs.into(),
        passed: vec![("zero", File::open("/dev/zero").unwrap().into())],
    };
    (jail::launch(program).unwrap(), ours)
}

/// Hands `directory` over as a node does, with a line of text.
fn tell(launched: &Launched, socket: &UnixStream, line: &str, directory: &Path) {
    let directory: OwnedFd = File::open(directory).unwrap().into();
    let handed = launched.passage.directory(directory.as_fd(), Access::Read).unwrap();
    descriptors::send(socket, line, handed.as_fd());
}

fn warden(home: &Path, filter: &str, attacks: &[String]) {
    let authority = jail::prepare(home);
    println!("authority\t{authority:?}");
    println!("cgroups\t{:?}", jail::cgroups());
    // Somebody to attack: a worker with a secret in its memory, which waits for a line that never comes.
    let (sibling, _socket) = start(filter);
    for attack in attacks {
        let (mut launched, mut socket) = start(filter);
        if attack == "seal" {
            println!("seal\t{}", seal(&launched, &socket, &home.join("staging")));
            continue;
        }
        launched.process.limit(ResourceLimits { memory: 512 << 20, cpus: 1 }).unwrap();
        let line = format!("{attack} {} {}", sibling.process.id(), home.display());
        let own = if attack.starts_with("snapshot-") { "snapshots/mine" } else { "trees/mine" };
        tell(&launched, &socket, &line, &home.join(own));
        let mut outcome = String::new();
        // A process that was stopped says nothing.
        let _ = socket.read_to_string(&mut outcome);
        if outcome.is_empty() {
            let end = launched.process.wait().unwrap();
            outcome = format!("{end}: {}", launched.process.last_words());
        }
        println!("{attack}\t{}", outcome.replace('\n', " | "));
    }
}

/// Has a prisoner write below `directory` and takes that right back, while a file is open and when none is.
fn seal(launched: &Launched, socket: &UnixStream, directory: &Path) -> String {
    let directory: OwnedFd = File::open(directory).unwrap().into();
    let handed = launched.passage.directory(directory.as_fd(), Access::Write).unwrap();
    let ask = |line: &str| {
        descriptors::send(socket, line, handed.as_fd());
        let mut answer = [0; 64];
        let count = rustix::io::read(socket, &mut answer).unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    };
    let sealed = || match launched.passage.seal(handed.as_fd()) {
        Ok(()) => "sealed".to_owned(),
        Err(error) => {
            let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
            attacks::error(source.unwrap())
        }
    };
    assert_eq!(ask("open 0 -"), "open");
    let open = sealed();
    assert_eq!(ask("close 0 -"), "closed");
    let closed = sealed();
    format!(
        "while it is open: {open}, closed: {closed}, opened again: {}, made anew: {}",
        ask("again 0 -"),
        ask("new 0 -")
    )
}

/// The other side of [`seal`].
fn be_sealed(socket: &UnixStream, first: Option<OwnedFd>) {
    let place = first.unwrap();
    let open = |name: &str| {
        let flags = OFlags::RDWR | OFlags::CREATE;
        rustix::fs::openat(&place, name, flags, Mode::RUSR | Mode::WUSR)
    };
    let mut kept = Some(open("memory").unwrap());
    rustix::io::write(socket, b"open").unwrap();
    loop {
        let (line, _) = descriptors::receive(socket);
        let outcome = |opened: Result<OwnedFd, rustix::io::Errno>| match opened {
            Ok(_) => "GOT it".to_owned(),
            Err(errno) => attacks::error(&errno.into()),
        };
        let answer = match line.split(' ').next() {
            Some("close") => {
                kept = None;
                "closed".to_owned()
            }
            Some("again") => outcome(open("memory")),
            Some("new") => outcome(open("loading-set")),
            _ => return drop(kept),
        };
        rustix::io::write(socket, answer.as_bytes()).unwrap();
    }
}

fn prisoner(mode: &str, arguments: &[String]) {
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name).unwrap();
        arguments[at + 1].clone()
    };
    let mut inherited = Inherited::take(&[value("--passed")]).unwrap();
    let socket = UnixStream::from(inherited.socket().unwrap());
    let confinement = value("--jail").parse().unwrap();
    match mode {
        "filter" => jail::enter(confinement).and_then(|()| jail::begin_running()).unwrap(),
        _ => jail::enter_without_filter(confinement).unwrap(),
    }
    let (line, handed) = descriptors::receive(&socket);
    let words: Vec<&str> = line.split(' ').collect();
    let [attack, sibling, home] = words[..] else { return };
    if attack == "open" {
        return be_sealed(&socket, handed);
    }
    let target = attacks::Target { sibling: sibling.parse().unwrap(), home: home.to_owned(), handed };
    let outcome = attacks::run(attack, &target);
    // By write(2): what the standard library sends with is not on the list.
    rustix::io::write(&socket, outcome.as_bytes()).unwrap();
    let _ = socket.shutdown(Shutdown::Both);
}
