//! The restore strategies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How a guest's memory comes back from its snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreStrategy {
    /// The memory file is mapped, the guest's own faults read it: what Firecracker does.
    OnDemand,
    /// As on-demand, after making sure that the memory file is in the page cache.
    Cached,
    /// A recorded working set is read and installed through userfaultfd before the guest runs; every other page is
    /// served one fault at a time (REAP, ASPLOS 2021).
    Reap,
    /// A recorded loading set is brought in by a thread of its own while the guest runs (FaaSnap, EuroSys 2022).
    #[default]
    #[serde(rename = "faasnap")]
    FaaSnap,
    /// All of memory is read before the guest runs.
    Eager,
}

impl RestoreStrategy {
    /// Every strategy.
    pub const ALL: [Self; 5] = [Self::OnDemand, Self::Cached, Self::Reap, Self::FaaSnap, Self::Eager];

    /// The name a user types.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Cached => "cached",
            Self::Reap => "reap",
            Self::FaaSnap => "faasnap",
            Self::Eager => "eager",
        }
    }

    /// Whether it goes by what an earlier restore recorded.
    pub const fn uses_recordings(self) -> bool {
        matches!(self, Self::Reap | Self::FaaSnap)
    }
}

impl fmt::Display for RestoreStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The techniques of the FaaSnap strategy, each with its own switch, so that a benchmark can leave one out. All are on by
/// default. Those that shape the loading-set file itself are in [`crate::LoadingSetRule`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Techniques {
    /// Only pages that the snapshot stores are mapped from files, all others are anonymous. Off: the guest's memory is
    /// mapped from the memory file as a whole.
    pub per_region_mapping: bool,
    /// Whether the loading set is read from its compact file or from where its pages lie in the memory file.
    pub loading_set_file: FileUse,
    /// The loader works while the guest runs. Off: the guest waits for it.
    pub concurrent_paging: bool,
    /// The loader fills the host's page tables behind the data.
    pub populate: bool,
    /// Pages known to be written get their private copy ahead. Needs `populate`.
    pub private_ahead: bool,
    /// So do their neighbours in the loading set, since software KVM maps eight neighbours at one fault of the guest when the
    /// host has writable pages for all of them. Needs `private_ahead`.
    pub neighbours_ahead: bool,
    /// Zero pages known to be touched get memory ahead.
    pub fresh_ahead: bool,
    /// Pages known to be read only get a private copy ahead as well, those of the guest's files included: software KVM maps
    /// neighbours only where the host has writable pages. Needs `private_ahead`, and a guest whose own page tables forbid
    /// the writes that its regions don't allow.
    pub private_reads: bool,
    /// What is known to be touched is read into memory that the worker made ready before the request. Needs `private_reads`.
    pub ready_memory: bool,
    /// Of what the worker made ready, that is left which the recorded invocation had of blocks beyond the snapshot: the guest gets it
    /// with these blocks. Needs `ready_memory`.
    pub growth_ahead: bool,
    /// The guest runs at once, and blocks of its memory that nothing is behind yet are let in one by one as they arrive; a touch
    /// of one that is still to come waits. Needs a guest whose page tables can hide a block.
    pub late_blocks: bool,
    /// Blocks of 2 MiB that the recording knows nearly whole become huge pages, which the disk writes into, past the page cache.
    /// Needs `private_reads`.
    pub huge_blocks: bool,
    /// What the loading-set file has compressed, and what has a place of its own, is read so. Needs `private_reads`.
    pub compressed: bool,
}

impl Default for Techniques {
    fn default() -> Self {
        Self {
            per_region_mapping: true,
            loading_set_file: FileUse::Weighed,
            concurrent_paging: true,
            populate: true,
            private_ahead: true,
            neighbours_ahead: true,
            fresh_ahead: true,
            private_reads: true,
            ready_memory: true,
            growth_ahead: true,
            late_blocks: true,
            huge_blocks: true,
            compressed: true,
        }
    }
}

/// The name of one technique of the FaaSnap strategy, for users and for the worker protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Technique {
    /// [`Techniques::per_region_mapping`].
    PerRegionMapping,
    /// The compact loading-set file; without it the set is read from the memory file ([`FileUse::Never`]).
    LoadingSetFile,
    /// The choice between the two files by the disk's measured costs; without it the compact file is always mapped
    /// ([`FileUse::Always`]).
    Weighing,
    /// [`Techniques::concurrent_paging`].
    ConcurrentPaging,
    /// [`Techniques::populate`].
    Populate,
    /// [`Techniques::private_ahead`].
    PrivateAhead,
    /// [`Techniques::neighbours_ahead`].
    NeighboursAhead,
    /// [`Techniques::fresh_ahead`].
    FreshAhead,
    /// [`Techniques::private_reads`].
    PrivateReads,
    /// [`Techniques::ready_memory`].
    ReadyMemory,
    /// [`Techniques::growth_ahead`].
    GrowthAhead,
    /// [`Techniques::late_blocks`].
    LateBlocks,
    /// [`Techniques::huge_blocks`].
    HugeBlocks,
    /// [`Techniques::compressed`].
    Compressed,
}

