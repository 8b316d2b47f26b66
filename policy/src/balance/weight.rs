//! Endpoints that get more or less than an equal share: by their weight, and while they warm up. The arithmetic is that
//! of Envoy (`load_balancer_impl.cc`); its schedule is replaced by a draw that needs no memory.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use weft_wire::fact::EndpointHealth;

use crate::endpoint::{Endpoint, EndpointKey};

/// How an endpoint that is new, or healthy again, comes to its full share. DestinationRule `warmup`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Warmup {
    pub(crate) duration_ms: u64,
    /// The least part of its weight, up to 1.
    pub(crate) least: f64,
    /// 1 is linear; more is steeper at first.
    pub(crate) aggression: f64,
}

impl Warmup {
    /// The part of its weight that an endpoint counts with at this age.
    fn part(&self, age_ms: u64) -> f64 {
        if age_ms >= self.duration_ms {
            return 1.0;
        }
        let time = age_ms.max(1) as f64 / self.duration_ms as f64;
        time.powf(self.aggression.recip()).max(self.least)
    }
}

/// Since when an endpoint warms up: 1 more than the callers' clock said at the first request that it was there for; 0
/// before that.
#[derive(Debug, Default)]
struct Since(AtomicU64);

impl Since {
    fn get(&self, now_ms: u64) -> u64 {
        let known = match self.0.load(Relaxed) {
            0 => match self.0.compare_exchange(0, now_ms.saturating_add(1), Relaxed, Relaxed) {
                Ok(_) => now_ms.saturating_add(1),
                Err(known) => known,
            },
            known => known,
        };
        known - 1
    }
}

/// How warm a cluster's endpoints are.
#[derive(Debug)]
pub(super) struct Warmth {
    settings: Warmup,
    /// By the endpoints' places in the cluster. These outlive views.
    since: Vec<Arc<Since>>,
    /// Until then, on the callers' clock, one of them may be warming up.
    until_ms: AtomicU64,
}

impl Warmth {
    /// Goes on with what `previous` knows of its endpoints; but who has become healthy since begins anew.
    pub(super) fn new(
        settings: &Warmup,
        endpoints: &[Arc<Endpoint>],
        previous: Option<(&Self, &[Arc<Endpoint>])>,
    ) -> Self {
        let is_healthy =
            |endpoint: &Endpoint| matches!(endpoint.health, EndpointHealth::Healthy | EndpointHealth::Overloaded);
        let known: HashMap<&EndpointKey, (bool, &Arc<Since>)> = previous
            .into_iter()
            .flat_map(|(warmth, endpoints)| endpoints.iter().zip(&warmth.since))
            .map(|(endpoint, since)| (&endpoint.key, (is_healthy(endpoint), since)))
            .collect();
        let since = |endpoint: &Arc<Endpoint>| match known.get(&endpoint.key) {
            Some((was_healthy, since)) if *was_healthy || !is_healthy(endpoint) => (*since).clone(),
            _ => Arc::default(),
        };
        let since = endpoints.iter().map(since).collect();
        // Found out by the first request, which has a clock.
        Self { settings: settings.clone(), since, until_ms: AtomicU64::new(u64::MAX) }
    }

    /// Whether some endpoint may be warming up. `serving` are the first endpoints, which get requests.
    pub(super) fn is_going_on(&self, serving: usize, now_ms: u64) -> bool {
        match self.until_ms.load(Relaxed) {
            u64::MAX => {
                let ends = self.since.iter().take(serving);
                let ends = ends.map(|since| since.get(now_ms).saturating_add(self.settings.duration_ms));
                let until_ms = ends.max().unwrap_or_default();
                self.until_ms.store(until_ms, Relaxed);
                now_ms < until_ms
            }
            until_ms => now_ms < until_ms,
        }
    }

    pub(super) fn part(&self, place: usize, now_ms: u64) -> f64 {
        let since = self.since.get(place);
        since.map_or(1.0, |since| self.settings.part(now_ms.saturating_sub(since.get(now_ms))))
    }
}

/// The place of the choice among `weights`, each with its place, that `draw` hits: a number below 2^64 for all of them
/// together. Weights are gone through twice, and may change meanwhile.
pub(super) fn drawn(weights: impl Iterator<Item = (usize, f64)> + Clone, draw: u64) -> Option<usize> {
    let total: f64 = weights.clone().map(|(_, weight)| weight).sum();
    let mut point = draw as f64 / u64::MAX as f64 * total;
    let mut last = None;
    for (place, weight) in weights {
        last = Some(place);
        if point < weight {
            break;
        }
        point -= weight;
    }
    last
}

/// For each turn a draw, so that after any number of turns each choice has had its share as nearly as may be: multiples
/// of the golden ratio.
pub(super) fn draw_of_turn(turn: usize) -> u64 {
    (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_from_the_least_to_all_as_envoy_has_it() {
        let linear = Warmup { duration_ms: 1_000, least: 0.1, aggression: 1.0 };
        for (age, part) in [(0, 0.1), (50, 0.1), (500, 0.5), (900, 0.9), (1_000, 1.0), (u64::MAX, 1.0)] {
            assert!((linear.part(age) - part).abs() < 1e-9, "{age}");
        }
        let steep = Warmup { aggression: 2.0, ..linear };
        assert!((steep.part(250) - 0.5).abs() < 1e-9, "the root");
    }

    #[test]
    fn turns_and_draws_give_each_its_share() {
        let weights = [1.0, 3.0, 0.0, 6.0];
        let mut counts = [0_u32; 4];
        for turn in 0..1_000 {
            counts[drawn(weights.into_iter().enumerate(), draw_of_turn(turn)).unwrap()] += 1;
        }
        for (count, weight) in counts.into_iter().zip(weights) {
            assert!((f64::from(count) - weight * 100.0).abs() <= 3.0, "{counts:?}");
        }
        assert_eq!(drawn(weights.into_iter().enumerate(), u64::MAX), Some(3));
        assert_eq!(drawn(std::iter::empty(), 7), None);
    }
}
