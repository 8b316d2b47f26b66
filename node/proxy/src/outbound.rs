//! From an application of this node to the service that it names.

use std::{convert::Infallible, future::Future, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use http::{Method, Request, Response, request};
use hyper::{body::Incoming, service::Service as HyperService, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};
use weft_policy::{
    balance::Cluster,
    endpoint::{ActiveRequest, Endpoint, EndpointAddress, Workload},
    route::{Forward, RequestHead, Routing},
    view::{MeshView, Service, ServicePort},
};
use weft_wire::id::Namespace;

use crate::{
    body::ResponseBody,
    error::{ConnectError, ProxyError},
    exchange::{self, Answer, Outgoing, SendError, X_ENVOY_ATTEMPT_COUNT, X_WEFT_SOURCE},
    listener::{LOCAL_HEAD_TIMEOUT, serve_http1, serve_http2, speaks_http2},
    metrics::{Parties, Reporter},
    pool::{Need, Stream},
    ports::Caller,
    record::{Downstream, ExchangeRecord, Line},
    respond::{self, X_WEFT_REASON},
    tcp::{self, TcpRecord},
    worker::Worker,
};

/// Tries after the first. Istio's default; only for what no upstream has seen.
const MAX_RETRIES: u32 = 2;
/// Upper bound of the random pause before the first retry; doubled for the next. Envoy's default.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

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

impl Outbound {
    /// Serves one HTTP connection of an application.
    pub(crate) async fn serve_http(self: Rc<Self>, stream: TcpStream, downstream: Downstream) {
        let stop = self.worker.tasks.stop.clone();
        let Some(http2) = speaks_http2(&stream, &stop).await else { return };
        let service = Exchanges { outbound: self, downstream };
        if http2 {
            serve_http2(stream, service, &stop).await;
        } else {
            serve_http1(stream, service, LOCAL_HEAD_TIMEOUT, &stop).await;
        }
    }

    /// Serves one TCP connection of an application.
    pub(crate) async fn serve_tcp(self: Rc<Self>, stream: TcpStream, downstream: Downstream) {
        let started = Instant::now();
        let mut parties = Parties::new(Reporter::Source);
        let mut line = self.worker.access_log.is_some().then(|| Box::new(Line::new(downstream, None)));
        let view = self.worker.views.load();
        match self.dial(&view, "", None, &mut parties, line.as_deref_mut()).await {
            Ok((upstream, _active)) => {
                TcpRecord::opened(&self.worker, &parties, line, started).splice(stream, upstream).await;
            }
            Err(error) => TcpRecord::refused(&self.worker, &parties, &error, line, started),
        }
    }

    fn caller(&self) -> Option<Arc<Caller>> {
        self.source.clone().or_else(|| self.worker.identities.default_caller())
    }

    /// The service and port that `host` and `port` mean, or that this listener always means.
    fn service<'v>(
        &self,
        view: &'v MeshView,
        caller: Option<&Caller>,
        host: &str,
        port: Option<u16>,
    ) -> Result<(&'v Arc<Service>, &'v ServicePort), ProxyError> {
        let (host, port) = match &self.target {
            Target::Named => (host, port),
            Target::Fixed { host, port } => (&**host, *port),
        };
        let default_namespace;
        let namespace = match caller {
            Some(caller) => &caller.account().namespace,
            None => {
                default_namespace = Namespace::default_namespace();
                &default_namespace
            }
        };
        let service = view
            .service(host, namespace)
            .ok_or_else(|| ProxyError::UnknownHost { host: host.to_owned(), namespace: namespace.to_string() })?;
        let found = service.port(port).ok_or_else(|| ProxyError::UnknownPort {
            service: service.name.clone(),
            port: port.map_or_else(|| "by default".to_owned(), |port| port.to_string()),
            known: service.ports.iter().map(|known| known.port.to_string()).collect::<Vec<_>>().join(", "),
        })?;
        Ok((service, found))
    }

    /// Connects to the service as a stream of bytes.
    async fn dial(
        &self,
        view: &MeshView,
        host: &str,
        port: Option<u16>,
        parties: &mut Parties,
        mut line: Option<&mut Line>,
    ) -> Result<(Stream, ActiveRequest), ProxyError> {
        let caller = self.caller();
        parties.source = caller.as_deref().and_then(|caller| workload_of(view, caller)).cloned();
        let (service, port) = self.service(view, caller.as_deref(), host, port)?;
        parties.service = Some(service.clone());
        let cluster = service.cluster(port.port).ok_or_else(|| ProxyError::NoEndpoint(service.fqdn.to_string()))?;
        if let Some(line) = &mut line {
            line.route(cluster, "");
        }
        tcp::dial(&self.worker, cluster, caller.as_deref(), |endpoint| {
            parties.destination = Some(endpoint.workload.clone());
            if let Some(line) = &mut line {
                line.endpoint(endpoint);
            }
        })
        .await
    }

    async fn exchange(&self, request: Request<Incoming>, downstream: Downstream) -> Response<ResponseBody> {
        let mut record = ExchangeRecord::begin(&self.worker, Reporter::Source, downstream, &request);
        if request.method() == Method::CONNECT {
            return self.connect(request, record).await;
        }
        let answer = self.forward(request, &mut record).await;
        exchange::finish(&self.worker, answer, record)
    }

    /// CONNECT: a tunnel to a service of the mesh, as an HTTP proxy gives it.
    async fn connect(&self, mut request: Request<Incoming>, mut record: ExchangeRecord) -> Response<ResponseBody> {
        let Some(authority) = request.uri().authority().cloned() else {
            return respond::refuse(&ProxyError::BadRequest("CONNECT without host and port"), record);
        };
        let client: OnUpgrade = hyper::upgrade::on(&mut request);
        let view = self.worker.views.load();
        let started = record.started();
        let (parties, line) = record.parties_and_line();
        match self.dial(&view, authority.host(), authority.port_u16(), parties, line).await {
            Ok((upstream, active)) => {
                let (parties, line) = record.into_tunnel();
                let worker = self.worker.clone();
                self.worker.tasks.spawn(async move {
                    let _active = active;
                    let record = TcpRecord::opened(&worker, &parties, line, started);
                    if let Ok(client) = client.await {
                        record.splice(TokioIo::new(client), upstream).await;
                    }
                });
                Response::new(ResponseBody::tunnel())
            }
            Err(error) => respond::refuse(&error, record),
        }
    }

    /// Routes a request, and sends it to an endpoint until one answers.
    async fn forward(&self, request: Request<Incoming>, record: &mut ExchangeRecord) -> Result<Answer, ProxyError> {
        let view = self.worker.views.load();
        let caller = self.caller();
        record.parties().source = caller.as_deref().and_then(|caller| workload_of(&view, caller)).cloned();

        let (head, body) = request.into_parts();
        let authority = exchange::authority(&head)?;
        let (service, port) = self.service(&view, caller.as_deref(), authority.host(), authority.port_u16())?;
        record.parties().service = Some(service.clone());
        if !port.protocol.is_http() {
            return Err(ProxyError::NotHttp {
                service: service.name.clone(),
                port: port.port,
                protocol: port.protocol.as_str(),
            });
        }
        let route = route(service, port, &head, authority.as_str())?;
        if let Some(line) = record.line() {
            line.route(route.cluster, route.route_name);
        }

        let mut outgoing = Outgoing::new(Request::from_parts(head, body), authority, record)?;
        if let Some(rewrite) = route.rewrite {
            if let Some(authority) = rewrite.authority {
                outgoing.rewrite_authority(authority)?;
            }
            if let Some(path_and_query) = rewrite.path_and_query {
                outgoing.rewrite_path(path_and_query)?;
            }
        }
        // A timeout beyond what the clock can count is none.
        let deadline = route.timeout.and_then(|timeout| record.started().checked_add(timeout));
        let tries = Tries { worker: &self.worker, cluster: route.cluster, caller: caller.as_deref() };
        let mut answer = match deadline {
            None => tries.run(outgoing, record).await,
            Some(deadline) => {
                timeout_at(deadline, tries.run(outgoing, record)).await.unwrap_or(Err(ProxyError::Timeout))
            }
        }?;
        answer.deadline = deadline;
        Ok(answer)
    }
}

