//! One request's way through the endpoints of its cluster: which it is sent to, and when again.

mod hedge;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
};

use http::{Response, StatusCode};
use tokio::time::{Instant, sleep, timeout};
use weft_policy::{
    authenticate::Claims,
    balance::{Attempt, Cluster, Held, Outcome, Overflow},
    condition, deadline,
    endpoint::{Endpoint, EndpointAddress},
    hosts::service_name,
    learned::Spoken,
    retry::{Failure, RetryPolicy},
    session::Sticky,
};
use weft_wire::id::Namespace;

use crate::{
    access::LocalGate,
    body::UpstreamBody,
    error::{ConnectError, ProxyError},
    exchange::{Answer, Outgoing, SendError, X_ENVOY_ATTEMPT_COUNT, X_WEFT_SOURCE, strip},
    ext_authz,
    limit::{self, Quota},
    metrics::Flag,
    pool::Need,
    ports::Caller,
    recheck::Stay,
    record::{ExchangeRecord, GRPC_STATUS, grpc_code},
    respond::{NOT_HOSTED, X_WEFT_REASON},
    upstream::{self, Awaited, Timed},
    worker::{Worker, unix_ms},
};

/// Addresses of one host that a request is tried at.
const MAX_ADDRESSES_TRIED: usize = 3;

/// What the tries of a request have come to.
#[derive(Default)]
struct Progress {
    /// Endpoints that are left out while there are others.
    tried: Vec<Arc<Endpoint>>,
    /// Tries after the first.
    retries: u32,
    /// The place of this request's retries among the cluster's.
    retrying: Option<Held>,
}

