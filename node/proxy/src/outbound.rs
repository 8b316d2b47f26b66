//! From an application of this node to the service that it names.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::{body::Incoming, service::Service as HyperService, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};
use weft_policy::{
    balance::{Attempt, Cluster, Hashed, Held, Keyed, Outcome},
    condition,
    cors::CorsOutcome,
    deadline,
    endpoint::Workload,
    fault::FaultEnd,
    learned::Spoken,
    retry::RetryPolicy,
    route::{Action, Client, DirectResponse, Forward, Matched, TcpRouting},
    unserved::Unserved,
    view::{HTTP_PORT, Host, MeshView, Service, ServicePort},
};
use weft_wire::{fact::Protocol, id::Namespace};

use crate::{
    access::LocalGate,
    body::ResponseBody,
    client_hello::ClientHello,
    connection::Load,
    detect::Begun,
    error::ProxyError,
    exchange::{self, Answer, Outgoing, Reply},
    ext_authz::{self, RuledRequest},
    fault::{self, Plan},
    headers::{Operations, Sent},
    limit,
    listener::{limit_unread, serve_http1, serve_http2, speaks_http2},
    max_forwards,
    metrics::{Parties, Reporter},
    original::Asked,
    pool::Need,
    ports::Caller,
    record::{Downstream, ExchangeRecord, Line},
    respond, target,
    tcp::{self, Dialled, TcpRecord},
    tries::Tries,
    upgrade, upstream,
    worker::{Worker, unix_ms},
};

/// The longest that a mirrored request may take whose rule has no timeout.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(60);

/// One listening address for local applications.
pub(crate) struct Outbound {
    pub(crate) worker: Rc<Worker>,
    pub(crate) target: Target,
    /// As whom calls are made; otherwise the node's default caller.
    pub(crate) source: Option<Arc<Caller>>,
}

/// How the called service is found.
pub(crate) enum Target {
    /// By the request's host.
    Named,
    /// The listener has one: its `name.namespace`, and its port unless it has only one.
    Fixed { host: Box<str>, port: Option<u16> },
}

/// What a client of bytes names: nothing, where the listener does.
#[derive(Clone, Copy, Default)]
pub(crate) struct Named<'a> {
    host: &'a str,
    port: Option<u16>,
    /// In its TLS handshake, where that was read.
    server_name: Option<&'a str>,
}

impl Outbound {
    /// Serves one HTTP connection of an application.
    pub(crate) async fn serve_http(self: Rc<Self>, stream: TcpStream, downstream: Downstream, load: Rc<Load>) {
        let worker = self.worker.clone();
        let limits = worker.limits;
        let Some(http2) = speaks_http2(&stream, &limits, &worker.tasks.stop).await else { return };
        limit_unread(&stream, limits.stall_timeout);
        let service = Exchanges { outbound: self, downstream, load: load.clone() };
        if http2 {
            serve_http2(stream, service, &worker, load, true).await;
        } else {
            serve_http1(stream, service, &worker, load, limits.idle_timeout).await;
        }
    }

    /// Serves one connection of an application as the listener's port is declared, or finds it out.
    pub(crate) async fn serve_any(self: Rc<Self>, stream: TcpStream, downstream: Downstream, load: Rc<Load>) {
        let view = self.worker.views.load();
        let protocol = self.protocol(&view, Named::default());
        if protocol == Protocol::Tcp || self.reads_server_name(&view, Named::default()) {
            return self.serve_tcp(stream, downstream).await;
        }
        drop(view);
        match protocol {
            Protocol::Auto => {
                let begun = Begun {
                    parties: Parties::new(Reporter::Source),
                    line: self.worker.access_log.is_some().then(|| Box::new(Line::new(downstream, None))),
                    started: Instant::now(),
                    dialled: None,
                };
                let limit = self.worker.limits.stall_timeout;
                self.serve_undeclared(stream, begun, downstream, load, |stream| limit_unread(stream, limit)).await;
            }
            _ => self.serve_http(stream, downstream, load).await,
        }
    }

