//! A virtual machine with what an operating system expects of a PC: interrupt controllers, timers, port and memory-mapped
//! devices, processors that start in any mode and whose whole state can be saved.
//!
//! It needs hardware KVM: software KVM emulates what runs at CPL0, too slowly and not completely.

mod cpuid;
mod flat;
mod state;
mod vcpu;

use std::sync::Arc;

use guest_memory::GuestMemory;
use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY,
    kvm_irqchip, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, VmFd};
use pages::PageRange;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use state::{SystemState, VcpuState};
pub use vcpu::{Bus, SystemExit, SystemVcpu};

use crate::error::{MachineError, during};
use crate::kick;
use crate::vm::{Kvm, is_software};

/// Three pages that Intel's processors need for real mode, in the hole below 4 GiB (Documentation/virt/kvm/api.rst,
/// KVM_SET_TSS_ADDR).
const TSS_ADDRESS: usize = 0xfffb_d000;

/// Whether this machine's KVM is software only, and so can't run an operating system at a usable speed.
pub fn is_software_only() -> bool {
    is_software()
}

/// An empty virtual machine: what can be made before it is known what will run in it.
#[derive(Debug)]
pub struct SystemVm {
    vm: VmFd,
    cpuid: CpuId,
    /// The model-specific registers whose values a snapshot has to keep.
    msrs: Vec<u32>,
}

/// A virtual machine with memory, interrupt controllers and timers.
#[derive(Debug)]
pub struct FurnishedVm {
    vm: VmFd,
    /// The slots point into it.
    memory: Arc<GuestMemory>,
    cpuid: CpuId,
    /// The model-specific registers whose values a snapshot has to keep.
    msrs: Vec<u32>,
}

/// A line of the interrupt controller; cheap to clone. Raising it makes one edge.
#[derive(Debug)]
pub struct Interrupt(EventFd);

impl Interrupt {
    /// Raises it.
    pub fn raise(&self) {
        // Fails only when the counter is full, and then the interrupt is pending anyway.
        let _ = self.0.write(1);
    }

    /// An interrupt that nobody listens to, for devices under test.
    ///
    /// # Errors
    /// [`MachineError::EventFd`].
    pub fn unconnected() -> Result<Self, MachineError> {
        EventFd::new(EFD_NONBLOCK).map(Self).map_err(MachineError::EventFd)
    }

    /// Whether it was raised since the last call; for tests of devices.
    pub fn take(&self) -> bool {
        self.0.read().is_ok()
    }
}

impl SystemVm {
    /// Makes one.
    ///
    /// # Errors
    /// [`MachineError::SoftwareOnly`]; [`MachineError::Missing`]; [`MachineError::Ioctl`].
    pub fn new(kvm: &Kvm) -> Result<Self, MachineError> {
        if is_software_only() {
            return Err(MachineError::SoftwareOnly);
        }
        for (capability, what) in [
            (Cap::Irqchip, "interrupt controllers"),
            (Cap::Irqfd, "interrupts from descriptors"),
            (Cap::Pit2, "an interval timer"),
            (Cap::AdjustClock, "a clock that can be set"),
        ] {
            if !kvm.device.check_extension(capability) {
                return Err(MachineError::Missing { what });
            }
        }
        kick::install_handler()?;
        let vm = kvm.device.create_vm().map_err(during("KVM_CREATE_VM"))?;
        let list = kvm.device.get_msr_index_list().map_err(during("KVM_GET_MSR_INDEX_LIST"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(during("KVM_SET_TSS_ADDR"))?;
        Ok(Self { vm, cpuid: kvm.cpuid.clone(), msrs: list.as_slice().to_vec() })
    }

    /// Gives it its devices, and `ranges` of `memory` as its guest-physical memory.
    ///
    /// # Errors
    /// [`MachineError::Missing`]; [`MachineError::Ioctl`].
    pub fn furnish(
        self,
        memory: Arc<GuestMemory>,
        ranges: &[PageRange],
    ) -> Result<FurnishedVm, MachineError> {
        let Self { vm, cpuid, msrs } = self;
        let this = FurnishedVm { vm, memory, cpuid, msrs };
        // Before the controllers: with them there, each slot waits for a grace period of the host kernel.
        for (slot, range) in ranges.iter().enumerate() {
            this.set_slot(slot as u32, *range)?;
        }
        this.vm.create_irq_chip().map_err(during("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        this.vm.create_pit2(pit).map_err(during("KVM_CREATE_PIT2"))?;
        Ok(this)
    }
}

impl FurnishedVm {
    fn set_slot(&self, slot: u32, range: PageRange) -> Result<(), MachineError> {
        let address = range.start.address();
        let inside = range.end().0 <= self.memory.reserved().0;
        if !inside {
            return Err(MachineError::Missing { what: "room in the reservation for this memory" });
        }
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: address.0,
            memory_size: range.count.bytes(),
            userspace_addr: self.memory.host_address(address),
        };
        // SAFETY: the region lies inside the reservation, which lives as long as the virtual machine (both are held by
        // `Self`); no Rust reference into it exists.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(during("KVM_SET_USER_MEMORY_REGION"))
    }

    /// Makes processor number `id` of `count`.
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn create_vcpu(&self, id: u8, count: u8) -> Result<SystemVcpu, MachineError> {
        let vcpu = self.vm.create_vcpu(u64::from(id)).map_err(during("KVM_CREATE_VCPU"))?;
        let deadline_timer = self.vm.check_extension(Cap::TscDeadlineTimer);
        let cpuid = cpuid::of_processor(&self.cpuid, id, count, deadline_timer)?;
        SystemVcpu::new(vcpu, &cpuid, &self.msrs)
    }

    /// Connects a line of the interrupt controller.
    ///
    /// # Errors
    /// [`MachineError::EventFd`], [`MachineError::Ioctl`].
    pub fn interrupt(&self, line: u32) -> Result<Interrupt, MachineError> {
        let interrupt = Interrupt::unconnected()?;
        self.vm.register_irqfd(&interrupt.0, line).map_err(during("KVM_IRQFD"))?;
        Ok(interrupt)
    }

    /// The state of everything but processors and memory. No processor may run.
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn save(&self) -> Result<SystemState, MachineError> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            self.vm.get_irqchip(&mut chip).map_err(during("KVM_GET_IRQCHIP"))?;
            Ok::<_, MachineError>(chip)
        };
        Ok(SystemState {
            pic_master: chip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: chip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: chip(KVM_IRQCHIP_IOAPIC)?,
            pit: self.vm.get_pit2().map_err(during("KVM_GET_PIT2"))?,
            clock: self.vm.get_clock().map_err(during("KVM_GET_CLOCK"))?,
        })
    }

    /// Takes over saved state; the guest's clock goes on from where it was.
    ///
    /// # Errors
    /// [`MachineError::Ioctl`] when KVM finds it invalid.
    pub fn restore(&self, state: &SystemState) -> Result<(), MachineError> {
        for chip in [&state.pic_master, &state.pic_slave, &state.ioapic] {
            self.vm.set_irqchip(chip).map_err(during("KVM_SET_IRQCHIP"))?;
        }
        self.vm.set_pit2(&state.pit).map_err(during("KVM_SET_PIT2"))?;
        let mut clock = state.clock;
        // Only the time itself: what the flags say (that it is stable, the host's time) is of the machine that saved it.
        clock.flags = 0;
        self.vm.set_clock(&clock).map_err(during("KVM_SET_CLOCK"))
    }
}
