//! Path walking: from a path to a [`Place`], one component at a time.

use std::sync::Arc;

use bitflags::bitflags;
use rustix::io::Errno;

use super::{Caller, FileType, Link, NAME_MAX, PATH_MAX, Permission, Place, Vfs};

/// Symbolic links followed in one walk (Linux's limit).
const MAX_LINKS: u32 = 40;

bitflags! {
    /// How a path is walked. The RESOLVE_* bits have openat2's values.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Walk: u32 {
        /// RESOLVE_NO_XDEV: stay on the mount.
        const NO_XDEV = 0x01;
        /// RESOLVE_NO_MAGICLINKS
        const NO_MAGICLINKS = 0x02;
        /// RESOLVE_NO_SYMLINKS
        const NO_SYMLINKS = 0x04;
        /// RESOLVE_BENEATH: never leave the start.
        const BENEATH = 0x08;
        /// RESOLVE_IN_ROOT: the start is "/".
        const IN_ROOT = 0x10;
        /// The last component, if it is a symbolic link, is followed.
        const FOLLOW = 0x1_0000;
    }
}

/// The last component of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Last {
    /// A name in the parent directory.
    Name(Arc<[u8]>),
    /// The path ended in ".".
    Dot,
    /// The path ended in "..".
    DotDot,
    /// The path was only slashes, or a magic link was followed.
    None,
}

/// Where a walk ended.
pub struct Walked {
    /// The directory that the last name is looked up in.
    pub parent: Place,
    /// The last component.
    pub last: Last,
    /// The file; `None` when the parent has no such entry.
    pub target: Option<Place>,
    /// The path ended in a slash: only a directory will do.
    pub directory: bool,
}

impl Walked {
    /// The file.
    ///
    /// # Errors
    /// ENOENT when there is none, ENOTDIR when a directory was meant.
    pub fn found(self) -> Result<Place, Errno> {
        let target = self.target.ok_or(Errno::NOENT)?;
        if self.directory && !target.is_directory() {
            return Err(Errno::NOTDIR);
        }
        Ok(target)
    }

    /// The name under which a file is to be made.
    ///
    /// # Errors
    /// EEXIST when something is there.
    pub fn new_name(&self) -> Result<Arc<[u8]>, Errno> {
        match (&self.last, &self.target) {
            (Last::Name(name), None) => Ok(name.clone()),
            _ => Err(Errno::EXIST),
        }
    }
}

/// A path being walked: the original or a link's target.
struct Frame {
    path: Arc<[u8]>,
    at: usize,
}

impl Frame {
    /// Skips slashes and takes the next component.
    fn next(&mut self) -> Option<(usize, usize)> {
        while self.path.get(self.at) == Some(&b'/') {
            self.at += 1;
        }
        let start = self.at;
        while self.path.get(self.at).is_some_and(|byte| *byte != b'/') {
            self.at += 1;
        }
        (self.at > start).then_some((start, self.at))
    }

    /// Whether only slashes are left.
    fn is_done(&self) -> bool {
        self.path.iter().skip(self.at).all(|byte| *byte == b'/')
    }
}

impl Vfs {
    /// Walks `path` from `start`.
    ///
    /// # Errors
    /// ENOENT (also for an empty path), ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, and EXDEV when a restriction in `flags`
    /// is violated.
    pub fn walk(&self, caller: &Caller, start: &Place, path: &[u8], flags: Walk) -> Result<Walked, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        Walker { vfs: self, caller, start, flags, links: 0 }.run(path)
    }
}

struct Walker<'a> {
    vfs: &'a Vfs,
    caller: &'a Caller,
    start: &'a Place,
    flags: Walk,
    links: u32,
}

