//! /proc/cpuinfo, from the CPUID instruction.

use crate::fs::synthetic::sys::processors;
use crate::host::cpuid;

/// Where CPUID tells a feature.
#[derive(Clone, Copy)]
enum Register {
    Leaf1Edx,
    Leaf1Ecx,
    Leaf7Ebx,
    Leaf7Ecx,
    Leaf7Edx,
    Extended1Edx,
    Extended1Ecx,
}

use Register::{Extended1Ecx, Extended1Edx, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, Leaf7Edx};

/// Names as Linux prints them, in its order: only what programs outside the kernel can use.
const FLAGS: &[(Register, u32, &str)] = &[
    (Leaf1Edx, 0, "fpu"),
    (Leaf1Edx, 4, "tsc"),
    (Leaf1Edx, 8, "cx8"),
    (Leaf1Edx, 15, "cmov"),
    (Leaf1Edx, 19, "clflush"),
    (Leaf1Edx, 23, "mmx"),
    (Leaf1Edx, 24, "fxsr"),
    (Leaf1Edx, 25, "sse"),
    (Leaf1Edx, 26, "sse2"),
    (Leaf1Edx, 28, "ht"),
    (Extended1Edx, 11, "syscall"),
    (Extended1Edx, 20, "nx"),
    (Extended1Edx, 27, "rdtscp"),
    (Extended1Edx, 29, "lm"),
    (Leaf1Ecx, 0, "pni"),
    (Leaf1Ecx, 1, "pclmulqdq"),
    (Leaf1Ecx, 9, "ssse3"),
    (Leaf1Ecx, 12, "fma"),
    (Leaf1Ecx, 13, "cx16"),
    (Leaf1Ecx, 19, "sse4_1"),
    (Leaf1Ecx, 20, "sse4_2"),
    (Leaf1Ecx, 22, "movbe"),
    (Leaf1Ecx, 23, "popcnt"),
    (Leaf1Ecx, 25, "aes"),
    (Leaf1Ecx, 26, "xsave"),
    (Leaf1Ecx, 28, "avx"),
    (Leaf1Ecx, 29, "f16c"),
    (Leaf1Ecx, 30, "rdrand"),
    (Leaf1Ecx, 31, "hypervisor"),
    (Extended1Ecx, 0, "lahf_lm"),
    (Extended1Ecx, 5, "abm"),
    (Extended1Ecx, 6, "sse4a"),
    (Extended1Ecx, 8, "3dnowprefetch"),
    (Leaf7Ebx, 0, "fsgsbase"),
    (Leaf7Ebx, 3, "bmi1"),
    (Leaf7Ebx, 5, "avx2"),
    (Leaf7Ebx, 8, "bmi2"),
    (Leaf7Ebx, 9, "erms"),
    (Leaf7Ebx, 16, "avx512f"),
    (Leaf7Ebx, 17, "avx512dq"),
    (Leaf7Ebx, 18, "rdseed"),
    (Leaf7Ebx, 19, "adx"),
    (Leaf7Ebx, 21, "avx512ifma"),
    (Leaf7Ebx, 23, "clflushopt"),
    (Leaf7Ebx, 24, "clwb"),
    (Leaf7Ebx, 28, "avx512cd"),
    (Leaf7Ebx, 29, "sha_ni"),
    (Leaf7Ebx, 30, "avx512bw"),
    (Leaf7Ebx, 31, "avx512vl"),
    (Leaf7Ecx, 1, "avx512vbmi"),
    (Leaf7Ecx, 6, "avx512_vbmi2"),
    (Leaf7Ecx, 8, "gfni"),
    (Leaf7Ecx, 9, "vaes"),
    (Leaf7Ecx, 10, "vpclmulqdq"),
    (Leaf7Ecx, 11, "avx512_vnni"),
    (Leaf7Ecx, 12, "avx512_bitalg"),
    (Leaf7Ecx, 14, "avx512_vpopcntdq"),
    (Leaf7Edx, 4, "fsrm"),
];

fn flags() -> String {
    let (one, seven, extended) = (cpuid(1, 0), cpuid(7, 0), cpuid(0x8000_0001, 0));
    let word = |register| match register {
        Leaf1Edx => one.edx,
        Leaf1Ecx => one.ecx,
        Leaf7Ebx => seven.ebx,
        Leaf7Ecx => seven.ecx,
        Leaf7Edx => seven.edx,
        Extended1Edx => extended.edx,
        Extended1Ecx => extended.ecx,
    };
    let present = FLAGS.iter().filter(|(register, bit, _)| word(*register) >> bit & 1 == 1);
    present.map(|(_, _, name)| *name).collect::<Vec<_>>().join(" ")
}

/// Registers' bytes as text, up to the first NUL.
fn text_of(registers: &[u32]) -> String {
    let bytes: Vec<u8> = registers.iter().flat_map(|register| register.to_le_bytes()).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).trim().to_owned()
}

/// Family, model and stepping from leaf 1's EAX (Intel SDM, CPUID).
fn signature(eax: u32) -> (u32, u32, u32) {
    let (family, model) = (eax >> 8 & 0xf, eax >> 4 & 0xf);
    let full_family = if family == 0xf { family + (eax >> 20 & 0xff) } else { family };
    let full_model = if matches!(family, 6 | 0xf) { model | (eax >> 16 & 0xf) << 4 } else { model };
    (full_family, full_model, eax & 0xf)
}

/// The whole text.
pub(super) fn text() -> String {
    let zero = cpuid(0, 0);
    let vendor = text_of(&[zero.ebx, zero.edx, zero.ecx]);
    let brand: Vec<u32> = (0x8000_0002..=0x8000_0004)
        .flat_map(|leaf| {
            let part = cpuid(leaf, 0);
            [part.eax, part.ebx, part.ecx, part.edx]
        })
        .collect();
    let (family, model, stepping) = signature(cpuid(1, 0).eax);
    let count = processors();
    (0..count)
        .map(|processor| {
            format!(
                "processor\t: {processor}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
                 model name\t: {}\nstepping\t: {stepping}\ncpu MHz\t\t: 0.000\nphysical id\t: 0\nsiblings\t: {count}\n\
                 core id\t\t: {processor}\ncpu cores\t: {count}\nfpu\t\t: yes\ncpuid level\t: {}\nflags\t\t: {}\n\
                 clflush size\t: 64\ncache_alignment\t: 64\naddress sizes\t: 46 bits physical, 48 bits virtual\n\n",
                text_of(&brand),
                zero.eax,
                flags()
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_put_together_as_the_manual_says() {
        assert_eq!(signature(0x0008_06f8), (6, 0x8f, 8));
        assert_eq!(signature(0x00a2_0f12), (0x19, 0x21, 2));
    }

    #[test]
    fn every_processor_has_a_paragraph_with_the_fields_that_programs_parse() {
        let text = text();
        let paragraphs: Vec<_> = text.trim_end().split("\n\n").collect();
        assert_eq!(paragraphs.len(), processors());
        for paragraph in paragraphs {
            for line in paragraph.lines() {
                assert!(line.contains('\t') && line.contains(": "), "{line}");
            }
            assert!(paragraph.contains(" sse2 "), "x86-64 has SSE2");
        }
    }
}
