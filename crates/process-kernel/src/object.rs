//! How kernel objects are written into a snapshot and made again from one.
//!
//! Every object that outlives a system call (an open file, an inode, a pipe's buffer, an epoll set) implements [`Object`].
//! [`Saver`] gives each one a number the first time it is met, so objects that are shared stay shared. An object's payload
//! is its own affair: plain serde data in which other objects stand as [`ObjectId`]s. References must not form a cycle: two
//! ends of a pipe both refer to its buffer, never to each other.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::file::{FileObject, Mappable};
use crate::fs::Inode;

/// The number that stands for an object inside one snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(pub u32);

/// An object that can't be saved, and why.
#[derive(Debug, Error)]
pub enum SaveError {
    /// The object has no snapshot rule (for example a file descriptor inherited from the caller).
    #[error("{object} can't be part of a snapshot: {reason}")]
    NotSnapshotable {
        /// What it is, as /proc/self/fd would name it.
        object: String,
        /// Why not, and what to do.
        reason: &'static str,
    },
    /// The payload could not be encoded.
    #[error("encoding the state of a {kind}")]
    Encode {
        /// The object's kind.
        kind: &'static str,
        /// The encoder's error.
        #[source]
        source: postcard::Error,
    },
    /// Reading an object's contents failed.
    #[error("reading the contents of {object}")]
    Contents {
        /// What it is.
        object: String,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
}

/// Saved state that can't be made into objects again.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The payload does not decode.
    #[error("the saved state of {what} does not decode")]
    Decode {
        /// Which object.
        what: String,
        /// The decoder's error.
        #[source]
        source: postcard::Error,
    },
    /// A number that no saved object has, or an object of another kind than its user expects, or a cycle.
    #[error("saved object {id} is not a usable {wanted}")]
    BadReference {
        /// The number.
        id: u32,
        /// What was expected there.
        wanted: &'static str,
    },
    /// A file that the snapshot refers to is missing or changed.
    #[error("{path}, which the snapshot was taken with, {problem}; make the snapshot again")]
    FileChanged {
        /// Path inside the guest.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The host refused something.
    #[error("making {what} again")]
    Host {
        /// What was being made.
        what: &'static str,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
}

/// One saved object: its kind (the registry key) and payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedObject {
    /// Registry key, e.g. "pipe-buffer".
    pub kind: String,
    /// The kind's own encoding.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// An object with a snapshot rule.
pub trait Object: Any + Send + Sync {
    /// Registry key of this kind; constant per type.
    fn kind(&self) -> &'static str;

    /// The payload, made with [`Saver::encode`]; other objects are put in with [`Saver::save`].
    ///
    /// # Errors
    /// [`SaveError`] when the object can't be part of a snapshot.
    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError>;

    /// The object as an open file's object, if it is one; implement it in every [`FileObject`].
    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        None
    }

    /// The object as something that can be mapped into memory, if it is.
    fn as_mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        None
    }

    /// The object as an inode of a file system, if it is one.
    fn as_inode(self: Arc<Self>) -> Option<Arc<dyn Inode>> {
        None
    }
}

/// Collects objects while a snapshot is taken.
#[derive(Default)]
pub struct Saver {
    objects: Vec<SavedObject>,
    /// Keyed by the data address of the Arc; the Arc is kept alive here so that no address is used twice.
    known: HashMap<usize, (ObjectId, Arc<dyn Any + Send + Sync>)>,
    /// Addresses of the objects being saved right now, outermost first.
    open: Vec<usize>,
}

/// How deep objects may refer to objects. A guest can nest epoll sets and send sockets through sockets; the depth bounds
/// the recursion of saving, and so of restoring.
const MAX_DEPTH: usize = 64;

impl Saver {
    /// Saves `object` unless it was saved before, and returns its number. `Arc<dyn FileObject>` and the like coerce.
    ///
    /// # Errors
    /// As [`Object::save`].
    pub fn save(&mut self, object: Arc<dyn Object>) -> Result<ObjectId, SaveError> {
        let address = Arc::as_ptr(&object).cast::<()>() as usize;
        if let Some((id, _)) = self.known.get(&address) {
            return Ok(*id);
        }
        let refuse = |reason| SaveError::NotSnapshotable { object: object.kind().to_owned(), reason };
        if self.open.contains(&address) {
            return Err(refuse(
                "it is reachable from itself (a socket sent through itself); close one of the two",
            ));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(refuse("more than 64 objects are nested in each other"));
        }
        self.open.push(address);
        let payload = object.save(self);
        self.open.pop();
        let payload = payload?;
        let id = ObjectId(self.objects.len() as u32);
        self.objects.push(SavedObject { kind: object.kind().to_owned(), payload });
        self.known.insert(address, (id, object));
        Ok(id)
    }

