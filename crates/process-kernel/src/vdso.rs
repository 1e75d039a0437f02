//! The vDSO: clocks without leaving guest code.
//!
//! The image (vdso/vdso.rs) and, right below it, one data page are mapped into every program. The worker writes the page
//! when a program starts, when a guest is restored, and every second in between; the guest computes the time from it and
//! the processor's time-stamp counter.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pages::PAGE_SIZE;
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::clock::Clock;
use crate::host;
use crate::mm::{Access, Backing, MapRequest, Mm, Placement, layout};
use crate::task::Process;

static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.so"));

/// How often the data page is written while the guest runs.
const PERIOD: Duration = Duration::from_secs(1);
/// A difference between counter and clock that is not corrected smoothly: the clock was set, or the machine slept.
const LARGEST_ERROR: u64 = 10_000_000;

/// The base that the guest computes from; in the data page behind the 8 bytes of the sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Base {
    tsc: u64,
    monotonic: u64,
    realtime_offset: u64,
    /// Nanoseconds per tick, 32.32 fixed point; 0: ask the worker.
    multiplier: u64,
}

impl Base {
    fn at(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.tsc));
        self.monotonic.wrapping_add(((ticks * u128::from(self.multiplier)) >> 32) as u64)
    }

    /// The base for the time from `tsc` on, at which the clock reads `monotonic`: never behind what the old base says, and
    /// aiming at the clock within the next [`PERIOD`].
    fn next(&self, tsc: u64, monotonic: u64, realtime_offset: u64, rate: u64) -> Self {
        let shown = self.at(tsc);
        let ahead = shown.saturating_sub(monotonic);
        if self.multiplier == 0 || ahead > LARGEST_ERROR {
            return Self { tsc, monotonic, realtime_offset, multiplier: rate };
        }
        let slowed = u128::from(rate) * (1_000_000_000 - u128::from(ahead)) / 1_000_000_000;
        Self { tsc, monotonic: shown.max(monotonic), realtime_offset, multiplier: slowed as u64 }
    }
}

/// The state from which the data page is written.
#[derive(Debug)]
pub struct VdsoClock {
    /// Ticks per millisecond of the guest's counter; `None` when it does not run as the host's.
    khz: Option<u32>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sequence: u32,
    base: Base,
    /// The first pair of counter and clock, from which the rate is measured ever more exactly.
    first: Option<(u64, u64)>,
}

impl VdsoClock {
    /// A clock for a counter with `khz` ticks per millisecond.
    pub fn new(khz: Option<u32>) -> Self {
        Self { khz: khz.filter(|khz| *khz > 0), state: Mutex::default() }
    }

    /// Writes the data page of the vDSO at `image` (0: there is none).
    pub fn refresh(&self, mm: &Mm, clock: &Clock, image: u64) {
        if image == 0 {
            return;
        }
        let mut state = self.state.lock();
        if let Some(khz) = self.khz {
            let (tsc, monotonic) = sample(clock);
            let (first_tsc, first_monotonic) = *state.first.get_or_insert((tsc, monotonic));
            let elapsed = monotonic.saturating_sub(first_monotonic);
            // Once there are seconds to measure over, the measured rate is better than KVM's rounded one.
            let rate = if elapsed > 2_000_000_000 && tsc > first_tsc {
                ((u128::from(elapsed) << 32) / u128::from(tsc - first_tsc)) as u64
            } else {
                ((1_000_000_u128 << 32) / u128::from(khz)) as u64
            };
            let offset = clock.realtime().wrapping_sub(clock.monotonic());
            state.base = state.base.next(tsc, monotonic, offset, rate);
        }
        let page = image - PAGE_SIZE;
        let sequence = state.sequence;
        state.sequence = sequence.wrapping_add(2);
        let base = state.base;
        // The page is mapped as long as the program doesn't unmap it; then nobody reads it either.
        let _ = mm.write(page, &(sequence + 1).to_le_bytes());
        let words = [base.tsc, base.monotonic, base.realtime_offset, base.multiplier];
        let _ = mm.write(page + 8, bytemuck::cast_slice(&words));
        let _ = mm.write(page, &state.sequence.to_le_bytes());
    }
}

