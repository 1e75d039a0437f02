//! Giving up what a process could do, for good.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities,
    set_capabilities_secure_bits, set_no_new_privs,
};

use crate::error::{JailError, entering};
use crate::sys;

/// Capabilities are numbered from 0 without gaps; the kernel has room for this many.
const MOST_CAPABILITIES: u32 = 64;

/// Descriptors: a guest's own 1024, the host's files behind them, and the worker's.
const OPEN_FILES: u64 = 4096;
/// Threads: a guest's own 1024 with a vCPU each, and the worker's.
const THREADS: u64 = 1280;
/// Bytes of a file that the process writes: a snapshot's memory.
const FILE_BYTES: u64 = 64 << 30;

/// No capability, now or ever.
pub(crate) fn drop_capabilities() -> Result<(), JailError> {
    for capability in 0..MOST_CAPABILITIES {
        if !sys::drop_from_bounding_set(capability).map_err(entering("emptying the bounding set"))? {
            break;
        }
    }
    clear_ambient_capability_set().map_err(entering("clearing ambient capabilities"))?;
    let fixed = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(fixed).map_err(entering("fixing the secure bits"))?;
    drop_held_capabilities()
}

/// No capability now. All that a process without privilege can give up.
pub(crate) fn drop_held_capabilities() -> Result<(), JailError> {
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(entering("dropping capabilities"))
}

/// No privilege by running programs, no memory image for others.
pub(crate) fn seal() -> Result<(), JailError> {
    set_no_new_privs(true).map_err(entering("setting no_new_privs"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(entering("becoming undumpable"))
}

/// Limits that hold whatever the guest does. Memory is limited elsewhere: a guest's is reserved far beyond what it may touch.
pub(crate) fn limit_resources() -> Result<(), JailError> {
    for (resource, most) in [
        (Resource::Core, 0),
        (Resource::Nofile, OPEN_FILES),
        (Resource::Nproc, THREADS),
        (Resource::Fsize, FILE_BYTES),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nice, 0),
        (Resource::Rtprio, 0),
    ] {
        // A limit that is lower already stays.
        let now = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX).min(most);
        setrlimit(resource, Rlimit { current: Some(now), maximum: Some(now) })
            .map_err(entering("setting a resource limit"))?;
    }
    Ok(())
}
