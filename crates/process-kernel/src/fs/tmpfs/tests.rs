//! Trees in memory behave as Linux's tmpfs and survive a snapshot.

use std::sync::Arc;

use rustix::io::Errno;

use super::{Seals, TmpfsFile};
use crate::file::{Destination, Origin};
use crate::fs::testing::{ROOT, USER, contents, get, list, mount, open, put, round_trip, tmpfs, vfs, walk};
use crate::fs::{MountEntry, MountSource, NewKind, RenameMode, Vfs, Walk};

fn mounts() -> Vec<MountEntry> {
    vec![mount("/", tmpfs(), true)]
}

fn mkdir(vfs: &Arc<Vfs>, path: &str) {
    vfs.make(&ROOT, &vfs.root(), path.as_bytes(), NewKind::Directory, 0o755).unwrap();
}

fn rename(vfs: &Arc<Vfs>, from: &str, to: &str, mode: RenameMode) -> Result<(), Errno> {
    let root = vfs.root();
    vfs.rename(&ROOT, (&root, from.as_bytes()), (&root, to.as_bytes()), mode)
}

fn links(vfs: &Arc<Vfs>, path: &str) -> u64 {
    walk(vfs, path, Walk::empty()).unwrap().inode.metadata().unwrap().nlink
}

#[test]
fn rename_does_what_the_table_says() {
    use RenameMode::{Exchange, NoReplace, Replace};
    // from, to, how: the answer. f and g are files, e and d directories, d/x a file in one.
    let table = [
        ("f", "new", Replace, Ok(())),
        ("f", "g", Replace, Ok(())),
        ("f", "g", NoReplace, Err(Errno::EXIST)),
        ("f", "new", NoReplace, Ok(())),
        ("f", "new", Exchange, Err(Errno::NOENT)),
        ("f", "e", Replace, Err(Errno::ISDIR)),
        ("f", "e", Exchange, Ok(())),
        ("e", "f", Replace, Err(Errno::NOTDIR)),
        ("e", "d", Replace, Err(Errno::NOTEMPTY)),
        ("d", "e", Replace, Ok(())),
        ("d", "d/y", Replace, Err(Errno::INVAL)),
        ("d", "d/x", Exchange, Err(Errno::INVAL)),
        ("d/x", "d", Exchange, Err(Errno::INVAL)),
        ("d", "d", Replace, Ok(())),
        ("none", "f", Replace, Err(Errno::NOENT)),
        ("f", "none/f", Replace, Err(Errno::NOENT)),
        ("f", "new/", Replace, Err(Errno::NOTDIR)),
        ("e", "new/", Replace, Ok(())),
    ];
    for (from, to, mode, expected) in table {
        let vfs = vfs(mounts());
        for (path, text) in [("f", "f"), ("g", "g")] {
            put(&vfs, path, text.as_bytes());
        }
        mkdir(&vfs, "e");
        mkdir(&vfs, "d");
        put(&vfs, "d/x", b"x");
        let outcome = rename(&vfs, from, to, mode);
        assert_eq!(outcome, expected, "{from} -> {to} {mode:?}");
        if outcome.is_ok() && from == "f" && to == "g" {
            assert_eq!(get(&vfs, "g").unwrap(), b"f");
            assert_eq!(list(&vfs, "/"), [".", "..", "d", "e", "g"]);
        }
    }
}

#[test]
fn hard_links_share_contents_and_outlive_each_other() {
    let vfs = vfs(mounts());
    put(&vfs, "one", b"shared");
    let one = walk(&vfs, "one", Walk::empty()).unwrap();
    vfs.link(&ROOT, &one, &vfs.root(), b"two").unwrap();
    assert_eq!(links(&vfs, "one"), 2);
    assert_eq!(rename(&vfs, "one", "two", RenameMode::Replace), Ok(()), "one file: nothing happens");
    assert_eq!(list(&vfs, "/"), [".", "..", "one", "two"]);
    vfs.unlink(&ROOT, &vfs.root(), b"one").unwrap();
    assert_eq!(get(&vfs, "two").unwrap(), b"shared");
    assert_eq!(links(&vfs, "two"), 1);
    mkdir(&vfs, "directory");
    let directory = walk(&vfs, "directory", Walk::empty()).unwrap();
    assert_eq!(vfs.link(&ROOT, &directory, &vfs.root(), b"again"), Err(Errno::PERM));
}

