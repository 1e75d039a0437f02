//! The folder that becomes an image, looked at once.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::format::Kind;

/// An image that can't be made.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Something can't be read.
    #[error("reading {} failed", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image can't be written.
    #[error("writing the image {} failed", path.display())]
    Write {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A device, pipe or socket.
    #[error("{} is no file, folder or symbolic link, and so can't be in an image", path.display())]
    Special {
        /// What.
        path: PathBuf,
    },
    /// A file changed its length while it was read.
    #[error("{} changed while the image was made", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// More than an image can hold.
    #[error("the folder is larger than 16 TiB")]
    TooLarge,
}

/// What a node of the tree holds.
#[derive(Debug)]
pub(crate) enum Content {
    /// A file's bytes, read again when they are written.
    File(PathBuf),
    /// The target of a symbolic link.
    Link(Vec<u8>),
    /// Names and the numbers of their nodes, `.` and `..` included, in order.
    Entries(Vec<(Vec<u8>, usize)>),
}

/// A file, folder or link.
#[derive(Debug)]
pub(crate) struct Node {
    pub kind: Kind,
    pub permissions: u16,
    pub size: u64,
    pub links: u32,
    pub content: Content,
}

/// The nodes of the tree; the root is the first.
pub(crate) fn read(folder: &Path) -> Result<Vec<Node>, ImageError> {
    let mut root = directory_node(&look(folder)?);
    // Its `..`, which is itself.
    root.links += 1;
    let mut nodes = vec![root];
    // Files with several names are one node.
    let mut known = HashMap::new();
    let mut open = vec![(folder.to_owned(), 0, 0)];
    while let Some((path, number, parent)) = open.pop() {
        let mut entries = vec![(b".".to_vec(), number), (b"..".to_vec(), parent)];
        for name in names(&path)? {
            let child = path.join(&name);
            let about = look(&child)?;
            let identity = (about.dev(), about.ino());
            let found = known.get(&identity).copied();
            let at = match found {
                Some(at) => at,
                None => {
                    let at = nodes.len();
                    nodes.push(node(&child, &about)?);
                    if about.is_dir() {
                        open.push((child, at, number));
                    } else {
                        known.insert(identity, at);
                    }
                    at
                }
            };
            if let Some(node) = nodes.get_mut(at) {
                node.links += 1;
            }
            if about.is_dir()
                && let Some(node) = nodes.get_mut(number)
            {
                // The child's `..`.
                node.links += 1;
            }
            entries.push((name.into_vec(), at));
        }
        entries.sort();
        if let Some(node) = nodes.get_mut(number) {
            node.content = Content::Entries(entries);
        }
    }
    Ok(nodes)
}

fn look(path: &Path) -> Result<Metadata, ImageError> {
    fs::symlink_metadata(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })
}

/// In order, so that nodes are numbered the same way each time.
fn names(path: &Path) -> Result<Vec<OsString>, ImageError> {
    let failed = |source| ImageError::Read { path: path.to_owned(), source };
    let entries = fs::read_dir(path).map_err(failed)?;
    let mut names: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    names.sort();
    Ok(names)
}

fn directory_node(about: &Metadata) -> Node {
    Node {
        kind: Kind::Directory,
        permissions: (about.mode() & 0o7777) as u16,
        size: 0,
        links: 1,
        content: Content::Entries(Vec::new()),
    }
}

fn node(path: &Path, about: &Metadata) -> Result<Node, ImageError> {
    let permissions = (about.mode() & 0o7777) as u16;
    if about.is_dir() {
        Ok(directory_node(about))
    } else if about.is_symlink() {
        let target =
            fs::read_link(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
        let target = target.as_os_str().as_bytes().to_vec();
        let size = target.len() as u64;
        Ok(Node { kind: Kind::Symlink, permissions, size, links: 0, content: Content::Link(target) })
    } else if about.is_file() {
        let content = Content::File(path.to_owned());
        Ok(Node { kind: Kind::Regular, permissions, size: about.len(), links: 0, content })
    } else {
        Err(ImageError::Special { path: path.to_owned() })
    }
}

/// Opens a file that was found, not following a link that may have taken its place.
pub(crate) fn open(path: &Path) -> Result<File, ImageError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| ImageError::Read { path: path.to_owned(), source: errno.into() })
}
