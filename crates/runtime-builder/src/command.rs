//! Running the host's tools.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use crate::error::BuildError;

/// Bytes of a failed tool's output that are shown.
const SHOWN: usize = 2000;

/// A tool of the host and the Debian package that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

/// Runs a command to its end and gives what it wrote to standard output; `each_line` sees that as it comes.
pub(crate) fn run(
    tool: Tool,
    command: &mut Command,
    mut each_line: impl FnMut(&str),
) -> Result<String, BuildError> {
    let mut child = start(tool, command)?;
    let errors = collect_errors(&mut child);
    let mut output = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.map_err(failed_to_run(tool))?;
            let line = String::from_utf8_lossy(&line);
            each_line(&line);
            output.push_str(&line);
            output.push('\n');
        }
    }
    finish(tool, command, child, errors, &output)?;
    Ok(output)
}

/// Runs a command and hands its standard output, a stream of bytes, to `consume`.
pub(crate) fn pipe<T>(
    tool: Tool,
    command: &mut Command,
    consume: impl FnOnce(&mut dyn Read) -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let mut child = start(tool, command)?;
    let errors = collect_errors(&mut child);
    let result = match child.stdout.take() {
        Some(mut stdout) => {
            let result = consume(&mut stdout);
            if result.is_ok() {
                // An archive may be padded after its end; the writer must not die of a closed pipe.
                io::copy(&mut stdout, &mut io::sink()).map_err(failed_to_run(tool))?;
            }
            result
        }
        None => Err(failed_to_run(tool)(io::Error::other("it has no standard output"))),
    };
    let ended = finish(tool, command, child, errors, "");
    // What went wrong first is the cause; a tool that was cut off complains as well.
    let value = result?;
    ended.map(|()| value)
}

fn start(tool: Tool, command: &mut Command) -> Result<Child, BuildError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => BuildError::ToolMissing { program: tool.program, package: tool.package },
        _ => failed_to_run(tool)(source),
    })
}

fn failed_to_run(tool: Tool) -> impl FnOnce(io::Error) -> BuildError {
    move |source| BuildError::Run { program: tool.program.to_owned(), source }
}

/// Standard error is read by a thread of its own, since a tool that fills its pipe would wait for ever.
fn collect_errors(child: &mut Child) -> Option<JoinHandle<Vec<u8>>> {
    let mut stderr = child.stderr.take()?;
    Some(thread::spawn(move || {
        let mut bytes = Vec::new();
        // A read error only shortens the message of another error.
        let _ = stderr.read_to_end(&mut bytes);
        bytes
    }))
}

fn finish(
    tool: Tool,
    command: &Command,
    mut child: Child,
    errors: Option<JoinHandle<Vec<u8>>>,
    output: &str,
) -> Result<(), BuildError> {
    let status = child.wait().map_err(failed_to_run(tool))?;
    let errors = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&errors);
    let text = if errors.trim().is_empty() { output.trim() } else { errors.trim() };
    Err(BuildError::Failed {
        program: describe(tool, command),
        status: status_in_words(status),
        output: tail(text),
    })
}

fn describe(tool: Tool, command: &Command) -> String {
    if command.get_program() != tool.program {
        // Started by way of something else: the tool's own name says more than that.
        return tool.program.to_owned();
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let text = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    if text.len() > 200 { format!("{}...", text.chars().take(200).collect::<String>()) } else { text }
}

fn status_in_words(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"))
}

fn tail(text: &str) -> String {
    let mut start = text.len().saturating_sub(SHOWN);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..).unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Tool = Tool { program: "sh", package: "dash" };

    #[test]
    fn output_comes_line_by_line() {
        let mut lines = Vec::new();
        let output =
            run(SHELL, Command::new("sh").args(["-c", "echo a; echo b"]), |line| lines.push(line.to_owned()));
        assert_eq!((lines, output.unwrap()), (vec!["a".to_owned(), "b".to_owned()], "a\nb\n".to_owned()));
    }

    #[test]
    fn a_failure_shows_what_the_tool_said() {
        let failed = run(SHELL, Command::new("sh").args(["-c", "echo no such luck >&2; exit 7"]), |_| {});
        let Err(BuildError::Failed { status, output, .. }) = failed else { panic!("{failed:?}") };
        assert_eq!((status.as_str(), output.as_str()), ("exit status 7", "no such luck"));
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let tool = Tool { program: "no-such-tool", package: "some-package" };
        let failed = run(tool, &mut Command::new(tool.program), |_| {});
        assert!(failed.unwrap_err().to_string().contains("apt-get install some-package"));
    }

    #[test]
    fn a_reader_that_stops_early_is_the_error_that_counts() {
        let mut endless = Command::new("sh");
        endless.args(["-c", "while :; do echo x || exit 9; done"]);
        let failed = pipe(SHELL, &mut endless, |stream| {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            Err::<(), _>(BuildError::Requirement("mine".to_owned()))
        });
        assert!(matches!(failed, Err(BuildError::Requirement(_))), "{failed:?}");
    }
}
