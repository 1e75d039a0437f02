//! Nothing leads out of a host directory, and what is no plain file can't be used.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::file::OpenFile;
use crate::fs::testing::{ROOT, contents, get, host, list, mount, open, put, round_trip, vfs, walk};
use crate::fs::{MountEntry, MountSource, RenameMode, Vfs, Walk};
use crate::object::{RestoreError, SaveError, Saver};

fn read_only(path: &Path) -> Vec<MountEntry> {
    vec![mount("/", host(path), false)]
}

fn opened(result: Result<Arc<OpenFile>, Errno>) -> Result<(), Errno> {
    result.map(|_| ())
}

#[test]
fn links_out_of_the_root_end_inside_it() {
    let outer = tempfile::tempdir().unwrap();
    std::fs::write(outer.path().join("secret"), b"host").unwrap();
    let root = outer.path().join("root");
    std::fs::create_dir(&root).unwrap();
    symlink("../secret", root.join("up")).unwrap();
    symlink(outer.path().join("secret"), root.join("absolute")).unwrap();
    symlink("../../../../../../etc/passwd", root.join("far")).unwrap();
    symlink("/proc/self/fd/0", root.join("magic")).unwrap();
    symlink("..", root.join("parent")).unwrap();
    let vfs = vfs(read_only(&root));
    for path in ["/up", "/absolute", "/far", "/magic", "/parent/secret", "/../secret", "/parent/../secret"] {
        assert_eq!(get(&vfs, path), Err(Errno::NOENT), "{path}");
    }
}

#[test]
fn a_link_put_in_the_way_after_the_lookup_leads_nowhere() {
    let outer = tempfile::tempdir().unwrap();
    std::fs::create_dir(outer.path().join("outside")).unwrap();
    std::fs::write(outer.path().join("outside/file"), b"host").unwrap();
    let root = outer.path().join("root");
    std::fs::create_dir_all(root.join("directory")).unwrap();
    std::fs::write(root.join("directory/file"), b"guest").unwrap();
    let vfs = vfs(read_only(&root));
    let place = walk(&vfs, "/directory/file", Walk::FOLLOW).unwrap();
    // The lookup is remembered; now the host swaps the directory for a link.
    std::fs::rename(root.join("directory"), root.join("moved")).unwrap();
    symlink("../outside", root.join("directory")).unwrap();
    let stale = vfs.open_checked(&ROOT, &place, &crate::fs::OpenHow::READ);
    assert_eq!(opened(stale), Err(Errno::NOENT));
}

#[test]
fn sockets_pipes_and_devices_are_not_opened() {
    let root = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
    let fifo = root.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
    let device = rustix::fs::mknodat(
        rustix::fs::CWD,
        root.path().join("null"),
        rustix::fs::FileType::CharacterDevice,
        0o666.into(),
        libc::makedev(1, 3),
    );
    let vfs = vfs(read_only(root.path()));
    let mut special = vec!["/socket", "/fifo"];
    if device.is_ok() {
        special.push("/null");
    }
    for path in special {
        for flags in [libc::O_RDONLY, libc::O_RDONLY | libc::O_NONBLOCK] {
            assert_eq!(opened(open(&vfs, path, flags)), Err(Errno::NXIO), "{path}");
        }
        assert!(walk(&vfs, path, Walk::FOLLOW).is_ok(), "it can be seen");
    }
}

#[test]
fn hidden_directories_do_not_exist() {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("home/faasnap");
    std::fs::create_dir_all(home.join("functions")).unwrap();
    std::fs::write(home.join("functions/code"), b"secret").unwrap();
    symlink("/home/faasnap/functions", root.path().join("way")).unwrap();
    let source =
        MountSource::HostDirectory { path: root.path().to_owned(), hidden: vec![home], cross_devices: false };
    let vfs = vfs(vec![mount("/", source, false)]);
    assert_eq!(list(&vfs, "/home"), [".", ".."]);
    for path in ["/home/faasnap", "/home/faasnap/functions/code", "/way/code"] {
        assert_eq!(get(&vfs, path), Err(Errno::NOENT), "{path}");
    }
}

