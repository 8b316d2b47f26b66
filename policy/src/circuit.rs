//! Circuits that the mesh shares: what the callers of this node have seen of endpoints, what those of other nodes have,
//! and what follows from it here. No I/O and no clock: `now_ms` is the callers' monotonic clock.
//!
//! * An endpoint *trips* for a node when its own outlier detection says so ([`crate::balance::Cluster::record`]); it
//!   tells the mesh, and also, earlier, that it has a few failures in a row ([`CircuitState::Failing`]).
//! * What one other node has seen makes an endpoint the last choice here, unless this node has had good answers from it
//!   lately; what a quorum has seen takes it out of use, unless good answers have come since the mesh began to complain.
//!   So a node's own evidence outranks hearsay, and a node that lies, or that has a bad cable, costs others nothing.
//! * Once others complain, fewer failures of one's own are too many: two while one node complains, one after that.
//! * The word of a node that complains of more than half of a cluster's endpoints does not count there: it is rather
//!   that node which is ill.
//! * Nor does that of a node that does not call the service.
//! * When the ejections are over, one node tries the endpoint for all: the first of those that have tripped by rendezvous
//!   hashing; after [`TURN_MS`] the next too. The others stay away until it takes its complaint back. None does for
//!   longer than its own ejection took.
//! * A complaint is a lease, counted from its receipt: one that is neither renewed nor taken back lapses. [`Telling`] says
//!   when to renew it.

mod telling;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use foldhash::HashSet;
use twox_hash::XxHash64;
use weft_wire::{
    circuit::{Circuit, CircuitRecord, CircuitState, EndpointKey, MAX_CIRCUITS, MAX_WATCHED},
    fact::FactVersion,
    id::NodeName,
};

pub use self::telling::Telling;
use crate::{
    api::mesh::{CircuitPolicy, Hearsay},
    balance::{Cluster, Failures, MeshVerdict, Sighting, Trip},
    endpoint::{Endpoint, Standing},
};

/// How long a few failures in a row hold, which nobody renews, in milliseconds.
const FAILING_LEASE_MS: u64 = 3_000;
/// For how long an endpoint is tried for all before nothing is known of it any more, in milliseconds.
const PROBING_FOR_MS: u64 = 30_000;
/// For so many milliseconds a good answer of one's own outweighs what one other node has seen.
const OWN_WORD_MS: u64 = 10_000;
/// So many milliseconds after who tries an endpoint for all, the next one does too: it may have no request for it.
pub const TURN_MS: u64 = 2_000;
/// A service that was called within so many milliseconds is one that this node calls.
const WATCHED_FOR_MS: u64 = 300_000;

/// How far what others have seen of a cluster's endpoints counts. A CircuitPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct Sharing {
    observers: usize,
    /// Of the nodes that call the service, in percent.
    share: f64,
    lease_ms: u64,
    hearsay: Hearsay,
}

impl Sharing {
    pub(crate) fn of(policy: &CircuitPolicy) -> Self {
        Self {
            observers: usize::try_from(policy.observers()).unwrap_or(usize::MAX),
            share: policy.share(),
            lease_ms: u64::try_from(policy.lease().as_millis()).unwrap_or(u64::MAX),
            hearsay: policy.hearsay,
        }
    }

    /// So many nodes must have seen an endpoint fail, of so many that call the service.
    fn quorum(&self, callers: usize) -> usize {
        // As a share of a count it is far below 2^52.
        self.observers.max((self.share / 100.0 * callers as f64).ceil() as usize)
    }
}

impl Default for Sharing {
    fn default() -> Self {
        Self::of(&CircuitPolicy::default())
    }
}

