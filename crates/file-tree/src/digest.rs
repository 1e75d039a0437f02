//! The identity of a tree: SHA-256 over names, kinds, contents and executable bits.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::error::TreeError;

/// First bytes that are hashed; a change of the rules below changes this text.
const DOMAIN: &[u8] = b"faasnap tree 1\n";

/// SHA-256 of a tree. Two trees with one digest have the same names, contents, links and executable bits; times and
/// owners do not count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreeDigest([u8; 32]);

/// A tree's digest and size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TreeSummary {
    /// The identity.
    pub digest: TreeDigest,
    /// Bytes of file content.
    pub bytes: u64,
    /// Files, folders and links below the root.
    pub entries: u64,
}

impl TreeDigest {
    /// The digest of arbitrary bytes, for identities that are made from tree digests and other data.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first `digits` hexadecimal digits, for people.
    pub fn short(&self, digits: usize) -> String {
        let mut text = self.to_string();
        text.truncate(digits);
        text
    }
}

impl fmt::Display for TreeDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for TreeDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

/// The text is no digest: 64 lower-case hexadecimal digits are wanted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no SHA-256 digest: 64 lower-case hexadecimal digits are wanted")]
pub struct NoDigest(String);

impl FromStr for TreeDigest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let wrong = || NoDigest(text.chars().take(80).collect());
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(wrong()),
        };
        let mut digest = [0; 32];
        let pairs = text.as_bytes().as_chunks::<2>();
        if pairs.0.len() != digest.len() || !pairs.1.is_empty() {
            return Err(wrong());
        }
        for (byte, [high, low]) in digest.iter_mut().zip(pairs.0) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(digest))
    }
}

impl TryFrom<String> for TreeDigest {
    type Error = NoDigest;

    fn try_from(text: String) -> Result<Self, NoDigest> {
        text.parse()
    }
}

impl From<TreeDigest> for String {
    fn from(digest: TreeDigest) -> Self {
        digest.to_string()
    }
}

/// Reads the whole tree below `root` and computes its identity. Links are hashed, never followed.
///
/// # Errors
/// [`TreeError::Io`] when an entry can't be read, [`TreeError::Kind`] for one that is neither file, folder nor link.
pub fn digest_tree(root: &Path) -> Result<TreeSummary, TreeError> {
    let mut hash = Sha256::new_with_prefix(DOMAIN);
    let (mut bytes, mut entries) = (0, 0);
    for entry in WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).to_owned();
            TreeError::io("reading", path)(error.into())
        })?;
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes();
        let kind = entry.file_type();
        entries += 1;
        if kind.is_dir() {
            field(&mut hash, b'd', name);
        } else if kind.is_symlink() {
            let target = std::fs::read_link(path).map_err(TreeError::io("reading", path))?;
            field(&mut hash, b'l', name);
            field(&mut hash, b'>', target.as_os_str().as_bytes());
        } else if kind.is_file() {
            let (content, length, executable) = digest_file(path).map_err(TreeError::io("reading", path))?;
            field(&mut hash, if executable { b'x' } else { b'f' }, name);
            hash.update(length.to_le_bytes());
            hash.update(content);
            bytes += length;
        } else {
            let problem = "the tree holds something that is neither file, folder nor link";
            return Err(TreeError::io("reading", path)(io::Error::other(problem)));
        }
    }
    Ok(TreeSummary { digest: TreeDigest(hash.finalize().into()), bytes, entries })
}

/// A tag, a length and the bytes: no two different lists of fields give the same stream.
fn field(hash: &mut Sha256, tag: u8, bytes: &[u8]) {
    hash.update([tag]);
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn digest_file(path: &Path) -> io::Result<([u8; 32], u64, bool)> {
    let mut file = File::open(path)?;
    let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
    let mut hash = Sha256::new();
    let mut length = 0;
    let mut buffer = vec![0u8; 128 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hash.finalize().into(), length, executable));
        }
        hash.update(buffer.get(..count).unwrap_or_default());
        length += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(build: impl Fn(&Path)) -> TreeSummary {
        let home = tempfile::tempdir().unwrap();
        build(home.path());
        digest_tree(home.path()).unwrap()
    }

    #[test]
    fn the_digest_is_that_of_the_rules() {
        // A tripwire: stored code is named by this digest, so it must never change by accident. The expected value was
        // computed from the rules by another program.
        let summary = tree(|root| {
            fs::create_dir(root.join("a")).unwrap();
            fs::write(root.join("a/b"), "hello").unwrap();
            std::os::unix::fs::symlink("a/b", root.join("c")).unwrap();
        });
        let text = summary.digest.to_string();
        assert_eq!(text, "1b3fc3f684eb63b646a2c1cf476006060f1ec567f9055779473c633f9d831cad");
        assert_eq!((summary.bytes, summary.entries), (5, 3));
        assert_eq!(text.parse(), Ok(summary.digest));
    }

    #[test]
    fn names_contents_and_the_executable_bit_count() {
        let base = tree(|root| fs::write(root.join("a"), "1").unwrap());
        let renamed = tree(|root| fs::write(root.join("b"), "1").unwrap());
        let changed = tree(|root| fs::write(root.join("a"), "2").unwrap());
        let executable = tree(|root| {
            fs::write(root.join("a"), "1").unwrap();
            fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        });
        let again = tree(|root| fs::write(root.join("a"), "1").unwrap());
        assert_eq!(base, again);
        for other in [renamed, changed, executable] {
            assert_ne!(base.digest, other.digest);
        }
    }

    #[test]
    fn only_digests_parse() {
        for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"G".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<TreeDigest>().is_err(), "{text}");
        }
    }
}
