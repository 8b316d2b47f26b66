//! Clusters, and the choice of one endpoint among a cluster's.

mod hash;
mod hearsay;
mod latency;
mod limits;
mod locality;
mod original;
mod outlier;
mod panic;
mod spared;
mod table;
mod weight;
mod zones;

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use weft_wire::{
    circuit::CircuitCause,
    fact::{EndpointHealth, Protocol},
};

pub(crate) use self::{
    hash::{CookieKey, HashKey, PseudoHeader},
    latency::Latency,
    limits::{Limits, Retries},
    locality::{LocalityPattern, NEAREST, Preference},
    outlier::OutlierSettings,
    table::TableKind,
    weight::Warmup,
    zones::{DEFAULT_MIN_ENDPOINTS, ZoneAwareness},
};
pub use self::{
    hash::{HashPolicy, Hashed, Keyed},
    hearsay::MeshVerdict,
    limits::{Held, Overflow},
    original::OriginalDestination,
    outlier::{Failures, Monitor, Outcome, Trip, Verdict},
};
use self::{
    limits::InUse,
    locality::{Level, choose_level},
    outlier::Noted,
    table::Table,
    weight::{Warmth, draw_of_turn, drawn},
};
use crate::{
    circuit::Sharing,
    connection::ConnectionSettings,
    endpoint::{Endpoint, EndpointAddress, Standing},
    learned::Learned,
    retry::Hedging,
};

/// How an endpoint is chosen among equals. DestinationRule `loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Balancer {
    /// The less busy of two chosen at random (P2C).
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
    /// Of two chosen at random the one that is likely to answer sooner: by how long its answers took, times the requests
    /// that it would have.
    PeakEwma {
        /// In which what is known fades to 1/e.
        decay_ms: u64,
    },
    /// The one that the request's key belongs to; at random without a key.
    Hash(Arc<HashPolicy>),
}

/// What documents say of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) balancer: Balancer,
    pub(crate) preference: Preference,
    pub(crate) outlier: Option<OutlierSettings>,
    /// With fewer endpoints that serve all are used; see [`Cluster::pick_in_panic`]. 0 is never.
    pub(crate) panic_percent: f64,
    /// What others have seen of its endpoints counts so far.
    pub(crate) sharing: Sharing,
    pub(crate) limits: Limits,
    /// `None` where nothing is said, as mostly.
    pub(crate) connection: Option<Arc<ConnectionSettings>>,
    pub(crate) warmup: Option<Warmup>,
    pub(crate) hedging: Option<Hedging>,
    /// Of a cluster whose endpoints are those that its requests ask for.
    pub(crate) original: Option<OriginalDestination>,
    /// See [`Cluster::is_one_host`].
    pub(crate) is_one_host: bool,
}

/// What a choice depends on, besides the cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempt<'a> {
    /// Endpoints that this request has been to: avoided if another exists.
    pub tried: &'a [Arc<Endpoint>],
    /// Where the nearest are preferred: a level with one that was tried is avoided too if another has an endpoint.
    pub leaves_level: bool,
    /// The request's key; see [`HashPolicy::hash`].
    pub hash: Option<u64>,
    /// A fresh, uniform number.
    pub random: u64,
    /// The caller's monotonic clock, in milliseconds.
    pub now_ms: u64,
}

impl Attempt<'_> {
    fn has_tried(&self, endpoint: &Endpoint) -> bool {
        self.tried.iter().any(|other| std::ptr::eq(&**other, endpoint))
    }
}

/// Endpoints that one destination (service, port, subset) may go to.
#[derive(Debug)]
pub struct Cluster {
    /// Envoy's name for it, such as `outbound|9080|v1|reviews.default.svc.cluster.local`.
    pub name: Arc<str>,
    pub fqdn: Arc<str>,
    /// The service's port.
    pub port: u16,
    /// Empty for the whole service.
    pub subset: String,
    settings: Settings,
    /// Sorted by tier (see [`Cluster::pick`]), level, then key, so that each is one slice. Draining ones come last and
    /// are in no tier.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Where each tier ends in `endpoints`.
    tier_ends: [usize; TIERS],
    /// By how near they are, or by their share; one that has all where that does not count.
    levels: Vec<Level>,
    /// Not all weigh the same, and it matters.
    is_weighted: bool,
    warmth: Option<Warmth>,
    table: Option<Arc<Table>>,
    /// For each of the table's names its place in `endpoints`.
    places: Vec<u32>,
    /// Nobody declared what some endpoint speaks.
    is_undeclared: bool,
    state: Arc<ClusterState>,
}

