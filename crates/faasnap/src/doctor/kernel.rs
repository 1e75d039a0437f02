//! Kernel features that restoring and isolating use.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;

use guest_memory::{Advice, GuestMemory, Protection, Source, cached_count};
use pages::{PageCount, PageIndex, PageRange};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::{Finding, read};

const GROUP: &str = "kernel";

/// Major and minor number of a kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Version(u32, u32);

impl Version {
    /// Reads `6.18.44-something`.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

pub(super) fn examine() -> Vec<Finding> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version = Version::parse(&release).unwrap_or(Version(0, 0));
    vec![
        release_finding(&release, version),
        openat2_finding(),
        populate_finding(),
        residency_finding(),
        userfaultfd_finding(),
        cachestat_finding(),
        seccomp_finding(),
    ]
}

fn release_finding(release: &str, version: Version) -> Finding {
    if version >= Version(6, 1) {
        Finding::good(GROUP, "release", release)
    } else {
        let meaning = "older than 6.1, the oldest kernel that is tested";
        Finding::limited(GROUP, "release", release, meaning)
    }
}

/// A real call: filters of containers refuse it although the kernel has it.
fn openat2_finding() -> Finding {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        Ok(_) => Finding::good(GROUP, "openat2", "works"),
        Err(error) => Finding::missing(
            GROUP,
            "openat2",
            error.to_string(),
            "a function's files can't be confined, and code can't be unpacked",
        )
        .mend("Linux 5.6 has it; in a container, allow it in the seccomp profile"),
    }
}

/// A page of guest memory with the given source, ready to be tried on.
fn guest_page(source: Source<'_>) -> Option<(GuestMemory, PageRange)> {
    let memory = GuestMemory::reserve(PageCount(1)).ok()?;
    let range = PageRange { start: PageIndex(0), count: PageCount(1) };
    memory.map(range, source, Protection::ReadWrite).ok()?;
    Some((memory, range))
}

fn populate_finding() -> Finding {
    let works = guest_page(Source::Anonymous)
        .is_some_and(|(memory, range)| memory.advise(range, Advice::PopulateWrite).is_ok());
    if works {
        Finding::good(GROUP, "MADV_POPULATE", "works")
    } else {
        let meaning = "page tables can't be filled ahead: restores take more faults";
        Finding::limited(GROUP, "MADV_POPULATE", "refused", meaning).mend("Linux 5.14 has it")
    }
}

fn residency_finding() -> Finding {
    let works = guest_page(Source::Anonymous)
        .is_some_and(|(memory, range)| memory.resident(range).is_ok_and(|pages| pages == [false]));
    if works {
        Finding::good(GROUP, "mincore", "tells resident pages from others")
    } else {
        let meaning = "which pages a function uses can't be recorded";
        Finding::limited(GROUP, "mincore", "reports an untouched page as resident", meaning)
    }
}

fn userfaultfd_finding() -> Finding {
    let name = "userfaultfd";
    let Some(unprivileged) = read("/proc/sys/vm/unprivileged_userfaultfd") else {
        let meaning = "the strategy `reap` is unavailable";
        return Finding::limited(GROUP, name, "not in this kernel", meaning);
    };
    let device = File::options().read(true).write(true).open("/dev/userfaultfd").is_ok();
    let root = rustix::process::geteuid().is_root();
    if device || root || unprivileged == "1" {
        let how = match (device, root) {
            (true, _) => "/dev/userfaultfd can be opened",
            (false, true) => "allowed for root",
            _ => "allowed for everybody",
        };
        return Finding::good(GROUP, name, how);
    }
    let there = std::fs::metadata("/dev/userfaultfd").is_ok_and(|about| about.file_type().is_char_device());
    let meaning = "KVM's faults are kernel-mode faults: the strategy `reap` is unavailable";
    let finding = Finding::limited(GROUP, name, "this user may not serve kernel-mode faults", meaning);
    finding.mend(if there {
        "as root: chmod 660 /dev/userfaultfd and chgrp it to the group of this user"
    } else {
        "as root: sysctl vm.unprivileged_userfaultfd=1"
    })
}

/// The one thing that is used of kernels newer than the emulated host's, the only hardware KVM that the tests know.
fn cachestat_finding() -> Finding {
    let name = "cachestat";
    let whole = PageRange { start: PageIndex(0), count: PageCount(1) };
    let probe = File::open("/proc/self/exe").and_then(|file| cached_count(file.as_fd(), whole));
    match probe {
        Ok(_) => Finding::good(GROUP, name, "works; newer than Linux 6.1, so untested on hardware KVM"),
        Err(error) => {
            let meaning = "what the page cache has is looked for page by page: recording takes longer";
            Finding::limited(GROUP, name, error.to_string(), meaning).mend("Linux 6.5 has it")
        }
    }
}

fn seccomp_finding() -> Finding {
    match read("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.contains("kill_process") => Finding::good(GROUP, "seccomp", "filters work"),
        _ => Finding::limited(
            GROUP,
            "seccomp",
            "not there",
            "workers can't be confined to the system calls they need",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(Version::parse("6.18.44-fc-v669"), Some(Version(6, 18)));
        assert_eq!(Version::parse("5.4-rc1"), Some(Version(5, 4)));
        assert_eq!(Version::parse("linux"), None);
        assert!(Version(6, 8) < Version(6, 18));
        assert_eq!(release_finding("5.10", Version(5, 10)).state, State::Limited);
    }
}
