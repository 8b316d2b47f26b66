//! Clusters, and the choice of one endpoint among a cluster's.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use weft_wire::{fact::EndpointHealth, id::ServiceName};

use crate::endpoint::{Endpoint, Standing};

/// How an endpoint is chosen among equals. DestinationRule `loadBalancer.simple`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balancer {
    /// The less busy of two chosen at random (P2C).
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
}

/// Endpoints that one destination (service, port, subset) may go to.
#[derive(Debug)]
pub struct Cluster {
    /// Envoy's name for it, such as `outbound|9080|v1|reviews.default.svc.cluster.local`.
    pub name: String,
    pub service: ServiceName,
    pub fqdn: Arc<str>,
    /// The service's port.
    pub port: u16,
    /// Empty for the whole service.
    pub subset: String,
    pub balancer: Balancer,
    /// Sorted by tier (see [`Cluster::pick`]), then key, so that each tier is one slice. Draining ones come last and are in no tier.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Where each tier ends in `endpoints`.
    tier_ends: [usize; TIERS],
    /// Round robin's place. Shared by all cores: the order is the mesh's, not a core's.
    cursor: AtomicUsize,
}

const TIERS: usize = 4;

/// How good an endpoint is before recent failures are counted: 0 is best, `None` must get nothing new.
///
/// The last two tiers serve only where nothing better is left: a try beats a certain 503.
fn tier(endpoint: &Endpoint) -> Option<usize> {
    match (endpoint.health, endpoint.standing) {
        (EndpointHealth::Draining, _) => None,
        (EndpointHealth::Healthy, Standing::Preferred) => Some(0),
        (EndpointHealth::Healthy, Standing::Demoted) => Some(1),
        (EndpointHealth::Healthy, Standing::Excluded) => Some(2),
        (EndpointHealth::Unhealthy, _) => Some(3),
    }
}

impl Cluster {
    pub(crate) fn new(
        service: ServiceName,
        fqdn: Arc<str>,
        port: u16,
        subset: &str,
        balancer: Balancer,
        mut endpoints: Vec<Arc<Endpoint>>,
    ) -> Self {
        let rank = |endpoint: &Endpoint| tier(endpoint).unwrap_or(TIERS);
        endpoints.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.key.cmp(&b.key)));
        let tier_ends = std::array::from_fn(|t| endpoints.partition_point(|endpoint| rank(endpoint) <= t));
        Self {
            name: format!("outbound|{port}|{subset}|{fqdn}"),
            service,
            fqdn,
            port,
            subset: subset.to_owned(),
            balancer,
            endpoints,
            tier_ends,
            cursor: AtomicUsize::new(0),
        }
    }

    /// Chooses an endpoint: the best tier first (healthy and preferred, demoted, excluded, unhealthy), an endpoint
    /// with a recent connect failure ranking with the demoted; never a draining one. Those in `tried` are avoided if
    /// another exists. `random` is a fresh, uniform number; `now_ms` the caller's monotonic clock in milliseconds.
    ///
    /// Allocates nothing, and looks at two endpoints at most unless some are failing or tried.
    pub fn pick(&self, tried: &[Arc<Endpoint>], random: u64, now_ms: u64) -> Option<&Arc<Endpoint>> {
        let [best, demoted, excluded, usable] = self.tier_ends;
        let is_new = |endpoint: &Arc<Endpoint>| !tried.iter().any(|other| Arc::ptr_eq(other, endpoint));
        let is_passing = |endpoint: &Arc<Endpoint>| !endpoint.load.is_failing(now_ms);

        self.choose(0..best, random, |endpoint| is_passing(endpoint) && is_new(endpoint))
            .or_else(|| self.choose(best..demoted, random, |endpoint| is_passing(endpoint) && is_new(endpoint)))
            .or_else(|| self.choose(0..demoted, random, is_new))
            .or_else(|| self.choose(demoted..excluded, random, is_new))
            .or_else(|| self.choose(excluded..usable, random, is_new))
            .or_else(|| self.choose(0..usable, random, |_| true))
    }

    /// Chooses among the endpoints in `range` that are `eligible`.
    fn choose(
        &self,
        range: std::ops::Range<usize>,
        random: u64,
        eligible: impl Fn(&Arc<Endpoint>) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let tier = self.endpoints.get(range).unwrap_or_default();
        if tier.is_empty() {
            return None;
        }
        let draw = match self.balancer {
            Balancer::RoundRobin => Draw::InTurn(self.cursor.fetch_add(1, Ordering::Relaxed)),
            Balancer::LeastRequest | Balancer::Random => Draw::AtRandom(random),
        };
        if let Some(chosen) = self.choose_one(tier.len(), draw, |i| tier.get(i))
            && eligible(chosen)
        {
            return Some(chosen);
        }
        // Rare: count the eligible and choose among just those, so that an ineligible one's share is spread evenly.
        let count = tier.iter().filter(|endpoint| eligible(endpoint)).count();
        self.choose_one(count, draw.again(), |i| tier.iter().filter(|endpoint| eligible(endpoint)).nth(i))
    }

    /// Chooses among `count` endpoints, the `i`-th of which `get` gives.
    fn choose_one<'c>(
        &'c self,
        count: usize,
        draw: Draw,
        get: impl Fn(usize) -> Option<&'c Arc<Endpoint>>,
    ) -> Option<&'c Arc<Endpoint>> {
        if count == 0 {
            return None;
        }
        match (self.balancer, draw) {
            (_, Draw::InTurn(turn)) => get(turn % count),
            (Balancer::LeastRequest, Draw::AtRandom(random)) if count > 1 => {
                let (first, second) = two_of(count, random);
                let (first, second) = (get(first)?, get(second)?);
                Some(if second.load.active() < first.load.active() { second } else { first })
            }
            (_, Draw::AtRandom(random)) => get(below(random, count)),
        }
    }
}

