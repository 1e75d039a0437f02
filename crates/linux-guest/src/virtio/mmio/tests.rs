//! A hostile driver: anything in any register, in any order, over any memory.

use std::sync::Arc;
use std::sync::mpsc::channel;

use guest_memory::{GuestMemory, Protection, Source};
use pages::{PageCount, PageIndex, PageRange};
use proptest::prelude::*;
use rustix::event::epoll;
use vm_memory::{Bytes, GuestAddress};

use super::super::{Block, Disk, DiskAccess, Entropy, HostSide, Vsock, stream};
use super::*;

const PAGES: u64 = 16;

fn memory() -> MemoryView {
    let memory = Arc::new(GuestMemory::reserve(PageCount(PAGES)).unwrap());
    let range = PageRange::new(PageIndex(0), PageCount(PAGES));
    memory.map(range, Source::Anonymous, Protection::ReadWrite).unwrap();
    MemoryView::new(&memory, &[range]).unwrap()
}

fn devices(memory: &MemoryView) -> Vec<MmioDevice> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 10).unwrap();
    let block = Block::new(Disk { file, access: DiskAccess::ReadWrite }).unwrap();
    let events = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
    let (_, dialled) = channel();
    let host = HostSide { accept: Box::new(|_| stream().ok().map(|(near, _)| near)), dialled };
    let all: Vec<Box<dyn Device>> =
        vec![Box::new(block), Box::new(Entropy), Box::new(Vsock::new(host, events))];
    all.into_iter()
        .map(|device| MmioDevice::new(device, memory.clone(), Interrupt::unconnected().unwrap()).unwrap())
        .collect()
}

/// Sets a device up as a good driver does: queue `n` has its rings in pages `3n`, `3n + 1` and `3n + 2`.
fn start(device: &mut MmioDevice, queues: u32, size: u32) {
    let mut write = |offset: u64, value: u32| device.write(offset, &value.to_le_bytes());
    for status in [1, 3] {
        write(0x70, status);
    }
    write(0x24, 1);
    write(0x20, 1);
    write(0x70, 11);
    for queue in 0..queues {
        write(0x30, queue);
        write(0x38, size);
        for (offset, page) in [(0x80, 3 * queue), (0x90, 3 * queue + 1), (0xa0, 3 * queue + 2)] {
            write(offset, page << 12);
        }
        write(0x44, 1);
    }
    write(0x70, 15);
}

/// Writes a descriptor into the table of queue 0.
fn describe(memory: &MemoryView, index: u64, address: u64, length: u32, flags: u16, next: u16) {
    let bytes =
        [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
            .concat();
    memory.write_slice(&bytes, GuestAddress(index * 16)).unwrap();
}

/// Offers descriptor 0 in queue 0.
fn offer(memory: &MemoryView, count: u16) {
    memory.write_slice(&[0, 0, count as u8, 0, 0, 0], GuestAddress(0x1000)).unwrap();
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;

#[test]
fn a_good_driver_reads_a_sector() {
    let memory = memory();
    let mut device = devices(&memory).remove(0);
    start(&mut device, 1, 8);
    assert_eq!(device.register(0x70), 15);
    describe(&memory, 0, 0xa000, 16, NEXT, 1);
    describe(&memory, 1, 0xb000, 512, NEXT | WRITE, 2);
    describe(&memory, 2, 0xc000, 1, WRITE, 0);
    memory.write_slice(&[0xff], GuestAddress(0xc000)).unwrap();
    offer(&memory, 1);
    device.write(0x50, &0_u32.to_le_bytes());
    assert_eq!((device.register(0x60), device.register(0x70)), (USED, 15));
    assert!(device.interrupt.take());
    let mut used = [0; 12];
    memory.read_slice(&mut used, GuestAddress(0x2000)).unwrap();
    assert_eq!(used, [0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 0, 0]);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0xc000)).unwrap(), 0);
}

#[test]
fn what_was_saved_is_taken_over() {
    let memory = memory();
    let mut device = devices(&memory).remove(1);
    start(&mut device, 1, 8);
    let saved = device.save();
    let mut other = devices(&memory).remove(1);
    other.restore(0, &saved).unwrap();
    assert_eq!(other.save(), saved);
    assert!(devices(&memory).remove(0).restore(0, &saved).unwrap_err().to_string().contains("kind"));
}

#[test]
fn a_loop_of_descriptors_ends_the_device_and_a_reset_mends_it() {
    for which in 0..3 {
        let memory = memory();
        let mut device = devices(&memory).remove(which);
        let queues = if which == 2 { 3 } else { 1 };
        start(&mut device, queues, 8);
        describe(&memory, 0, 0xa000, 16, NEXT, 0);
        offer(&memory, 1);
        device.write(0x50, &0_u32.to_le_bytes());
        start(&mut device, queues, 8);
        device.write(0x70, &0_u32.to_le_bytes());
        start(&mut device, queues, 8);
        assert_eq!(device.register(0x70), 15, "{which}");
    }
}

#[test]
fn an_address_outside_memory_breaks_only_the_device() {
    let memory = memory();
    let mut device = devices(&memory).remove(0);
    start(&mut device, 1, 8);
    describe(&memory, 0, u64::MAX - 7, 16, 0, 0);
    offer(&memory, 1);
    device.write(0x50, &0_u32.to_le_bytes());
    assert_ne!(device.register(0x70) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    assert_eq!(device.register(0x60), CHANGED);
}

#[test]
fn queues_are_not_moved_while_the_device_runs() {
    let memory = memory();
    let mut device = devices(&memory).remove(0);
    start(&mut device, 1, 8);
    let before = device.save();
    device.write(0x80, &0x5000_u32.to_le_bytes());
    device.write(0x44, &0_u32.to_le_bytes());
    device.write(0x20, &7_u32.to_le_bytes());
    assert_eq!(device.save(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a driver writes into registers and memory, the device survives and can be reset.
    #[test]
    fn nothing_that_a_driver_does_ends_the_monitor(
        which in 0_usize..3,
        set_up in any::<bool>(),
        size in 0_u32..300,
        memory_bytes in prop::collection::vec((0_u64..PAGES * 4096 - 16, prop::array::uniform16(any::<u8>())), 0..40),
        descriptors in prop::collection::vec((0_u64..8, 0_u64..0x12000, 0_u32..0x2000, 0_u16..8, 0_u16..9), 0..12),
        offered in 0_u16..5,
        accesses in prop::collection::vec((prop_oneof![0_u64..0x110, Just(0x50), Just(0x70), Just(0x44)], prop_oneof![any::<u32>(), 0_u32..16]), 0..40),
    ) {
        let memory = memory();
        let mut device = devices(&memory).remove(which);
        if set_up {
            start(&mut device, if which == 2 { 3 } else { 1 }, size);
        }
        for (address, bytes) in &memory_bytes {
            memory.write_slice(bytes, GuestAddress(*address)).unwrap();
        }
        for (index, address, length, flags, next) in descriptors {
            describe(&memory, index, address, length, flags, next);
        }
        offer(&memory, offered);
        for (offset, value) in accesses {
            device.write(offset, &value.to_le_bytes());
            let mut data = [0; 4];
            device.read(offset, &mut data);
            device.poll();
        }
        let saved = device.save();
        let mut other = devices(&memory).remove(which);
        // State that came about in a device can always be taken over.
        prop_assert!(other.restore(0, &saved).is_ok());
        device.write(0x70, &0_u32.to_le_bytes());
        prop_assert_eq!(device.register(0x70), 0);
    }
}
