//! Reading a snapshot.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pages::{PageCount, PageSet};
use rustix::fs::OFlags;
use serde::de::DeserializeOwned;

use crate::error::{ErrorKind, SnapshotError};
use crate::header::{Entry, Header, MAX_MEMORY_PAGES, MAX_SECTIONS, SnapshotId};
use crate::manifest::{MANIFEST_VERSION, MachineIdentity, Manifest};
use crate::memory_file;
use crate::section::SectionKind;

/// Name of the file with header and sections.
pub const STATE_FILE: &str = "state";
/// Name of the file with guest memory.
pub const MEMORY_FILE: &str = "memory";
/// Name of the file with what a guest has on a disk of its own, in snapshots that have one.
pub const DISK_FILE: &str = "disk";
/// Version of the stored-pages section: a `PageSet` in postcard.
pub(crate) const STORED_PAGES_VERSION: u16 = 1;
/// Version of the disk-pages section: a `PageCount` and a `PageSet` in postcard.
pub(crate) const DISK_PAGES_VERSION: u16 = 1;
/// Version of both sections with checksums.
const CHECKSUMS_VERSION: u16 = 1;

/// How much of the state file is read at once: enough for header, table and the small sections of most snapshots.
const FIRST_READ: usize = 64 << 10;

/// One section's checked bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// What its producer called the version of its payload.
    pub version: u16,
    /// The payload.
    pub bytes: Vec<u8>,
}

/// What [`Snapshot::verify`] read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerifyReport {
    /// Sections with matching checksums.
    pub sections: usize,
    /// Pages with matching checksums, of memory and disk.
    pub stored_pages: PageCount,
}

/// The disk file.
#[derive(Debug)]
struct StoredDisk {
    file: File,
    stored: PageSet,
}

/// A published snapshot, open for reading.
#[derive(Debug)]
pub struct Snapshot {
    directory: PathBuf,
    state: File,
    start: Vec<u8>,
    header: Header,
    manifest: Manifest,
    stored_pages: PageSet,
    memory: File,
    disk: Option<StoredDisk>,
}

impl Snapshot {
    /// Opens the snapshot in `directory`, whatever machine it is from. The header, the table, the manifest and the list
    /// of stored pages are checked; the memory file is only measured.
    ///
    /// # Errors
    /// [`SnapshotError`] saying what is wrong where, and what to do.
    pub fn open(directory: &Path) -> Result<Self, SnapshotError> {
        let path = directory.join(STATE_FILE);
        let (state, length) = open_file(&path)?;
        let first_read = FIRST_READ.max(Header::encoded_length(MAX_SECTIONS)) as u64;
        let mut start = vec![0; length.min(first_read) as usize];
        state.read_exact_at(&mut start, 0).map_err(|source| SnapshotError::io("reading", &path, source))?;
        let header = Header::decode(&path, &start, length)?;
        let sections = SectionReader { path: &path, state: &state, start: &start, header: &header };
        let manifest = sections.decode(SectionKind::MANIFEST, MANIFEST_VERSION)?;
        let stored_pages: PageSet = sections.decode(SectionKind::STORED_PAGES, STORED_PAGES_VERSION)?;
        let memory = open_pages(&directory.join(MEMORY_FILE), header.memory_pages, &stored_pages)?;
        let mut disk = None;
        if header.sections.iter().any(|entry| entry.kind == SectionKind::DISK_PAGES) {
            let (count, stored): (PageCount, PageSet) =
                sections.decode(SectionKind::DISK_PAGES, DISK_PAGES_VERSION)?;
            let count = PageCount(count.0.min(MAX_MEMORY_PAGES.0));
            let file = open_pages(&directory.join(DISK_FILE), count, &stored)?;
            disk = Some(StoredDisk { file, stored });
        }
        Ok(Self { directory: directory.into(), state, start, header, manifest, stored_pages, memory, disk })
    }

    /// Opens the snapshot in `directory` to run it on `machine`.
    ///
    /// # Errors
    /// As [`Snapshot::open`], and [`ErrorKind::OtherMachine`] naming every difference.
    pub fn open_for(directory: &Path, machine: &MachineIdentity) -> Result<Self, SnapshotError> {
        let snapshot = Self::open(directory)?;
        let differences = snapshot.manifest.machine.differences(machine);
        if differences.is_empty() {
            return Ok(snapshot);
        }
        let detail = format!("it was taken on another machine: {}", differences.join("; "));
        Err(SnapshotError::new(ErrorKind::OtherMachine, "opening", directory, detail))
    }

