//! A tree in memory inside a snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::Tmpfs;
use super::contents::{Contents, Seals};
use super::tree::{Directory, Ino, Kind, Node, ROOT, Time, Tree};
use crate::file::{Destination, Origin};
use crate::object::{RestoreError, SaveError};

/// A tree's saved form: its nodes, those without a name included if they are in use.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct SavedTmpfs {
    next: Ino,
    nodes: Vec<SavedNode>,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
struct SavedNode {
    ino: Ino,
    mode: u32,
    uid: u32,
    gid: u32,
    atime: Time,
    mtime: Time,
    ctime: Time,
    linkable: bool,
    label: Option<ByteBuf>,
    kind: SavedKind,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
enum SavedKind {
    Regular {
        size: u64,
        /// `None` when the file can't be sealed.
        seals: Option<u32>,
        /// Runs of bytes that are not all zero, by offset.
        runs: Vec<(u64, ByteBuf)>,
    },
    Directory {
        parent: Ino,
        name: ByteBuf,
        entries: Vec<(ByteBuf, Ino)>,
    },
    Symlink(ByteBuf),
    Socket,
}

/// Bytes looked at in one piece; pages of zeros inside are left out.
const PIECE: usize = 1 << 20;
const PAGE: usize = 4096;

/// The runs of a file that are not zero.
fn runs_of(contents: &Contents) -> Result<Vec<(u64, ByteBuf)>, Errno> {
    let mut runs: Vec<(u64, ByteBuf)> = Vec::new();
    let mut at = 0;
    let mut piece = vec![0; PIECE];
    loop {
        at = match contents.seek_data(at, false) {
            Ok(data) => data / PAGE as u64 * PAGE as u64,
            Err(Errno::NXIO) => return Ok(runs),
            Err(error) => return Err(error),
        };
        let count = contents.read(at, &mut Destination::Own(&mut piece))?;
        if count == 0 {
            return Ok(runs);
        }
        for (index, page) in piece.get(..count).unwrap_or_default().chunks(PAGE).enumerate() {
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            let offset = at + (index * PAGE) as u64;
            match runs.last_mut() {
                Some((start, bytes)) if *start + bytes.len() as u64 == offset => {
                    bytes.extend_from_slice(page)
                }
                _ => runs.push((offset, ByteBuf::from(page))),
            }
        }
        at += count as u64;
    }
}

fn save_node(ino: Ino, node: &Node) -> Result<SavedNode, Errno> {
    let kind = match &node.kind {
        Kind::Regular(contents) => SavedKind::Regular {
            size: contents.size(),
            seals: contents.sealable().then(|| contents.seals().bits()),
            runs: runs_of(contents)?,
        },
        Kind::Directory(directory) => SavedKind::Directory {
            parent: directory.parent,
            name: ByteBuf::from(directory.name.clone()),
            entries: directory
                .entries
                .iter()
                .map(|(name, ino)| (ByteBuf::from(name.clone()), *ino))
                .collect(),
        },
        Kind::Symlink(target) => SavedKind::Symlink(ByteBuf::from(target.clone())),
        Kind::Socket => SavedKind::Socket,
    };
    Ok(SavedNode {
        ino,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        atime: node.atime,
        mtime: node.mtime,
        ctime: node.ctime,
        linkable: node.linkable,
        label: node.label.clone().map(ByteBuf::from),
        kind,
    })
}

impl Tmpfs {
    /// The tree's saved form. The guest's threads are at rest.
    ///
    /// # Errors
    /// [`SaveError::Contents`] when a file's bytes can't be read.
    pub fn save(&self) -> Result<SavedTmpfs, SaveError> {
        let tree = self.tree.lock();
        let mut nodes = Vec::with_capacity(tree.nodes.len());
        for (ino, node) in &tree.nodes {
            let saved = save_node(*ino, node).map_err(|errno| SaveError::Contents {
                object: format!("file {ino} of {}", self.mounted_at),
                source: errno.into(),
            })?;
            nodes.push(saved);
        }
        nodes.sort_unstable_by_key(|node| node.ino);
        Ok(SavedTmpfs { next: tree.next, nodes })
    }

