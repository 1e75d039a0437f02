//! What the first program in a linux guest and the host say to each other.
//!
//! The program itself (`main.rs`) is compiled a second time, static and without cargo, by the build script of `linux-guest`,
//! and so must do without other crates. Architecture invariant: the host believes nothing that comes from a guest; lengths are
//! limited before anything is allocated.
#![forbid(unsafe_code)]

pub mod wire;
