//! One worker's way to the series it uses.

use std::{
    cell::RefCell,
    hash::Hash,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use foldhash::HashMap;
use weft_policy::{
    balance::Cluster,
    endpoint::{Endpoint, EndpointAddress, Workload},
    service_id::ServiceId,
    view::Service,
};
use weft_wire::id::Namespace;

use super::{
    HttpSeries, MessageSeries, Metrics, TcpSeries,
    labels::{self, Edge, Flag, Reporter, RequestProtocol},
    recorded::{Counted, Recorded},
    shape::Ends,
};

/// Most entries that a worker keeps before it starts anew.
const MAX_CACHED: usize = 4_096;

/// Who calls whom, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Parties {
    pub(crate) reporter: Reporter,
    pub(crate) source: Option<Arc<Workload>>,
    pub(crate) destination: Option<Arc<Workload>>,
    /// The service that the caller named. At the destination, the workload's own service counts instead.
    pub(crate) service: Option<Arc<Service>>,
    /// Of a caller that is no workload.
    pub(crate) namespace: Option<Namespace>,
    way: Way,
}

impl Parties {
    pub(crate) fn new(reporter: Reporter) -> Self {
        let way = match reporter {
            Reporter::Source => Way::Other,
            // What comes from another node is nothing else.
            Reporter::Destination => Way::MutualTls,
        };
        Self { reporter, source: None, destination: None, service: None, namespace: None, way }
    }

    /// Which endpoint of a cluster is called.
    pub(crate) fn call(&mut self, cluster: &Cluster, endpoint: &Endpoint) {
        self.destination = endpoint.workload.clone();
        self.way = match endpoint.address {
            EndpointAddress::Remote { .. } => Way::MutualTls,
            _ if cluster.is_called_in_the_clear(endpoint) => Way::InTheClear,
            _ => Way::Other,
        };
    }

    /// The service that is called.
    pub(crate) fn service_id(&self) -> Option<ServiceId> {
        let named = self.service.as_deref().map(|service| service.id.clone());
        named.or_else(|| Some(ServiceId::Mesh(self.destination.as_deref()?.service.clone())))
    }

    /// Who calls: a workload, or somebody of a namespace.
    pub(crate) fn called_by(&mut self, workload: Option<&Arc<Workload>>, namespace: &Namespace) {
        self.source = workload.cloned();
        self.namespace = workload.is_none().then(|| namespace.clone());
    }

    /// Identifies the parties as long as they live.
    fn key(&self) -> PartiesKey {
        fn address<T>(shared: &Option<Arc<T>>) -> usize {
            shared.as_ref().map_or(0, |shared| Arc::as_ptr(shared).addr())
        }
        (self.reporter, address(&self.source), address(&self.destination), address(&self.service), self.way)
    }
}

type PartiesKey = (Reporter, usize, usize, usize, Way);

/// How what is sent is protected by the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    MutualTls,
    /// It stays on this node, goes with TLS of its own to a place outside of the mesh, or goes nowhere.
    Other,
    /// It crosses the network without TLS.
    InTheClear,
}

/// How an HTTP exchange ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct HttpOutcome {
    /// 0 if there was no response.
    pub(crate) status: u16,
    /// 0 to 16, of a gRPC response.
    pub(crate) grpc_status: Option<u8>,
    pub(crate) flag: Flag,
}

impl HttpOutcome {
    /// Whether it is a server's failure: 5xx, or a gRPC status that stands for one.
    pub(crate) fn is_failure(&self) -> bool {
        // Unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
        self.status >= 500 || self.grpc_status.is_some_and(|code| matches!(code, 2 | 4 | 12..=15))
    }

    /// Whether its caller did not get what it should have: a failure, or no response though it waited for one.
    pub(super) fn is_lost(&self) -> bool {
        self.is_failure() || (self.status == 0 && self.flag != Flag::DownstreamGone)
    }

    pub(super) fn class(&self) -> Class {
        match () {
            () if self.is_lost() => Class::Failure,
            () if self.status >= 400 || self.grpc_status.is_some_and(|code| code != 0) => Class::Refused,
            () => Class::Fine,
        }
    }
}

/// What kind of end an exchange has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Fine,
    /// For what its caller asked: 4xx, or a gRPC status that stands for one.
    Refused,
    Failure,
}

/// What an HTTP exchange took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchanged {
    pub(crate) duration: Duration,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// Tries after the first.
    pub(crate) retries: u32,
    /// Of the trace that it is part of, if that is recorded.
    pub(crate) trace_id: Option<u128>,
}