/// An endpoint that does not pass, as this node's callers see it.
#[derive(Clone, Debug)]
struct Own {
    state: State,
    failures: Failures,
    /// When it came to this state.
    since_ms: u64,
    lease_ms: u64,
    /// When it was last found in a cluster, and when the last good answer came.
    found_ms: u64,
    answered_ms: u64,
    /// Another node took its complaint back: it has tried.
    is_passed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Failing,
    Tripped {
        /// The ejection is over then.
        until_ms: u64,
    },
    Probing,
}

impl Own {
    fn new(state: State, failures: Failures, lease_ms: u64, now_ms: u64) -> Self {
        Self { state, failures, since_ms: now_ms, lease_ms, found_ms: now_ms, answered_ms: 0, is_passed: false }
    }

    fn told(&self) -> CircuitState {
        match self.state {
            State::Failing => CircuitState::Failing,
            State::Tripped { .. } => CircuitState::Tripped,
            State::Probing => CircuitState::Probing,
        }
    }

    fn left_ms(&self, now_ms: u64) -> u64 {
        match self.state {
            State::Tripped { until_ms } => until_ms.saturating_sub(now_ms),
            State::Failing | State::Probing => 0,
        }
    }

    /// When this node no longer waits for who tries the endpoint for all: it has been away for twice its ejection.
    fn patience_ends_ms(&self, until_ms: u64) -> u64 {
        until_ms.saturating_add(until_ms.saturating_sub(self.since_ms))
    }
}

/// What another node has said.
#[derive(Debug)]
struct Observer {
    version: FactVersion,
    watched: BTreeSet<String>,
    complaints: BTreeMap<EndpointKey, Complaint>,
}

#[derive(Clone, Debug)]
struct Complaint {
    circuit: Circuit,
    /// When it was heard first, of those that followed each other without a pause.
    first_ms: u64,
    heard_ms: u64,
    /// When its ejection is over there.
    due_ms: u64,
}

impl Complaint {
    fn ends_ms(&self) -> u64 {
        self.heard_ms.saturating_add(self.circuit.lease_ms.into())
    }

    /// Whether the endpoint is out of use there, or tried for all.
    fn is_trip(&self) -> bool {
        self.circuit.state > CircuitState::Failing
    }
}

/// One complaint of an endpoint, for people.
#[derive(Clone, Debug)]
pub struct Seen {
    pub observer: NodeName,
    pub circuit: Circuit,
    /// For how many milliseconds more it holds, unless it is renewed; `None` for this node's own.
    pub lease_left_ms: Option<u64>,
}

/// What the mesh has changed for the callers of a cluster.
#[derive(Debug)]
pub enum Change<'c> {
    /// An endpoint has tripped, because others have failures too.
    Tripped(&'c Arc<Cluster>, Trip),
    /// What the mesh makes of an endpoint, whatever this node's own callers have seen.
    Heard(&'c Arc<Cluster>, &'c Arc<Endpoint>, Standing),
}

/// What this node and others have seen.
#[derive(Debug)]
pub struct CircuitTable {
    me: NodeName,
    own: BTreeMap<EndpointKey, Own>,
    /// Services that this node calls, by host name, and when it was last seen to.
    watched: BTreeMap<Arc<str>, u64>,
    observers: BTreeMap<NodeName, Observer>,
    /// Counts the changes of what this node has to tell.
    revision: u64,
}

