//! The few supervisor pages that a vCPU needs to leave CPL3: entry stubs, descriptor tables, an exception stack.
//!
//! The stubs are the same for all vCPUs. An exception's is `out imm8, al; hlt`, whose port is the vector. The one that
//! `syscall` enters stores to the doorbell, a page without a memory slot, because software KVM runs that stub with the rights
//! of CPL3, where `out` faults (docs/process-guest.md). The VMM never lets a stub run on: it sets the registers of CPL3 and
//! enters again. A program that jumps to a stub, or stores to the doorbell, makes a strange system call, no more. Selectors
//! are Linux's own (some programs look at CS).

use guest_memory::{AccessError, GuestMemory};
use machine::{kvm_dtable, kvm_segment, kvm_sregs};
use pages::{GuestPhysical, PageIndex};
use process_kernel::mm::layout::{self, SUPERVISOR_BASE};

const STUB_PAGE: PageIndex = PageIndex(layout::STUB_PAGE);
const IDT_PAGE: PageIndex = PageIndex(3);
/// Offset of the system-call stub; exception stub `v` is at `v * STUB_SIZE`.
const SYSCALL_STUB: u64 = 0x800;
const STUB_SIZE: u64 = 16;
/// Architectural exception vectors.
const VECTORS: u64 = 32;

const KERNEL_CODE: u16 = 0x10;
#[cfg(test)]
const KERNEL_DATA: u16 = 0x18;
const USER_CODE_32: u16 = 0x23;
const USER_DATA: u16 = 0x2b;
const USER_CODE: u16 = 0x33;
const TASK: u16 = 0x40;

/// Offset of the task-state segment inside a vCPU's page; the descriptor table is at its start.
const TASK_STATE: u64 = 0x100;
const TASK_STATE_SIZE: u64 = 104;

/// The virtual address at which a supervisor page appears.
fn supervisor(page: PageIndex) -> u64 {
    SUPERVISOR_BASE + page.address().0
}

/// Value for the LSTAR register: where `syscall` goes.
pub(crate) fn syscall_entry() -> u64 {
    supervisor(STUB_PAGE) + SYSCALL_STUB
}

/// Value for the STAR register: selectors of `syscall` and `sysret`.
pub(crate) fn star() -> u64 {
    u64::from(USER_CODE_32) << 48 | u64::from(KERNEL_CODE) << 32
}

/// Writes the stubs and the interrupt descriptor table, once per guest.
pub(crate) fn write_stubs(memory: &GuestMemory) -> Result<(), AccessError> {
    // out imm8, al; hlt
    let stub = |port: u16| [0xe6, port as u8, 0xf4];
    for vector in 0..VECTORS {
        memory.write(STUB_PAGE.address() + vector * STUB_SIZE, &stub(vector as u16))?;
        memory.write(IDT_PAGE.address() + vector * 16, &gate(vector))?;
    }
    // mov byte [DOORBELL], al; hlt
    let mut doorbell = vec![0xa2];
    doorbell.extend_from_slice(&supervisor(layout::DOORBELL_PAGE).to_le_bytes());
    doorbell.push(0xf4);
    memory.write(STUB_PAGE.address() + SYSCALL_STUB, &doorbell)
}

/// Reads what every exception needs: a guest that is watched may have none, where a later one waits for memory that is under way,
/// and would wait for this page with it.
pub(crate) fn touch(memory: &GuestMemory) -> Result<(), AccessError> {
    memory.read(IDT_PAGE.address(), &mut [0])
}

/// An interrupt gate (Intel SDM vol. 3, 6.14.1). Breakpoint and overflow may be raised by a program itself.
fn gate(vector: u64) -> [u8; 16] {
    let target = supervisor(STUB_PAGE) + vector * STUB_SIZE;
    let privilege: u64 = if vector == 3 || vector == 4 { 3 } else { 0 };
    let low = target & 0xffff
        | u64::from(KERNEL_CODE) << 16
        | (0x8e | privilege << 5) << 40
        | (target >> 16 & 0xffff) << 48;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..].copy_from_slice(&(target >> 32).to_le_bytes());
    bytes
}

