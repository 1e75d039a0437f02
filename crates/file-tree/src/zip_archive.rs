//! Unpacking a zip: a function's code or a layer as AWS Lambda takes it.

use std::io::{BufReader, Read, Seek, SeekFrom};

use zip::read::ZipFile;
use zip::{ExtraField, ZipArchive};

use crate::entry_path::{EntryPath, PathProblem};
use crate::error::TreeError;
use crate::writer::{FileEntry, TreeWriter};

/// Largest zip that is read at all: what a stored (not compressed) package of the largest size needs, with room for the
/// headers of every entry. The zip's directory is held in memory while unpacking, so it has to be bounded.
const ARCHIVE_BYTES: u64 = 300 << 20;
/// The target of a symbolic link is the entry's content; PATH_MAX.
const LINK_BYTES: u64 = 4096;

/// Unpacks a zip. Sizes are counted while unpacking; what the headers claim is not believed.
///
/// # Errors
/// [`TreeError`] when the zip is damaged, encrypted, too large, lists a name twice, or an entry breaks a rule.
pub fn unpack_zip<R: Read + Seek>(mut source: R, tree: &mut TreeWriter) -> Result<(), TreeError> {
    let length = source.seek(SeekFrom::End(0)).map_err(|error| TreeError::Zip(error.into()))?;
    if length > ARCHIVE_BYTES {
        return Err(TreeError::TooLarge { limit: ARCHIVE_BYTES });
    }
    let mut archive = ZipArchive::new(BufReader::new(source)).map_err(TreeError::Zip)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(TreeError::Zip)?;
        let path = match EntryPath::parse(entry.name_raw()) {
            Ok(_) if entry.name_raw().contains(&b'\\') => Err(PathProblem::Backslash),
            other => other,
        };
        let path = match path {
            Ok(path) => path,
            // "./" names the tree's root itself.
            Err(PathProblem::Empty) if entry.is_dir() => continue,
            Err(problem) => return Err(TreeError::Path { path: entry.name().to_owned(), problem }),
        };
        if entry.encrypted() {
            return Err(TreeError::Encrypted(path));
        }
        if let Some(kind) = special(entry.unix_mode()) {
            return Err(TreeError::Kind { path, kind });
        }
        if entry.is_dir() {
            tree.folder(&path)?;
        } else if entry.is_symlink() {
            let mut target = Vec::new();
            (&mut entry)
                .take(LINK_BYTES)
                .read_to_end(&mut target)
                .map_err(|source| TreeError::Content { path: path.clone(), source })?;
            tree.link(&path, &target)?;
        } else {
            let about = FileEntry {
                // An archive made on a system without modes has none: not executable.
                executable: entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0),
                modified: modified(&entry),
            };
            tree.file(&path, about, &mut entry)?;
        }
    }
    refuse_duplicates(archive)
}

/// What an entry is in words, when it is nothing that can be stored. A mode without a kind is a file's: many tools leave it out.
fn special(mode: Option<u32>) -> Option<&'static str> {
    const KIND: u32 = 0o170_000;
    match mode? & KIND {
        0o010_000 => Some("pipe"),
        0o020_000 | 0o060_000 => Some("device"),
        0o140_000 => Some("socket"),
        0 | 0o040_000 | 0o100_000 | 0o120_000 => None,
        _ => Some("file of a kind that Linux does not have"),
    }
}

/// The reader keeps one entry for each name, the last; the raw directory is counted to see whether it dropped any.
fn refuse_duplicates<R: Read + Seek>(archive: ZipArchive<R>) -> Result<(), TreeError> {
    let distinct = archive.len() as u64;
    let start = archive.central_directory_start();
    let mut source = archive.into_inner();
    let listed = count_records(&mut source, start).map_err(|error| TreeError::Zip(error.into()))?;
    if listed == distinct { Ok(()) } else { Err(TreeError::DuplicateNames { listed, distinct }) }
}

/// Counts the central directory's records (APPNOTE.TXT 4.3.12): a fixed part of 46 bytes that starts with a signature
/// and holds the lengths of three variable fields.
fn count_records<R: Read + Seek>(source: &mut R, start: u64) -> std::io::Result<u64> {
    const SIGNATURE: [u8; 4] = *b"PK\x01\x02";
    source.seek(SeekFrom::Start(start))?;
    let mut listed = 0;
    let mut record = [0u8; 46];
    loop {
        match source.read_exact(&mut record) {
            Ok(()) if record.starts_with(&SIGNATURE) => {}
            Ok(()) => return Ok(listed),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(listed),
            Err(error) => return Err(error),
        }
        listed += 1;
        // Lengths of the name, the extra field and the comment.
        let variable = [[record[28], record[29]], [record[30], record[31]], [record[32], record[33]]];
        let variable = variable.map(|length| i64::from(u16::from_le_bytes(length)));
        source.seek_relative(variable.iter().sum())?;
    }
}

