//! What travels with bytes through a socket: open files, the sender.

use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::address::SocketAddress;
use super::socket::{Credentials, Outgoing};
use crate::file::OpenFile;
use crate::ipc::{Charge, MemoryAccount};
use crate::object::{ObjectId, RestoreError, Restorer, SaveError, Saver};

/// What one open file in flight costs the account, so that descriptors can't be parked in sockets without end. (A socket
/// sent through itself is never freed; Linux collects such circles, here they stay charged until the process ends.)
const FILE_COST: usize = 1024;

/// What goes with the first byte of a message.
#[derive(Clone)]
pub(super) struct Attached {
    pub from: Option<SocketAddress>,
    pub rights: Vec<Arc<OpenFile>>,
    pub credentials: Credentials,
    _charge: Option<Arc<Charge>>,
}

/// Saved form.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedAttached {
    from: Option<SocketAddress>,
    rights: Vec<ObjectId>,
    credentials: Credentials,
}

impl Attached {
    /// Takes what goes along out of `outgoing`.
    ///
    /// # Errors
    /// ENOMEM when too many files are in flight.
    pub fn take(
        account: &Arc<MemoryAccount>,
        from: Option<SocketAddress>,
        outgoing: &mut Outgoing,
    ) -> Result<Self, Errno> {
        let cost = outgoing.rights.len() * FILE_COST;
        let charge = if cost == 0 { None } else { Some(Arc::new(account.charge(cost)?)) };
        let rights = std::mem::take(&mut outgoing.rights);
        Ok(Self { from, rights, credentials: outgoing.credentials, _charge: charge })
    }

    pub fn save(&self, saver: &mut Saver) -> Result<SavedAttached, SaveError> {
        let rights = self.rights.iter().map(|file| saver.save(file.clone())).collect::<Result<_, _>>()?;
        Ok(SavedAttached { from: self.from.clone(), rights, credentials: self.credentials })
    }

    pub fn restore(saved: SavedAttached, restorer: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        let SavedAttached { from, rights, credentials } = saved;
        let mut charge = restorer.context.ipc.account.empty_charge();
        charge.grow_unchecked(rights.len().saturating_mul(FILE_COST));
        let rights = rights
            .into_iter()
            .map(|id| restorer.concrete::<OpenFile>(id, "open file"))
            .collect::<Result<_, _>>()?;
        Ok(Self { from, rights, credentials, _charge: Some(Arc::new(charge)) })
    }
}
