//! A snapshot's state file and loading-set file. Threat model: a disk that lies. Whatever the bytes say, opening, verifying and
//! restoring gives an error or a snapshot whose parts agree; nothing panics, and nothing is allocated that the file's own size
//! does not warrant. Checksums would stop almost every change, so they are made right again after most of them.
//!
//! The first byte says which checksums and lengths are mended. Then come changes: a byte for the part (a section, the section
//! table, the header, the loading set's table or its header), two for the place, one for the kind of change and the number of
//! bytes, and the bytes.
#![no_main]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use guest_memory::GuestMemory;
use pages::PageCount;
use restore::{GuestLayout, LoadingSet, RestoreRequest, RestoreStrategy, Timeline, restore};
use snapshot::Snapshot;

const STATE_HEADER: usize = 64;
const ENTRY: usize = 40;
const SET_HEADER: usize = 64;
const PAGE: usize = 4096;
/// Larger guests are opened and verified, but not restored: mapping them would only take time.
const MOST_RESTORED: u64 = 1 << 16;

/// Bits of the first byte. Unset, so that most inputs get further: mend.
const KEEP_STATE_CHECKSUMS: u8 = 1;
const KEEP_STATE_LENGTHS: u8 = 2;
const KEEP_SET_CHECKSUMS: u8 = 4;
const KEEP_SET_LENGTHS: u8 = 8;
const KEEP_MEMORY_LENGTH: u8 = 16;

/// The snapshot that the format's own tests keep.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/restore/tests/goldens/format-1")
}

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("memory"), &*MEMORY).unwrap();
    folder
});

static MEMORY: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read(golden().join("memory")).unwrap());

static GOLDEN: LazyLock<Files> = LazyLock::new(|| Files::split(&golden()));

/// The two files, taken apart.
#[derive(Clone)]
struct Files {
    /// Header and entries of the state file, then the payloads.
    header: Vec<u8>,
    entries: Vec<u8>,
    sections: Vec<Vec<u8>>,
    set_header: Vec<u8>,
    set_table: Vec<u8>,
    set_data: Vec<u8>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

impl Files {
    fn split(folder: &Path) -> Self {
        let state = fs::read(folder.join("state")).unwrap();
        let count = number::<2>(&state, 10) as usize;
        let entries = state[STATE_HEADER..STATE_HEADER + count * ENTRY].to_vec();
        let sections = entries.chunks(ENTRY).map(|entry| {
            let (offset, length) = (number::<8>(entry, 24) as usize, number::<8>(entry, 32) as usize);
            state[offset..offset + length].to_vec()
        });
        let set = fs::read(folder.join("loading-set")).unwrap();
        let (length, data) = (number::<8>(&set, 16) as usize, number::<8>(&set, 24) as usize);
        Self {
            header: state[..STATE_HEADER].to_vec(),
            sections: sections.collect(),
            entries,
            set_header: set[..SET_HEADER].to_vec(),
            set_table: set[SET_HEADER..SET_HEADER + length].to_vec(),
            set_data: set[data..].to_vec(),
        }
    }

    fn part(&mut self, index: u8) -> &mut Vec<u8> {
        let sections = self.sections.len();
        match usize::from(index) % (sections + 5) {
            index if index < sections => &mut self.sections[index],
            index if index == sections => &mut self.header,
            index if index == sections + 1 => &mut self.entries,
            index if index == sections + 2 => &mut self.set_header,
            index if index == sections + 3 => &mut self.set_data,
            _ => &mut self.set_table,
        }
    }

    /// The state file, with what is to be mended mended.
    fn state(&mut self, mend: u8) -> Vec<u8> {
        let mut offset = (STATE_HEADER + self.entries.len()) as u64;
        for (entry, payload) in self.entries.chunks_exact_mut(ENTRY).zip(&self.sections) {
            if mend & KEEP_STATE_LENGTHS == 0 {
                put(entry, 24, offset.to_le_bytes());
                put(entry, 32, (payload.len() as u64).to_le_bytes());
            }
            if mend & KEEP_STATE_CHECKSUMS == 0 {
                put(entry, 20, crc32c::crc32c(payload).to_le_bytes());
            }
            offset += payload.len() as u64;
        }
        let mut state = [&self.header[..], &self.entries].concat();
        if mend & KEEP_STATE_LENGTHS == 0 && self.header.len() == STATE_HEADER {
            put(&mut state, 10, ((self.entries.len() / ENTRY) as u16).to_le_bytes());
        }
        if mend & KEEP_STATE_CHECKSUMS == 0 && self.header.len() == STATE_HEADER {
            put(&mut state, 12, [0; 4]);
            let checksum = crc32c::crc32c(&state);
            put(&mut state, 12, checksum.to_le_bytes());
        }
        state.extend(self.sections.concat());
        state
    }

