//! What a guest sees of files: the mount tables of programs and functions.

use std::path::{Path, PathBuf};

use process_kernel::fs::{MountEntry, MountSource, MountTable};

/// Files and directories that a private tree in memory may have.
pub const TMP_INODES: u64 = 65_536;

/// Bytes that an ordinary program's /tmp, /dev/shm and /run may hold, each.
const PROGRAM_TREE_BYTES: u64 = 512 << 20;

/// rwxrwxrwx and the sticky bit: everybody may make files and only their owner may remove them.
const SHARED: u32 = 0o1777;

/// A directory of the host that a program may read and write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostBind {
    /// The host's directory.
    pub source: PathBuf,
    /// Its absolute path in the guest.
    pub target: String,
}

/// A mount of a tree in memory at `at`, with room for `bytes`.
fn memory_tree(at: &str, bytes: u64, mode: u32) -> MountEntry {
    let source = MountSource::Tmpfs { bytes, inodes: TMP_INODES, mode };
    MountEntry { at: at.to_owned(), source, writable: true }
}

/// The trees that every guest has of its own: /proc, /sys, /dev, and /tmp and /dev/shm of `bytes` each.
pub fn private_trees(bytes: u64) -> Vec<MountEntry> {
    let synthetic =
        |at: &str, source| MountEntry { at: at.to_owned(), source, writable: matches!(at, "/dev" | "/proc") };
    vec![
        synthetic("/proc", MountSource::Proc),
        synthetic("/sys", MountSource::Sys),
        synthetic("/dev", MountSource::Dev),
        memory_tree("/dev/shm", bytes, SHARED),
        memory_tree("/tmp", bytes, SHARED),
    ]
}

/// A function's /etc/resolv.conf: its resolver is the relay of outbound connections.
pub(crate) fn resolver_file() -> MountEntry {
    let source = MountSource::Text(outbound::resolver_configuration());
    MountEntry { at: "/etc/resolv.conf".to_owned(), source, writable: false }
}

/// The mounts of an ordinary program: `root` (the host's own when `None`), read-only; trees of its own; `binds`,
/// writable, over them all. `hidden` are paths of the host that don't exist for the guest.
pub fn program_mounts(root: Option<&Path>, hidden: &[PathBuf], binds: &[HostBind]) -> MountTable {
    let whole_host = root.is_none();
    let source = MountSource::HostDirectory {
        path: root.unwrap_or(Path::new("/")).to_owned(),
        hidden: hidden.to_vec(),
        cross_devices: whole_host,
    };
    let mut entries = vec![MountEntry { at: "/".to_owned(), source, writable: false }];
    entries.extend(private_trees(PROGRAM_TREE_BYTES));
    if whole_host {
        // The host's daemons keep their sockets and locks there: none of a guest's business.
        entries.push(memory_tree("/run", PROGRAM_TREE_BYTES, 0o755));
    }
    entries.extend(binds.iter().map(|bind| MountEntry {
        at: bind.target.clone(),
        source: MountSource::HostDirectory {
            path: bind.source.clone(),
            hidden: hidden.to_vec(),
            cross_devices: false,
        },
        writable: true,
    }));
    MountTable(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_read_only_and_its_changing_trees_are_covered() {
        let bind = HostBind { source: "/home/me/work".into(), target: "/work".to_owned() };
        let MountTable(entries) = program_mounts(None, &["/home/me/state".into()], &[bind]);
        let writable: Vec<_> = entries
            .iter()
            .filter(|entry| matches!(entry.source, MountSource::HostDirectory { .. }) && entry.writable)
            .map(|entry| entry.at.as_str())
            .collect();
        assert_eq!(writable, ["/work"]);
        for covered in ["/proc", "/sys", "/dev", "/dev/shm", "/tmp", "/run"] {
            assert!(entries.iter().any(|entry| entry.at == covered), "{covered}");
        }
        assert_eq!(entries[0].at, "/");
    }

    #[test]
    fn a_root_of_its_own_keeps_its_run_directory_and_stays_on_its_disk() {
        let MountTable(entries) = program_mounts(Some(Path::new("/rootfs")), &[], &[]);
        assert!(entries.iter().all(|entry| entry.at != "/run"));
        let MountSource::HostDirectory { cross_devices, .. } = &entries[0].source else { panic!() };
        assert!(!cross_devices);
    }
}
