//! The account that buffered bytes are charged to: a guest must not grow its worker's memory without bound, however many
//! pipes and sockets it opens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

/// Bytes in use and their limit, for all objects of one process.
#[derive(Debug)]
pub struct MemoryAccount {
    used: AtomicUsize,
    limit: usize,
}

impl MemoryAccount {
    /// An empty account of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Charges `bytes` until the charge is dropped.
    ///
    /// # Errors
    /// ENOMEM when the account is exhausted.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Result<Charge, Errno> {
        let mut charge = self.empty_charge();
        charge.grow(bytes)?;
        Ok(charge)
    }

    /// A charge of nothing yet.
    pub fn empty_charge(self: &Arc<Self>) -> Charge {
        Charge { account: self.clone(), bytes: 0 }
    }
}

/// Bytes charged to an account; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    account: Arc<MemoryAccount>,
    bytes: usize,
}

impl Charge {
    /// Charges `bytes` more.
    ///
    /// # Errors
    /// ENOMEM when the account is exhausted; nothing is charged then.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Errno> {
        let limit = self.account.limit;
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        self.account
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map_err(|_| Errno::NOMEM)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Charges `bytes` more whatever the limit says: for what the worker itself puts into a guest's queue.
    pub fn grow_unchecked(&mut self, bytes: usize) {
        self.account.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// Gives `bytes` of the charge back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.account.used.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }

    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The account.
    pub fn account(&self) -> &Arc<MemoryAccount> {
        &self.account
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_refused_at_the_limit_and_given_back() {
        let account = MemoryAccount::new(100);
        let mut first = account.charge(60).unwrap();
        assert_eq!(account.charge(41).unwrap_err(), Errno::NOMEM);
        assert_eq!(account.used(), 60);
        first.shrink(20);
        let second = account.charge(60).unwrap();
        assert_eq!(account.used(), 100);
        assert_eq!(first.grow(usize::MAX), Err(Errno::NOMEM));
        drop((first, second));
        assert_eq!(account.used(), 0);
    }
}
