//! The emulated host: what it boots, and running it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use initramfs::Archive;
use rustix::process::{Pid, Signal, kill_process};

use crate::debian::{self, Kernel};
use crate::error::RigError;
use crate::report::Report;

/// Modules of the emulated host: its disk, hardware KVM, network namespaces' devices.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "kvm-amd", "tun"];

/// What the second disk gives at most: 320 reads and 20 MiB a second. Python that has run before takes 18 times as long here as on the
/// processor that this one is emulated on, so it stands for a volume of 5,800 reads and 360 MiB a second: between what an EBS gp3 has
/// unless more is paid for (3,000 and 125 MiB) and what it has at most (16,000 and 1,000). With the former's share (167 and 7 MiB) an
/// invocation that is recorded runs into the limits of functions, which go by the clock.
pub const SLOW_DISK: &str = "throttling.iops-read=320,throttling.bps-read=20971520";

/// The emulated processor. Five-level paging makes each walk of tables longer. With `erms` kernels copy and clear a byte at a
/// time, which a processor does in microcode and the emulation one by one: a page read from the page cache took four times as long.
const CPU: &str = "max,-la57,-erms,-fsrm";

/// After this long without a line of the emulated host it is taken for dead. Its script gives a sign of life every ten seconds, the
/// first one before it mounts its disk; QEMU itself falls silent now and then.
const SILENCE: Duration = Duration::from_secs(90);

/// Memory of the emulated host.
const MEMORY: &str = "3072";

/// Makes the archive that the kernel starts with: it loads the modules and goes on to the disk.
pub(crate) fn initramfs(folder: &Path, kernel: &Kernel) -> Result<PathBuf, RigError> {
    let mut archive = Archive::new();
    for directory in ["bin", "dev", "proc", "sys", "modules", "disk"] {
        archive.directory(directory)?;
    }
    let busybox = debian::busybox(folder)?;
    let content = fs::read(&busybox).map_err(RigError::file("reading", &busybox))?;
    archive.file("bin/busybox", 0o755, &content)?;
    archive.file("init", 0o755, include_bytes!("init.sh"))?;
    for (number, module) in initramfs::load_order(&kernel.modules, &MODULES)?.iter().enumerate() {
        archive.file(&format!("modules/{number:02}-{}.ko", module.name), 0o644, &module.content)?;
    }
    let path = folder.join("initramfs");
    fs::write(&path, archive.finish()).map_err(RigError::file("writing", &path))?;
    Ok(path)
}

/// What is booted.
pub(crate) struct Boot<'a> {
    pub kernel: &'a Kernel,
    pub initrd: &'a Path,
    pub disk: &'a Path,
    pub slow_disk: &'a Path,
    /// Where all that it says is written to.
    pub log: &'a Path,
    /// After this long it is ended.
    pub limit: Duration,
}

/// Boots it and shows what it says until it ends, or until it has said nothing for [`SILENCE`].
pub(crate) fn run(boot: &Boot<'_>, show: &mut dyn FnMut(&str)) -> Result<Report, RigError> {
    let Boot { kernel, initrd, disk, slow_disk, log, limit } = *boot;
    let mut qemu = emulator(kernel, initrd, disk, slow_disk, log, limit);
    let status = |child: &mut Child| child.wait().map_err(RigError::start("QEMU"));
    let mut child = qemu.stdout(Stdio::piped()).spawn().map_err(RigError::start("QEMU"))?;
    let mut file = File::create(log).map_err(RigError::file("creating", log))?;
    let mut report = Report::default();
    let lines = child.stdout.take().map(lines);
    let heard = lines.map_or(Ok(Heard::End), |lines| {
        hear(&lines, SILENCE, |line| {
            writeln!(file, "{line}").map_err(RigError::file("writing", log))?;
            report.line(line, show)
        })
    });
    if !matches!(heard, Ok(Heard::End)) {
        end(&child);
    }
    if let Heard::Silence = heard? {
        status(&mut child)?;
        report.fell_silent(SILENCE);
        return Ok(report);
    }
    let status = status(&mut child)?;
    match status.code() {
        Some(0) => Ok(report),
        Some(124) => Err(RigError::Late { minutes: limit.as_secs() / 60, log: log.to_owned() }),
        _ => Err(RigError::Emulator { status, log: log.to_owned() }),
    }
}

