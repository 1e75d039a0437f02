//! The nodes of a tree in memory, and the rules for their names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustix::io::Errno;

use super::contents::{Contents, Space};
use crate::fs::{FileType, RenameMode};

/// A node's number.
pub(super) type Ino = u64;

/// The top's number.
pub(super) const ROOT: Ino = 1;

/// File times: seconds and nanoseconds.
pub(super) type Time = (i64, u32);

/// A file, directory or link.
pub(super) struct Node {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    /// Names that lead here.
    pub links: u64,
    /// References from outside the tree.
    pub handles: u64,
    /// Whether it may be given a first name (O_TMPFILE).
    pub linkable: bool,
    /// What /proc shows for a file that never had a name.
    pub label: Option<Vec<u8>>,
    pub kind: Kind,
}

/// What a node is.
pub(super) enum Kind {
    Regular(Arc<Contents>),
    Directory(Directory),
    Symlink(Vec<u8>),
    Socket,
}

#[derive(Default)]
pub(super) struct Directory {
    pub entries: BTreeMap<Vec<u8>, Ino>,
    /// The directory above; its own number at the top.
    pub parent: Ino,
    /// Its name there.
    pub name: Vec<u8>,
}

impl Node {
    pub fn file_type(&self) -> FileType {
        match self.kind {
            Kind::Regular(_) => FileType::Regular,
            Kind::Directory(_) => FileType::Directory,
            Kind::Symlink(_) => FileType::Symlink,
            Kind::Socket => FileType::Socket,
        }
    }

    pub fn directory(&self) -> Result<&Directory, Errno> {
        match &self.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn directory_mut(&mut self) -> Result<&mut Directory, Errno> {
        match &mut self.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }
}

/// All nodes.
pub(super) struct Tree {
    pub nodes: HashMap<Ino, Node>,
    pub next: Ino,
    /// The sum of all nodes' names beyond their first.
    pub extra_links: u64,
}

impl Tree {
    pub fn new(mode: u32, now: Time) -> Self {
        let mut tree = Self { nodes: HashMap::new(), next: ROOT, extra_links: 0 };
        let directory = Directory { parent: ROOT, ..Directory::default() };
        tree.add(mode, (0, 0), now, Kind::Directory(directory));
        tree.root_mut().links = 1;
        tree
    }

    /// What counts against the limit of inodes.
    pub fn weight(&self) -> u64 {
        self.nodes.len() as u64 + self.extra_links
    }

    pub fn get(&self, ino: Ino) -> Result<&Node, Errno> {
        self.nodes.get(&ino).ok_or(Errno::NOENT)
    }