impl Walker<'_> {
    /// Where an absolute path begins.
    fn root(&self) -> Result<Place, Errno> {
        if self.flags.contains(Walk::BENEATH) {
            return Err(Errno::XDEV);
        }
        if self.flags.contains(Walk::IN_ROOT) {
            return Ok(self.start.clone());
        }
        let root = self.vfs.root();
        self.same_mount(self.start, &root)?;
        Ok(root)
    }

    fn same_mount(&self, from: &Place, to: &Place) -> Result<(), Errno> {
        if self.flags.contains(Walk::NO_XDEV) && !Arc::ptr_eq(&from.mount, &to.mount) {
            return Err(Errno::XDEV);
        }
        Ok(())
    }

    fn up(&self, from: &Place) -> Result<Place, Errno> {
        if self.flags.intersects(Walk::BENEATH | Walk::IN_ROOT) && from.is(self.start) {
            return if self.flags.contains(Walk::BENEATH) { Err(Errno::XDEV) } else { Ok(from.clone()) };
        }
        let parent = self.vfs.parent(from)?;
        self.same_mount(from, &parent)?;
        Ok(parent)
    }

    /// Whether `name` may be looked up in `current`.
    fn may_look_up(&self, current: &Place, name: &[u8]) -> Result<(), Errno> {
        if !current.is_directory() {
            return Err(Errno::NOTDIR);
        }
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.caller.may(&current.inode.metadata()?, Permission::EXECUTE)
    }

    fn run(&mut self, path: &[u8]) -> Result<Walked, Errno> {
        let mut frames = vec![Frame { path: Arc::from(path), at: 0 }];
        let mut current = if path.first() == Some(&b'/') { self.root()? } else { self.start.clone() };
        let mut parent = current.clone();
        let mut last = Last::None;
        let mut directory = path.last() == Some(&b'/');
        let mut missing = false;
        while let Some(frame) = frames.last_mut() {
            let Some((from, to)) = frame.next() else {
                frames.pop();
                continue;
            };
            let path = frame.path.clone();
            let name = path.get(from..to).unwrap_or_default();
            if missing {
                return Err(Errno::NOENT);
            }
            self.may_look_up(&current, name)?;
            match name {
                b"." => {
                    last = Last::Dot;
                    parent = current.clone();
                    continue;
                }
                b".." => {
                    last = Last::DotDot;
                    current = self.up(&current)?;
                    parent = current.clone();
                    continue;
                }
                _ => {}
            }
            let is_last = frames.iter().all(Frame::is_done);
            let next = match self.vfs.step(&current, name) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    missing = true;
                    last = Last::Name(Arc::from(name));
                    parent = current.clone();
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.same_mount(&current, &next)?;
            if next.inode.file_type() == FileType::Symlink
                && (!is_last || directory || self.flags.contains(Walk::FOLLOW))
            {
                match self.follow(&next)? {
                    Link::Path(target) => {
                        if target.first() == Some(&b'/') {
                            current = self.root()?;
                        }
                        last = Last::None;
                        parent = current.clone();
                        if is_last && target.last() == Some(&b'/') {
                            directory = true;
                        }
                        frames.push(Frame { path: Arc::from(target), at: 0 });
                    }
                    Link::Magic(place) => {
                        if self.flags.intersects(Walk::BENEATH | Walk::IN_ROOT) {
                            return Err(Errno::XDEV);
                        }
                        self.same_mount(&current, &place)?;
                        last = Last::None;
                        parent = current.clone();
                        current = place;
                    }
                }
                continue;
            }
            last = Last::Name(Arc::from(name));
            parent = current;
            current = next;
        }
        Ok(Walked { parent, last, target: (!missing).then_some(current), directory })
    }

    fn follow(&mut self, link: &Place) -> Result<Link, Errno> {
        self.links += 1;
        if self.links > MAX_LINKS || self.flags.contains(Walk::NO_SYMLINKS) {
            return Err(Errno::LOOP);
        }
        match link.inode.follow(self.caller)? {
            Link::Path(target) if target.is_empty() => Err(Errno::NOENT),
            Link::Path(target) if target.len() >= PATH_MAX => Err(Errno::NAMETOOLONG),
            Link::Magic(_) if self.flags.contains(Walk::NO_MAGICLINKS) => Err(Errno::LOOP),
            link => Ok(link),
        }
    }
}
