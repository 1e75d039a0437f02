//! What each KVM object of a guest costs, and what an interrupt controller, which a process guest does without, would.
//!
//!     cargo run --release -p machine --example kvm_objects
//!
//! Each line is the median of as many virtual machines as [`TIMES`] says, in microseconds; a machine's end is included, as it is
//! part of what a worker costs.
// A figure that can't be had is a reason to end.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::Kvm;

/// Virtual machines that are made of each kind.
const TIMES: usize = 21;
/// Guest memory of the first slot.
const MEMORY: usize = 256 << 20;

/// Which interrupt controller a machine gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Controller {
    None,
    Split,
    Full,
}

/// The steps' names and how long each took, in order.
struct Steps(Vec<(&'static str, f64)>);

impl Steps {
    fn take<T>(&mut self, name: &'static str, step: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = step();
        self.0.push((name, start.elapsed().as_secs_f64() * 1e6));
        value
    }
}

/// Makes a machine as a process guest does, with `controller` besides, and ends it.
fn machine(memory: *mut libc::c_void, controller: Controller) -> Steps {
    let mut steps = Steps(Vec::new());
    let kvm = steps.take("/dev/kvm opened", || Kvm::new().unwrap());
    let cpuid = steps.take("CPUID asked for", || kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap());
    let vm = steps.take("KVM_CREATE_VM", || kvm.create_vm().unwrap());
    match controller {
        Controller::None => {}
        Controller::Split => steps.take("split interrupt controller", || {
            let args = [24, 0, 0, 0];
            vm.enable_cap(&kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args, ..Default::default() })
                .unwrap();
        }),
        Controller::Full => steps.take("KVM_CREATE_IRQCHIP", || vm.create_irq_chip().unwrap()),
    }
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory as u64,
    };
    // SAFETY: the memory stays mapped until the program ends, longer than the machine.
    steps.take("slot of 256 MiB", || unsafe { vm.set_user_memory_region(region) }.unwrap());
    let vcpu = steps.take("KVM_CREATE_VCPU", || vm.create_vcpu(0).unwrap());
    steps.take("KVM_SET_CPUID2", || vcpu.set_cpuid2(&cpuid).unwrap());
    let sregs = steps.take("KVM_GET_SREGS", || vcpu.get_sregs().unwrap());
    steps.take("KVM_SET_SREGS", || vcpu.set_sregs(&sregs).unwrap());
    steps.take("ended", || drop((vcpu, vm, kvm)));
    steps
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let modules = std::fs::read_dir("/sys/module").unwrap();
    let names = modules.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    println!("modules: {}", names.filter(|name| name.starts_with("kvm")).collect::<Vec<_>>().join(" "));
    // SAFETY: a new private mapping at an address of the kernel's choice.
    let memory = unsafe {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), MEMORY, protection, flags | libc::MAP_NORESERVE, -1, 0)
    };
    assert_ne!(memory, libc::MAP_FAILED);
    let kinds = [
        ("no interrupt controller", Controller::None),
        ("split", Controller::Split),
        ("full", Controller::Full),
    ];
    for (title, controller) in kinds {
        let runs: Vec<Steps> = (0..TIMES).map(|_| machine(memory, controller)).collect();
        println!("\n{title}, us:");
        for (at, (name, _)) in runs[0].0.iter().enumerate() {
            println!("  {name:28} {:9.1}", median(runs.iter().map(|run| run.0[at].1).collect()));
        }
        let total = runs.iter().map(|run| run.0.iter().map(|step| step.1).sum()).collect();
        println!("  {:28} {:9.1}", "all of them", median(total));
    }
}
