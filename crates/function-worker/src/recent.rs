//! Which snapshots were restored lately, and what a spare worker makes ready for the next restore.

use std::path::{Path, PathBuf};

use restore::{ReadyPages, ReadyRule};
use store::{Store, StoreError};
use worker_protocol::MachineKind;

use crate::configuration::machine_kind;

/// Snapshots that are remembered.
const KEPT: usize = 32;
/// What a restore still weighs after the next one: half after 14.
const FADING: f64 = 0.95;

/// A snapshot that was restored.
#[derive(Clone, PartialEq, Debug)]
struct Restored {
    path: PathBuf,
    machine: MachineKind,
    weight: f64,
}

/// Snapshots by how often they were restored, the latest restores weighing most. What the recordings of those for one kind of
/// machine have in common is what the next restore in such a one is likely to touch, whichever function it is of: a process guest's
/// memory is handed out in the order of asking, a kernel's in ways that hardly differ from boot to boot of the same memory.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RecentRestores {
    /// With their weights, the latest last.
    snapshots: Vec<Restored>,
}

impl RecentRestores {
    /// What a home's snapshots tell of a time that nobody remembers: each function's counts once, the latest used most.
    ///
    /// # Errors
    /// [`StoreError`] when the home can't be read.
    pub fn of_home(store: &Store) -> Result<Self, StoreError> {
        let mut used = Vec::new();
        for (name, function) in store.functions()? {
            // One that can't be read is restored by nobody.
            let Ok(function) = function else { continue };
            let machine = machine_kind(&function.config);
            let uses = store.snapshots(&name)?.into_iter();
            let uses = uses.map(|snapshot| (store.last_use(&name, &snapshot), snapshot.path, machine));
            used.extend(uses.max());
        }
        used.sort_unstable();
        let mut recent = Self::default();
        used.iter().for_each(|(_, path, machine)| recent.note(path, *machine));
        Ok(recent)
    }

    /// Takes note of a restore of the snapshot in `directory`, in such a machine.
    pub fn note(&mut self, directory: &Path, machine: MachineKind) {
        self.snapshots.iter_mut().for_each(|one| one.weight *= FADING);
        let place = self.snapshots.iter().position(|one| one.path == directory);
        let before = place.map_or(0.0, |place| self.snapshots.remove(place).weight);
        self.snapshots.push(Restored { path: directory.to_owned(), machine, weight: before + 1.0 });
        if self.snapshots.len() > KEPT {
            self.snapshots.remove(0);
        }
    }

    /// The kinds of machine that snapshots were restored in, the latest first.
    pub fn machines(&self) -> Vec<MachineKind> {
        let mut machines: Vec<MachineKind> = Vec::new();
        for one in self.snapshots.iter().rev() {
            if !machines.contains(&one.machine) {
                machines.push(one.machine);
            }
        }
        machines
    }

    /// Forgets what was restored in such machines.
    pub fn forget(&mut self, machine: MachineKind) {
        self.snapshots.retain(|one| one.machine != machine);
    }

    /// The pages that a spare worker with such a machine should make ready. Reads the recordings as they are now; a snapshot without
    /// one counts nothing, so without any there are no pages.
    pub fn likely_pages(&self, machine: MachineKind) -> ReadyPages {
        let like_it = self.snapshots.iter().filter(|one| one.machine == machine);
        let grows = machine == MachineKind::Process;
        let likely = |one: &Restored| Some((one.weight, ReadyPages::of_snapshot(&one.path, grows)?));
        let likely: Vec<(f64, ReadyPages)> = like_it.filter_map(likely).collect();
        ReadyRule::default().choose(&likely)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_restores_weigh_most_and_the_oldest_are_forgotten() {
        let mut recent = RecentRestores::default();
        let process = MachineKind::Process;
        for name in ["a", "b", "a"] {
            recent.note(Path::new(name), process);
        }
        let weights: Vec<(&str, f64)> =
            recent.snapshots.iter().map(|one| (one.path.to_str().unwrap(), one.weight)).collect();
        assert_eq!(weights, [("b", FADING), ("a", FADING * FADING + 1.0)]);
        for number in 0..KEPT {
            recent.note(Path::new(&number.to_string()), process);
        }
        assert_eq!(recent.snapshots.len(), KEPT);
        assert!(recent.snapshots.iter().all(|one| one.path != Path::new("b") && one.path != Path::new("a")));
    }

    #[test]
    fn a_snapshot_without_a_recording_makes_nothing_ready() {
        let mut recent = RecentRestores::default();
        recent.note(Path::new("/nowhere"), MachineKind::Process);
        assert_eq!(recent.likely_pages(MachineKind::Process), ReadyPages::default());
    }

    #[test]
    fn the_kinds_of_machine_are_told_by_their_last_restore() {
        let mut recent = RecentRestores::default();
        let linux = |memory_mib| MachineKind::Linux { memory_mib };
        for (name, machine) in
            [("a", linux(128)), ("b", MachineKind::Process), ("c", linux(256)), ("d", linux(128))]
        {
            recent.note(Path::new(name), machine);
        }
        assert_eq!(recent.machines(), [linux(128), linux(256), MachineKind::Process]);
        recent.forget(linux(128));
        assert_eq!(recent.machines(), [linux(256), MachineKind::Process]);
    }
}
