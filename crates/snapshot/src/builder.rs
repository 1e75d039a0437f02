//! Writing a snapshot.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use pages::{PageCount, PageSet};
use serde::Serialize;

use crate::error::{ErrorKind, SnapshotError};
use crate::header::{Entry, Header, MAX_MEMORY_PAGES, MAX_SECTION_BYTES, MAX_SECTIONS, SnapshotId};
use crate::manifest::{MANIFEST_VERSION, MachineIdentity, Manifest};
use crate::memory_file::MemorySink;
use crate::publish::{PendingDirectory, create_file, random_bytes};
use crate::reader::{DISK_FILE, DISK_PAGES_VERSION, MEMORY_FILE, STATE_FILE, STORED_PAGES_VERSION, Snapshot};
use crate::section::SectionKind;

/// A snapshot being written. Nothing is visible until [`SnapshotBuilder::publish`]; dropping the builder removes what
/// was written.
#[derive(Debug)]
pub struct SnapshotBuilder {
    directory: PendingDirectory,
    id: SnapshotId,
    manifest: Manifest,
    sections: Vec<(SectionKind, u16, Vec<u8>)>,
    memory_pages: Option<PageCount>,
}

impl SnapshotBuilder {
    /// Starts a snapshot that will be the directory `name` in `parent`, taken on `machine`.
    ///
    /// # Errors
    /// When the directory can't be created.
    pub fn begin(parent: &Path, name: &str, machine: MachineIdentity) -> Result<Self, SnapshotError> {
        let id =
            random_bytes().map_err(|source| SnapshotError::io("naming a snapshot in", parent, source))?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Self {
            directory: PendingDirectory::begin(parent, name)?,
            id: SnapshotId(id),
            manifest: Manifest { machine, created_unix_seconds: created },
            sections: Vec::new(),
            memory_pages: None,
        })
    }

    /// Adds a section: `bytes` mean what version `version` of `kind` says.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for a kind given twice, [`ErrorKind::LimitExceeded`] for one that is too long.
    pub fn section(&mut self, kind: SectionKind, version: u16, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.add(kind, version, bytes.to_vec())
    }

    fn add(&mut self, kind: SectionKind, version: u16, bytes: Vec<u8>) -> Result<(), SnapshotError> {
        let refuse = |kind_of_error, detail: String| {
            Err(SnapshotError::new(kind_of_error, "adding a section to", self.directory.path(), detail))
        };
        if self.sections.iter().any(|(other, ..)| *other == kind) {
            return refuse(ErrorKind::Misuse, format!("{kind:?} was given twice"));
        }
        if bytes.len() as u64 > MAX_SECTION_BYTES || self.sections.len() >= MAX_SECTIONS {
            return refuse(
                ErrorKind::LimitExceeded,
                format!("{kind:?} has {} bytes and is number {}", bytes.len(), self.sections.len() + 1),
            );
        }
        self.sections.push((kind, version, bytes));
        Ok(())
    }

    /// Adds a section whose payload is `value` in postcard.
    ///
    /// # Errors
    /// As [`SnapshotBuilder::section`]; [`ErrorKind::Misuse`] for a value that postcard can't encode.
    pub fn section_postcard<T: Serialize>(
        &mut self,
        kind: SectionKind,
        version: u16,
        value: &T,
    ) -> Result<(), SnapshotError> {
        let bytes = postcard::to_stdvec(value).map_err(|error| {
            SnapshotError::new(
                ErrorKind::Misuse,
                "encoding a section of",
                self.directory.path(),
                error.to_string(),
            )
        })?;
        self.add(kind, version, bytes)
    }

    /// Writes the memory file: `feed` passes the guest's pages in ascending order, all of them or those that may not be
    /// zero, in pieces of any size.
    ///
    /// # Errors
    /// What `feed` returns, [`ErrorKind::Misuse`] when called twice, or [`ErrorKind::Io`].
    pub fn memory<E: From<SnapshotError>>(
        &mut self,
        page_count: PageCount,
        feed: impl FnOnce(&mut MemorySink) -> Result<(), E>,
    ) -> Result<(), E> {
        let (stored, checksums) = self.pages(MEMORY_FILE, page_count, feed)?;
        self.memory_pages = Some(page_count);
        self.section_postcard(SectionKind::STORED_PAGES, STORED_PAGES_VERSION, &stored)?;
        self.add(SectionKind::MEMORY_CHECKSUMS, 1, checksums)?;
        Ok(())
    }

    /// Writes the disk file: what a guest has on a disk of its own, which is `page_count` pages long; as [`Self::memory`].
    ///
    /// # Errors
    /// As [`Self::memory`].
    pub fn disk<E: From<SnapshotError>>(
        &mut self,
        page_count: PageCount,
        feed: impl FnOnce(&mut MemorySink) -> Result<(), E>,
    ) -> Result<(), E> {
        let (stored, checksums) = self.pages(DISK_FILE, page_count, feed)?;
        self.section_postcard(SectionKind::DISK_PAGES, DISK_PAGES_VERSION, &(page_count, stored))?;
        self.add(SectionKind::DISK_CHECKSUMS, 1, checksums)?;
        Ok(())
    }

    /// Writes a file of pages; gives which it stores, and their checksums.
    fn pages<E: From<SnapshotError>>(
        &self,
        name: &str,
        page_count: PageCount,
        feed: impl FnOnce(&mut MemorySink) -> Result<(), E>,
    ) -> Result<(PageSet, Vec<u8>), E> {
        let path = self.directory.path().join(name);
        if page_count > MAX_MEMORY_PAGES {
            let detail = format!("a guest with {} pages is too large", page_count.0);
            return Err(SnapshotError::new(ErrorKind::LimitExceeded, "writing", &path, detail).into());
        }
        // Creating the file a second time fails, so that this can't be called twice.
        let mut sink = MemorySink::new(create_file(&path)?, path, page_count)?;
        feed(&mut sink)?;
        let (_, stored, checksums) = sink.finish()?;
        Ok((stored, checksums.iter().flat_map(|checksum| checksum.to_le_bytes()).collect()))
    }

    /// Makes everything durable, gives the directory its name and opens the finished snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the name is taken, [`ErrorKind::Misuse`] without memory, [`ErrorKind::Io`].
    pub fn publish(mut self) -> Result<Snapshot, SnapshotError> {
        let state = self.directory.path().join(STATE_FILE);
        let Some(memory_pages) = self.memory_pages else {
            let detail = "no memory was written";
            return Err(SnapshotError::new(ErrorKind::Misuse, "publishing", self.directory.path(), detail));
        };
        let manifest = self.manifest.clone();
        self.section_postcard(SectionKind::MANIFEST, MANIFEST_VERSION, &manifest)?;
        let mut offset = Header::encoded_length(self.sections.len()) as u64;
        let mut entries = Vec::with_capacity(self.sections.len());
        for (kind, version, bytes) in &self.sections {
            let length = bytes.len() as u64;
            entries.push(Entry {
                kind: *kind,
                version: *version,
                checksum: crc32c::crc32c(bytes),
                offset,
                length,
            });
            offset += length;
        }
        let tool_version = env!("CARGO_PKG_VERSION").to_owned();
        let header = Header { id: self.id, memory_pages, tool_version, sections: entries };
        let file = create_file(&state)?;
        let write = || {
            file.write_all_at(&header.encode(), 0)?;
            for (entry, (_, _, bytes)) in header.sections.iter().zip(&self.sections) {
                file.write_all_at(bytes, entry.offset)?;
            }
            file.sync_all()
        };
        write().map_err(|source| SnapshotError::io("writing", &state, source))?;
        Snapshot::open(&self.directory.publish()?)
    }
}
