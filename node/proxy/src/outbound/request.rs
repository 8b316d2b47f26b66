//! One request: what rules it, and where it goes.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use weft_policy::{
    balance::{Cluster, Hashed, Keyed, Outcome},
    condition,
    cors::CorsOutcome,
    deadline,
    fault::FaultEnd,
    route::{Action, Client, DirectResponse, Forward, Matched},
    view::{Host, MeshView, Service},
};

use super::{Outbound, count_for, mirror::Mirrors, namespace_of, service_port, workload_of};
use crate::{
    access::LocalGate,
    error::ProxyError,
    exchange::{self, Answer, Outgoing, Reply},
    ext_authz::{self, RuledRequest},
    fault::{self, Plan},
    headers::{Operations, Sent},
    limit, max_forwards,
    original::Asked,
    ports::Caller,
    record::{Downstream, ExchangeRecord},
    respond, target,
    tries::Tries,
    upstream,
    worker::{Worker, unix_ms},
};

impl Outbound {
    /// Routes a request, and answers it or forwards it.
    pub(super) async fn reply(
        &self,
        mut request: Request<Incoming>,
        view: &Arc<MeshView>,
        caller: Option<Arc<Caller>>,
        downstream: Downstream,
        record: &mut ExchangeRecord,
    ) -> Result<Reply, ProxyError> {
        self.worker.refuse_when_overloaded()?;
        target::normalise_path(&mut request, view.settings.path_normalization)?;
        let source = caller.as_deref().and_then(|caller| workload_of(view, caller));
        let namespace = namespace_of(caller.as_deref());
        record.parties().called_by(source, namespace);
        let client = Client { namespace, workload: source.map(|workload| &**workload) };

        let authority = target::authority(&request)?;
        let (asked_host, asked_port) = target::host_and_port(&authority);
        let found = self.host(view, client, asked_host, asked_port);
        let (host, port) = found.inspect_err(|error| count_for(view, client, error, &mut record.parties().service))?;
        if let Host::Service(service) = host {
            record.parties().service = Some(service.clone());
            refuse_what_is_not_http(service, port)?;
        }
        let head = exchange::head(&request, &authority);
        let mut matched = view.route(host, port, &head, client, rand::random());
        if matched.as_ref().and_then(Matched::session).is_some_and(|session| session.has_ended(unix_ms())) {
            matched = view.route_anew(host, port, &head, client, rand::random());
        }
        let Some(Matched { route_name, origin, cors, authorizers, fault, headers, action }) = matched else {
            return Err(ProxyError::NoRoute(authority.host().to_owned()));
        };
        if let Some(line) = record.line() {
            line.route(route_name);
        }
        let mut allowed = HeaderMap::new();
        match cors.map(|cors| cors.decide(request.method(), request.headers())) {
            None | Some(CorsOutcome::Forward) => {}
            Some(CorsOutcome::Allow(headers)) => allowed = headers,
            Some(CorsOutcome::Answer(headers)) => return Ok(own(StatusCode::OK, headers, Bytes::new())),
        }
        let operations = Operations {
            rules: headers,
            protocol: request.version(),
            downstream,
            node: &view.own_name,
            route: route_name,
            cluster: match &action {
                Action::Forward(forward) => Some(&forward.cluster.name),
                _ => None,
            },
        };
        let watches = operations.watch();
        let mut sent = watches.then(|| {
            record.watch_tries();
            Sent::of(head)
        });
        let quota = match origin.and_then(|origin| view.limits_of_rule(origin)) {
            None => None,
            Some(limits) => {
                let principal = caller.as_deref().map(|caller| caller.principal(&view.trust_domain));
                let asked = condition::Request { head: &head, principal: principal.as_deref() };
                Some(limit::admit(limits, &asked, None, self.worker.now_ns()))
            }
        };
        let to = match &action {
            Action::Forward(forward) => Some((&forward.service.id, forward.cluster.port)),
            _ => None,
        };
        let mut experiments = view.experiments(origin, to).peekable();
        let plan = experiments.peek().is_some().then(|| {
            let principal = caller.as_deref().map(|caller| caller.principal(&view.trust_domain));
            Plan::of(experiments, &condition::Request { head: &head, principal: principal.as_deref() })
        });
        let mut changes = Vec::new();
        let done = async {
            if let Some(Err(refused)) = &quota {
                return Err(refused.clone());
            }
            let mut outgoing = Outgoing::new(request, authority, record)?;
            if let Some(authorizers) = authorizers {
                let gate = LocalGate { worker: &self.worker, view, caller: caller.as_deref(), downstream };
                let ruled = RuledRequest { client, origin, host, port, gate };
                // Boxed, so that requests which ask nobody are no larger.
                changes = Box::pin(ruled.ask(&authorizers, &mut outgoing)).await?;
            }
            if let Some(fault) = fault.and_then(|fault| fault.decide(rand::random())) {
                fault::inject(fault, record).await?;
            }
            let fault = match plan {
                None => None,
                Some(plan) => plan.carry_out(record).await?,
            };
            match action {
                Action::InvalidBackend => Err(ProxyError::InvalidBackend(outgoing.authority.host().to_owned())),
                Action::UnknownCluster => Err(ProxyError::UnknownCluster(outgoing.authority.host().to_owned())),
                Action::Redirect { status, location } => redirect(status, location),
                Action::Respond(response) => Ok(respond_with(response)),
                Action::Forward(forward) => {
                    // Each is a draw of its own.
                    let mirrors = forward.mirrors.iter();
                    let mirrors = mirrors.filter_map(|mirror| view.mirrored(mirror, port, client, rand::random()));
                    let clusters: Vec<Arc<Cluster>> = mirrors.cloned().collect();
                    let mirrors = Mirrors { clusters, appends_shadow: view.settings.appends_shadow_suffix };
                    let (asked_host, _) = target::host_and_port(&outgoing.authority);
                    let asked = self.asked(forward.cluster, asked_host, port, downstream);
                    operations.of_request(&mut outgoing, record.started().elapsed());
                    if let Some(rewrite) = &forward.rewrite {
                        outgoing.rewrite(rewrite)?;
                    }
                    if let Some(answer) = max_forwards::count(&mut outgoing) {
                        return Ok(Reply::Own(answer));
                    }
                    if watches {
                        sent = Some(Sent::of(outgoing.head()));
                    }
                    let way = Way { view, caller: caller.as_ref(), downstream };
                    let answer = self.forward(forward, (asked, mirrors), &mut outgoing, way, record).await?;
                    Ok(Reply::Upstream(Answer { fault, ..answer }))
                }
            }
        };
        // What the rule says of responses holds for refusals too.
        let mut reply = match done.await {
            // There is no answer to change.
            Err(cut @ ProxyError::Aborted(FaultEnd::Reset | FaultEnd::BlackHole { .. })) => return Err(cut),
            done => done.unwrap_or_else(|error| Reply::Own(respond::refusal(&error, record))),
        };
        operations.of_response(&mut reply, sent.as_ref(), record);
        ext_authz::apply(changes, reply.headers_mut());
        reply.headers_mut().extend(allowed);
        if let Some(Ok(Some(quota))) = quota {
            quota.tell(reply.headers_mut());
        }
        record.called_by(caller);
        Ok(reply)
    }