    /// The loading-set file, likewise.
    fn loading_set(&mut self, mend: u8) -> Vec<u8> {
        let data = (SET_HEADER + self.set_table.len()).next_multiple_of(PAGE);
        if self.set_header.len() == SET_HEADER {
            if mend & KEEP_SET_LENGTHS == 0 {
                put(&mut self.set_header, 16, (self.set_table.len() as u64).to_le_bytes());
                put(&mut self.set_header, 24, (data as u64).to_le_bytes());
            }
            if mend & KEEP_SET_CHECKSUMS == 0 {
                put(&mut self.set_header, 12, crc32c::crc32c(&self.set_table).to_le_bytes());
                let checksum = crc32c::crc32c(&self.set_header[..60]);
                put(&mut self.set_header, 60, checksum.to_le_bytes());
            }
        }
        let mut set = [&self.set_header[..], &self.set_table].concat();
        set.resize(data.max(set.len()), 0);
        set.extend(&self.set_data);
        set
    }
}

/// Makes one change and returns what is left of the input.
fn change<'a>(files: &mut Files, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let ([part, high, low, how], rest) = bytes.split_first_chunk::<4>()?;
    let (new, rest) = rest.split_at(usize::from(how & 63).min(rest.len()));
    let part = files.part(*part);
    let at = usize::from(u16::from_be_bytes([*high, *low])) % (part.len() + 1);
    let end = match how >> 6 {
        // Replaced, inserted, replaced up to the end, cut out.
        0 | 3 => (at + usize::from(how & 63)).min(part.len()),
        1 => at,
        _ => part.len(),
    };
    let new = if how >> 6 == 3 { &[][..] } else { new };
    part.splice(at..end, new.iter().copied());
    Some(rest)
}

/// Makes the memory file `length` bytes long, with the golden content as far as it reaches and zeros after that.
fn set_memory_length(path: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    if file.metadata().unwrap().len() < MEMORY.len() as u64 {
        file.write_all_at(&MEMORY, 0).unwrap();
    }
    file.set_len(length).unwrap();
}

/// Everything that is done with a snapshot on disk.
fn use_it(folder: &Path) {
    let Ok(snapshot) = Snapshot::open(folder) else { return };
    let _ = snapshot.verify(|_| {});
    let Ok(layout) = GuestLayout::from_snapshot(&snapshot) else { return };
    let _ = LoadingSet::open(&snapshot, "loading-set", &layout);
    if layout.page_count().0 > MOST_RESTORED {
        return;
    }
    for strategy in [RestoreStrategy::OnDemand, RestoreStrategy::FaaSnap] {
        let memory = Arc::new(GuestMemory::reserve(layout.page_count().max(PageCount(1))).unwrap());
        let mut timeline = Timeline::start();
        let request = RestoreRequest::new(&memory, &snapshot, &layout, &[], strategy);
        if let Ok(handle) = restore(&request, &mut timeline) {
            let _ = handle.finish(&mut timeline);
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((mend, mut rest)) = bytes.split_first() else { return };
    let mut files = GOLDEN.clone();
    while let Some(later) = change(&mut files, rest) {
        rest = later;
    }
    let folder = FOLDER.path();
    fs::write(folder.join("state"), files.state(*mend)).unwrap();
    fs::write(folder.join("loading-set"), files.loading_set(*mend)).unwrap();
    if mend & KEEP_MEMORY_LENGTH == 0 && files.header.len() == STATE_HEADER {
        // As long as the header says, within what the file system can do; the rest reads as zeros.
        let length = number::<8>(&files.header, 32).saturating_mul(PAGE as u64).min(1 << 40);
        set_memory_length(&folder.join("memory"), length);
    }
    use_it(folder);
});
