//! The one place where entries are written.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::entry_path::EntryPath;
use crate::error::TreeError;
use crate::limits::{LinkRule, TreeLimits};

const FOLDER: u32 = 0o755;
const PLAIN: u32 = 0o644;
const EXECUTABLE: u32 = 0o755;

/// What is known about a file besides its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileEntry {
    /// Whether anybody may execute it.
    pub executable: bool,
    /// Seconds since 1970, when known. Kept, since compiled Python files name their source's time.
    pub modified: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// May be named again.
    Folder,
    File,
    Link,
}

/// Writes entries below one folder and nowhere else.
///
/// Parents are opened with `openat2` under RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, so that an earlier entry that is a
/// symbolic link can't lead a later one out of the tree.
#[derive(Debug)]
pub struct TreeWriter {
    root: PathBuf,
    directory: OwnedFd,
    limits: TreeLimits,
    written: HashMap<EntryPath, Kind>,
    bytes: u64,
    /// The folder of the entry before, open: archives list a folder's files in a row.
    last_parent: Option<(EntryPath, OwnedFd)>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Folder => "folder",
            Self::File => "file",
            Self::Link => "link",
        })
    }
}

impl TreeWriter {
    /// Makes the folder `root`, which must not exist yet, and writes below it.
    ///
    /// # Errors
    /// [`TreeError::Io`] when it exists or can't be made.
    pub fn create(root: impl Into<PathBuf>, limits: TreeLimits) -> Result<Self, TreeError> {
        let root = root.into();
        fs::create_dir(&root).map_err(TreeError::io("creating", &root))?;
        let directory = open_folder(rustix::fs::CWD, &root).map_err(TreeError::io("opening", &root))?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(FOLDER))
            .map_err(io::Error::from)
            .map_err(TreeError::io("setting the mode of", &root))?;
        Ok(Self { root, directory, limits, written: HashMap::new(), bytes: 0, last_parent: None })
    }

    /// The tree's root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes of file content so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.written.len() as u64
    }

    /// Whether an entry of any kind was written at `path`.
    pub fn contains(&self, path: &EntryPath) -> bool {
        self.written.contains_key(path)
    }

    /// Makes a folder and the folders above it; one that is there already is fine.
    ///
    /// # Errors
    /// [`TreeError::ThroughLink`] when something else stands in the way, or a limit or the file system refuses.
    pub fn folder(&mut self, path: &EntryPath) -> Result<(), TreeError> {
        match self.written.get(path) {
            Some(Kind::Folder) => return Ok(()),
            Some(_) => return Err(TreeError::Duplicate(path.clone())),
            None => {}
        }
        self.count(path, Kind::Folder)?;
        let mode = Mode::from_raw_mode(FOLDER);
        self.in_parent(path, "creating", |parent| {
            rustix::fs::mkdirat(parent, path.name(), mode)?;
            // mkdir takes the umask into account; folders of a tree are the same for everybody.
            rustix::fs::chmodat(parent, path.name(), mode, AtFlags::empty())
        })
    }

    /// Writes a regular file.
    ///
    /// # Errors
    /// [`TreeError`] when a rule of the tree is broken, `content` can't be read, or the file system refuses.
    pub fn file(
        &mut self,
        path: &EntryPath,
        entry: FileEntry,
        content: &mut dyn Read,
    ) -> Result<(), TreeError> {
        self.count(path, Kind::File)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if entry.executable { EXECUTABLE } else { PLAIN });
        let mut created = None;
        self.in_parent(path, "creating", |parent| {
            let file = rustix::fs::openat(parent, path.name(), flags, mode)?;
            rustix::fs::fchmod(&file, mode)?;
            created = Some(file);
            Ok(())
        })?;
        let Some(file) = created else { return Err(TreeError::ThroughLink(path.clone())) };
        let mut file = File::from(file);
        self.copy(path, content, &mut file)?;
        if let Some(seconds) = entry.modified {
            set_modified(file.as_fd(), seconds)
                .map_err(TreeError::io("setting the time of", self.root.join(path.as_path())))?;
        }
        Ok(())
    }

    /// Writes a symbolic link.
    ///
    /// # Errors
    /// [`TreeError::LinkOutside`] under [`LinkRule::Inside`], or when another rule is broken.
    pub fn link(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), TreeError> {
        let outside = match self.limits.links {
            LinkRule::Inside => !path.link_stays_inside(target),
            LinkRule::Any => target.is_empty(),
        };
        if outside || target.contains(&0) {
            return Err(TreeError::LinkOutside {
                path: path.clone(),
                target: String::from_utf8_lossy(target).into_owned(),
            });
        }
        self.count(path, Kind::Link)?;
        let target = std::ffi::OsStr::from_bytes(target);
        self.in_parent(path, "linking", |parent| rustix::fs::symlinkat(target, parent, path.name()))
    }

    /// Gives a file that was written before a second name.
    ///
    /// # Errors
    /// [`TreeError::HardLink`] when `target` is no file of this tree.
    pub fn hard_link(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), TreeError> {
        let wrong = || TreeError::HardLink { path: path.clone(), target: target.clone() };
        if self.written.get(target) != Some(&Kind::File) {
            return Err(wrong());
        }
        self.count(path, Kind::File)?;
        let from = match target.parent() {
            Some(parent) => Some(open_beneath(self.directory.as_fd(), &parent).map_err(|_| wrong())?),
            None => None,
        };
        let from = from.as_ref().map_or(self.directory.as_fd(), AsFd::as_fd);
        let from =
            from.try_clone_to_owned().map_err(TreeError::io("opening", self.root.join(target.as_path())))?;
        self.in_parent(path, "linking", |parent| {
            rustix::fs::linkat(&from, target.name(), parent, path.name(), AtFlags::empty())
        })
    }

    /// Lets everything that was written reach the disk, so that a rename that publishes the tree can't outlive its
    /// content. One call for the whole file system: far cheaper than one for each of thousands of files.
    ///
    /// # Errors
    /// [`TreeError::Io`] when the disk fails.
    pub fn sync(&self) -> Result<(), TreeError> {
        rustix::fs::syncfs(&self.directory)
            .map_err(io::Error::from)
            .map_err(TreeError::io("syncing", &self.root))
    }

    /// Enters `path` in the books: parents first, duplicates and too many entries refused.
    fn count(&mut self, path: &EntryPath, kind: Kind) -> Result<(), TreeError> {
        if self.written.contains_key(path) {
            return Err(TreeError::Duplicate(path.clone()));
        }
        if let Some(parent) = path.parent() {
            match self.written.get(&parent) {
                Some(Kind::Folder) => {}
                Some(_) => return Err(TreeError::ThroughLink(path.clone())),
                None => self.folder(&parent)?,
            }
        }
        if self.written.len() as u64 >= self.limits.entries {
            return Err(TreeError::TooMany { limit: self.limits.entries });
        }
        self.written.insert(path.clone(), kind);
        Ok(())
    }

    fn copy(&mut self, path: &EntryPath, content: &mut dyn Read, file: &mut File) -> Result<(), TreeError> {
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(TreeError::Content { path: path.clone(), source }),
            };
            self.bytes += count as u64;
            if self.bytes > self.limits.bytes {
                return Err(TreeError::TooLarge { limit: self.limits.bytes });
            }
            let piece = buffer.get(..count).unwrap_or_default();
            file.write_all(piece).map_err(TreeError::io("writing", self.root.join(path.as_path())))?;
        }
    }

    fn in_parent(
        &mut self,
        path: &EntryPath,
        operation: &'static str,
        action: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<(), TreeError> {
        let explain = |error: Errno| match error {
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV => TreeError::ThroughLink(path.clone()),
            Errno::EXIST => TreeError::Duplicate(path.clone()),
            other => TreeError::io(operation, self.root.join(path.as_path()))(other.into()),
        };
        let Some(parent) = path.parent() else { return action(self.directory.as_fd()).map_err(explain) };
        if self.last_parent.as_ref().is_none_or(|(open, _)| *open != parent) {
            let folder = open_beneath(self.directory.as_fd(), &parent).map_err(explain)?;
            self.last_parent = Some((parent, folder));
        }
        match &self.last_parent {
            Some((_, folder)) => action(folder.as_fd()).map_err(explain),
            None => Err(explain(Errno::NOENT)),
        }
    }
}

