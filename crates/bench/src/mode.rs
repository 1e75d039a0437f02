//! The ways to an answer that are compared.

use std::fmt;

use function_worker::RestoreOptions;
use restore::RestoreStrategy;
use serde::{Deserialize, Serialize};
use worker_protocol::Record;

/// Whether the snapshot's files are in the page cache when the request comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Files {
    /// None of their pages is: proven before each run.
    Cold,
    /// All of their pages are.
    Cached,
}

/// Everything about a restore that a benchmark chooses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct How {
    /// How it is called in records, tables and plots.
    pub name: String,
    pub options: RestoreOptions,
    pub files: Files,
    /// Whether the worker process was started, and its virtual machine made, before the request.
    pub ready_worker: bool,
    /// Another readahead window of the device, in KiB, while it runs.
    pub readahead_kib: Option<u32>,
}

impl How {
    /// From cold files, with a ready worker, all else as the strategy has it.
    pub fn cold(name: &str, strategy: RestoreStrategy) -> Self {
        Self {
            name: name.to_owned(),
            options: RestoreOptions::by(strategy),
            files: Files::Cold,
            ready_worker: true,
            readahead_kib: None,
        }
    }
}

/// A way to an answer in the experiment `modes`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    Warm,
    Cached,
    #[serde(rename = "faasnap")]
    FaaSnap,
    #[serde(rename = "faasnap-cached")]
    FaaSnapCached,
    #[serde(rename = "faasnap-new-worker")]
    FaaSnapNewWorker,
    Reap,
    OnDemandRandom,
    #[serde(rename = "on-demand-128k")]
    OnDemand128K,
    OnDemand,
    Recorded,
    Eager,
    Cold,
    Process,
    ForkServer,
}

impl Mode {
    pub const ALL: [Self; 14] = [
        Self::Warm,
        Self::Cached,
        Self::FaaSnap,
        Self::FaaSnapCached,
        Self::FaaSnapNewWorker,
        Self::Reap,
        Self::OnDemandRandom,
        Self::OnDemand128K,
        Self::OnDemand,
        Self::Recorded,
        Self::Eager,
        Self::Cold,
        Self::Process,
        Self::ForkServer,
    ];
    /// What vanilla lazy mapping is at its best: the fastest of these by function.
    pub const ON_DEMAND: [Self; 3] = [Self::OnDemandRandom, Self::OnDemand128K, Self::OnDemand];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cached => "cached",
            Self::FaaSnap => "faasnap",
            Self::FaaSnapCached => "faasnap-cached",
            Self::FaaSnapNewWorker => "faasnap-new-worker",
            Self::Reap => "reap",
            Self::OnDemandRandom => "on-demand-random",
            Self::OnDemand128K => "on-demand-128k",
            Self::OnDemand => "on-demand",
            Self::Recorded => "recorded",
            Self::Eager => "eager",
            Self::Cold => "cold",
            Self::Process => "process",
            Self::ForkServer => "fork-server",
        }
    }

    /// A line about it.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Warm => "an instance that was kept alive",
            Self::Cached => "memory file mapped, all of it in the page cache",
            Self::FaaSnap => "the loading set brought in while the function runs, files cold",
            Self::FaaSnapCached => "the same with its files in the page cache",
            Self::FaaSnapNewWorker => "files cold, the worker process started on request",
            Self::Reap => "the recorded working set installed before the function runs (O_DIRECT)",
            Self::OnDemandRandom => "memory file mapped, each fault reads one page",
            Self::OnDemand128K => "memory file mapped, the device's readahead at 128 KiB",
            Self::OnDemand => "memory file mapped, the device's readahead as it is",
            Self::Recorded => "the same as on-demand-random, while FaaSnap records it",
            Self::Eager => "all of memory read before the function runs",
            Self::Cold => "booted and initialised, no snapshot",
            Self::Process => {
                "for comparison: the interpreter started on the host for each request, no isolation"
            }
            Self::ForkServer => {
                "for comparison: a process on the host that forks for each request, no isolation"
            }
        }
    }

    /// How it is restored; none for an instance that is not restored on request.
    pub fn how(self) -> Option<How> {
        let by = |strategy| How::cold(self.name(), strategy);
        let on_demand = || {
            let mut how = by(RestoreStrategy::OnDemand);
            how.options.random_access = Some(self == Self::OnDemandRandom);
            how
        };
        Some(match self {
            Self::Warm | Self::Cold | Self::Process | Self::ForkServer => return None,
            Self::Cached => How { files: Files::Cached, ..by(RestoreStrategy::Cached) },
            Self::FaaSnap => by(RestoreStrategy::FaaSnap),
            Self::FaaSnapCached => How { files: Files::Cached, ..by(RestoreStrategy::FaaSnap) },
            Self::FaaSnapNewWorker => How { ready_worker: false, ..by(RestoreStrategy::FaaSnap) },
            Self::Reap => by(RestoreStrategy::Reap),
            Self::OnDemandRandom | Self::OnDemand => on_demand(),
            Self::OnDemand128K => How { readahead_kib: Some(128), ..on_demand() },
            Self::Recorded => {
                let mut how = by(RestoreStrategy::FaaSnap);
                how.options.record = Record::Again;
                how
            }
            Self::Eager => by(RestoreStrategy::Eager),
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_records() {
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("\"{mode}\""));
            assert!(mode.how().is_none_or(|how| how.name == mode.name()));
        }
    }
}
