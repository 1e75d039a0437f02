//! epoll: a set of open files that tells which of them are ready.
//!
//! Each entry registers an [`EntryWaker`] with its file's queue, which puts the entry on the ready list. Being on the list
//! means "look at it": whether it is ready is asked of the file when events are collected, never remembered.
//!
//! Locks: `entries` is held while files are asked for their readiness, and so comes before any file's own lock; `ready`
//! is a leaf that wakers take. Sets nest, but never in a circle ([`Epoll::add`] sees to it), so `entries` locks are
//! always taken from the outside in.

mod nesting;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};

use bitflags::bitflags;
use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Charge, Ipc, MemoryAccount, anonymous};
use crate::file::{Fd, FileObject, OpenFile, Readiness, Stat};
use crate::object::{Object, ObjectId, RestoreError, Restorer, SaveError, Saver};
use crate::wait::{WaitQueue, Wake};

bitflags! {
    /// What an entry asks for: the bits of [`Readiness`], and how to report them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Interest: u32 {
        /// The bits that poll(2) knows.
        const EVENTS = 0x27ff;
        /// EPOLLEXCLUSIVE: accepted; every waiter is woken all the same, which it permits.
        const EXCLUSIVE = 1 << 28;
        /// EPOLLWAKEUP: accepted; guests don't suspend.
        const WAKEUP = 1 << 29;
        /// EPOLLONESHOT: disabled after one report.
        const ONE_SHOT = 1 << 30;
        /// EPOLLET: reported when it changes.
        const EDGE = 1 << 31;
    }
}

/// A reported event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What is ready.
    pub ready: Readiness,
    /// What the program gave with the entry.
    pub data: u64,
}

/// Entries by number; numbers are not used twice.
type EntryId = u64;

/// Puts one entry on the ready list.
struct EntryWaker {
    entry: EntryId,
    shared: Arc<Shared>,
}

impl Wake for EntryWaker {
    fn wake(&self) {
        self.shared.mark(self.entry);
        self.shared.queue.notify();
    }
}

struct Entry {
    fd: Fd,
    /// Weak: an entry goes when the last descriptor of its file is closed.
    file: Weak<OpenFile>,
    /// To leave the object's queue even after the open file is gone.
    object: Weak<dyn FileObject>,
    interest: Interest,
    data: u64,
    /// EPOLLONESHOT has fired.
    disabled: bool,
    registration: u64,
    /// The queue holds only a weak reference.
    _waker: Arc<EntryWaker>,
    _charge: Charge,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(queue) = self.object.upgrade().as_ref().and_then(|object| object.wait_queue()) {
            queue.remove(self.registration);
        }
    }
}

impl Entry {
    /// What there is to report.
    fn ready(&self, file: &OpenFile) -> Readiness {
        if self.disabled {
            return Readiness::empty();
        }
        let wanted = Readiness::from_bits_truncate(self.interest.bits()) | Readiness::ERR | Readiness::HUP;
        file.object.readiness() & wanted
    }
}

/// Entries to look at, in the order in which they became ready.
#[derive(Default)]
struct ReadyList {
    order: VecDeque<EntryId>,
    members: BTreeSet<EntryId>,
}

/// What wakers reach.
#[derive(Default)]
struct Shared {
    ready: Mutex<ReadyList>,
    queue: WaitQueue,
}

impl Shared {
    fn mark(&self, entry: EntryId) {
        let mut ready = self.ready.lock();
        if ready.members.insert(entry) {
            ready.order.push_back(entry);
        }
    }

    fn unmark(&self, entry: EntryId) {
        let mut ready = self.ready.lock();
        ready.members.remove(&entry);
        ready.order.retain(|other| *other != entry);
    }

    fn next(&self) -> Option<EntryId> {
        let mut ready = self.ready.lock();
        let entry = ready.order.pop_front()?;
        ready.members.remove(&entry);
        Some(entry)
    }

    fn marked(&self) -> Vec<EntryId> {
        self.ready.lock().order.iter().copied().collect()
    }
}

#[derive(Default)]
struct Entries {
    by_id: BTreeMap<EntryId, Entry>,
    last_id: EntryId,
}

impl Entries {
    fn find(&self, fd: Fd, file: &Arc<OpenFile>) -> Option<EntryId> {
        let same = |entry: &Entry| entry.fd == fd && std::ptr::eq(entry.file.as_ptr(), Arc::as_ptr(file));
        self.by_id.iter().find(|(_, entry)| same(entry)).map(|(id, _)| *id)
    }
}

/// An epoll set. Snapshot rule: saved with its entries, and which of them wait to be looked at.
pub struct Epoll {
    entries: Mutex<Entries>,
    shared: Arc<Shared>,
    account: Arc<MemoryAccount>,
    /// Sets that this one was ever nested in, counted along the longest chain.
    depth: AtomicUsize,
}

