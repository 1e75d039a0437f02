//! A cpio archive in the form that Linux unpacks (Documentation/driver-api/early-userspace/buffer-format.rst, "newc").

use thiserror::Error;

/// An entry that can't be archived.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// A path that is not relative, or leads upwards.
    #[error("{path:?} can't be a path in an initramfs: it must be relative, without `.` and `..`")]
    Path {
        /// The path.
        path: String,
    },
    /// A file too large for the format's 32-bit length.
    #[error("{path} has {bytes} bytes, more than a cpio archive can hold")]
    TooLarge {
        /// The path.
        path: String,
        /// Its length.
        bytes: usize,
    },
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// A growing archive. Everything belongs to root and has the time 0, so that the same entries give the same bytes.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory with mode 0755.
    ///
    /// # Errors
    /// [`ArchiveError::Path`].
    pub fn directory(&mut self, path: &str) -> Result<(), ArchiveError> {
        self.entry(path, DIRECTORY | 0o755, &[], (0, 0))
    }

    /// Adds a regular file with permission bits `mode`.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), ArchiveError> {
        self.entry(path, REGULAR | mode & 0o7777, content, (0, 0))
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), ArchiveError> {
        self.entry(path, SYMLINK | 0o777, target.as_bytes(), (0, 0))
    }

    /// Adds a character device, readable and writable by root.
    ///
    /// # Errors
    /// [`ArchiveError::Path`].
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> Result<(), ArchiveError> {
        self.entry(path, CHARACTER_DEVICE | 0o600, &[], (major, minor))
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.write(TRAILER, 0, &[], 0, (0, 0));
        self.bytes
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        content: &[u8],
        device: (u32, u32),
    ) -> Result<(), ArchiveError> {
        let good = !path.contains('\0')
            && path != TRAILER
            && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !good {
            return Err(ArchiveError::Path { path: path.to_owned() });
        }
        let Ok(length) = u32::try_from(content.len()) else {
            return Err(ArchiveError::TooLarge { path: path.to_owned(), bytes: content.len() });
        };
        self.write(path, mode, content, length, device);
        Ok(())
    }

    fn write(&mut self, path: &str, mode: u32, content: &[u8], length: u32, device: (u32, u32)) {
        self.entries += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // Inode, mode, user, group, links, time, length, device twice, length of the name with its end, checksum.
        let fields =
            [self.entries, mode, 0, 0, links, 0, length, 0, 0, device.0, device.1, path.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_back_as_the_format_says() {
        let mut archive = Archive::new();
        archive.directory("dev").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.file("init", 0o755, b"#!/bin/sh\n").unwrap();
        archive.symlink("bin", "usr/bin").unwrap();
        let bytes = archive.finish();
        let mut at = 0;
        let mut found = Vec::new();
        loop {
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                u32::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
                    as usize
            };
            assert_eq!((&bytes[at..at + 6], at % 4), (&b"070701"[..], 0));
            let (mode, length, name_length) = (field(1), field(6), field(11));
            let device = (field(9), field(10));
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_length - 1]).unwrap().to_owned();
            let content = (at + 110 + name_length).next_multiple_of(4);
            if name == TRAILER {
                assert_eq!(bytes.len(), content);
                break;
            }
            found.push(format!("{mode:o} {name} {device:?} {:?}", &bytes[content..content + length].len()));
            at = (content + length).next_multiple_of(4);
        }
        let expected = [
            "40755 dev (0, 0) 0",
            "20600 dev/console (5, 1) 0",
            "100755 init (0, 0) 10",
            "120777 bin (0, 0) 7",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn paths_stay_inside() {
        for path in ["", "/init", "a//b", "a/../b", "./a", "a\0b", TRAILER] {
            assert!(Archive::new().file(path, 0o644, b"").is_err(), "{path:?}");
        }
    }
}