/// Seconds since 1970: the extended timestamp when there is one, else the zip's own time, which has no time zone and is
/// taken as UTC.
fn modified<R: Read>(entry: &ZipFile<'_, R>) -> Option<i64> {
    let exact = entry.extra_data_fields().find_map(|field| match field {
        ExtraField::ExtendedTimestamp(times) => times.mod_time(),
        _ => None,
    });
    exact.map(i64::from).or_else(|| {
        let time = entry.last_modified()?;
        let days = days_since_1970(time.year().into(), time.month().into(), time.day().into());
        let seconds =
            u32::from(time.hour()) * 3600 + u32::from(time.minute()) * 60 + u32::from(time.second());
        Some(days * 86_400 + i64::from(seconds))
    })
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, counted in years that start in March, so that the leap day
/// is a year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let months_from_march = (month + 9) % 12;
    let day_of_year = (153 * months_from_march + 2) / 5 + day - 1;
    shifted * 365 + shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400) + day_of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Cursor, Write};

    use proptest::prelude::*;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::digest::digest_tree;
    use crate::limits::{LinkRule, TreeLimits};

    const LIMITS: TreeLimits = TreeLimits { bytes: 1 << 20, entries: 20, links: LinkRule::Inside };

    fn archive(build: impl Fn(&mut ZipWriter<Cursor<Vec<u8>>>)) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        build(&mut zip);
        zip.finish().unwrap().into_inner()
    }

    fn with_file(name: &str, content: &[u8]) -> Vec<u8> {
        archive(|zip| {
            zip.start_file(name, SimpleFileOptions::default().unix_permissions(0o755)).unwrap();
            zip.write_all(content).unwrap();
        })
    }

    fn unpack(bytes: &[u8]) -> (tempfile::TempDir, Result<(), TreeError>) {
        let home = tempfile::tempdir().unwrap();
        let mut tree = TreeWriter::create(home.path().join("tree"), LIMITS).unwrap();
        let result = unpack_zip(Cursor::new(bytes), &mut tree);
        (home, result)
    }

    #[test]
    fn a_zip_and_a_folder_with_the_same_files_are_one_tree() {
        let bytes = archive(|zip| {
            let options = SimpleFileOptions::default();
            zip.add_directory("pkg/", options).unwrap();
            zip.start_file("pkg/run", options.unix_permissions(0o755)).unwrap();
            zip.write_all(b"#!/bin/sh\n").unwrap();
            zip.add_symlink("link", "pkg/run", options).unwrap();
        });
        let (home, result) = unpack(&bytes);
        result.unwrap();
        let folder = home.path().join("folder");
        fs::create_dir_all(folder.join("pkg")).unwrap();
        fs::write(folder.join("pkg/run"), "#!/bin/sh\n").unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.join("pkg/run"), executable).unwrap();
        std::os::unix::fs::symlink("pkg/run", folder.join("link")).unwrap();
        assert_eq!(digest_tree(&folder).unwrap(), digest_tree(&home.path().join("tree")).unwrap());
    }

    #[test]
    fn paths_out_of_the_tree_are_refused() {
        for name in ["../evil", "/evil", "a/../../evil", "a\\..\\evil"] {
            let (home, result) = unpack(&with_file(name, b"x"));
            assert!(matches!(result, Err(TreeError::Path { .. })), "{name}: {result:?}");
            assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_file_below_a_link_is_refused() {
        let bytes = archive(|zip| {
            zip.add_symlink("door", "inside", SimpleFileOptions::default()).unwrap();
            zip.start_file("door/x", SimpleFileOptions::default()).unwrap();
        });
        assert!(matches!(unpack(&bytes).1, Err(TreeError::ThroughLink(_))));
        let bytes = archive(|zip| {
            zip.add_symlink("l", "../../etc/passwd", SimpleFileOptions::default()).unwrap();
        });
        assert!(matches!(unpack(&bytes).1, Err(TreeError::LinkOutside { .. })));
    }

    #[test]
    fn bombs_are_stopped_as_they_grow() {
        // 4 MiB of zeros pack into some kilobytes.
        let bomb = with_file("zeros", &vec![0; 4 << 20]);
        assert!(bomb.len() < 64 << 10);
        assert!(matches!(unpack(&bomb).1, Err(TreeError::TooLarge { .. })));
        let crowd = archive(|zip| {
            for index in 0..30 {
                zip.start_file(format!("f{index}"), SimpleFileOptions::default()).unwrap();
            }
        });
        assert!(matches!(unpack(&crowd).1, Err(TreeError::TooMany { limit: 20 })));
    }

    #[test]
    fn a_name_listed_twice_is_refused() {
        let mut bytes = archive(|zip| {
            for name in ["aa", "ab"] {
                zip.start_file(name, SimpleFileOptions::default()).unwrap();
            }
        });
        // Rename the second entry to the first, in its own header and in the directory.
        let places: Vec<usize> =
            bytes.windows(2).enumerate().filter(|(_, name)| name == b"ab").map(|(at, _)| at).collect();
        assert_eq!(places.len(), 2);
        for place in places {
            bytes[place + 1] = b'a';
        }
        let result = unpack(&bytes).1;
        assert!(matches!(result, Err(TreeError::DuplicateNames { listed: 2, distinct: 1 })), "{result:?}");
    }

    #[test]
    fn a_wrong_checksum_is_refused() {
        let mut bytes = archive(|zip| {
            let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            zip.start_file("a", stored).unwrap();
            zip.write_all(b"precious").unwrap();
        });
        let place = bytes.windows(8).position(|text| text == b"precious").unwrap();
        bytes[place] ^= 1;
        assert!(matches!(unpack(&bytes).1, Err(TreeError::Content { .. })));
    }

    #[test]
    fn dates_are_days() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 2, 29), 11_016);
        assert_eq!(days_since_1970(2026, 11, 24), 20_781);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn damaged_zips_never_leave_the_tree(changes in proptest::collection::vec((0usize..4096, any::<u8>()), 1..6), cut in 0usize..400) {
            let mut bytes = with_file("folder/file", b"some content that is long enough to be packed, packed, packed");
            for (position, value) in changes {
                let place = position % bytes.len();
                bytes[place] = value;
            }
            bytes.truncate(bytes.len().saturating_sub(cut).max(1));
            let (home, _) = unpack(&bytes);
            prop_assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        }
    }
}