    /// Sends a request to endpoints until one answers, and copies to the mirrors.
    async fn forward(
        &self,
        forward: Forward<'_>,
        (asked, mirrors): (Option<Box<Asked>>, Mirrors),
        outgoing: &mut Outgoing,
        way: Way<'_>,
        record: &mut ExchangeRecord,
    ) -> Result<Answer, ProxyError> {
        let Forward { service, cluster, timeout, retry, session, .. } = forward;
        record.parties().service = Some(service.clone());
        if let Some(line) = record.line() {
            line.cluster(cluster);
        }
        let is_grpc = record.is_grpc();
        let timeout = deadline::limit(timeout, is_grpc, &outgoing.headers);
        deadline::pass_on(timeout, retry.per_try_timeout, is_grpc, &mut outgoing.headers);
        mirrors.send(&self.worker, way, outgoing, timeout);
        // A timeout beyond what the clock can count is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let original;
        let cluster = match asked {
            None => cluster,
            Some(asked) => {
                let find = Box::pin(self.worker.originals.find(cluster, &asked));
                original = match deadline {
                    None => find.await,
                    Some(deadline) => timeout_at(deadline, find).await.unwrap_or(Err(ProxyError::Timeout)),
                }?;
                &original
            }
        };
        let Hashed { hash, set_cookie } = key(way, cluster, outgoing);
        let mut tries = Tries::new(&self.worker, cluster, way.gate(&self.worker), retry);
        (tries.hash, tries.deadline, tries.is_grpc) = (hash, deadline, is_grpc);
        tries.session = session.as_deref();
        if tries.may_repeat(outgoing) {
            outgoing.keep_body();
        }
        let run = pin!(tries.run(outgoing, record));
        let mut answer = match deadline {
            None => run.await,
            Some(deadline) => timeout_at(deadline, run).await.unwrap_or_else(|_| {
                for endpoint in tries.awaited.end() {
                    upstream::record(&self.worker, cluster, &endpoint, Outcome::TimedOut);
                }
                Err(ProxyError::Timeout)
            }),
        }?;
        if let Some(cookie) = set_cookie {
            answer.response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        answer.deadline = deadline;
        Ok(answer)
    }
}

/// Where a request comes from, and the view that it was routed by.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    view: &'a Arc<MeshView>,
    caller: Option<&'a Arc<Caller>>,
    downstream: Downstream,
}

