//! The host's side: the connection to it, and the program that it wants.

use std::ffi::{OsString, c_int};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use guest_init::wire::{self, Ended, Kind, Resume, Start};

use crate::relay::Relay;
use crate::{Failure, freezer, sockets, system};

/// Bytes of output in one message at most.
pub(crate) const PIECE: usize = 32 << 10;

/// The connection to the host, for whoever has something to say.
pub(crate) type Writer = Arc<Mutex<File>>;

const SIGKILL: u8 = 9;

unsafe extern "C" {
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn kill(process: c_int, signal: c_int) -> c_int;
}

/// The connection to the host.
pub(crate) struct Host {
    /// Until the program runs: then the thread that listens has it.
    reader: Option<File>,
    writer: Writer,
}

impl Host {
    pub fn connect() -> Result<Self, Failure> {
        let reader = sockets::to_host().map_err(|error| format!("connecting to the host: {error}"))?;
        let writer = reader.try_clone().map_err(|error| format!("the host's socket: {error}"))?;
        Ok(Self { reader: Some(reader), writer: Arc::new(Mutex::new(writer)) })
    }

    pub fn take_start(&mut self) -> Result<Start, Failure> {
        let Some(reader) = &mut self.reader else { return Err("the program runs already".to_owned()) };
        match wire::read(reader) {
            Ok(Some((Kind::Start, body))) => {
                Start::decode(&body).ok_or_else(|| "the host's first message is malformed".to_owned())
            }
            Ok(_) => Err("the host did not say what to run".to_owned()),
            Err(error) => Err(format!("reading from the host: {error}")),
        }
    }

    /// Says what went wrong.
    pub fn report(&self, failure: &str) {
        send(&self.writer, Kind::Failed, failure.as_bytes());
    }

    /// Runs the program and passes on what it says, until it has ended.
    pub fn serve(&mut self, start: &Start) -> Result<(), Failure> {
        let relay = Relay::default();
        if start.served_port != 0 {
            relay.listen(start.served_port, &self.writer)?;
        }
        let mut child = freezer::start_inside(|| spawn(start))??;
        let pid = child.id() as c_int;
        let mut pumps = Vec::new();
        if let Some(output) = child.stdout.take() {
            pumps.push(pump(self.writer.clone(), Kind::Output, output));
        }
        if let Some(error) = child.stderr.take() {
            pumps.push(pump(self.writer.clone(), Kind::Error, error));
        }
        let input = child.stdin.take();
        if let Some(reader) = self.reader.take() {
            let writer = self.writer.clone();
            thread::spawn(move || listen(reader, &writer, &relay, input, pid));
        }
        let mut ended = reap(pid);
        if ended == Ended::Signal(SIGKILL) && freezer::ran_out_of_memory() {
            ended = Ended::OutOfMemory;
        }
        for pump in pumps {
            // What a child of the program still writes is not waited for.
            if pump.is_finished() || ended_soon(&pump) {
                let _ = pump.join();
            }
        }
        send(&self.writer, Kind::Ended, &ended.encode());
        Ok(())
    }
}

/// Freezes the program, gives up the connection and waits for the host to make another, maybe in another machine and at
/// another time. Whoever has something to say to the host waits meanwhile.
fn rest(reader: File, writer: &Mutex<File>) -> Result<File, Failure> {
    freezer::freeze()?;
    let mut writer = writer.lock().map_err(|_| "a thread of init panicked".to_owned())?;
    // Before the connection is closed, by which the host sees that it may take the snapshot.
    let listener = sockets::Listener::new().map_err(|error| format!("listening for the host: {error}"))?;
    drop(reader);
    let nowhere = File::open("/dev/null").map_err(|error| format!("opening /dev/null: {error}"))?;
    drop(std::mem::replace(&mut *writer, nowhere));
    loop {
        let mut stream = listener.accept().map_err(|error| format!("waiting for the host: {error}"))?;
        if let Ok(Some((Kind::Resume, body))) = wire::read(&mut stream)
            && let Some(resume) = Resume::decode(&body)
        {
            system::set_clock(resume.time)?;
            system::add_entropy(&resume.entropy)?;
            *writer = stream.try_clone().map_err(|error| format!("the host's socket: {error}"))?;
            wire::write(&mut *writer, Kind::Resume, &[])
                .map_err(|error| format!("answering the host: {error}"))?;
            freezer::thaw()?;
            return Ok(stream);
        }
    }
}

/// The program has ended: its output follows at once, unless a child of it holds the pipe.
fn ended_soon(pump: &thread::JoinHandle<()>) -> bool {
    for _ in 0..200 {
        if pump.is_finished() {
            return true;
        }
        thread::sleep(std::time::Duration::from_millis(1));
    }
    false
}

fn spawn(start: &Start) -> Result<Child, Failure> {
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let mut arguments = start.arguments.iter().map(|argument| text(argument));
    let Some(program) = arguments.next() else { return Err("there is no program to run".to_owned()) };
    let mut command = Command::new(&program);
    command.args(arguments).env_clear().current_dir(text(&start.directory));
    for pair in &start.environment {
        if let Some(at) = pair.iter().position(|byte| *byte == b'=') {
            let (name, value) = pair.split_at(at);
            command.env(text(name), text(value.get(1..).unwrap_or_default()));
        }
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Run by root, this also leaves every other group.
    command.gid(start.group).uid(start.user);
    command.spawn().map_err(|error| format!("{} can't be started: {error}", program.to_string_lossy()))
}

fn pump(
    writer: Arc<Mutex<File>>,
    kind: Kind,
    mut from: impl Read + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => send(&writer, kind, buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })
}

pub(crate) fn send(writer: &Mutex<File>, kind: Kind, body: &[u8]) {
    if let Ok(mut writer) = writer.lock() {
        // When the host is gone, the machine is about to be.
        let _ = wire::write(&mut *writer, kind, body);
    }
}

/// Does what the host says while the program runs.
fn listen(mut reader: File, writer: &Mutex<File>, relay: &Relay, mut input: Option<ChildStdin>, pid: c_int) {
    while let Ok(Some((kind, body))) = wire::read(&mut reader) {
        match kind {
            Kind::Input if body.is_empty() => input = None,
            Kind::Input => {
                if input.as_mut().is_some_and(|input| input.write_all(&body).is_err()) {
                    input = None;
                }
            }
            Kind::Signal => {
                if let [signal] = body[..] {
                    // SAFETY: two numbers.
                    unsafe { kill(pid, c_int::from(signal)) };
                }
            }
            Kind::Bytes => relay.bytes(&body),
            Kind::Closed => relay.closed(&body),
            Kind::Rest => match rest(reader, writer) {
                Ok(new) => reader = new,
                Err(failure) => {
                    eprintln!("init: {failure}");
                    system::reset();
                }
            },
            _ => return,
        }
    }
}

/// Takes in every process that ends, until the program itself has.
fn reap(program: c_int) -> Ended {
    loop {
        let mut status = 0;
        // SAFETY: a live number to write to.
        let pid = unsafe { waitpid(-1, &raw mut status, 0) };
        if pid == program {
            let status = std::process::ExitStatus::from_raw(status);
            return match (status.code(), status.signal()) {
                (Some(code), _) => Ended::Status(code as u8),
                (None, signal) => Ended::Signal(signal.unwrap_or(SIGKILL.into()) as u8),
            };
        }
        if pid < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Ended::Signal(SIGKILL);
        }
    }
}
