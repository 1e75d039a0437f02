//! What a journal says, by function, mode and input.

use restore::{Phase, PhaseRecord, Timeline};

use crate::attempt::Measured;
use crate::bandwidth::Bandwidth;
use crate::journal::Entry;
use crate::mode::Mode;
use crate::snapshots::SnapshotFigures;
use crate::statistics::{Median, median};

/// Two medians that differ by less than this are the same, in milliseconds: the least that a time above warm counts.
const LEAST_MS: f64 = 0.05;

/// A view of a run's results.
#[derive(Clone, Copy)]
pub(crate) struct Results<'a>(pub &'a [Entry]);

impl<'a> Results<'a> {
    /// Functions in the order in which they were measured.
    pub fn functions(self) -> Vec<&'a str> {
        let mut functions: Vec<&str> = Vec::new();
        for entry in self.0 {
            if let Entry::Sample { key, .. } | Entry::Burst { key, .. } = entry
                && !functions.contains(&key.function.as_str())
            {
                functions.push(&key.function);
            }
        }
        functions
    }

    pub fn samples(self, function: &str, mode: &str, input: &str) -> Vec<&'a Measured> {
        let wanted = |entry: &'a Entry| match entry {
            Entry::Sample { key, measured }
                if key.function == function && key.mode == mode && key.input == input =>
            {
                Some(measured)
            }
            _ => None,
        };
        self.0.iter().filter_map(wanted).collect()
    }

    /// Totals in milliseconds.
    pub fn totals(self, function: &str, mode: &str, input: &str) -> Vec<f64> {
        self.samples(function, mode, input).iter().map(|measured| measured.total_ns as f64 / 1e6).collect()
    }

    /// The median total in milliseconds.
    pub fn total(self, function: &str, mode: Mode, input: &str) -> Option<f64> {
        median(&self.totals(function, mode.name(), input))
    }

    pub fn interval(self, function: &str, mode: &str, input: &str) -> Option<Median> {
        Median::of(&self.totals(function, mode, input))
    }

    /// The median total less the warm one of the same function and input, in milliseconds; at least a twentieth.
    pub fn above_warm(self, function: &str, mode: Mode, input: &str) -> Option<f64> {
        let warm = self.total(function, Mode::Warm, input)?;
        Some((self.total(function, mode, input)? - warm).max(LEAST_MS))
    }

    /// On-demand at its best readahead setting for this function and input.
    pub fn best_on_demand(self, function: &str, input: &str) -> Option<Mode> {
        Mode::ON_DEMAND
            .into_iter()
            .filter_map(|mode| Some((mode, self.total(function, mode, input)?)))
            .min_by(|(_, one), (_, other)| one.total_cmp(other))
            .map(|(mode, _)| mode)
    }

    /// The median of something in the timelines.
    pub fn median_of(
        self,
        function: &str,
        mode: &str,
        input: &str,
        what: impl Fn(&Timeline) -> Option<f64>,
    ) -> Option<f64> {
        let samples = self.samples(function, mode, input);
        median(&samples.iter().filter_map(|measured| what(&measured.timeline)).collect::<Vec<_>>())
    }

    /// Median memory in bytes.
    pub fn memory(self, function: &str, mode: Mode, input: &str) -> Option<f64> {
        let samples = self.samples(function, mode.name(), input);
        let totals = samples.iter().filter_map(|measured| Some(measured.memory?.total() as f64));
        median(&totals.collect::<Vec<_>>())
    }

    pub fn figures(self, function: &str) -> Option<&'a SnapshotFigures> {
        self.0.iter().find_map(|entry| match entry {
            Entry::Snapshot { function: of, figures } if of == function => Some(figures),
            _ => None,
        })
    }

    pub fn bandwidth(self, function: &str) -> Option<&'a Bandwidth> {
        self.0.iter().find_map(|entry| match entry {
            Entry::Bandwidth { function: of, bandwidth } if of == function => Some(bandwidth),
            _ => None,
        })
    }

    /// Stored pages that a request touches.
    pub fn touched(self, function: &str, label: &str) -> Option<u64> {
        self.0.iter().find_map(|entry| match entry {
            Entry::Touched { function: of, input, pages } if of == function && input == label => Some(*pages),
            _ => None,
        })
    }

    /// Times to the last answer of a burst, in milliseconds.
    pub fn burst(self, function: &str, name: &str) -> Vec<f64> {
        let wanted = |entry: &Entry| match entry {
            Entry::Burst { key, answered_ns } if key.function == function && key.mode == name => {
                Some(*answered_ns.iter().max()? as f64 / 1e6)
            }
            _ => None,
        };
        self.0.iter().filter_map(wanted).collect()
    }

    /// What was left out, with its reason.
    pub fn left_out(self) -> Vec<(&'a str, &'a str)> {
        let wanted = |entry: &'a Entry| match entry {
            Entry::Unavailable { mode, reason } => Some((mode.as_str(), reason.as_str())),
            _ => None,
        };
        self.0.iter().filter_map(wanted).collect()
    }
}

/// Milliseconds from the request to the first exit that a guest instruction caused.
pub(crate) fn first_exit_ms(timeline: &Timeline) -> Option<f64> {
    Some(timeline.end_of(Phase::FirstExit)? as f64 / 1e6)
}

/// Bytes a second of the loader, from its start, before the guest runs where memory is ready, to its last page.
pub(crate) fn loader_bandwidth(timeline: &Timeline) -> Option<f64> {
    let of_loader = |record: &&PhaseRecord| matches!(record.phase, Phase::Prefetched | Phase::Loaded);
    let end_ns = timeline.end_of(Phase::Loaded)?;
    let start_ns = timeline.phases.iter().filter(of_loader).map(|record| record.start_ns).min()?;
    let bytes = timeline.loading_set?.loaded_bytes;
    let seconds = end_ns.checked_sub(start_ns).filter(|took| *took > 0)? as f64 / 1e9;
    Some(bytes as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use restore::LoadingSetUse;

    use super::*;

    #[test]
    fn the_loader_works_from_its_first_page_to_its_last() {
        let mut timeline = Timeline::start();
        assert_eq!(loader_bandwidth(&timeline), None);
        timeline.record(Phase::Mapped, 0, 1_000_000);
        timeline.record(Phase::Prefetched, 500_000, 2_000_000);
        timeline.record(Phase::Loaded, 2_000_000, 10_500_000);
        timeline.loading_set = Some(LoadingSetUse { loaded_bytes: 5_000_000, ..LoadingSetUse::default() });
        assert_eq!(loader_bandwidth(&timeline), Some(5e8));
    }
}
