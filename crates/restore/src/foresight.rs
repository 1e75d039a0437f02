//! What can be worked out before anything is done to guest memory: in which way it comes back, by which plan. It needs the
//! snapshot and what is ready, not the guest's files, so it goes on while these are opened.

use crate::engine::{Record, RestoreRequest};
use crate::error::RestoreError;
use crate::faasnap::{self, Draft};
use crate::handle::RestoreWarning;
use crate::layout::LayoutError;
use crate::loading_set::LoadingSet;
use crate::recorder::Prepared;
use crate::strategy::RestoreStrategy;
use crate::timeline::monotonic_ns;

/// What was worked out for one request.
pub struct Foreseen {
    pub(crate) way: Way,
    pub(crate) warnings: Vec<RestoreWarning>,
    /// CLOCK_MONOTONIC when that began.
    pub(crate) from_ns: u64,
    /// And when it was done.
    pub(crate) until_ns: u64,
}

/// Works out how `request` is to be done; its files and its hook are not looked at.
///
/// # Errors
/// [`RestoreError`], when it can't be done.
pub fn foresee(request: &RestoreRequest<'_>) -> Result<Foreseen, RestoreError> {
    let from_ns = monotonic_ns();
    check(request)?;
    let mut warnings = Vec::new();
    let way = choose_way(request, &mut warnings)?;
    Ok(Foreseen { way, warnings, from_ns, until_ns: monotonic_ns() })
}

/// How memory comes back in the end: a strategy, with what its files allow.
pub(crate) enum Way {
    /// By faults on the mapped memory file.
    Mapped,
    /// The same, watched.
    Recorded(Prepared),
    /// Read before the guest runs.
    Read,
    /// By the loader.
    Loaded(Box<Draft>),
    /// By userfaults, after installing a working set when there is one; recorded when there is none.
    Userfaults { working_set: Option<LoadingSet> },
}

fn check(request: &RestoreRequest<'_>) -> Result<(), RestoreError> {
    let (layout, snapshot) = (request.layout.page_count().0, request.snapshot.page_count().0);
    if layout != snapshot {
        return Err(LayoutError::PageCount { layout, snapshot }.into());
    }
    let reserved = request.memory.reserved().0;
    if layout > reserved {
        return Err(RestoreError::ReservationTooSmall { needed: layout, reserved });
    }
    if matches!(request.record, Record::Always(_)) && !request.strategy.uses_recordings() {
        let reason = "it uses no recording, so there is nothing to record".to_owned();
        return Err(RestoreError::Unavailable { strategy: request.strategy, reason });
    }
    Ok(request.layout.check_stored(request.snapshot.stored_pages())?)
}

fn choose_way(request: &RestoreRequest<'_>, warnings: &mut Vec<RestoreWarning>) -> Result<Way, RestoreError> {
    let strategy = request.strategy;
    match strategy {
        RestoreStrategy::OnDemand | RestoreStrategy::Cached => return Ok(Way::Mapped),
        RestoreStrategy::Eager => return Ok(Way::Read),
        RestoreStrategy::Reap | RestoreStrategy::FaaSnap => {}
    }
    let options = match request.record {
        Record::Always(options) => Some(options),
        Record::No | Record::IfNeeded(_) => {
            let name = LoadingSet::file_name(strategy);
            match LoadingSet::open(request.snapshot, name, request.layout) {
                Ok(set) if strategy == RestoreStrategy::Reap => {
                    return Ok(Way::Userfaults { working_set: Some(set) });
                }
                Ok(set) => return loaded_or_recorded(request, set),
                Err(problem) => warnings.push(RestoreWarning::FellBack { strategy, problem }),
            }
            match request.record {
                Record::IfNeeded(options) => Some(options),
                _ => None,
            }
        }
    };
    match options {
        None => Ok(Way::Mapped),
        Some(_) if strategy == RestoreStrategy::Reap => Ok(Way::Userfaults { working_set: None }),
        Some(options) => Ok(match Prepared::new(request.snapshot, options) {
            Ok(prepared) => Way::Recorded(prepared),
            Err(error) => {
                warnings.push(RestoreWarning::NotRecorded(error));
                Way::Mapped
            }
        }),
    }
}

/// By the loader; recorded once more when the last invocation needed much that the recording doesn't have.
fn loaded_or_recorded(request: &RestoreRequest<'_>, set: LoadingSet) -> Result<Way, RestoreError> {
    if let Record::IfNeeded(options) = request.record
        && LoadingSet::is_outgrown(request.snapshot)
        // Who can't record has a recording all the same.
        && let Ok(prepared) = Prepared::new(request.snapshot, options)
    {
        return Ok(Way::Recorded(prepared));
    }
    Ok(Way::Loaded(Box::new(faasnap::draft(request, set)?)))
}
