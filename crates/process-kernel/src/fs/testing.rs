//! Helpers for the tests of file systems.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::{Caller, MountEntry, MountSource, MountTable, OpenHow, Place, Vfs, Walk, open_by_path};
use crate::clock::Clock;
use crate::file::{Destination, OpenFile, Origin};
use crate::ipc::Ipc;
use crate::net::Network;
use crate::object::{RestoreContext, RestoreError, RestoreFn, Restorer, SavedObject, Saver};

/// An ordinary user.
pub(crate) const USER: Caller = Caller { tid: 1, uid: 1000, gid: 1000 };
/// The superuser.
pub(crate) const ROOT: Caller = Caller { tid: 1, uid: 0, gid: 0 };

/// A mount.
pub(crate) fn mount(at: &str, source: MountSource, writable: bool) -> MountEntry {
    MountEntry { at: at.to_owned(), source, writable }
}

/// A roomy tree in memory.
pub(crate) fn tmpfs() -> MountSource {
    MountSource::Tmpfs { bytes: 16 << 20, inodes: 1000, mode: 0o1777 }
}

/// A host directory.
pub(crate) fn host(path: &Path) -> MountSource {
    MountSource::HostDirectory { path: path.to_owned(), hidden: Vec::new(), cross_devices: false }
}

/// Mounts `entries`.
pub(crate) fn vfs(entries: Vec<MountEntry>) -> Arc<Vfs> {
    Vfs::new(&MountTable(entries), &open_by_path).unwrap()
}

/// What paths lead to, from the root.
pub(crate) fn walk(vfs: &Vfs, path: &str, flags: Walk) -> Result<Place, Errno> {
    vfs.walk(&ROOT, &vfs.root(), path.as_bytes(), flags)?.found()
}

/// open(2) by the superuser.
pub(crate) fn open(vfs: &Arc<Vfs>, path: &str, flags: i32) -> Result<Arc<OpenFile>, Errno> {
    open_as(vfs, &ROOT, path, flags)
}

/// open(2).
pub(crate) fn open_as(
    vfs: &Arc<Vfs>,
    caller: &Caller,
    path: &str,
    flags: i32,
) -> Result<Arc<OpenFile>, Errno> {
    let how = OpenHow::decode(flags as u32, 0o666, 0o022)?;
    vfs.open(caller, &vfs.root(), path.as_bytes(), &how)
}

/// Writes a new file.
pub(crate) fn put(vfs: &Arc<Vfs>, path: &str, bytes: &[u8]) -> Arc<OpenFile> {
    let file = open(vfs, path, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC).unwrap();
    assert_eq!(file.write(&mut Origin::Own(bytes)), Ok(bytes.len()));
    file
}

/// A file's first bytes, 4096 at most.
pub(crate) fn contents(file: &OpenFile) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; 4096];
    let count = file.object.read(Some(0), &mut Destination::Own(&mut bytes))?;
    bytes.truncate(count);
    Ok(bytes)
}

/// The contents of the file at `path`.
pub(crate) fn get(vfs: &Arc<Vfs>, path: &str) -> Result<Vec<u8>, Errno> {
    contents(&*open(vfs, path, libc::O_RDONLY)?)
}

/// The names in the directory at `path`, sorted.
pub(crate) fn list(vfs: &Arc<Vfs>, path: &str) -> Vec<String> {
    let directory = open(vfs, path, libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
    let (mut names, mut cookie) = (Vec::new(), 0);
    while let Some((entry, next)) = directory.object.next_entry(cookie).unwrap() {
        names.push(String::from_utf8(entry.name).unwrap());
        cookie = next;
    }
    names.sort();
    names
}

/// Saves `file` and the trees in memory, and restores both into the same mounts made anew.
pub(crate) fn round_trip(
    entries: Vec<MountEntry>,
    old: &Vfs,
    file: &Arc<OpenFile>,
) -> Result<(Arc<Vfs>, Arc<OpenFile>), RestoreError> {
    let mut saver = Saver::default();
    let id = saver.save(file.clone()).unwrap();
    let objects: Vec<SavedObject> = saver.finish();
    let trees = old.save().unwrap();
    let vfs = vfs(entries);
    vfs.restore(trees)?;
    let clock = Arc::new(Clock::default());
    let ipc = Ipc::new(clock.clone());
    let context = RestoreContext { vfs: vfs.clone(), clock, network: Network::new(&ipc), ipc };
    let mut registry: HashMap<&'static str, RestoreFn> = super::restore_functions().into_iter().collect();
    registry.insert(OpenFile::KIND, OpenFile::restore);
    let restored = Restorer::new(&objects, &context, &registry).concrete::<OpenFile>(id, "open file")?;
    Ok((vfs, restored))
}
