//! Hostile code inside a worker's jail: each thing it tries fails, and the test says how. Tried twice: with the system call
//! filter, and without it, so that what stops an attack is not one thing alone.
//!
//! Run as root (as the project's tests are), the same is tried once more as an ordinary user.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// What an attack must come to: without the filter, and with it.
struct Expected {
    attack: &'static str,
    /// Any of these texts, exactly, or as a beginning when it ends with `*`.
    bare: &'static [&'static str],
    /// The number of the system call that the filter stops; `None` when the filter lets it pass to the same end.
    stopped: Option<i64>,
}

const fn by_filter(attack: &'static str, bare: &'static [&'static str], call: i64) -> Expected {
    Expected { attack, bare, stopped: Some(call) }
}

const fn in_any_case(attack: &'static str, bare: &'static [&'static str]) -> Expected {
    Expected { attack, bare, stopped: None }
}

const FILES: &[Expected] = &[
    in_any_case("home", &["ENOENT"]),
    in_any_case("snapshots", &["ENOENT"]),
    in_any_case("host-file", &["ENOENT"]),
    in_any_case("host-binary", &["ENOENT"]),
    in_any_case("device", &["ENOENT"]),
    in_any_case("kvm", &["ENOENT"]),
    in_any_case("root", &["GOT proc"]),
    in_any_case("proc", &["GOT self"]),
    in_any_case("mounts", &["GOT / /proc/self"]),
    // What was handed over can be read: otherwise the rest would prove nothing.
    in_any_case("own-file", &["GOT my own code"]),
    in_any_case("up", &["ENOENT"]),
    in_any_case("up-far", &["ENOENT"]),
    in_any_case("up-is-itself", &["GOT app link"]),
    in_any_case("link-out", &["ENOENT"]),
    in_any_case("write", &["EROFS"]),
    in_any_case("write-again", &["EROFS"]),
    in_any_case("create", &["EROFS"]),
    in_any_case("unlink", &["EROFS"]),
    in_any_case("make-root-writable", &["EROFS", "EACCES"]),
    // Standard input is the socket, output nothing, error a file in memory; a device that was passed; the directory.
    in_any_case("descriptors", &["0=socket 1=/dev/null 2=/memfd 3=/dev/zero 4=/"]),
    by_filter("by-handle", &["EPERM"], libc::SYS_open_by_handle_at),
    by_filter("mount", &["EPERM"], libc::SYS_mount),
    by_filter("mount-proc", &["EPERM"], libc::SYS_fsopen),
    by_filter("remount-handed", &["EPERM"], libc::SYS_open_tree),
    by_filter("umount", &["EPERM"], libc::SYS_umount2),
    by_filter("chroot", &["EPERM"], libc::SYS_chroot),
];

/// With the snapshot that an instance was restored from, whether it is recorded or not.
const SNAPSHOT: &[Expected] = &[
    in_any_case("snapshot-read", &["GOT my memory"]),
    in_any_case("snapshot-memory", &["EROFS"]),
    in_any_case("snapshot-again", &["EROFS"]),
    in_any_case("snapshot-map", &["EACCES"]),
    in_any_case("snapshot-set", &["EROFS"]),
    in_any_case("snapshot-recording", &["EROFS"]),
    in_any_case("snapshot-outgrown", &["EROFS"]),
    in_any_case("snapshot-rename", &["EROFS"]),
    in_any_case("snapshot-unlink", &["EROFS"]),
    in_any_case("snapshot-folder", &["EROFS"]),
    by_filter("snapshot-truncate", &["EROFS"], libc::SYS_truncate),
    by_filter("snapshot-mode", &["EROFS"], libc::SYS_fchmodat),
    by_filter("snapshot-link", &["EROFS"], libc::SYS_linkat),
    by_filter("snapshot-swap", &["EROFS"], libc::SYS_symlinkat),
    in_any_case("snapshot-of-other", &["ENOENT"]),
    in_any_case("snapshot-set-of-other", &["ENOENT"]),
];

const PROCESSES: &[Expected] = &[
    in_any_case("number", &["1"]),
    in_any_case("other-environment", &["ENOENT"]),
    in_any_case("other-memory-file", &["ENOENT"]),
    in_any_case("own-environment", &["GOT ", "GOT RUST_BACKTRACE=*"]),
    by_filter("ptrace", &["ESRCH"], libc::SYS_ptrace),
    by_filter("read-memory", &["ESRCH"], libc::SYS_process_vm_readv),
    by_filter("kill", &["ESRCH"], libc::SYS_kill),
    by_filter("pidfd", &["ESRCH"], libc::SYS_pidfd_open),
    in_any_case("limits-of-other", &["ESRCH"]),
    by_filter("execute", &["ENOENT"], libc::SYS_execve),
    by_filter("fork-bomb", &["stopped after 1*"], libc::SYS_clone),
    in_any_case("thread-bomb", &["stopped after 1*"]),
    by_filter("executable-memory", &["GOT *"], libc::SYS_mmap),
    by_filter("shared-memory", &["ENOENT"], libc::SYS_shmget),
    by_filter("message-queue", &["ENOENT", "ENOSYS"], libc::SYS_mq_open),
];

const PRIVILEGES: &[Expected] = &[
    by_filter("dumpable", &["0"], libc::SYS_prctl),
    by_filter("unshare-user", &["ENOSPC"], libc::SYS_unshare),
    by_filter("unshare-mount", &["EPERM"], libc::SYS_unshare),
    by_filter("clone-user", &["ENOSPC"], libc::SYS_clone),
    by_filter("setns", &["EPERM"], libc::SYS_setns),
    by_filter("set-user", &["EPERM", "EINVAL"], libc::SYS_setuid),
    by_filter("set-groups", &["EPERM"], libc::SYS_setgroups),
    by_filter("regain-capabilities", &["EPERM"], libc::SYS_capset),
    // Debian's and most other kernels forbid it; one with kernel.unprivileged_bpf_disabled=0 leaves it to the filter alone.
    by_filter("bpf", &["EPERM", "ENOSYS"], libc::SYS_bpf),
    by_filter("perf", &["EPERM", "EACCES", "EINVAL", "ENOSYS", "ENOENT"], libc::SYS_perf_event_open),
    by_filter("keyring", &["GOT 0", "ENOKEY", "ENOSYS"], libc::SYS_keyctl),
    by_filter("find-key", &["ENOKEY", "ENOSYS", "ENOENT"], libc::SYS_request_key),
    // ENOMEM: the limit on locked memory is 0.
    by_filter("io-uring", &["EPERM", "ENOMEM", "ENOSYS"], libc::SYS_io_uring_setup),
    by_filter("module", &["EPERM", "ENOSYS"], libc::SYS_finit_module),
    by_filter("host-name", &["EPERM"], libc::SYS_sethostname),
    by_filter("clock", &["EPERM"], libc::SYS_clock_settime),
    by_filter("reboot", &["EPERM"], libc::SYS_reboot),
    by_filter("kernel-log", &["EPERM"], libc::SYS_syslog),
    by_filter("terminal-input", &["ENOTTY"], libc::SYS_ioctl),
    by_filter("raise-limit", &["EPERM"], libc::SYS_prlimit64),
];

const NETWORK: &[Expected] = &[
    by_filter("node-port", &["ENETUNREACH"], libc::SYS_socket),
    by_filter("metadata-service", &["ENETUNREACH"], libc::SYS_socket),
    by_filter("internet", &["ENETUNREACH"], libc::SYS_socket),
    by_filter("udp", &["ENETUNREACH"], libc::SYS_socket),
    by_filter("raw-socket", &["EPERM"], libc::SYS_socket),
    by_filter("packet-socket", &["EPERM"], libc::SYS_socket),
    by_filter("abstract-socket", &["ECONNREFUSED"], libc::SYS_socket),
    in_any_case("interfaces", &["GOT lo"]),
];

/// A home with a function's code and what belongs to another one.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    fs::create_dir_all(path("trees/mine")).unwrap();
    fs::create_dir_all(path("trees/other")).unwrap();
    for (whose, content) in [("mine", "my memory"), ("other", "another's memory")] {
        let folder = path("snapshots").join(whose);
        fs::create_dir_all(&folder).unwrap();
        for name in ["state", "memory", "loading-set"] {
            fs::write(folder.join(name), content).unwrap();
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    fs::create_dir_all(path("staging")).unwrap();
    // For the owner only, as the store has them: the prisoner must be able to read its own all the same.
    fs::write(path("trees/mine/app"), "my own code").unwrap();
    fs::set_permissions(path("trees/mine/app"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path("trees/other/secret"), "another's secret").unwrap();
    symlink("/etc/passwd", path("trees/mine/link")).unwrap();
    home
}

/// Has each attack done in a process of its own; `user` is who the warden is.
fn outcomes(filter: &str, user: Option<u32>, attacks: &[&str]) -> BTreeMap<String, String> {
    let home = home();
    let mut warden = Command::new(env!("CARGO_BIN_EXE_jail-prisoner"));
    warden.arg("warden").arg(home.path()).arg(filter).args(attacks).env("SECRET", "of the node");
    if let Some(user) = user {
        hand_over(home.path(), user);
        warden.uid(user).gid(user);
    }
    let output = warden.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_once('\t')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

fn hand_over(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            hand_over(&entry.unwrap().path(), user);
        }
    }
}

fn fits(outcome: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(beginning) => outcome.starts_with(beginning),
        None => outcome == wanted,
    }
}

#[track_caller]
fn check(expected: &[Expected], user: Option<u32>) {
    let names: Vec<&str> = expected.iter().map(|each| each.attack).collect();
    let (bare, filtered) = (outcomes("none", user, &names), outcomes("filter", user, &names));
    let mut wrong = Vec::new();
    for Expected { attack, bare: wanted, stopped } in expected {
        let (without, with) = (&bare[*attack], &filtered[*attack]);
        if !wanted.iter().any(|wanted| fits(without, wanted)) {
            wrong.push(format!("{attack}, without the filter: {without}, not {wanted:?}"));
        }
        let right = match stopped {
            Some(call) => {
                with.starts_with("exit status 159: the jail allows no system call")
                    && with.split_whitespace().last() == Some(&call.to_string())
            }
            None => wanted.iter().any(|wanted| fits(with, wanted)),
        };
        if !right {
            wrong.push(format!("{attack}, with the filter: {with}, not {stopped:?} or {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Nobody in particular.
const USER: u32 = 64_123;

#[test]
fn no_file_of_others_or_of_the_machine_is_reached() {
    check(FILES, None);
    if is_root() {
        check(FILES, Some(USER));
    }
}

#[test]
fn no_snapshot_is_changed() {
    check(SNAPSHOT, None);
    if is_root() {
        check(SNAPSHOT, Some(USER));
    }
}

#[test]
fn what_a_worker_wrote_can_be_sealed_against_it() {
    for user in [None, is_root().then_some(USER)] {
        for filter in ["none", "filter"] {
            let outcomes = outcomes(filter, user, &["seal"]);
            let expected = "while it is open: EBUSY, closed: sealed, opened again: EROFS, made anew: EROFS";
            assert_eq!(outcomes["seal"], expected, "{user:?}, {filter}");
        }
    }
}

#[test]
fn no_other_process_is_reached() {
    check(PROCESSES, None);
    if is_root() {
        check(PROCESSES, Some(USER));
    }
}

#[test]
fn no_privilege_is_gained() {
    check(PRIVILEGES, None);
    if is_root() {
        check(PRIVILEGES, Some(USER));
    }
}

#[test]
fn no_network_is_there() {
    // Somebody does listen: the jail's silence is its own.
    let name = SocketAddr::from_abstract_name("faasnap-test-victim").unwrap();
    let _listener = UnixListener::bind_addr(&name).unwrap();
    check(NETWORK, None);
    if is_root() {
        check(NETWORK, Some(USER));
    }
}

#[test]
fn a_worker_has_a_user_of_its_own_and_no_capability() {
    let status = &outcomes("filter", None, &["status"])["status"];
    let none = "0000000000000000";
    for line in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{line}: {none}")), "{status}");
    }
    assert!(status.contains("NoNewPrivs: 1") && status.contains("Seccomp: 2"), "{status}");
    assert!(status.contains("Uid: 0 0 0 0"), "inside it is user 0 of a namespace with one user: {status}");
}

#[test]
fn memory_beyond_the_limit_ends_the_process() {
    // A machine without cgroups has no such limit, and `faasnap doctor` says so.
    for filter in ["none", "filter"] {
        let outcomes = outcomes(filter, None, &["memory-bomb"]);
        if !outcomes["cgroups"].starts_with("Unavailable") {
            assert_eq!(outcomes["memory-bomb"], "signal 9: ");
        }
    }
}

#[test]
fn as_root_the_whole_jail_is_there() {
    if !is_root() {
        return;
    }
    assert_eq!(outcomes("filter", None, &[])["authority"], "Root");
    assert_eq!(outcomes("filter", Some(USER), &[])["authority"], "User");
}
