//! What the pool has learnt of functions' idle times, from one node of a home to the next.

use store::{IdleTimes, Store};

use crate::deployed::Key;
use crate::policy::{HistogramSettings, IdleHistogram, Keep, Policy};
use crate::start::chain;

/// Versions that are kept: a record of more would be too large to be read.
const KEPT: usize = 2000;

/// What an earlier pool left. Without it functions are learnt anew.
pub(crate) fn load(store: &Store, policy: &Policy) -> Vec<(Key, IdleHistogram)> {
    let Keep::Histogram(settings) = &policy.keep else { return Vec::new() };
    match store.kept_idle_times() {
        Ok(kept) => kept.iter().filter_map(|times| read(times, settings)).collect(),
        Err(error) => {
            tracing::warn!(error = chain(&error), "idle times are learnt anew");
            Vec::new()
        }
    }
}

fn read(times: &IdleTimes, settings: &HistogramSettings) -> Option<(Key, IdleHistogram)> {
    let key = Key::new(times.function.parse().ok()?, times.version.clone(), times.revision.parse().ok()?);
    Some((key, IdleHistogram::from_parts(settings, &times.bins, times.out_of_bounds)))
}

/// As they are kept.
pub(crate) fn records<'a>(histories: impl Iterator<Item = (&'a Key, &'a IdleHistogram)>) -> Vec<IdleTimes> {
    let record = |(key, history): (&Key, &IdleHistogram)| {
        let (bins, out_of_bounds) = history.parts();
        IdleTimes {
            function: key.name().to_string(),
            version: key.version().to_owned(),
            revision: key.revision().to_string(),
            bins,
            out_of_bounds,
        }
    };
    histories.take(KEPT).map(record).collect()
}
