//! Walking and mounting, against Linux itself as the model.

use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::testing::{ROOT, USER, get, host, list, mount, open, open_as, put, tmpfs, vfs, walk};
use super::{MountSource, Vfs, VfsError, Walk, open_by_path};

#[test]
fn mounts_cover_what_lies_below_and_appear_where_nothing_is() {
    let below = tempfile::tempdir().unwrap();
    std::fs::create_dir(below.path().join("tmp")).unwrap();
    std::fs::write(below.path().join("tmp/hidden"), b"").unwrap();
    let vfs = vfs(vec![
        mount("/", host(below.path()), false),
        mount("/tmp", tmpfs(), true),
        mount("/opt/layers/one", tmpfs(), true),
        mount("/etc/resolv.conf", MountSource::Text("nameserver 127.0.0.1\n".into()), false),
    ]);
    assert_eq!(list(&vfs, "/"), [".", "..", "etc", "opt", "tmp"]);
    assert_eq!(list(&vfs, "/tmp"), [".", ".."]);
    assert_eq!(list(&vfs, "/opt"), [".", "..", "layers"]);
    assert_eq!(get(&vfs, "/etc/resolv.conf").unwrap(), b"nameserver 127.0.0.1\n");
    put(&vfs, "/opt/layers/one/file", b"x");
    let place = walk(&vfs, "/opt/layers/one/../one/./file", Walk::FOLLOW).unwrap();
    assert_eq!(place.display(), "/opt/layers/one/file");
    assert_eq!(walk(&vfs, "/opt/layers/one/../..", Walk::FOLLOW).unwrap().display(), "/opt");
    assert_eq!(walk(&vfs, "/../../tmp/..", Walk::FOLLOW).unwrap().display(), "/");
    assert_eq!(walk(&vfs, "/tmp", Walk::NO_XDEV).map(|_| ()), Err(Errno::XDEV));
    let rmdir = vfs.remove_directory(&ROOT, &vfs.root(), b"/tmp");
    assert_eq!(rmdir, Err(Errno::ROFS));
    assert_eq!(open(&vfs, "/new", libc::O_CREAT | libc::O_WRONLY).map(|_| ()), Err(Errno::ROFS));
}

#[test]
fn links_lead_over_mounts_and_in_circles_to_eloop() {
    let below = tempfile::tempdir().unwrap();
    symlink("/tmp/a/link", below.path().join("start")).unwrap();
    let vfs = vfs(vec![mount("/", host(below.path()), false), mount("/tmp", tmpfs(), true)]);
    let link = |target: &str, path: &str| {
        let kind = super::NewKind::Symlink(target.as_bytes());
        vfs.make(&ROOT, &vfs.root(), path.as_bytes(), kind, 0o777).unwrap();
    };
    vfs.make(&ROOT, &vfs.root(), b"/tmp/a", super::NewKind::Directory, 0o755).unwrap();
    link("../file", "/tmp/a/link");
    put(&vfs, "/tmp/file", b"found");
    assert_eq!(get(&vfs, "/start").unwrap(), b"found");
    assert_eq!(open(&vfs, "/start", libc::O_NOFOLLOW).map(|_| ()), Err(Errno::LOOP));
    link("circle", "/tmp/circle");
    assert_eq!(get(&vfs, "/tmp/circle"), Err(Errno::LOOP));
    link("nowhere", "/tmp/dangling");
    assert_eq!(get(&vfs, "/tmp/dangling"), Err(Errno::NOENT));
    open(&vfs, "/tmp/dangling", libc::O_CREAT | libc::O_WRONLY).unwrap();
    assert_eq!(get(&vfs, "/tmp/nowhere").unwrap(), b"", "O_CREAT makes what a dangling link names");
    link("nothing", "/tmp/other");
    let exclusive = open(&vfs, "/tmp/other", libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY);
    assert_eq!(exclusive.map(|_| ()), Err(Errno::EXIST));
}

#[test]
fn slashes_at_the_end_want_directories() {
    let vfs = vfs(vec![mount("/", tmpfs(), true)]);
    put(&vfs, "/file", b"");
    vfs.make(&ROOT, &vfs.root(), b"/directory/", super::NewKind::Directory, 0o755).unwrap();
    assert_eq!(open(&vfs, "/file/", libc::O_RDONLY).map(|_| ()), Err(Errno::NOTDIR));
    assert_eq!(open(&vfs, "/file/.", libc::O_RDONLY).map(|_| ()), Err(Errno::NOTDIR));
    assert_eq!(open(&vfs, "/new/", libc::O_CREAT | libc::O_WRONLY).map(|_| ()), Err(Errno::ISDIR));
    assert!(open(&vfs, "/directory///", libc::O_RDONLY).is_ok());
    assert_eq!(open(&vfs, "/directory", libc::O_WRONLY).map(|_| ()), Err(Errno::ISDIR));
    assert_eq!(open(&vfs, "/file", libc::O_DIRECTORY).map(|_| ()), Err(Errno::NOTDIR));
    assert_eq!(vfs.unlink(&ROOT, &vfs.root(), b"/file/"), Err(Errno::NOTDIR));
    assert_eq!(vfs.remove_directory(&ROOT, &vfs.root(), b"/directory/."), Err(Errno::INVAL));
    let long = format!("/{}", "n".repeat(256));
    assert_eq!(open(&vfs, &long, libc::O_RDONLY).map(|_| ()), Err(Errno::NAMETOOLONG));
    assert_eq!(open(&vfs, &"/.".repeat(2048), libc::O_RDONLY).map(|_| ()), Err(Errno::NAMETOOLONG));
}

