//! What a cluster is told of each try, and the places within its limits that a try holds.

use std::{cell::RefCell, future::poll_fn, sync::Arc};

use http::HeaderMap;
use tokio::time::Instant;
use weft_policy::{
    balance::{Cluster, Held, Outcome, Verdict},
    endpoint::{Endpoint, EndpointAddress},
    retry::Failure,
};
use weft_wire::fact::Protocol;

use crate::{error::ProxyError, record::is_grpc, worker::Worker};

/// Tells a cluster what came of a try. Costs nothing where nobody asks.
pub(crate) fn record(worker: &Worker, cluster: &Cluster, endpoint: &Arc<Endpoint>, outcome: Outcome) {
    if !cluster.is_recorded() {
        return;
    }
    match cluster.record(endpoint, outcome, worker.now_ms()) {
        None => {}
        Some(Verdict::Failing(_)) => worker.verdicts.failing(cluster, endpoint),
        Some(Verdict::Ejected(trip)) => {
            worker.verdicts.tripped(cluster, &trip, trip.until_ms.saturating_sub(worker.now_ms()));
        }
        Some(Verdict::Returned) => worker.verdicts.returned(cluster, endpoint),
        Some(Verdict::Overflow) => worker.metrics.shared().count_ejection_overflow(),
    }
}

/// What a failure says of its endpoint.
pub(crate) fn outcome_of(failure: Failure) -> Option<Outcome> {
    match failure {
        Failure::Connect | Failure::Refused | Failure::Reset => Some(Outcome::Broke),
        Failure::TryTimeout => Some(Outcome::TimedOut),
        // The limit is this node's.
        Failure::RateLimited => None,
    }
}

/// The status of HTTP that a code of gRPC stands for, as in Envoy.
pub(crate) fn status_of_grpc(code: u8) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// Tells a cluster how long an endpoint takes to answer, or was waited for in vain; `None` where nobody asks.
pub(crate) struct Timed<'a> {
    worker: &'a Worker,
    cluster: &'a Cluster,
    endpoint: &'a Endpoint,
    begun: Option<Instant>,
}

impl<'a> Timed<'a> {
    pub(crate) fn begin(worker: &'a Worker, cluster: &'a Cluster, endpoint: &'a Endpoint) -> Option<Self> {
        cluster.is_timed().then(|| Self { worker, cluster, endpoint, begun: Some(Instant::now()) })
    }

    /// There is an answer.
    pub(crate) fn answered(mut self) {
        if let Some(begun) = self.begun.take() {
            self.cluster.took(self.endpoint, begun.elapsed(), self.worker.now_ms());
        }
    }

    /// It broke: how soon says nothing, and must not make the endpoint look fast.
    pub(crate) fn forget(mut self) {
        self.begun = None;
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            self.cluster.was_awaited(self.endpoint, begun.elapsed(), self.worker.now_ms());
        }
    }
}

/// The endpoints of the tries that wait for their responses, for who gives up waiting.
#[derive(Default)]
pub(crate) struct Awaited {
    first: RefCell<Option<Arc<Endpoint>>>,
    /// Of tries beside the first.
    beside: RefCell<Vec<Arc<Endpoint>>>,
}

impl Awaited {
    pub(crate) fn begin(&self, cluster: &Cluster, endpoint: &Arc<Endpoint>) {
        if cluster.is_recorded() {
            self.first.replace(Some(endpoint.clone()));
        }
    }

    pub(crate) fn begin_beside(&self, cluster: &Cluster, endpoint: &Arc<Endpoint>) {
        if cluster.is_recorded() {
            self.beside.borrow_mut().push(endpoint.clone());
        }
    }

    /// One of them is over.
    pub(crate) fn end_of(&self, endpoint: &Arc<Endpoint>) {
        self.first.borrow_mut().take_if(|first| Arc::ptr_eq(first, endpoint));
        self.beside.borrow_mut().retain(|beside| !Arc::ptr_eq(beside, endpoint));
    }

    /// All are over.
    pub(crate) fn end(&self) -> impl Iterator<Item = Arc<Endpoint>> {
        self.first.take().into_iter().chain(self.beside.take())
    }
}

/// Whether a workload gets a request over HTTP/2. Where nobody declared what it speaks, gRPC does, which needs it.
pub(crate) fn speaks_http2(protocol: Protocol, request: &HeaderMap) -> bool {
    protocol.is_http2() || (protocol == Protocol::Auto && is_grpc(request))
}

/// Whether an endpoint of a cluster gets a request over HTTP/2; `client` is whether it came so. Workloads of the mesh get
/// what they declare, whatever documents say.
pub(crate) fn is_called_by_http2(cluster: &Cluster, endpoint: &Endpoint, request: &HeaderMap, client: bool) -> bool {
    let declared = speaks_http2(endpoint.protocol, request);
    match (&endpoint.address, cluster.connection()) {
        (EndpointAddress::Outside(_), Some(settings)) => settings.version.is_http2(declared, client),
        _ => declared,
    }
}

/// The places within the cluster's limits that a request needs; waits for that of its connection.
pub(crate) async fn places(cluster: &Cluster, http2: bool) -> Result<[Option<Held>; 2], ProxyError> {
    let request = cluster.hold_request().map_err(|_| ProxyError::Overflow)?;
    // Requests of HTTP/2 share connections.
    if http2 {
        return Ok([request, None]);
    }
    let mut place = None;
    let connection = poll_fn(|cx| cluster.poll_connection(&mut place, cx)).await.map_err(|_| ProxyError::Overflow)?;
    Ok([request, connection])
}