/// Writes a vCPU's own page: descriptor table and task-state segment. Its upper end is the stack that exceptions use.
pub(crate) fn write_cpu_page(memory: &GuestMemory, page: PageIndex) -> Result<(), AccessError> {
    let task = supervisor(page) + TASK_STATE;
    let task_low = (TASK_STATE_SIZE - 1) | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
    let descriptors: [u64; 10] = [
        0,
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0,
        task_low,
        task >> 32,
    ];
    let bytes: Vec<u8> = descriptors.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect();
    memory.write(page.address(), &bytes)?;
    // Only RSP0 matters (offset 4), and that there is no I/O permission map (offset 102).
    memory.write(page.address() + TASK_STATE + 4, &exception_stack(page).to_le_bytes())?;
    memory.write(page.address() + TASK_STATE + 102, &(TASK_STATE_SIZE as u16).to_le_bytes())
}

/// Top of a vCPU's exception stack.
fn exception_stack(page: PageIndex) -> u64 {
    supervisor(page) + pages::PAGE_SIZE
}

/// The guest-physical address of a frame of `length` bytes, if it lies on the exception stack.
pub(crate) fn exception_frame(page: PageIndex, stack_pointer: u64, length: u64) -> Option<GuestPhysical> {
    let offset = stack_pointer.checked_sub(supervisor(page))?;
    let last = pages::PAGE_SIZE.checked_sub(length)?;
    (TASK_STATE + TASK_STATE_SIZE..=last).contains(&offset).then(|| page.address() + offset)
}

fn segment(selector: u16, kind: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: (selector & 3) as u8,
        db: u8::from(!long && kind & 8 != 0),
        s: 1,
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_SCE: u64 = 1;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// System registers of a vCPU at CPL3, on top of what KVM reported for a fresh one.
pub(crate) fn user_system_registers(fresh: &kvm_sregs, root: GuestPhysical, page: PageIndex) -> kvm_sregs {
    let data = segment(USER_DATA, 3, false);
    kvm_sregs {
        cs: segment(USER_CODE, 11, true),
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        tr: kvm_segment {
            base: supervisor(page) + TASK_STATE,
            limit: (TASK_STATE_SIZE - 1) as u32,
            selector: TASK,
            type_: 11,
            present: 1,
            s: 0,
            g: 0,
            ..kvm_segment::default()
        },
        ldt: kvm_segment { type_: 2, unusable: 1, ..kvm_segment::default() },
        gdt: kvm_dtable { base: supervisor(page), limit: 79, ..kvm_dtable::default() },
        idt: kvm_dtable {
            base: supervisor(IDT_PAGE),
            limit: (VECTORS * 16 - 1) as u16,
            ..kvm_dtable::default()
        },
        cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG,
        cr2: 0,
        cr3: root.0,
        cr4: CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE,
        efer: EFER_SCE | EFER_LME | EFER_LMA,
        ..*fresh
    }
}

/// As [`user_system_registers`], without OSXSAVE: for a KVM that does not offer XSAVE to its guests.
pub(crate) fn without_xsave(registers: &kvm_sregs) -> kvm_sregs {
    kvm_sregs { cr4: registers.cr4 & !CR4_OSXSAVE, ..*registers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_lies_between_the_task_state_and_the_end_of_the_page() {
        let page = PageIndex(20);
        let top = exception_stack(page);
        // With and without an error code, pushed by the processor onto an empty stack.
        for length in [40, 48] {
            assert_eq!(exception_frame(page, top - length, length), Some(page.address() + (4096 - length)));
            assert_eq!(exception_frame(page, top - length + 8, length), None);
        }
        assert_eq!(exception_frame(page, supervisor(page) + TASK_STATE, 40), None);
        assert_eq!(exception_frame(page, 0, 40), None);
    }

    #[test]
    fn selectors_agree_with_the_descriptor_table_and_star() {
        // sysret loads CS from STAR[63:48] + 16 and SS from + 8 (Intel SDM vol. 2, SYSRET).
        assert_eq!(((star() >> 48) as u16 + 16) | 3, USER_CODE);
        assert_eq!(((star() >> 48) as u16 + 8) | 3, USER_DATA);
        assert_eq!((star() >> 32) as u16 + 8, KERNEL_DATA);
    }
}
