//! What a connected socket sends and receives through.

use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::connection::{Endpoint, Side};
use super::service::{SavedServiceEnd, ServiceEnd};
use super::socket::{Incoming, Outgoing, ReceiveFlags, Shutdown};
use crate::file::{Destination, Origin, Readiness};
use crate::object::{ObjectId, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

/// One end of an established connection, as its socket uses it. No method blocks.
pub(super) trait Transport: Send + Sync {
    /// See [`super::Socket::send`].
    fn send(&self, from: &mut Origin<'_>, outgoing: &mut Outgoing) -> Result<usize, Errno>;

    /// See [`super::Socket::receive`].
    fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno>;

    /// Ends one or both directions.
    fn shutdown(&self, how: Shutdown);

    /// Has the end that follows be a reset: what SO_LINGER with no seconds asks of close(2).
    fn abort(&self) {}

    /// Whether both directions have ended, so that TCP calls the connection closed: it has no peer any more, though what
    /// was received can still be read.
    fn is_over(&self) -> bool {
        false
    }

    /// What is possible without waiting.
    fn readiness(&self) -> Readiness;

    /// Bytes that can be received at once.
    fn readable_bytes(&self) -> usize;

    /// Its saved form.
    fn save(&self, saver: &mut Saver) -> Result<SavedTransport, SaveError>;

    /// What became of connecting.
    ///
    /// # Errors
    /// EALREADY while it is under way, else why it failed.
    fn finish_connect(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Takes the error of a connection outside the guest.
    fn take_error(&self) -> Option<Errno> {
        None
    }
}

/// Saved form of any transport.
#[derive(Serialize, Deserialize)]
pub(super) enum SavedTransport {
    /// To another socket of the guest.
    Guest(ObjectId, Side),
    /// To a service of the worker.
    Service(SavedServiceEnd),
    /// To the outside: can't be saved and comes back as a connection that was reset.
    Reset,
}

/// A connection that is dead: the first receive says so, then there is the end.
pub(super) struct ResetTransport {
    reported: Mutex<bool>,
}

impl ResetTransport {
    pub fn new() -> Self {
        Self { reported: Mutex::new(false) }
    }
}

impl Transport for ResetTransport {
    fn send(&self, _: &mut Origin<'_>, _: &mut Outgoing) -> Result<usize, Errno> {
        if std::mem::replace(&mut *self.reported.lock(), true) {
            Err(Errno::PIPE)
        } else {
            Err(Errno::CONNRESET)
        }
    }

    fn receive(&self, _: &mut Destination<'_>, _: ReceiveFlags) -> Result<Incoming, Errno> {
        if std::mem::replace(&mut *self.reported.lock(), true) {
            Ok(Incoming::default())
        } else {
            Err(Errno::CONNRESET)
        }
    }

    fn shutdown(&self, _: Shutdown) {}

    fn is_over(&self) -> bool {
        true
    }

    fn readiness(&self) -> Readiness {
        let ended = Readiness::IN | Readiness::RDNORM | Readiness::RDHUP | Readiness::HUP;
        let ended = ended | Readiness::OUT | Readiness::WRNORM;
        if *self.reported.lock() { ended } else { ended | Readiness::ERR }
    }

    fn readable_bytes(&self) -> usize {
        0
    }

    fn save(&self, _: &mut Saver) -> Result<SavedTransport, SaveError> {
        Ok(SavedTransport::Reset)
    }

    fn take_error(&self) -> Option<Errno> {
        let reported = std::mem::replace(&mut *self.reported.lock(), true);
        (!reported).then_some(Errno::CONNRESET)
    }
}

/// A transport again, its readiness notified to `queue`.
pub(super) fn restore(
    saved: SavedTransport,
    restorer: &mut Restorer<'_>,
    queue: &Arc<WaitQueue>,
) -> Result<Arc<dyn Transport>, RestoreError> {
    Ok(match saved {
        SavedTransport::Guest(connection, side) => {
            Arc::new(Endpoint::restore(connection, side, restorer, queue)?)
        }
        SavedTransport::Service(saved) => ServiceEnd::restore(saved, &restorer.context.network, queue),
        SavedTransport::Reset => Arc::new(ResetTransport::new()),
    })
}
