//! The emulated host: what it boots, and running it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::debian::{self, Kernel};
use super::report::Report;
use crate::process::command;

/// Modules of the emulated host: its disk, hardware KVM, network namespaces' devices.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "kvm-amd", "tun"];

/// What the second disk gives at most. Slower ones make restores pass the time that they may take by the clock.
const SLOW: &str = "throttling.iops-read=1000,throttling.bps-read=67108864";

/// Memory of the emulated host.
const MEMORY: &str = "3072";

/// Makes the archive that the kernel starts with: it loads the modules and goes on to the disk.
pub(super) fn initramfs(folder: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let mut archive = initramfs::Archive::new();
    for directory in ["bin", "dev", "proc", "sys", "modules", "disk"] {
        archive.directory(directory)?;
    }
    let busybox = debian::busybox(folder)?;
    let content = fs::read(&busybox).with_context(|| format!("reading {}", busybox.display()))?;
    archive.file("bin/busybox", 0o755, &content)?;
    archive.file("init", 0o755, include_bytes!("init.sh"))?;
    for (number, module) in initramfs::load_order(&kernel.modules, &MODULES)?.iter().enumerate() {
        archive.file(&format!("modules/{number:02}-{}.ko", module.name), 0o644, &module.content)?;
    }
    let path = folder.join("initramfs");
    fs::write(&path, archive.finish()).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Boots it and shows what it says until it ends. Everything is also written to `log`.
pub(super) fn run(
    kernel: &Kernel,
    initrd: &Path,
    disk: &Path,
    slow_disk: &Path,
    log: &Path,
    limit: Duration,
) -> Result<Report> {
    let mut qemu = command("timeout", &["--foreground", "--kill-after=5", &limit.as_secs().to_string()]);
    // One CPU: with two, on a thread each, emulated kernels panicked or fell silent now and then; with two on one thread, QEMU
    // itself did (7.2: its loop runs neither CPU, one with an interrupt pending inside its guest). A second one gains no time.
    qemu.args(["nice", "-n", "10", "qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max,-la57"]);
    qemu.args(["-m", MEMORY, "-smp", "1", "-M", "q35", "-no-reboot", "-nodefaults"]);
    qemu.args(["-display", "none", "-serial", "stdio"]);
    // What is on the disk is made anew each time: a crash of the real machine may lose it.
    qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()));
    // Slow against this machine as a disk is against a processor: it takes some fifty times longer than the real one.
    let slow = format!("file={},format=raw,if=virtio,cache=unsafe,{SLOW}", slow_disk.display());
    qemu.arg("-drive").arg(slow);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
    qemu.args(["-append", "console=ttyS0 quiet loglevel=2 panic=-1 mitigations=off"]);
    // For whoever wants to know what the machine does: `socat - UNIX:target/rig/monitor`.
    qemu.arg("-monitor").arg(format!("unix:{},server=on,wait=off", log.with_file_name("monitor").display()));
    let mut child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting QEMU")?;
    let output = child.stdout.take().context("QEMU has no output")?;
    let mut file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let mut report = Report::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("reading QEMU's output")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        writeln!(file, "{line}").with_context(|| format!("writing {}", log.display()))?;
        report.line(line, &mut std::io::stdout())?;
    }
    let status = child.wait().context("waiting for QEMU")?;
    match status.code() {
        Some(0) => Ok(report),
        Some(124) => bail!(
            "the rig did not end within {} minutes; its log is in {}",
            limit.as_secs() / 60,
            log.display()
        ),
        _ => bail!("QEMU ended with {status}; its log is in {}", log.display()),
    }
}
