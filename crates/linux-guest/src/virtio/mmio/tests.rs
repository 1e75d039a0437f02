//! A good driver is served, a hostile one breaks nothing but its own device.

use vm_memory::{Bytes, GuestAddress};

use super::super::hostile::{Kind, Rig};
use super::*;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

fn rig(kind: Kind) -> Rig {
    let mut rig = Rig::new(kind).unwrap();
    rig.start(8);
    rig
}

#[test]
fn a_good_driver_reads_a_sector() {
    let mut rig = rig(Kind::Block);
    assert_eq!(rig.read(0x70), 15);
    rig.describe(0, 0, 0xa000, 16, NEXT, 1);
    rig.describe(0, 1, 0xb000, 512, NEXT | WRITE, 2);
    rig.describe(0, 2, 0xc000, 1, WRITE, 0);
    rig.memory.write_slice(&[0xff], GuestAddress(0xc000)).unwrap();
    rig.offer(0, 1, 0);
    rig.write(0x50, 0);
    // The disk may answer later; what is saved is never under way.
    rig.device.save();
    assert_eq!((rig.read(0x60), rig.read(0x70)), (USED, 15));
    assert!(rig.device.interrupt.take());
    let mut used = [0; 12];
    rig.memory.read_slice(&mut used, GuestAddress(0x2000)).unwrap();
    assert_eq!(used, [0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 0, 0]);
    assert_eq!(rig.memory.read_obj::<u8>(GuestAddress(0xc000)).unwrap(), 0);
}

/// The head of a block request.
fn block_head(rig: &Rig, at: u64, kind: u32, sector: u64) {
    rig.memory.write_obj(kind.to_le(), GuestAddress(at)).unwrap();
    rig.memory.write_obj(sector.to_le(), GuestAddress(at + 8)).unwrap();
}

#[test]
fn what_a_disk_is_asked_at_once_is_answered_in_order() {
    let mut rig = rig(Kind::Block);
    let (written, read) = (GuestAddress(0xa000), GuestAddress(0xb000));
    rig.memory.write_slice(&[0x5a; 512], written).unwrap();
    rig.memory.write_slice(&[0xff; 3], GuestAddress(0xc000)).unwrap();
    block_head(&rig, 0x9000, 1, 3);
    rig.describe(0, 0, 0x9000, 16, NEXT, 1);
    rig.describe(0, 1, written.0, 512, NEXT, 2);
    rig.describe(0, 2, 0xc000, 1, WRITE, 0);
    block_head(&rig, 0x9100, 4, 0);
    rig.describe(0, 3, 0x9100, 16, NEXT, 4);
    rig.describe(0, 4, 0xc001, 1, WRITE, 0);
    block_head(&rig, 0x9200, 0, 3);
    rig.describe(0, 5, 0x9200, 16, NEXT, 6);
    // Its data and its status in one piece.
    rig.describe(0, 6, read.0, 513, WRITE, 0);
    for (count, head) in [(1, 0), (2, 3), (3, 5)] {
        rig.offer(0, count, head);
    }
    rig.write(0x50, 0);
    rig.device.save();
    let mut content = [0; 513];
    rig.memory.read_slice(&mut content, read).unwrap();
    assert!(content[..512] == [0x5a; 512] && content[512] == 0);
    assert_eq!(rig.memory.read_obj::<[u8; 2]>(GuestAddress(0xc000)).unwrap(), [0, 0]);
    let used: Vec<u32> =
        (0..3).map(|place| rig.memory.read_obj(GuestAddress(0x2004 + 8 * place)).unwrap()).collect();
    assert_eq!(used, [0, 3, 5]);
}

