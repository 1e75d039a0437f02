//! Names of sections.

use std::fmt;

/// The name of a kind of section: 1 to 16 lower-case letters, digits and hyphens. Each producer declares its own as a
/// constant; the container's own are in this crate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SectionKind([u8; Self::LENGTH]);

impl SectionKind {
    /// Bytes of a name in the section table, padded with zeros.
    pub(crate) const LENGTH: usize = 16;

    /// Creation time, tool and machine: see [`crate::Manifest`].
    pub(crate) const MANIFEST: Self = Self::named("manifest");
    /// Which pages the memory file stores.
    pub(crate) const STORED_PAGES: Self = Self::named("stored-pages");
    /// One CRC32C for each chunk of the memory file that stores a page.
    pub(crate) const MEMORY_CHECKSUMS: Self = Self::named("memory-checksums");
    /// The length of the disk file in pages, and which of them it stores; there is none without a disk.
    pub(crate) const DISK_PAGES: Self = Self::named("disk-pages");
    /// One CRC32C for each chunk of the disk file that stores a page.
    pub(crate) const DISK_CHECKSUMS: Self = Self::named("disk-checksums");

    /// The kind called `name`.
    ///
    /// # Panics
    /// When `name` breaks the rule above; in a constant, where it belongs, that is a build error.
    pub const fn named(name: &str) -> Self {
        let text = name.as_bytes();
        assert!(!text.is_empty() && text.len() <= Self::LENGTH, "a section kind has 1 to 16 characters");
        let mut padded = [0; Self::LENGTH];
        let mut index = 0;
        while index < text.len() {
            assert!(Self::allowed(text[index]), "a section kind has lower-case letters, digits and hyphens");
            padded[index] = text[index];
            index += 1;
        }
        Self(padded)
    }

    const fn allowed(byte: u8) -> bool {
        matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
    }

    /// A name as it stands in the section table; `None` when it breaks the rule.
    pub(crate) fn from_table(padded: [u8; Self::LENGTH]) -> Option<Self> {
        let length = padded.iter().position(|byte| *byte == 0).unwrap_or(Self::LENGTH);
        let (name, padding) = padded.split_at(length);
        let valid = !name.is_empty()
            && name.iter().all(|byte| Self::allowed(*byte))
            && padding.iter().all(|byte| *byte == 0);
        valid.then_some(Self(padded))
    }

    /// The name as it stands in the section table.
    pub(crate) const fn table_bytes(self) -> [u8; Self::LENGTH] {
        self.0
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take_while(|byte| **byte != 0).try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl fmt::Debug for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "section {self}")
    }
}
