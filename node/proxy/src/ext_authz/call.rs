//! Asking a service of the mesh something of the proxy's own, as the workload for which it is asked, or as the caller.

use std::{future::poll_fn, pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri::Scheme};
use http_body::Body;
use weft_policy::{
    authorize::{AccessRequest, HttpAccess, Peer},
    balance::{Attempt, Cluster, Outcome},
    endpoint::{Endpoint, EndpointAddress},
    provider::Provider,
    view::MeshView,
};

use super::side::Side;
use crate::{
    body::{RequestBody, UpstreamBody},
    exchange::X_WEFT_SOURCE,
    original::Asked,
    pool::{Lease, Need},
    upstream,
    worker::Worker,
};

/// Longest body of an answer, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// Endpoints, or connections to them, that are tried until one answers.
const MAX_TRIES: usize = 3;

/// An authorizer's answer.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: HeaderMap,
}

/// In whose name it is asked.
pub(super) struct Caller<'a, S> {
    pub(super) worker: &'a Worker,
    pub(super) view: &'a MeshView,
    pub(super) side: &'a S,
}

/// Why a try brought no answer.
struct Failed {
    why: String,
    /// Nothing has come of it, so that another endpoint may be asked.
    may_repeat: bool,
}

impl Failed {
    fn for_good(why: impl Into<String>) -> Self {
        Self { why: why.into(), may_repeat: false }
    }
}

impl<S: Side> Caller<'_, S> {
    /// The answer to a request whose URI has authority and path; or why there is none.
    pub(super) async fn ask(&self, provider: &Provider, request: Request<Bytes>) -> Result<Answered, String> {
        let cluster = provider.cluster(self.view, self.side.client());
        let cluster =
            cluster.ok_or_else(|| format!("{}:{} is no service of the mesh", provider.host, provider.port))?;
        let original;
        let cluster = match cluster.original_destination() {
            None => cluster,
            Some(_) => {
                let asked = Asked { host: provider.host.clone(), port: provider.port, local: None };
                original = self.worker.originals.find(cluster, &asked).await.map_err(|error| error.to_string())?;
                &original
            }
        };
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        loop {
            let attempt =
                Attempt { tried: &tried, random: rand::random(), now_ms: self.worker.now_ms(), ..Attempt::default() };
            let endpoint = cluster.pick(&attempt).ok_or_else(|| format!("{} has no endpoint", provider.host))?;
            match self.ask_one(cluster, endpoint, &request).await {
                Ok(answered) => return Ok(answered),
                Err(Failed { may_repeat: true, .. }) if tried.len() + 1 < MAX_TRIES => tried.push(endpoint.clone()),
                Err(Failed { why, .. }) => return Err(why),
            }
        }
    }

    async fn ask_one(
        &self,
        cluster: &Cluster,
        endpoint: &Arc<Endpoint>,
        request: &Request<Bytes>,
    ) -> Result<Answered, Failed> {
        self.admit(endpoint, request)?;
        let declared = upstream::speaks_http2(endpoint.protocol, request.headers());
        let http2 = upstream::is_called_by_http2(cluster, endpoint, request.headers(), declared);
        let places = upstream::places(cluster, http2).await.map_err(|error| Failed::for_good(error.to_string()))?;
        let mut active = endpoint.load.begin();
        active.hold(places);
        let caller = self.side.caller();
        let mut need = Need::Any;
        loop {
            let authority = request.uri().authority().map_or("", |authority| authority.as_str());
            let settings = cluster.connection();
            let lease = self.worker.pools.checkout(endpoint, http2, settings, caller.as_ref(), authority, need).await;
            let mut lease = lease.map_err(|error| {
                if error.blames_endpoint() {
                    endpoint.load.connect_failed(self.worker.now_ms());
                    upstream::record(self.worker, cluster, endpoint, Outcome::Broke);
                }
                Failed { why: error.to_string(), may_repeat: error.blames_endpoint() }
            })?;
            endpoint.load.connect_succeeded();
            upstream::record(self.worker, cluster, endpoint, Outcome::Connected);
            let claim = match endpoint.address {
                EndpointAddress::Local(_) | EndpointAddress::Outside(_) => None,
                EndpointAddress::Remote { .. } => caller.as_ref().and_then(|caller| caller.claim()),
            };
            let sent = outgoing(request, &lease, claim).map_err(Failed::for_good)?;
            match lease.send(sent).await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    upstream::record(self.worker, cluster, endpoint, Outcome::Status(status));
                    return read(response, &mut lease).await.map_err(Failed::for_good);
                }
                // A kept-alive connection that was just closed: once more, on a new one.
                Err(_) if lease.may_be_stale() && need == Need::Any => need = Need::Fresh,
                Err(error) => {
                    upstream::record(self.worker, cluster, endpoint, Outcome::Broke);
                    return Err(Failed { why: error.error.to_string(), may_repeat: true });
                }
            }
        }
    }

    /// What the authorizer's own policies say where it is of this node; its node says it elsewhere. They ask nobody:
    /// it could be itself.
    fn admit(&self, endpoint: &Endpoint, request: &Request<Bytes>) -> Result<(), Failed> {
        let (EndpointAddress::Local(_), Some(workload)) = (&endpoint.address, &endpoint.workload) else {
            return Ok(());
        };
        let Some(access) = self.view.access(workload) else { return Ok(()) };
        let principal = self.side.caller_principal();
        let http = HttpAccess {
            method: request.method().as_str(),
            host: request.uri().authority().map_or("", |authority| authority.as_str()),
            path: request.uri().path_and_query().map_or("/", |path| path.as_str()),
            headers: request.headers(),
            claims: None,
        };
        let loopback = self.side.downstream().local.ip();
        let asked = AccessRequest {
            peer: principal.map(Peer::new),
            source_ip: loopback,
            remote_ip: loopback,
            destination_ip: Some(loopback),
            destination_port: endpoint.key.target_port,
            sni: None,
            http: Some(http),
        };
        match access.authorizer.decide_after_provider(&asked).verdict.is_allowed() {
            true => Ok(()),
            false => {
                let principal = principal.unwrap_or("who shows no certificate");
                Err(Failed::for_good(format!("its own policies do not let in {principal}")))
            }
        }
    }
}

