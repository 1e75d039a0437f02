//! Who may run how many invocations at once: AWS's reserved and unreserved concurrency.

use std::collections::HashMap;

use store::FunctionName;

use crate::call::Throttle;

/// Running invocations and their limits.
#[derive(Debug)]
pub(super) struct Concurrency {
    account: u32,
    reserved: HashMap<FunctionName, u32>,
    reserved_by_all: u32,
    running: HashMap<FunctionName, u32>,
    /// Of functions without a reservation.
    running_unreserved: u32,
}

impl Concurrency {
    pub fn new(account: u32) -> Self {
        let (reserved, running) = (HashMap::new(), HashMap::new());
        Self { account, reserved, reserved_by_all: 0, running, running_unreserved: 0 }
    }

    /// One more invocation of `name`, if it may be.
    pub fn enter(&mut self, name: &FunctionName) -> Result<(), Throttle> {
        match self.reserved.get(name) {
            Some(reserved) => {
                if self.running.get(name).is_some_and(|running| running >= reserved) || *reserved == 0 {
                    return Err(Throttle::Reserved);
                }
            }
            None => {
                if self.running_unreserved >= self.account.saturating_sub(self.reserved_by_all) {
                    return Err(Throttle::Account);
                }
                self.running_unreserved += 1;
            }
        }
        match self.running.get_mut(name) {
            Some(running) => *running += 1,
            None => drop(self.running.insert(name.clone(), 1)),
        }
        Ok(())
    }

    /// One invocation of `name` less.
    pub fn leave(&mut self, name: &FunctionName) {
        let Some(running) = self.running.get_mut(name) else { return };
        *running = running.saturating_sub(1);
        if *running == 0 {
            self.running.remove(name);
        }
        if !self.reserved.contains_key(name) {
            self.running_unreserved = self.running_unreserved.saturating_sub(1);
        }
    }

    /// Changes what is reserved for `name`; running invocations are not disturbed.
    pub fn reserve(&mut self, name: &FunctionName, reserved: Option<u32>) {
        match reserved {
            Some(reserved) => drop(self.reserved.insert(name.clone(), reserved)),
            None => drop(self.reserved.remove(name)),
        }
        self.reserved_by_all = self.reserved.values().fold(0, |all, one| all.saturating_add(*one));
        let unreserved = self.running.iter().filter(|(name, _)| !self.reserved.contains_key(*name));
        self.running_unreserved = unreserved.map(|(_, running)| running).sum();
    }

    /// How many run.
    pub fn running(&self) -> u32 {
        self.running.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> FunctionName {
        name.parse().unwrap()
    }

    #[test]
    fn a_reservation_is_a_limit_and_a_promise() {
        let mut concurrency = Concurrency::new(10);
        concurrency.reserve(&name("a"), Some(2));
        for _ in 0..8 {
            concurrency.enter(&name("b")).unwrap();
        }
        assert_eq!(concurrency.enter(&name("b")), Err(Throttle::Account));
        concurrency.enter(&name("a")).unwrap();
        concurrency.enter(&name("a")).unwrap();
        assert_eq!(concurrency.enter(&name("a")), Err(Throttle::Reserved));
        concurrency.leave(&name("a"));
        concurrency.enter(&name("a")).unwrap();
        assert_eq!(concurrency.running(), 10);
    }

    #[test]
    fn nothing_reserved_throttles_everything_and_a_change_counts_what_runs() {
        let mut concurrency = Concurrency::new(10);
        concurrency.enter(&name("a")).unwrap();
        concurrency.reserve(&name("a"), Some(0));
        assert_eq!(concurrency.enter(&name("a")), Err(Throttle::Reserved));
        concurrency.leave(&name("a"));
        concurrency.reserve(&name("a"), None);
        for _ in 0..10 {
            concurrency.enter(&name("a")).unwrap();
        }
        assert_eq!(concurrency.enter(&name("b")), Err(Throttle::Account));
    }
}
