//! Of which services of other cells a node wants the endpoints: those that its configuration names, and those that are
//! called from it. What is not called any more is wanted for [`FORGET_AFTER`] longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use weft_wire::{cell::MAX_WANTS, id::ServiceName};

/// A service that nobody has called for so long is wanted no more.
pub const FORGET_AFTER: Duration = Duration::from_secs(3_600);

#[derive(Clone, Debug, Default)]
pub struct Wants {
    configured: BTreeSet<ServiceName>,
    /// When they were called last.
    called: BTreeMap<ServiceName, Instant>,
}

impl Wants {
    pub fn new(configured: BTreeSet<ServiceName>) -> Self {
        Self { configured, called: BTreeMap::new() }
    }

    /// It is called. Where there are too many, the one that was not called for longest is forgotten.
    pub fn call(&mut self, service: ServiceName, now: Instant) {
        if self.configured.contains(&service) {
            return;
        }
        self.called.insert(service, now);
        while self.configured.len() + self.called.len() > MAX_WANTS {
            let Some(oldest) = self.called.iter().min_by_key(|(_, last)| **last).map(|(name, _)| name.clone()) else {
                break;
            };
            self.called.remove(&oldest);
        }
    }

    /// Lets go of what has not been called for long. Call it now and then.
    pub fn forget(&mut self, now: Instant) {
        self.called.retain(|_, last| now.saturating_duration_since(*last) < FORGET_AFTER);
    }

    /// All that are wanted.
    pub fn services(&self) -> BTreeSet<ServiceName> {
        self.configured.iter().chain(self.called.keys()).take(MAX_WANTS).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_called_is_wanted_until_it_is_not_called_for_long() {
        let (mut wants, now) = (Wants::new(BTreeSet::from([name("always")])), Instant::now());
        wants.call(name("now"), now);
        wants.call(name("always"), now);
        assert_eq!(wants.services(), BTreeSet::from([name("always"), name("now")]));
        wants.forget(now + FORGET_AFTER - Duration::from_secs(1));
        assert_eq!(wants.services().len(), 2);
        wants.forget(now + FORGET_AFTER);
        assert_eq!(wants.services(), BTreeSet::from([name("always")]));
    }

    #[test]
    fn the_least_recently_called_makes_room_and_what_is_configured_stays() {
        let (mut wants, start) = (Wants::new(BTreeSet::from([name("always")])), Instant::now());
        for n in 0..=MAX_WANTS {
            wants.call(name(&format!("s{n}")), start + Duration::from_secs(n as u64));
        }
        let services = wants.services();
        assert_eq!(services.len(), MAX_WANTS);
        assert!(services.contains(&name("always")) && services.contains(&name(&format!("s{MAX_WANTS}"))));
        assert!(!services.contains(&name("s0")) && !services.contains(&name("s1")));
    }
}
