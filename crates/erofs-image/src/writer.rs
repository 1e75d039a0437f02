//! Writing the image: superblock, inodes, then the data of one node after the other, each from a block of its own.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use crate::format::{self, BLOCK, INODE, Inode, SLOT};
use crate::tree::{self, Content, ImageError, Node};

/// What an image holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageSummary {
    /// Files, folders and links.
    pub nodes: usize,
    /// Length of the image.
    pub bytes: u64,
}

/// Writes the tree below `folder` into `file`, which is empty; `path` is its name, for messages. `identifier` becomes the file
/// system's UUID: part of the tree's digest, so that the same tree gives the same image.
///
/// # Errors
/// [`ImageError`]; then the file holds a part of an image.
pub fn write_image(
    folder: &Path,
    file: &mut File,
    path: &Path,
    identifier: [u8; 16],
) -> Result<ImageSummary, ImageError> {
    let mut nodes = tree::read(folder)?;
    let count = nodes.len();
    let directories = encode_directories(&mut nodes);
    let inode_blocks = (count as u64 * INODE).div_ceil(BLOCK);
    let mut next = 1 + inode_blocks;
    let mut inodes = Vec::with_capacity(count);
    for (number, node) in nodes.iter().enumerate() {
        let block = u32::try_from(next).map_err(|_| ImageError::TooLarge)?;
        next += node.size.div_ceil(BLOCK);
        inodes.push(Inode {
            kind: node.kind,
            permissions: node.permissions,
            size: node.size,
            block,
            number: number as u32 + 1,
            links: node.links,
        });
    }
    let blocks = u32::try_from(next).map_err(|_| ImageError::TooLarge)?;
    let failed = |source: io::Error| ImageError::Write { path: path.to_owned(), source };
    let mut out = BufWriter::with_capacity(1 << 20, file);
    // The root is the first inode, so its number is 0; the kernel takes that.
    out.write_all(&format::superblock(number_of(0), count as u64, blocks, identifier)).map_err(failed)?;
    for inode in &inodes {
        out.write_all(&inode.bytes()).map_err(failed)?;
    }
    pad(&mut out, count as u64 * INODE).map_err(failed)?;
    for (node, directory) in nodes.iter().zip(directories) {
        match &node.content {
            Content::File(from) => copy(from, node.size, &mut out).map_err(|error| error.into(path))?,
            Content::Link(target) => out.write_all(target).map_err(failed)?,
            Content::Entries(_) => out.write_all(&directory).map_err(failed)?,
        }
        pad(&mut out, node.size).map_err(failed)?;
    }
    out.flush().map_err(failed)?;
    Ok(ImageSummary { nodes: count, bytes: u64::from(blocks) * BLOCK })
}

/// The number by which directories name a node: its place in units of [`SLOT`].
fn number_of(node: usize) -> u64 {
    node as u64 * (INODE / SLOT)
}

/// The bytes of each directory (nothing for other nodes), whose sizes become known by that.
fn encode_directories(nodes: &mut [Node]) -> Vec<Vec<u8>> {
    let kinds: Vec<_> = nodes.iter().map(|node| node.kind).collect();
    let encode = |node: &Node| match &node.content {
        Content::Entries(entries) => {
            let named = entries
                .iter()
                .filter_map(|(name, number)| Some((name.clone(), number_of(*number), *kinds.get(*number)?)));
            format::directory(&named.collect::<Vec<_>>())
        }
        _ => Vec::new(),
    };
    let encoded: Vec<_> = nodes.iter().map(encode).collect();
    for (node, bytes) in nodes.iter_mut().zip(&encoded) {
        if matches!(node.content, Content::Entries(_)) {
            node.size = bytes.len() as u64;
        }
    }
    encoded
}

/// Fills up the last block of something of this length.
fn pad(out: &mut impl Write, length: u64) -> io::Result<()> {
    let missing = length.next_multiple_of(BLOCK) - length;
    out.write_all(&[0; BLOCK as usize][..missing as usize])
}

/// Why a file could not be copied into the image.
enum CopyError {
    Image(ImageError),
    Write(io::Error),
}