fn route<'v>(
    service: &'v Service,
    port: &ServicePort,
    head: &request::Parts,
    authority: &str,
) -> Result<Forward<'v>, ProxyError> {
    let head = RequestHead {
        method: &head.method,
        path_and_query: head.uri.path_and_query().map_or("/", |path| path.as_str()),
        authority,
        scheme: "http",
        headers: &head.headers,
    };
    match service.route(port.port, &head, rand::random()) {
        Routing::Forward(forward) => Ok(forward),
        Routing::NoRoute => Err(ProxyError::NoRoute(service.name.clone())),
        Routing::UnknownCluster => Err(ProxyError::UnknownCluster(service.name.clone())),
    }
}

/// The workload that calls: the one that the caller claims to be, else the only one of its account.
fn workload_of<'v>(view: &'v MeshView, caller: &Caller) -> Option<&'v Arc<Workload>> {
    match caller.claim().and_then(|claim| claim.to_str().ok()) {
        Some(claim) => view.caller(claim, caller.account()),
        None => view.only_workload_of(caller.account()),
    }
}

/// One request's way through the endpoints of its cluster.
struct Tries<'a> {
    worker: &'a Rc<Worker>,
    cluster: &'a Cluster,
    caller: Option<&'a Caller>,
}

impl Tries<'_> {
    async fn run(&self, mut outgoing: Outgoing, record: &mut ExchangeRecord) -> Result<Answer, ProxyError> {
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let mut need = outgoing.need();
        let mut retries = 0;
        loop {
            let endpoint = self
                .cluster
                .pick(&tried, rand::random(), self.worker.now_ms())
                .ok_or_else(|| ProxyError::NoEndpoint(self.cluster.fqdn.to_string()))?;
            record.endpoint(endpoint);
            let failed = match self.once(endpoint, need, retries, &mut outgoing).await {
                Ok(answer) => return Ok(Answer { client_upgrade: outgoing.into_client_upgrade(), ..answer }),
                Err(failed) => failed,
            };
            if retries == MAX_RETRIES || !failed.resend {
                return Err(failed.error);
            }
            retries += 1;
            if failed.stale {
                // The connection was to blame, not the endpoint: at once, on a new one.
                need = if need == Need::Any { Need::Fresh } else { need };
            } else {
                tried.push(endpoint.clone());
                let longest = RETRY_PAUSE * (1 << (retries - 1));
                sleep(longest.mul_f64(rand::random::<f64>())).await;
            }
        }
    }

    async fn once(
        &self,
        endpoint: &Arc<Endpoint>,
        need: Need,
        retries: u32,
        outgoing: &mut Outgoing,
    ) -> Result<Answer, Failed> {
        let active = endpoint.load.begin();
        let mut lease = match self.worker.pools.checkout(endpoint, self.caller, need).await {
            Ok(lease) => lease,
            Err(error) => return Err(self.not_connected(endpoint, error)),
        };
        endpoint.load.connect_succeeded();
        self.mark(endpoint, retries, outgoing);
        match outgoing.send(&mut lease).await {
            Ok(mut response) => {
                if let EndpointAddress::Local(_) = endpoint.address {
                    response.headers_mut().remove(X_WEFT_REASON); // only proxies say so
                }
                Ok(Answer { response, lease, active: Some(active), deadline: None, client_upgrade: None })
            }
            Err(SendError { error, resend }) => Err(Failed { error, resend, stale: lease.may_be_stale() }),
        }
    }

    fn not_connected(&self, endpoint: &Endpoint, error: ConnectError) -> Failed {
        let resend = error.blames_endpoint();
        if resend {
            endpoint.load.connect_failed(self.worker.now_ms());
        }
        Failed { error: error.into(), resend, stale: false }
    }

    /// What only the next proxy gets to see, and what only a workload behind one does.
    fn mark(&self, endpoint: &Endpoint, retries: u32, outgoing: &mut Outgoing) {
        if let EndpointAddress::Local(_) = endpoint.address {
            outgoing.headers.remove(X_WEFT_SOURCE);
            outgoing.headers.remove(X_ENVOY_ATTEMPT_COUNT);
            return;
        }
        outgoing.headers.insert(X_ENVOY_ATTEMPT_COUNT, (retries + 1).into());
        if let Some(claim) = self.caller.and_then(Caller::claim) {
            outgoing.headers.insert(X_WEFT_SOURCE, claim.clone());
        }
    }
}

struct Failed {
    error: ProxyError,
    resend: bool,
    /// On a kept-alive connection, which its peer may just have closed.
    stale: bool,
}

/// The exchanges of one connection, as hyper calls them. Their futures are boxed: hyper keeps room for one in each
/// connection, idle ones too.
struct Exchanges {
    outbound: Rc<Outbound>,
    downstream: Downstream,
}

impl HyperService<Request<Incoming>> for Exchanges {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (outbound, downstream) = (self.outbound.clone(), self.downstream);
        Box::pin(async move { Ok(outbound.exchange(request, downstream).await) })
    }
}