    /// What is declared of a port; nothing is, of one that is not known.
    fn protocol(&self, view: &MeshView, named: Named<'_>) -> Protocol {
        let caller = self.caller();
        let client = client(view, caller.as_deref());
        match self.host(view, client, named.host, named.port) {
            Ok((Host::Service(service), port)) => service.port(Some(port)).map_or(Protocol::Auto, |port| port.protocol),
            // As in Istio: what is not known is not read.
            Ok((Host::Passthrough(_), _)) => Protocol::Tcp,
            Ok((Host::Virtual(_), _)) | Err(_) => Protocol::Auto,
        }
    }

    /// Serves one TCP connection of an application.
    pub(crate) async fn serve_tcp(self: Rc<Self>, stream: TcpStream, downstream: Downstream) {
        let started = Instant::now();
        let mut parties = Parties::new(Reporter::Source);
        let mut line = self.worker.access_log.is_some().then(|| Box::new(Line::new(downstream, None)));
        let view = self.worker.views.load();
        if self.reads_server_name(&view, Named::default()) {
            return self.serve_tls(&view, Named::default(), stream, downstream, line, started).await;
        }
        match self.dial(&view, Named::default(), downstream, &mut parties, line.as_deref_mut()).await {
            Ok(Dialled { stream: upstream, active: _active, guest, lifetime }) => {
                let record = TcpRecord::opened(&self.worker, &parties, line, started);
                record.splice(stream, upstream, guest.as_deref(), lifetime).await;
            }
            Err(error) => self.turn_away(stream, &parties, &error, line, started).await,
        }
    }

    /// Where bytes go, as far as it does not depend on what they are.
    pub(crate) fn cluster(&self, view: &MeshView, named: Named<'_>) -> Option<Arc<Cluster>> {
        let caller = self.caller();
        let client = client(view, caller.as_deref());
        let Ok((Host::Service(service), port)) = self.host(view, client, named.host, named.port) else { return None };
        match view.route_tcp(service, port, client, None, rand::random()) {
            TcpRouting::Forward(_, cluster) => Some(cluster.clone()),
            TcpRouting::NoRoute | TcpRouting::UnknownCluster => None,
        }
    }

    pub(crate) async fn turn_away(
        &self,
        client: impl AsyncRead + Unpin,
        parties: &Parties,
        error: &ProxyError,
        line: Option<Box<Line>>,
        started: Instant,
    ) {
        if let Some(limit) = fault::black_hole(error) {
            fault::swallow(client, limit).await;
        }
        TcpRecord::refused(&self.worker, parties, error, line, started);
    }

    /// Serves a connection that goes where the server name in its TLS handshake says.
    async fn serve_tls(
        &self,
        view: &MeshView,
        named: Named<'_>,
        mut client: impl AsyncRead + AsyncWrite + Unpin,
        downstream: Downstream,
        mut line: Option<Box<Line>>,
        started: Instant,
    ) {
        let mut parties = Parties::new(Reporter::Source);
        let dialled = async {
            let hello = ClientHello::read(&mut client).await;
            let hello = hello.map_err(|_| ProxyError::BadRequest("no TLS ClientHello came that could be read"))?;
            let named = Named { server_name: hello.server_name.as_deref(), ..named };
            let dialled = self.dial(view, named, downstream, &mut parties, line.as_deref_mut()).await?;
            Ok((dialled, hello))
        };
        match dialled.await {
            Ok((Dialled { stream: upstream, active: _active, guest, lifetime }, hello)) => {
                let record = TcpRecord::opened(&self.worker, &parties, line, started);
                record.splice(hello.before(client), upstream, guest.as_deref(), lifetime).await;
            }
            Err(error) => self.turn_away(client, &parties, &error, line, started).await,
        }
    }

    /// Whether what a client says first decides where its connection goes.
    fn reads_server_name(&self, view: &MeshView, named: Named<'_>) -> bool {
        let caller = self.caller();
        let client = client(view, caller.as_deref());
        match self.host(view, client, named.host, named.port) {
            Ok((Host::Service(service), port)) => view.reads_server_name(service, port, client),
            Ok((Host::Virtual(_) | Host::Passthrough(_), _)) | Err(_) => false,
        }
    }