#[test]
fn permissions_stop_whoever_is_not_the_superuser() {
    let vfs = vfs(vec![mount("/", tmpfs(), true)]);
    put(&vfs, "/secret", b"s");
    let secret = walk(&vfs, "/secret", Walk::FOLLOW).unwrap();
    let mode = super::AttributeChange { mode: Some(0o600), ..Default::default() };
    secret.inode.set_attributes(&mode).unwrap();
    assert_eq!(open_as(&vfs, &USER, "/secret", libc::O_RDONLY).map(|_| ()), Err(Errno::ACCESS));
    assert!(open_as(&vfs, &USER, "/secret", libc::O_PATH).is_ok());
    assert!(open_as(&vfs, &ROOT, "/secret", libc::O_RDWR).is_ok());
    // The top is sticky: users remove only what is theirs.
    assert_eq!(vfs.unlink(&USER, &vfs.root(), b"/secret"), Err(Errno::PERM));
    open_as(&vfs, &USER, "/own", libc::O_CREAT | libc::O_WRONLY).unwrap();
    assert_eq!(vfs.unlink(&USER, &vfs.root(), b"/own"), Ok(()));
}

#[test]
fn mount_tables_that_make_no_sense_are_refused() {
    let mounted = |entries| Vfs::new(&super::MountTable(entries), &open_by_path).map(|_| ());
    assert!(matches!(mounted(vec![]), Err(VfsError::NoRoot)));
    assert!(matches!(mounted(vec![mount("/tmp", tmpfs(), true)]), Err(VfsError::NoRoot)));
    let up = vec![mount("/", tmpfs(), true), mount("/a/../b", tmpfs(), true)];
    assert!(matches!(mounted(up), Err(VfsError::BadPath(_))));
    let missing = vec![mount("/", host(Path::new("/no such directory")), false)];
    assert!(matches!(mounted(missing), Err(VfsError::Open { .. })));
}

/// One step in making a random tree.
#[derive(Clone, Debug)]
enum Make {
    Directory(String),
    File(String),
    Link(String, String),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => Just("a"), 4 => Just("b"), 3 => Just("c"), 2 => Just(".."), 1 => Just("."), 1 => Just("")
    ];
    (any::<bool>(), prop::collection::vec(name, 1..6))
        .prop_map(|(absolute, names)| format!("{}{}", if absolute { "/" } else { "" }, names.join("/")))
        .prop_filter("openat2 refuses empty paths otherwise", |path| !path.is_empty())
}

fn make() -> impl Strategy<Value = Make> {
    prop_oneof![
        3 => path().prop_map(Make::Directory),
        1 => path().prop_map(Make::File),
        2 => (path(), path()).prop_map(|(target, path)| Make::Link(target, path)),
    ]
}

/// Makes what can be made, without ever leaving `root`.
fn build(root: &Path, steps: &[Make]) {
    for step in steps {
        let (Make::Directory(at) | Make::File(at) | Make::Link(_, at)) = step;
        let mut plain = root.to_owned();
        let names: Vec<_> = at.split('/').filter(|name| !matches!(*name, "" | "." | "..")).collect();
        if names
            .iter()
            .scan(plain.clone(), |at, name| {
                at.push(name);
                Some(at.is_symlink())
            })
            .any(|link| link)
        {
            continue;
        }
        plain.extend(names);
        let _ = match step {
            Make::Directory(_) => std::fs::create_dir_all(&plain),
            Make::File(_) if !plain.exists() => std::fs::write(&plain, b""),
            Make::File(_) => Ok(()),
            Make::Link(target, _) => symlink(target, &plain),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The kernel's RESOLVE_IN_ROOT is the model: the same file is found, or the same error.
    #[test]
    fn walking_agrees_with_the_kernel(
        steps in prop::collection::vec(make(), 1..24),
        paths in prop::collection::vec((path(), any::<bool>(), any::<bool>()), 1..40),
    ) {
        let root = tempfile::tempdir().unwrap();
        build(root.path(), &steps);
        let vfs = vfs(vec![mount("/", host(root.path()), false)]);
        let held = open_by_path(root.path()).unwrap();
        for (path, follow, beneath) in paths {
            let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
            let resolve = if beneath { ResolveFlags::BENEATH } else { ResolveFlags::IN_ROOT };
            let flags = OFlags::PATH | OFlags::CLOEXEC | nofollow;
            let expected = openat2(&held, path.as_str(), flags, Mode::empty(), resolve)
                .map(|fd| fstat(fd).unwrap().st_ino);
            let mut flags = if follow { Walk::FOLLOW } else { Walk::empty() };
            flags |= if beneath { Walk::BENEATH } else { Walk::IN_ROOT };
            let found = walk(&vfs, &path, flags).map(|place| place.inode.metadata().unwrap().ino);
            prop_assert_eq!(found, expected, "{} (follow: {}, beneath: {})", path, follow, beneath);
        }
    }
}
