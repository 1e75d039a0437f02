//! The system call filter: an allow-list by role and phase, checked by the kernel before each call.
//!
//! Filters add up: a thread's later one narrows what its earlier ones allow. A process installs [`Role::StartUp`] when it
//! enters its jail and [`Role::Running`] on top before it hears of a function; threads that do one thing narrow themselves.

mod calls;
mod trap;

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, apply_filter_all_threads,
};

use crate::error::{JailError, entering};
use calls::{Condition, GROUPS};

/// What a thread does, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Every thread, until the virtual machine is made.
    StartUp,
    /// Every thread from then on: the event loop, and what serves it.
    Running,
    /// A thread that runs a vCPU and serves its system calls.
    Guest,
    /// A thread that runs a vCPU of a linux guest, or serves its devices.
    Microvm,
    /// A thread that brings memory in.
    Loader,
    /// A thread that is the other end of a linux guest's network card.
    Network,
}

const ROLES: [Role; 6] =
    [Role::StartUp, Role::Running, Role::Guest, Role::Microvm, Role::Loader, Role::Network];

/// Compiled once, off a request's path.
struct Programs {
    by_role: BTreeMap<&'static str, BpfProgram>,
    /// Answers ENOSYS to the calls that have another way.
    not_there: BpfProgram,
}

/// Set when the process has entered its jail: only then threads narrow themselves.
static PROGRAMS: OnceLock<Programs> = OnceLock::new();

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::StartUp => "start-up",
            Self::Running => "running",
            Self::Guest => "guest",
            Self::Microvm => "microvm",
            Self::Loader => "loader",
            Self::Network => "network",
        }
    }
}

/// Calls that libraries try first and can do without.
const NOT_THERE: [i64; 2] = [libc::SYS_clone3, libc::SYS_userfaultfd];

fn condition(condition: Condition) -> Result<SeccompCondition, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    let (argument, length, operator, value) = match condition {
        Condition::Is(argument, value) => (argument, Dword, SeccompCmpOp::Eq, value),
        Condition::Bits(argument, mask, value) => (argument, Dword, SeccompCmpOp::MaskedEq(mask), value),
        Condition::IsNot(argument, value) => (argument, Dword, SeccompCmpOp::Ne, value),
        Condition::Null(argument) => (argument, Qword, SeccompCmpOp::Eq, 0),
        Condition::ThisProcess(argument) => (argument, Dword, SeccompCmpOp::Eq, std::process::id().into()),
    };
    SeccompCondition::new(argument, length, operator, value)
}

fn rules(role: Role) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in GROUPS.iter().filter(|group| group.roles.contains(&role)).flat_map(|group| group.calls) {
        let ways = rules.entry(call.0).or_default();
        for way in call.1 {
            let conditions = way.iter().map(|each| condition(*each)).collect::<Result<_, _>>()?;
            ways.push(SeccompRule::new(conditions)?);
        }
    }
    Ok(rules)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(rules, others, these, TargetArch::x86_64)?.try_into()
}

impl Programs {
    fn new() -> Result<Self, seccompiler::BackendError> {
        let mut by_role = BTreeMap::new();
        for role in ROLES {
            let program = compile(rules(role)?, SeccompAction::Trap, SeccompAction::Allow)?;
            by_role.insert(role.name(), program);
        }
        let absent = NOT_THERE.map(|call| (call, Vec::new())).into();
        let errno = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        Ok(Self { by_role, not_there: compile(absent, SeccompAction::Allow, errno)? })
    }

