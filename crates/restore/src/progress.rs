//! How far the pieces of work are. Two threads take them, one to map and one to read, each in order, but what the guest waits
//! for first; who has done the second half of one lets its blocks in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guest_memory::Arrivals;
use pages::Block;
use parking_lot::{Condvar, Mutex};

use crate::schedule::Schedule;
use crate::timeline::monotonic_ns;

/// One of the two halves of a piece of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    /// Mapping it.
    Map,
    /// Reading what has a place in it.
    Read,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    #[default]
    Open,
    Taken,
    Done,
}

#[derive(Clone, Copy, Default)]
struct Stages {
    map: Stage,
    read: Stage,
    /// How many blocks are still to be read as wholes.
    huge_left: usize,
}

impl Stages {
    fn of(&mut self, half: Half) -> &mut Stage {
        match half {
            Half::Map => &mut self.map,
            Half::Read => &mut self.read,
        }
    }

    fn is_done(self) -> bool {
        self.map == Stage::Done && self.read == Stage::Done && self.huge_left == 0
    }
}

/// What the threads share.
pub(crate) struct Progress {
    schedule: Schedule,
    arrivals: Arc<Arrivals>,
    state: Mutex<State>,
    changed: Condvar,
    /// CLOCK_MONOTONIC when the last block was in, 0 before.
    complete_at_ns: AtomicU64,
}

struct State {
    stages: Vec<Stages>,
    /// Which of the schedule's whole blocks somebody has taken.
    huge_taken: Vec<bool>,
    /// Nothing more will be done.
    stopped: bool,
}

impl State {
    /// Takes the first of `pieces` whose `half` nobody has taken.
    fn take(&mut self, half: Half, pieces: impl IntoIterator<Item = usize>) -> Option<usize> {
        for index in pieces {
            if let Some(stage) = self.stages.get_mut(index).map(|stages| stages.of(half))
                && *stage == Stage::Open
            {
                *stage = Stage::Taken;
                return Some(index);
            }
        }
        None
    }
}

impl Progress {
    /// Nothing of `schedule` has been done; `arrivals` hears of what is.
    pub fn new(schedule: Schedule, arrivals: Arc<Arrivals>) -> Self {
        let stages = schedule.units.iter().map(|unit| Stages {
            read: if unit.has_content() { Stage::Open } else { Stage::Done },
            map: Stage::Open,
            huge_left: unit.huge,
        });
        let (stages, huge_taken) = (stages.collect(), vec![false; schedule.huge.len()]);
        Self {
            state: Mutex::new(State { stages, huge_taken, stopped: false }),
            schedule,
            arrivals,
            changed: Condvar::new(),
            complete_at_ns: AtomicU64::new(0),
        }
    }

    /// The work.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The next of the pieces that are mapped before the guest runs, which is the caller's then; `None` when there is none.
    pub fn take_first(&self) -> Option<usize> {
        self.state.lock().take(Half::Map, 0..self.schedule.first)
    }

    /// The next piece whose `half` is to be done, which is the caller's then; `None` when there is none.
    pub fn take(&self, half: Half) -> Option<usize> {
        let wanted = self.arrivals.wanted();
        let mut state = self.state.lock();
        if state.stopped {
            return None;
        }
        let wanted = wanted.into_iter().map(|block| self.schedule.unit_of(block));
        state.take(half, wanted.chain(0..self.schedule.units.len()))
    }

    /// The same, once it can't be put off any more.
    pub fn take_when_needed(&self, half: Half) -> Option<usize> {
        self.arrivals.wait_for_need();
        self.take(half)
    }

    /// The next block to be read as a whole, by number, with the piece of work that it belongs to; `None` when there is none.
    pub fn take_huge(&self) -> Option<(usize, usize)> {
        let wanted: Vec<usize> =
            self.arrivals.wanted().into_iter().map(|block| self.schedule.unit_of(block)).collect();
        let mut state = self.state.lock();
        if state.stopped {
            return None;
        }
        let mut open = self.schedule.huge.iter().zip(&mut state.huge_taken).filter(|(_, taken)| !**taken);
        let first = open.next()?;
        let (huge, taken) = match wanted.is_empty() || wanted.contains(&first.0.1) {
            true => first,
            false => open.find(|((_, unit), _)| wanted.contains(unit)).unwrap_or(first),
        };
        *taken = true;
        Some(*huge)
    }