/// What a cluster remembers of its requests. It outlives views, which come with each change of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct ClusterState {
    /// Round robin's place. Shared by all cores: the order is the mesh's, not a core's.
    cursor: AtomicUsize,
    in_use: Arc<InUse>,
    /// Until then, on the callers' clock, some endpoint may be ejected.
    ejections_until_ms: AtomicU64,
    /// One verdict at a time: each counts those before it.
    judging: Mutex<()>,
    learned: Learned,
}

/// What a cluster is called.
#[derive(Clone, Debug)]
pub(crate) struct ClusterName<'a> {
    pub(crate) fqdn: &'a Arc<str>,
    pub(crate) port: u16,
    pub(crate) subset: &'a str,
}

/// What a cluster's callers have seen of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sighting {
    Failing(Failures),
    Ejected { failures: Failures, until_ms: u64 },
}

impl ClusterName<'_> {
    fn text(&self) -> String {
        format!("outbound|{}|{}|{}", self.port, self.subset, self.fqdn)
    }
}

/// After so many owners of a key that cannot serve it is worth a look whether any endpoint can.
const FEW_OWNERS: usize = 16;

const TIERS: usize = 4;

/// How good an endpoint is before recent failures are counted: 0 is best, `None` must get nothing new. Overloaded ones are
/// among the best unless they are spared.
///
/// The last two tiers serve only where nothing better is left: a try beats a certain 503.
fn tier(endpoint: &Endpoint, spares_overloaded: bool) -> Option<usize> {
    match (endpoint.health, endpoint.standing) {
        (EndpointHealth::Draining, _) => None,
        (EndpointHealth::Overloaded, Standing::Preferred) if spares_overloaded => Some(1),
        (EndpointHealth::Healthy | EndpointHealth::Overloaded, Standing::Preferred) => Some(0),
        (EndpointHealth::Healthy | EndpointHealth::Overloaded, Standing::Demoted) => Some(1),
        (EndpointHealth::Healthy | EndpointHealth::Overloaded, Standing::Excluded) => Some(2),
        (EndpointHealth::Unhealthy, _) => Some(3),
    }
}

fn is_undeclared(protocol: Protocol) -> bool {
    protocol == Protocol::Auto
}

impl Cluster {
    /// `previous` is this cluster in the view before, whose memory and table it goes on with.
    pub(crate) fn new(
        name: &ClusterName<'_>,
        mut settings: Settings,
        mut endpoints: Vec<Arc<Endpoint>>,
        previous: Option<&Cluster>,
    ) -> Self {
        // The same place in memory, so that connections made for the one are quickly found to be for the other.
        if let Some(known) = previous.filter(|previous| previous.settings.connection == settings.connection) {
            settings.connection.clone_from(&known.settings.connection);
        }
        let Settings { balancer, preference, outlier, warmup, original, .. } = &settings;
        endpoints.retain(|endpoint| preference.level(endpoint).is_some());
        if outlier.is_some() {
            endpoints.iter_mut().for_each(|endpoint| *endpoint = monitored(endpoint, previous));
        }
        let spares_overloaded = spared::are_spared(&endpoints, settings.panic_percent);
        let rank = |endpoint: &Endpoint| tier(endpoint, spares_overloaded).unwrap_or(TIERS);
        let level = |endpoint: &Endpoint| preference.level(endpoint).unwrap_or_default();
        endpoints.sort_by_cached_key(|endpoint| {
            (rank(endpoint), level(endpoint), preference.zone(endpoint), endpoint.key.clone())
        });
        let tier_ends = std::array::from_fn(|t| endpoints.partition_point(|endpoint| rank(endpoint) <= t));
        let known_table = previous.and_then(|previous| previous.table.as_ref());
        let usable = endpoints.get(..tier_ends[TIERS - 1]).unwrap_or_default();
        let (table, places) = match balancer {
            Balancer::Hash(policy) => {
                let (table, places) = hash_table(policy.table, usable, known_table);
                (Some(table), places)
            }
            _ => (None, Vec::new()),
        };
        // As in Envoy, where chance knows no weights, and only those who are chosen in turn or by their load warm up.
        let is_weighted = *balancer != Balancer::Random
            && usable.first().is_some_and(|first| usable.iter().any(|other| other.weight != first.weight));
        let warms = matches!(balancer, Balancer::LeastRequest | Balancer::RoundRobin | Balancer::PeakEwma { .. });
        let warmth = warmup.as_ref().filter(|_| warms).map(|warmup| {
            let known = previous.and_then(|previous| Some((previous.warmth.as_ref()?, &previous.endpoints[..])));
            Warmth::new(warmup, &endpoints, known)
        });
        Self {
            name: name.text().into(),
            fqdn: name.fqdn.clone(),
            port: name.port,
            subset: name.subset.to_owned(),
            levels: levels(preference, usable, tier_ends[0]),
            is_weighted,
            warmth,
            is_undeclared: endpoints.iter().map(|endpoint| endpoint.protocol).any(is_undeclared)
                || original.is_some_and(|original| is_undeclared(original.protocol)),
            settings,
            endpoints,
            tier_ends,
            table,
            places,
            state: previous.map(|previous| previous.state.clone()).unwrap_or_default(),
        }
    }