    /// The snapshot's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The random id of these contents.
    pub fn id(&self) -> SnapshotId {
        self.header.id
    }

    /// Where and when it was taken.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Version of the tool that wrote it.
    pub fn tool_version(&self) -> &str {
        &self.header.tool_version
    }

    /// Size of the guest-physical space.
    pub fn page_count(&self) -> PageCount {
        self.header.memory_pages
    }

    /// The pages that the memory file stores; every other page is zero.
    pub fn stored_pages(&self) -> &PageSet {
        &self.stored_pages
    }

    /// The memory file, open for reading: guest-physical page N is at byte N * 4096.
    pub fn memory_file(&self) -> &File {
        &self.memory
    }

    /// What the guest has on a disk of its own, open for reading, when it has one.
    pub fn disk_file(&self) -> Option<&File> {
        self.disk.as_ref().map(|disk| &disk.file)
    }

    /// Path of the memory file.
    pub fn memory_path(&self) -> PathBuf {
        self.directory.join(MEMORY_FILE)
    }

    /// Every section's kind, version and length in bytes, in file order.
    pub fn sections(&self) -> impl Iterator<Item = (SectionKind, u16, u64)> {
        self.header.sections.iter().map(|entry| (entry.kind, entry.version, entry.length))
    }

    /// Reads the section `kind` and checks it.
    ///
    /// # Errors
    /// [`ErrorKind::MissingSection`], [`ErrorKind::Corrupt`] or [`ErrorKind::Io`].
    pub fn section(&self, kind: SectionKind) -> Result<Section, SnapshotError> {
        self.reader(&self.directory.join(STATE_FILE)).section(kind)
    }

    /// Reads the section `kind`, which must have `version`, and checks it.
    ///
    /// # Errors
    /// As [`Snapshot::section`], and [`ErrorKind::UnsupportedVersion`].
    pub fn section_version(&self, kind: SectionKind, version: u16) -> Result<Vec<u8>, SnapshotError> {
        self.reader(&self.directory.join(STATE_FILE)).section_version(kind, version)
    }

    /// Reads the section `kind`, which must have `version`, checks it and decodes its payload from postcard. What the value
    /// means is for the caller to check.
    ///
    /// # Errors
    /// As [`Snapshot::section_version`], and [`ErrorKind::Corrupt`] for bytes that are no such value.
    pub fn section_postcard<T: DeserializeOwned>(
        &self,
        kind: SectionKind,
        version: u16,
    ) -> Result<T, SnapshotError> {
        self.reader(&self.directory.join(STATE_FILE)).decode(kind, version)
    }

    /// An error about the content of section `kind`, for a producer whose decoder refuses it.
    pub fn section_error(&self, kind: SectionKind, detail: impl Into<String>) -> SnapshotError {
        let path = self.directory.join(STATE_FILE);
        let error = SnapshotError::new(ErrorKind::Corrupt, "decoding a section of", &path, detail);
        match self.header.sections.iter().find(|entry| entry.kind == kind) {
            Some(entry) => error.at(entry.offset),
            None => error,
        }
    }

    fn reader<'a>(&'a self, path: &'a Path) -> SectionReader<'a> {
        SectionReader { path, state: &self.state, start: &self.start, header: &self.header }
    }

    /// Reads everything and compares every checksum; `progress` hears of pages checked so far. This is the one place that
    /// reads the whole memory file.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn verify(&self, mut progress: impl FnMut(PageCount)) -> Result<VerifyReport, SnapshotError> {
        let state_path = self.directory.join(STATE_FILE);
        let reader = self.reader(&state_path);
        for entry in &self.header.sections {
            reader.section(entry.kind)?;
        }
        let recorded = reader.checksums(SectionKind::MEMORY_CHECKSUMS, &self.stored_pages)?;
        let stored = &self.stored_pages;
        memory_file::verify(&self.memory, &self.memory_path(), stored, &recorded, &mut progress)?;
        let mut stored_pages = stored.count();
        if let Some(StoredDisk { file, stored }) = &self.disk {
            let recorded = reader.checksums(SectionKind::DISK_CHECKSUMS, stored)?;
            let path = self.directory.join(DISK_FILE);
            let before = stored_pages.0;
            let progress = |checked: PageCount| progress(PageCount(before + checked.0));
            memory_file::verify(file, &path, stored, &recorded, progress)?;
            stored_pages.0 += stored.count().0;
        }
        Ok(VerifyReport { sections: self.header.sections.len(), stored_pages })
    }
}

