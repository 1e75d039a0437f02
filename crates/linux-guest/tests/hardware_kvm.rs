//! Debian's unmodified kernel in a microVM. Needs hardware KVM: `cargo xtask test --hardware-kvm` runs these tests in its rig.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use guest_init::wire::Ended;
use linux_guest::{
    Disk, DiskAccess, KernelImage, MODULES, Program, ProgramEnd, ProgramError, Streams, initial_files,
};
use machine::Kvm;

const COMMAND_LINE: &str = "console=ttyS0 quiet reboot=k panic=-1 pci=off";

fn prepared(variable: &str) -> PathBuf {
    std::env::var_os(variable).expect("run `cargo xtask test --hardware-kvm`, which prepares all this").into()
}

/// The kernel and the modules that the rig carries in.
fn kernel() -> (KernelImage, Vec<u8>) {
    let folder = prepared("FAASNAP_TEST_KERNEL");
    let image = KernelImage::new(fs::read(folder.join("image")).unwrap()).unwrap();
    let modules = initramfs::load_order(&folder.join("modules"), &MODULES).unwrap();
    (image, initial_files(&modules).unwrap())
}

/// A disk with the root file system of the Python runtime, made once.
fn root() -> Disk {
    let path = std::env::temp_dir().join("linux-guest-root");
    if !path.exists() {
        let folder = prepared("FAASNAP_TEST_HOME").join("runtimes/python3.11/root");
        let staged = path.with_extension(std::process::id().to_string());
        let mut file = File::create(&staged).unwrap();
        erofs_image::write_image(&folder, &mut file, &staged, [1; 16]).unwrap();
        fs::rename(&staged, &path).unwrap();
    }
    Disk { file: File::open(path).unwrap(), access: DiskAccess::Read }
}

#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Collected {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn program(arguments: &[&str], disks: Vec<Disk>) -> Program {
    let (kernel, initial_files) = kernel();
    Program {
        kernel,
        initial_files,
        command_line: COMMAND_LINE.to_owned(),
        memory_mib: 256,
        processors: 1,
        disks,
        arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        environment: vec![b"PATH=/usr/bin".to_vec(), b"GREETING=hello".to_vec()],
        directory: b"/".to_vec(),
        user: (1000, 1000),
        hostname: b"guest".to_vec(),
    }
}

fn run(
    program: Program,
    input: impl Read + Send + 'static,
) -> (Result<ProgramEnd, ProgramError>, String, String) {
    let (output, error) = (Collected::default(), Collected::default());
    let streams = Streams {
        input: Box::new(input),
        output: Box::new(output.clone()),
        error: Box::new(error.clone()),
        console: Some(Box::new(io::stderr())),
    };
    let end = program.run(&Kvm::open().unwrap(), streams);
    (end, output.text(), error.text())
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_a_program_runs_as_a_user_in_a_linux_of_its_own() {
    let script = "echo \"$GREETING $(hostname 2>/dev/null || cat /proc/sys/kernel/hostname) $(id -u 2>/dev/null)\"; \
                  read line; echo \"got $line\"; echo to-error >&2; touch /tmp/file /file 2>/dev/null; ls / >/dev/null 2>&1; \
                  exit 7";
    let (end, output, error) = run(program(&["/bin/sh", "-c", script], vec![root()]), &b"input\n"[..]);
    let end = end.unwrap();
    assert_eq!(end.ended, Ended::Status(7), "{output}{error}");
    assert!(output.starts_with("hello ") && output.contains("got input\n"), "{output}");
    assert!(error.contains("to-error\n"), "{error}");
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_python_forks_and_sees_a_real_kernel() {
    let code = "import os, subprocess, socket, hashlib\n\
                assert os.uname().sysname == 'Linux' and os.uname().nodename == 'guest', os.uname()\n\
                assert (os.getuid(), os.getgid(), os.getgroups()) == (1000, 1000, []), os.getuid()\n\
                print(subprocess.run(['/bin/sh', '-c', 'echo child'], capture_output=True).stdout.decode().strip())\n\
                listener = socket.create_server(('127.0.0.1', 0))\n\
                near = socket.create_connection(listener.getsockname()); far, _ = listener.accept()\n\
                near.sendall(b'x' * 10); print(far.recv(10).decode())\n\
                open('/tmp/a', 'wb').write(bytes(1 << 20)); print(hashlib.sha256(open('/tmp/a', 'rb').read()).hexdigest()[:8])\n\
                print('y' * 300000)\n";
    let (end, output, error) = run(program(&["python3", "-c", code], vec![root()]), io::empty());
    assert_eq!(end.unwrap().ended, Ended::Status(0), "{error}");
    let mut lines = output.lines();
    // SHA-256 of a MiB of zeros starts with 30e14955.
    assert_eq!(
        (lines.next(), lines.next(), lines.next()),
        (Some("child"), Some("xxxxxxxxxx"), Some("30e14955"))
    );
    assert_eq!(lines.next().map(str::len), Some(300_000));
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_what_can_not_be_run_says_why() {
    let (end, _, _) = run(program(&["/no/such/program"], vec![root()]), io::empty());
    let error = end.unwrap_err().to_string();
    assert!(error.contains("/no/such/program can't be started: No such file"), "{error}");
}
