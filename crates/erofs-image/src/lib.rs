//! A folder as an image of EROFS, Linux's read-only file system: uncompressed, so that a page of the image is a page of a
//! file, which all guests of one host share in its page cache.
//!
//! Nothing is mounted and nobody has to be root. The same tree gives the same bytes: entries are in the order of their names,
//! times are 0, and everything belongs to root.
//!
//! Architecture invariants: this crate knows no guest and no home directory; it reads one folder and writes one file.
#![forbid(unsafe_code)]

mod format;
mod tree;
mod writer;

pub use tree::ImageError;
pub use writer::{ImageSummary, write_image};
