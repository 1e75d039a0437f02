//! Restores of a small guest with every kind of region, compared page by page.

mod compressed;
mod faults;
mod golden;
mod growth;
mod huge;
mod late;
mod recorded;
pub(crate) mod sample;
mod strategies;