    pub fn balancer(&self) -> &Balancer {
        &self.settings.balancer
    }

    /// While fewer endpoints serve, in percent, all are used; 0 is never.
    pub fn panic_percent(&self) -> f64 {
        self.settings.panic_percent
    }

    /// When its requests are sent to a second endpoint, if ever.
    pub fn hedging(&self) -> Option<&Hedging> {
        self.settings.hedging.as_ref()
    }

    /// What is said of its connections, if anything.
    pub fn connection(&self) -> Option<&Arc<ConnectionSettings>> {
        self.settings.connection.as_ref()
    }

    /// Whether what is sent to one of its endpoints crosses the network without TLS.
    pub fn is_called_in_the_clear(&self, endpoint: &Endpoint) -> bool {
        let is_protected = self.connection().is_some_and(|settings| settings.protection.is_some());
        matches!(endpoint.address, EndpointAddress::Outside(_)) && !is_protected
    }

    /// How a request's key is found, if keys choose endpoints here.
    pub fn hash_policy(&self) -> Option<&HashPolicy> {
        match &self.settings.balancer {
            Balancer::Hash(policy) => Some(policy),
            _ => None,
        }
    }

    /// Chooses an endpoint: the best tier first (healthy and preferred, demoted, excluded, unhealthy), an endpoint that is
    /// overloaded or has a recent connect failure ranking with the demoted; in the best tier the nearest, or by shares of
    /// localities.
    /// Never a draining one; and one that is ejected only in panic.
    ///
    /// Allocates nothing, and looks at two endpoints at most unless some are failing or tried, or weigh less than others.
    pub fn pick(&self, attempt: &Attempt<'_>) -> Option<&Arc<Endpoint>> {
        let [best, demoted, excluded, usable] = self.tier_ends;
        let now_ms = attempt.now_ms;
        if let Some(found) = self.pick_in_panic(attempt) {
            return Some(found);
        }
        let is_new = |endpoint: &Endpoint| !attempt.has_tried(endpoint);
        let serves = |endpoint: &Endpoint| !endpoint.is_ejected(now_ms);
        let is_left = |endpoint: &Endpoint| serves(endpoint) && is_new(endpoint);
        let is_passing = |endpoint: &Endpoint| !endpoint.is_doubtful(now_ms) && is_left(endpoint);

        self.level_not_tried(attempt)
            .or_else(|| self.level(attempt))
            .and_then(|level| {
                self.in_zone(level, attempt, is_passing)
                    .or_else(|| self.choose(level.best.clone(), attempt, is_passing))
            })
            .or_else(|| self.in_any_level(attempt, is_passing))
            .or_else(|| self.choose(best..demoted, attempt, is_passing))
            .or_else(|| self.choose(0..demoted, attempt, is_left))
            .or_else(|| self.choose(demoted..excluded, attempt, is_left))
            .or_else(|| self.choose(excluded..usable, attempt, is_left))
            .or_else(|| self.choose(0..usable, attempt, serves))
    }

