//! How large a tree may become and where its symbolic links may point.

/// Bounds that hold while a tree is written, whatever an archive's own headers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeLimits {
    /// Bytes of file content, all files together.
    pub bytes: u64,
    /// Files, folders and links, folders that are only implied by a path included.
    pub entries: u64,
    /// Where symbolic links may point.
    pub links: LinkRule,
}

impl TreeLimits {
    /// A function's code or a layer: 262,144,000 bytes as AWS Lambda allows for an unpacked package (the quota page of
    /// its developer guide); 100,000 entries is our own bound against archives of empty files.
    pub const CODE: Self = Self { bytes: 262_144_000, entries: 100_000, links: LinkRule::Inside };

    /// A root file system: 10 GiB as AWS Lambda allows for an image; a million entries.
    pub const ROOT: Self = Self { bytes: 10 << 30, entries: 1_000_000, links: LinkRule::Any };
}

/// Where symbolic links may point.
///
/// A guest resolves every link inside its own root, so this is no wall: it is there so that a package that can't work
/// is refused when it is stored and not when it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkRule {
    /// Relative targets that stay in the tree, judged by their text.
    Inside,
    /// Anything: the tree is a whole root file system, where absolute targets are ordinary.
    Any,
}