fn outgoing(
    request: &Request<Bytes>,
    lease: &Lease,
    claim: Option<&HeaderValue>,
) -> Result<Request<RequestBody>, String> {
    let mut sent = Request::new(RequestBody::whole(request.body().clone()));
    *sent.method_mut() = request.method().clone();
    *sent.headers_mut() = request.headers().clone();
    if let Some(claim) = claim {
        sent.headers_mut().insert(X_WEFT_SOURCE, claim.clone());
    }
    let mut uri = request.uri().clone().into_parts();
    if lease.is_http2() {
        uri.scheme = Some(Scheme::HTTP);
        *sent.version_mut() = Version::HTTP_2;
    } else if let Some(authority) = uri.authority.take() {
        uri.scheme = None;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
        sent.headers_mut().insert(header::HOST, host);
    }
    *sent.uri_mut() = Uri::from_parts(uri).map_err(|error| error.to_string())?;
    Ok(sent)
}

async fn read(response: Response<UpstreamBody>, lease: &mut Lease) -> Result<Answered, String> {
    let (head, mut from) = response.into_parts();
    let (mut body, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut from).poll_frame(cx)).await {
        match frame.map_err(|error| error.to_string())?.into_data() {
            Ok(data) if body.len() + data.len() > MAX_ANSWER => {
                return Err(format!("its answer is longer than {MAX_ANSWER} bytes"));
            }
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    lease.finished();
    Ok(Answered { status: head.status, headers: head.headers, body: body.freeze(), trailers })
}
