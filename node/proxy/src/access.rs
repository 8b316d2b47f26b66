//! The gate before a workload of this node: who may ask it for what. It stands where mutual TLS ends, and where a call
//! stays within the node.

use std::{
    rc::Rc,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use weft_policy::{
    access::Access,
    authenticate::{Claims, KeysAt, KnownKeys, Outcome, TokenRequest},
    authorize::{AccessRequest, Allowed, Decision, Denied, HttpAccess, Peer, Verdict, forwarded_for},
    endpoint::{Endpoint, EndpointAddress, Workload},
    view::{MeshView, sni},
};

use crate::{
    decisions::{self, Asked, Found},
    error::{Denial, ProxyError, WhyDenied},
    exchange::Outgoing,
    ext_authz::{Change, Gate, Question},
    ports::{Caller, WorkloadIdentity},
    recheck::{Guest, Who},
    record::Downstream,
    worker::Worker,
};

/// Longest part of a URL that a refusal repeats, in bytes; Envoy's.
const MAX_URL_LEN: usize = 256;

/// What is known of a call before its requests are looked at.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) workload: &'a Workload,
    /// The workload's own port.
    pub(crate) port: u16,
    /// The identity that the caller has proved, if it has one: a SPIFFE id without `spiffe://`.
    pub(crate) principal: Option<&'a str>,
    pub(crate) downstream: Downstream,
    pub(crate) sni: Option<&'a str>,
}

impl Call<'_> {
    pub(crate) fn request<'r>(&'r self, http: Option<HttpAccess<'r>>) -> AccessRequest<'r> {
        let source_ip = self.downstream.remote.ip();
        AccessRequest {
            peer: self.principal.map(Peer::new),
            source_ip,
            remote_ip: http.and_then(|http| forwarded_for(http.headers)).unwrap_or(source_ip),
            destination_ip: Some(self.downstream.local.ip()),
            destination_port: self.port,
            sni: self.sni,
            http,
        }
    }
}

/// A request that may pass.
#[derive(Default)]
pub(crate) struct Admitted {
    /// What is to be changed of the response.
    pub(crate) changes: Vec<Change>,
    /// Of its verified token.
    pub(crate) claims: Option<Claims>,
}

/// Lets a request pass, changed as authorizers and the workload's token rules say, or says why not.
pub(crate) async fn admit(
    worker: &Worker,
    view: &MeshView,
    access: &Access,
    call: &Call<'_>,
    outgoing: &mut Outgoing,
) -> Result<Admitted, ProxyError> {
    let mut changes = Vec::new();
    if access.authorizer.asks_providers() {
        let asked = access.authorizer.ask(&call.request(Some(outgoing.as_policies_see_it(None))));
        match asked {
            None | Some(Verdict::Allow(_)) => {}
            Some(Verdict::Ask { provider, rule }) => {
                let question = Question { worker, view, side: Gate { call, rule } };
                // Boxed, so that requests which ask nobody are no larger.
                changes = Box::pin(question.of_request_by_name(provider, outgoing)).await?;
            }
            Some(Verdict::Deny(why)) => {
                return Err(denied(worker, call, &call.request(Some(outgoing.as_policies_see_it(None))), why));
            }
        }
    }
    let claims = authenticate(worker, access, call, outgoing).await?;
    let request = call.request(Some(outgoing.as_policies_see_it(claims.as_ref())));
    judge(worker, call, &request, access.authorizer.decide_after_provider(&request))?;
    Ok(Admitted { changes, claims })
}

/// Lets a connection pass that is not read as HTTP, or says why not.
pub(crate) async fn admit_connection(
    worker: &Worker,
    view: &MeshView,
    access: &Access,
    call: &Call<'_>,
) -> Result<(), ProxyError> {
    let request = call.request(None);
    match access.authorizer.ask(&request) {
        None | Some(Verdict::Allow(_)) => {}
        Some(Verdict::Ask { provider, rule }) => {
            let question = Question { worker, view, side: Gate { call, rule } };
            Box::pin(question.of_connection(provider)).await?;
        }
        Some(Verdict::Deny(why)) => return Err(denied(worker, call, &request, why)),
    }
    judge(worker, call, &request, access.authorizer.decide_after_provider(&request))
}

