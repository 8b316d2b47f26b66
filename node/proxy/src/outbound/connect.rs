//! CONNECT: tunnels, as an HTTP proxy gives them.

use std::rc::Rc;

use http::{Request, Response};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::time::sleep;
use weft_policy::{balance::Cluster, learned::Spoken, view::MeshView};
use weft_wire::fact::Protocol;

use super::{Named, Outbound, Target};
use crate::{
    body::ResponseBody,
    detect::Begun,
    error::ProxyError,
    fault,
    record::{Downstream, ExchangeRecord},
    respond, target,
    tcp::{Dialled, TcpRecord},
};

impl Outbound {
    /// CONNECT: a tunnel to a service of the mesh, as an HTTP proxy gives it.
    pub(super) async fn connect(
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
}