/// Opens a file of `count` pages, of which it stores these.
fn open_pages(path: &Path, count: PageCount, stored: &PageSet) -> Result<File, SnapshotError> {
    let (file, length) = open_file(path).map_err(|error| match error.kind() {
        // The state file is there, so the name is right.
        ErrorKind::NotFound => SnapshotError::new(ErrorKind::Corrupt, "opening", path, "it is gone"),
        _ => error,
    })?;
    if length != count.bytes() {
        let detail = format!("it has {length} bytes, the state file says {}", count.bytes());
        return Err(SnapshotError::new(ErrorKind::WrongLength, "opening", path, detail));
    }
    if stored.end().0 > count.0 {
        let detail = "stored pages lie past its end";
        return Err(SnapshotError::new(ErrorKind::Corrupt, "opening", path, detail));
    }
    Ok(file)
}

fn open_file(path: &Path) -> Result<(File, u64), SnapshotError> {
    let failed = |source| SnapshotError::io("opening", path, source);
    // Without NONBLOCK, opening a named pipe that somebody put there would wait for ever.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(SnapshotError::new(ErrorKind::NotASnapshot, "opening", path, "it is not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// Reads sections of one state file: from the bytes that were read first, or from the file.
struct SectionReader<'a> {
    path: &'a Path,
    state: &'a File,
    start: &'a [u8],
    header: &'a Header,
}

impl SectionReader<'_> {
    fn section(&self, kind: SectionKind) -> Result<Section, SnapshotError> {
        let entry = self.header.sections.iter().find(|entry| entry.kind == kind).ok_or_else(|| {
            let detail = format!("it has no {kind:?}");
            SnapshotError::new(ErrorKind::MissingSection, "reading", self.path, detail)
        })?;
        let bytes = self.bytes(entry)?;
        if crc32c::crc32c(&bytes) != entry.checksum {
            let detail = format!("the checksum of {kind:?} doesn't match");
            return Err(SnapshotError::new(ErrorKind::Corrupt, "reading", self.path, detail).at(entry.offset));
        }
        Ok(Section { version: entry.version, bytes })
    }

    fn bytes(&self, entry: &Entry) -> Result<Vec<u8>, SnapshotError> {
        // Offsets and lengths fit: the table was checked against the file's length.
        let (offset, length) = (entry.offset as usize, entry.length as usize);
        if let Some(bytes) = self.start.get(offset..).and_then(|rest| rest.get(..length)) {
            return Ok(bytes.to_vec());
        }
        let mut bytes = vec![0; length];
        self.state
            .read_exact_at(&mut bytes, entry.offset)
            .map_err(|source| SnapshotError::io("reading", self.path, source).at(entry.offset))?;
        Ok(bytes)
    }

    /// The checksums of a file that stores these pages.
    fn checksums(&self, kind: SectionKind, stored: &PageSet) -> Result<Vec<u32>, SnapshotError> {
        let bytes = self.section_version(kind, CHECKSUMS_VERSION)?;
        let (checksums, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() || checksums.len() != memory_file::chunk_count(stored) {
            let detail = format!("the number of checksums in {kind:?} is not the number of chunks");
            return Err(SnapshotError::new(ErrorKind::Corrupt, "verifying", self.path, detail));
        }
        Ok(checksums.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    fn section_version(&self, kind: SectionKind, version: u16) -> Result<Vec<u8>, SnapshotError> {
        let section = self.section(kind)?;
        if section.version != version {
            let detail = format!("{kind:?} has version {}, this tool reads {version}", section.version);
            return Err(SnapshotError::new(ErrorKind::UnsupportedVersion, "reading", self.path, detail));
        }
        Ok(section.bytes)
    }

    fn decode<T: DeserializeOwned>(&self, kind: SectionKind, version: u16) -> Result<T, SnapshotError> {
        let bytes = self.section_version(kind, version)?;
        let refuse = |detail: String| SnapshotError::new(ErrorKind::Corrupt, "decoding", self.path, detail);
        let (value, rest) =
            postcard::take_from_bytes(&bytes).map_err(|error| refuse(format!("{kind:?}: {error}")))?;
        if rest.is_empty() { Ok(value) } else { Err(refuse(format!("{kind:?} has bytes left over"))) }
    }
}