fn open_folder(at: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

fn open_beneath(root: BorrowedFd<'_>, path: &EntryPath) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path.as_path(), flags, Mode::empty(), resolve)
}

fn set_modified(file: BorrowedFd<'_>, seconds: i64) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
    };
    Ok(rustix::fs::futimens(file, &times)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TreeLimits = TreeLimits { bytes: 100, entries: 5, links: LinkRule::Inside };

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text.as_bytes()).unwrap()
    }

    fn writer(limits: TreeLimits) -> (tempfile::TempDir, TreeWriter) {
        let home = tempfile::tempdir().unwrap();
        let writer = TreeWriter::create(home.path().join("tree"), limits).unwrap();
        (home, writer)
    }

    #[test]
    fn permissions_come_down_to_executable_or_not() {
        use std::os::unix::fs::PermissionsExt;
        let (_home, mut tree) = writer(LIMITS);
        tree.file(&path("a/run"), FileEntry { executable: true, modified: Some(7) }, &mut &b"x"[..]).unwrap();
        tree.file(&path("a/data"), FileEntry::default(), &mut &b"y"[..]).unwrap();
        let mode = |name: &str| fs::metadata(tree.root().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("a"), mode("a/run"), mode("a/data")), (0o755, 0o755, 0o644));
        let modified = fs::metadata(tree.root().join("a/run")).unwrap().modified().unwrap();
        assert_eq!(modified, std::time::UNIX_EPOCH + std::time::Duration::from_secs(7));
        assert_eq!((tree.bytes(), tree.entries()), (2, 3));
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (home, mut tree) = writer(TreeLimits { links: LinkRule::Any, ..LIMITS });
        let outside = home.path().join("outside");
        fs::create_dir(&outside).unwrap();
        tree.link(&path("door"), outside.as_os_str().as_bytes()).unwrap();
        let refused = tree.file(&path("door/file"), FileEntry::default(), &mut &b"x"[..]);
        assert!(matches!(refused, Err(TreeError::ThroughLink(_))), "{refused:?}");
        // Also when the books know nothing of the link, the kernel refuses.
        std::os::unix::fs::symlink(&outside, tree.root().join("back")).unwrap();
        tree.written.insert(path("back"), Kind::Folder);
        let refused = tree.file(&path("back/file"), FileEntry::default(), &mut &b"x"[..]);
        assert!(matches!(refused, Err(TreeError::ThroughLink(_))), "{refused:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn duplicates_are_refused() {
        let (_home, mut tree) = writer(LIMITS);
        tree.file(&path("a"), FileEntry::default(), &mut &b""[..]).unwrap();
        assert!(matches!(
            tree.file(&path("a"), FileEntry::default(), &mut &b""[..]),
            Err(TreeError::Duplicate(_))
        ));
        assert!(matches!(tree.folder(&path("a")), Err(TreeError::Duplicate(_))));
        assert!(matches!(
            tree.file(&path("a/b"), FileEntry::default(), &mut &b""[..]),
            Err(TreeError::ThroughLink(_))
        ));
        tree.folder(&path("f")).unwrap();
        tree.folder(&path("f")).unwrap();
        assert!(matches!(
            tree.file(&path("f"), FileEntry::default(), &mut &b""[..]),
            Err(TreeError::Duplicate(_))
        ));
    }

    #[test]
    fn limits_count_what_arrives() {
        let (_home, mut tree) = writer(LIMITS);
        let mut endless = io::repeat(7);
        assert!(matches!(
            tree.file(&path("bomb"), FileEntry::default(), &mut endless),
            Err(TreeError::TooLarge { limit: 100 })
        ));
        let (_home, mut tree) = writer(LIMITS);
        assert!(matches!(tree.folder(&path("a/b/c/d/e/f")), Err(TreeError::TooMany { limit: 5 })));
    }

    #[test]
    fn links_out_of_the_tree_are_refused() {
        let (_home, mut tree) = writer(LIMITS);
        for target in [&b"/etc/passwd"[..], b"../x", b"", b"a\0b"] {
            assert!(matches!(tree.link(&path("l"), target), Err(TreeError::LinkOutside { .. })));
        }
        tree.link(&path("l"), b"inside").unwrap();
    }

    #[test]
    fn a_hard_link_needs_a_file_of_the_tree() {
        let (_home, mut tree) = writer(LIMITS);
        tree.file(&path("d/a"), FileEntry::default(), &mut &b"same"[..]).unwrap();
        tree.hard_link(&path("b"), &path("d/a")).unwrap();
        assert_eq!(fs::read(tree.root().join("b")).unwrap(), b"same");
        assert!(matches!(tree.hard_link(&path("c"), &path("nowhere")), Err(TreeError::HardLink { .. })));
    }
}
