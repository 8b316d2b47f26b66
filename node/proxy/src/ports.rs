//! What the data path reads and others write: the view, this node's identities, token issuers' keys, and what TLS to
//! places outside of the mesh needs. Readers take a snapshot without a lock; each snapshot has exactly one writer, which
//! is why publishers are not `Clone` and publish by `&mut self`. And whom the data path tells what it finds out about
//! endpoints: [`VerdictSink`].

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use foldhash::HashMap;
use http::HeaderValue;
use rustls::{RootCertStore, sign::CertifiedKey};
use tokio::{sync::watch, time};
use weft_ca::revocation::Revocations;
use weft_policy::{
    access_log::{Entry, TraceIds},
    authenticate::{KeysAt, KnownKeys},
    balance::{Cluster, Trip},
    endpoint::{Endpoint, Workload},
    origination::Origination,
    telemetry::{Collector, Signals},
    view::MeshView,
};
use weft_wire::id::{ServiceAccount, SpiffeId, TrustDomain, WorkloadName};

use crate::origination::Originator;

/// Where requests read the mesh as it is now.
#[derive(Clone)]
pub struct Views {
    swap: Arc<ArcSwap<MeshView>>,
    changes: watch::Receiver<()>,
    /// The zero of the clock that what outlasts a view is counted by: endpoints' loads, limits.
    epoch: Instant,
}

impl Views {
    /// The view to use for one whole request: load it once, so that all steps see the same mesh.
    pub fn load(&self) -> Arc<MeshView> {
        self.swap.load_full()
    }

