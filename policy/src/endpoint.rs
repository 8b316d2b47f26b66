//! Endpoints, the workloads behind them, and the live counters that outlast a view.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

pub use weft_wire::circuit::EndpointKey;
use weft_wire::{
    fact::{EndpointHealth, Protocol},
    id::{Locality, Namespace, NodeName, ServiceAccount, ServiceName, SpiffeId, WorkloadName},
};

use crate::balance::{Held, Latency, Monitor};

/// What the mesh thinks of an endpoint beyond its own node's health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    #[default]
    Preferred,
    /// Last choice among the healthy.
    Demoted,
    /// Only when nothing else is left.
    Excluded,
}

impl Standing {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preferred => "preferred",
            Self::Demoted => "demoted",
            Self::Excluded => "excluded",
        }
    }
}

/// Where an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    /// The application itself, hosted on this very node: called directly.
    Local(SocketAddr),
    /// The hosting node's data port, and the server name that selects the workload there.
    Remote { address: SocketAddr, sni: Arc<str> },
    /// A place that a document names and no node announced: called directly, in the clear, and trusted with no name.
    Outside(SocketAddr),
}

impl EndpointAddress {
    /// The address that is connected to.
    pub fn socket(&self) -> SocketAddr {
        match self {
            Self::Local(address) | Self::Outside(address) | Self::Remote { address, .. } => *address,
        }
    }
}

/// One place where a request may go.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub key: EndpointKey,
    /// `None` for an address that no node announced.
    pub workload: Option<Arc<Workload>>,
    pub address: EndpointAddress,
    /// The identities that the server may show; any other is an impostor. None where it shows none.
    pub identities: Arc<[SpiffeId]>,
    pub protocol: Protocol,
    pub health: EndpointHealth,
    pub standing: Standing,
    /// Its share of the requests among others, 1 or more.
    pub weight: u32,
    /// Where it is.
    pub place: Arc<Place>,
    pub load: Arc<EndpointLoad>,
    /// What its cluster has seen of it; `None` where no outlierDetection holds.
    pub monitor: Option<Arc<Monitor>>,
}

/// Where endpoints are, as far as they are chosen by it: a node, or a place outside of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Outside of the mesh what a document says, if anything.
    pub node: Option<NodeName>,
    pub locality: Locality,
    /// The node's own, or what a document says of the place.
    pub labels: BTreeMap<String, String>,
}

impl Endpoint {
    /// Whether outlier detection has taken it out of use, here or in the mesh.
    pub fn is_ejected(&self, now_ms: u64) -> bool {
        self.monitor.as_ref().is_some_and(|monitor| monitor.is_out(now_ms))
    }

    /// What the mesh makes of it.
    pub(crate) fn heard(&self, now_ms: u64) -> Standing {
        self.monitor.as_ref().map_or(Standing::Preferred, |monitor| monitor.heard(now_ms).standing)
    }

    /// How this node's callers stand to it.
    pub fn standing_here(&self, now_ms: u64) -> Standing {
        match () {
            () if self.is_ejected(now_ms) => Standing::Excluded,
            () if self.is_doubtful(now_ms) => Standing::Demoted.max(self.standing),
            () => self.standing,
        }
    }

    /// Whether a recent connect failure holds it back, or what others have seen.
    pub(crate) fn is_doubtful(&self, now_ms: u64) -> bool {
        self.load.is_failing(now_ms) || self.monitor.as_ref().is_some_and(|monitor| monitor.is_demoted(now_ms))
    }

    /// Whether it is good enough to stay with: healthy, of a node that lives, and nothing has gone wrong lately.
    pub fn serves(&self, now_ms: u64) -> bool {
        matches!(self.health, EndpointHealth::Healthy | EndpointHealth::Overloaded)
            && self.standing == Standing::Preferred
            && !self.is_doubtful(now_ms)
            && !self.is_ejected(now_ms)
    }

    /// Why this node's callers get to it only as a last choice or not at all, and for how many milliseconds more.
    pub fn held_back(&self, now_ms: u64) -> Option<(&'static str, u64)> {
        let ejection = self.monitor.as_ref().and_then(|monitor| monitor.ejection(now_ms));
        let ejection = ejection.map(|(failures, until_ms)| (failures.cause.as_str(), until_ms.saturating_sub(now_ms)));
        let of_mesh = || {
            let heard = self.monitor.as_ref()?.heard(now_ms);
            let why = match heard.standing {
                Standing::Preferred => return None,
                Standing::Demoted => "demoted_by_mesh",
                Standing::Excluded => "excluded_by_mesh",
            };
            Some((why, heard.until_ms.saturating_sub(now_ms)))
        };
        ejection.or_else(of_mesh).or_else(|| Some(("connect_failure", self.load.failing_for(now_ms)?)))
    }

    /// Whether nothing has changed.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.key == other.key
            && self.workload.as_ref().map(Arc::as_ptr) == other.workload.as_ref().map(Arc::as_ptr)
            && self.address == other.address
            && self.identities == other.identities
            && Arc::ptr_eq(&self.place, &other.place)
            && (self.protocol, self.health, self.standing, self.weight)
                == (other.protocol, other.health, other.standing, other.weight)
    }
}

