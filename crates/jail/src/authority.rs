//! What this process may give its workers: decided once, before it has threads.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::FsOpenFlags;
use rustix::process::{getegid, geteuid};

use crate::cgroup::{Cgroups, cgroups};
use crate::error::{JailError, launching};
use crate::launch::{Namespaces, hold_user_namespace};
use crate::passage;
use crate::sys;

/// Where users of workers begin. systemd's list of user numbers (UIDS-GIDS.md) leaves 0x7000_0000 to 0x7ffd_ffff to nobody;
/// a worker gets this plus its process number, which is below 2^22, so that no two on a machine are the same.
pub(crate) const WORKER_USERS: u32 = 0x7000_0000;

/// What a jail can be made of here. Each variant is weaker than the one before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Authority {
    /// As root: namespaces, and a user of its own for each worker, which owns nothing on this machine.
    Root,
    /// As root, on a file system that can't show files as another user's: workers are root's processes without any
    /// capability.
    RootOneUser {
        /// Why.
        reason: String,
    },
    /// As an ordinary user: namespaces; workers are that user's own processes.
    User,
    /// No namespaces: a worker is confined by its filter, its lack of capabilities and its limits, and could open what its
    /// user can.
    Weak {
        /// Why.
        reason: String,
    },
}

impl Authority {
    /// Whether workers have namespaces and a root of their own.
    pub fn has_namespaces(&self) -> bool {
        !matches!(self, Self::Weak { .. })
    }

    /// What is weaker than it could be, and why; `None` when nothing is.
    pub fn weakness(&self) -> Option<String> {
        match self {
            Self::Root => None,
            Self::RootOneUser { reason } => {
                Some(format!("workers run as root without capabilities: {reason}"))
            }
            Self::User => Some(format!(
                "workers run as user {} like the node itself: only root can give each its own",
                geteuid().as_raw()
            )),
            Self::Weak { reason } => {
                Some(format!("workers have no namespaces and no root of their own: {reason}"))
            }
        }
    }
}

/// One line on what workers are confined by, for a node's start.
pub fn summary() -> String {
    let groups = match cgroups() {
        Cgroups::Version1 { .. } | Cgroups::Version2 { .. } => "cgroups",
        Cgroups::Unavailable { .. } => "no cgroups",
    };
    match authority().weakness() {
        None => format!("workers: namespaces, a user of their own, a system call filter, {groups}"),
        Some(weakness) => {
            let namespaces = if authority().has_namespaces() { "namespaces, " } else { "" };
            format!("workers: {namespaces}a system call filter, {groups}; {weakness} (see `faasnap doctor`)")
        }
    }
}

static AUTHORITY: OnceLock<Authority> = OnceLock::new();

/// What [`prepare`] found. Where it was not called, root's part of it is done now; an ordinary user's needs a process with one
/// thread, so there it is [`Authority::Weak`].
pub fn authority() -> &'static Authority {
    AUTHORITY.get_or_init(|| match geteuid().is_root() {
        true => try_root(Path::new("/")).unwrap_or_else(|error| Authority::Weak { reason: words(&error) }),
        false => Authority::Weak { reason: "the process was not prepared before it had threads".to_owned() },
    })
}

/// Finds out what a jail can be made of, and for an ordinary user makes it possible: this process moves into a user namespace
/// of its own, in which it may make mounts. Call it once, before any thread is started; `home` is where the directories are
/// that workers will be handed.
pub fn prepare(home: &Path) -> &'static Authority {
    AUTHORITY.get_or_init(|| {
        let found = match geteuid().is_root() {
            true => try_root(home),
            false => enter_user_namespace().map(|()| Authority::User),
        };
        found.unwrap_or_else(|error| Authority::Weak { reason: words(&error) })
    })
}

fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A real attempt: a namespace is made and a directory of the home shown as another user's.
fn try_root(home: &Path) -> Result<Authority, JailError> {
    let held = hold_user_namespace(WORKER_USERS)?;
    let place = home.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
    let directory = rustix::fs::openat(CWD, place, flags, Mode::empty())
        .map_err(|source| JailError::Passage(source.into()))?;
    let shown = passage::detached(directory.as_fd(), 0, Some(held.as_fd()));
    Ok(match shown {
        Ok(_) => Authority::Root,
        Err(error) => {
            // The same without another user must work, or nothing does.
            passage::detached(directory.as_fd(), 0, None).map_err(JailError::Passage)?;
            Authority::RootOneUser {
                reason: format!(
                    "the file system of {} can't show files as another user's ({error})",
                    place.display()
                ),
            }
        }
    })
}

fn enter_user_namespace() -> Result<(), JailError> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    sys::unshare_namespaces(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)
        .map_err(launching("making a user namespace"))?;
    let mapping = "mapping the user into its namespace";
    // A process without privilege may map its group only when it gives up changing its groups (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny").map_err(launching(mapping))?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1")).map_err(launching(mapping))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1")).map_err(launching(mapping))?;
    // Some systems make such namespaces without any power in them (AppArmor's restriction, for one): try.
    let made = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC);
    made.map(drop).map_err(launching("making a mount in a user namespace"))
}

/// The user and group that a worker with process number `pid` has outside of its user namespace; inside it is 0.
pub(crate) fn user_outside(namespaces: Namespaces, pid: u32) -> (u32, u32) {
    match namespaces {
        Namespaces::OwnUser => (WORKER_USERS + pid, WORKER_USERS + pid),
        Namespaces::SameUser | Namespaces::None => (geteuid().as_raw(), getegid().as_raw()),
    }
}

/// The user namespace of the process with descriptor `process`.
pub(crate) fn user_namespace_of(pid: u32) -> io::Result<OwnedFd> {
    Ok(fs::File::open(format!("/proc/{pid}/ns/user"))?.into())
}

/// Writes the maps of a process that has just been put into a user namespace.
pub(crate) fn map_user(pid: u32, (user, group): (u32, u32)) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/uid_map"), format!("0 {user} 1"))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("0 {group} 1"))
}