    pub fn get_mut(&mut self, ino: Ino) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&ino).ok_or(Errno::NOENT)
    }

    pub fn root_mut(&mut self) -> &mut Node {
        self.nodes.entry(ROOT).or_insert_with(|| Node {
            mode: 0o755,
            uid: 0,
            gid: 0,
            atime: (0, 0),
            mtime: (0, 0),
            ctime: (0, 0),
            links: 1,
            handles: 0,
            linkable: false,
            label: None,
            kind: Kind::Directory(Directory { parent: ROOT, ..Directory::default() }),
        })
    }

    /// A node without a name.
    pub fn add(&mut self, mode: u32, (uid, gid): (u32, u32), now: Time, kind: Kind) -> Ino {
        let ino = self.next;
        self.next += 1;
        let node = Node {
            mode,
            uid,
            gid,
            atime: now,
            mtime: now,
            ctime: now,
            links: 0,
            handles: 0,
            linkable: false,
            label: None,
            kind,
        };
        self.nodes.insert(ino, node);
        ino
    }

    pub fn add_regular(
        &mut self,
        mode: u32,
        owner: (u32, u32),
        now: Time,
        space: Arc<Space>,
        sealable: bool,
    ) -> Ino {
        self.add(mode, owner, now, Kind::Regular(Arc::new(Contents::new(space, sealable))))
    }

    pub fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Ino, Errno> {
        self.get(directory)?.directory()?.entries.get(name).copied().ok_or(Errno::NOENT)
    }

    /// # Errors
    /// ENOENT when the directory is deleted, EEXIST when it has the name.
    pub fn check_new_name(&self, directory: Ino, name: &[u8]) -> Result<(), Errno> {
        let node = self.get(directory)?;
        if node.links == 0 {
            return Err(Errno::NOENT);
        }
        if node.directory()?.entries.contains_key(name) { Err(Errno::EXIST) } else { Ok(()) }
    }

    /// Gives `ino` the name `name`, which is free.
    pub fn attach(&mut self, directory: Ino, name: &[u8], ino: Ino, now: Time) -> Result<(), Errno> {
        let node = self.get_mut(ino)?;
        node.links += 1;
        node.ctime = now;
        node.linkable = false;
        node.label = None;
        if node.links > 1 {
            self.extra_links += 1;
        }
        self.insert_entry(directory, name, ino, now)
    }

    fn insert_entry(&mut self, directory: Ino, name: &[u8], ino: Ino, now: Time) -> Result<(), Errno> {
        if let Kind::Directory(moved) = &mut self.get_mut(ino)?.kind {
            moved.parent = directory;
            moved.name = name.to_vec();
        }
        let parent = self.get_mut(directory)?;
        parent.directory_mut()?.entries.insert(name.to_vec(), ino);
        parent.mtime = now;
        parent.ctime = now;
        Ok(())
    }

    fn remove_entry(&mut self, directory: Ino, name: &[u8], now: Time) -> Result<(), Errno> {
        let parent = self.get_mut(directory)?;
        parent.directory_mut()?.entries.remove(name);
        parent.mtime = now;
        parent.ctime = now;
        Ok(())
    }

    /// Takes one name of `ino` away, and the node with its last name and reference.
    fn drop_link(&mut self, ino: Ino, now: Time) {
        if let Ok(node) = self.get_mut(ino) {
            node.links = node.links.saturating_sub(1);
            node.ctime = now;
            if node.links > 0 {
                self.extra_links = self.extra_links.saturating_sub(1);
            }
            self.forget_if_unused(ino);
        }
    }

    /// Removes a node that neither a name nor a reference leads to.
    pub fn forget_if_unused(&mut self, ino: Ino) {
        if self.nodes.get(&ino).is_some_and(|node| node.links == 0 && node.handles == 0) {
            self.nodes.remove(&ino);
        }
    }

    pub fn unlink(&mut self, directory: Ino, name: &[u8], now: Time) -> Result<(), Errno> {
        let ino = self.lookup(directory, name)?;
        if self.get(ino)?.file_type() == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        self.remove_entry(directory, name, now)?;
        self.drop_link(ino, now);
        Ok(())
    }

    pub fn remove_directory(&mut self, directory: Ino, name: &[u8], now: Time) -> Result<(), Errno> {
        let ino = self.lookup(directory, name)?;
        if !self.get(ino)?.directory()?.entries.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.remove_entry(directory, name, now)?;
        self.drop_link(ino, now);
        Ok(())
    }

    /// Whether `ino` is `ancestor` or lies below it.
    fn is_below(&self, mut ino: Ino, ancestor: Ino) -> Result<bool, Errno> {
        loop {
            if ino == ancestor {
                return Ok(true);
            }
            if ino == ROOT {
                return Ok(false);
            }
            ino = self.get(ino)?.directory()?.parent;
        }
    }

    pub fn rename(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        now: Time,
    ) -> Result<(), Errno> {
        let moved = self.lookup(from.0, from.1)?;
        if self.get(to.0)?.links == 0 {
            return Err(Errno::NOENT);
        }
        let existing = self.lookup(to.0, to.1).ok();
        let moves_directory = self.get(moved)?.file_type() == FileType::Directory;
        if moves_directory && self.is_below(to.0, moved)? {
            return Err(Errno::INVAL);
        }
        match (existing, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Errno::EXIST),
            (None, RenameMode::Exchange) => return Err(Errno::NOENT),
            // Two names of one file: nothing happens, both stay (POSIX).
            (Some(existing), _) if existing == moved => return Ok(()),
            (Some(existing), RenameMode::Exchange) => {
                let is_directory = self.get(existing)?.file_type() == FileType::Directory;
                if is_directory && self.is_below(from.0, existing)? {
                    return Err(Errno::INVAL);
                }
                self.insert_entry(to.0, to.1, moved, now)?;
                self.insert_entry(from.0, from.1, existing, now)?;
                self.get_mut(existing)?.ctime = now;
            }
            (Some(existing), RenameMode::Replace) => {
                match self.get(existing)?.directory() {
                    Ok(_) if !moves_directory => return Err(Errno::ISDIR),
                    Ok(directory) if !directory.entries.is_empty() => return Err(Errno::NOTEMPTY),
                    Err(_) if moves_directory => return Err(Errno::NOTDIR),
                    _ => {}
                }
                self.remove_entry(from.0, from.1, now)?;
                self.insert_entry(to.0, to.1, moved, now)?;
                self.drop_link(existing, now);
            }
            (None, _) => {
                self.remove_entry(from.0, from.1, now)?;
                self.insert_entry(to.0, to.1, moved, now)?;
            }
        }
        self.get_mut(moved)?.ctime = now;
        Ok(())
    }
}