#[test]
fn a_deleted_file_lives_until_it_is_closed() {
    let vfs = vfs(vec![mount("/", MountSource::Tmpfs { bytes: 8192, inodes: 10, mode: 0o755 }, true)]);
    let file = put(&vfs, "file", &[7; 8192]);
    vfs.unlink(&ROOT, &vfs.root(), b"file").unwrap();
    assert_eq!(contents(&file).unwrap(), [7; 4096]);
    assert_eq!(file.object.describe(), "/file (deleted)");
    assert_eq!(file.object.stat().unwrap().nlink, 0);
    let other = open(&vfs, "other", libc::O_CREAT | libc::O_RDWR).unwrap();
    assert_eq!(other.write(&mut Origin::Own(b"x")), Err(Errno::NOSPC), "its bytes still count");
    drop(file);
    assert_eq!(other.write(&mut Origin::Own(b"x")), Ok(1));
}

#[test]
fn limits_are_kept() {
    let vfs = vfs(vec![mount("/", MountSource::Tmpfs { bytes: 64 << 10, inodes: 4, mode: 0o755 }, true)]);
    let file = put(&vfs, "a", &[1; 40 << 10]);
    assert_eq!(file.write(&mut Origin::Own(&[1; 40 << 10])), Err(Errno::NOSPC));
    *file.position() = 0;
    assert_eq!(file.write(&mut Origin::Own(&[2; 40 << 10])), Ok(40 << 10), "overwriting needs no room");
    file.object.truncate(1 << 30).unwrap();
    assert_eq!(
        walk(&vfs, "a", Walk::empty()).unwrap().inode.metadata().unwrap().blocks,
        80,
        "holes are free"
    );
    assert_eq!(file.object.allocate(0, 0, 1 << 20), Err(Errno::NOSPC));
    file.object.truncate(0).unwrap();
    assert_eq!(file.object.allocate(0, 0, 60 << 10), Ok(()));
    put(&vfs, "b", b"");
    put(&vfs, "c", b"");
    assert_eq!(open(&vfs, "d", libc::O_CREAT | libc::O_RDWR).map(|_| ()), Err(Errno::NOSPC));
    let b = walk(&vfs, "b", Walk::empty()).unwrap();
    assert_eq!(vfs.link(&ROOT, &b, &vfs.root(), b"link"), Err(Errno::NOSPC), "links need memory too");
    vfs.unlink(&ROOT, &vfs.root(), b"c").unwrap();
    assert_eq!(vfs.link(&ROOT, &b, &vfs.root(), b"link"), Ok(()));
}

#[test]
fn unnamed_files_can_be_given_a_name_once() {
    let vfs = vfs(mounts());
    let file = open(&vfs, "/", libc::O_TMPFILE | libc::O_RDWR).unwrap();
    file.write(&mut Origin::Own(b"text")).unwrap();
    assert_eq!(list(&vfs, "/"), [".", ".."]);
    vfs.link(&ROOT, file.object.place().unwrap(), &vfs.root(), b"named").unwrap();
    assert_eq!(get(&vfs, "named").unwrap(), b"text");
    vfs.unlink(&ROOT, &vfs.root(), b"named").unwrap();
    let again = vfs.link(&ROOT, file.object.place().unwrap(), &vfs.root(), b"again");
    assert_eq!(again, Err(Errno::NOENT), "a deleted file stays deleted");
}

#[test]
fn sparse_files_have_holes() {
    let vfs = vfs(mounts());
    let file = open(&vfs, "sparse", libc::O_CREAT | libc::O_RDWR).unwrap();
    *file.position() = 1 << 20;
    file.write(&mut Origin::Own(b"end")).unwrap();
    assert_eq!(file.object.seek_data(0, false), Ok(1 << 20));
    assert_eq!(file.object.seek_data(0, true), Ok(0));
    assert_eq!(file.object.seek_data(1 << 21, false), Err(Errno::NXIO));
    assert_eq!(file.object.size(), Ok((1 << 20) + 3));
}