    /// Where a request looks first.
    fn level(&self, attempt: &Attempt<'_>) -> Option<&Level> {
        if let [only] = self.levels.as_slice() {
            return Some(only);
        }
        let by_shares = matches!(self.settings.preference, Preference::Shares(_));
        // A number of its own, so that the choice within the level is free; a key stays with its level.
        let random = mixed(attempt.hash.unwrap_or(attempt.random));
        choose_level(&self.levels, by_shares, random, |level| self.serving(level.best.clone(), attempt.now_ms))
    }

    /// Where a request looks next that leaves each level where it has been.
    fn level_not_tried(&self, attempt: &Attempt<'_>) -> Option<&Level> {
        let is_near = matches!(self.settings.preference, Preference::Nearest { .. });
        if !attempt.leaves_level || attempt.tried.is_empty() || !is_near {
            return None;
        }
        let was_tried = |endpoint: &Arc<Endpoint>| attempt.tried.iter().any(|tried| tried.key == endpoint.key);
        let in_level = |level: &Level| self.endpoints.get(level.best.clone()).unwrap_or_default();
        self.levels.iter().find(|level| {
            self.serving(level.best.clone(), attempt.now_ms) > 0 && !in_level(level).iter().any(was_tried)
        })
    }

    /// One in the zone of a level that a request goes to, where zones count; keys know no zones, as in Envoy.
    fn in_zone(
        &self,
        level: &Level,
        attempt: &Attempt<'_>,
        eligible: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let zones = level.zones.as_ref().filter(|_| self.table.is_none())?;
        // A number of its own, so that the choice within the zone is free.
        let zone = zones.choose(mixed(!attempt.random), |zone| self.serving(zone.best.clone(), attempt.now_ms))?;
        self.choose(zone.best.clone(), attempt, eligible)
    }

    /// The best of the other levels, where the one that was looked at has nothing.
    fn in_any_level(&self, attempt: &Attempt<'_>, eligible: impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let others = self.levels.get(..).filter(|levels| levels.len() > 1).into_iter().flatten();
        others.into_iter().find_map(|level| self.choose(level.best.clone(), attempt, &eligible))
    }

    /// How many of these are not ejected.
    fn serving(&self, range: Range<usize>, now_ms: u64) -> usize {
        if now_ms >= self.state.ejections_until_ms.load(Ordering::Relaxed) {
            return range.len();
        }
        let endpoints = self.endpoints.get(range).unwrap_or_default();
        endpoints.iter().filter(|endpoint| !endpoint.is_ejected(now_ms)).count()
    }

    /// Notes what came of a try. If that was one failure too many in a row, or the first try since an ejection has ended,
    /// says what follows: one caller hears it.
    pub fn record(&self, endpoint: &Arc<Endpoint>, outcome: Outcome, now_ms: u64) -> Option<Verdict> {
        let (settings, monitor) = (self.settings.outlier.as_ref()?, endpoint.monitor.as_ref()?);
        let has_returned = monitor.has_returned(now_ms);
        let verdict = match monitor.note(settings, outcome, now_ms) {
            Some(Noted::TooMany(failures)) => self.judge(endpoint, settings, monitor, failures, now_ms),
            Some(Noted::WorthTelling(failures)) => Some(Verdict::Failing(failures)),
            None => None,
        };
        verdict.or(has_returned.then_some(Verdict::Returned))
    }

    fn judge(
        &self,
        endpoint: &Arc<Endpoint>,
        settings: &OutlierSettings,
        monitor: &Monitor,
        failures: Failures,
        now_ms: u64,
    ) -> Option<Verdict> {
        if failures.cause == CircuitCause::FailurePercentage && !self.has_comparable(settings, now_ms) {
            return None;
        }
        // Somebody judges just now: then the next failure asks again.
        let Ok(_judging) = self.state.judging.try_lock() else { return None };
        if monitor.is_ejected(now_ms) {
            return None;
        }
        if !self.may_be_out(endpoint, settings, now_ms) {
            monitor.forgive(failures.cause);
            return Some(Verdict::Overflow);
        }
        let until_ms = monitor.eject(settings, failures, now_ms);
        self.state.ejections_until_ms.fetch_max(until_ms, Ordering::Relaxed);
        Some(Verdict::Ejected(Trip { endpoint: endpoint.clone(), failures, until_ms }))
    }

