//! Who asks, and what the mode bits allow.

use bitflags::bitflags;
use rustix::io::Errno;

use super::FileType;
use crate::file::Stat;

/// Who makes a system call, as far as files are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// Thread id (/proc/thread-self).
    pub tid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

bitflags! {
    /// What is asked of a file; the bits of access(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Permission: u32 {
        /// Run, or search a directory.
        const EXECUTE = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

impl Caller {
    /// Whether the mode bits in `stat` allow `wanted`.
    ///
    /// # Errors
    /// EACCES.
    pub fn may(&self, stat: &Stat, wanted: Permission) -> Result<(), Errno> {
        if self.uid == 0 {
            // The superuser may do everything but run a file that nobody may run.
            let runnable =
                stat.mode & 0o111 != 0 || FileType::of_mode(stat.mode) == Some(FileType::Directory);
            return if runnable || !wanted.contains(Permission::EXECUTE) {
                Ok(())
            } else {
                Err(Errno::ACCESS)
            };
        }
        let shift = if stat.uid == self.uid {
            6
        } else if stat.gid == self.gid {
            3
        } else {
            0
        };
        let allowed = Permission::from_bits_truncate((stat.mode >> shift) & 7);
        if allowed.contains(wanted) { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// Whether the caller may change the metadata of the file behind `stat`.
    ///
    /// # Errors
    /// EPERM.
    pub fn owns(&self, stat: &Stat) -> Result<(), Errno> {
        if self.uid == 0 || self.uid == stat.uid { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Whether a sticky `directory` lets the caller remove or rename `file`.
    ///
    /// # Errors
    /// EPERM.
    pub fn may_remove(&self, directory: &Stat, file: &Stat) -> Result<(), Errno> {
        let sticky = directory.mode & 0o1000 != 0;
        if !sticky || self.uid == 0 || self.uid == file.uid || self.uid == directory.uid {
            Ok(())
        } else {
            Err(Errno::PERM)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_class_decides() {
        let caller = Caller { tid: 1, uid: 1000, gid: 100 };
        let stat = |mode: u32, uid, gid| Stat { mode: 0o100_000 | mode, uid, gid, ..Stat::default() };
        let read = |stat| caller.may(&stat, Permission::READ).is_ok();
        assert!(read(stat(0o400, 1000, 0)));
        assert!(!read(stat(0o044, 1000, 0)), "the owner's bits count for the owner, even if others may");
        assert!(read(stat(0o040, 0, 100)));
        assert!(!read(stat(0o404, 0, 100)));
        assert!(read(stat(0o004, 0, 0)));
        let root = Caller::default();
        assert!(root.may(&stat(0, 5, 5), Permission::READ | Permission::WRITE).is_ok());
        assert_eq!(root.may(&stat(0o666, 5, 5), Permission::EXECUTE), Err(Errno::ACCESS));
    }
}
