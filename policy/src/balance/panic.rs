//! Envoy's panic (`load_balancer_impl.cc`): where so few endpoints serve that those left would be overrun, or that what
//! is known of the others is better not believed, all of them are used.

use std::sync::Arc;

use super::{Attempt, Cluster, Level, Preference};
use crate::endpoint::Endpoint;

impl Cluster {
    /// The choice among all endpoints, where panic has all serve; `None` where it does not.
    ///
    /// There is none as long as the levels together could take all requests, each up to 1.4 times its part. Below that, a
    /// level panics of whose endpoints less than the threshold serve; and if all levels do, it no longer matters which
    /// is near.
    pub(super) fn pick_in_panic(&self, attempt: &Attempt<'_>) -> Option<&Arc<Endpoint>> {
        let threshold = self.settings.panic_percent;
        if threshold <= 0.0 {
            return None;
        }
        let now_ms = attempt.now_ms;
        let [best, .., usable] = self.tier_ends;
        let panics = |serving: usize, total: usize| 100.0 * (serving as f64) < threshold * (total.max(1) as f64);
        let is_new = |endpoint: &Endpoint| !attempt.has_tried(endpoint);
        let any = || {
            let new = self.choose(0..usable, attempt, is_new);
            new.or_else(|| self.choose(0..usable, attempt, |_| true))
        };
        if !matches!(self.settings.preference, Preference::Nearest { .. }) {
            let serving = self.serving(0..best, now_ms);
            let is_short = Level::health_of(serving, usable) < 100 && panics(serving, usable);
            return is_short.then(any)?;
        }
        let serving = |level: &Level| self.serving(level.best.clone(), now_ms);
        if self.levels.iter().map(|level| level.health(serving(level))).sum::<u64>() >= 100 {
            return None;
        }
        let panics = |level: &Level| panics(serving(level), level.total);
        if self.levels.iter().all(panics) {
            return any();
        }
        let level = self.level_not_tried(attempt).or_else(|| self.level(attempt)).filter(|level| panics(level))?;
        let is_of_level = |endpoint: &Endpoint| self.settings.preference.level(endpoint) == Some(level.number);
        let new = self.choose(0..usable, attempt, |endpoint| is_of_level(endpoint) && is_new(endpoint));
        new.or_else(|| self.choose(0..usable, attempt, is_of_level))
    }
}
