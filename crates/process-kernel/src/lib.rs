//! The Linux system-call personality that a process guest runs on.
//!
//! A guest program's system calls are served here: memory ([`mm`]), files ([`file`], [`fs`]), pipes and their kin
//! ([`ipc`]), sockets ([`net`]), threads and signals ([`task`]). Whatever can be an object of our own is one, so that it
//! can be part of a snapshot and gives the guest no way to the host's kernel; regular files are the host's.
//!
//! Architecture invariants: this crate knows no KVM and no vCPU; it can be driven by a test or a fuzzer without either.
//! Nothing here blocks in the host kernel on a guest's behalf (see [`wait`]). `unsafe` lives in [`host`] alone.

pub mod clock;
pub mod file;
pub mod fs;
pub mod host;
pub mod ipc;
pub mod mm;
pub mod net;
pub mod object;
pub mod syscall;
pub mod task;
mod vdso;
pub mod wait;