/// The counter and guest-monotonic time at the same moment: the tightest of a few tries.
fn sample(clock: &Clock) -> (u64, u64) {
    let mut best = (u64::MAX, (0, 0));
    for _ in 0..3 {
        let before = host::time_stamp();
        let monotonic = clock.monotonic();
        let width = host::time_stamp().saturating_sub(before);
        if width < best.0 {
            best = (width, (before + width / 2, monotonic));
        }
    }
    best.1
}

/// Maps the image and its data page; returns the image's address.
///
/// # Errors
/// ENOMEM and the like.
pub(crate) fn install(mm: &Mm) -> Result<u64, Errno> {
    let size = (IMAGE.len() as u64).next_multiple_of(PAGE_SIZE);
    let map = |placement, length, name, access| {
        mm.map(MapRequest { placement, length, access, backing: Backing::Anonymous, name })
    };
    // Both at once, so that the data page is right below; then the image's part gets its name and rights.
    // The data page stays writable: the host mapping lets the worker and the guest through alike, and a guest that writes
    // it deceives only itself.
    let both = Access::READ | Access::WRITE;
    let data = map(Placement::Hint(layout::VDSO_HINT), PAGE_SIZE + size, "[vvar]", both)?;
    let image = data + PAGE_SIZE;
    map(Placement::Fixed(image), size, "[vdso]", both)?;
    mm.write(image, IMAGE)?;
    mm.protect(image, size, Access::READ | Access::EXECUTE)?;
    Ok(image)
}

/// Writes the data page every second until the process is gone.
pub(crate) fn keep_fresh(process: &Arc<Process>) {
    let process: Weak<Process> = Arc::downgrade(process);
    let ticking =
        std::thread::Builder::new().name("vdso-clock".to_owned()).stack_size(64 << 10).spawn(move || {
            loop {
                std::thread::sleep(PERIOD);
                let Some(process) = process.upgrade().filter(|process| process.exit_status().is_none())
                else {
                    return;
                };
                process.refresh_vdso();
            }
        });
    if let Err(error) = ticking {
        tracing::warn!(%error, "the vDSO's clock is not kept fresh: it may drift by microseconds a second");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_a_shared_object_with_the_functions_that_c_libraries_look_for() {
        let elf = goblin::elf::Elf::parse(IMAGE).unwrap();
        let names: Vec<&str> =
            elf.dynsyms.iter().filter_map(|symbol| elf.dynstrtab.get_at(symbol.st_name)).collect();
        for name in ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu"] {
            assert!(names.contains(&name), "{name} is missing in {names:?}");
        }
        for header in &elf.program_headers {
            assert_eq!(header.p_vaddr, header.p_offset, "the image is mapped whole: {header:?}");
        }
        assert!(elf.dynrels.is_empty() && elf.dynrelas.is_empty() && elf.pltrelocs.is_empty());
    }

    #[test]
    fn shown_time_never_goes_back_and_approaches_the_clock() {
        let rate = 1 << 32;
        let base = Base::default().next(1000, 5000, 0, rate);
        assert_eq!(base.at(1500), 5500);
        // Rounded down; the counter ran 100 ns ahead of the clock within a second.
        let later = base.next(1_000_001_000, 1_000_004_900, 0, rate);
        assert_eq!(later.at(1_000_001_000), base.at(1_000_001_000));
        assert!(later.multiplier < rate);
        assert_eq!(later.at(2_000_001_000), 2_000_004_899);
        // The clock is ahead: time steps forward.
        assert_eq!(base.next(2000, 9000, 0, rate).at(2000), 9000);
    }
}
