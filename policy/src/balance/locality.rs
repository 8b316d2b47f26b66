//! Where endpoints are, and which of them a client prefers for it. Istio's rules (`loadbalancer.go`) for the levels, and
//! Envoy's (`load_balancer_impl.cc`) for how much each level gets when endpoints of it do not serve.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use weft_wire::id::{Locality, NodeName};

use super::zones::{ZoneAwareness, Zones};
use crate::endpoint::{Endpoint, Place};

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What makes endpoints near, most important first.
pub(crate) const NEAREST: [&str; 4] = [REGION, ZONE, SUBZONE, HOSTNAME];

/// A level that has lost endpoints keeps all its requests until less than 1/1.4 of them serve, in percent.
const OVERPROVISIONING: u64 = 140;

impl Place {
    /// What a label says of a place: those of its locality and name that Kubernetes has, else its own.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        let Self { node, locality: Locality { region, zone, subzone }, labels } = self;
        let text = match name {
            HOSTNAME => node.as_ref().map_or("", NodeName::as_str),
            REGION => region,
            ZONE => zone,
            SUBZONE => subzone,
            name => return labels.get(name).map(String::as_str),
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

impl Endpoint {
    /// The workload's label, else its node's.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        let of_workload = self.workload.as_ref().and_then(|workload| workload.labels.get(name));
        of_workload.map(String::as_str).or_else(|| self.place.label(name))
    }

    /// Whether it has all of these labels.
    pub(crate) fn has_labels(&self, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(name, value)| self.label(name) == Some(value))
    }
}

/// Which endpoints a client prefers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Preference {
    #[default]
    None,
    /// Shares of the requests by locality. The first that covers an endpoint holds, and those of no share get nothing.
    Shares(Vec<(LocalityPattern, u64)>),
    /// The nearest, as long as they serve.
    Nearest {
        /// The client's.
        place: Arc<Place>,
        /// Labels, most important first, each with its value if that is not the client's. `None`: by locality.
        labels: Option<Vec<(String, Option<String>)>>,
        /// Which regions, by name, take over for which.
        failover: Vec<(String, String)>,
        /// Where it says which zones of the region are chosen, nearness is the region's alone.
        zones: Option<ZoneAwareness>,
    },
}

/// `REGION/ZONE/SUBZONE`, or its start.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LocalityPattern(Vec<String>);

impl LocalityPattern {
    pub(crate) fn read(text: &str) -> Self {
        let parts = text.split('/').take_while(|part| *part != "*" && !part.is_empty());
        Self(parts.map(str::to_owned).collect())
    }

    pub(crate) fn covers(&self, Locality { region, zone, subzone }: &Locality) -> bool {
        self.0.iter().zip([region, zone, subzone]).all(|(wanted, part)| wanted == part)
    }
}

impl Preference {
    /// An endpoint's level, the best first, or its share's place; `None` for one that gets nothing.
    pub(super) fn level(&self, endpoint: &Endpoint) -> Option<usize> {
        match self {
            Self::None => Some(0),
            Self::Shares(shares) => shares.iter().position(|(to, _)| to.covers(&endpoint.place.locality)),
            Self::Nearest { place, labels, failover, zones } => {
                let by_label = labels.as_ref().map(|labels| {
                    let matches = |(name, value): &(String, Option<String>)| {
                        value.as_deref().or_else(|| place.label(name)) == endpoint.label(name)
                    };
                    labels.len() - labels.iter().take_while(|label| matches(label)).count()
                });
                let (here, there) = (&place.locality, &endpoint.place.locality);
                let by_locality = match (zones, labels, failover.is_empty()) {
                    (Some(_), ..) if here.region == there.region => 0,
                    (None, Some(_), true) => 0,
                    _ => distance(here, there, failover),
                };
                Some(by_label.unwrap_or(0) * (FARTHEST + 1) + by_locality)
            }
        }
    }

    /// What endpoints of one level are sorted by: the client's own zone first; nothing where zones do not count.
    pub(super) fn zone(&self, endpoint: &Endpoint) -> Option<(bool, String)> {
        match self {
            Self::Nearest { place, zones: Some(_), .. } => {
                let zone = &endpoint.place.locality.zone;
                Some((*zone != place.locality.zone, zone.clone()))
            }
            _ => None,
        }
    }

    /// The zones of the best endpoints of a level, where they count: in the client's own region.
    pub(super) fn zones(&self, level: usize, endpoints: &[Arc<Endpoint>], best: &Range<usize>) -> Option<Zones> {
        match self {
            Self::Nearest { place, zones: Some(zones), .. } if level.is_multiple_of(FARTHEST + 1) => {
                Zones::new(zones, &place.locality.zone, endpoints, best.clone())
            }
            _ => None,
        }
    }

    pub(super) fn share(&self, level: usize) -> u64 {
        match self {
            Self::Shares(shares) => shares.get(level).map_or(0, |(_, weight)| *weight),
            Self::None | Self::Nearest { .. } => 0,
        }
    }
}

/// The greatest [`distance`].
const FARTHEST: usize = 4;

