//! An empty ext4 file system in a sparse file: what a guest finds on a disk of its own.
//!
//! A guest has no program that could make one, and a host need not have one either (`mkfs.ext4` is in no small container), so it is
//! made here: a few blocks for each 128 MiB, written at once, the same bytes for the same size. Without a journal: the disk
//! ends with its guest. Nor with what only large disks need (64-bit block numbers, flexible groups), so that every group looks alike:
//!
//! ```text
//!   superblock, group descriptors, block bitmap, inode bitmap: a block each; the inode table: 512 blocks; data
//! ```
//!
//! The root directory may be written by everybody, as /tmp is; there is no `lost+found`.
//!
//! Sources: the kernel's Documentation/filesystems/ext4, and e2fsck, which finds nothing wrong.
//! Architecture invariant: this crate knows nothing of the workspace.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

const BLOCKS_PER_GROUP: u64 = 8 * BLOCK;
/// One for each 16 KiB, as mkfs has it.
const INODES_PER_GROUP: u64 = 8192;
const INODE: u64 = 256;
const INODE_TABLE: u64 = INODES_PER_GROUP * INODE / BLOCK;
/// Blocks at the start of each group that hold no data.
const HEAD: u64 = 4 + INODE_TABLE;
/// Descriptors in the one block that there is for them.
const MOST_GROUPS: u64 = BLOCK / DESCRIPTOR;
const DESCRIPTOR: u64 = 32;
/// Inodes that are not for files (1 to 10); the root directory's is number 2.
const RESERVED_INODES: u64 = 10;
const ROOT_INODE: u32 = 2;
/// The root directory's only block.
const ROOT_BLOCK: u64 = HEAD;

/// The most bytes that there can be for data: some 15.7 GiB.
pub const MOST: u64 = MOST_GROUPS * (BLOCKS_PER_GROUP - HEAD) * BLOCK;

/// A file system that can't be made.
#[derive(Debug, Error)]
pub enum Ext4Error {
    /// Its size.
    #[error("a file system for {0} bytes can't be made: between 1 and {MOST} are possible")]
    Size(u64),
    /// The file can't be written.
    #[error("writing an empty file system failed")]
    Write(#[from] io::Error),
}

/// Where everything is.
struct Geometry {
    blocks: u64,
    groups: u64,
}

impl Geometry {
    /// Room for `data` bytes; what describes them comes on top.
    fn new(data: u64) -> Result<Self, Ext4Error> {
        if data == 0 || data > MOST {
            return Err(Ext4Error::Size(data));
        }
        let data = data.div_ceil(BLOCK);
        let groups = data.div_ceil(BLOCKS_PER_GROUP - HEAD);
        Ok(Self { blocks: data + groups * HEAD, groups })
    }

    /// Blocks of a group: the last one may have fewer.
    fn blocks_of(&self, group: u64) -> u64 {
        BLOCKS_PER_GROUP.min(self.blocks - group * BLOCKS_PER_GROUP)
    }

    /// Blocks and inodes of a group that hold something.
    fn used_in(&self, group: u64) -> (u64, u64) {
        if group == 0 { (ROOT_BLOCK + 1, RESERVED_INODES) } else { (HEAD, 0) }
    }

    fn superblock(&self, group: u64) -> Vec<u8> {
        let used: u64 = (0..self.groups).map(|group| self.used_in(group).0).sum();
        let inodes = self.groups * INODES_PER_GROUP;
        let mut fields = Fields::new(1024);
        fields.u32(0x00, inodes).u32(0x04, self.blocks);
        fields.u32(0x0c, self.blocks - used).u32(0x10, inodes - RESERVED_INODES);
        // Blocks and clusters of 1024 << 2 bytes.
        fields.u32(0x18, 2).u32(0x1c, 2);
        fields.u32(0x20, BLOCKS_PER_GROUP).u32(0x24, BLOCKS_PER_GROUP).u32(0x28, INODES_PER_GROUP);
        // Checked after no number of mounts; magic; clean; go on after errors; dynamic inode sizes.
        fields.u16(0x36, 0xffff).u16(0x38, 0xef53).u16(0x3a, 1).u16(0x3c, 1).u32(0x4c, 1);
        fields.u32(0x54, RESERVED_INODES + 1).u16(0x58, INODE).u16(0x5a, group);
        // Compatible: extended attributes, indexed directories. Incompatible: types in directories, extents. To be written by those
        // who know: large files, many subdirectories, more fields in inodes.
        fields.u32(0x5c, 0x28).u32(0x60, 0x42).u32(0x64, 0x62);
        fields.put(0x68, b"faasnap scratch ").put(0x78, b"scratch");
        // Hashes of names: the seed, half MD4, of signed characters.
        fields.put(0xec, b"faasnap scratch ").put(0xfc, &[1]).u32(0x160, 1);
        fields.u16(0x15c, 32).u16(0x15e, 32);
        fields.0
    }