/// Asks a disk to zero or discard ranges (sector, sectors, flags); gives what it says.
fn zeroed(rig: &mut Rig, kind: u32, count: u16, ranges: &[(u64, u32, u32)]) -> u8 {
    let bytes: Vec<u8> = ranges
        .iter()
        .flat_map(|(sector, sectors, flags)| {
            [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
        })
        .collect();
    rig.memory.write_slice(&bytes, GuestAddress(0xa000)).unwrap();
    rig.memory.write_slice(&[0xff], GuestAddress(0xc000)).unwrap();
    block_head(rig, 0x9000, kind, 0);
    rig.describe(0, 0, 0x9000, 16, NEXT, 1);
    rig.describe(0, 1, 0xa000, bytes.len() as u32, NEXT, 2);
    rig.describe(0, 2, 0xc000, 1, WRITE, 0);
    rig.offer(0, count, 0);
    rig.write(0x50, 0);
    rig.device.save();
    rig.memory.read_obj(GuestAddress(0xc000)).unwrap()
}

#[test]
fn ranges_are_zeroed_and_discarded_inside_the_disk_only() {
    const DISCARD: u32 = 11;
    const ZERO: u32 = 13;
    let (fine, failed, unknown) = (0, 1, 2);
    let mut rig = rig(Kind::Block);
    // 64 KiB: 128 sectors. What is no whole block is zeroed all the same; a discard knows no flags.
    let asked = [
        (ZERO, vec![(3, 10, 1), (127, 1, 0)], fine),
        (DISCARD, vec![(0, 128, 0)], fine),
        (DISCARD, vec![(0, 8, 1)], unknown),
        (ZERO, vec![(0, 8, 2)], unknown),
        (ZERO, vec![(0, 8, 0), (128, 1, 0)], failed),
        (ZERO, vec![(u64::MAX, 2, 0)], failed),
        (ZERO, vec![(0, u32::MAX, 0)], failed),
        (ZERO, vec![(0, 1, 0); 17], failed),
        (ZERO, vec![], failed),
    ];
    for (count, (kind, ranges, expected)) in (1..).zip(asked) {
        assert_eq!(zeroed(&mut rig, kind, count, &ranges), expected, "{kind} {ranges:?}");
    }
    let mut shared = self::rig(Kind::ReadOnlyBlock);
    assert_eq!(zeroed(&mut shared, DISCARD, 1, &[(0, 8, 0)]), unknown);
}

#[test]
fn a_reset_waits_for_the_disk_and_nothing_comes_after_it() {
    let mut rig = rig(Kind::Block);
    block_head(&rig, 0x9000, 1, 0);
    rig.describe(0, 0, 0x9000, 16, NEXT, 1);
    rig.describe(0, 1, 0xa000, 4096, NEXT, 2);
    rig.describe(0, 2, 0xc000, 1, WRITE, 0);
    rig.memory.write_slice(&[0xff], GuestAddress(0xc000)).unwrap();
    rig.offer(0, 1, 0);
    rig.write(0x50, 0);
    rig.write(0x70, 0);
    rig.offer(0, 0, 0);
    rig.start(8);
    rig.device.poll();
    assert_eq!(rig.memory.read_obj::<u8>(GuestAddress(0xc000)).unwrap(), 0xff);
}

#[test]
fn free_pages_are_given_back_and_read_as_zeros() {
    let mut rig = rig(Kind::Balloon);
    rig.memory.write_slice(&[0xff; 0x4000], GuestAddress(0xa000)).unwrap();
    // Whole pages of the second run only.
    rig.describe(2, 0, 0xa000, 0x1000, NEXT | WRITE, 1);
    rig.describe(2, 1, 0xb800, 0x2000, WRITE, 0);
    rig.offer(2, 1, 0);
    rig.write(0x50, 2);
    assert_eq!((rig.read(0x60), rig.read(0x70)), (USED, 15));
    let zeros = |page: u64| {
        let mut content = [1; 0x1000];
        rig.memory.read_slice(&mut content, GuestAddress(page)).unwrap();
        content == [0; 0x1000]
    };
    assert_eq!([0xa000, 0xb000, 0xc000, 0xd000].map(zeros), [true, false, true, false]);
}

#[test]
fn what_was_saved_is_taken_over_by_the_same_kind_only() {
    let saved = rig(Kind::Entropy).device.save();
    let mut other = Rig::new(Kind::Entropy).unwrap();
    other.device.restore(0, &saved).unwrap();
    assert_eq!(other.device.save(), saved);
    let refused = Rig::new(Kind::Block).unwrap().device.restore(0, &saved);
    assert!(refused.unwrap_err().to_string().contains("kind"));
}

#[test]
fn an_interrupt_that_the_guest_has_not_noticed_is_raised_anew_after_a_restore() {
    let mut rig = rig(Kind::Entropy);
    let interrupted = |rig: &mut Rig| {
        let mut restored = Rig::new(Kind::Entropy).unwrap();
        restored.device.restore(0, &rig.device.save()).unwrap();
        restored.device.interrupt.take()
    };
    assert!(!interrupted(&mut rig));
    rig.describe(0, 0, 0xa000, 16, WRITE, 0);
    rig.offer(0, 1, 0);
    rig.write(0x50, 0);
    assert!(interrupted(&mut rig));
    rig.write(0x64, USED);
    assert!(!interrupted(&mut rig));
}

#[test]
fn a_loop_of_descriptors_ends_the_device_and_a_reset_mends_it() {
    for kind in Kind::ALL {
        let mut rig = rig(kind);
        for queue in 0..kind.queues() {
            rig.describe(queue, 0, 0xa000, 16, NEXT, 0);
            rig.offer(queue, 1, 0);
            rig.write(0x50, queue);
        }
        rig.start(8);
        rig.write(0x70, 0);
        rig.start(8);
        assert_eq!(rig.read(0x70), 15, "{kind:?}");
    }
}

#[test]
fn an_address_outside_memory_breaks_only_the_device() {
    let mut rig = rig(Kind::Block);
    rig.describe(0, 0, u64::MAX - 7, 16, 0, 0);
    rig.offer(0, 1, 0);
    rig.write(0x50, 0);
    assert_ne!(rig.read(0x70) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    assert_eq!(rig.read(0x60), CHANGED);
}

#[test]
fn queues_are_not_moved_while_the_device_runs() {
    let mut rig = rig(Kind::Block);
    let before = rig.device.save();
    rig.write(0x80, 0x5000);
    rig.write(0x44, 0);
    rig.write(0x20, 7);
    assert_eq!(rig.device.save(), before);
}

/// The next of a row of numbers that looks random and is always the same (xorshift64*, Marsaglia and Vigna).
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// The same programs each time; `fuzz/` looks for others.
#[test]
fn nothing_that_a_driver_does_ends_the_monitor() {
    for kind in Kind::ALL {
        for seed in 1..=1500_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let length = next(&mut state) % 600;
            let mut program: Vec<u8> = (0..length).map(|_| (next(&mut state) >> 56) as u8).collect();
            if seed % 4 != 0 {
                // Most begin with a device that is set up, as deep as it takes to reach the queues.
                program.splice(0..0, [1, 8]);
            }
            Rig::new(kind)
                .unwrap()
                .run(&program)
                .unwrap_or_else(|problem| panic!("{kind:?} {seed}: {problem}"));
        }
    }
}