impl CopyError {
    fn into(self, image: &Path) -> ImageError {
        match self {
            Self::Image(error) => error,
            Self::Write(source) => ImageError::Write { path: image.to_owned(), source },
        }
    }
}

/// Copies a file of exactly this length.
fn copy(from: &Path, length: u64, out: &mut impl Write) -> Result<(), CopyError> {
    let mut file = tree::open(from).map_err(CopyError::Image)?;
    let mut left = length;
    let mut buffer = vec![0; (256 << 10).min(length as usize + 1)];
    loop {
        let count = file
            .read(&mut buffer)
            .map_err(|source| CopyError::Image(ImageError::Read { path: from.to_owned(), source }))?;
        if count as u64 > left || (count == 0 && left > 0) {
            return Err(CopyError::Image(ImageError::Changed { path: from.to_owned() }));
        }
        if count == 0 {
            return Ok(());
        }
        out.write_all(buffer.get(..count).unwrap_or_default()).map_err(CopyError::Write)?;
        left -= count as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn image(folder: &Path) -> Vec<u8> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let summary = write_image(folder, file.as_file_mut(), &path, [7; 16]).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, summary.bytes);
        bytes
    }

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("usr/bin")).unwrap();
        fs::write(path("usr/bin/a"), vec![1; 5000]).unwrap();
        fs::set_permissions(path("usr/bin/a"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::hard_link(path("usr/bin/a"), path("usr/bin/b")).unwrap();
        fs::write(path("empty"), "").unwrap();
        symlink("usr/bin", path("bin")).unwrap();
        folder
    }

    /// Reads an inode: mode, size, first block, links.
    fn inode(image: &[u8], number: u64) -> (u16, u64, u32, u32) {
        let at = 4096 + (number * SLOT) as usize;
        let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
        let mode = u16::from_le_bytes([image[at + 4], image[at + 5]]);
        (mode, u64::from(word(at + 8)), word(at + 16), word(at + 44))
    }

    /// Looks a path up as the kernel does.
    fn find(image: &[u8], path: &str) -> u64 {
        let mut number = 0;
        for name in path.split('/') {
            let (_, size, block, _) = inode(image, number);
            let data = &image[block as usize * 4096..][..size as usize];
            let names = u16::from_le_bytes([data[8], data[9]]) as usize;
            let offsets: Vec<_> = (0..names / format::ENTRY)
                .map(|index| u16::from_le_bytes([data[index * 12 + 8], data[index * 12 + 9]]) as usize)
                .chain([data.len()])
                .collect();
            let index = offsets.windows(2).position(|pair| &data[pair[0]..pair[1]] == name.as_bytes());
            let at = index.unwrap_or_else(|| panic!("no {name} in {path}")) * 12;
            number = u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
        }
        number
    }

    #[test]
    fn files_folders_and_links_are_found_in_the_image() {
        let folder = tree();
        let image = image(folder.path());
        let (mode, size, block, links) = inode(&image, find(&image, "usr/bin/a"));
        assert_eq!((mode, size, links), (0o100_755, 5000, 2));
        assert_eq!(&image[block as usize * 4096..][..5000], vec![1; 5000]);
        assert_eq!(find(&image, "usr/bin/a"), find(&image, "usr/bin/b"));
        let (mode, size, block, _) = inode(&image, find(&image, "bin"));
        assert_eq!(
            (mode & 0o170_000, &image[block as usize * 4096..][..size as usize]),
            (0o120_000, &b"usr/bin"[..])
        );
        assert_eq!(inode(&image, find(&image, "empty")).1, 0);
        assert_eq!(find(&image, "usr/bin/.."), find(&image, "usr"));
        // A folder's links: its name, its `.`, and the `..` of each folder in it.
        assert_eq!((inode(&image, find(&image, "usr")).3, inode(&image, 0).3), (3, 3));
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        assert_eq!(image(tree().path()), image(tree().path()));
    }

    #[test]
    fn what_can_not_be_in_an_image_is_named() {
        let folder = tree();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let error = write_image(folder.path(), &mut file, Path::new("image"), [0; 16]).unwrap_err();
        assert!(error.to_string().contains("socket is no file"), "{error}");
    }
}
