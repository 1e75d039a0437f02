//! The structures on disk (Documentation/filesystems/erofs.rst; fs/erofs/erofs_fs.h of Linux 6.1). Little-endian.

/// Bytes in a block; the image is made of them.
pub(crate) const BLOCK: u64 = 4096;
/// Where the superblock is.
pub(crate) const SUPERBLOCK_AT: usize = 1024;
/// Inodes lie at multiples of this, and are numbered by it.
pub(crate) const SLOT: u64 = 32;
/// All inodes are of the extended form, of 64 bytes.
pub(crate) const INODE: u64 = 64;
/// An entry of a directory, its name aside.
pub(crate) const ENTRY: usize = 12;

const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK_BITS: u8 = 12;
/// The superblock has a checksum (`EROFS_FEATURE_COMPAT_SB_CHKSUM`).
const CHECKSUM: u32 = 1;
/// Extended inode, data in whole blocks (`EROFS_INODE_FLAT_PLAIN`).
const EXTENDED_PLAIN: u16 = 1;

/// The kinds of entries, as directories name them (linux/fs_types.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Regular = 1,
    Directory = 2,
    Symlink = 7,
}

impl Kind {
    fn mode(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
        }
    }
}

/// The first block of the image.
pub(crate) fn superblock(root: u64, inodes: u64, blocks: u32, identifier: [u8; 16]) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in block.iter_mut().skip(SUPERBLOCK_AT + at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, &MAGIC.to_le_bytes());
    put(8, &CHECKSUM.to_le_bytes());
    put(12, &[BLOCK_BITS]);
    put(14, &(root as u16).to_le_bytes());
    put(16, &inodes.to_le_bytes());
    put(36, &blocks.to_le_bytes());
    // Inodes are numbered from the second block on.
    put(40, &1_u32.to_le_bytes());
    put(48, &identifier);
    let checked = block.get(SUPERBLOCK_AT..).unwrap_or_default();
    // The kernel's CRC starts with all ones and is not inverted at the end (fs/erofs/super.c).
    let sum = !crc32c::crc32c(checked);
    for (to, from) in block.iter_mut().skip(SUPERBLOCK_AT + 4).zip(sum.to_le_bytes()) {
        *to = from;
    }
    block
}

/// An inode.
pub(crate) struct Inode {
    pub kind: Kind,
    pub permissions: u16,
    pub size: u64,
    /// The first block of its data.
    pub block: u32,
    pub number: u32,
    pub links: u32,
}

impl Inode {
    pub fn bytes(&self) -> [u8; INODE as usize] {
        let mut bytes = [0; INODE as usize];
        let mut put = |at: usize, field: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(at).zip(field) {
                *to = *from;
            }
        };
        put(0, &EXTENDED_PLAIN.to_le_bytes());
        put(4, &(self.kind.mode() | self.permissions).to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &self.block.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        put(44, &self.links.to_le_bytes());
        bytes
    }
}

/// The blocks of a directory: in each, entries and then their names. Entries are in the order of their names.
pub(crate) fn directory(entries: &[(Vec<u8>, u64, Kind)]) -> Vec<u8> {
    let mut blocks = Vec::new();
    let mut left = entries;
    while !left.is_empty() {
        let mut used = 0;
        let fitting = left.iter().take_while(|(name, _, _)| {
            used += ENTRY + name.len();
            used <= BLOCK as usize
        });
        let (here, rest) = left.split_at(fitting.count().max(1));
        let mut heads = Vec::new();
        let mut names = Vec::new();
        for (name, number, kind) in here {
            heads.extend_from_slice(&number.to_le_bytes());
            heads.extend_from_slice(&((here.len() * ENTRY + names.len()) as u16).to_le_bytes());
            heads.extend_from_slice(&[*kind as u8, 0]);
            names.extend_from_slice(name);
        }
        blocks.extend(heads);
        blocks.extend(names);
        if !rest.is_empty() {
            blocks.resize(blocks.len().next_multiple_of(BLOCK as usize), 0);
        }
        left = rest;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_many_names_goes_on_in_the_next_block() {
        let entries: Vec<_> = (0..200)
            .map(|index| (format!("a-long-name-{index:04}").into_bytes(), index, Kind::Regular))
            .collect();
        let bytes = directory(&entries);
        assert!(bytes.len() > 4096 && bytes.len() < 2 * 4096);
        // The first entry's name begins where the entries end: that tells how many there are.
        let count = u16::from_le_bytes([bytes[8], bytes[9]]) as usize / ENTRY;
        let second = &bytes[4096..];
        assert_eq!(u64::from_le_bytes(second[..8].try_into().unwrap()) as usize, count);
        assert_eq!(count * (ENTRY + 16) + (200 - count) * (ENTRY + 16), 200 * (ENTRY + 16));
    }
}
