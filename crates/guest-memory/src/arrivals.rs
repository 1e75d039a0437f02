//! Blocks of guest memory that come in while the guest runs already, and those who wait for them.
//!
//! A block that is still to come is hidden from the guest (its own page tables have no entry for it), and whoever touches
//! guest memory on the guest's behalf waits here first. A block comes in once, as a whole, and never goes out again. Who
//! brings blocks in never waits for anything that those who wait here may hold.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pages::Block;
use parking_lot::{Condvar, Mutex};
use thiserror::Error;

use crate::copy::AccessError;

/// Shows a block that has come in to the guest. Called while nobody can begin or end to wait: it must not wait itself.
pub type LetIn = Box<dyn Fn(Block) -> Result<(), AccessError> + Send>;

/// Memory that will not come any more. The guest must not run on.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("a block of guest memory will not come in")]
pub struct Lost;

/// How often, and how long in all, somebody waited for a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Waits {
    /// How often.
    pub count: u64,
    /// How long, each thread's time added.
    pub time: Duration,
}

/// Which blocks are still to come.
#[derive(Default)]
pub struct Arrivals {
    /// How many blocks are still to come, without the lock.
    left: AtomicUsize,
    lost: AtomicBool,
    /// Whether the guest was left for something that it did.
    has_left: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Every block that came late or is still to come.
    late: BTreeSet<Block>,
    coming: BTreeSet<Block>,
    /// Those of `coming` that somebody waits for, who came first first.
    wanted: Vec<Block>,
    let_in: Option<LetIn>,
    /// Why blocks are lost, if it is known here.
    reason: Option<String>,
    waits: Waits,
}

impl Arrivals {
    /// `blocks` are to come.
    pub fn new(blocks: impl IntoIterator<Item = Block>) -> Self {
        let coming: BTreeSet<Block> = blocks.into_iter().collect();
        let left = AtomicUsize::new(coming.len());
        let state = State { late: coming.clone(), coming, ..State::default() };
        Self { left, state: Mutex::new(state), ..Self::default() }
    }

    /// Whether everything is in.
    pub fn is_complete(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// Hides what is still to come: `hide` does it, and returns what shows a block that has come in.
    ///
    /// # Errors
    /// Those of `hide`.
    pub fn hide<E>(&self, hide: impl FnOnce(&BTreeSet<Block>) -> Result<LetIn, E>) -> Result<(), E> {
        let mut state = self.state.lock();
        state.let_in = Some(hide(&state.coming)?);
        Ok(())
    }

    /// `blocks` are in: their mappings and contents are complete.
    pub fn arrived(&self, blocks: &[Block]) {
        let mut state = self.state.lock();
        for block in blocks.iter().filter(|block| state.coming.contains(block)) {
            if let Some(Err(error)) = state.let_in.as_ref().map(|let_in| let_in(*block)) {
                drop(state);
                return self.lose(Some(format!("its page tables can't be written: {error}")));
            }
        }
        for block in blocks {
            state.coming.remove(block);
        }
        let State { wanted, coming, .. } = &mut *state;
        wanted.retain(|block| coming.contains(block));
        self.left.store(state.coming.len(), Ordering::Release);
        self.changed.notify_all();
    }

    /// Everything that was to come is in.
    pub fn all_arrived(&self) {
        let coming: Vec<Block> = self.state.lock().coming.iter().copied().collect();
        self.arrived(&coming);
    }

    /// Waits until those of `blocks` that are to come at all are in; says whether that had to be waited for.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn wait(&self, blocks: impl IntoIterator<Item = Block>) -> Result<bool, Lost> {
        if self.is_complete() {
            return Ok(false);
        }
        let mut state = self.state.lock();
        let missing: Vec<Block> = blocks.into_iter().filter(|block| state.coming.contains(block)).collect();
        if missing.is_empty() {
            return Ok(false);
        }
        let begin = Instant::now();
        for block in &missing {
            if !state.wanted.contains(block) {
                state.wanted.push(*block);
            }
        }
        self.changed.notify_all();
        while missing.iter().any(|block| state.coming.contains(block)) {
            if self.lost.load(Ordering::Acquire) {
                return Err(Lost);
            }
            self.changed.wait(&mut state);
        }
        state.waits.count += 1;
        state.waits.time += begin.elapsed();
        Ok(true)
    }

