//! Which snapshots were restored lately, and what a spare worker makes ready for the next restore.

use std::path::{Path, PathBuf};

use pages::PageSet;
use restore::{LoadingSet, ReadyRule};
use store::{Store, StoreError};
use worker_protocol::GuestKind;

use crate::configuration::guest_kind;

/// Snapshots that are remembered.
const KEPT: usize = 32;
/// What a restore still weighs after the next one: half after 14.
const FADING: f64 = 0.95;

/// Snapshots of process guests by how often they were restored, the latest restores weighing most. What their recordings have in
/// common is what the next restore is likely to touch, whichever function it is of.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RecentRestores {
    /// With their weights, the latest last.
    snapshots: Vec<(PathBuf, f64)>,
}

impl RecentRestores {
    /// What a home's snapshots tell of a time that nobody remembers: each function's counts once, the latest used most.
    ///
    /// # Errors
    /// [`StoreError`] when the home can't be read.
    pub fn of_home(store: &Store) -> Result<Self, StoreError> {
        let mut used = Vec::new();
        for (name, function) in store.functions()? {
            let kind = function.map(|function| guest_kind(&function.config.guest));
            if kind.is_ok_and(|kind| kind == GuestKind::Process) {
                let uses = store.snapshots(&name)?.into_iter();
                let uses = uses.map(|snapshot| (store.last_use(&name, &snapshot), snapshot.path));
                used.extend(uses.max());
            }
        }
        used.sort_unstable();
        let mut recent = Self::default();
        used.iter().for_each(|(_, path)| recent.note(path));
        Ok(recent)
    }

    /// Takes note of a restore of the snapshot in `directory`.
    pub fn note(&mut self, directory: &Path) {
        self.snapshots.iter_mut().for_each(|(_, weight)| *weight *= FADING);
        let place = self.snapshots.iter().position(|(path, _)| path == directory);
        let (path, weight) = match place {
            Some(place) => self.snapshots.remove(place),
            None => (directory.to_owned(), 0.0),
        };
        self.snapshots.push((path, weight + 1.0));
        if self.snapshots.len() > KEPT {
            self.snapshots.remove(0);
        }
    }

    /// The pages that a spare worker should make ready. Reads the recordings as they are now; a snapshot without one counts
    /// nothing, so without any there are no pages.
    pub fn likely_pages(&self) -> PageSet {
        let known = |(path, weight): &(PathBuf, f64)| Some((*weight, LoadingSet::known_pages(path).ok()?));
        let known: Vec<(f64, PageSet)> = self.snapshots.iter().filter_map(known).collect();
        ReadyRule::default().pages(known.iter().map(|(weight, pages)| (*weight, pages)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_restores_weigh_most_and_the_oldest_are_forgotten() {
        let mut recent = RecentRestores::default();
        for name in ["a", "b", "a"] {
            recent.note(Path::new(name));
        }
        let weights: Vec<(&str, f64)> =
            recent.snapshots.iter().map(|(path, weight)| (path.to_str().unwrap(), *weight)).collect();
        assert_eq!(weights, [("b", FADING), ("a", FADING * FADING + 1.0)]);
        for number in 0..KEPT {
            recent.note(Path::new(&number.to_string()));
        }
        assert_eq!(recent.snapshots.len(), KEPT);
        assert!(recent.snapshots.iter().all(|(path, _)| path != Path::new("b") && path != Path::new("a")));
    }

    #[test]
    fn a_snapshot_without_a_recording_makes_nothing_ready() {
        let mut recent = RecentRestores::default();
        recent.note(Path::new("/nowhere"));
        assert!(recent.likely_pages().is_empty());
    }
}
