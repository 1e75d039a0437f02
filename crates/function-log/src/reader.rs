//! The side that reads, in whatever process.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use store::FunctionName;
use thiserror::Error;

use crate::CURRENT;

/// Bytes that are looked through for the last lines.
const LAST: u64 = 1 << 20;

/// A log can't be read.
#[derive(Debug, Error)]
#[error("reading the log {}", path.display())]
pub struct ReadLogError {
    /// The file.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Reads a function's log: its last lines first, then what is added.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    /// None until the function has written anything.
    file: Option<File>,
    /// Given by the next read, before anything of the file.
    first: Vec<u8>,
}

impl LogReader {
    /// The log of `function` in `home`, beginning with its last `lines` lines. A function that has not written anything yet has
    /// an empty log.
    ///
    /// # Errors
    /// [`ReadLogError`].
    pub fn open(home: &Path, function: &FunctionName, lines: usize) -> Result<Self, ReadLogError> {
        let folder = home.join("logs").join(function.as_str());
        let mut reader = Self { path: folder.join(CURRENT), file: None, first: Vec::new() };
        let mut last = Vec::new();
        // Right after a rotation, the last lines are in the file before.
        for name in ["1.log", CURRENT] {
            let path = folder.join(name);
            let mut read = || -> io::Result<Option<File>> {
                let mut file = match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    other => other?,
                };
                let begin = file.metadata()?.len().saturating_sub(LAST);
                file.seek(SeekFrom::Start(begin))?;
                file.read_to_end(&mut last)?;
                Ok(Some(file))
            };
            let file = read().map_err(|source| ReadLogError { path: path.clone(), source })?;
            if name == CURRENT {
                reader.file = file;
            }
        }
        reader.first = last_lines(&last, lines).to_vec();
        Ok(reader)
    }

    /// What was added since the last call; empty when nothing was.
    ///
    /// # Errors
    /// [`ReadLogError`].
    pub fn read(&mut self) -> Result<Vec<u8>, ReadLogError> {
        let mut bytes = std::mem::take(&mut self.first);
        self.read_on(&mut bytes).map_err(|source| ReadLogError { path: self.path.clone(), source })?;
        Ok(bytes)
    }

    fn read_on(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.read_to_end(bytes)?;
        }
        let newest = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        let same = match &self.file {
            Some(file) => identity(file)? == identity(&newest)?,
            None => false,
        };
        if !same {
            // The old file got another name and its last lines may have come just now.
            if let Some(file) = &mut self.file {
                file.read_to_end(bytes)?;
            }
            let file = self.file.insert(newest);
            file.read_to_end(bytes)?;
        }
        Ok(())
    }
}

fn last_lines(text: &[u8], count: usize) -> &[u8] {
    if count == 0 {
        return &[];
    }
    let mut ends = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    // The end of the line before the first one that is wanted.
    match ends.nth(count) {
        Some(before) => text.get(before + 1..).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        let text = b"a\nb\nc\n";
        assert_eq!(last_lines(text, 0), b"");
        assert_eq!(last_lines(text, 2), b"b\nc\n");
        assert_eq!(last_lines(text, 9), text);
    }

    #[test]
    fn what_is_added_is_followed_across_a_rotation() {
        let home = tempfile::tempdir().unwrap();
        let name: FunctionName = "f".parse().unwrap();
        let mut reader = LogReader::open(home.path(), &name, 10).unwrap();
        assert_eq!(reader.read().unwrap(), b"");
        let folder = home.path().join("logs/f");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(CURRENT), "one\n").unwrap();
        assert_eq!(reader.read().unwrap(), b"one\n");
        fs::write(folder.join(CURRENT), "one\ntwo\n").unwrap();
        fs::rename(folder.join(CURRENT), folder.join("1.log")).unwrap();
        fs::write(folder.join(CURRENT), "three\n").unwrap();
        assert_eq!(reader.read().unwrap(), b"two\nthree\n");
        assert_eq!(reader.read().unwrap(), b"");
        assert_eq!(LogReader::open(home.path(), &name, 2).unwrap().read().unwrap(), b"two\nthree\n");
    }
}