impl CircuitTable {
    pub fn new(me: NodeName) -> Self {
        let (own, watched, observers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { me, own, watched, observers, revision: 0 }
    }

    /// Changes with what this node has to tell.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Looks at all clusters whose failures are counted: what their callers here have seen, and with what others say, what
    /// follows for them. Returns what has changed by that.
    pub fn sweep<'c>(
        &mut self,
        clusters: impl Iterator<Item = &'c Arc<Cluster>> + Clone,
        now_ms: u64,
    ) -> Vec<Change<'c>> {
        let shared = clusters.filter_map(|cluster| Some((cluster, cluster.sharing()?)));
        for (cluster, sharing) in shared.clone() {
            self.look(cluster, sharing, now_ms);
        }
        self.advance(now_ms);
        let complained = self.complained();
        let mut changes = Vec::new();
        for (cluster, sharing) in shared {
            let is_concerned = cluster.endpoints.iter().any(|endpoint| complained.contains(&endpoint.key));
            let judge = is_concerned.then(|| Judge::of(self, cluster, sharing, now_ms));
            let verdict = |endpoint| judge.as_ref().map_or_else(MeshVerdict::default, |judge| judge.verdict(endpoint));
            let verdicts: Vec<MeshVerdict> = cluster.endpoints.iter().map(|endpoint| verdict(endpoint)).collect();
            for (endpoint, verdict) in cluster.endpoints.iter().zip(verdicts) {
                let before = endpoint.heard(now_ms);
                if let Some(trip) = cluster.hear(endpoint, verdict, now_ms) {
                    self.tripped(&endpoint.key, trip.failures, trip.until_ms, sharing.lease_ms, now_ms);
                    changes.push(Change::Tripped(cluster, trip));
                }
                let standing = endpoint.heard(now_ms);
                if standing != before {
                    changes.push(Change::Heard(cluster, endpoint, standing));
                }
            }
        }
        changes
    }

    /// The endpoints that anybody complains of.
    fn complained(&self) -> HashSet<EndpointKey> {
        let heard = self.observers.values().flat_map(|observer| observer.complaints.keys());
        self.own.keys().chain(heard).cloned().collect()
    }

    fn look(&mut self, cluster: &Cluster, sharing: &Sharing, now_ms: u64) {
        let mut was_called_ms = 0;
        for endpoint in &cluster.endpoints {
            let answered_ms = endpoint.monitor.as_ref().map_or(0, |monitor| monitor.answered_ms());
            was_called_ms = answered_ms.max(was_called_ms);
            match cluster.sighting(endpoint, now_ms) {
                Some(Sighting::Ejected { failures, until_ms }) => {
                    was_called_ms = now_ms;
                    self.tripped(&endpoint.key, failures, until_ms, sharing.lease_ms, now_ms);
                }
                Some(Sighting::Failing(failures)) => {
                    was_called_ms = now_ms;
                    self.failing(&endpoint.key, failures, sharing.lease_ms, now_ms);
                }
                None => {}
            }
            if let Some(own) = self.own.get_mut(&endpoint.key) {
                own.answered_ms = answered_ms.max(own.answered_ms);
            }
        }
        if was_called_ms > 0 && now_ms.saturating_sub(was_called_ms) < WATCHED_FOR_MS {
            self.calls(&cluster.fqdn, was_called_ms);
        }
    }

    fn failing(&mut self, key: &EndpointKey, failures: Failures, lease_ms: u64, now_ms: u64) {
        match self.own.get_mut(key) {
            Some(known) => known.found_ms = now_ms,
            None => {
                let lease_ms = lease_ms.min(FAILING_LEASE_MS);
                self.own.insert(key.clone(), Own::new(State::Failing, failures, lease_ms, now_ms));
                self.revision += 1;
            }
        }
    }

    fn tripped(&mut self, key: &EndpointKey, failures: Failures, until_ms: u64, lease_ms: u64, now_ms: u64) {
        // Clusters count for themselves; the longest ejection counts.
        let is_known = |own: &Own| matches!(own.state, State::Tripped { until_ms: known } if known >= until_ms);
        if !self.own.get(key).is_some_and(is_known) {
            self.own.insert(key.clone(), Own::new(State::Tripped { until_ms }, failures, lease_ms, now_ms));
            self.revision += 1;
        }
    }

    fn calls(&mut self, fqdn: &Arc<str>, called_ms: u64) {
        match self.watched.get_mut(fqdn) {
            Some(known_ms) => *known_ms = called_ms.max(*known_ms),
            None => {
                self.watched.insert(fqdn.clone(), called_ms);
                self.revision += 1;
            }
        }
    }

    /// Takes in what the other members say; who is not among them has no word any more.
    pub fn hear<'r>(
        &mut self,
        records: impl IntoIterator<Item = (&'r NodeName, FactVersion, &'r CircuitRecord)>,
        now_ms: u64,
    ) {
        let mut before = std::mem::take(&mut self.observers);
        for (node, version, record) in records {
            let known = before.remove(node);
            let observer = match known {
                _ if *node == self.me => continue,
                Some(known) if known.version == version => known,
                known => {
                    let taken_back = known.iter().flat_map(|known| known.taken_back(record, now_ms));
                    for key in taken_back {
                        if let Some(own) = self.own.get_mut(key) {
                            own.is_passed = true;
                        }
                    }
                    Observer::hear(version, record, known.as_ref(), now_ms)
                }
            };
            self.observers.insert(node.clone(), observer);
        }
    }

    fn advance(&mut self, now_ms: u64) {
        for observer in self.observers.values_mut() {
            observer.complaints.retain(|_, complaint| complaint.ends_ms() > now_ms);
        }
        let known = self.watched.len() + self.own.len();
        self.watched.retain(|_, seen_ms| now_ms.saturating_sub(*seen_ms) < WATCHED_FOR_MS);
        let mut own = std::mem::take(&mut self.own);
        let mut begun = 0;
        own.retain(|key, own| {
            let waited_ms = now_ms.saturating_sub(own.since_ms);
            let has_answered = own.answered_ms > own.since_ms;
            match own.state {
                State::Failing => own.found_ms == now_ms,
                // Where nobody came by, this node knows nothing of it any more.
                State::Probing => waited_ms < PROBING_FOR_MS && !has_answered,
                State::Tripped { until_ms } if now_ms < until_ms => true,
                State::Tripped { .. } if own.is_passed => false,
                State::Tripped { until_ms } => match self.turn_ms(key, until_ms, now_ms) {
                    // Nobody else complains.
                    None => false,
                    Some(turn_ms) => {
                        if now_ms >= turn_ms.min(own.patience_ends_ms(until_ms)) {
                            own.state = State::Probing;
                            own.since_ms = now_ms;
                            begun += 1;
                        }
                        true
                    }
                },
            }
        });
        self.own = own;
        self.revision += begun + (known - self.watched.len() - self.own.len()) as u64;
    }

    /// When it is this node's turn to try an endpoint whose ejection here ends at `until_ms`; `None` if nobody else keeps
    /// from it.
    fn turn_ms(&self, key: &EndpointKey, until_ms: u64, now_ms: u64) -> Option<u64> {
        let others: Vec<_> = self.trips(key, now_ms).collect();
        let due_ms = others.iter().map(|(_, complaint)| complaint.due_ms).max()?.max(until_ms);
        let mine = draw(key, &self.me);
        let before_me = others.iter().filter(|(node, _)| draw(key, node) > mine).count();
        Some(due_ms + before_me as u64 * TURN_MS)
    }

    /// Those who keep from an endpoint, and try it for all.
    fn trips(&self, key: &EndpointKey, now_ms: u64) -> impl Iterator<Item = (&NodeName, &Complaint)> {
        self.complaints(key, now_ms).filter(|(_, complaint)| complaint.is_trip())
    }

    fn complaints(&self, key: &EndpointKey, now_ms: u64) -> impl Iterator<Item = (&NodeName, &Complaint)> {
        let of_observer = move |(node, observer)| Some((node, Observer::complaint(observer, key, now_ms)?));
        self.observers.iter().filter_map(of_observer)
    }

    /// What to tell the mesh.
    pub fn record(&self, unix_ms: u64, now_ms: u64) -> CircuitRecord {
        let circuit = |own: &Own| Circuit {
            state: own.told(),
            cause: own.failures.cause,
            failures: own.failures.count,
            since_ms: unix_ms.saturating_sub(now_ms.saturating_sub(own.since_ms)),
            left_ms: u32::try_from(own.left_ms(now_ms)).unwrap_or(u32::MAX),
            lease_ms: u32::try_from(own.lease_ms).unwrap_or(u32::MAX),
        };
        // Those that have tripped before those that only fail, if there are too many.
        let mut circuits: Vec<_> = self.own.iter().collect();
        circuits.sort_by_key(|(_, own)| own.told() == CircuitState::Failing);
        CircuitRecord {
            watched: self.watched.keys().take(MAX_WATCHED).map(|fqdn| fqdn.to_string()).collect(),
            circuits: circuits.into_iter().take(MAX_CIRCUITS).map(|(key, own)| (key.clone(), circuit(own))).collect(),
        }
    }

    /// The shortest time for which this node's complaints hold without renewal, in milliseconds; `None` where none has to
    /// be renewed.
    pub fn shortest_lease_ms(&self) -> Option<u64> {
        self.own.values().filter(|own| own.state != State::Failing).map(|own| own.lease_ms).min()
    }

    /// Whether nobody complains of anything.
    pub fn is_quiet(&self) -> bool {
        self.own.is_empty() && self.observers.values().all(|observer| observer.complaints.is_empty())
    }

    /// All endpoints that somebody complains of, with who does.
    pub fn seen(&self, unix_ms: u64, now_ms: u64) -> BTreeMap<EndpointKey, Vec<Seen>> {
        let mut seen: BTreeMap<EndpointKey, Vec<Seen>> = BTreeMap::new();
        for (key, circuit) in self.record(unix_ms, now_ms).circuits {
            seen.entry(key).or_default().push(Seen { observer: self.me.clone(), circuit, lease_left_ms: None });
        }
        for (node, observer) in &self.observers {
            let live = observer.complaints.iter().filter(|(_, complaint)| complaint.ends_ms() > now_ms);
            for (key, complaint) in live {
                let lease_left_ms = Some(complaint.ends_ms() - now_ms);
                let circuit = complaint.circuit.clone();
                seen.entry(key.clone()).or_default().push(Seen { observer: node.clone(), circuit, lease_left_ms });
            }
        }
        seen
    }
}

