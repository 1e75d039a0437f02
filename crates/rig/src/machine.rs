//! The emulated host: what it boots, and running it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use initramfs::Archive;

use crate::debian::{self, Kernel};
use crate::error::RigError;
use crate::report::Report;

/// Modules of the emulated host: its disk, hardware KVM, network namespaces' devices.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "kvm-amd", "tun"];

/// What the second disk gives at most: 320 reads and 20 MiB a second, a fiftieth of what a fast network volume does (an EBS gp3 at
/// its limits: 16,000 and 1,000 MiB). By so much the processor is slower than a real one.
pub const SLOW_DISK: &str = "throttling.iops-read=320,throttling.bps-read=20971520";

/// The emulated processor. Five-level paging makes each walk of tables longer. With `erms` kernels copy and clear a byte at a
/// time, which a processor does in microcode and the emulation one by one: a page read from the page cache took four times as long.
const CPU: &str = "max,-la57,-erms,-fsrm";

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

/// Boots it and shows what it says until it ends.
pub(crate) fn run(boot: &Boot<'_>, show: &mut dyn FnMut(&str)) -> Result<Report, RigError> {
    let Boot { kernel, initrd, disk, slow_disk, log, limit } = *boot;
    let start = |source| RigError::Start { program: "QEMU", source };
    let mut child = emulator(kernel, initrd, disk, slow_disk, log, limit)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let mut file = File::create(log).map_err(RigError::file("creating", log))?;
    let mut report = Report::default();
    for line in child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).split(b'\n')) {
        let line = line.map_err(RigError::file("writing what QEMU says to", log))?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        writeln!(file, "{line}").map_err(RigError::file("writing", log))?;
        report.line(line, show)?;
    }
    let status = child.wait().map_err(start)?;
    match status.code() {
        Some(0) => Ok(report),
        Some(124) => Err(RigError::Late { minutes: limit.as_secs() / 60, log: log.to_owned() }),
        _ => Err(RigError::Emulator { status, log: log.to_owned() }),
    }
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
