//! Resource limits (getrlimit, setrlimit, prlimit64).

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// RLIM_INFINITY.
const UNLIMITED: u64 = u64::MAX;

/// A limit's number, as RLIMIT_* counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// The names are those of RLIMIT_*.
#[allow(missing_docs)]
pub enum Resource {
    Cpu = 0,
    FileSize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    ResidentSet = 5,
    Processes = 6,
    OpenFiles = 7,
    LockedMemory = 8,
    AddressSpace = 9,
    Locks = 10,
    PendingSignals = 11,
    MessageQueue = 12,
    Nice = 13,
    RealTimePriority = 14,
    RealTimeTime = 15,
}

/// Soft and hard limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// What counts.
    pub soft: u64,
    /// What the soft limit may be raised to.
    pub hard: u64,
}

/// All of a process's limits.
#[derive(Debug)]
pub struct Limits(Mutex<[Limit; 16]>);

impl Default for Limits {
    /// AWS Lambda's: 1024 open files, 64 KiB locked memory, 8 MiB stack (shared fact sheet lambda-api.md, section 9).
    fn default() -> Self {
        let unlimited = Limit { soft: UNLIMITED, hard: UNLIMITED };
        let mut limits = [unlimited; 16];
        let mut set = |resource: Resource, soft, hard| limits[resource as usize] = Limit { soft, hard };
        set(Resource::OpenFiles, 1024, 1024 * 64);
        set(Resource::Processes, 742, 742);
        set(Resource::LockedMemory, 64 << 10, 64 << 10);
        set(Resource::Stack, 8 << 20, UNLIMITED);
        set(Resource::Core, 0, UNLIMITED);
        set(Resource::PendingSignals, 1024, 1024);
        set(Resource::MessageQueue, 819_200, 819_200);
        set(Resource::Nice, 0, 0);
        set(Resource::RealTimePriority, 0, 0);
        Self(Mutex::new(limits))
    }
}

impl Limits {
    /// The limit with number `resource`, if there is one.
    pub fn get(&self, resource: u32) -> Option<Limit> {
        self.0.lock().get(resource as usize).copied()
    }

    /// Sets the limit with number `resource`; returns whether it exists and the values are allowed.
    pub fn set(&self, resource: u32, limit: Limit) -> bool {
        let mut limits = self.0.lock();
        match limits.get_mut(resource as usize) {
            Some(current) if limit.soft <= limit.hard && limit.hard <= current.hard => {
                *current = limit;
                true
            }
            _ => false,
        }
    }

    /// Soft limit on descriptors.
    pub fn open_files(&self) -> u64 {
        self.0.lock()[Resource::OpenFiles as usize].soft
    }

    /// Soft limit on the main thread's stack, bytes.
    pub fn stack(&self) -> u64 {
        self.0.lock()[Resource::Stack as usize].soft
    }

    /// Soft limit on a file's size, bytes.
    pub fn file_size(&self) -> u64 {
        self.0.lock()[Resource::FileSize as usize].soft
    }

    /// All limits, for a snapshot.
    pub fn save(&self) -> [Limit; 16] {
        *self.0.lock()
    }

    /// Limits from a snapshot.
    pub fn restore(saved: [Limit; 16]) -> Self {
        Self(Mutex::new(saved))
    }
}