#[derive(Clone, Copy)]
enum Draw {
    InTurn(usize),
    AtRandom(u64),
}

impl Draw {
    /// A number that does not depend on what the first drew: those that drew an ineligible endpoint are alike.
    fn again(self) -> Self {
        match self {
            Self::InTurn(turn) => Self::InTurn(turn),
            // The finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
            Self::AtRandom(random) => {
                let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                Self::AtRandom(mixed ^ (mixed >> 31))
            }
        }
    }
}

/// A number below `n`, even over a uniform `random` (Lemire's multiply-high).
fn below(random: u64, n: usize) -> usize {
    ((u128::from(random) * n as u128) >> 64) as usize
}

/// Two different numbers below `n`, which is 2 or more.
fn two_of(n: usize, random: u64) -> (usize, usize) {
    let first = below(random, n);
    let second = below(random.rotate_left(32), n - 1);
    (first, if second >= first { second + 1 } else { second })
}

#[cfg(test)]
mod tests {
    use weft_wire::{fact::Protocol, id::SpiffeId};

    use super::*;
    use crate::endpoint::{EndpointAddress, EndpointKey, EndpointLoad, Workload};

    fn endpoint(name: &str, health: EndpointHealth, standing: Standing) -> Arc<Endpoint> {
        let service: ServiceName = "reviews.default".parse().unwrap();
        let workload = Arc::new(Workload {
            namespace: service.namespace.clone(),
            name: name.parse().unwrap(),
            account: "default/reviews".parse().unwrap(),
            principal: String::new(),
            app: String::new(),
            version: String::new(),
            canonical_service: String::new(),
            canonical_revision: String::new(),
            service,
            node: "a".parse().unwrap(),
            labels: std::collections::BTreeMap::new(),
        });
        Arc::new(Endpoint {
            key: EndpointKey {
                node: workload.node.clone(),
                namespace: workload.namespace.clone(),
                workload: workload.name.clone(),
                target_port: 9080,
            },
            workload,
            address: EndpointAddress::Local(([127, 0, 0, 1], 9080).into()),
            identities: Arc::<[SpiffeId]>::from([]),
            protocol: Protocol::Http,
            health,
            standing,
            load: Arc::new(EndpointLoad::default()),
        })
    }

    fn cluster(balancer: Balancer, endpoints: Vec<Arc<Endpoint>>) -> Cluster {
        let service: ServiceName = "reviews.default".parse().unwrap();
        let fqdn = service.fqdn().into();
        Cluster::new(service, fqdn, 9080, "v1", balancer, endpoints)
    }

    fn healthy(names: &[&str]) -> Vec<Arc<Endpoint>> {
        names.iter().map(|name| endpoint(name, EndpointHealth::Healthy, Standing::Preferred)).collect()
    }

