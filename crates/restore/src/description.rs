//! Files under a description of their own: access advice and locks belong to the description, not to the file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Opens `file` again, for reading. It is found by descriptor, since its name may be gone.
pub(crate) fn reopened(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