    /// Encodes a payload.
    ///
    /// # Errors
    /// [`SaveError::Encode`].
    pub fn encode<T: Serialize>(&self, kind: &'static str, state: &T) -> Result<Vec<u8>, SaveError> {
        postcard::to_stdvec(state).map_err(|source| SaveError::Encode { kind, source })
    }

    /// All objects in the order of their numbers.
    pub fn finish(self) -> Vec<SavedObject> {
        self.objects
    }
}

/// Makes one object of a kind again from its payload.
pub type RestoreFn = fn(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError>;

/// Makes objects again from a snapshot, each once.
pub struct Restorer<'a> {
    saved: &'a [SavedObject],
    made: HashMap<ObjectId, Arc<dyn Object>>,
    /// The environment that objects are made in (file systems, hooks).
    pub context: &'a RestoreContext,
    registry: &'a HashMap<&'static str, RestoreFn>,
    depth: usize,
}

/// What objects need from the process that is being restored.
pub struct RestoreContext {
    /// The mounted file systems.
    pub vfs: Arc<crate::fs::Vfs>,
    /// The guest's clocks, already set to go on.
    pub clock: Arc<crate::clock::Clock>,
    /// The guest's network.
    pub network: Arc<crate::net::Network>,
    /// What pipes, timers, sockets and their kin share.
    pub ipc: Arc<crate::ipc::Ipc>,
}

impl<'a> Restorer<'a> {
    /// A restorer over `saved`.
    pub fn new(
        saved: &'a [SavedObject],
        context: &'a RestoreContext,
        registry: &'a HashMap<&'static str, RestoreFn>,
    ) -> Self {
        Self { saved, made: HashMap::new(), context, registry, depth: 0 }
    }

    /// The object with number `id`, made now if it wasn't before. Objects refer only to lower numbers, so a damaged
    /// snapshot can't make this recurse for ever.
    ///
    /// # Errors
    /// [`RestoreError`] when it doesn't decode or is no object of a known kind.
    pub fn object(&mut self, id: ObjectId) -> Result<Arc<dyn Object>, RestoreError> {
        if let Some(made) = self.made.get(&id) {
            return Ok(made.clone());
        }
        let bad = RestoreError::BadReference { id: id.0, wanted: "object" };
        let Some(saved) = self.saved.get(id.0 as usize) else { return Err(bad) };
        let Some(restore) = self.registry.get(saved.kind.as_str()) else { return Err(bad) };
        if self.depth > MAX_DEPTH {
            return Err(bad);
        }
        // An object is saved after everything that it refers to: shrinking the view makes a cycle impossible.
        let whole = self.saved;
        self.saved = &whole[..id.0 as usize];
        self.depth += 1;
        let made = restore(&saved.payload, self);
        self.depth -= 1;
        self.saved = whole;
        let made = made?;
        self.made.insert(id, made.clone());
        Ok(made)
    }

    /// As [`Restorer::object`], as the concrete type `T`.
    ///
    /// # Errors
    /// [`RestoreError::BadReference`] when the object is of another type.
    pub fn concrete<T: Object>(
        &mut self,
        id: ObjectId,
        wanted: &'static str,
    ) -> Result<Arc<T>, RestoreError> {
        let object: Arc<dyn Any + Send + Sync> = self.object(id)?;
        object.downcast::<T>().map_err(|_| RestoreError::BadReference { id: id.0, wanted })
    }

    /// As [`Restorer::object`], as an open file's object.
    ///
    /// # Errors
    /// [`RestoreError::BadReference`] when the object is something else.
    pub fn file(&mut self, id: ObjectId) -> Result<Arc<dyn FileObject>, RestoreError> {
        self.object(id)?.as_file().ok_or(RestoreError::BadReference { id: id.0, wanted: "file" })
    }

    /// As [`Restorer::object`], as something mappable.
    ///
    /// # Errors
    /// [`RestoreError::BadReference`] when the object is something else.
    pub fn mappable(&mut self, id: ObjectId) -> Result<Arc<dyn Mappable>, RestoreError> {
        self.object(id)?.as_mappable().ok_or(RestoreError::BadReference { id: id.0, wanted: "mappable file" })
    }

    /// As [`Restorer::object`], as an inode.
    ///
    /// # Errors
    /// [`RestoreError::BadReference`] when the object is something else.
    pub fn inode(&mut self, id: ObjectId) -> Result<Arc<dyn Inode>, RestoreError> {
        self.object(id)?.as_inode().ok_or(RestoreError::BadReference { id: id.0, wanted: "inode" })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`RestoreError::Decode`].
    pub fn decode<T: DeserializeOwned>(what: &str, payload: &[u8]) -> Result<T, RestoreError> {
        postcard::from_bytes(payload).map_err(|source| RestoreError::Decode { what: what.to_owned(), source })
    }
}