    fn caller(&self) -> Option<Arc<Caller>> {
        self.source.clone().or_else(|| self.worker.identities.default_caller())
    }

    /// What `host` and `port` mean, or what this listener always means, and the port that the caller dialled.
    fn host<'v>(
        &self,
        view: &'v MeshView,
        client: Client<'_>,
        host: &str,
        port: Option<u16>,
    ) -> Result<(Host<'v>, u16), ProxyError> {
        let (host, port) = match &self.target {
            Target::Named => (host, port),
            Target::Fixed { host, port } => (&**host, *port),
        };
        let found = match view.host(host, port, client) {
            Some(found) => found,
            None => match view.unserved(client) {
                Unserved::Passed(passthrough) => Host::Passthrough(passthrough),
                Unserved::BlackHoled(_) | Unserved::Refused => {
                    let namespace = client.namespace.to_string();
                    return Err(ProxyError::UnknownHost { host: host.to_owned(), namespace });
                }
            },
        };
        let port = match found {
            Host::Service(service) => {
                let is_http = || service.port(None).is_none() && service.port(Some(HTTP_PORT)).is_some();
                let port = match &self.target {
                    Target::Named => port.or_else(|| is_http().then_some(HTTP_PORT)),
                    Target::Fixed { .. } => port,
                };
                service_port(service, port)?.port
            }
            Host::Virtual(_) | Host::Passthrough(_) => port.unwrap_or(HTTP_PORT),
        };
        Ok((found, port))
    }

    /// What a request for a host asks for, where that decides where it goes.
    fn asked(&self, cluster: &Cluster, host: &str, port: u16, downstream: Downstream) -> Option<Box<Asked>> {
        cluster.original_destination()?;
        let host = match &self.target {
            Target::Named => host,
            Target::Fixed { host, .. } => host,
        };
        // Boxed, so that requests which go to known places are no larger.
        Some(Box::new(Asked { host: host.to_owned(), port, local: Some(downstream.local) }))
    }

    /// Connects to the service as a stream of bytes.
    pub(crate) async fn dial(
        &self,
        view: &MeshView,
        Named { host, port, server_name }: Named<'_>,
        downstream: Downstream,
        parties: &mut Parties,
        mut line: Option<&mut Line>,
    ) -> Result<Dialled, ProxyError> {
        let caller = self.caller();
        let caller = caller.as_deref();
        parties.source = caller.and_then(|caller| workload_of(view, caller)).cloned();
        let namespace = namespace_of(caller);
        let client = Client { namespace, workload: parties.source.as_deref() };
        let found = self.host(view, client, host, port);
        let found = found.inspect_err(|error| count_for(view, client, error, &mut parties.service))?;
        if let (Some(line), Some(server_name)) = (&mut line, server_name) {
            line.server_name(server_name);
        }
        let (port, routing) = match found {
            (Host::Service(service), port) => {
                match view.route_tcp(service, port, client, server_name, rand::random()) {
                    TcpRouting::Forward(service, cluster) => (port, (service, cluster)),
                    TcpRouting::NoRoute => return Err(ProxyError::NoRoute(service.fqdn.to_string())),
                    TcpRouting::UnknownCluster => return Err(ProxyError::UnknownCluster(service.fqdn.to_string())),
                }
            }
            (Host::Passthrough(passthrough), port) => (port, (passthrough.service, passthrough.cluster)),
            (Host::Virtual(_), _) => {
                return Err(ProxyError::UnknownHost { host: host.to_owned(), namespace: namespace.to_string() });
            }
        };
        let (service, cluster) = routing;
        parties.service = Some(service.clone());
        if let Some(line) = &mut line {
            line.cluster(cluster);
        }
        fault::inject_connection(view.experiments(None, Some((&service.id, cluster.port)))).await?;
        let original;
        let cluster = match self.asked(cluster, host, port, downstream) {
            None => cluster,
            Some(mut asked) => {
                if let Some(name) = server_name.filter(|_| asked.host.starts_with('*')) {
                    name.clone_into(&mut asked.host);
                }
                original = Box::pin(self.worker.originals.find(cluster, &asked)).await?;
                &original
            }
        };
        let gate = LocalGate { worker: &self.worker, view, caller, downstream };
        // A wildcard is no server's name.
        let is_name = !cluster.fqdn.starts_with('*');
        let host = if is_name { &*cluster.fqdn } else { server_name.unwrap_or(host) };
        tcp::dial(&gate, cluster, host, |endpoint| {
            parties.call(cluster, endpoint);
            if let Some(line) = &mut line {
                line.endpoint(endpoint);
            }
        })
        .await
    }

    async fn exchange(
        self: &Rc<Self>,
        mut request: Request<Incoming>,
        downstream: Downstream,
        load: &Rc<Load>,
    ) -> Response<ResponseBody> {
        let mut record = ExchangeRecord::begin(&self.worker, Reporter::Source, downstream, load, &request);
        match upgrade::is_plain_connect(&mut request) {
            Ok(false) => {}
            Ok(true) => return self.connect(request, downstream, record).await,
            Err(error) => return respond::refuse(&error, record),
        }
        let reply = self.reply(request, downstream, &mut record).await;
        exchange::finish(&self.worker, reply, record)
    }

    /// CONNECT: a tunnel to a service of the mesh, as an HTTP proxy gives it.
    async fn connect(
        self: &Rc<Self>,
        mut request: Request<Incoming>,
        downstream: Downstream,
        mut record: ExchangeRecord,
    ) -> Response<ResponseBody> {
        let (authority, port) = match target::tunnel(&request) {
            Ok(target) => target,
            Err(error) => return respond::refuse(&error, record),
        };
        let client: OnUpgrade = hyper::upgrade::on(&mut request);
        let view = self.worker.views.load();
        let started = record.started();
        let port = Some(port);
        if self.reads_server_name(&view, Named { host: authority.host(), port, server_name: None }) {
            let (outbound, (_, line)) = (self.clone(), record.into_tunnel());
            self.worker.tasks.spawn(async move {
                let Ok(client) = client.await else { return };
                let (client, named) = (TokioIo::new(client), Named { host: authority.host(), port, server_name: None });
                outbound.serve_tls(&view, named, client, downstream, line, started).await;
            });
            return Response::new(ResponseBody::tunnel());
        }
        let named = Named { host: authority.host(), port, server_name: None };
        if self.protocol(&view, named) == Protocol::Auto
            && let Some(cluster) = self.cluster(&view, named)
        {
            return self.connect_undeclared(client, (&view, named, &cluster), downstream, record).await;
        }
        let (parties, line) = record.parties_and_line();
        match self.dial(&view, named, downstream, parties, line).await {
            Ok(Dialled { stream: upstream, active, guest, lifetime }) => {
                let (parties, line) = record.into_tunnel();
                let worker = self.worker.clone();
                self.worker.tasks.spawn(async move {
                    let _active = active;
                    let record = TcpRecord::opened(&worker, &parties, line, started);
                    if let Ok(client) = client.await {
                        record.splice(TokioIo::new(client), upstream, guest.as_deref(), lifetime).await;
                    }
                });
                Response::new(ResponseBody::tunnel())
            }
            Err(error) => {
                if let Some(limit) = fault::black_hole(&error) {
                    sleep(limit).await;
                }
                respond::refuse(&error, record)
            }
        }
    }

    /// CONNECT to a port whose protocol nobody declared.
    async fn connect_undeclared(
        self: &Rc<Self>,
        client: OnUpgrade,
        (view, named, cluster): (&MeshView, Named<'_>, &Cluster),
        downstream: Downstream,
        mut record: ExchangeRecord,
    ) -> Response<ResponseBody> {
        let known = cluster.learned().and_then(|learned| learned.known(self.worker.now_ms()));
        let dialled = match known {
            Some(Spoken::Http) => None,
            Some(Spoken::ServerFirst) | None => {
                let (parties, line) = record.parties_and_line();
                match self.dial(view, named, downstream, parties, line).await {
                    // Those who send requests may still be let in.
                    Err(error) if !matches!(error, ProxyError::Denied(_)) => return respond::refuse(&error, record),
                    dialled => Some(dialled),
                }
            }
        };
        let target = Target::Fixed { host: named.host.into(), port: named.port };
        let outbound = Rc::new(Self { worker: self.worker.clone(), target, source: self.source.clone() });
        let (started, (parties, line)) = (record.started(), record.into_tunnel());
        self.worker.tasks.spawn(async move {
            let Ok(client) = client.await else { return };
            let begun = Begun { parties, line, started, dialled };
            let load = outbound.worker.connections.open();
            outbound.serve_undeclared(TokioIo::new(client), begun, downstream, load, |_| {}).await;
        });
        Response::new(ResponseBody::tunnel())
    }

    /// Routes a request, and answers it or forwards it.
    async fn reply(
        &self,
        mut request: Request<Incoming>,
        downstream: Downstream,
        record: &mut ExchangeRecord,
    ) -> Result<Reply, ProxyError> {
        self.worker.refuse_when_overloaded()?;
        let view = self.worker.views.load();
        target::normalise_path(&mut request, view.settings.path_normalization)?;
        let caller = self.caller();
        let source = caller.as_deref().and_then(|caller| workload_of(&view, caller));
        record.parties().source = source.cloned();
        let namespace = namespace_of(caller.as_deref());
        let client = Client { namespace, workload: source.map(|workload| &**workload) };

        let authority = target::authority(&request)?;
        let found = self.host(&view, client, authority.host(), authority.port_u16());
        let (host, port) = found.inspect_err(|error| count_for(&view, client, error, &mut record.parties().service))?;
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
                let gate = LocalGate { worker: &self.worker, view: &view, caller: caller.as_deref(), downstream };
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
                    let asked = self.asked(forward.cluster, outgoing.authority.host(), port, downstream);
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
                    let way = Way { view: &view, caller: caller.as_ref(), downstream };
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
        if let Reply::Upstream(Answer { stay, .. }) = &mut reply
            && let Some(stay) = stay.take()
        {
            record.stays(stay, caller, downstream);
        }
        operations.of_response(&mut reply, sent.as_ref(), record);
        ext_authz::apply(changes, reply.headers_mut());
        reply.headers_mut().extend(allowed);
        if let Some(Ok(Some(quota))) = quota {
            quota.tell(reply.headers_mut());
        }
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
        for cluster in mirrors.clusters {
            let Ok(place) = cluster.hold_copy() else {
                self.worker.metrics.shared().count_mirror_overflow();
                continue;
            };
            if let Some(mut copy) = outgoing.copy() {
                if mirrors.appends_shadow {
                    copy.append_shadow();
                }
                self.worker.tasks.spawn(mirror(self.worker.clone(), cluster, place, way.to_owned(), copy, timeout));
            }
        }
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
struct Way<'a> {
    view: &'a Arc<MeshView>,
    caller: Option<&'a Arc<Caller>>,
    downstream: Downstream,
}

/// The same, for a task of its own.
struct OwnedWay {
    view: Arc<MeshView>,
    caller: Option<Arc<Caller>>,
    downstream: Downstream,
}

impl<'a> Way<'a> {
    fn to_owned(self) -> OwnedWay {
        OwnedWay { view: self.view.clone(), caller: self.caller.cloned(), downstream: self.downstream }
    }

    fn gate(self, worker: &'a Worker) -> LocalGate<'a> {
        let caller = self.caller.map(|caller| &**caller);
        LocalGate { worker, view: self.view, caller, downstream: self.downstream }
    }
}

impl OwnedWay {
    fn way(&self) -> Way<'_> {
        Way { view: &self.view, caller: self.caller.as_ref(), downstream: self.downstream }
    }
}

/// The port of the service that a caller means; none is the only one.
fn service_port(service: &Service, port: Option<u16>) -> Result<&ServicePort, ProxyError> {
    service.port(port).ok_or_else(|| ProxyError::UnknownPort {
        service: service.id.clone(),
        port: port.map_or_else(|| "by default".to_owned(), |port| port.to_string()),
        known: service.ports.iter().map(|known| known.port.to_string()).collect::<Vec<_>>().join(", "),
    })
}

fn refuse_what_is_not_http(service: &Service, port: u16) -> Result<(), ProxyError> {
    let protocol = service_port(service, Some(port))?.protocol;
    if protocol.is_http() {
        return Ok(());
    }
    Err(ProxyError::NotHttp { service: service.id.clone(), port, protocol: protocol.as_str() })
}

/// Has a host that a document refuses count as one of those, in metrics.
fn count_for(view: &MeshView, client: Client<'_>, error: &ProxyError, service: &mut Option<Arc<Service>>) {
    if let (ProxyError::UnknownHost { .. }, Unserved::BlackHoled(black_hole)) = (error, view.unserved(client)) {
        *service = Some(black_hole.clone());
    }
}

/// A caller as routing sees it.
fn client<'a>(view: &'a MeshView, caller: Option<&'a Caller>) -> Client<'a> {
    let workload = caller.and_then(|caller| workload_of(view, caller)).map(|workload| &**workload);
    Client { namespace: namespace_of(caller), workload }
}

/// Where the names are at home that a caller leaves short.
fn namespace_of(caller: Option<&Caller>) -> &Namespace {
    static DEFAULT: LazyLock<Namespace> = LazyLock::new(Namespace::default_namespace);
    caller.map_or(&DEFAULT, |caller| &caller.account().namespace)
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

/// Where copies of a request go, and whether their host says so.
struct Mirrors {
    clusters: Vec<Arc<Cluster>>,
    appends_shadow: bool,
}

/// Sends a copy of a request, and reads its answer for nobody.
async fn mirror(
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    _place: Held,
    way: OwnedWay,
    mut copy: Outgoing,
    limit: Option<Duration>,
) {
    let cluster = match cluster.original_destination() {
        None => cluster,
        Some(_) => {
            let (host, local) = (copy.authority.host().to_owned(), Some(way.downstream.local));
            let asked = Asked { host, port: cluster.port, local };
            let Ok(original) = worker.originals.find(&cluster, &asked).await else { return };
            original
        }
    };
    let attempt = Attempt { random: rand::random(), now_ms: worker.now_ms(), ..Attempt::default() };
    let Some(endpoint) = cluster.pick(&attempt) else { return };
    let gate = way.way().gate(&worker);
    let policy = RetryPolicy::default();
    let tries = Tries::new(&worker, &cluster, gate, &policy);
    let sent = async {
        let Ok(Answer { response, mut lease, active, .. }) = tries.once(endpoint, Need::Any, 0, &mut copy).await else {
            return;
        };
        let _active = active;
        let mut body = response.into_body();
        while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
        lease.finished();
    };
    let _ = timeout(limit.unwrap_or(MIRROR_TIMEOUT), sent).await;
}

/// The workload that calls: the one that the caller claims to be, else the only one of its account.
fn workload_of<'v>(view: &'v MeshView, caller: &Caller) -> Option<&'v Arc<Workload>> {
    match caller.claim().and_then(|claim| claim.to_str().ok()) {
        Some(claim) => view.caller(claim, caller.account()),
        None => view.only_workload_of(caller.account()),
    }
}

/// The exchanges of one connection, as hyper calls them. Their futures are boxed: hyper keeps room for one in each
/// connection, idle ones too.
pub(crate) struct Exchanges {
    pub(crate) outbound: Rc<Outbound>,
    pub(crate) downstream: Downstream,
    pub(crate) load: Rc<Load>,
}

impl HyperService<Request<Incoming>> for Exchanges {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (outbound, downstream, load) = (self.outbound.clone(), self.downstream, self.load.clone());
        Box::pin(async move { Ok(outbound.exchange(request, downstream, &load).await) })
    }
}
