//! The header and the section table: the part of a snapshot that is checked before anything is decoded.
//!
//! All numbers are little-endian. The layout stands in `docs/snapshot-format.md`; `tripwires` fails the build when it moves.

use std::fmt;
use std::path::Path;

use pages::PageCount;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, SnapshotError};
use crate::section::SectionKind;

/// First bytes of every `state` file.
pub(crate) const MAGIC: [u8; 8] = *b"FAASNAP\0";
/// Version of the container: what this module, the section table and the memory file's layout mean.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes before the section table.
pub(crate) const HEADER_BYTES: usize = 64;
/// Bytes of one entry of the section table.
pub(crate) const ENTRY_BYTES: usize = 40;
/// Where the header's own checksum stands; those four bytes count as zero when it is computed.
pub(crate) const CHECKSUM_OFFSET: usize = 12;
const TOOL_VERSION_BYTES: usize = 24;

/// At most this many sections.
pub(crate) const MAX_SECTIONS: usize = 64;
/// No section is longer than this.
pub(crate) const MAX_SECTION_BYTES: u64 = 1 << 30;
/// No guest-physical space is larger than this (1 TiB).
pub(crate) const MAX_MEMORY_PAGES: PageCount = PageCount(1 << 28);

const OPERATION: &str = "reading the header of";

/// The random name of one snapshot's contents. A file derived from a snapshot carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(pub [u8; 16]);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot {self}")
    }
}

/// One line of the section table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub kind: SectionKind,
    pub version: u16,
    pub checksum: u32,
    pub offset: u64,
    pub length: u64,
}

/// The decoded header and section table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub id: SnapshotId,
    pub memory_pages: PageCount,
    /// Version of the tool that wrote the snapshot, cut to 24 bytes.
    pub tool_version: String,
    pub sections: Vec<Entry>,
}

impl Header {
    /// Bytes that a header with `sections` sections takes.
    pub fn encoded_length(sections: usize) -> usize {
        HEADER_BYTES + sections * ENTRY_BYTES
    }

    /// The header and table as they stand in the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::encoded_length(self.sections.len()));
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((self.sections.len() as u16).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.id.0);
        bytes.extend(self.memory_pages.0.to_le_bytes());
        let mut tool = self.tool_version.clone().into_bytes();
        tool.resize(TOOL_VERSION_BYTES, 0);
        bytes.extend(tool);
        for entry in &self.sections {
            bytes.extend(entry.kind.table_bytes());
            bytes.extend(entry.version.to_le_bytes());
            bytes.extend([0; 2]);
            bytes.extend(entry.checksum.to_le_bytes());
            bytes.extend(entry.offset.to_le_bytes());
            bytes.extend(entry.length.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&bytes);
        if let Some(field) = bytes.get_mut(CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4) {
            field.copy_from_slice(&checksum.to_le_bytes());
        }
        bytes
    }

    /// Checks and decodes the header and table at the start of a `state` file.
    ///
    /// `start` holds the first bytes of the file, at least [`Self::encoded_length`] of [`MAX_SECTIONS`] or all there are;
    /// `file_length` is the length of the whole file, which the table must account for to the byte.
    pub fn decode(path: &Path, start: &[u8], file_length: u64) -> Result<Self, SnapshotError> {
        let refuse = |kind, offset: usize, detail: String| {
            SnapshotError::new(kind, OPERATION, path, detail).at(offset as u64)
        };
        if !start.starts_with(&MAGIC) {
            return Err(refuse(ErrorKind::NotASnapshot, 0, "it does not begin as a snapshot does".into()));
        }
        let mut fields = Fields { bytes: start, position: MAGIC.len() };
        let short = || refuse(ErrorKind::WrongLength, start.len(), "it ends inside the header".into());
        let version = fields.u16().ok_or_else(short)?;
        if version != FORMAT_VERSION {
            let detail = format!("it has format version {version}, this tool reads {FORMAT_VERSION}");
            return Err(refuse(ErrorKind::UnsupportedVersion, MAGIC.len(), detail));
        }
        let count = usize::from(fields.u16().ok_or_else(short)?);
        if count > MAX_SECTIONS {
            let detail = format!("it has {count} sections, at most {MAX_SECTIONS} are allowed");
            return Err(refuse(ErrorKind::LimitExceeded, 10, detail));
        }
        let recorded = fields.u32().ok_or_else(short)?;
        let covered = start.get(..Self::encoded_length(count)).ok_or_else(short)?;
        if checksum_without_field(covered) != Some(recorded) {
            return Err(refuse(
                ErrorKind::Corrupt,
                CHECKSUM_OFFSET,
                "the header's checksum doesn't match".into(),
            ));
        }
        let id = SnapshotId(fields.array().ok_or_else(short)?);
        let memory_pages = PageCount(fields.u64().ok_or_else(short)?);
        if memory_pages > MAX_MEMORY_PAGES {
            let detail = format!("it claims {} pages of guest memory", memory_pages.0);
            return Err(refuse(ErrorKind::LimitExceeded, 32, detail));
        }
        let tool: [u8; TOOL_VERSION_BYTES] = fields.array().ok_or_else(short)?;
        let tool_version = String::from_utf8_lossy(&tool).trim_end_matches('\0').to_owned();
        let mut sections = Vec::with_capacity(count);
        let mut expected_offset = covered.len() as u64;
        for _ in 0..count {
            let at = fields.position;
            let entry = fields.entry().ok_or_else(short)?.ok_or_else(|| {
                refuse(ErrorKind::Corrupt, at, "a section's name or padding is not valid".into())
            })?;
            if entry.length > MAX_SECTION_BYTES {
                let detail = format!("{:?} claims {} bytes", entry.kind, entry.length);
                return Err(refuse(ErrorKind::LimitExceeded, at, detail));
            }
            if entry.offset != expected_offset
                || sections.iter().any(|other: &Entry| other.kind == entry.kind)
            {
                let detail = format!("{:?} is out of place or there twice", entry.kind);
                return Err(refuse(ErrorKind::Corrupt, at, detail));
            }
            expected_offset += entry.length;
            sections.push(entry);
        }
        if expected_offset != file_length {
            let detail = format!("it has {file_length} bytes, its header accounts for {expected_offset}");
            return Err(SnapshotError::new(ErrorKind::WrongLength, OPERATION, path, detail));
        }
        Ok(Self { id, memory_pages, tool_version, sections })
    }
}

fn checksum_without_field(covered: &[u8]) -> Option<u32> {
    let before = covered.get(..CHECKSUM_OFFSET)?;
    let after = covered.get(CHECKSUM_OFFSET + 4..)?;
    Some(crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after))
}

/// A cursor that never reads past the end.
struct Fields<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = self.bytes.get(self.position..)?.first_chunk::<N>()?;
        self.position += N;
        Some(*field)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// `None` when the bytes run out, `Some(None)` when they are no entry.
    fn entry(&mut self) -> Option<Option<Entry>> {
        let kind = SectionKind::from_table(self.array()?);
        let version = self.u16()?;
        let padding = self.u16()?;
        let (checksum, offset, length) = (self.u32()?, self.u64()?, self.u64()?);
        Some(kind.filter(|_| padding == 0).map(|kind| Entry { kind, version, checksum, offset, length }))
    }
}
