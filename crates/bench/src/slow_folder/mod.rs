//! A folder seen through a file system in user space (FUSE) whose reads take as long as on a slow disk: where no control
//! group can throttle, and for disks that are none (a folder on NFS, a container without cgroups).
//!
//! Everything but reading goes straight to the folder behind. Reads are served one after the other, so that they share the
//! bandwidth as on one device; what the page cache has costs nothing, as on a disk.

mod behind;
mod files;
mod pace;

use std::path::Path;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};

use crate::at_end::AtEnd;
use crate::error::BenchError;
use crate::throttle::ReadLimits;
use behind::Behind;

/// A folder that is mounted; it is unmounted when dropped, and when this process ends.
pub(crate) struct SlowFolder {
    mounted: tempfile::TempDir,
    session: Option<BackgroundSession>,
    /// Unmounts when this process is killed.
    _guard: AtEnd,
}

impl SlowFolder {
    /// Shows `behind` elsewhere, slowed down.
    ///
    /// # Errors
    /// [`BenchError::Io`] where FUSE can't be mounted: it needs /dev/fuse, and to be root or `fusermount3`.
    pub fn of(behind: &Path, limits: ReadLimits) -> Result<Self, BenchError> {
        let mounted = tempfile::Builder::new().prefix("faasnap-slow-").tempdir();
        let mounted = mounted.map_err(BenchError::io("creating", &std::env::temp_dir()))?;
        let at = mounted.path();
        let guard = AtEnd::run("umount -l \"$1\" 2>/dev/null; rmdir \"$1\" 2>/dev/null", &[at.as_os_str()])?;
        let behind = Behind::new(behind, limits).map_err(BenchError::io("reading", behind))?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("faasnap-slow".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
        ];
        // Workers have users of their own.
        config.acl = SessionACL::All;
        let session = fuser::spawn_mount(behind, at, &config);
        let session = session.map_err(BenchError::io("mounting a slow file system (FUSE) at", at))?;
        Ok(Self { session: Some(session), mounted, _guard: guard })
    }

    /// Where it is seen.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }
}

impl Drop for SlowFolder {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // The guard unmounts it otherwise.
            let _ = session.umount_and_join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

    use rustix::fs::SeekFrom;

    use super::*;

    #[test]
    fn what_is_done_in_it_is_done_behind() {
        let behind = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let quick = ReadLimits { bytes_per_second: 1 << 30, reads_per_second: 1 << 20 };
        let slow = match SlowFolder::of(&behind.path().join("new"), quick) {
            Ok(slow) => slow,
            Err(error) => {
                eprintln!("NOT TESTED: {error}: {}", std::error::Error::source(&error).unwrap());
                return;
            }
        };
        let (at, real) = (slow.path().to_owned(), behind.path().join("new"));
        fs::create_dir(at.join(".part")).unwrap();
        let file = File::create_new(at.join(".part/memory")).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[7; 5000], 64 << 10).unwrap();
        file.sync_all().unwrap();
        fs::set_permissions(at.join(".part/memory"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(at.join(".part"), at.join("snapshot")).unwrap();
        File::open(&at).unwrap().sync_all().unwrap();
        assert_eq!(
            fs::read(real.join("snapshot/memory")).unwrap(),
            fs::read(at.join("snapshot/memory")).unwrap()
        );
        assert_eq!(fs::metadata(real.join("snapshot/memory")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(0)).unwrap(), 64 << 10);
        // A file that takes the place of another one is another one.
        let number = |path: &Path| fs::metadata(path).unwrap().ino();
        let before = number(&at.join("snapshot/memory"));
        fs::write(at.join("snapshot/next"), "next").unwrap();
        fs::rename(at.join("snapshot/next"), at.join("snapshot/memory")).unwrap();
        assert_eq!(fs::read_to_string(at.join("snapshot/memory")).unwrap(), "next");
        assert_ne!(number(&at.join("snapshot/memory")), before);
        assert_eq!(fs::read_dir(at.join("snapshot")).unwrap().count(), 1);
        fs::remove_dir_all(at.join("snapshot")).unwrap();
        assert_eq!(fs::metadata(at.join("snapshot")).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop((file, slow));
        assert!(!at.exists());
        assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
    }
}