#[test]
fn the_hosts_proc_below_the_root_does_not_exist() {
    for cross_devices in [false, true] {
        let source = MountSource::HostDirectory { path: "/".into(), hidden: Vec::new(), cross_devices };
        let vfs = vfs(vec![mount("/", source, false)]);
        for path in
            ["/proc/self/mem", "/proc/1/root", "/proc/self/fd", "/sys/kernel", "/proc/../proc/version"]
        {
            assert_eq!(opened(open(&vfs, path, libc::O_RDONLY)), Err(Errno::NOENT), "{path}");
        }
    }
}

#[test]
fn read_only_mounts_stay_as_they_are() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("file"), b"text").unwrap();
    let vfs = vfs(read_only(root.path()));
    let start = vfs.root();
    for flags in [libc::O_RDWR, libc::O_WRONLY, libc::O_RDONLY | libc::O_TRUNC, libc::O_CREAT | libc::O_RDWR]
    {
        assert_eq!(opened(open(&vfs, "/file", flags)), Err(Errno::ROFS));
    }
    assert_eq!(vfs.unlink(&ROOT, &start, b"file"), Err(Errno::ROFS));
    let rename = vfs.rename(&ROOT, (&start, b"file"), (&start, b"other"), RenameMode::Replace);
    assert_eq!(rename, Err(Errno::ROFS));
    let mapped = open(&vfs, "/file", libc::O_RDONLY).unwrap().object.clone().mappable().unwrap();
    assert!(!mapped.writable());
    assert_eq!(std::fs::read(root.path().join("file")).unwrap(), b"text");
}

#[test]
fn writable_mounts_change_the_hosts_files() {
    let root = tempfile::tempdir().unwrap();
    let vfs = vfs(vec![mount("/", host(root.path()), true)]);
    let start = vfs.root();
    put(&vfs, "/new", b"hello");
    assert_eq!(std::fs::read(root.path().join("new")).unwrap(), b"hello");
    let mode = std::fs::metadata(root.path().join("new")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644, "the guest's umask counts");
    vfs.make(&ROOT, &start, b"sub", crate::fs::NewKind::Directory, 0o700).unwrap();
    vfs.rename(&ROOT, (&start, b"new"), (&start, b"sub/moved"), RenameMode::NoReplace).unwrap();
    let target = walk(&vfs, "/sub/moved", Walk::FOLLOW).unwrap();
    vfs.link(&ROOT, &target, &start, b"second").unwrap();
    assert_eq!(target.inode.metadata().unwrap().nlink, 2);
    assert_eq!(list(&vfs, "/"), [".", "..", "second", "sub"]);
    assert_eq!(vfs.remove_directory(&ROOT, &start, b"sub"), Err(Errno::NOTEMPTY));
    vfs.unlink(&ROOT, &start, b"sub/moved").unwrap();
    vfs.remove_directory(&ROOT, &start, b"sub").unwrap();
    assert_eq!(get(&vfs, "/second").unwrap(), b"hello");
}

#[test]
fn a_restored_file_must_be_what_it_was() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    std::fs::write(&path, b"0123456789").unwrap();
    let vfs = vfs(read_only(root.path()));
    let file = open(&vfs, "/file", libc::O_RDONLY).unwrap();
    *file.position() = 4;
    let (_, restored): (Arc<Vfs>, _) = round_trip(read_only(root.path()), &vfs, &file).unwrap();
    assert_eq!(*restored.position(), 4);
    assert_eq!(contents(&restored).unwrap(), b"0123456789");
    assert_eq!(restored.object.describe(), "/file");

    std::fs::write(&path, b"longer than it was").unwrap();
    let changed = round_trip(read_only(root.path()), &vfs, &file).map(|_| ());
    assert!(matches!(changed, Err(RestoreError::FileChanged { problem: "has changed", .. })), "{changed:?}");
    std::fs::rename(&path, root.path().join("moved")).unwrap();
    let missing = round_trip(read_only(root.path()), &vfs, &file).map(|_| ());
    assert!(matches!(missing, Err(RestoreError::FileChanged { problem: "is missing", .. })), "{missing:?}");
    std::fs::remove_file(root.path().join("moved")).unwrap();
    let deleted = Saver::default().save(file);
    assert!(matches!(deleted, Err(SaveError::NotSnapshotable { .. })));
}