/// What an entry costs the worker.
const ENTRY_COST: usize = 512;

#[derive(Serialize, Deserialize)]
struct SavedEntry {
    fd: Fd,
    file: ObjectId,
    interest: u32,
    data: u64,
    disabled: bool,
    marked: bool,
}

impl Epoll {
    /// Registry key.
    pub const KIND: &'static str = "epoll";

    /// An empty set.
    pub fn new(ipc: &Ipc) -> Arc<Self> {
        let account = ipc.account.clone();
        let (entries, shared, depth) = Default::default();
        Arc::new(Self { entries, shared, account, depth })
    }

    /// The set behind a descriptor, if it is one.
    pub fn of(file: &OpenFile) -> Option<&Self> {
        let any: &dyn Any = &*file.object;
        any.downcast_ref()
    }

    /// EPOLL_CTL_ADD.
    ///
    /// # Errors
    /// EEXIST, EPERM for files that are always ready, EINVAL for the set itself or bad flags, ELOOP when sets would nest
    /// in a circle or too deep, ENOMEM.
    pub fn add(&self, fd: Fd, file: &Arc<OpenFile>, interest: Interest, data: u64) -> Result<(), Errno> {
        if file.object.wait_queue().is_none() {
            return Err(Errno::PERM);
        }
        let inner = Self::of(file);
        if inner.is_some_and(|inner| std::ptr::eq(inner, self)) {
            return Err(Errno::INVAL);
        }
        if interest.contains(Interest::EXCLUSIVE)
            && (inner.is_some() || interest.contains(Interest::ONE_SHOT))
        {
            return Err(Errno::INVAL);
        }
        // Held until the entry is there: two threads must not close a circle together.
        let _nesting = inner.map(|inner| nesting::check(self, inner)).transpose()?;
        let mut entries = self.entries.lock();
        if entries.find(fd, file).is_some() {
            return Err(Errno::EXIST);
        }
        self.insert(&mut entries, fd, file, interest, data, false)?;
        drop(entries);
        self.shared.queue.notify();
        Ok(())
    }

    /// Puts an entry in and marks it if it is ready. The waker is registered before readiness is asked for, so nothing is
    /// missed in between.
    fn insert(
        &self,
        entries: &mut Entries,
        fd: Fd,
        file: &Arc<OpenFile>,
        interest: Interest,
        data: u64,
        disabled: bool,
    ) -> Result<EntryId, Errno> {
        let charge = self.account.charge(ENTRY_COST)?;
        let queue = file.object.wait_queue().ok_or(Errno::PERM)?;
        entries.last_id += 1;
        let id = entries.last_id;
        let waker = Arc::new(EntryWaker { entry: id, shared: self.shared.clone() });
        let as_wake: Arc<dyn Wake> = waker.clone();
        let registration = queue.add(Arc::downgrade(&as_wake));
        let (object, file_reference) = (Arc::downgrade(&file.object), Arc::downgrade(file));
        let entry = Entry {
            fd,
            file: file_reference,
            object,
            interest,
            data,
            disabled,
            registration,
            _waker: waker,
            _charge: charge,
        };
        if !entry.ready(file).is_empty() {
            self.shared.mark(id);
        }
        entries.by_id.insert(id, entry);
        Ok(id)
    }

    /// EPOLL_CTL_MOD.
    ///
    /// # Errors
    /// ENOENT, EINVAL for EPOLLEXCLUSIVE.
    pub fn modify(&self, fd: Fd, file: &Arc<OpenFile>, interest: Interest, data: u64) -> Result<(), Errno> {
        let mut entries = self.entries.lock();
        let id = entries.find(fd, file).ok_or(Errno::NOENT)?;
        let entry = entries.by_id.get_mut(&id).ok_or(Errno::NOENT)?;
        if interest.contains(Interest::EXCLUSIVE) || entry.interest.contains(Interest::EXCLUSIVE) {
            return Err(Errno::INVAL);
        }
        (entry.interest, entry.data, entry.disabled) = (interest, data, false);
        if !entry.ready(file).is_empty() {
            self.shared.mark(id);
            drop(entries);
            self.shared.queue.notify();
        }
        Ok(())
    }

    /// EPOLL_CTL_DEL.
    ///
    /// # Errors
    /// ENOENT.
    pub fn remove(&self, fd: Fd, file: &Arc<OpenFile>) -> Result<(), Errno> {
        let mut entries = self.entries.lock();
        let id = entries.find(fd, file).ok_or(Errno::NOENT)?;
        let removed = entries.by_id.remove(&id);
        drop(entries);
        drop(removed);
        Ok(())
    }