impl Technique {
    /// Every technique.
    pub const ALL: [Self; 14] = [
        Self::PerRegionMapping,
        Self::LoadingSetFile,
        Self::Weighing,
        Self::ConcurrentPaging,
        Self::Populate,
        Self::PrivateAhead,
        Self::NeighboursAhead,
        Self::FreshAhead,
        Self::PrivateReads,
        Self::ReadyMemory,
        Self::GrowthAhead,
        Self::LateBlocks,
        Self::HugeBlocks,
        Self::Compressed,
    ];

    /// The name a user types.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PerRegionMapping => "per-region-mapping",
            Self::LoadingSetFile => "loading-set-file",
            Self::Weighing => "weighing",
            Self::ConcurrentPaging => "concurrent-paging",
            Self::Populate => "populate",
            Self::PrivateAhead => "private-ahead",
            Self::NeighboursAhead => "neighbours-ahead",
            Self::FreshAhead => "fresh-ahead",
            Self::PrivateReads => "private-reads",
            Self::ReadyMemory => "ready-memory",
            Self::GrowthAhead => "growth-ahead",
            Self::LateBlocks => "late-blocks",
            Self::HugeBlocks => "huge-blocks",
            Self::Compressed => "compressed",
        }
    }
}

impl fmt::Display for Technique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no technique.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("\"{0}\" is not a technique: use {names}", names = Technique::ALL.map(Technique::name).join(", "))]
pub struct UnknownTechnique(pub String);

impl FromStr for Technique {
    type Err = UnknownTechnique;

    fn from_str(name: &str) -> Result<Self, UnknownTechnique> {
        Self::ALL
            .into_iter()
            .find(|technique| technique.name() == name)
            .ok_or_else(|| UnknownTechnique(name.into()))
    }
}

impl Techniques {
    /// These techniques without one.
    #[must_use]
    pub const fn without(mut self, technique: Technique) -> Self {
        match technique {
            Technique::PerRegionMapping => self.per_region_mapping = false,
            Technique::LoadingSetFile => self.loading_set_file = FileUse::Never,
            Technique::Weighing => self.loading_set_file = FileUse::Always,
            Technique::ConcurrentPaging => self.concurrent_paging = false,
            Technique::Populate => self.populate = false,
            Technique::PrivateAhead => self.private_ahead = false,
            Technique::NeighboursAhead => self.neighbours_ahead = false,
            Technique::FreshAhead => self.fresh_ahead = false,
            Technique::PrivateReads => self.private_reads = false,
            Technique::ReadyMemory => self.ready_memory = false,
            Technique::GrowthAhead => self.growth_ahead = false,
            Technique::LateBlocks => self.late_blocks = false,
            Technique::HugeBlocks => self.huge_blocks = false,
            Technique::Compressed => self.compressed = false,
        }
        self
    }
}

/// Where the loading set is read from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileUse {
    /// Always from the compact file, which is mapped region by region: one sequential read, many mappings.
    Always,
    /// As the disk's measured costs say: the file where separate reads are dear (network volumes), else the memory file.
    #[default]
    Weighed,
    /// Always from the memory file: many reads, no mappings.
    Never,
}

/// A name that is no restore strategy.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("\"{0}\" is not a restore strategy: use on-demand, cached, reap, faasnap or eager")]
pub struct UnknownStrategy(pub String);

impl FromStr for RestoreStrategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        Self::ALL
            .into_iter()
            .find(|strategy| strategy.name() == name)
            .ok_or_else(|| UnknownStrategy(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for strategy in RestoreStrategy::ALL {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
            assert_eq!(serde_json::to_string(&strategy).unwrap(), format!("\"{strategy}\""));
        }
        assert!("warm".parse::<RestoreStrategy>().is_err());
    }

    #[test]
    fn each_technique_can_be_left_out() {
        for technique in Technique::ALL {
            assert_eq!(technique.to_string().parse(), Ok(technique));
            assert_ne!(Techniques::default().without(technique), Techniques::default(), "{technique}");
        }
        let refused = "magic".parse::<Technique>().unwrap_err().to_string();
        assert!(refused.contains("concurrent-paging"), "{refused}");
    }
}
