//! Connections that are carried as bytes.

use std::{rc::Rc, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};
use weft_policy::{
    balance::Cluster,
    route::{Client, TcpRouting},
    view::{Host, MeshView},
};

use super::{Named, Outbound, client, count_for, namespace_of, signals, workload_of};
use crate::{
    access::LocalGate,
    client_hello::ClientHello,
    error::ProxyError,
    fault,
    metrics::{Parties, Reporter},
    record::{Downstream, Line},
    tcp::{self, Dialled, TcpRecord},
};

impl Outbound {
    /// Serves one TCP connection of an application.
    pub(crate) async fn serve_tcp(self: Rc<Self>, stream: TcpStream, downstream: Downstream) {
        let started = Instant::now();
        let mut parties = Parties::new(Reporter::Source);
        let view = self.worker.views.load();
        let mut line = Line::begin(&self.worker, signals(&view, self.caller().as_deref()), downstream);
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
        match view.route_tcp(service, port, client, self.destination(named), rand::random()) {
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
    pub(super) async fn serve_tls(
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
    pub(super) fn reads_server_name(&self, view: &MeshView, named: Named<'_>) -> bool {
        let caller = self.caller();
        let client = client(view, caller.as_deref());
        match self.host(view, client, named.host, named.port) {
            Ok((Host::Service(service), port)) => {
                view.reads_server_name(service, port, client, self.destination(named).address)
            }
            Ok((Host::Virtual(_) | Host::Passthrough(_), _)) | Err(_) => false,
        }
    }

    /// Connects to the service as a stream of bytes.
    pub(crate) async fn dial(
        &self,
        view: &MeshView,
        named: Named<'_>,
        downstream: Downstream,
        parties: &mut Parties,
        mut line: Option<&mut Line>,
    ) -> Result<Dialled, ProxyError> {
        let Named { host, port, server_name } = named;
        let caller = self.caller();
        let caller = caller.as_deref();
        let namespace = namespace_of(caller);
        parties.called_by(caller.and_then(|caller| workload_of(view, caller)), namespace);
        let client = Client { namespace, workload: parties.source.as_deref() };
        let found = self.host(view, client, host, port);
        let found = found.inspect_err(|error| count_for(view, client, error, &mut parties.service))?;
        if let (Some(line), Some(server_name)) = (&mut line, server_name) {
            line.server_name(server_name);
        }
        let (port, routing) = match found {
            (Host::Service(service), port) => {
                match view.route_tcp(service, port, client, self.destination(named), rand::random()) {
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
}