    /// Tells each view that is published from here on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        changes
    }

    /// Time on the clock that all workers share.
    pub(crate) fn elapsed(&self) -> Duration {
        time::Instant::now().into_std().saturating_duration_since(self.epoch)
    }

    /// Milliseconds on that clock.
    pub fn now_ms(&self) -> u64 {
        self.elapsed().as_millis() as u64
    }

    /// What they were at some time.
    pub(crate) fn ms_at(&self, at: std::time::Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

/// The one writer of the view.
pub struct ViewPublisher {
    swap: Arc<ArcSwap<MeshView>>,
    changed: watch::Sender<()>,
}

impl ViewPublisher {
    pub fn publish(&mut self, view: MeshView) {
        self.swap.store(Arc::new(view));
        self.changed.send_replace(());
    }
}

/// A view with its writer.
pub fn views(first: MeshView) -> (ViewPublisher, Views) {
    let (swap, (changed, changes)) = (Arc::new(ArcSwap::from_pointee(first)), watch::channel(()));
    (ViewPublisher { swap: swap.clone(), changed }, Views { swap, changes, epoch: Instant::now() })
}

/// By the account that a workload runs as.
pub type WorkloadIdentities = HashMap<ServiceAccount, Arc<WorkloadIdentity>>;

/// Who this node can be on the data path, and whom it trusts.
#[derive(Clone)]
pub struct IdentitySnapshot {
    pub trust_domain: TrustDomain,
    /// The mesh's roots. Every peer's chain must end in one of them.
    pub roots: Arc<RootCertStore>,
    /// Peers' certificates that hold no more all the same. The same place in memory as before if none came to it.
    pub revocations: Arc<Revocations>,
    /// A current certificate for each service account that runs on this node.
    pub workloads: WorkloadIdentities,
    /// As whom calls are made that no listener attributes to somebody; `None` while the node hosts nothing.
    pub default_caller: Option<Arc<Caller>>,
}

/// A service account's certificate and key.
pub struct WorkloadIdentity {
    pub id: SpiffeId,
    /// The id as policies write it: without `spiffe://`.
    pub(crate) principal: Box<str>,
    /// The chain, leaf first, without the root; and the key, which never leaves this process.
    pub certified_key: Arc<CertifiedKey>,
    pub not_after: SystemTime,
}

impl WorkloadIdentity {
    pub fn new(id: SpiffeId, certified_key: Arc<CertifiedKey>, not_after: SystemTime) -> Self {
        Self { principal: id.to_string().trim_start_matches("spiffe://").into(), id, certified_key, not_after }
    }
}

/// As whom an outbound call is made: an account, which the certificate proves, and optionally the one workload of
/// it, which metrics name.
#[derive(Clone, PartialEq, Eq)]
pub struct Caller {
    account: ServiceAccount,
    /// `NAMESPACE/WORKLOAD`, as it goes into the `x-weft-source` header.
    claim: Option<HeaderValue>,
}

impl Caller {
    pub fn new(account: ServiceAccount, workload: Option<&WorkloadName>) -> Self {
        let claim = workload.map(|workload| {
            HeaderValue::try_from(format!("{}/{workload}", account.namespace))
                .expect("labels of RFC 1123 and a slash are visible ASCII")
        });
        Self { account, claim }
    }

    pub fn account(&self) -> &ServiceAccount {
        &self.account
    }

    pub(crate) fn claim(&self) -> Option<&HeaderValue> {
        self.claim.as_ref()
    }

    /// As policies write it: `cluster.local/ns/default/sa/web`.
    pub(crate) fn principal(&self, trust_domain: &TrustDomain) -> String {
        let id = SpiffeId::workload(trust_domain.clone(), self.account.clone()).to_string();
        id.trim_start_matches("spiffe://").to_owned()
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caller({}, {:?})", self.account, self.claim)
    }
}

/// Where the data path reads the identities of now. Connections outlive rotations; new ones use what is here.
#[derive(Clone)]
pub struct Identities {
    swap: Arc<ArcSwap<IdentitySnapshot>>,
    revoked: watch::Receiver<()>,
}

impl Identities {
    pub fn load(&self) -> Arc<IdentitySnapshot> {
        self.swap.load_full()
    }

    pub(crate) fn default_caller(&self) -> Option<Arc<Caller>> {
        self.swap.load().default_caller.clone()
    }

    /// Tells each change of what is revoked from here on.
    pub(crate) fn revoked(&self) -> watch::Receiver<()> {
        let mut revoked = self.revoked.clone();
        revoked.mark_unchanged();
        revoked
    }
}

/// The one writer of the identities.
pub struct IdentityPublisher {
    swap: Arc<ArcSwap<IdentitySnapshot>>,
    revoked: watch::Sender<()>,
}

impl IdentityPublisher {
    pub fn publish(&mut self, snapshot: IdentitySnapshot) {
        let revocations = snapshot.revocations.clone();
        let before = self.swap.swap(Arc::new(snapshot));
        if !Arc::ptr_eq(&before.revocations, &revocations) {
            self.revoked.send_replace(());
        }
    }
}

/// A set of identities with its writer.
pub fn identities(first: IdentitySnapshot) -> (IdentityPublisher, Identities) {
    let (swap, (changed, revoked)) = (Arc::new(ArcSwap::from_pointee(first)), watch::channel(()));
    (IdentityPublisher { swap: swap.clone(), revoked: changed }, Identities { swap, revoked })
}

/// The keys of token issuers, as far as they were fetched.
pub type KeyTable = HashMap<KeysAt, KnownKeys>;

/// Where requests read the keys of token issuers.
#[derive(Clone)]
pub struct KeySets {
    table: Arc<ArcSwap<KeyTable>>,
    changes: watch::Receiver<()>,
}

impl KeySets {
    pub fn get(&self, at: &KeysAt) -> KnownKeys {
        self.table.load().get(at).cloned().unwrap_or(KnownKeys::NotFetched)
    }

    /// Tells each change from here on, to a request that has to wait.
    pub fn changes(&self) -> watch::Receiver<()> {
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        changes
    }
}

/// The one writer of the keys.
pub struct KeyPublisher {
    table: Arc<ArcSwap<KeyTable>>,
    changed: watch::Sender<()>,
}

impl KeyPublisher {
    /// What was published last.
    pub fn table(&self) -> Arc<KeyTable> {
        self.table.load_full()
    }

    pub fn publish(&mut self, table: KeyTable) {
        self.table.store(Arc::new(table));
        self.changed.send_replace(());
    }
}

/// No keys yet, with their writer.
pub fn key_sets() -> (KeyPublisher, KeySets) {
    let (table, (changed, changes)) = (Arc::new(ArcSwap::default()), watch::channel(()));
    (KeyPublisher { table: table.clone(), changed }, KeySets { table, changes })
}

/// How TLS is begun with places outside of the mesh; or why it cannot be.
pub type OriginationTable = HashMap<Arc<Origination>, Result<Arc<Originator>, Arc<str>>>;

/// Where connections to places outside of the mesh find what they need for TLS.
#[derive(Clone)]
pub struct Originations(Arc<ArcSwap<OriginationTable>>);

impl Originations {
    pub(crate) fn load(&self) -> Arc<OriginationTable> {
        self.0.load_full()
    }
}

/// The one writer of [`Originations`]. It publishes before the view that needs them.
pub struct OriginationPublisher(Arc<ArcSwap<OriginationTable>>);

impl OriginationPublisher {
    /// What was published last.
    pub fn table(&self) -> Arc<OriginationTable> {
        self.0.load_full()
    }

    pub fn publish(&mut self, table: OriginationTable) {
        self.0.store(Arc::new(table));
    }
}

/// None yet, with their writer.
pub fn originations() -> (OriginationPublisher, Originations) {
    let swap = Arc::new(ArcSwap::default());
    (OriginationPublisher(swap.clone()), Originations(swap))
}

/// Who hears of this node's circuits: what outlier detection makes of the endpoints that callers of this node use. It is
/// told on a worker's thread, within the request that made the difference and once for each change: it must not wait.
pub trait VerdictSink: Send + Sync {
    /// An endpoint has failed a few times in a row: not often enough to get no requests, but others want to know.
    fn failing(&self, cluster: &Cluster, endpoint: &Endpoint);

    /// An endpoint gets no requests of a cluster, for so many milliseconds.
    fn tripped(&self, cluster: &Cluster, trip: &Trip, for_ms: u64);

    /// It gets requests again: this is the first.
    fn returned(&self, cluster: &Cluster, endpoint: &Endpoint);
}

/// Whom the data path tells what goes to collectors. It must not wait.
pub trait SignalSink: Send + Sync {
    /// A record of an access log, for a collector; false if it is too far behind.
    fn log(&self, to: &Arc<Collector>, record: LogRecord) -> bool;

    /// A span that is kept, told on a worker's thread; false if whoever takes them is too far behind.
    fn span(&self, span: Span) -> bool;
}

/// One exchange, as its side of the hop has seen it.
#[derive(Debug)]
pub struct Span {
    pub ids: TraceIds,
    /// The span that it was made in, if its request named one.
    pub parent: Option<u64>,
    /// Whether its trace is sampled; otherwise it is kept for being slow or failed.
    pub is_sampled: bool,
    pub entry: Arc<Entry>,
    pub signals: Arc<Signals>,
}

/// One exchange, as a collector of OpenTelemetry gets it from an access log.
#[derive(Debug)]
pub struct LogRecord {
    /// When the exchange began.
    pub time: SystemTime,
    pub body: String,
    pub attributes: serde_json::Map<String, serde_json::Value>,
    pub log_name: Box<str>,
    /// Whose log it is, if that is known.
    pub workload: Option<Arc<Workload>>,
    pub trace: Option<TraceIds>,
}