    fn of(&self, role: Role) -> Result<&BpfProgram, JailError> {
        let missing = || entering("looking for a filter")(io::Error::from(io::ErrorKind::NotFound));
        self.by_role.get(role.name()).ok_or_else(missing)
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> JailError {
    JailError::Enter { step: "installing the system call filter", source: io::Error::other(error) }
}

/// Installs the filter of the start-up phase and makes the others ready. The process has one thread and no_new_privs.
pub(crate) fn start() -> Result<(), JailError> {
    trap::install().map_err(entering("handling refused system calls"))?;
    let programs = Programs::new().map_err(failed)?;
    apply_filter(&programs.not_there).map_err(failed)?;
    apply_filter(programs.of(Role::StartUp)?).map_err(failed)?;
    let _ = PROGRAMS.set(programs);
    Ok(())
}

/// Narrows every thread of this process to [`Role::Running`]. Nothing happens in a process that entered no jail.
///
/// # Errors
/// [`JailError::Enter`]: end the process then.
pub fn begin_running() -> Result<(), JailError> {
    let Some(programs) = PROGRAMS.get() else { return Ok(()) };
    apply_filter_all_threads(programs.of(Role::Running)?).map_err(failed)
}

/// Narrows this thread. Nothing happens in a process that entered no jail. A process in which this fails ends: what the
/// thread is about to do was to be done confined.
pub fn narrow(role: Role) {
    let Some(programs) = PROGRAMS.get() else { return };
    let installed = programs.of(role).and_then(|program| apply_filter(program).map_err(failed));
    if let Err(error) = installed {
        eprintln!("a thread can't be confined to what a {} needs: {error}", role.name());
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::calls::Call;
    use super::*;

    fn of(role: Role) -> Vec<&'static Call> {
        GROUPS.iter().filter(|group| group.roles.contains(&role)).flat_map(|group| group.calls).collect()
    }

    #[test]
    fn every_filter_compiles() {
        let programs = Programs::new().unwrap();
        for role in ROLES {
            // The kernel's limit on a program (BPF_MAXINSNS).
            assert!(programs.of(role).unwrap().len() < 4096, "{role:?}");
        }
    }

    #[test]
    fn every_group_has_its_reason() {
        assert!(GROUPS.iter().all(|group| group.reason.len() > 10 && !group.calls.is_empty()));
    }

    #[test]
    fn no_rule_says_what_another_says() {
        for role in ROLES {
            let mut seen = BTreeSet::new();
            for Call(number, ways) in of(role) {
                let said: Vec<String> = match ways {
                    [] => vec![format!("{number}")],
                    ways => ways.iter().map(|way| format!("{number} {way:?}")).collect(),
                };
                let unconditional = format!("{number}");
                for way in said {
                    assert!(!seen.contains(&unconditional), "{role:?}: {way} is allowed in any case");
                    assert!(seen.insert(way.clone()), "{role:?}: {way} is there twice");
                }
            }
        }
    }

    #[test]
    fn a_later_phase_and_a_narrower_role_allow_nothing_new() {
        let numbers = |role| of(role).iter().map(|call| call.0).collect::<BTreeSet<_>>();
        for narrower in [Role::Running, Role::Guest, Role::Microvm, Role::Loader] {
            assert!(numbers(narrower).is_subset(&numbers(Role::StartUp)), "{narrower:?}");
        }
        assert!(numbers(Role::Guest).len() < numbers(Role::Running).len());
        assert!(numbers(Role::Microvm).len() < numbers(Role::Guest).len());
        assert!(numbers(Role::Loader).len() < numbers(Role::Microvm).len());
    }

    #[test]
    fn nothing_that_reaches_beyond_the_process_is_on_the_list() {
        let allowed: BTreeSet<i64> = of(Role::StartUp).iter().map(|call| call.0).collect();
        for never in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_kill,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_io_uring_setup,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_open_by_handle_at,
            libc::SYS_setuid,
            libc::SYS_capset,
            libc::SYS_chroot,
        ] {
            assert!(!allowed.contains(&never), "{never}");
        }
        // A pair is connected to itself.
        let pairs = of(Role::StartUp).into_iter().filter(|call| call.0 == libc::SYS_socketpair);
        let unix: &[&[Condition]] = &[&[Condition::Is(0, libc::AF_UNIX as u64)]];
        assert_eq!(pairs.map(|call| call.1).collect::<Vec<_>>(), [unix]);
    }
}
