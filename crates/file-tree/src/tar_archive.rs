//! Unpacking a tar, plain or gzip: root file systems as container tools export them, and the content of Debian packages.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, EntryType};

use crate::entry_path::{EntryPath, PathProblem};
use crate::error::TreeError;
use crate::writer::{FileEntry, TreeWriter};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Opens a tar file and takes the gzip layer off when there is one.
///
/// # Errors
/// [`TreeError::Io`] when the file can't be read.
pub fn open_tar(path: &Path) -> Result<Box<dyn Read>, TreeError> {
    let open = || -> io::Result<Box<dyn Read>> {
        let mut file = File::open(path)?;
        let mut magic = [0; 2];
        let start = file.read(&mut magic)?;
        file.rewind()?;
        let file = BufReader::with_capacity(128 << 10, file);
        Ok(if start == 2 && magic == GZIP_MAGIC {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        })
    };
    open().map_err(TreeError::io("opening", path))
}

/// Unpacks a tar stream. `place` says where an entry goes: `None` leaves it out.
///
/// Device nodes below `dev/` are left out without a word, since a guest's /dev is not made of files; any other device,
/// socket or pipe is refused.
///
/// # Errors
/// [`TreeError`] when the stream is damaged or an entry breaks a rule of the tree.
pub fn unpack_tar(
    stream: &mut dyn Read,
    tree: &mut TreeWriter,
    place: &dyn Fn(EntryPath) -> Option<EntryPath>,
) -> Result<(), TreeError> {
    let mut archive = Archive::new(stream);
    for entry in archive.entries().map_err(TreeError::Tar)? {
        let mut entry = entry.map_err(TreeError::Tar)?;
        let Some(path) = parse(&entry.path_bytes())?.and_then(place) else { continue };
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Directory => tree.folder(&path)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let about = FileEntry {
                    executable: entry.header().mode().map_err(TreeError::Tar)? & 0o111 != 0,
                    modified: entry.header().mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()),
                };
                tree.file(&path, about, &mut entry)?;
            }
            EntryType::Symlink => tree.link(&path, &entry.link_name_bytes().unwrap_or_default())?,
            EntryType::Link => {
                let Some(target) = parse(&entry.link_name_bytes().unwrap_or_default())?.and_then(place)
                else {
                    continue;
                };
                tree.hard_link(&path, &target)?;
            }
            EntryType::Char | EntryType::Block if path.as_path().starts_with("dev") => {}
            other => return Err(TreeError::Kind { path, kind: kind_in_words(other) }),
        }
    }
    Ok(())
}

/// A leading `/` is common in tars and means the same as none; `./` alone is the root and is left out.
fn parse(raw: &[u8]) -> Result<Option<EntryPath>, TreeError> {
    let relative = raw.iter().position(|byte| *byte != b'/').and_then(|start| raw.get(start..));
    match EntryPath::parse(relative.unwrap_or_default()) {
        Ok(path) => Ok(Some(path)),
        Err(PathProblem::Empty) => Ok(None),
        Err(problem) => Err(TreeError::Path { path: String::from_utf8_lossy(raw).into_owned(), problem }),
    }
}

fn kind_in_words(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Char | EntryType::Block => "device",
        EntryType::Fifo => "named pipe",
        _ => "tar entry of a kind that is not supported",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use tar::{Builder, Header};

    use super::*;
    use crate::limits::TreeLimits;

    /// Writes the name into the header unchecked, as a hostile archive would.
    fn header(kind: EntryType, name: &str, size: u64) -> Header {
        let mut header = Header::new_old();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header.set_cksum();
        header
    }

    fn unpack(bytes: &[u8]) -> (tempfile::TempDir, Result<(), TreeError>) {
        let home = tempfile::tempdir().unwrap();
        let mut tree = TreeWriter::create(home.path().join("tree"), TreeLimits::ROOT).unwrap();
        let result = unpack_tar(&mut &bytes[..], &mut tree, &Some);
        (home, result)
    }

    #[test]
    fn a_root_file_system_is_unpacked() {
        let mut tar = Builder::new(Vec::new());
        tar.append(&header(EntryType::Directory, "./", 0), &b""[..]).unwrap();
        tar.append(&header(EntryType::Regular, "/bin/sh", 2), &b"hi"[..]).unwrap();
        let mut link = header(EntryType::Link, "bin/dash", 0);
        link.set_link_name("bin/sh").unwrap();
        link.set_cksum();
        tar.append(&link, &b""[..]).unwrap();
        tar.append(&header(EntryType::Char, "dev/null", 0), &b""[..]).unwrap();
        let (home, result) = unpack(&tar.into_inner().unwrap());
        result.unwrap();
        assert_eq!(fs::read(home.path().join("tree/bin/dash")).unwrap(), b"hi");
        assert!(!home.path().join("tree/dev/null").exists());
    }

    #[test]
    fn hostile_entries_are_refused() {
        for (kind, name) in
            [(EntryType::Regular, "../x"), (EntryType::Char, "etc/disk"), (EntryType::Fifo, "pipe")]
        {
            let mut tar = Builder::new(Vec::new());
            tar.append(&header(kind, name, 0), &b""[..]).unwrap();
            let (home, result) = unpack(&tar.into_inner().unwrap());
            assert!(result.is_err(), "{name}");
            assert!(!home.path().join("x").exists());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_bytes_never_leave_the_tree(position in 0usize..2560, value: u8) {
            let mut tar = Builder::new(Vec::new());
            tar.append(&header(EntryType::Regular, "a/file", 5), &b"hello"[..]).unwrap();
            let mut bytes = tar.into_inner().unwrap();
            let place = position % bytes.len();
            bytes[place] = value;
            let (home, _) = unpack(&bytes);
            prop_assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        }
    }
}
