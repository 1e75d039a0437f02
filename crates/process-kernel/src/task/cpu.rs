//! A thread's processor state as the personality sees it.

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

/// General-purpose registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable, Serialize, Deserialize)]
#[repr(C)]
// The names are those of the registers.
#[allow(missing_docs)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// What a thread is about to run with at CPL3.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CpuState {
    /// General-purpose registers.
    pub registers: Registers,
    /// Base of FS (thread-local storage).
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// The number of the system call being served, or -1 outside one; for running it again.
    pub original_rax: i64,
}

/// Vector and floating-point registers, fetched only when they are needed (signals, new threads, snapshots).
pub trait Fpu {
    /// The standard-format XSAVE area.
    fn xsave(&mut self) -> Vec<u8>;

    /// Loads a standard-format XSAVE area. Returns whether it was acceptable.
    fn load(&mut self, area: &[u8]) -> bool;

    /// Bytes of the area that a program can see, in the standard format (CPUID leaf 0xd for the enabled features).
    fn user_size(&self) -> usize;

    /// The enabled state components (XCR0).
    fn features(&self) -> u64;

    /// Loads the state that a new program starts with.
    fn reset(&mut self);
}
