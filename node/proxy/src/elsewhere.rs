//! Services of which other cells have endpoints and this node may know none yet. Whoever calls one has the node ask for
//! them, and waits a little while. Nothing of it costs a request where there are no other cells.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a call waits for the first endpoints of a service: what is wanted takes about a second to get to the other
/// cell's relays, and back.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// So often at most the node is told of one service.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// By `name.namespace`.
pub struct Elsewhere {
    is_any: AtomicBool,
    services: ArcSwap<HashSet<String>>,
    /// When the node was told of each last, within [`TELL_EVERY`].
    told: Mutex<HashMap<String, Instant>>,
    tell: Box<dyn Fn(&str) + Send + Sync>,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").field("services", &self.services.load().len()).finish_non_exhaustive()
    }
}

impl Elsewhere {
    /// None yet. `tell` hears which service is called, on a worker's thread: it must not wait.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let (services, told) = (ArcSwap::default(), Mutex::default());
        Self { is_any: AtomicBool::new(false), services, told, tell: Box::new(tell) }
    }

    pub fn publish(&self, services: HashSet<String>) {
        let is_any = !services.is_empty();
        self.services.store(services.into());
        self.is_any.store(is_any, Ordering::Relaxed);
    }

    pub(crate) fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Relaxed)
    }

    /// Says that a service is called of which no endpoint is known; false if no other cell has any.
    pub(crate) fn call(&self, service: &str) -> bool {
        if !self.is_any() || !self.services.load().contains(service) {
            return false;
        }
        let now = Instant::now();
        let mut told = self.told.lock();
        told.retain(|_, last| now.saturating_duration_since(*last) < TELL_EVERY);
        if !told.contains_key(service) {
            told.insert(service.to_owned(), now);
            drop(told);
            (self.tell)(service);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_node_is_told_once_a_second_of_what_other_cells_have() {
        let told = Arc::new(AtomicU32::new(0));
        let counted = told.clone();
        let elsewhere = Elsewhere::new(move |service| {
            assert_eq!(service, "reviews.default");
            counted.fetch_add(1, SeqCst);
        });
        assert!(!elsewhere.is_any() && !elsewhere.call("reviews.default"));
        elsewhere.publish(HashSet::from(["reviews.default".to_owned()]));
        assert!(elsewhere.call("reviews.default") && elsewhere.call("reviews.default"));
        assert!(!elsewhere.call("ratings.default"));
        assert_eq!(told.load(SeqCst), 1);
        tokio::time::advance(TELL_EVERY).await;
        assert!(elsewhere.call("reviews.default"));
        assert_eq!(told.load(SeqCst), 2);
        elsewhere.publish(HashSet::new());
        assert!(!elsewhere.is_any() && !elsewhere.call("reviews.default"));
    }
}
