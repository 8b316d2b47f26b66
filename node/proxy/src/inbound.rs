//! From another node to a workload of this one: mutual TLS ends here, and the workload is told who calls.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use hyper::{body::Incoming, service::Service as HyperService};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;
use weft_policy::{condition, endpoint::LocalWorkload, telemetry::Signals, view::MeshView};
use weft_wire::id::Namespace;

use crate::{
    access::{self, Admitted},
    body::ResponseBody,
    connection::Load,
    error::ProxyError,
    exchange::{self, Answer, Outgoing, Reply, SendError, X_FORWARDED_CLIENT_CERT, X_WEFT_SOURCE},
    ext_authz, limit,
    listener::{limit_unread, serve_http1, serve_http2},
    max_forwards,
    metrics::{Parties, Refused, Reporter},
    pool::Need,
    recheck::{Guest, Who},
    record::{Downstream, ExchangeRecord, Line},
    respond::X_WEFT_REASON,
    target,
    tcp::{Lifetime, TcpRecord},
    tls::{ALPN_HTTP1, ALPN_HTTP2, ALPN_TCP, Peer, Role},
    upstream,
    worker::Worker,
};

/// For the TLS handshake, and then for the first request's head on HTTP/1.1.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one connection of another node.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, downstream: Downstream, load: Rc<Load>) {
    let Some(under_way) = worker.handshakes.begin(downstream.remote.ip()) else {
        worker.metrics.shared().count_refused(Refused::Connections);
        return;
    };
    let handshake = TlsAcceptor::from(worker.tls.server()).accept(stream);
    let stream = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        failed => {
            worker.metrics.shared().count_refused_handshake();
            let error = failed.map_or_else(
                |_| "timeout".to_owned(),
                |failed| failed.err().map_or_else(String::new, |e| e.to_string()),
            );
            debug!(remote = %downstream.remote, error, "no mutual TLS");
            return;
        }
    };
    drop(under_way);
    worker.metrics.shared().count_handshake(true);
    let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let Some(connection) = Connection::of(worker, &stream, downstream, load.clone()) else { return };
    let connection = Rc::new(connection);
    if !matches!(alpn.as_deref(), Some(ALPN_TCP)) {
        limit_unread(stream.get_ref().0, connection.worker.limits.stall_timeout);
    }
    match alpn.as_deref() {
        Some(ALPN_HTTP2) => serve_http2(stream, Exchanges(connection.clone()), &connection.worker, load, false).await,
        Some(ALPN_HTTP1) => {
            serve_http1(stream, Exchanges(connection.clone()), &connection.worker, load, HANDSHAKE_TIMEOUT).await;
        }
        Some(ALPN_TCP) => connection.serve_tcp(stream).await,
        _ => connection.worker.metrics.shared().count_refused_handshake(),
    }
}

/// What the handshake of one connection has settled.
struct Connection {
    worker: Rc<Worker>,
    load: Rc<Load>,
    guest: Rc<Guest>,
    peer: Arc<Peer>,
    peer_text: Arc<str>,
    /// Both ends' identities, for `x-forwarded-client-cert`.
    client_cert: HeaderValue,
}

impl Connection {
    fn of(worker: Rc<Worker>, stream: &TlsStream<TcpStream>, downstream: Downstream, load: Rc<Load>) -> Option<Self> {
        let session = stream.get_ref().1;
        let sni: Arc<str> = session.server_name()?.into();
        let peer = worker.tls.peer(&worker.identities.load(), session.peer_certificates(), Role::Client).ok()?;
        let view = worker.views.load();
        let by = &view.local_workload(&sni)?.workload.principal;
        let text = format!("By={by};Hash={};URI={}", peer.certificate_hash, peer.id);
        let client_cert = HeaderValue::try_from(text).ok()?;
        let who = Who {
            sni,
            principal: Some(peer.id.to_string().trim_start_matches("spiffe://").into()),
            peer: Some(peer.clone()),
            downstream,
            is_http: session.alpn_protocol() != Some(ALPN_TCP),
        };
        let guest = Guest::new(&worker, who, load.clone(), &view);
        let peer_text = peer.id.to_string().into();
        Some(Self { worker, load, guest, peer, peer_text, client_cert })
    }