/// What a call is judged by that stays within this node.
#[derive(Clone, Copy)]
pub(crate) struct LocalGate<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) view: &'a MeshView,
    pub(crate) caller: Option<&'a Caller>,
    pub(crate) downstream: Downstream,
}

impl LocalGate<'_> {
    /// Lets a request pass to an endpoint. That of another node has a gate of its own.
    pub(crate) async fn admit(&self, endpoint: &Endpoint, outgoing: &mut Outgoing) -> Result<Admitted, ProxyError> {
        let Some((access, workload)) = self.access(endpoint) else { return Ok(Admitted::default()) };
        // Only what this workload's rules change; a next try may be at another one.
        if !access.authenticator.is_empty() || access.authorizer.asks_providers() {
            outgoing.remember();
        }
        let identity = self.identity();
        let call = self.call(workload, endpoint.key.target_port, identity.as_deref());
        admit(self.worker, self.view, access, &call, outgoing).await
    }

    /// Lets a connection pass to an endpoint that is not read as HTTP.
    pub(crate) async fn admit_connection(&self, endpoint: &Endpoint) -> Result<(), ProxyError> {
        let Some((access, workload)) = self.access(endpoint) else { return Ok(()) };
        let identity = self.identity();
        let call = self.call(workload, endpoint.key.target_port, identity.as_deref());
        admit_connection(self.worker, self.view, access, &call).await
    }

    /// Has a tunnel to an endpoint judged anew when the endpoint's policies change. That of another node does it
    /// there.
    pub(crate) fn guest(&self, endpoint: &Endpoint) -> Option<Rc<Guest>> {
        let (EndpointAddress::Local(_), Some(workload)) = (&endpoint.address, &endpoint.workload) else { return None };
        let Workload { name, namespace, .. } = &**workload;
        let who = Who {
            sni: sni(name, namespace, endpoint.key.target_port, &self.view.trust_domain).into(),
            principal: self.identity().map(|identity| identity.principal.clone()),
            peer: None,
            downstream: self.downstream,
            is_http: false,
        };
        Some(Guest::new(self.worker, who, Rc::default(), self.view))
    }

    /// Lets a request go on that is waiting for a workload of this node, or is being answered by it.
    pub(crate) fn judge_anew(&self, workload: &Workload, port: u16) -> Result<(), ProxyError> {
        let name = sni(&workload.name, &workload.namespace, port, &self.view.trust_domain);
        // A workload that is gone ends its exchanges itself.
        let Some(local) = self.view.local_workload(&name) else { return Ok(()) };
        let Some(access) = self.view.access(&local.workload) else { return Ok(()) };
        let identity = self.identity();
        let call = self.call(&local.workload, port, identity.as_deref());
        let request = call.request(None);
        access.authorizer.may_go_on(&request, true).map_err(|why| denied(self.worker, &call, &request, why))
    }

    /// What a workload of this node asks; other nodes ask for themselves, and what is outside has nobody who does.
    fn access<'e>(&self, endpoint: &'e Endpoint) -> Option<(&Access, &'e Workload)> {
        match (&endpoint.address, &endpoint.workload) {
            (EndpointAddress::Local(_), Some(workload)) => Some((self.view.access(workload)?, workload)),
            _ => None,
        }
    }

    /// As whom the call is made: an account counts only with its certificate, as it does between nodes.
    pub(crate) fn identity(&self) -> Option<Arc<WorkloadIdentity>> {
        let account = self.caller?.account();
        let identity = self.worker.identities.load().workloads.get(account)?.clone();
        (identity.not_after > SystemTime::now()).then_some(identity)
    }

    fn call<'c>(&self, workload: &'c Workload, port: u16, identity: Option<&'c WorkloadIdentity>) -> Call<'c> {
        Call {
            workload,
            port,
            principal: identity.map(|identity| &*identity.principal),
            downstream: self.downstream,
            sni: None,
        }
    }
}

