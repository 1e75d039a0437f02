//! The root of a jailed process: an empty, read-only file system with nothing in it but the process's own folder of /proc.

use std::fs;
use std::os::fd::AsFd;

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, chroot, pivot_root};

use crate::error::{JailError, entering};
use crate::sys::{self, MountAttributes};

/// Where the new root is put until it is the root; a folder that every system has.
const PLACE: &str = "/proc";
/// Two folders, and nothing can be added.
const SIZE: &str = "4k";
const INODES: &str = "4";

/// Moves this process, which has a mount namespace of its own, into a new root. Nothing of the old one stays mounted.
pub(crate) fn change() -> Result<(), JailError> {
    // Of the namespace that this process is in. Without capabilities a nested user namespace would be the way to new ones.
    // Where a container has /proc/sys read-only, that is left to the filter.
    match fs::write("/proc/sys/user/max_user_namespaces", "0") {
        Err(error) if error.raw_os_error() != Some(libc::EROFS) => {
            return Err(entering("forbidding user namespaces")(error));
        }
        _ => {}
    }
    // Nothing of what follows shall be seen outside.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(entering("making the mounts private"))?;
    // The process's own folder, whatever number it has in the procfs that is mounted; nothing of the others. A procfs of the
    // process's own pid namespace would show more, and can't be mounted where a container hides parts of /proc.
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let own = open_tree(CWD, "/proc/self", clone).map_err(entering("taking /proc/self along"))?;
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(entering("making a file system"))?;
    for (key, value) in [("size", SIZE), ("nr_inodes", INODES), ("mode", "0555")] {
        fsconfig_set_string(&tmpfs, key, value).map_err(entering("limiting a file system"))?;
    }
    fsconfig_create(&tmpfs).map_err(entering("making a file system"))?;
    let confined = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root =
        fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, confined).map_err(entering("making a file system"))?;
    let mode = Mode::from_raw_mode(0o555);
    for folder in ["proc", "proc/self"] {
        mkdirat(&root, folder, mode).map_err(entering("making the folder /proc"))?;
    }
    let from_here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", CWD, PLACE, from_here).map_err(entering("mounting the new root"))?;
    move_mount(&own, "", root.as_fd(), "proc/self", from_here).map_err(entering("mounting /proc/self"))?;
    let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    sys::set_mount_attributes(root.as_fd(), &read_only).map_err(entering("making the new root read-only"))?;
    chdir(PLACE).map_err(entering("going to the new root"))?;
    match pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH).map_err(entering("leaving the old root"))?,
        // The first root of a machine (an initramfs) can't be moved away; it is covered instead.
        Err(Errno::INVAL) => {
            move_mount(CWD, ".", CWD, "/", MoveMountFlags::empty())
                .map_err(entering("covering the old root"))?;
            chroot(".").map_err(entering("covering the old root"))?;
        }
        Err(error) => return Err(entering("leaving the old root")(error)),
    }
    chdir("/").map_err(entering("going to the new root"))
}