/// The same, for a task of its own.
pub(super) struct OwnedWay {
    view: Arc<MeshView>,
    caller: Option<Arc<Caller>>,
    pub(super) downstream: Downstream,
}

impl<'a> Way<'a> {
    pub(super) fn to_owned(self) -> OwnedWay {
        OwnedWay { view: self.view.clone(), caller: self.caller.cloned(), downstream: self.downstream }
    }

    pub(super) fn gate(self, worker: &'a Worker) -> LocalGate<'a> {
        let caller = self.caller.map(|caller| &**caller);
        LocalGate { worker, view: self.view, caller, downstream: self.downstream }
    }
}

impl OwnedWay {
    pub(super) fn way(&self) -> Way<'_> {
        Way { view: &self.view, caller: self.caller.as_ref(), downstream: self.downstream }
    }
}

fn refuse_what_is_not_http(service: &Service, port: u16) -> Result<(), ProxyError> {
    let protocol = service_port(service, Some(port))?.protocol;
    if protocol.is_http() {
        return Ok(());
    }
    Err(ProxyError::NotHttp { service: service.id.clone(), port, protocol: protocol.as_str() })
}

fn own(status: StatusCode, headers: HeaderMap, body: Bytes) -> Reply {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Reply::Own(response)
}

fn redirect(status: StatusCode, location: String) -> Result<Reply, ProxyError> {
    let location = HeaderValue::try_from(location)
        .map_err(|_| ProxyError::BadRequest("the route's redirect gives no valid location"))?;
    Ok(own(status, HeaderMap::from_iter([(header::LOCATION, location)]), Bytes::new()))
}

fn respond_with(response: &DirectResponse) -> Reply {
    let mut headers = HeaderMap::new();
    if !response.body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    own(response.status, headers, response.body.clone())
}

/// What ties a request to an endpoint of its cluster.
fn key(way: Way<'_>, cluster: &Cluster, outgoing: &Outgoing) -> Hashed {
    let Some(policy) = cluster.hash_policy() else { return Hashed::default() };
    let Downstream { remote, local } = way.downstream;
    policy.hash(&Keyed {
        head: outgoing.head(),
        client: way.view.address_of_client(remote.ip()),
        connection: [remote, local],
    })
}
