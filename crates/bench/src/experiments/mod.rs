//! The experiments: one file for each.

pub(crate) mod ablation;
pub(crate) mod burst;
pub(crate) mod inputs;
pub(crate) mod keep_alive;
pub(crate) mod modes;
pub(crate) mod slow_disk;