    /// Waits until everything is in.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn wait_for_all(&self) -> Result<(), Lost> {
        let coming = self.coming();
        self.wait(coming).map(drop)
    }

    /// The guest's code was left for something that it did: it has begun to run.
    pub fn guest_left(&self) {
        if !self.has_left.swap(true, Ordering::AcqRel) {
            // With the lock, so that nobody looks before and sleeps after.
            let _state = self.state.lock();
            self.changed.notify_all();
        }
    }

    /// Waits until it can't be put off any more to bring in what nobody needs yet: somebody waits for a block, or the guest has
    /// begun to run. Nor is there anything to wait for when all is in or lost.
    pub fn wait_for_need(&self) {
        let mut state = self.state.lock();
        let is_needed = |state: &State| {
            self.is_complete()
                || !state.wanted.is_empty()
                || self.has_left.load(Ordering::Acquire)
                || self.lost.load(Ordering::Acquire)
        };
        while !is_needed(&state) {
            self.changed.wait(&mut state);
        }
    }

    /// Whether `block` was among those that came late, or still is.
    pub fn was_late(&self, block: Block) -> bool {
        self.state.lock().late.contains(&block)
    }

    /// What is still to come.
    pub fn coming(&self) -> Vec<Block> {
        self.state.lock().coming.iter().copied().collect()
    }

    /// What is waited for, longest first.
    pub fn wanted(&self) -> Vec<Block> {
        self.state.lock().wanted.clone()
    }

    /// What is still to come will not: whoever waits for it is told so. The first reason counts.
    pub fn lose(&self, reason: Option<String>) {
        let mut state = self.state.lock();
        if let Some(reason) = reason {
            state.reason.get_or_insert(reason);
        }
        self.lost.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Why blocks are lost, when they are for a reason.
    pub fn loss(&self) -> Option<String> {
        if !self.lost.load(Ordering::Acquire) {
            return None;
        }
        self.state.lock().reason.clone()
    }

    /// How much was waited.
    pub fn waits(&self) -> Waits {
        self.state.lock().waits
    }
}

impl std::fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrivals").field("coming", &self.coming()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn wait_until_wanted(arrivals: &Arrivals, blocks: &[Block]) {
        while arrivals.wanted() != blocks {
            thread::yield_now();
        }
    }

    #[test]
    fn who_needs_a_block_waits_until_it_is_shown() {
        let arrivals = Arc::new(Arrivals::new([Block(2), Block(3)]));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let seen = shown.clone();
        arrivals
            .hide(|coming| {
                assert_eq!(coming.len(), 2);
                Ok::<LetIn, Lost>(Box::new(move |block| {
                    seen.lock().push(block);
                    Ok(())
                }))
            })
            .unwrap();
        assert_eq!(arrivals.wait([Block(7)]), Ok(false), "never late");
        let waiting = {
            let (arrivals, shown) = (arrivals.clone(), shown.clone());
            thread::spawn(move || {
                let waited = arrivals.wait([Block(3), Block(7)]);
                (waited, shown.lock().contains(&Block(3)))
            })
        };
        wait_until_wanted(&arrivals, &[Block(3)]);
        arrivals.arrived(&[Block(2)]);
        assert_eq!(arrivals.wanted(), [Block(3)]);
        arrivals.arrived(&[Block(3)]);
        assert_eq!(waiting.join().unwrap(), (Ok(true), true));
        assert!(arrivals.is_complete() && arrivals.was_late(Block(3)) && !arrivals.was_late(Block(7)));
        assert_eq!(*shown.lock(), [Block(2), Block(3)]);
        assert_eq!(arrivals.waits().count, 1);
        assert_eq!(arrivals.wait([Block(3)]), Ok(false));
        arrivals.all_arrived();
        assert_eq!(shown.lock().len(), 2, "each is shown once");
    }

    #[test]
    fn what_is_lost_is_waited_for_by_nobody() {
        let arrivals = Arc::new(Arrivals::new([Block(2), Block(3)]));
        let waiting = {
            let arrivals = arrivals.clone();
            thread::spawn(move || arrivals.wait_for_all())
        };
        wait_until_wanted(&arrivals, &[Block(2), Block(3)]);
        arrivals.arrived(&[Block(3)]);
        arrivals.lose(Some("the disk failed".to_owned()));
        arrivals.lose(Some("another".to_owned()));
        assert_eq!(waiting.join().unwrap(), Err(Lost));
        assert_eq!(arrivals.wait([Block(2)]), Err(Lost));
        assert_eq!(arrivals.wait([Block(3)]), Ok(false), "what is in stays");
        assert_eq!(arrivals.loss().as_deref(), Some("the disk failed"));
    }

    #[test]
    fn what_nobody_needs_can_wait_until_the_guest_has_begun() {
        let needs: [fn(&Arrivals); 4] = [
            Arrivals::guest_left,
            Arrivals::all_arrived,
            |arrivals| arrivals.lose(None),
            |arrivals| drop(arrivals.wait([Block(2)])),
        ];
        for need in needs {
            let arrivals = Arc::new(Arrivals::new([Block(2)]));
            let (waits, needs) = (arrivals.clone(), arrivals.clone());
            let waiting = thread::spawn(move || waits.wait_for_need());
            let needing = thread::spawn(move || need(&needs));
            waiting.join().unwrap();
            arrivals.all_arrived();
            needing.join().unwrap();
        }
    }

    #[test]
    fn a_block_that_can_not_be_shown_is_lost() {
        let arrivals = Arrivals::new([Block(2)]);
        let at = pages::GuestPhysical(0x1000);
        arrivals.hide(|_| Ok::<LetIn, Lost>(Box::new(move |_| Err(AccessError { at })))).unwrap();
        arrivals.arrived(&[Block(2)]);
        assert_eq!(arrivals.wait([Block(2)]), Err(Lost));
        assert!(arrivals.loss().unwrap().contains("page tables"));
    }
}