    /// Up to `limit` events.
    ///
    /// # Errors
    /// EAGAIN when nothing is ready.
    pub fn collect(&self, limit: usize) -> Result<Vec<Event>, Errno> {
        let mut events = Vec::new();
        let mut again = Vec::new();
        let (mut gone, mut upgraded) = (Vec::new(), Vec::new());
        let mut entries = self.entries.lock();
        // At most once around: entries marked meanwhile come with the next call.
        for _ in 0..self.shared.marked().len() {
            if events.len() == limit {
                break;
            }
            let Some(id) = self.shared.next() else { break };
            let Some(entry) = entries.by_id.get_mut(&id) else { continue };
            let Some(file) = entry.file.upgrade() else {
                gone.extend(entries.by_id.remove(&id));
                continue;
            };
            let ready = entry.ready(&file);
            // It may be the last reference by now: an object's end must not run while the lock is held.
            upgraded.push(file);
            if ready.is_empty() {
                continue;
            }
            events.push(Event { ready, data: entry.data });
            if entry.interest.contains(Interest::ONE_SHOT) {
                entry.disabled = true;
            } else if !entry.interest.contains(Interest::EDGE) {
                again.push(id);
            }
        }
        // Level-triggered entries stay until they are found not ready, behind those that were not reached.
        again.into_iter().for_each(|id| self.shared.mark(id));
        drop(entries);
        drop((gone, upgraded));
        if events.is_empty() { Err(Errno::AGAIN) } else { Ok(events) }
    }

    /// Forgets entries whose file is closed; their number is bounded by the account in the meantime.
    fn forget_closed(entries: &mut Entries) -> Vec<Entry> {
        let closed: Vec<_> = entries
            .by_id
            .iter()
            .filter(|(_, entry)| entry.file.strong_count() == 0)
            .map(|(id, _)| *id)
            .collect();
        closed.into_iter().filter_map(|id| entries.by_id.remove(&id)).collect()
    }

    /// The sets that are entries of this one.
    fn inner_sets(&self) -> Vec<Arc<OpenFile>> {
        let entries = self.entries.lock();
        let files: Vec<_> = entries.by_id.values().filter_map(|entry| entry.file.upgrade()).collect();
        drop(entries);
        files.into_iter().filter(|file| Self::of(file).is_some()).collect()
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: Vec<SavedEntry> = Restorer::decode(Self::KIND, payload)?;
        let epoll = Self::new(&restorer.context.ipc);
        let mut entries = epoll.entries.lock();
        for entry in saved {
            let bad = RestoreError::BadReference { id: entry.file.0, wanted: "file that can be polled" };
            let file = restorer.concrete::<OpenFile>(entry.file, "open file")?;
            let nesting = Self::of(&file).map(|inner| nesting::check(&epoll, inner)).transpose();
            let interest = Interest::from_bits_truncate(entry.interest);
            let id = nesting
                .and_then(|_| {
                    epoll.insert(&mut entries, entry.fd, &file, interest, entry.data, entry.disabled)
                })
                .map_err(|_| bad)?;
            // An edge that was reported before the snapshot must not be reported again, unless it is an end or error:
            // connections to the outside are reset by the restore.
            let ended = file.object.readiness().intersects(Readiness::HUP | Readiness::ERR);
            if interest.contains(Interest::EDGE) && !entry.marked && !ended {
                epoll.shared.unmark(id);
            }
        }
        drop(entries);
        Ok(epoll)
    }
}

impl Object for Epoll {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let mut entries = self.entries.lock();
        let closed = Self::forget_closed(&mut entries);
        let marked = self.shared.marked();
        let mut saved = Vec::new();
        for (id, entry) in &entries.by_id {
            let Some(file) = entry.file.upgrade() else { continue };
            saved.push(SavedEntry {
                fd: entry.fd,
                file: saver.save(file)?,
                interest: entry.interest.bits(),
                data: entry.data,
                disabled: entry.disabled,
                marked: marked.contains(id),
            });
        }
        drop(entries);
        drop(closed);
        saver.encode(Self::KIND, &saved)
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for Epoll {
    fn stat(&self) -> Result<Stat, Errno> {
        Ok(anonymous::stat())
    }

    fn readiness(&self) -> Readiness {
        let mut upgraded = Vec::new();
        let entries = self.entries.lock();
        // What is found not ready stays marked: the next collection takes it off.
        let any = self.shared.marked().iter().any(|id| {
            let Some(entry) = entries.by_id.get(id) else { return false };
            let Some(file) = entry.file.upgrade() else { return false };
            let ready = entry.ready(&file);
            upgraded.push(file);
            !ready.is_empty()
        });
        drop(entries);
        drop(upgraded);
        if any { Readiness::IN | Readiness::RDNORM } else { Readiness::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.shared.queue)
    }

    fn describe(&self) -> String {
        "anon_inode:[eventpoll]".to_owned()
    }
}

#[cfg(test)]
mod tests;