    fn descriptors(&self) -> Vec<u8> {
        let mut fields = Fields::new(BLOCK as usize);
        for group in 0..self.groups {
            let (at, first) = ((group * DESCRIPTOR) as usize, group * BLOCKS_PER_GROUP);
            let (blocks, inodes) = self.used_in(group);
            fields.u32(at, first + 2).u32(at + 4, first + 3).u32(at + 8, first + 4);
            fields.u16(at + 12, self.blocks_of(group) - blocks).u16(at + 14, INODES_PER_GROUP - inodes);
            fields.u16(at + 16, u64::from(group == 0));
        }
        fields.0
    }
}

/// Little-endian numbers at their places.
struct Fields(Vec<u8>);

impl Fields {
    fn new(length: usize) -> Self {
        Self(vec![0; length])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
        self
    }

    /// The value fits: sizes are limited by [`MOST`].
    fn u32(&mut self, at: usize, value: u64) -> &mut Self {
        self.put(at, &(value as u32).to_le_bytes())
    }

    fn u16(&mut self, at: usize, value: u64) -> &mut Self {
        self.put(at, &(value as u16).to_le_bytes())
    }
}

/// A block of bits: those before `used` and those from `end` on are set.
fn bitmap(used: u64, end: u64) -> Vec<u8> {
    let bit = |index: u64| index < used || index >= end;
    (0..BLOCK).map(|byte| (0..8).fold(0, |bits, at| bits | u8::from(bit(byte * 8 + at)) << at)).collect()
}

/// The root directory's inode: a directory that everybody may write to but remove only their own from.
fn root_inode() -> Vec<u8> {
    let mut fields = Fields::new(INODE as usize);
    fields.u16(0, 0o41_777).u32(4, BLOCK).u16(26, 2).u32(28, BLOCK / 512).u32(40, ROOT_BLOCK).u16(128, 32);
    fields.0
}

/// Entries for itself and its parent, the second up to the block's end.
fn root_directory() -> Vec<u8> {
    let mut fields = Fields::new(BLOCK as usize);
    for (at, length, name) in [(0, 12, &b"."[..]), (12, BLOCK - 12, b"..")] {
        fields.u32(at, ROOT_INODE.into()).u16(at + 4, length);
        fields.put(at + 6, &[name.len() as u8, 2]).put(at + 8, name);
    }
    fields.0
}

/// Writes an empty file system with room for `data` bytes to an empty file, which gets the length that this takes.
///
/// # Errors
/// [`Ext4Error`].
pub fn write_empty(file: &File, data: u64) -> Result<(), Ext4Error> {
    let geometry = Geometry::new(data)?;
    file.set_len(geometry.blocks * BLOCK)?;
    let descriptors = geometry.descriptors();
    for group in 0..geometry.groups {
        let first = group * BLOCKS_PER_GROUP * BLOCK;
        // The first one is behind the boot sector.
        let place = if group == 0 { 1024 } else { first };
        let (blocks, inodes) = geometry.used_in(group);
        file.write_all_at(&geometry.superblock(group), place)?;
        file.write_all_at(&descriptors, first + BLOCK)?;
        file.write_all_at(&bitmap(blocks, geometry.blocks_of(group)), first + 2 * BLOCK)?;
        file.write_all_at(&bitmap(inodes, INODES_PER_GROUP), first + 3 * BLOCK)?;
    }
    file.write_all_at(&root_inode(), 4 * BLOCK + u64::from(ROOT_INODE - 1) * INODE)?;
    file.write_all_at(&root_directory(), ROOT_BLOCK * BLOCK)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn e2fsck_finds_nothing_wrong_but_that_nothing_was_ever_lost() {
        // One group, several, a last one with a single block, the most that a function can have, and that there can be.
        let odd = (BLOCKS_PER_GROUP - HEAD + 1) * BLOCK;
        for data in [1, 512 * MIB, odd, 10_240 * MIB, MOST] {
            let file = tempfile::NamedTempFile::new().unwrap();
            write_empty(file.as_file(), data).unwrap();
            let metadata = file.as_file().metadata().unwrap();
            assert!(metadata.len() >= data && metadata.blocks() * 512 < 4 * MIB, "{metadata:?}");
            let path = std::env::var("PATH").unwrap_or_default();
            let check = Command::new("e2fsck")
                .args(["-f", "-n"])
                .arg(file.path())
                .env("PATH", format!("{path}:/usr/sbin:/sbin"))
                .output();
            let output = check.expect("this test needs e2fsck: apt-get install e2fsprogs");
            let text = String::from_utf8_lossy(&output.stdout);
            let wrong =
                text.lines().find(|line| line.contains('?') && !line.starts_with("/lost+found not found"));
            assert_eq!(wrong, None, "{text}");
            assert!(text.contains("Pass 5") && text.contains("scratch: "), "{text}");
        }
    }

    #[test]
    fn the_same_size_gives_the_same_bytes_and_impossible_sizes_are_refused() {
        let images = [(); 2].map(|()| {
            let file = tempfile::tempfile().unwrap();
            write_empty(&file, 64 * MIB).unwrap();
            let mut content = vec![0; 66 << 20];
            let count = file.read_at(&mut content, 0).unwrap();
            content.truncate(count);
            content
        });
        assert!(images[0] == images[1] && images[0].len() as u64 > 64 * MIB);
        let file = tempfile::tempfile().unwrap();
        for size in [0, MOST + 1, u64::MAX] {
            assert!(matches!(write_empty(&file, size), Err(Ext4Error::Size(_))), "{size}");
        }
    }
}
