//! A disk of a guest's own: a sparse file, and below it what a snapshot has of the disk, which all guests restored from it share.
//!
//! Nothing is copied when a guest is restored: a block that was not written since is read from the snapshot's file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use pages::{PAGE_SIZE, PageIndex, PageRange, PageSet};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

/// The unit in which the disk is the guest's own or the snapshot's.
pub(super) const BLOCK: u64 = PAGE_SIZE;

/// What a snapshot has of the disk.
#[derive(Debug)]
struct Base {
    file: File,
    /// A bit for each block: whether it was written since.
    written: Mutex<Vec<u64>>,
}

/// The disk. Its reads and writes are one after the other.
#[derive(Debug)]
pub struct Scratch {
    own: File,
    base: Option<Base>,
    length: u64,
}

fn bit(block: u64) -> (usize, u64) {
    ((block / 64) as usize, 1 << (block % 64))
}

impl Base {
    fn is_written(&self, block: u64) -> bool {
        let (word, bit) = bit(block);
        self.written.lock().get(word).is_some_and(|word| word & bit != 0)
    }

    fn mark(&self, first: u64, end: u64) {
        let mut written = self.written.lock();
        for (word, bit) in (first..end).map(bit) {
            if let Some(word) = written.get_mut(word) {
                *word |= bit;
            }
        }
    }
}

impl Scratch {
    /// A disk in `own`, as long as that is; with `base`, a file as long as it, `own` has to be empty but for its length.
    ///
    /// # Errors
    /// When the files can't be measured; [`io::ErrorKind::InvalidInput`] for lengths that differ or are no whole blocks.
    pub fn new(own: File, base: Option<File>) -> io::Result<Self> {
        let length = own.metadata()?.len();
        let differs =
            base.as_ref().map(|base| base.metadata().map(|base| base.len() != length)).transpose()?;
        if differs == Some(true) || !length.is_multiple_of(BLOCK) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let words = (length / BLOCK).div_ceil(64) as usize;
        let base = base.map(|file| Base { file, written: Mutex::new(vec![0; words]) });
        Ok(Self { own, base, length })
    }

    /// Its length in bytes: whole blocks of 4096.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads; the range is inside the disk.
    ///
    /// # Errors
    /// Those of the files.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_with(bytes, offset, |file, bytes, offset| file.read_exact_at(bytes, offset))
    }

    /// The same, by `read` from whichever file has each piece.
    pub(super) fn read_with(
        &self,
        bytes: &mut [u8],
        offset: u64,
        read: impl Fn(&File, &mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(base) = &self.base else { return read(&self.own, bytes, offset) };
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            // Blocks in a row that are in the same file.
            let (first, last) = (at / BLOCK, (at + rest.len() as u64 - 1) / BLOCK);
            let written = base.is_written(first);
            let end = (first + 1..=last).find(|block| base.is_written(*block) != written);
            let count = end.map_or(rest.len(), |end| (end * BLOCK - at) as usize);
            let (piece, behind) = rest.split_at_mut(count.min(rest.len()));
            read(if written { &self.own } else { &base.file }, piece, at)?;
            at += piece.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// Writes; the range is inside the disk.
    ///
    /// # Errors
    /// Those of the files; a full disk among them.
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let Some(end) = offset.checked_add(bytes.len() as u64).filter(|_| !bytes.is_empty()) else {
            return Ok(());
        };
        self.own_edges(offset, end)?;
        self.own.write_all_at(bytes, offset)?;
        self.mark(offset / BLOCK, end.div_ceil(BLOCK));
        Ok(())
    }

    /// Makes a range read as zeros, and take no room as far as it is whole blocks; it is inside the disk.
    ///
    /// # Errors
    /// Those of the files.
    pub fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let end = offset + length;
        self.own_edges(offset, end)?;
        // Of a block that is punched in part, the part is zeroed.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.own, flags, offset, length)?;
        self.mark(offset / BLOCK, end.div_ceil(BLOCK));
        Ok(())
    }

    /// Waits until what was written is on the host's disk: an error of it reaches the guest.
    ///
    /// # Errors
    /// Those of the file.
    pub fn flush(&self) -> io::Result<()> {
        self.own.sync_data()
    }

    fn mark(&self, first: u64, end: u64) {
        if let Some(base) = &self.base {
            base.mark(first, end);
        }
    }

    /// Brings over the blocks of which only a part is about to be written.
    fn own_edges(&self, start: u64, end: u64) -> io::Result<()> {
        let Some(base) = &self.base else { return Ok(()) };
        let edges = [start, end].map(|edge| (edge / BLOCK, edge % BLOCK != 0));
        for (block, _) in
            edges.into_iter().filter(|(block, is_inside)| *is_inside && !base.is_written(*block))
        {
            let mut bytes = [0; BLOCK as usize];
            base.file.read_exact_at(&mut bytes, block * BLOCK)?;
            self.own.write_all_at(&bytes, block * BLOCK)?;
            base.mark(block, block + 1);
        }
        Ok(())
    }

    /// The pages that may hold something, ascending: nothing else has to be read to have all of it.
    ///
    /// # Errors
    /// Those of the files.
    pub fn stored(&self) -> io::Result<PageSet> {
        let own = data(&self.own, self.length)?;
        match &self.base {
            None => Ok(own),
            Some(base) => Ok(own.union(&data(&base.file, self.length)?)),
        }
    }
}