/// The lines that the emulator says, read by a thread of their own.
fn lines(output: ChildStdout) -> Receiver<Vec<u8>> {
    let (say, lines) = channel();
    thread::spawn(move || {
        // A read error is an end, too; nobody listens when the run is over.
        BufReader::new(output).split(b'\n').map_while(Result::ok).all(|line| say.send(line).is_ok())
    });
    lines
}

/// Why there are no more lines.
#[derive(PartialEq, Eq, Debug)]
enum Heard {
    End,
    Silence,
}

/// Hands on each line, until their end or until none has come for so long.
fn hear(
    lines: &Receiver<Vec<u8>>,
    silence: Duration,
    mut each: impl FnMut(&str) -> Result<(), RigError>,
) -> Result<Heard, RigError> {
    loop {
        match lines.recv_timeout(silence) {
            Ok(line) => each(String::from_utf8_lossy(&line).trim_end_matches('\r'))?,
            Err(RecvTimeoutError::Timeout) => return Ok(Heard::Silence),
            Err(RecvTimeoutError::Disconnected) => return Ok(Heard::End),
        }
    }
}

/// Ends the emulator by way of `timeout`, which is the child: it hands the signal on, and kills what does not heed it.
fn end(child: &Child) {
    // It fails when the child has just ended by itself.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
}

fn emulator(
    kernel: &Kernel,
    initrd: &Path,
    disk: &Path,
    slow_disk: &Path,
    log: &Path,
    limit: Duration,
) -> Command {
    let mut qemu = Command::new("timeout");
    qemu.args(["--foreground", "--kill-after=5", &limit.as_secs().to_string()]);
    // One CPU: with two, on a thread each, emulated kernels panicked or fell silent now and then; with two on one thread, QEMU
    // itself did (7.2: its loop runs neither CPU, one with an interrupt pending inside its guest). A second one gains no time.
    qemu.args(["nice", "-n", "10", "qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", CPU]);
    qemu.args(["-m", MEMORY, "-smp", "1", "-M", "q35", "-no-reboot", "-nodefaults"]);
    qemu.args(["-display", "none", "-serial", "stdio"]);
    // What is on the disk is made anew each time: a crash of the real machine may lose it.
    qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()));
    let slow = format!("file={},format=raw,if=virtio,cache=unsafe,{SLOW_DISK}", slow_disk.display());
    qemu.arg("-drive").arg(slow);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
    qemu.args(["-append", "console=ttyS0 quiet loglevel=2 panic=-1 mitigations=off"]);
    // For whoever wants to know what the machine does: `socat - UNIX:.../monitor`. A socket's name has 107 bytes at most.
    let monitor = log.with_file_name("monitor");
    if monitor.as_os_str().len() < 108 {
        qemu.arg("-monitor").arg(format!("unix:{},server=on,wait=off", monitor.display()));
    }
    qemu.stdin(Stdio::null());
    qemu
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emulated(script: &str) -> (Child, Receiver<Vec<u8>>) {
        let mut timeout = Command::new("timeout");
        timeout.args(["--foreground", "--kill-after=1", "60", "sh", "-c", script]);
        let mut child = timeout.stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines(child.stdout.take().unwrap());
        (child, lines)
    }

    #[test]
    fn what_falls_silent_is_ended() {
        // It does not heed the first signal.
        let (mut child, lines) = emulated("trap '' TERM; echo a; printf 'b\\r\\n'; exec sleep 50");
        let mut said = Vec::new();
        let heard = hear(&lines, Duration::from_millis(500), |line| {
            said.push(line.to_owned());
            Ok(())
        });
        assert_eq!(heard.unwrap(), Heard::Silence);
        assert_eq!(said, ["a", "b"]);
        assert!(child.try_wait().unwrap().is_none());
        end(&child);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn what_ends_by_itself_is_heard_to_its_end() {
        let (mut child, lines) = emulated("echo a; exit 3");
        let mut count = 0;
        let heard = hear(&lines, Duration::from_secs(60), |_| {
            count += 1;
            Ok(())
        });
        assert_eq!((heard.unwrap(), count, child.wait().unwrap().code()), (Heard::End, 1, Some(3)));
    }
}
