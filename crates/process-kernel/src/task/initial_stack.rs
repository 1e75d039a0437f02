//! The stack that a new program starts with: strings, auxiliary vector, environment, arguments (System V ABI, AMD64,
//! 3.4.1; Linux's create_elf_tables).

use rustix::io::Errno;

use super::process::Identity;
use super::program::Loaded;
use crate::mm::Mm;

/// What goes onto the stack.
pub(super) struct InitialStack<'a> {
    pub arguments: &'a [Vec<u8>],
    pub environment: &'a [Vec<u8>],
    /// Path for AT_EXECFN.
    pub path: &'a [u8],
    pub program: Loaded,
    /// Where the interpreter was put, or 0.
    pub interpreter_base: u64,
    /// Where the vDSO was put, or 0.
    pub vdso: u64,
    pub identity: &'a Identity,
    /// 16 random bytes for AT_RANDOM.
    pub random: [u8; 16],
    /// CPUID leaf 1, edx: AT_HWCAP.
    pub hardware: u64,
}

const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_PAGESZ: u64 = 6;
const AT_BASE: u64 = 7;
const AT_FLAGS: u64 = 8;
const AT_ENTRY: u64 = 9;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_GID: u64 = 13;
const AT_EGID: u64 = 14;
const AT_PLATFORM: u64 = 15;
const AT_HWCAP: u64 = 16;
const AT_CLKTCK: u64 = 17;
const AT_SECURE: u64 = 23;
const AT_RANDOM: u64 = 25;
/// AT_HWCAP2 stays 0: FSGSBASE must not be offered (docs/process-guest.md).
const AT_HWCAP2: u64 = 26;
const AT_EXECFN: u64 = 31;
const AT_SYSINFO_EHDR: u64 = 33;

impl InitialStack<'_> {
    /// Writes everything below `top` and returns the stack pointer and the auxiliary vector.
    ///
    /// # Errors
    /// E2BIG when it doesn't fit into a quarter of `limit` bytes, EFAULT.
    pub fn write(&self, mm: &Mm, top: u64, limit: u64) -> Result<(u64, Vec<(u64, u64)>), Errno> {
        let mut strings = Vec::new();
        let mut offsets = Vec::new();
        for text in self.arguments.iter().chain(self.environment) {
            offsets.push(strings.len() as u64);
            strings.extend_from_slice(text);
            strings.push(0);
        }
        let path_offset = strings.len() as u64;
        strings.extend_from_slice(self.path);
        strings.push(0);
        let platform_offset = strings.len() as u64;
        strings.extend_from_slice(b"x86_64\0");
        let random_offset = strings.len() as u64;
        strings.extend_from_slice(&self.random);
        let base = (top - 8 - strings.len() as u64) & !15;
        let program = self.program;
        let auxiliary = vec![
            (AT_SYSINFO_EHDR, self.vdso),
            (AT_HWCAP, self.hardware),
            (AT_PAGESZ, pages::PAGE_SIZE),
            (AT_CLKTCK, 100),
            (AT_PHDR, program.headers),
            (AT_PHENT, 56),
            (AT_PHNUM, program.header_count),
            (AT_BASE, self.interpreter_base),
            (AT_FLAGS, 0),
            (AT_ENTRY, program.entry),
            (AT_UID, u64::from(self.identity.uid)),
            (AT_EUID, u64::from(self.identity.uid)),
            (AT_GID, u64::from(self.identity.gid)),
            (AT_EGID, u64::from(self.identity.gid)),
            (AT_SECURE, 0),
            (AT_RANDOM, base + random_offset),
            (AT_HWCAP2, 0),
            (AT_EXECFN, base + path_offset),
            (AT_PLATFORM, base + platform_offset),
            (0, 0),
        ];
        let mut words = vec![self.arguments.len() as u64];
        let (arguments, environment) = offsets.split_at(self.arguments.len());
        words.extend(arguments.iter().map(|offset| base + offset));
        words.push(0);
        words.extend(environment.iter().map(|offset| base + offset));
        words.push(0);
        // A vDSO of 0 means that there is none: then the entry is left out.
        let auxiliary: Vec<(u64, u64)> =
            auxiliary.into_iter().filter(|entry| *entry != (AT_SYSINFO_EHDR, 0)).collect();
        words.extend(auxiliary.iter().flat_map(|(kind, value)| [*kind, *value]));
        let stack_pointer = (base - 8 * words.len() as u64) & !15;
        if top - stack_pointer > limit / 4 {
            return Err(Errno::TOOBIG);
        }
        mm.write(base, &strings)?;
        mm.write(stack_pointer, bytemuck::cast_slice(&words))?;
        Ok((stack_pointer, auxiliary))
    }
}
