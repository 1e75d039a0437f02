//! Build errors for whoever moves a value of the stored format without meaning to.
//!
//! A change here needs a new [`FORMAT_VERSION`], a new golden snapshot and a paragraph in `docs/snapshot-versioning.md`.

use crate::header::{
    CHECKSUM_OFFSET, ENTRY_BYTES, FORMAT_VERSION, HEADER_BYTES, MAGIC, MAX_MEMORY_PAGES, MAX_SECTION_BYTES,
    MAX_SECTIONS,
};
use crate::memory_file::CHUNK_PAGES;
use crate::section::SectionKind;

const _: () = assert!(matches!(&MAGIC, b"FAASNAP\0"));
const _: () = assert!(FORMAT_VERSION == 1);
const _: () = assert!(HEADER_BYTES == 64 && ENTRY_BYTES == 40 && CHECKSUM_OFFSET == 12);
const _: () = assert!(MAX_SECTIONS == 64 && MAX_SECTION_BYTES == 1 << 30 && MAX_MEMORY_PAGES.0 == 1 << 28);
const _: () = assert!(CHUNK_PAGES.0 == 256 && pages::PAGE_SIZE == 4096);
const _: () = assert!(matches!(&SectionKind::MANIFEST.table_bytes(), b"manifest\0\0\0\0\0\0\0\0"));
const _: () = assert!(matches!(&SectionKind::STORED_PAGES.table_bytes(), b"stored-pages\0\0\0\0"));
const _: () = assert!(matches!(&SectionKind::MEMORY_CHECKSUMS.table_bytes(), b"memory-checksums"));