/// 0 in one subzone, 1 in one zone, 2 in one region, 3 elsewhere; 4 where another region takes over for the client's.
fn distance(from: &Locality, to: &Locality, failover: &[(String, String)]) -> usize {
    if from.region != to.region {
        let successor = failover.iter().find(|(failed, _)| *failed == from.region);
        return if successor.is_none_or(|(_, successor)| *successor == to.region) { 3 } else { FARTHEST };
    }
    match (from.zone == to.zone, from.subzone == to.subzone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// The endpoints of one level.
#[derive(Debug)]
pub(super) struct Level {
    /// As [`Preference::level`] has it.
    pub(super) number: usize,
    /// Those in the best tier, by their place in the cluster.
    pub(super) best: Range<usize>,
    /// All, whether they serve or not.
    pub(super) total: usize,
    /// For shares.
    pub(super) weight: u64,
    /// Of the best, where they count.
    pub(super) zones: Option<Zones>,
}

impl Level {
    /// How much of its part of the requests it can take, in percent, with so many of its endpoints that serve.
    pub(super) fn health(&self, serving: usize) -> u64 {
        Self::health_of(serving, self.total)
    }

    pub(super) fn health_of(serving: usize, total: usize) -> u64 {
        match total as u64 {
            0 => 0,
            total => (OVERPROVISIONING * serving as u64 / total).min(100),
        }
    }
}

/// Which level a request goes to. `serving` counts the endpoints of a level that serve; `random` is a fresh, uniform
/// number.
pub(super) fn choose_level(
    levels: &[Level],
    by_shares: bool,
    random: u64,
    serving: impl Fn(&Level) -> usize,
) -> Option<&Level> {
    let health = |level: &Level| level.health(serving(level));
    let point = |total: u64| ((u128::from(random) * u128::from(total)) >> 64) as u64;
    if by_shares {
        let weight = |level: &Level| level.weight * health(level);
        return at_point(levels, point(levels.iter().map(weight).sum()), weight);
    }
    // Most often the first level gets all.
    let first = levels.first()?;
    if health(first) >= 100 {
        return Some(first);
    }
    let total = levels.iter().map(health).sum::<u64>().min(100);
    at_point(levels, point(total), health)
}

/// The one in whose part a point lies, where each has as much as its weight, one behind the other.
pub(super) fn at_point<T>(all: &[T], mut point: u64, weight: impl Fn(&T) -> u64) -> Option<&T> {
    all.iter().find(|one| {
        let weight = weight(one);
        let is_chosen = point < weight;
        point = point.saturating_sub(weight);
        is_chosen
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locality(text: &str) -> Locality {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Locality { region: next(), zone: next(), subzone: next() }
    }

    #[test]
    fn the_nearer_the_better_and_a_region_that_takes_over_before_others() {
        let failover = [("eu".to_owned(), "us".to_owned())];
        let from = locality("eu/z1/s1");
        for (to, expected) in
            [("eu/z1/s1", 0), ("eu/z1/s2", 1), ("eu/z2/s1", 2), ("us/z1/s1", 3), ("asia", 4), ("eu", 2)]
        {
            assert_eq!(distance(&from, &locality(to), &failover), expected, "{to}");
        }
        assert_eq!(distance(&from, &locality("asia"), &[]), 3, "nobody takes over: all are alike");
        assert_eq!(distance(&locality("us/z1"), &locality("asia"), &failover), 3);
    }

    #[test]
    fn a_pattern_covers_what_begins_like_it() {
        for (pattern, place, covers) in [
            ("*", "eu/z1", true),
            ("eu", "eu/z1/s1", true),
            ("eu/*", "eu/z1", true),
            ("eu/z1/*", "eu/z1/s9", true),
            ("eu/z2", "eu/z1", false),
            ("eu/z1/s1", "eu/z1", false),
        ] {
            assert_eq!(LocalityPattern::read(pattern).covers(&locality(place)), covers, "{pattern} {place}");
        }
    }

    /// How many of 1,000 requests each level gets, of `(all, serving, weight)`.
    fn spread(levels: &[(usize, usize, u64)], by_shares: bool) -> Vec<u64> {
        let level = |(total, serving, weight): &(usize, usize, u64)| Level {
            number: 0,
            best: 0..*serving,
            total: *total,
            weight: *weight,
            zones: None,
        };
        let levels: Vec<Level> = levels.iter().map(level).collect();
        let mut counts = vec![0; levels.len()];
        for i in 0..1_000_u64 {
            let random = i * (u64::MAX / 1_000);
            let chosen = choose_level(&levels, by_shares, random, |level| level.best.len()).unwrap();
            counts[levels.iter().position(|level| std::ptr::eq(level, chosen)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn the_first_level_gets_all_until_too_few_of_it_serve() {
        assert_eq!(spread(&[(4, 4, 0), (4, 4, 0)], false), [1_000, 0]);
        assert_eq!(spread(&[(4, 3, 0), (4, 4, 0)], false), [1_000, 0], "3 of 4 are enough: 105 %");
        assert!(spread(&[(4, 2, 0), (4, 4, 0)], false)[0].abs_diff(700) <= 1);
        assert_eq!(spread(&[(4, 0, 0), (4, 4, 0)], false), [0, 1_000]);
        assert!(spread(&[(4, 1, 0), (4, 1, 0)], false)[0].abs_diff(500) <= 1);
    }

    #[test]
    fn shares_are_those_of_the_document_and_shrink_with_what_serves() {
        let counts = spread(&[(5, 5, 80), (2, 2, 20)], true);
        assert!(counts[0].abs_diff(800) <= 1, "{counts:?}");
        let counts = spread(&[(4, 2, 80), (2, 2, 20)], true);
        assert!(counts[0].abs_diff(737) <= 1, "5,600 to 2,000: {counts:?}");
        assert_eq!(spread(&[(4, 0, 80), (2, 2, 20)], true), [0, 1_000]);
        let nothing = [Level { number: 0, best: 0..0, total: 1, weight: 1, zones: None }];
        assert!(choose_level(&nothing, true, 7, |level| level.best.len()).is_none());
    }
}
