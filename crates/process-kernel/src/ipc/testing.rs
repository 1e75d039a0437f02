//! Helpers for the tests of these objects.

use std::collections::HashMap;
use std::sync::Arc;

use super::Ipc;
use crate::clock::Clock;
use crate::file::{AccessMode, Destination, FileObject, OpenFile, Origin, StatusFlags};
use crate::object::{Object, ObjectId, RestoreContext, RestoreFn, Restorer, SavedObject, Saver};

/// The shared state of a process of its own.
pub(crate) fn ipc() -> Arc<Ipc> {
    Ipc::new(Arc::new(Clock::default()))
}

/// An environment to restore into.
pub(crate) fn context() -> RestoreContext {
    let clock = Arc::new(Clock::default());
    let ipc = Ipc::new(clock.clone());
    RestoreContext { vfs: Arc::default(), clock, network: crate::net::Network::new(&ipc), ipc }
}

/// All kinds of this module and of [`crate::net`], and open files.
pub(crate) fn registry() -> HashMap<&'static str, RestoreFn> {
    let mut kinds = crate::ipc::registry();
    kinds.extend(crate::net::registry());
    kinds.push((OpenFile::KIND, OpenFile::restore));
    kinds.into_iter().collect()
}

/// Saves `objects` together.
pub(crate) fn save(objects: &[Arc<dyn Object>]) -> (Vec<SavedObject>, Vec<ObjectId>) {
    let mut saver = Saver::default();
    let ids = objects.iter().map(|object| saver.save(object.clone()).unwrap()).collect();
    (saver.finish(), ids)
}

/// Saves and restores `objects` together, which are all files.
pub(crate) fn round_trip_all(objects: &[Arc<dyn Object>]) -> (RestoreContext, Vec<Arc<dyn FileObject>>) {
    let (saved, ids) = save(objects);
    let (context, registry) = (context(), registry());
    let mut restorer = Restorer::new(&saved, &context, &registry);
    let restored = ids.into_iter().map(|id| restorer.file(id).unwrap()).collect();
    drop(restorer);
    (context, restored)
}

/// Saves and restores one object.
pub(crate) fn round_trip<T: Object>(object: &Arc<T>) -> (RestoreContext, Arc<dyn FileObject>) {
    let object: Arc<dyn Object> = object.clone();
    let (context, mut restored) = round_trip_all(std::slice::from_ref(&object));
    (context, restored.remove(0))
}

/// An open file for reading and writing.
pub(crate) fn open(object: Arc<dyn FileObject>) -> Arc<OpenFile> {
    OpenFile::new(object, AccessMode::ReadWrite, StatusFlags::empty())
}

/// Reads up to `count` bytes.
pub(crate) fn read(file: &dyn FileObject, count: usize) -> Result<Vec<u8>, rustix::io::Errno> {
    let mut bytes = vec![0; count];
    let got = file.read(None, &mut Destination::Own(&mut bytes))?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Writes `bytes` as far as it goes.
pub(crate) fn write(file: &dyn FileObject, bytes: &[u8]) -> Result<usize, rustix::io::Errno> {
    file.write(None, &mut Origin::Own(bytes))
}