impl Observer {
    fn hear(version: FactVersion, record: &CircuitRecord, known: Option<&Self>, now_ms: u64) -> Self {
        let complaint = |(key, circuit): (&EndpointKey, &Circuit)| {
            let before = known.and_then(|known| known.complaint(key, now_ms));
            let goes_on = before.filter(|before| before.is_trip() == (circuit.state > CircuitState::Failing));
            let first_ms = goes_on.map_or(now_ms, |before| before.first_ms);
            // Over already: it was so since it was heard to be.
            let due_ms = match (circuit.left_ms, goes_on) {
                (0, Some(before)) => before.due_ms.min(now_ms),
                (left_ms, _) => now_ms.saturating_add(left_ms.into()),
            };
            (key.clone(), Complaint { circuit: circuit.clone(), first_ms, heard_ms: now_ms, due_ms })
        };
        let complaints = record.circuits.iter().map(complaint).collect();
        Self { version, watched: record.watched.clone(), complaints }
    }

    /// The endpoints that it kept from, and does no longer, now that it says this.
    fn taken_back<'o>(&'o self, record: &CircuitRecord, now_ms: u64) -> impl Iterator<Item = &'o EndpointKey> {
        let live = self.complaints.iter().filter(move |(_, known)| known.is_trip() && known.ends_ms() > now_ms);
        live.map(|(key, _)| key).filter(|key| !record.circuits.contains_key(key))
    }

    fn complaint(&self, key: &EndpointKey, now_ms: u64) -> Option<&Complaint> {
        self.complaints.get(key).filter(|complaint| complaint.ends_ms() > now_ms)
    }
}

