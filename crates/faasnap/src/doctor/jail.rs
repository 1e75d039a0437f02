//! What workers are confined by.

use std::path::Path;

use ::jail::{Authority, Cgroups};

use super::Finding;

const GROUP: &str = "isolation of functions";

/// For an ordinary user this moves the process into a user namespace: the last thing that a doctor does.
pub(super) fn examine(home: &Path) -> Vec<Finding> {
    vec![jail_finding(::jail::prepare(home)), cgroup_finding(::jail::cgroups())]
}

fn jail_finding(authority: &Authority) -> Finding {
    let name = "jail";
    let found = match authority {
        Authority::Root => {
            return Finding::good(
                GROUP,
                name,
                "namespaces, an empty root and a user of its own for each worker",
            );
        }
        Authority::RootOneUser { .. } => {
            "namespaces and an empty root; workers are root's, without capabilities"
        }
        Authority::User => "namespaces and an empty root; workers are this user's",
        Authority::Weak { .. } => "no namespaces; a filter, no capabilities and limits only",
    };
    let finding = Finding::limited(GROUP, name, found, &authority.weakness().unwrap_or_default());
    finding.mend(match authority {
        Authority::RootOneUser { .. } => "keep the home on ext4, xfs, btrfs or tmpfs (--home, FAASNAP_HOME)",
        Authority::User => "run the node as root: workers then have fewer rights than now, not more",
        _ => {
            "allow user namespaces: as root, sysctl kernel.unprivileged_userns_clone=1, or \
             kernel.apparmor_restrict_unprivileged_userns=0; in a container, start it with --security-opt seccomp=unconfined"
        }
    })
}

fn cgroup_finding(cgroups: &Cgroups) -> Finding {
    let name = "cgroup";
    match cgroups {
        Cgroups::Version1 { .. } => Finding::good(GROUP, name, "version 1: memory, threads, CPU time"),
        Cgroups::Version2 { .. } => Finding::good(GROUP, name, "version 2: memory, threads, CPU time"),
        Cgroups::Unavailable { reason } => {
            let meaning = "memory limits are kept by looking, not by the kernel; a worker that its guest has taken over could use more";
            let found = format!("no groups can be made: {reason}");
            Finding::limited(GROUP, name, found, meaning)
                .mend("run the node as root, or in a group of its own: systemd-run --user --scope -p Delegate=yes faasnap serve")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn what_is_weaker_says_why_and_how_to_mend_it() {
        assert_eq!(jail_finding(&Authority::Root).state, State::Good);
        let weak = jail_finding(&Authority::Weak { reason: "EPERM".to_owned() });
        assert_eq!(weak.state, State::Limited);
        assert!(weak.meaning.unwrap().contains("EPERM") && weak.mend.unwrap().contains("namespaces"));
        assert!(jail_finding(&Authority::User).mend.unwrap().contains("root"));
        let none = cgroup_finding(&Cgroups::Unavailable { reason: "none".to_owned() });
        assert_eq!(none.state, State::Limited);
    }
}