/// Which pages of a file may hold something.
fn data(file: &File, length: u64) -> io::Result<PageSet> {
    let (mut found, mut at) = (PageSet::new(), 0);
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?;
        found.insert(PageRange::between(PageIndex(start / BLOCK), PageIndex(at.div_ceil(BLOCK))));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    const BLOCKS: u64 = 8;
    const LENGTH: usize = (BLOCKS * BLOCK) as usize;

    fn file(content: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LENGTH as u64).unwrap();
        file.write_all_at(content, 0).unwrap();
        file
    }

    #[test]
    fn lengths_must_fit() {
        let short = tempfile::tempfile().unwrap();
        short.set_len(BLOCK).unwrap();
        assert!(Scratch::new(file(&[]), Some(short)).is_err());
        let odd = tempfile::tempfile().unwrap();
        odd.set_len(BLOCK + 1).unwrap();
        assert!(Scratch::new(odd, None).is_err());
    }

    #[test]
    fn what_is_given_up_takes_no_room() {
        let scratch = Scratch::new(file(&[7; LENGTH]), None).unwrap();
        let before = scratch.own.metadata().unwrap().blocks();
        scratch.zero(0, 4 * BLOCK).unwrap();
        assert!(scratch.own.metadata().unwrap().blocks() < before);
        assert!(!scratch.stored().unwrap().contains(PageIndex(0)));
    }

    proptest! {
        /// Whatever is written and zeroed where, it reads as a plain file would, also of what is found by `stored`; what is below
        /// does not change.
        #[test]
        fn it_reads_as_a_plain_file(
            with_base: bool,
            steps in prop::collection::vec((0..LENGTH, 1..3 * BLOCK as usize, any::<u8>(), any::<bool>()), 1..20),
        ) {
            let below: Vec<u8> = (0..LENGTH).map(|at| if at / 4096 == 5 { 0 } else { (at % 251) as u8 }).collect();
            let mut expected = if with_base { below.clone() } else { vec![0; LENGTH] };
            let scratch = Scratch::new(file(&[]), with_base.then(|| file(&below))).unwrap();
            for (offset, length, value, zero) in steps {
                let length = length.min(LENGTH - offset);
                if zero {
                    scratch.zero(offset as u64, length as u64).unwrap();
                } else {
                    scratch.write(&vec![value; length], offset as u64).unwrap();
                }
                expected[offset..offset + length].fill(if zero { 0 } else { value });
            }
            let mut content = vec![1; LENGTH];
            scratch.read(&mut content, 0).unwrap();
            prop_assert!(content == expected);
            let mut found = vec![0; LENGTH];
            for run in scratch.stored().unwrap().runs() {
                let at = run.start.0 as usize * 4096;
                scratch.read(&mut found[at..at + run.count.bytes() as usize], at as u64).unwrap();
            }
            prop_assert!(found == expected);
            if let Some(base) = &scratch.base {
                let mut content = vec![1; LENGTH];
                base.file.read_exact_at(&mut content, 0).unwrap();
                prop_assert!(content == below);
            }
        }
    }
}
