//! From an application of this node to the service that it names.

mod bytes;
mod connect;
mod mirror;
mod request;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{Arc, LazyLock},
};

use http::{Request, Response};
use hyper::{body::Incoming, service::Service as HyperService};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use weft_policy::{
    balance::Cluster,
    endpoint::Workload,
    hosts::service_name,
    route::{Client, Destination},
    telemetry::Signals,
    unserved::Unserved,
    view::{HTTP_PORT, Host, MeshView, Service, ServicePort},
};
use weft_wire::{fact::Protocol, id::Namespace};

use crate::{
    body::ResponseBody,
    connection::Load,
    detect::Begun,
    elsewhere,
    error::ProxyError,
    exchange,
    listener::{limit_unread, serve_http1_application, serve_http2, speaks_http2},
    metrics::{Parties, Reporter},
    original::Asked,
    ports::Caller,
    record::{Downstream, ExchangeRecord, Line},
    respond, target, upgrade,
    worker::Worker,
};

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
            serve_http1_application(stream, service, &worker, load, limits.idle_timeout).await;
        }
    }

    /// Serves one connection of an application as the listener's port is declared, or finds it out.
    pub(crate) async fn serve_any(self: Rc<Self>, stream: TcpStream, downstream: Downstream, load: Rc<Load>) {
        let view = self.worker.views.load();
        let protocol = self.protocol(&view, Named::default());
        if protocol == Protocol::Tcp || self.reads_server_name(&view, Named::default()) {
            return self.serve_tcp(stream, downstream).await;
        }
        match protocol {
            Protocol::Auto => {
                let begun = Begun {
                    parties: Parties::new(Reporter::Source),
                    line: Line::begin(&self.worker, signals(&view, self.caller().as_deref()), downstream),
                    started: Instant::now(),
                    dialled: None,
                };
                drop(view);
                let limit = self.worker.limits.stall_timeout;
                self.serve_undeclared(stream, begun, downstream, load, |stream| limit_unread(stream, limit)).await;
            }
            _ => {
                drop(view);
                self.serve_http(stream, downstream, load).await;
            }
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

    /// What a connection is to, as rules ask for it.
    fn destination<'a>(&self, Named { host, server_name, .. }: Named<'a>) -> Destination<'a> {
        let host = match &self.target {
            Target::Named => host,
            Target::Fixed { host, .. } => host,
        };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        Destination { address: address.parse().ok(), server_name }
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

    async fn exchange(
        self: Rc<Self>,
        mut request: Request<Incoming>,
        downstream: Downstream,
        load: Rc<Load>,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let (mut view, caller) = (self.worker.views.load(), self.caller());
        if self.worker.elsewhere.is_any() {
            // Boxed, so that requests in a mesh of one cell are no larger.
            view = Box::pin(self.with_endpoints(view, &request, caller.as_deref())).await;
        }
        let told = (Reporter::Source, signals(&view, caller.as_deref()));
        let mut record = ExchangeRecord::begin(&self.worker, told, downstream, &load, &request);
        match upgrade::is_plain_connect(&mut request) {
            Ok(false) => {}
            Ok(true) => return Ok(self.connect(request, downstream, record).await),
            Err(error) => return Ok(respond::refuse(&error, record)),
        }
        let reply = self.reply(request, &view, caller, downstream, &mut record).await;
        Ok(exchange::finish(&self.worker, reply, record))
    }
}

impl Outbound {
    /// A view to serve a request with: if endpoints of the service that it names are known in other cells alone, one that
    /// has some, should it come in time.
    async fn with_endpoints(
        &self,
        view: Arc<MeshView>,
        request: &Request<Incoming>,
        caller: Option<&Caller>,
    ) -> Arc<MeshView> {
        let Ok(authority) = target::authority(request) else { return view };
        let (host, port) = target::host_and_port(&authority);
        let (views, elsewhere) = (&self.worker.views, &self.worker.elsewhere);
        let is_to_come = |view: &MeshView| {
            self.without_endpoints(view, caller, host, port).is_some_and(|service| elsewhere.call(&service))
        };
        if !is_to_come(&view) {
            return view;
        }
        let (mut changes, deadline) = (views.changes(), Instant::now() + elsewhere::PATIENCE);
        let mut view = views.load();
        while is_to_come(&view) && timeout_at(deadline, changes.changed()).await.is_ok_and(|changed| changed.is_ok()) {
            view = views.load();
        }
        view
    }

    /// The service that a host means, as `name.namespace`, if no endpoint of it is known.
    fn without_endpoints(
        &self,
        view: &MeshView,
        caller: Option<&Caller>,
        host: &str,
        port: Option<u16>,
    ) -> Option<String> {
        let (host, port) = match &self.target {
            Target::Named => (host, port),
            Target::Fixed { host, port } => (&**host, *port),
        };
        let client = client(view, caller);
        match view.host(host, port, client) {
            Some(Host::Service(service)) if !service.has_endpoints() => service.id.mesh().map(ToString::to_string),
            Some(_) => None,
            None => service_name(host, client.namespace),
        }
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

/// What is told of a caller's traffic.
fn signals<'v>(view: &'v MeshView, caller: Option<&Caller>) -> &'v Arc<Signals> {
    let workload = caller.and_then(|caller| workload_of(view, caller)).map(|workload| &**workload);
    &view.signals(workload, namespace_of(caller)).client
}

/// Where the names are at home that a caller leaves short.
fn namespace_of(caller: Option<&Caller>) -> &Namespace {
    static DEFAULT: LazyLock<Namespace> = LazyLock::new(Namespace::default_namespace);
    caller.map_or(&DEFAULT, |caller| &caller.account().namespace)
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
        Box::pin(self.outbound.clone().exchange(request, self.downstream, self.load.clone()))
    }
}
