//! The FaaSnap core: how a guest's memory comes back from a snapshot.
//!
//! A [`RestoreStrategy`] and a [`GuestLayout`] give a [`RestorePlan`], plain data that one mapper applies; [`restore`] does
//! both, starts the loader where the strategy has one, and writes what happened into a [`Timeline`]. The mechanisms are
//! described in `docs/restore.md`.
//!
//! Architecture invariant: this crate knows no vCPU, no KVM and no kind of guest. It sees guest-physical pages, the files
//! behind them and a clock. Host operations on guest memory are asked of `guest-memory`, so there is no `unsafe` here.
#![forbid(unsafe_code)]

mod compare;
mod engine;
mod error;
mod layout;
mod mapper;
mod plan;
mod strategy;
#[cfg(test)]
mod tests;
mod timeline;

pub use compare::wrong_pages;
pub use engine::{RestoreHandle, RestoreRequest, RestoreWarning, restore};
pub use error::RestoreError;
pub use layout::{Access, Backing, FileIndex, GuestLayout, LayoutError, Region};
pub use plan::{MapStep, RestorePlan};
pub use strategy::{RestoreStrategy, UnknownStrategy};
pub use timeline::{FaultCounts, LoadingSetUse, Phase, PhaseRecord, Timeline};