    /// Whether enough endpoints have had enough requests for shares of failures to say something.
    fn has_comparable(&self, settings: &OutlierSettings, now_ms: u64) -> bool {
        let monitors = self.endpoints.iter().filter_map(|endpoint| endpoint.monitor.as_ref());
        monitors.filter(|monitor| monitor.is_comparable(settings, now_ms)).nth(outlier::LEAST_ENDPOINTS - 1).is_some()
    }

    /// Whether `maxEjectionPercent` lets this endpoint be out besides the others that are.
    fn may_be_out(&self, endpoint: &Endpoint, settings: &OutlierSettings, now_ms: u64) -> bool {
        let all = self.endpoints.len();
        let others = self.endpoints.iter().filter(|other| other.is_ejected(now_ms) && other.key != endpoint.key);
        let out = others.count() + 1;
        100 * out as u64 <= settings.max_ejection_percent * all as u64
    }

    /// Takes in what the mesh says of an endpoint. If its callers here have seen as much themselves, says what follows.
    pub fn hear(&self, endpoint: &Arc<Endpoint>, mut verdict: MeshVerdict, now_ms: u64) -> Option<Trip> {
        let (settings, monitor) = (self.settings.outlier.as_ref()?, endpoint.monitor.as_ref()?);
        if verdict.standing == Standing::Excluded && !self.may_be_out(endpoint, settings, now_ms) {
            verdict.standing = Standing::Demoted;
        }
        monitor.hear(verdict);
        if verdict.standing == Standing::Excluded {
            self.state.ejections_until_ms.fetch_max(verdict.until_ms, Ordering::Relaxed);
        }
        let failures = monitor.reconsider(settings, now_ms)?;
        match self.judge(endpoint, settings, monitor, failures, now_ms)? {
            Verdict::Ejected(trip) => Some(trip),
            _ => None,
        }
    }

    /// What its callers here have seen of an endpoint that others want to know.
    pub(crate) fn sighting(&self, endpoint: &Endpoint, now_ms: u64) -> Option<Sighting> {
        let (settings, monitor) = (self.settings.outlier.as_ref()?, endpoint.monitor.as_ref()?);
        let ejection = monitor.ejection(now_ms).map(|(failures, until_ms)| Sighting::Ejected { failures, until_ms });
        ejection.or_else(|| monitor.failures(settings, now_ms).map(Sighting::Failing))
    }

    /// How far what others have seen counts; `None` where nobody looks at failures.
    pub fn sharing(&self) -> Option<&Sharing> {
        self.settings.outlier.as_ref().map(|_| &self.settings.sharing)
    }

    /// Whether endpoints are chosen by how long they take.
    pub fn is_timed(&self) -> bool {
        matches!(self.settings.balancer, Balancer::PeakEwma { .. })
    }

    /// Notes how long an endpoint took to answer.
    pub fn took(&self, endpoint: &Endpoint, time: Duration, now_ms: u64) {
        if let Balancer::PeakEwma { decay_ms } = self.settings.balancer {
            endpoint.load.latency.observe(time.as_secs_f32() * 1e6, now_ms, decay_ms);
        }
    }

    /// Notes how long an endpoint was waited for in vain: it takes at least that long.
    pub fn was_awaited(&self, endpoint: &Endpoint, time: Duration, now_ms: u64) {
        if let Balancer::PeakEwma { decay_ms } = self.settings.balancer
            && time.as_secs_f64() * 1e6 > endpoint.load.latency.estimate(now_ms, decay_ms)
        {
            self.took(endpoint, time, now_ms);
        }
    }

    /// What its endpoints were heard to speak; `None` where that is declared.
    pub fn learned(&self) -> Option<&Learned> {
        self.is_undeclared.then_some(&self.state.learned)
    }

    /// Whether what comes of a try is looked at.
    pub fn is_recorded(&self) -> bool {
        self.settings.outlier.is_some()
    }

    /// A place among the requests that may be under way; `None` where they are not limited.
    ///
    /// # Errors
    /// There is none.
    pub fn hold_request(&self) -> Result<Option<Held>, Overflow> {
        self.state.in_use.request(&self.settings.limits)
    }

    /// A place among the connections; `None` where they are not limited.
    ///
    /// # Errors
    /// There is none.
    pub fn hold_connection(&self) -> Result<Option<Held>, Overflow> {
        self.state.in_use.connection(&self.settings.limits)
    }