/// What others say of one cluster's endpoints.
struct Judge<'t> {
    table: &'t CircuitTable,
    sharing: &'t Sharing,
    /// Those whose word counts.
    trusted: Vec<&'t Observer>,
    /// Nodes that call the service.
    callers: usize,
    now_ms: u64,
}

impl<'t> Judge<'t> {
    fn of(table: &'t CircuitTable, cluster: &Cluster, sharing: &'t Sharing, now_ms: u64) -> Self {
        let is_trusted = |observer: &Observer| {
            let keys = cluster.endpoints.iter().map(|endpoint| &endpoint.key);
            let trips = keys.filter_map(|key| observer.complaint(key, now_ms)).filter(|complaint| complaint.is_trip());
            sharing.hearsay != Hearsay::Ignore && 2 * trips.count() <= cluster.endpoints.len()
        };
        let mut callers: Vec<&Observer> = table.observers.values().collect();
        callers.retain(|observer| observer.watched.contains(&*cluster.fqdn));
        Self {
            callers: callers.len() + usize::from(table.watched.contains_key(&cluster.fqdn)),
            trusted: callers.into_iter().filter(|observer| is_trusted(observer)).collect(),
            table,
            sharing,
            now_ms,
        }
    }

    fn verdict(&self, endpoint: &Endpoint) -> MeshVerdict {
        let (now_ms, key) = (self.now_ms, &endpoint.key);
        let hears = self.sharing.hearsay != Hearsay::Ignore;
        let own = self.table.own.get(key).filter(|_| hears);
        match own.map(|own| (own, own.state)) {
            // This node tries it for all.
            Some((own, State::Probing)) => {
                let until_ms = own.since_ms + PROBING_FOR_MS;
                return MeshVerdict { standing: Standing::Preferred, patience: 1, until_ms };
            }
            // Ejected here; and after that, as long as others are, until somebody has tried it.
            Some((own, State::Tripped { until_ms }))
                if !own.is_passed && self.table.trips(key, now_ms).next().is_some() =>
            {
                let until_ms = own.patience_ends_ms(until_ms);
                return MeshVerdict { standing: Standing::Excluded, patience: 0, until_ms };
            }
            Some((_, State::Failing | State::Tripped { .. })) | None => {}
        }
        let complaints: Vec<&Complaint> =
            self.trusted.iter().filter_map(|observer| observer.complaint(key, now_ms)).collect();
        let Some(until_ms) = complaints.iter().map(|complaint| complaint.ends_ms()).min() else {
            return MeshVerdict::default();
        };
        let trips = complaints.iter().filter(|complaint| complaint.is_trip());
        let standing = match trips.clone().map(|complaint| complaint.first_ms).min() {
            None => Standing::Preferred,
            Some(first_ms) => self.standing(endpoint, trips.count(), first_ms),
        };
        MeshVerdict { standing, patience: if complaints.len() == 1 { 2 } else { 1 }, until_ms }
    }

    /// Of an endpoint that others keep from, the first since `first_ms`.
    fn standing(&self, endpoint: &Endpoint, trips: usize, first_ms: u64) -> Standing {
        let answered_ms = endpoint.monitor.as_ref().map_or(0, |monitor| monitor.answered_ms());
        let is_known_good = answered_ms > 0 && self.now_ms.saturating_sub(answered_ms) < OWN_WORD_MS;
        let excludes = self.sharing.hearsay == Hearsay::Exclude && trips >= self.sharing.quorum(self.callers);
        match excludes {
            true if answered_ms <= first_ms => Standing::Excluded,
            _ if is_known_good => Standing::Preferred,
            _ => Standing::Demoted,
        }
    }
}

/// Rendezvous hashing: of all nodes the one with the highest draw is the first to try the endpoint. All builds must agree.
fn draw<'n>(key: &EndpointKey, node: &'n NodeName) -> (u64, &'n NodeName) {
    (XxHash64::oneshot(0, format!("{key} {node}").as_bytes()), node)
}

#[cfg(test)]
mod tests;