    /// A block of the piece `unit` has been read as a whole.
    pub fn done_huge(&self, unit: usize) {
        self.change(unit, |stages| stages.huge_left = stages.huge_left.saturating_sub(1));
    }

    /// A half that was taken is done.
    pub fn done(&self, half: Half, index: usize) {
        self.change(index, |stages| *stages.of(half) = Stage::Done);
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Stages)) {
        let mut state = self.state.lock();
        let Some(stages) = state.stages.get_mut(index) else { return };
        change(stages);
        let is_in = stages.is_done();
        let all = state.stages.iter().all(|stages| stages.is_done());
        drop(state);
        if is_in && let Some(unit) = self.schedule.units.get(index) {
            self.arrivals.arrived(&unit.blocks);
        }
        if all {
            self.complete_at_ns.store(monotonic_ns(), Ordering::Release);
        }
        self.changed.notify_all();
    }

    /// Nothing more is done; whoever waits for it is told.
    pub fn stop(&self, reason: Option<String>) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
        if !self.arrivals.is_complete() {
            self.arrivals.lose(reason);
        }
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Waits until `ready` holds of every piece in `which`; `false` when that will never be.
    fn wait(&self, which: impl Fn(usize) -> bool, ready: impl Fn(Stages) -> bool) -> bool {
        let mut state = self.state.lock();
        loop {
            let mut chosen = state.stages.iter().enumerate().filter(|(index, _)| which(*index));
            if chosen.all(|(_, stages)| ready(*stages)) {
                return true;
            }
            if state.stopped {
                return false;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits until the piece `index` is in; `false` when it will never be.
    pub fn wait_until_in(&self, index: usize) -> bool {
        self.wait(|one| one == index, Stages::is_done)
    }

    /// Waits until what `blocks` belong to is mapped; `false` when it will never be.
    pub fn wait_until_mapped(&self, blocks: impl IntoIterator<Item = Block>) -> bool {
        let indices: Vec<usize> = blocks.into_iter().map(|block| self.schedule.unit_of(block)).collect();
        self.wait(|one| indices.contains(&one), |stages| stages.map == Stage::Done)
    }

    /// Whether everything is mapped.
    pub fn is_all_mapped(&self) -> bool {
        self.state.lock().stages.iter().all(|stages| stages.map == Stage::Done)
    }

    /// Waits until everything is mapped; `false` when it will never be.
    pub fn wait_until_all_mapped(&self) -> bool {
        self.wait(|_| true, |stages| stages.map == Stage::Done)
    }

    /// CLOCK_MONOTONIC when the last block was in, once it is.
    pub fn complete_at_ns(&self) -> Option<u64> {
        Some(self.complete_at_ns.load(Ordering::Acquire)).filter(|at| *at != 0)
    }

    /// The blocks that are still to come.
    pub fn coming(&self) -> Vec<Block> {
        self.arrivals.coming()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loading_set::Piece;
    use crate::placement::Placement;
    use crate::plan::RestorePlan;
    use crate::schedule::Late;

    fn progress() -> (Progress, Arc<Arrivals>) {
        let blocks: Vec<Block> = (2..6).map(Block).collect();
        let late = Late { blocks: &blocks, first: &blocks };
        let mut schedule = Schedule::new(&RestorePlan::default(), &Placement::default(), &[], late);
        for unit in schedule.units.iter_mut().skip(2) {
            unit.chunks.push(0);
        }
        let arrivals = Arc::new(Arrivals::new(blocks));
        (Progress::new(schedule, arrivals.clone()), arrivals)
    }

    #[test]
    fn a_block_is_in_when_both_halves_are_done() {
        let (progress, arrivals) = progress();
        assert_eq!([progress.take(Half::Map), progress.take(Half::Map)], [Some(0), Some(1)]);
        progress.done(Half::Map, 0);
        assert!(progress.wait_until_in(0));
        progress.done(Half::Map, 1);
        assert_eq!(arrivals.coming(), [Block(3), Block(4), Block(5)], "nothing has to be read for the first");
        assert_eq!(progress.take(Half::Read), Some(2));
        assert_eq!(progress.take(Half::Map), Some(2));
        progress.done(Half::Read, 2);
        assert!(arrivals.coming().contains(&Block(3)));
        progress.done(Half::Map, 2);
        assert!(progress.wait_until_mapped([Block(3), Block(2), Block(0)]));
        assert_eq!(arrivals.coming(), [Block(4), Block(5)]);
    }

    #[test]
    fn what_is_needed_first_is_mapped_before_and_the_rest_when_it_is_needed() {
        let blocks: Vec<Block> = (2..6).map(Block).collect();
        let late = Late { blocks: &blocks, first: &[Block(4)] };
        let pieces = [vec![Piece { range: Block(2).pages(), offset: 0 }]];
        let schedule = Schedule::new(&RestorePlan::default(), &Placement::default(), &pieces, late);
        let arrivals = Arc::new(Arrivals::new(blocks.clone()));
        let progress = Arc::new(Progress::new(schedule, arrivals.clone()));
        assert_eq!(
            [progress.take_first(), progress.take_first(), progress.take_first()],
            [Some(0), Some(1), None]
        );
        let taking = {
            let progress = progress.clone();
            std::thread::spawn(move || progress.take_when_needed(Half::Map))
        };
        arrivals.guest_left();
        assert_eq!(taking.join().unwrap(), Some(2));
        progress.stop(None);
        assert_eq!(progress.take_when_needed(Half::Map), None);
    }

    #[test]
    fn a_block_that_is_read_as_a_whole_is_in_when_that_is_done_too() {
        let blocks: Vec<Block> = (2..6).map(Block).collect();
        let late = Late { blocks: &blocks, first: &blocks };
        let mut schedule = Schedule::new(&RestorePlan::default(), &Placement::default(), &[], late);
        // Of two in the first piece both are waited for.
        schedule.read_whole([Block(5), Block(0), Block(3), Block(1)].into_iter());
        assert_eq!(schedule.huge, [(1, 0), (3, 0), (2, 2), (0, 4)]);
        let arrivals = Arc::new(Arrivals::new(blocks));
        let progress = Progress::new(schedule, arrivals.clone());
        for unit in 0..5 {
            progress.done(Half::Map, unit);
        }
        assert_eq!(arrivals.coming(), [Block(3), Block(5)]);
        assert_eq!(progress.take_huge(), Some((1, 0)));
        let waiting = {
            let arrivals = arrivals.clone();
            std::thread::spawn(move || arrivals.wait([Block(5)]))
        };
        while arrivals.wanted().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(progress.take_huge(), Some((0, 4)), "what is waited for");
        progress.done_huge(4);
        assert_eq!(waiting.join().unwrap(), Ok(true));
        assert_eq!([progress.take_huge(), progress.take_huge()], [Some((3, 0)), Some((2, 2))]);
        assert_eq!(progress.take_huge(), None);
        progress.done_huge(0);
        assert!(!progress.state.lock().stages[0].is_done());
        progress.done_huge(0);
        assert!(progress.wait_until_in(0) && progress.complete_at_ns().is_none());
        progress.done_huge(2);
        assert!(arrivals.is_complete() && progress.complete_at_ns().is_some());
    }

    #[test]
    fn what_is_waited_for_is_taken_next() {
        let (progress, arrivals) = progress();
        let waiting = {
            let arrivals = arrivals.clone();
            std::thread::spawn(move || arrivals.wait([Block(5)]))
        };
        while arrivals.wanted().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(progress.take(Half::Read), Some(4));
        assert_eq!(progress.take(Half::Map), Some(4));
        assert_eq!(progress.take(Half::Map), Some(0), "then in order again");
        progress.done(Half::Map, 4);
        progress.done(Half::Read, 4);
        assert_eq!(waiting.join().unwrap(), Ok(true));
    }

    #[test]
    fn who_waits_for_what_is_stopped_is_told() {
        let (progress, arrivals) = progress();
        progress.stop(Some("broken".to_owned()));
        assert_eq!(progress.take(Half::Map), None);
        assert!(!progress.wait_until_all_mapped() && !progress.wait_until_in(1));
        assert_eq!(arrivals.loss().as_deref(), Some("broken"));
        assert_eq!(progress.complete_at_ns(), None);
    }
}
