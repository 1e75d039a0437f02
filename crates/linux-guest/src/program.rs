//! One program in a guest of its own: booted, run, ended.

use std::io::{self, Read, Write};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use guest_init::wire::{Ended, Kind, Start};
use machine::Kvm;

use crate::guest::{GuestError, Hardware, ReadyGuest};
use crate::kernel::KernelImage;
use crate::session::{Beginning, Line, Session};

/// Input passed on at once.
const PIECE: usize = 32 << 10;

/// What a program reads and writes.
pub struct Streams {
    /// Its standard input.
    pub input: Box<dyn Read + Send>,
    /// Its standard output.
    pub output: Box<dyn Write + Send>,
    /// Its standard error.
    pub error: Box<dyn Write + Send>,
}

/// A program and the machine to run it in.
pub struct Program {
    /// The machine.
    pub hardware: Hardware,
    /// The kernel.
    pub kernel: KernelImage,
    /// Its initial file system, from [`crate::initial_files`].
    pub initial_files: Vec<u8>,
    /// Its command line.
    pub command_line: String,
    /// What the guest runs; time and entropy are filled in.
    pub start: Start,
}

/// How a program ended, and what it took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramEnd {
    /// How.
    pub ended: Ended,
    /// From the call until its end, the machine's making and the kernel's boot included.
    pub took: Duration,
}

impl Program {
    /// Runs it to its end.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn run(self, kvm: &Kvm, streams: Streams) -> Result<ProgramEnd, GuestError> {
        let called = Instant::now();
        let Streams { input, mut output, mut error } = streams;
        let ready = ReadyGuest::new(kvm, self.hardware)?;
        let guest = ready.boot(&self.kernel, &self.initial_files, &self.command_line)?;
        let (line, (ended, when_ended)) = (Line::new(), channel());
        let failed = ended.clone();
        let hear = move |kind, bytes: &[u8]| {
            let shown = match kind {
                Kind::Output => show(&mut output, bytes),
                Kind::Error => show(&mut error, bytes),
                // Nothing else concerns a program.
                _ => Ok(()),
            };
            if let Err(error) = shown {
                // The first end counts, and then the machine is stopped.
                let _ = failed.send(Err(GuestError::Conversation(error)));
            }
        };
        let when = move |end| drop(ended.send(end));
        let session = Session::begin(
            guest,
            line.clone(),
            Beginning::Start(self.start),
            Box::new(hear),
            Box::new(when),
        )?;
        // Not waited for: it may wait for a person.
        thread::spawn(move || pass_input(input, &line));
        let ended =
            when_ended.recv().map_err(|_| GuestError::Conversation(io::ErrorKind::BrokenPipe.into()))?;
        session.stop();
        Ok(ProgramEnd { ended: ended?, took: called.elapsed() })
    }
}

fn show(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).and_then(|()| to.flush())
}

fn pass_input(mut input: Box<dyn Read + Send>, line: &Line) {
    let mut buffer = vec![0; PIECE];
    loop {
        // A read error is an end, too.
        let count = input.read(&mut buffer).unwrap_or(0);
        if !line.input(buffer.get(..count).unwrap_or_default()) || count == 0 {
            return;
        }
    }
}