    /// Replaces the tree, which is fresh, by a saved one. Files without a name stay until the objects that use them are
    /// restored and closed.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged or does not fit in the tree's limits.
    pub fn restore(&self, saved: SavedTmpfs) -> Result<(), RestoreError> {
        let damaged = || RestoreError::Host {
            what: "the files in memory",
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, "their saved form is damaged"),
        };
        if saved.nodes.len() as u64 > self.limits.inodes {
            return Err(damaged());
        }
        let mut tree = Tree { nodes: HashMap::new(), next: saved.next.max(ROOT + 1), extra_links: 0 };
        for node in saved.nodes {
            if node.ino == 0 || node.ino >= tree.next {
                return Err(damaged());
            }
            let ino = node.ino;
            let made = self
                .restore_node(node)
                .map_err(|errno| RestoreError::Host { what: "the files in memory", source: errno.into() })?;
            if tree.nodes.insert(ino, made).is_some() {
                return Err(damaged());
            }
        }
        count_links(&mut tree).ok_or_else(damaged)?;
        check_parents(&tree).ok_or_else(damaged)?;
        *self.tree.lock() = tree;
        Ok(())
    }

    fn restore_node(&self, saved: SavedNode) -> Result<Node, Errno> {
        let kind = match saved.kind {
            SavedKind::Regular { size, seals, runs } => {
                let contents = Contents::new(self.space.clone(), seals.is_some());
                contents.truncate(size)?;
                for (offset, bytes) in runs {
                    if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > size) {
                        return Err(Errno::INVAL);
                    }
                    let mut from = Origin::Own(&bytes);
                    while from.remaining() > 0 {
                        let done = (bytes.len() - from.remaining()) as u64;
                        contents.write(offset + done, &mut from)?;
                    }
                }
                if let Some(seals) = seals.filter(|seals| *seals != 0) {
                    contents.add_seals(Seals::from_bits_truncate(seals))?;
                }
                Kind::Regular(Arc::new(contents))
            }
            SavedKind::Directory { parent, name, entries } => Kind::Directory(Directory {
                entries: entries
                    .into_iter()
                    .map(|(name, ino)| (name.into_vec(), ino))
                    .collect::<BTreeMap<_, _>>(),
                parent,
                name: name.into_vec(),
            }),
            SavedKind::Symlink(target) => Kind::Symlink(target.into_vec()),
            SavedKind::Socket => Kind::Socket,
        };
        Ok(Node {
            mode: saved.mode & 0o7777,
            uid: saved.uid,
            gid: saved.gid,
            atime: saved.atime,
            mtime: saved.mtime,
            ctime: saved.ctime,
            links: 0,
            handles: 0,
            linkable: saved.linkable,
            label: saved.label.map(ByteBuf::into_vec),
            kind,
        })
    }
}

/// Counts every node's names. `None` when an entry leads nowhere or a directory has two.
fn count_links(tree: &mut Tree) -> Option<()> {
    let entries: Vec<(Ino, Vec<u8>, Ino)> = tree
        .nodes
        .iter()
        .filter_map(|(ino, node)| Some((ino, node.directory().ok()?)))
        .flat_map(|(ino, directory)| {
            directory.entries.iter().map(move |(name, to)| (*ino, name.clone(), *to))
        })
        .collect();
    for (parent, name, ino) in entries {
        let node = tree.nodes.get_mut(&ino)?;
        node.links += 1;
        if node.links > 1 {
            tree.extra_links += 1;
        }
        if let Kind::Directory(directory) = &node.kind {
            let consistent = directory.parent == parent && directory.name == name && node.links == 1;
            if !consistent || ino == ROOT {
                return None;
            }
        }
    }
    let root = tree.nodes.get_mut(&ROOT)?;
    root.links = 1;
    root.directory().ok().map(drop)
}

/// Makes sure that every directory's way up ends: at the top, or at a removed one that is gone.
fn check_parents(tree: &Tree) -> Option<()> {
    let mut good = HashSet::from([ROOT]);
    for (start, node) in &tree.nodes {
        let mut way = Vec::new();
        let mut next = node.directory().is_ok().then_some(*start);
        while let Some(ino) = next.filter(|ino| !good.contains(ino)) {
            if way.len() > tree.nodes.len() {
                return None;
            }
            way.push(ino);
            next = tree.nodes.get(&ino).and_then(|node| Some(node.directory().ok()?.parent));
        }
        good.extend(way);
    }
    Some(())
}