/// The tries of one request.
pub(crate) struct Tries<'a> {
    worker: &'a Rc<Worker>,
    cluster: &'a Arc<Cluster>,
    gate: LocalGate<'a>,
    policy: &'a RetryPolicy,
    /// The request's key, if keys choose endpoints of this cluster.
    pub(crate) hash: Option<u64>,
    /// When the time for all tries is up.
    pub(crate) deadline: Option<Instant>,
    pub(crate) is_grpc: bool,
    /// The session that the request is of, where the rule has any.
    pub(crate) session: Option<&'a Sticky<'a>>,
    pub(crate) awaited: Awaited,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(
        worker: &'a Rc<Worker>,
        cluster: &'a Arc<Cluster>,
        gate: LocalGate<'a>,
        policy: &'a RetryPolicy,
    ) -> Self {
        Self {
            worker,
            cluster,
            gate,
            policy,
            hash: None,
            deadline: None,
            is_grpc: false,
            session: None,
            awaited: Awaited::default(),
        }
    }

    /// Whether the request may be sent again although an endpoint has seen it, so that its body has to be kept.
    pub(crate) fn may_repeat(&self, outgoing: &Outgoing) -> bool {
        self.policy.may_repeat(self.is_grpc) || self.hedging(outgoing).is_some()
    }

    /// By reference, as all who await something of it: each future would have room for a copy.
    pub(crate) async fn run(&self, outgoing: &mut Outgoing, record: &mut ExchangeRecord) -> Result<Answer, ProxyError> {
        let mut progress = Progress::default();
        let mut need = outgoing.need();
        let hedging = self.hedging(outgoing);
        loop {
            let endpoint = self.pick(&progress.tried);
            let endpoint = endpoint.ok_or_else(|| self.no_endpoint())?;
            record.endpoint(self.cluster, endpoint);
            self.awaited.begin(self.cluster, endpoint);
            let hedged = hedging.and_then(|hedging| Some((hedging, outgoing.again(false)?)));
            let (endpoint, done) = match hedged {
                None => (endpoint, self.once_within_limit(endpoint, need, progress.retries, outgoing).await),
                Some((hedging, copy)) => {
                    // Boxed: each request would have room for it.
                    Box::pin(self.hedged(hedging, (endpoint, copy), need, &mut progress, outgoing, record)).await
                }
            };
            let _ = self.awaited.end();
            let Progress { tried, retries, retrying } = &mut progress;
            match done {
                // The workload went away before the view said so: another one, whatever the policy, as this one did not
                // fail.
                Ok(answer) if is_not_hosted(endpoint, &answer) && outgoing.is_whole() && !knows(tried, endpoint) => {
                    tried.push(endpoint.clone());
                    continue;
                }
                Ok(mut answer) => {
                    self.judge(endpoint, &answer, record);
                    let is_worth = self.policy.is_on_response(answer.response.status(), answer.response.headers());
                    if is_worth && *retries == self.policy.attempts && *retries > 0 {
                        record.flag(Flag::RetriesExhausted);
                    }
                    let may_repeat = is_worth && *retries < self.policy.attempts && outgoing.is_whole();
                    if !may_repeat || !self.may_retry(retrying, record) {
                        let client_upgrade = outgoing.take_client_upgrade();
                        let guest = client_upgrade.as_ref().and_then(|_| self.gate.guest(endpoint));
                        if let Some(session) = self.session {
                            session.tell(endpoint, unix_ms(), answer.response.headers_mut());
                        }
                        if let Some(stay) = self.stay(endpoint) {
                            record.stays(stay, self.gate.downstream);
                        }
                        return Ok(Answer { client_upgrade, guest, ..answer });
                    }
                }
                // The connection was to blame, not the endpoint: at once, on a new one.
                Err(Failed { stale: true, .. }) if need == Need::Any => {
                    need = Need::Fresh;
                    continue;
                }
                // Another address of the same host, whatever the policy: nothing was sent.
                Err(failed) if failed.is_unconnected() && self.has_another(tried, endpoint) && outgoing.is_whole() => {
                    self.blame(endpoint, &failed);
                    tried.push(endpoint.clone());
                    continue;
                }
                Err(failed) => {
                    self.blame(endpoint, &failed);
                    let is_worth = failed.failure.is_some_and(|failure| self.policy.is_on_failure(failure));
                    let may_repeat = is_worth && *retries < self.policy.attempts && outgoing.is_whole();
                    if !may_repeat || !self.may_retry(retrying, record) {
                        return Err(failed.error);
                    }
                }
            }
            *retries += 1;
            self.worker.metrics.shared().count_retry();
            record.retried();
            if self.policy.avoids_tried(self.hash.is_some()) && !knows(tried, endpoint) {
                tried.push(endpoint.clone());
            }
            sleep(self.policy.pause(*retries, rand::random())).await;
        }
    }

    #[cold]
    fn no_endpoint(&self) -> ProxyError {
        // Where documents lead: nobody waited for it.
        if let Some(service) = service_name(&self.cluster.fqdn, &Namespace::default_namespace()) {
            self.worker.elsewhere.call(&service);
        }
        ProxyError::NoEndpoint(self.cluster.fqdn.to_string())
    }

    /// Whether a host has one more address to try, of which the first few are.
    fn has_another(&self, tried: &[Arc<Endpoint>], endpoint: &Arc<Endpoint>) -> bool {
        self.cluster.is_one_host()
            && !knows(tried, endpoint)
            && tried.len() + 1 < self.cluster.endpoints.len().min(MAX_ADDRESSES_TRIED)
    }

    fn pick(&self, tried: &[Arc<Endpoint>]) -> Option<&'a Arc<Endpoint>> {
        let leaves_level = self.policy.leaves_level;
        let (random, now_ms) = (rand::random(), self.worker.now_ms());
        if let Some(home) = self.session.and_then(Sticky::endpoint)
            && home.serves(now_ms)
            && !knows(tried, home)
        {
            return Some(home);
        }
        self.cluster.pick(&Attempt { tried, leaves_level, hash: self.hash, random, now_ms })
    }

    /// Whether the cluster has room for one more retry; one place is enough for all of this request's.
    fn may_retry(&self, retrying: &mut Option<Held>, record: &mut ExchangeRecord) -> bool {
        if retrying.is_none() {
            match self.cluster.hold_retry() {
                Ok(held) => *retrying = Some(held),
                Err(Overflow) => {
                    self.worker.metrics.shared().count_retry_overflow();
                    record.flag(Flag::Overflow);
                }
            }
        }
        retrying.is_some()
    }

    /// Has outlier detection look at a failure.
    fn blame(&self, endpoint: &Arc<Endpoint>, failed: &Failed) {
        if let Some(outcome) = failed.failure.and_then(upstream::outcome_of) {
            upstream::record(self.worker, self.cluster, endpoint, outcome);
        }
    }

    /// Has outlier detection look at a response. That of a gRPC call is known at its end.
    fn judge(&self, endpoint: &Arc<Endpoint>, answer: &Answer, record: &mut ExchangeRecord) {
        if !self.cluster.is_recorded() {
            return;
        }
        let status = answer.response.status();
        let status = match answer.response.headers().get(GRPC_STATUS) {
            Some(code) if record.is_grpc() => upstream::status_of_grpc(grpc_code(code)),
            None if record.is_grpc() && status == StatusCode::OK => {
                return record.judged(self.cluster, endpoint);
            }
            _ => status.as_u16(),
        };
        upstream::record(self.worker, self.cluster, endpoint, Outcome::Status(status));
    }

    async fn once_within_limit(
        &self,
        endpoint: &Arc<Endpoint>,
        need: Need,
        retries: u32,
        outgoing: &mut Outgoing,
    ) -> Result<Answer, Failed> {
        let once = pin!(self.once(endpoint, need, retries, outgoing));
        match self.policy.per_try_timeout {
            None => once.await,
            Some(limit) => timeout(limit, once).await.unwrap_or_else(|_| {
                Err(Failed { error: ProxyError::Timeout, failure: Some(Failure::TryTimeout), stale: false })
            }),
        }
    }

    pub(crate) async fn once(
        &self,
        endpoint: &Arc<Endpoint>,
        need: Need,
        retries: u32,
        outgoing: &mut Outgoing,
    ) -> Result<Answer, Failed> {
        outgoing.restore();
        let admitted = self.gate.admit(endpoint, outgoing).await;
        let admitted = admitted.map_err(|error| Failed { error, failure: None, stale: false })?;
        let quota = self.admit(endpoint, outgoing, admitted.claims.as_ref())?;
        let http2 = upstream::is_called_by_http2(self.cluster, endpoint, &outgoing.headers, outgoing.came_in_http2);
        let places = upstream::places(self.cluster, http2).await;
        let places = places.map_err(|error| Failed { error, failure: None, stale: false })?;
        let mut active = endpoint.load.begin();
        active.hold(places);
        let (settings, authority) = (self.cluster.connection(), outgoing.authority.as_str());
        let mut lease =
            match self.worker.pools.checkout(endpoint, http2, settings, self.gate.caller, authority, need).await {
                Ok(lease) => lease,
                Err(error) => return Err(self.not_connected(endpoint, error)),
            };
        endpoint.load.connect_succeeded();
        upstream::record(self.worker, self.cluster, endpoint, Outcome::Connected);
        self.mark(endpoint, retries, outgoing);
        let timed = Timed::begin(self.worker, self.cluster, endpoint);
        let stay = self.stay(endpoint);
        let sent = self.while_let_in(stay.as_ref(), endpoint, pin!(outgoing.send(&mut lease))).await;
        match sent {
            Ok(mut response) => {
                if let Some(timed) = timed {
                    timed.answered();
                }
                if !matches!(endpoint.address, EndpointAddress::Remote { .. }) {
                    strip(response.headers_mut(), |name| *name == X_WEFT_REASON); // only proxies say so
                }
                if let Some(learned) = self.cluster.learned()
                    && !response.headers().contains_key(X_WEFT_REASON)
                {
                    learned.hear(Spoken::Http, self.worker.now_ms());
                }
                if let Some(quota) = quota {
                    quota.tell(response.headers_mut());
                }
                ext_authz::apply(admitted.changes, response.headers_mut());
                let active = Some(active);
                Ok(Answer { response, lease, active, deadline: None, client_upgrade: None, guest: None, fault: None })
            }
            Err(SendError { error, failure, stale }) => {
                if let Some(timed) = timed {
                    timed.forget();
                }
                Err(Failed { error, failure, stale })
            }
        }
    }

    /// What has a request to a workload of this node judged anew; another node's proxy judges its connections.
    fn stay(&self, endpoint: &Endpoint) -> Option<Stay> {
        let is_local = matches!(endpoint.address, EndpointAddress::Local(_));
        is_local.then(|| Stay::new(self.worker, self.gate.view, endpoint.key.target_port))
    }

    /// Waits for a response, from a workload of this node only as long as it lets the caller in.
    async fn while_let_in(
        &self,
        stay: Option<&Stay>,
        endpoint: &Endpoint,
        mut sending: Pin<&mut impl Future<Output = Result<Response<UpstreamBody>, SendError>>>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let (Some(stay), Some(workload)) = (stay, &endpoint.workload) else { return sending.await };
        let LocalGate { caller, downstream, .. } = self.gate;
        let sent = poll_fn(|cx| {
            stay.judge(workload, caller, downstream)?;
            let polled = sending.as_mut().poll(cx);
            if polled.is_pending() {
                stay.wait(cx);
            }
            polled
        });
        sent.await
    }

    /// Counts a request to a workload of this node, as its proxy does for those of other nodes.
    fn admit(
        &self,
        endpoint: &Endpoint,
        outgoing: &Outgoing,
        claims: Option<&Claims>,
    ) -> Result<Option<Quota>, Failed> {
        let (EndpointAddress::Local(address), Some(workload)) = (&endpoint.address, &endpoint.workload) else {
            return Ok(None);
        };
        let Some(limits) = self.gate.view.limits_of_workload(workload, address.port()) else {
            return Ok(None);
        };
        let principal = self.gate.caller.map(|caller| caller.principal(&self.gate.view.trust_domain));
        let asked = condition::Request { head: &outgoing.head(), principal: principal.as_deref() };
        let failed = |error| Failed { error, failure: Some(Failure::RateLimited), stale: false };
        limit::admit(limits, &asked, claims, self.worker.now_ns()).map_err(failed)
    }

    fn not_connected(&self, endpoint: &Endpoint, error: ConnectError) -> Failed {
        let failure = error.blames_endpoint().then_some(Failure::Connect);
        if failure.is_some() {
            endpoint.load.connect_failed(self.worker.now_ms());
        }
        Failed { error: error.into(), failure, stale: false }
    }

    /// How much time is left, if that has changed; and what only the next proxy gets to see.
    fn mark(&self, endpoint: &Endpoint, retries: u32, outgoing: &mut Outgoing) {
        if let Some(deadline) = self.deadline.filter(|_| retries > 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            deadline::pass_on(Some(left), self.policy.per_try_timeout, self.is_grpc, &mut outgoing.headers);
        }
        if !matches!(endpoint.address, EndpointAddress::Remote { .. }) {
            strip(&mut outgoing.headers, |name| *name == X_WEFT_SOURCE || *name == X_ENVOY_ATTEMPT_COUNT);
            return;
        }
        outgoing.headers.insert(X_ENVOY_ATTEMPT_COUNT, (retries + 1).into());
        if let Some(claim) = self.gate.caller.and_then(Caller::claim) {
            outgoing.headers.insert(X_WEFT_SOURCE, claim.clone());
        }
    }
}

fn knows(tried: &[Arc<Endpoint>], endpoint: &Arc<Endpoint>) -> bool {
    tried.iter().any(|known| Arc::ptr_eq(known, endpoint))
}

/// Whether another node's proxy says that it does not host the endpoint's workload. Only proxies can say so.
fn is_not_hosted(endpoint: &Endpoint, answer: &Answer) -> bool {
    matches!(endpoint.address, EndpointAddress::Remote { .. })
        && answer.response.status() == StatusCode::SERVICE_UNAVAILABLE
        && answer.response.headers().get(X_WEFT_REASON).is_some_and(|reason| reason == NOT_HOSTED)
}

pub(crate) struct Failed {
    error: ProxyError,
    /// `None` where this node is to blame.
    failure: Option<Failure>,
    /// See [`SendError::stale`].
    stale: bool,
}

impl Failed {
    /// Whether no connection could be made, so that nothing was sent.
    fn is_unconnected(&self) -> bool {
        self.failure == Some(Failure::Connect)
    }
}