    /// A place among the connections, as soon as there is one. `place` is the caller's among those who wait: `None` at
    /// first, and kept until the answer.
    pub fn poll_connection(&self, place: &mut Option<Held>, cx: &Context<'_>) -> Poll<Result<Option<Held>, Overflow>> {
        self.state.in_use.poll_connection(&self.settings.limits, place, cx)
    }

    /// A place among the retries that may be under way.
    ///
    /// # Errors
    /// There is none.
    pub fn hold_retry(&self) -> Result<Held, Overflow> {
        let active = || self.endpoints.iter().map(|endpoint| endpoint.load.active()).sum();
        self.state.in_use.retry(&self.settings.limits, active)
    }

    /// A place among the copies of requests that may be under way: a mirror that does not keep up gets fewer of them.
    ///
    /// # Errors
    /// There is none.
    pub fn hold_copy(&self) -> Result<Held, Overflow> {
        self.state.in_use.copy()
    }

    /// Chooses among the endpoints in `range` that are `eligible`.
    fn choose(
        &self,
        range: Range<usize>,
        attempt: &Attempt<'_>,
        eligible: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let tier = self.endpoints.get(range.clone()).unwrap_or_default();
        let [.., usable] = self.tier_ends;
        if tier.is_empty() {
            return None;
        }
        if let (Some(table), Some(hash)) = (&self.table, attempt.hash) {
            return self.owner(table, hash, range, eligible);
        }
        let draw = match self.settings.balancer {
            Balancer::RoundRobin => Draw::InTurn(self.state.cursor.fetch_add(1, Ordering::Relaxed)),
            _ => Draw::AtRandom(attempt.random),
        };
        if self.is_weighted || self.warmth.as_ref().is_some_and(|warmth| warmth.is_going_on(usable, attempt.now_ms)) {
            let endpoints = range.zip(tier).filter(|(_, endpoint)| eligible(endpoint));
            let weights = endpoints.map(|(place, endpoint)| (place, self.weight(place, endpoint, attempt.now_ms)));
            return self.endpoints.get(drawn(weights, draw.number())?);
        }
        if let Some(chosen) = self.choose_one(tier.len(), draw, attempt.now_ms, |i| tier.get(i))
            && eligible(chosen)
        {
            return Some(chosen);
        }
        // Rare: count the eligible and choose among just those, so that an ineligible one's share is spread evenly.
        let count = tier.iter().filter(|endpoint| eligible(endpoint)).count();
        let nth = |i| tier.iter().filter(|endpoint| eligible(endpoint)).nth(i);
        self.choose_one(count, draw.again(), attempt.now_ms, nth)
    }

    /// What an endpoint weighs now, with its load where that counts.
    fn weight(&self, place: usize, endpoint: &Endpoint, now_ms: u64) -> f64 {
        let weight = f64::from(endpoint.weight) * self.warmth.as_ref().map_or(1.0, |warmth| warmth.part(place, now_ms));
        match self.settings.balancer {
            Balancer::LeastRequest => weight / (f64::from(endpoint.load.active()) + 1.0),
            Balancer::PeakEwma { decay_ms } => weight / cost(endpoint, now_ms, decay_ms),
            Balancer::RoundRobin | Balancer::Random | Balancer::Hash(_) => weight,
        }
    }

    /// The first owner of a key that is in `range` and `eligible`: the keys of one that is not are spread over the
    /// others, and all other keys stay where they are.
    fn owner(
        &self,
        table: &Table,
        hash: u64,
        range: Range<usize>,
        eligible: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let serves = |owner: usize| {
            let place = *self.places.get(owner)? as usize;
            let endpoint = self.endpoints.get(place).filter(|_| range.contains(&place))?;
            eligible(endpoint).then_some(endpoint)
        };
        let mut owners = table.owners_of(hash);
        owners.by_ref().take(FEW_OWNERS).find_map(serves).or_else(|| {
            let mut in_range = self.endpoints.get(range.clone()).unwrap_or_default().iter();
            in_range.any(|endpoint| eligible(endpoint)).then(|| owners.find_map(serves))?
        })
    }