    /// The workload that the caller means, if it is still here.
    fn workload<'v>(&self, view: &'v MeshView) -> Result<&'v Arc<LocalWorkload>, ProxyError> {
        let sni = &self.guest.who.sni;
        view.local_workload(sni).ok_or_else(|| ProxyError::NotHosted(sni.to_string()))
    }

    async fn exchange(self: Rc<Self>, mut request: Request<Incoming>) -> Result<Response<ResponseBody>, Infallible> {
        let view = self.worker.views.load();
        let workload = self.workload(&view);
        let told = (Reporter::Destination, signals(&view, workload.as_ref().ok().copied()));
        let mut record = ExchangeRecord::begin(&self.worker, told, self.guest.who.downstream, &self.load, &request);
        let claim = request.headers_mut().remove(X_WEFT_SOURCE);
        let reply = self.forward(request, (&view, workload), claim.as_ref(), &mut record).await;
        Ok(exchange::finish(&self.worker, reply, record))
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        (view, workload): (&Arc<MeshView>, Result<&Arc<LocalWorkload>, ProxyError>),
        claim: Option<&HeaderValue>,
        record: &mut ExchangeRecord,
    ) -> Result<Reply, ProxyError> {
        self.worker.refuse_when_overloaded()?;
        self.identify(view, claim, record.parties());
        if let Some(line) = record.line() {
            line.server_name(self.guest.who.sni.clone());
            line.peer(&self.peer_text);
        }
        let workload = workload?;
        record.parties().destination = Some(workload.workload.clone());
        if let Some(line) = record.line() {
            line.workload(workload);
        }

        // The peer's proxy has done it too; what decides here trusts nobody with it.
        target::normalise_path(&mut request, view.settings.path_normalization)?;
        let authority = target::authority(&request)?;
        let mut outgoing = Outgoing::new(request, authority, record)?;
        outgoing.headers.insert(X_FORWARDED_CLIENT_CERT, self.client_cert.clone());
        let mut admitted = Admitted::default();
        if let Some(access) = view.access(&workload.workload) {
            admitted = access::admit(&self.worker, view, access, &self.guest.who.call(workload), &mut outgoing).await?;
        }
        // Only who is let in counts: others could use up what is for these.
        let quota = match view.limits_of_workload(&workload.workload, workload.address.port()) {
            None => None,
            Some(limits) => {
                let asked =
                    condition::Request { head: &outgoing.head(), principal: self.guest.who.principal.as_deref() };
                limit::admit(limits, &asked, admitted.claims.as_ref(), self.worker.now_ns())?
            }
        };
        if let Some(answer) = max_forwards::count(&mut outgoing) {
            return Ok(Reply::Own(answer));
        }
        let http2 = upstream::speaks_http2(workload.protocol, &outgoing.headers);
        let mut need = outgoing.need();
        loop {
            let mut lease = self.worker.pools.checkout_app(workload.address, http2, need).await?;
            match outgoing.send(&mut lease).await {
                Ok(mut response) => {
                    response.headers_mut().remove(X_WEFT_REASON); // only proxies say so
                    if let Some(quota) = quota {
                        quota.tell(response.headers_mut());
                    }
                    ext_authz::apply(admitted.changes, response.headers_mut());
                    let client_upgrade = outgoing.take_client_upgrade();
                    let guest = client_upgrade.as_ref().map(|_| self.guest.clone());
                    return Ok(Reply::Upstream(Answer {
                        response,
                        lease,
                        active: None,
                        deadline: None,
                        client_upgrade,
                        guest,
                        fault: None,
                    }));
                }
                // Kept alive for too long: once more, on a new connection.
                Err(SendError { stale: true, .. }) if need == Need::Any => need = Need::Fresh,
                Err(SendError { error, .. }) => return Err(error),
            }
        }
    }

    /// Who calls: what it says of itself, if its certificate allows it to say so.
    fn identify(&self, view: &MeshView, claim: Option<&HeaderValue>, parties: &mut Parties) {
        let Some(account) = self.peer.id.as_workload() else { return };
        let claimed = claim.and_then(|claim| claim.to_str().ok()).and_then(|claim| view.caller(claim, account));
        parties.source = claimed.or_else(|| view.only_workload_of(account)).cloned();
    }

    async fn serve_tcp(&self, stream: TlsStream<TcpStream>) {
        let started = Instant::now();
        let view = self.worker.views.load();
        let mut parties = Parties::new(Reporter::Destination);
        self.identify(&view, None, &mut parties);
        let found = self.workload(&view);
        let told = signals(&view, found.as_ref().ok().copied());
        let mut line = Line::begin(&self.worker, told, self.guest.who.downstream);
        if let Some(line) = &mut line {
            line.server_name(self.guest.who.sni.clone());
            line.peer(&self.peer_text);
        }
        let workload = match found {
            Ok(workload) => workload,
            Err(error) => return TcpRecord::refused(&self.worker, &parties, &error, line, started),
        };
        parties.destination = Some(workload.workload.clone());
        if let Some(line) = &mut line {
            line.workload(workload);
        }
        if let Some(access) = view.access(&workload.workload)
            && let Err(error) =
                access::admit_connection(&self.worker, &view, access, &self.guest.who.call(workload)).await
        {
            return TcpRecord::refused(&self.worker, &parties, &error, line, started);
        }
        match self.worker.pools.tunnel_app(workload.address).await {
            Ok(app) => {
                let record = TcpRecord::opened(&self.worker, &parties, line, started);
                record.splice(stream, app, Some(&self.guest), Lifetime::ENDLESS).await;
            }
            Err(error) => TcpRecord::refused(&self.worker, &parties, &error.into(), line, started),
        }
    }
}

/// What is told of the traffic of a called workload.
fn signals<'v>(view: &'v MeshView, called: Option<&Arc<LocalWorkload>>) -> &'v Arc<Signals> {
    static DEFAULT: LazyLock<Namespace> = LazyLock::new(Namespace::default_namespace);
    let called = called.map(|called| &*called.workload);
    &view.signals(called, called.map_or(&DEFAULT, |called| &called.namespace)).server
}

/// The exchanges of one connection, as hyper calls them; boxed as the outbound ones are.
struct Exchanges(Rc<Connection>);

impl HyperService<Request<Incoming>> for Exchanges {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.0.clone().exchange(request))
    }
}
