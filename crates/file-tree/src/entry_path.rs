//! Paths of entries, relative to the tree's root and free of every trick.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Linux's NAME_MAX: bytes in one component.
const COMPONENT_BYTES: usize = 255;
/// Bytes in a whole path: PATH_MAX (4096) less room for the folder that the tree is mounted at in the guest.
const PATH_BYTES: usize = 3840;

/// The path of an entry below a tree's root: not empty, relative, only ordinary components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryPath(PathBuf);

/// Why a path in an archive is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathProblem {
    /// `/etc/passwd`
    #[error("it is absolute")]
    Absolute,
    /// `a/../../b`
    #[error("it has a '..' component, which could leave the tree")]
    Parent,
    /// Nothing is left after taking out `.` and empty components.
    #[error("it is empty")]
    Empty,
    /// A NUL byte.
    #[error("it has a NUL byte")]
    Nul,
    /// A component or the path is longer than Linux allows.
    #[error("it is too long (a component may have 255 bytes, a path 3840)")]
    TooLong,
    /// `a\b` in a zip, made by a program that ignores the zip format's rule.
    #[error("it has a backslash: make the archive again with '/' as the separator")]
    Backslash,
}

impl EntryPath {
    /// Reads a path as an archive spells it. `.` and empty components are taken out; a trailing `/` is allowed.
    ///
    /// # Errors
    /// [`PathProblem`] for everything that is not a plain relative path.
    pub fn parse(raw: &[u8]) -> Result<Self, PathProblem> {
        if raw.contains(&0) {
            return Err(PathProblem::Nul);
        }
        if raw.first() == Some(&b'/') {
            return Err(PathProblem::Absolute);
        }
        let mut path = PathBuf::new();
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(PathProblem::Parent),
                long if long.len() > COMPONENT_BYTES => return Err(PathProblem::TooLong),
                name => path.push(OsStr::from_bytes(name)),
            }
        }
        match path.as_os_str().len() {
            0 => Err(PathProblem::Empty),
            length if length > PATH_BYTES => Err(PathProblem::TooLong),
            _ => Ok(Self(path)),
        }
    }

    /// The path, relative to the tree's root.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The folder that holds the entry, or `None` when it stands in the tree's root.
    pub fn parent(&self) -> Option<Self> {
        match self.0.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => Some(Self(parent.to_owned())),
            _ => None,
        }
    }

    /// This path below `folder`, or `None` when that makes it too long or `folder` is no plain path.
    pub fn below(&self, folder: &str) -> Option<Self> {
        let raw = [folder.as_bytes(), self.0.as_os_str().as_bytes()].join(&b'/');
        Self::parse(&raw).ok()
    }

    /// The last component.
    pub fn name(&self) -> &OsStr {
        self.0.file_name().unwrap_or_default()
    }

    /// Whether a link standing here and pointing to `target` stays in the tree, judged by the text alone.
    pub fn link_stays_inside(&self, target: &[u8]) -> bool {
        if target.is_empty() || target.first() == Some(&b'/') {
            return false;
        }
        let mut depth = self.0.components().count().saturating_sub(1);
        for component in target.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." if depth == 0 => return false,
                b".." => depth -= 1,
                _ => depth += 1,
            }
        }
        true
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Debug escapes control bytes, so that a hostile name can't play tricks on a terminal.
        write!(formatter, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_paths_are_normalised() {
        for (raw, clean) in [("a", "a"), ("./a//b/", "a/b"), ("a/./b", "a/b"), ("...", "..."), ("a b", "a b")]
        {
            assert_eq!(EntryPath::parse(raw.as_bytes()).unwrap().as_path(), Path::new(clean), "{raw}");
        }
    }

    #[test]
    fn tricks_are_refused() {
        let long = [b'x'; 256];
        for (raw, problem) in [
            (&b"/etc/passwd"[..], PathProblem::Absolute),
            (b"../x", PathProblem::Parent),
            (b"a/../../x", PathProblem::Parent),
            (b"a/..", PathProblem::Parent),
            (b"", PathProblem::Empty),
            (b"./.", PathProblem::Empty),
            (b"a\0b", PathProblem::Nul),
            (&long, PathProblem::TooLong),
        ] {
            assert_eq!(EntryPath::parse(raw), Err(problem));
        }
    }

    #[test]
    fn links_are_judged_by_their_text() {
        let link = EntryPath::parse(b"lib/a/link").unwrap();
        assert!(link.link_stays_inside(b"../../bin/x"));
        assert!(link.link_stays_inside(b"x"));
        for outside in [&b"../../../x"[..], b"/etc/passwd", b"", b"x/../../../../y"] {
            assert!(!link.link_stays_inside(outside));
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_below_the_root(raw in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..64)) {
            if let Ok(path) = EntryPath::parse(&raw) {
                prop_assert!(path.as_path().components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(path.as_path().components().count() > 0);
                // Parsing is a projection: what comes out goes in unchanged.
                let again = EntryPath::parse(path.as_path().as_os_str().as_bytes());
                prop_assert_eq!(again.as_ref(), Ok(&path));
            }
        }
    }
}