    /// Chooses among `count` endpoints, the `i`-th of which `get` gives.
    fn choose_one<'c>(
        &'c self,
        count: usize,
        draw: Draw,
        now_ms: u64,
        get: impl Fn(usize) -> Option<&'c Arc<Endpoint>>,
    ) -> Option<&'c Arc<Endpoint>> {
        if count == 0 {
            return None;
        }
        match (&self.settings.balancer, draw) {
            (_, Draw::InTurn(turn)) => get(turn % count),
            (Balancer::LeastRequest, Draw::AtRandom(random)) if count > 1 => {
                let (first, second) = two_of(count, random);
                let (first, second) = (get(first)?, get(second)?);
                Some(if second.load.active() < first.load.active() { second } else { first })
            }
            (Balancer::PeakEwma { decay_ms }, Draw::AtRandom(random)) if count > 1 => {
                let (first, second) = two_of(count, random);
                let (first, second) = (get(first)?, get(second)?);
                let cost = |endpoint| cost(endpoint, now_ms, *decay_ms);
                Some(if cost(second) < cost(first) { second } else { first })
            }
            (_, Draw::AtRandom(random)) => get(below(random, count)),
        }
    }
}

/// In how many microseconds an endpoint is likely to have answered one request more.
fn cost(endpoint: &Endpoint, now_ms: u64, decay_ms: u64) -> f64 {
    endpoint.load.latency.estimate(now_ms, decay_ms) * (f64::from(endpoint.load.active()) + 1.0)
}

#[derive(Clone, Copy)]
enum Draw {
    InTurn(usize),
    AtRandom(u64),
}

impl Draw {
    /// As a number that is spread evenly.
    fn number(self) -> u64 {
        match self {
            Self::InTurn(turn) => draw_of_turn(turn),
            Self::AtRandom(random) => random,
        }
    }

    /// A number that does not depend on what the first drew: those that drew an ineligible endpoint are alike.
    fn again(self) -> Self {
        match self {
            Self::InTurn(turn) => Self::InTurn(turn),
            Self::AtRandom(random) => Self::AtRandom(mixed(random)),
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
pub(crate) fn mixed(random: u64) -> u64 {
    let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The endpoint with what was seen of it, in the view before or from now on.
fn monitored(endpoint: &Arc<Endpoint>, previous: Option<&Cluster>) -> Arc<Endpoint> {
    let known = previous.into_iter().flat_map(|previous| &previous.endpoints).find(|known| known.key == endpoint.key);
    let monitor = known.and_then(|known| known.monitor.clone()).unwrap_or_default();
    Arc::new(Endpoint { monitor: Some(monitor), ..Endpoint::clone(endpoint) })
}

/// The levels of these endpoints, the best `best` of which are sorted by level.
fn levels(preference: &Preference, endpoints: &[Arc<Endpoint>], best: usize) -> Vec<Level> {
    if *preference == Preference::None {
        return vec![Level { number: 0, best: 0..best, total: endpoints.len(), weight: 0, zones: None }];
    }
    let of: Vec<usize> = endpoints.iter().filter_map(|endpoint| preference.level(endpoint)).collect();
    let mut numbers = of.clone();
    numbers.sort_unstable();
    numbers.dedup();
    let sorted = of.get(..best).unwrap_or_default();
    let level = |number: usize| {
        let best = sorted.partition_point(|of| *of < number)..sorted.partition_point(|of| *of <= number);
        Level {
            number,
            total: of.iter().filter(|of| **of == number).count(),
            weight: preference.share(number),
            zones: preference.zones(number, endpoints, &best),
            best,
        }
    };
    numbers.into_iter().map(level).collect()
}

/// The table for these endpoints, the known one if it is; and for each of its names the endpoint's place.
fn hash_table(kind: TableKind, endpoints: &[Arc<Endpoint>], known: Option<&Arc<Table>>) -> (Arc<Table>, Vec<u32>) {
    let mut sorted: Vec<(u32, &Arc<Endpoint>)> = (0..).zip(endpoints).collect();
    sorted.sort_by(|(_, a), (_, b)| a.key.cmp(&b.key));
    let name = |endpoint: &Endpoint| (endpoint.key.to_string(), endpoint.weight);
    let (places, names): (Vec<u32>, Vec<(String, u32)>) =
        sorted.into_iter().map(|(place, endpoint)| (place, name(endpoint))).unzip();
    let table = match known.filter(|known| known.is_of(kind, &names)) {
        Some(known) => known.clone(),
        None => Arc::new(Table::new(kind, names)),
    };
    (table, places)
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
pub(crate) mod tests;
