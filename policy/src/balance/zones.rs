//! Zone awareness, as Envoy has it (`load_balancer_impl.cc`, zone aware routing): clients stay in their own zone as far as
//! its endpoints can take what they send, and the rest goes to zones that have more endpoints than clients of their own.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::locality::at_point;
use crate::endpoint::Endpoint;

/// With fewer endpoints in the region zones do not count, if no document says another number.
pub(crate) const DEFAULT_MIN_ENDPOINTS: usize = 6;

/// What zones of the client's region are chosen by.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ZoneAwareness {
    /// How many clients each zone of the region has.
    pub(crate) clients: BTreeMap<String, u64>,
    /// With fewer endpoints in the region zones do not count.
    pub(crate) min_endpoints: usize,
}

/// The endpoints of one zone that are in the best tier, by their place in the cluster.
#[derive(Debug)]
pub(super) struct Zone {
    pub(super) best: Range<usize>,
    clients: u64,
}

/// The zones of a client's region, its own first.
#[derive(Debug, Default)]
pub(super) struct Zones {
    zones: Vec<Zone>,
    min_endpoints: usize,
    clients: u64,
}

impl Zones {
    /// Of the `endpoints` in `range`, which are sorted by zone, the client's own `zone` first. None, if these are all in
    /// one zone, or none is in the client's.
    pub(super) fn new(
        awareness: &ZoneAwareness,
        zone: &str,
        endpoints: &[Arc<Endpoint>],
        range: Range<usize>,
    ) -> Option<Self> {
        let region = endpoints.get(range.clone())?;
        let mut start = range.start;
        let zones = region.chunk_by(|a, b| a.place.locality.zone == b.place.locality.zone).filter_map(|same| {
            let best = start..start + same.len();
            start = best.end;
            let name = &same.first()?.place.locality.zone;
            Some((name, Zone { best, clients: awareness.clients.get(name).copied().unwrap_or_default() }))
        });
        let (names, zones): (Vec<&String>, Vec<Zone>) = zones.unzip();
        let is_mixed = zones.len() > 1 && names.first().is_some_and(|first| *first == zone);
        is_mixed.then(|| Self {
            zones,
            min_endpoints: awareness.min_endpoints,
            clients: awareness.clients.values().sum(),
        })
    }

    /// Where a request goes; `None` where zones do not count. `serving` counts the endpoints of a zone that serve;
    /// `random` is a fresh, uniform number.
    pub(super) fn choose(&self, random: u64, serving: impl Fn(&Zone) -> usize) -> Option<&Zone> {
        let serving = |zone: &Zone| serving(zone) as u64;
        let (own, others) = self.zones.split_first()?;
        let all: u64 = self.zones.iter().map(serving).sum();
        let here = serving(own);
        if here == 0 || all < self.min_endpoints as u64 {
            return None;
        }
        // The zone's part of the endpoints, and of the clients, over a common denominator.
        let (capacity, demand) = (here * self.clients, own.clients * all);
        if capacity >= demand {
            return Some(own);
        }
        let scaled = |number: u64, to: u64| ((u128::from(number) * u128::from(to)) >> 64) as u64;
        let point = scaled(random, demand);
        if point < capacity {
            return Some(own);
        }
        let spare = |zone: &Zone| (serving(zone) * self.clients).saturating_sub(zone.clients * all);
        let total: u64 = others.iter().map(spare).sum();
        let over = u128::from(point - capacity) * u128::from(total) / u128::from(demand - capacity);
        at_point(others, u64::try_from(over).unwrap_or(u64::MAX), spare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 1,000 requests each zone gets, of `(endpoints, clients)`, and how many no zone.
    fn spread(zones: &[(usize, u64)], min_endpoints: usize) -> (Vec<u64>, u64) {
        let clients = zones.iter().map(|(_, clients)| clients).sum();
        let made = zones.iter().map(|(endpoints, clients)| Zone { best: 0..*endpoints, clients: *clients });
        let zones = Zones { zones: made.collect(), min_endpoints, clients };
        let (mut counts, mut anywhere) = (vec![0; zones.zones.len()], 0);
        for i in 0..1_000_u64 {
            match zones.choose(i * (u64::MAX / 1_000), |zone| zone.best.len()) {
                Some(chosen) => counts[zones.zones.iter().position(|zone| std::ptr::eq(zone, chosen)).unwrap()] += 1,
                None => anywhere += 1,
            }
        }
        (counts, anywhere)
    }

    #[test]
    fn a_zone_with_its_part_of_the_endpoints_keeps_its_clients() {
        assert_eq!(spread(&[(3, 2), (3, 2)], 6), (vec![1_000, 0], 0));
        assert_eq!(spread(&[(5, 1), (1, 3)], 6), (vec![1_000, 0], 0));
        assert_eq!(spread(&[(4, 0), (4, 0)], 6), (vec![1_000, 0], 0), "no node says where it is");
    }

    #[test]
    fn what_a_zone_cannot_take_goes_where_there_are_endpoints_to_spare() {
        // A quarter of the endpoints and half of the clients: half stays, and the other zone takes the rest.
        let (counts, anywhere) = spread(&[(2, 2), (6, 2)], 6);
        assert!(counts[0].abs_diff(500) <= 1 && anywhere == 0, "{counts:?}");
        // The second has nothing to spare; the third and the fourth have 1 and 2 of 8.
        let (counts, anywhere) = spread(&[(1, 4), (2, 2), (2, 1), (3, 1)], 6);
        assert!(counts[0].abs_diff(250) <= 1 && counts[1] == 0 && anywhere == 0, "{counts:?}");
        assert!(counts[2].abs_diff(250) <= 1 && counts[3].abs_diff(500) <= 1, "{counts:?}");
    }

    #[test]
    fn zones_do_not_count_with_few_endpoints_or_none_in_the_own_zone() {
        assert_eq!(spread(&[(2, 1), (3, 1)], 6), (vec![0, 0], 1_000));
        let (counts, anywhere) = spread(&[(2, 1), (3, 1)], 5);
        assert!(counts[0].abs_diff(800) <= 1 && anywhere == 0, "{counts:?}");
        assert_eq!(spread(&[(0, 1), (9, 1)], 1), (vec![0, 0], 1_000));
    }
}