    /// Evenly spread numbers, as a random source gives them.
    fn spread(count: u64) -> impl Iterator<Item = u64> {
        (0..count).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    fn name(endpoint: Option<&Arc<Endpoint>>) -> &str {
        endpoint.map_or("none", |endpoint| endpoint.key.workload.as_str())
    }

    #[test]
    fn a_cluster_has_envoys_name() {
        let cluster = cluster(Balancer::default(), vec![]);
        assert_eq!(cluster.name, "outbound|9080|v1|reviews.default.svc.cluster.local");
    }

    #[test]
    fn the_best_tier_that_has_an_endpoint_serves() {
        use EndpointHealth::{Draining, Healthy, Unhealthy};
        let mut endpoints = vec![
            endpoint("draining", Draining, Standing::Preferred),
            endpoint("unhealthy", Unhealthy, Standing::Preferred),
            endpoint("excluded", Healthy, Standing::Excluded),
            endpoint("demoted", Healthy, Standing::Demoted),
            endpoint("preferred", Healthy, Standing::Preferred),
        ];
        for balancer in [Balancer::LeastRequest, Balancer::RoundRobin, Balancer::Random] {
            let mut endpoints = endpoints.clone();
            for expected in ["preferred", "demoted", "excluded", "unhealthy", "none"] {
                let cluster = cluster(balancer, endpoints.clone());
                for random in spread(50) {
                    assert_eq!(name(cluster.pick(&[], random, 0)), expected, "{balancer:?}");
                }
                endpoints.pop();
            }
        }
        endpoints.clear();
        assert!(cluster(Balancer::RoundRobin, endpoints).pick(&[], 0, 0).is_none());
    }

    #[test]
    fn round_robin_gives_each_its_turn() {
        let cluster = cluster(Balancer::RoundRobin, healthy(&["a", "b", "c"]));
        let turns: Vec<&str> = (0..6).map(|_| name(cluster.pick(&[], 7, 0))).collect();
        assert_eq!(turns, ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn random_spreads_evenly() {
        let cluster = cluster(Balancer::Random, healthy(&["a", "b", "c", "d"]));
        let mut counts = [0_u32; 4];
        for random in spread(8_000) {
            let chosen = cluster.pick(&[], random, 0).unwrap();
            counts[cluster.endpoints.iter().position(|other| Arc::ptr_eq(other, chosen)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (1_800..2_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn least_request_prefers_the_less_busy_of_two() {
        let endpoints = healthy(&["busy", "idle"]);
        let _active = endpoints[0].load.begin();
        let cluster = cluster(Balancer::LeastRequest, endpoints);
        assert!(spread(100).all(|random| name(cluster.pick(&[], random, 0)) == "idle"));
    }

    #[test]
    fn least_request_never_compares_an_endpoint_with_itself() {
        for n in 2..9 {
            for random in spread(200) {
                let (first, second) = two_of(n, random);
                assert!(first != second && first < n && second < n);
            }
        }
    }

    #[test]
    fn an_endpoint_that_was_tried_is_avoided_if_another_exists() {
        for balancer in [Balancer::LeastRequest, Balancer::RoundRobin, Balancer::Random] {
            let cluster = cluster(balancer, healthy(&["a", "b", "c"]));
            let tried = [cluster.endpoints[0].clone(), cluster.endpoints[2].clone()];
            assert!(spread(50).all(|random| name(cluster.pick(&tried, random, 0)) == "b"));
            assert!(cluster.pick(&cluster.endpoints, 1, 0).is_some(), "better the same again than none");
        }
    }

    #[test]
    fn a_failed_connect_ranks_an_endpoint_with_the_demoted_until_its_hold_ends() {
        use EndpointHealth::{Healthy, Unhealthy};
        let failing = endpoint("failing", Healthy, Standing::Preferred);
        failing.load.connect_failed(100);
        let with = |name: &str, health, standing| {
            cluster(Balancer::Random, vec![failing.clone(), endpoint(name, health, standing)])
        };
        let demoted = with("demoted", Healthy, Standing::Demoted);
        assert!(spread(20).all(|random| name(demoted.pick(&[], random, 200)) == "demoted"));
        let unhealthy = with("unhealthy", Unhealthy, Standing::Preferred);
        assert!(spread(20).all(|random| name(unhealthy.pick(&[], random, 200)) == "failing"));
        assert!(spread(20).all(|random| name(demoted.pick(&[], random, 1_100)) == "failing"), "the hold has ended");
    }

    #[test]
    fn the_share_of_a_failing_endpoint_is_spread_evenly() {
        let cluster = cluster(Balancer::Random, healthy(&["a", "b", "c", "d"]));
        cluster.endpoints[0].load.connect_failed(0);
        let mut counts = [0_u32; 4];
        for random in spread(9_000) {
            let chosen = cluster.pick(&[], random, 1).unwrap();
            counts[cluster.endpoints.iter().position(|other| Arc::ptr_eq(other, chosen)).unwrap()] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|count| (2_700..3_300).contains(count)), "{counts:?}");
    }
}