fn judge(
    worker: &Worker,
    call: &Call<'_>,
    request: &AccessRequest<'_>,
    decision: Decision<'_>,
) -> Result<(), ProxyError> {
    let metrics = worker.metrics.shared();
    let asked = || Asked::of(call, request);
    if let Some(rule) = decision.audit {
        metrics.count_audited();
        worker.decisions.keep(asked(), Found::Audited(rule.into()));
    }
    match decision.dry_run {
        Some(Verdict::Deny(denied)) => {
            metrics.count_dry_run(false);
            worker.decisions.keep(asked(), Found::WouldBeDenied(decisions::Rule::of(denied)));
        }
        Some(_) => metrics.count_dry_run(true),
        None => {}
    }
    match decision.verdict {
        Verdict::Allow(Allowed::ByRule(_) | Allowed::ByDefault) => Ok(()),
        Verdict::Deny(why) => Err(denied(worker, call, request, why)),
        // Providers were asked before.
        Verdict::Ask { rule, .. } => Err(denied(worker, call, request, Denied::WithoutProvider(rule))),
    }
}

fn denied(worker: &Worker, call: &Call<'_>, request: &AccessRequest<'_>, why: Denied<'_>) -> ProxyError {
    worker.metrics.shared().count_denied_by_policy();
    let rule = decisions::Rule::of(why);
    let why = WhyDenied::Policy { details: rule.envoy_details() };
    let id = worker.decisions.keep(Asked::of(call, request), Found::Denied(rule));
    ProxyError::Denied(Box::new(Denial { why, id }))
}

/// Verifies the request's tokens, waiting for their issuers' keys if it must.
async fn authenticate(
    worker: &Worker,
    access: &Access,
    call: &Call<'_>,
    outgoing: &mut Outgoing,
) -> Result<Option<Claims>, ProxyError> {
    let authenticator = &access.authenticator;
    if authenticator.is_empty() {
        return Ok(None);
    }
    outgoing.take_off(authenticator.claimed_headers());
    let mut wait: Option<(watch::Receiver<()>, Instant)> = None;
    loop {
        let request = TokenRequest {
            method: &outgoing.method,
            path: outgoing.path_and_query.as_str(),
            headers: &outgoing.headers,
        };
        let is_late = wait.as_ref().is_some_and(|(_, give_up)| Instant::now() >= *give_up);
        let keys = |at: &KeysAt| match worker.keys.get(at) {
            KnownKeys::NotFetched if is_late => KnownKeys::Failed,
            known => known,
        };
        let now = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        match authenticator.authenticate(&request, &keys, now) {
            Outcome::Anonymous => return Ok(None),
            Outcome::Authenticated(taken) => {
                outgoing.authenticated(taken.remove, taken.set, taken.path)?;
                return Ok(Some(taken.claims));
            }
            Outcome::NeedsKeys { timeout, .. } => match &mut wait {
                // Looks once more from here on, so that no change is missed.
                None => wait = Some((worker.keys.changes(), Instant::now() + timeout)),
                Some((changes, give_up)) => {
                    if let Ok(Err(_)) = timeout_at(*give_up, changes.changed()).await {
                        sleep_until(*give_up).await; // nobody fetches any more
                    }
                }
            },
            Outcome::Refused(refusal) => {
                worker.metrics.shared().count_refused_token();
                let path = outgoing.path_and_query.path();
                let url = format!("http://{}{}", outgoing.authority, path.get(..MAX_URL_LEN).unwrap_or(path));
                let asked = Asked::of(call, &call.request(Some(outgoing.as_policies_see_it(None))));
                let id = worker.decisions.keep(asked, Found::RefusedToken(refusal));
                return Err(ProxyError::Denied(Box::new(Denial { why: WhyDenied::Token { refusal, url }, id })));
            }
        }
    }
}
