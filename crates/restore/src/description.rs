//! Files under a description of their own: access advice and locks belong to the description, not to the file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// Opens `file` again, for reading. It is found by descriptor, since its name may be gone.
pub(crate) fn reopened(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The same, for reading past the page cache (O_DIRECT). Not every file system can.
pub(crate) fn reopened_past_cache(file: &File) -> io::Result<File> {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    File::options().read(true).custom_flags(direct).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