type HttpKey = (PartiesKey, RequestProtocol, HttpOutcome, Option<Arc<Recorded>>);

/// A worker's own map from what it has at hand to the shared series.
pub(crate) struct WorkerMetrics {
    shared: Metrics,
    http: Cache<HttpKey, HttpSeries>,
    messages: Cache<(PartiesKey, Option<Arc<Recorded>>), MessageSeries>,
    tcp: Cache<(PartiesKey, Flag), TcpSeries>,
}

/// The parties are kept with their series: while they live, no other party can have their address.
type Cache<K, S> = RefCell<HashMap<K, (Arc<S>, Parties)>>;

impl WorkerMetrics {
    pub(crate) fn new(shared: Metrics) -> Self {
        Self { shared, http: RefCell::default(), messages: RefCell::default(), tcp: RefCell::default() }
    }

    pub(crate) fn shared(&self) -> &Metrics {
        &self.shared
    }

    /// Lets go of the parties of views that are gone: their services would be kept, with all their rules. And of series
    /// that are used no more, which are kept for as long as a worker has them.
    pub(crate) fn forget_parties(&self) {
        self.http.borrow_mut().clear();
        self.messages.borrow_mut().clear();
        self.tcp.borrow_mut().clear();
    }

    pub(crate) fn record_http(
        &self,
        parties: &Parties,
        protocol: RequestProtocol,
        outcome: HttpOutcome,
        exchanged: &Exchanged,
    ) {
        self.record(parties, (protocol, outcome), exchanged, None);
    }

    /// Of a request whose labels documents ask for.
    pub(crate) fn count(&self, counted: &Counted, recorded: Recorded) {
        let Counted { parties, protocol, outcome, exchanged, messages: (requests, responses) } = counted;
        let recorded = Arc::new(recorded);
        self.shared.0.has_recorded.store(true, Ordering::Relaxed);
        if requests + responses > 0 {
            let series = self.messages_of(parties, Some(recorded.clone()));
            series.requests.fetch_add(*requests, Ordering::Relaxed);
            series.responses.fetch_add(*responses, Ordering::Relaxed);
        }
        self.record(parties, (*protocol, *outcome), exchanged, Some(recorded));
    }

    /// Whether it keeps series from expiring.
    pub(crate) fn is_empty(&self) -> bool {
        self.http.borrow().is_empty() && self.messages.borrow().is_empty()
    }

    fn record(
        &self,
        parties: &Parties,
        (protocol, outcome): (RequestProtocol, HttpOutcome),
        exchanged: &Exchanged,
        recorded: Option<Arc<Recorded>>,
    ) {
        let key = (parties.key(), protocol, outcome, recorded);
        let series = cached(&self.http, key, parties, |(.., recorded)| {
            let make = || HttpSeries::new(Edge::of(parties, protocol.as_str()), outcome.class(), Ends::of(parties));
            let labels = labels::http(parties, protocol, &outcome);
            self.shared.0.http.get(labels.with(recorded.clone()), make)
        });
        // First: whoever subtracts it from all never finds too many.
        series.ways.count(parties.way);
        series.record(exchanged);
    }

    /// For the messages of a gRPC call.
    pub(crate) fn messages(&self, parties: &Parties) -> Arc<MessageSeries> {
        self.messages_of(parties, None)
    }

    fn messages_of(&self, parties: &Parties, recorded: Option<Arc<Recorded>>) -> Arc<MessageSeries> {
        cached(&self.messages, (parties.key(), recorded), parties, |(_, recorded)| {
            let labels = labels::messages(parties).with(recorded.clone());
            self.shared.0.messages.get(labels, || MessageSeries::new(Ends::of(parties)))
        })
    }

    /// For a new connection.
    pub(crate) fn tcp(&self, parties: &Parties, flag: Flag) -> Arc<TcpSeries> {
        let series = cached(&self.tcp, (parties.key(), flag), parties, |_| {
            let make = || TcpSeries::new(Edge::of(parties, labels::TCP), flag != Flag::None, Ends::of(parties));
            self.shared.0.tcp.get(labels::tcp(parties, flag), make)
        });
        series.ways.count(parties.way);
        series
    }
}

fn cached<K: Eq + Hash, S>(cache: &Cache<K, S>, key: K, parties: &Parties, find: impl FnOnce(&K) -> Arc<S>) -> Arc<S> {
    let mut cache = cache.borrow_mut();
    if cache.len() >= MAX_CACHED && !cache.contains_key(&key) {
        cache.clear();
    }
    cache.entry(key).or_insert_with_key(|key| (find(key), parties.clone())).0.clone()
}
