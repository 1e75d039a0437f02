//! What can go wrong with a snapshot, for a person and for a program.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What a caller may do about an error, without looking at its text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// There is no such snapshot or file.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The file system failed (the source says how).
    Io,
    /// The file doesn't start as a snapshot's file does.
    NotASnapshot,
    /// Written in a format, or with a section version, that this version of the tool doesn't read.
    UnsupportedVersion,
    /// Shorter or longer than its own header says.
    WrongLength,
    /// A checksum doesn't match, or checked bytes make no sense.
    Corrupt,
    /// A size or count above what the format allows.
    LimitExceeded,
    /// A section that the reader needs isn't there.
    MissingSection,
    /// Taken on a machine that differs in what a snapshot depends on.
    OtherMachine,
    /// The caller broke a rule of the interface (pages out of order, a section given twice).
    Misuse,
}

impl ErrorKind {
    /// What to do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NotFound => "check the name",
            Self::AlreadyExists => "choose another name, or remove the old one first",
            Self::Io => "check the disk's space, permissions and health, then try again",
            Self::NotASnapshot => "point to the directory of a snapshot",
            Self::UnsupportedVersion => "create the snapshot again with this version of the tool",
            Self::WrongLength | Self::Corrupt | Self::LimitExceeded => {
                "the file is damaged: remove the snapshot and create it again"
            }
            Self::MissingSection => "create the snapshot again with this version of the tool",
            Self::OtherMachine => "create the snapshot again on this machine",
            Self::Misuse => "this is a defect of the program, please report it",
        }
    }
}

/// An operation on a snapshot that failed: what kind, where, why, and what to do.
#[derive(Debug, Error)]
pub struct SnapshotError {
    kind: ErrorKind,
    operation: &'static str,
    path: PathBuf,
    offset: Option<u64>,
    detail: String,
    #[source]
    source: Option<io::Error>,
}

impl SnapshotError {
    /// An error of `kind` while `operation` (in words, "reading the header of") was done to `path`.
    pub fn new(kind: ErrorKind, operation: &'static str, path: &Path, detail: impl Into<String>) -> Self {
        Self { kind, operation, path: path.into(), offset: None, detail: detail.into(), source: None }
    }

    /// A failed system call: the kind follows from the cause.
    pub fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => ErrorKind::AlreadyExists,
            io::ErrorKind::UnexpectedEof => ErrorKind::WrongLength,
            _ => ErrorKind::Io,
        };
        let detail = match kind {
            ErrorKind::NotFound => "it does not exist",
            ErrorKind::AlreadyExists => "it exists already",
            ErrorKind::WrongLength => "it ends early",
            _ => "the file system refused",
        };
        Self { source: Some(source), ..Self::new(kind, operation, path, detail) }
    }

    /// The same error, at byte `offset` of the file.
    #[must_use]
    pub fn at(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }

    /// The same error for a reader to whom `directory`, the snapshot's, means nothing (in a jail it is a descriptor's number):
    /// files are named as they are in it.
    #[must_use]
    pub fn inside(mut self, directory: &Path) -> Self {
        if let Ok(inside) = self.path.strip_prefix(directory) {
            let name = if inside.as_os_str().is_empty() { Path::new("the snapshot") } else { inside };
            self.path = name.to_owned();
        }
        self
    }

    /// What may be done about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The file or directory that it is about.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The byte of that file, where it is known.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operation, self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {} ({})", self.detail, self.kind.advice())
    }
}
