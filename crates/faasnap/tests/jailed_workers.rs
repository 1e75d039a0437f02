//! A worker that runs a function, looked at from outside: it is in its jail.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn prepared(variable: &str) -> PathBuf {
    std::env::var_os(variable).expect("run `cargo xtask test`, which prepares runtimes and examples").into()
}

/// `faasnap invoke` of a function that waits, ended with this value.
struct Invocation(Child);

impl Drop for Invocation {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn faasnap(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faasnap"));
    command.args(arguments).env("FAASNAP_HOME", home).env("SECRET", "of the node");
    command
}

/// The process that is a child of `parent`, once it has three filters: two of its start-up, one of its running phase.
fn jailed_child(parent: u32) -> PathBuf {
    loop {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        for child in children.split_whitespace() {
            let folder = PathBuf::from("/proc").join(child);
            let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
            if status.contains("Seccomp_filters:\t3") {
                return folder;
            }
        }
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_worker_at_work_is_in_its_jail() {
    let folder = tempfile::tempdir().unwrap();
    let (home, code) = (folder.path().join("home"), folder.path().join("code"));
    assert!(faasnap(&home, &["function", "list"]).stdout(Stdio::null()).status().unwrap().success());
    let runtime = prepared("FAASNAP_TEST_HOME").join("runtimes/python3.11");
    let copied = Command::new("cp").arg("-al").arg(runtime).arg(home.join("runtimes")).status().unwrap();
    assert!(copied.success());
    fs::create_dir(&code).unwrap();
    fs::write(code.join("app.py"), "import time\ndef handler(event, context): time.sleep(30)\n").unwrap();
    let code = code.to_str().unwrap();
    let create = ["function", "create", "waits", "--runtime", "python3.11", "--handler", "app.handler"];
    let created = faasnap(&home, &[&create[..], &["--timeout", "30", "--code", code]].concat()).output();
    assert!(created.unwrap().status.success());
    let invocation = Invocation(faasnap(&home, &["invoke", "waits"]).stdout(Stdio::null()).spawn().unwrap());
    let worker = jailed_child(invocation.0.id());

    let status = fs::read_to_string(worker.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
    if rustix::process::geteuid().is_root() {
        let number: u32 = worker.file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert_eq!(field("Uid"), (0x7000_0000 + number).to_string());
    }
    for namespace in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |process: &Path| fs::read_link(process.join("ns").join(namespace)).unwrap();
        assert_ne!(of(&worker), of(Path::new("/proc/self")), "{namespace}");
    }
    let environment = fs::read(worker.join("environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("of the node"));
    let root: Vec<_> =
        fs::read_dir(worker.join("root")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(root, ["proc"]);
}

/// A home with two functions that wait, each with a snapshot; the other one's secret is in its environment.
fn two_functions(folder: &Path) -> PathBuf {
    let (home, code) = (folder.join("home"), folder.join("code"));
    let good = |arguments: &[&str]| {
        let output = faasnap(&home, arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    good(&["function", "list"]);
    let runtime = prepared("FAASNAP_TEST_HOME").join("runtimes/python3.11");
    let copied = Command::new("cp").arg("-al").arg(runtime).arg(home.join("runtimes")).status().unwrap();
    assert!(copied.success());
    fs::create_dir(&code).unwrap();
    fs::write(code.join("app.py"), "import time\ndef handler(event, context): time.sleep(30)\n").unwrap();
    let code = code.to_str().unwrap();
    for (name, secret) in [("mine", "WHOSE=mine"), ("other", "WHOSE=another-function")] {
        good(&[
            "function",
            "create",
            name,
            "--runtime",
            "python3.11",
            "--handler",
            "app.handler",
            "--timeout",
            "30",
            "--env",
            secret,
            "--code",
            code,
        ]);
        good(&["snapshot", "create", name]);
    }
    home
}

fn lines(process: &Path, file: &str) -> Vec<String> {
    fs::read_to_string(process.join(file)).unwrap().lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_restored_worker_holds_nothing_of_another_function_and_ends_with_its_node() {
    if !rustix::process::geteuid().is_root() {
        // A worker can't be traced by its own user either: nobody but root may look.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let home = two_functions(folder.path());
    let start =
        |name: &str| Invocation(faasnap(&home, &["invoke", name]).stdout(Stdio::null()).spawn().unwrap());
    let (other, mut mine) = (start("other"), start("mine"));
    let worker = jailed_child(mine.0.id());
    let _others = jailed_child(other.0.id());

    // Paths below a handed directory begin at that directory: a way to another one would have a name above it.
    let mut sockets = 0;
    for entry in fs::read_dir(worker.join("fd")).unwrap() {
        let entry = entry.unwrap();
        // One that was closed in between is none.
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let link = link.to_string_lossy().into_owned();
        sockets += usize::from(link.starts_with("socket:"));
        let strange = ["home", "other", "registry", "node", "trees", "snapshots", "runtimes"];
        let is_path = link.starts_with('/');
        assert!(!(is_path && strange.iter().any(|word| link.contains(word))), "{link}");
    }
    assert_eq!(sockets, 1, "the one to its node");
    let environment = fs::read(worker.join("environ")).unwrap();
    assert!(environment.is_empty() || environment.starts_with(b"RUST_BACKTRACE="), "{environment:?}");
    for table in ["net/tcp", "net/tcp6", "net/udp", "net/unix", "net/route"] {
        assert!(lines(&worker, table).len() <= 1, "{table} has at most a heading");
    }
    let mounts = lines(&worker, "mountinfo");
    assert_eq!(mounts.len(), 2, "its root and its own /proc/self: {mounts:?}");
    let limits = lines(&worker, "limits").join("\n");
    for limit in [
        "Max core file size        0 ",
        "Max locked memory         0 ",
        "Max processes             1280 ",
        "Max open files            4096 ",
    ] {
        assert!(limits.contains(limit), "{limits}");
    }
    let status = lines(&worker, "status").join("\n");
    let number = worker.file_name().unwrap().to_str().unwrap();
    assert!(
        status.contains(&format!("NSpid:\t{number}\t1\n")),
        "first of a pid namespace of its own: {status}"
    );
    let groups = lines(&worker, "cgroup").join("\n");
    let limited = !matches!(jail::cgroups(), jail::Cgroups::Unavailable { .. });
    assert_eq!(groups.contains("/faasnap-worker-"), limited, "{groups}");

    mine.0.kill().unwrap();
    mine.0.wait().unwrap();
    // Its socket is closed now. A worker that stays hangs the test, which is how it fails.
    while fs::read_to_string(worker.join("status")).is_ok_and(|status| !status.contains("State:\tZ")) {
        std::thread::yield_now();
    }
}
