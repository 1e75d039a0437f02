//! What a processor says about itself: KVM's list with the processor's own number in it.

use kvm_bindings::CpuId;

use crate::error::MachineError;

/// CPUID.1:ECX, TSC deadline (Intel SDM vol. 2, CPUID).
const TSC_DEADLINE: u32 = 1 << 24;
/// CPUID.1:ECX, a hypervisor is there.
const HYPERVISOR: u32 = 1 << 31;

/// KVM's leaf of features for guests (Documentation/virt/kvm/x86/cpuid.rst), and in its EAX what has to do with asynchronous page
/// faults: by exceptions, as exits of a nested machine, with interrupts when the page is there.
const KVM_FEATURES: u32 = 0x4000_0001;
const ASYNC_PAGE_FAULTS: u32 = 1 << 4 | 1 << 10 | 1 << 14;

/// The list for processor `id` of `count`, each a core of its own in one package.
pub(super) fn of_processor(
    supported: &CpuId,
    id: u8,
    count: u8,
    deadline_timer: bool,
) -> Result<CpuId, MachineError> {
    let mut entries = supported.as_slice().to_vec();
    for entry in &mut entries {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | u32::from(count) << 16 | u32::from(id) << 24;
                entry.ecx |= HYPERVISOR;
                if deadline_timer {
                    entry.ecx |= TSC_DEADLINE;
                }
            }
            // With them the guest is interrupted twice for each page that the host has to bring in, which after a restore is
            // nearly every one: a third slower by userfaults. And what waits for an interrupt is lost when one is (Firecracker's
            // issue 3020 has programs that sleep there for ever). Without them the processor waits for the page.
            KVM_FEATURES => entry.eax &= !ASYNC_PAGE_FAULTS,
            // Topology (Intel), extended topology: the x2APIC identifier.
            0xb | 0x1f => entry.edx = u32::from(id),
            // Number of processors in the package, less one (AMD).
            0x8000_0008 => entry.ecx = entry.ecx & !0xff | u32::from(count.saturating_sub(1)),
            // Extended APIC identifier, core identifier (AMD).
            0x8000_001e => {
                entry.eax = u32::from(id);
                entry.ebx = entry.ebx & !0xffff | u32::from(id);
            }
            _ => {}
        }
    }
    CpuId::from_entries(&entries).map_err(|_| MachineError::Missing { what: "room for the CPUID list" })
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;

    #[test]
    fn a_processor_finds_its_own_number() {
        let entry = |function, ebx| kvm_cpuid_entry2 { function, ebx, ..Default::default() };
        let supported = CpuId::from_entries(&[entry(1, 0x0708_1234), entry(0xb, 0)]).unwrap();
        let list = of_processor(&supported, 2, 4, true).unwrap();
        let [first, topology] = list.as_slice() else { panic!() };
        assert_eq!((first.ebx, first.ecx), (0x0204_1234, HYPERVISOR | TSC_DEADLINE));
        assert_eq!(topology.edx, 2);
    }

    #[test]
    fn a_guest_is_offered_no_asynchronous_page_faults() {
        // As Linux 6.1 offers them, among others.
        let features = kvm_cpuid_entry2 { function: KVM_FEATURES, eax: 0x0100_7efb, ..Default::default() };
        let list = of_processor(&CpuId::from_entries(&[features]).unwrap(), 0, 1, true).unwrap();
        assert_eq!(list.as_slice().first().map(|entry| entry.eax), Some(0x0100_3aeb));
    }
}