#[test]
fn memfds_can_be_sealed() {
    let vfs = vfs(mounts());
    let file = vfs.create_memfd(b"name", &USER, true).unwrap();
    file.write(&mut Origin::Own(b"sealed")).unwrap();
    assert_eq!(file.object.describe(), "/memfd:name (deleted)");
    let object: &dyn std::any::Any = &*file.object;
    let memfd: &TmpfsFile = object.downcast_ref().unwrap();
    memfd.add_seals(Seals::WRITE | Seals::SHRINK | Seals::SEAL).unwrap();
    assert_eq!(file.write(&mut Origin::Own(b"x")), Err(Errno::PERM));
    assert_eq!(file.object.truncate(0), Err(Errno::PERM));
    assert_eq!(memfd.add_seals(Seals::GROW), Err(Errno::PERM));

    let (_, restored) = round_trip(mounts(), &vfs, &file).unwrap();
    assert_eq!(contents(&restored).unwrap(), b"sealed");
    assert_eq!(restored.object.truncate(0), Err(Errno::PERM), "the seals came along");
    let plain = vfs.create_memfd(b"plain", &USER, false).unwrap();
    let object: &dyn std::any::Any = &*plain.object;
    assert_eq!(object.downcast_ref::<TmpfsFile>().unwrap().add_seals(Seals::GROW), Err(Errno::PERM));
}

#[test]
fn a_whole_tree_survives_a_snapshot() {
    let old = vfs(mounts());
    mkdir(&old, "deep");
    mkdir(&old, "deep/er");
    put(&old, "deep/er/file", b"contents");
    old.make(&ROOT, &old.root(), b"link", NewKind::Symlink(b"deep/er/file"), 0o777).unwrap();
    let file = walk(&old, "deep/er/file", Walk::empty()).unwrap();
    old.link(&ROOT, &file, &old.root(), b"second").unwrap();
    let before = file.inode.metadata().unwrap();
    let sparse = put(&old, "sparse", b"");
    *sparse.position() = 3 << 20;
    sparse.write(&mut Origin::Own(&[9; 10])).unwrap();
    let orphan = put(&old, "orphan", b"still here");
    old.unlink(&ROOT, &old.root(), b"orphan").unwrap();

    let (new, restored) = round_trip(mounts(), &old, &orphan).unwrap();
    assert_eq!(contents(&restored).unwrap(), b"still here");
    assert_eq!(restored.object.stat().unwrap().nlink, 0);
    assert_eq!(*restored.position(), 10);
    assert_eq!(get(&new, "link").unwrap(), b"contents");
    assert_eq!(list(&new, "/"), [".", "..", "deep", "link", "second", "sparse"]);
    let after = walk(&new, "second", Walk::empty()).unwrap().inode.metadata().unwrap();
    assert_eq!((after.ino, after.nlink, after.mtime), (before.ino, 2, before.mtime));
    let sparse = open(&new, "sparse", libc::O_RDWR).unwrap();
    let mut end = [0; 16];
    assert_eq!(sparse.object.read(Some(3 << 20), &mut Destination::Own(&mut end)), Ok(10));
    assert_eq!(end[..10], [9; 10]);
    assert_eq!(sparse.object.seek_data(0, false), Ok(3 << 20), "holes stay holes");
    put(&new, "new", b"numbers go on");
    assert_ne!(walk(&new, "new", Walk::empty()).unwrap().inode.metadata().unwrap().ino, before.ino);
}

#[test]
fn trees_nested_very_deep_are_saved_and_dropped() {
    let vfs = vfs(vec![mount("/", MountSource::Tmpfs { bytes: 0, inodes: 50_000, mode: 0o755 }, true)]);
    let mut at = vfs.root();
    for _ in 0..40_000 {
        vfs.make(&ROOT, &at, b"d", NewKind::Directory, 0o755).unwrap();
        at = vfs.walk(&ROOT, &at, b"d", Walk::empty()).unwrap().found().unwrap();
    }
    let saved = vfs.save().unwrap();
    drop(at);
    drop(vfs);
    let again = super::super::testing::vfs(vec![mount(
        "/",
        MountSource::Tmpfs { bytes: 0, inodes: 50_000, mode: 0o755 },
        true,
    )]);
    again.restore(saved).unwrap();
    assert_eq!(list(&again, "/d/d/d"), [".", "..", "d"]);
}

/// Damaged snapshots must be refused or give a tree that can be used: no panic, no endless loop.
mod damaged {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn saved_trees_are_checked(at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let old = vfs(mounts());
            mkdir(&old, "a");
            mkdir(&old, "a/b");
            put(&old, "a/b/c", b"contents");
            let mut bytes = postcard::to_stdvec(&old.save().unwrap()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = value;
            let Ok(saved) = postcard::from_bytes(&bytes) else { return Ok(()) };
            let new = vfs(mounts());
            if new.restore(saved).is_ok() {
                let _ = walk(&new, "/a/b/../b/c", Walk::FOLLOW).map(|place| place.path());
                let _ = rename(&new, "/a", "/a/b/x", RenameMode::Replace);
            }
        }
    }
}
