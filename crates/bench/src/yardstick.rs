//! The same handler without FaaSnap, for comparison: a plain start of the interpreter for each request, and a process that has
//! imported everything and forks for each request.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use restore::{Phase, Timeline};

use crate::attempt::{Measured, Request};
use crate::catalogue::Subject;
use crate::error::BenchError;

const SCRIPT: &str = include_str!("yardstick.py");
const INTERPRETER: &str = "usr/bin/python3.11";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Why the function's runtime can't be run on the host, if so.
pub(crate) fn obstacle(subject: &Subject) -> Option<String> {
    let root = &subject.function.runtime.path;
    let there = root.join(INTERPRETER).exists();
    (!there).then(|| format!("the runtime of {} has no {INTERPRETER}", subject.name))
}

/// The runtime's own interpreter by the runtime's own dynamic loader, with the function's code, layers and environment.
fn command(subject: &Subject, way: &str) -> Command {
    let function = &subject.function;
    let root = &function.runtime.path;
    let libraries = root.join(LIBRARIES);
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&libraries).arg(root.join(INTERPRETER));
    command.args(["-c", SCRIPT, way, function.function.config.handler.as_str()]);
    let layers = function.layers.as_ref().map(|layers| layers.path.join("python"));
    let packages = root.join("usr/local/lib/python3.11/dist-packages");
    let path = [Some(function.code.path.clone()), layers, Some(packages)];
    let path: Vec<_> = path.into_iter().flatten().map(|folder| folder.display().to_string()).collect();
    command.env_clear().envs(function.environment());
    command.env("PYTHONPATH", path.join(":")).env("PYTHONHOME", root.join("usr"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env_remove("LD_LIBRARY_PATH");
    command.stderr(Stdio::inherit());
    command
}

fn failed(reason: String) -> BenchError {
    BenchError::Program { program: "the function on the host", reason }
}

/// Starts the interpreter for one request.
pub(crate) fn process(request: Request<'_>) -> Result<Measured, BenchError> {
    let mut timeline = Timeline::start();
    let mut command = command(request.subject, "once");
    let output = command.arg(request.input.event.get()).stdin(Stdio::null()).output();
    let total_ns = timeline.now_ns();
    let output = output.map_err(BenchError::io("starting", Path::new(INTERPRETER)))?;
    if !output.status.success() {
        return Err(failed(format!("it ended with {}", output.status)));
    }
    timeline.record(Phase::Answered, 0, total_ns);
    request.check_payload("process", &output.stdout)?;
    Ok(Measured { total_ns, timeline, memory: None })
}

/// A process that forks for each request.
pub(crate) struct ForkServer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl ForkServer {
    /// Starts it and waits until everything is imported.
    pub fn start(subject: &Subject) -> Result<Self, BenchError> {
        let started = command(subject, "serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(BenchError::io("starting", Path::new(INTERPRETER)))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("it has no pipes".to_owned()));
        };
        let mut server = Self { child, input, output: BufReader::new(output) };
        match server.line()?.as_str() {
            "ready\n" => Ok(server),
            other => Err(failed(format!("it said {other:?} first"))),
        }
    }

    pub fn ask(&mut self, request: Request<'_>) -> Result<Measured, BenchError> {
        let event = request.input.event.get().replace('\n', " ");
        let mut timeline = Timeline::start();
        let sent = writeln!(self.input, "{event}").and_then(|()| self.input.flush());
        sent.map_err(|error| failed(error.to_string()))?;
        let answer = self.line()?;
        let total_ns = timeline.now_ns();
        timeline.record(Phase::Answered, 0, total_ns);
        request.check_payload("fork-server", answer.as_bytes())?;
        Ok(Measured { total_ns, timeline, memory: None })
    }

    fn line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).map_err(|error| failed(error.to_string()))?;
        if read == 0 { Err(failed("it ended".to_owned())) } else { Ok(line) }
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