/// Who a workload is, as metrics and logs name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub namespace: Namespace,
    pub name: WorkloadName,
    pub account: ServiceAccount,
    /// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`
    pub principal: String,
    /// Label `app`, else the service's name.
    pub app: String,
    /// Label `version`; may be empty.
    pub version: String,
    pub canonical_service: String,
    /// `latest` for a workload without a version.
    pub canonical_revision: String,
    pub service: ServiceName,
    pub node: NodeName,
    /// Those announced, and `app` and `version`.
    pub labels: BTreeMap<String, String>,
}

impl Workload {
    /// Whether it has all of these labels.
    pub(crate) fn has_labels(&self, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }
}

/// A workload that this node hosts, as a data connection's server name selects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalWorkload {
    pub workload: Arc<Workload>,
    /// The application's own address.
    pub address: SocketAddr,
    /// As Envoy names the cluster of its port, such as `inbound|8080||`.
    pub cluster_name: Arc<str>,
    pub protocol: Protocol,
    pub service: ServiceName,
    pub health: EndpointHealth,
}

/// How long an endpoint is held back after its first failed connect, in milliseconds; doubled by each further one.
const FIRST_HOLD_MS: u64 = 1_000;
/// The longest hold, in milliseconds.
const LONGEST_HOLD_MS: u64 = 30_000;

/// Live counters of one endpoint. They sit beside the view, shared by all views that know the endpoint, so that
/// publishing a view forgets nothing. Aligned so that two endpoints never share a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct EndpointLoad {
    active: AtomicU32,
    connect_failures: AtomicU32,
    failing_until_ms: AtomicU64,
    /// Used where endpoints are chosen by it.
    pub(crate) latency: Latency,
}

impl EndpointLoad {
    /// Counts one request as active until the guard is dropped.
    #[must_use = "the request counts as active only while the guard lives"]
    pub fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveRequest { load: self.clone(), held: [None, None] }
    }

    /// Requests that are active now.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Holds the endpoint back for 1 s, doubled by each further failure up to 30 s. Failures during a hold do not
    /// lengthen it: many requests that fail at once are one outage. `now_ms` is the caller's monotonic clock.
    pub fn connect_failed(&self, now_ms: u64) {
        let held_until = self.failing_until_ms.load(Ordering::Relaxed);
        if now_ms < held_until {
            return;
        }
        let failures = self.connect_failures.load(Ordering::Relaxed);
        let hold = (FIRST_HOLD_MS << failures.min(5)).min(LONGEST_HOLD_MS);
        let until = now_ms.saturating_add(hold);
        // Of several requests that fail at once, one counts.
        if self.failing_until_ms.compare_exchange(held_until, until, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.connect_failures.store(failures.saturating_add(1), Ordering::Relaxed);
        }
    }

    pub fn connect_succeeded(&self) {
        // Read first: this runs for each connect, and a store would take the cache line from every other core.
        if self.connect_failures.load(Ordering::Relaxed) != 0 {
            self.connect_failures.store(0, Ordering::Relaxed);
            self.failing_until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a recent connect failure still holds the endpoint back.
    pub fn is_failing(&self, now_ms: u64) -> bool {
        now_ms < self.failing_until_ms.load(Ordering::Relaxed)
    }

    /// For how many milliseconds more it does.
    fn failing_for(&self, now_ms: u64) -> Option<u64> {
        self.failing_until_ms.load(Ordering::Relaxed).checked_sub(now_ms).filter(|left| *left > 0)
    }
}

/// One active request; see [`EndpointLoad::begin`].
#[derive(Debug)]
pub struct ActiveRequest {
    load: Arc<EndpointLoad>,
    held: [Option<Held>; 2],
}

impl ActiveRequest {
    /// Has it hold places within its cluster's limits: as a request, and for its connection.
    pub fn hold(&mut self, held: [Option<Held>; 2]) {
        self.held = held;
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.load.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_active_while_its_guard_lives() {
        let load = Arc::new(EndpointLoad::default());
        let first = load.begin();
        let second = load.begin();
        assert_eq!(load.active(), 2);
        drop(first);
        assert_eq!(load.active(), 1);
        drop(second);
        assert_eq!(load.active(), 0);
    }

    #[test]
    fn each_failed_connect_after_a_hold_doubles_the_next_up_to_30_s() {
        let load = EndpointLoad::default();
        let mut now = 5_000;
        for hold in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            load.connect_failed(now);
            assert!(load.is_failing(now + hold - 1), "held for {hold} ms");
            assert!(!load.is_failing(now + hold), "for no more than {hold} ms");
            now += hold;
        }
        load.connect_succeeded();
        load.connect_failed(now);
        assert!(!load.is_failing(now + 1_000), "a success forgets what was before");
    }

    #[test]
    fn failures_at_once_are_one_outage() {
        let load = EndpointLoad::default();
        for _ in 0..100 {
            load.connect_failed(7);
        }
        assert!(!load.is_failing(1_007));
    }
}
