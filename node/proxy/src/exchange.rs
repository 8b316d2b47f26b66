//! One request and its response, as both sides of the proxy handle them: what is taken from the request's head, what
//! is sent on, and what comes back.

use std::{cell::Cell, future::poll_fn, rc::Rc, task::Poll};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use uuid::fmt::Hyphenated;
use weft_policy::{
    authenticate::Claims,
    authorize::HttpAccess,
    endpoint::ActiveRequest,
    fault::BodyFault,
    retry::Failure,
    route::{RequestHead, Rewrite},
    trace,
};

use crate::{
    body::{Beginning, CallerBody, Kept, RequestBody, ResponseBody, UpstreamBody},
    error::{ProxyError, UpstreamError},
    http1::client,
    metrics::Flag,
    pool::{Lease, Need, Unanswered},
    recheck::Guest,
    record::{ExchangeRecord, Received, with_sources},
    respond, tcp,
    upgrade::{self, Upgrade},
    worker::Worker,
};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Who calls, as the server side of the mesh proved it: `By=…;Hash=…;URI=…`.
pub(crate) const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Which workload of its account calls. Goes from proxy to proxy only.
pub(crate) const X_WEFT_SOURCE: HeaderName = HeaderName::from_static("x-weft-source");
pub(crate) const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// What policies read of a request.
pub(crate) fn head<'r, B>(request: &'r Request<B>, authority: &'r Authority) -> RequestHead<'r> {
    RequestHead {
        method: request.method(),
        path_and_query: request.uri().path_and_query().map_or("/", |path| path.as_str()),
        authority: authority.as_str(),
        scheme: "http",
        headers: request.headers(),
    }
}

pub(crate) fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

pub(crate) fn is(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Whether a header concerns one connection only (RFC 9110 section 7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Whether only the mesh may say it.
fn is_of_the_mesh(name: &HeaderName) -> bool {
    *name == X_FORWARDED_CLIENT_CERT || *name == X_WEFT_SOURCE
}

/// Removes the headers whose names are `unwanted`. Looking at the few that are there is cheaper than looking up the
/// many that could be: mostly there are none to remove.
pub(crate) fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| unwanted(name)) {
        let name = name.clone();
        headers.remove(name);
    }
}

/// Removes what concerns one connection only, and what its Connection header names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = connection_options(headers)
            .filter(|option| !is(option, "close") && !is(option, "keep-alive"))
            .filter_map(|option| option.parse().ok())
            .filter(|name| name != header::TE) // dealt with by who knows the next hop
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    strip(headers, is_hop_by_hop);
}

/// A random UUID, as Envoy makes them.
fn new_request_id() -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut text = [0; Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).expect("hex digits and dashes are visible ASCII")
}

/// What of a request's body can be sent.
enum OutgoingBody {
    Empty,
    /// As it comes, once: `None` when it is gone.
    Once(Option<RequestBody>),
    Kept(Kept),
}

/// A request on its way, apart from its connection, so that it can be sent again.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) authority: Authority,
    pub(crate) path_and_query: PathAndQuery,
    pub(crate) headers: HeaderMap,
    /// The Host header for HTTP/1.1.
    host: HeaderValue,
    body: OutgoingBody,
    /// What has come of the body, if there is one.
    received: Option<Rc<Received>>,
    upgrade: Option<Upgrade>,
    /// It came in HTTP/2.
    pub(crate) came_in_http2: bool,
    /// See [`Self::remember`].
    before_gate: Option<Box<(HeaderMap, PathAndQuery)>>,
}

impl Outgoing {
    /// Takes from a request what goes on: without what concerns the caller's connection, and without anything that
    /// only the mesh may say.
    pub(crate) fn new(
        request: Request<Incoming>,
        authority: Authority,
        record: &mut ExchangeRecord,
    ) -> Result<Self, ProxyError> {
        let (mut head, body) = request.into_parts();
        let upgrade = upgrade::wanted(&mut head);
        let mut headers = head.headers;
        strip_hop_by_hop(&mut headers);
        strip(&mut headers, is_of_the_mesh);
        let id = headers.entry(X_REQUEST_ID).or_insert_with(new_request_id);
        // No other request has the same: in HTTP/2's table of headers it would be in the way of those that come again.
        id.set_sensitive(true);
        record.request_id(id);
        record.trace(&mut headers);
        let host = match headers.remove(header::HOST) {
            Some(host) if host.as_bytes() == authority.as_str().as_bytes() => host,
            _ => host_of(&authority)?,
        };
        let received = (!body.is_end_stream()).then(|| record.received());
        let body = match &received {
            None => OutgoingBody::Empty,
            Some(received) => {
                let body = CallerBody::new(body, received.clone(), record.limits().stall_timeout);
                OutgoingBody::Once(Some(RequestBody::Stream(body)))
            }
        };
        Ok(Self {
            method: head.method,
            authority,
            path_and_query: head.uri.into_parts().path_and_query.unwrap_or(PathAndQuery::from_static("/")),
            headers,
            host,
            body,
            received,
            upgrade,
            came_in_http2: head.version == Version::HTTP_2,
            before_gate: None,
        })
    }

    /// What policies read of it, as the next hop would.
    pub(crate) fn head(&self) -> RequestHead<'_> {
        RequestHead {
            method: &self.method,
            path_and_query: self.path_and_query.as_str(),
            authority: self.authority.as_str(),
            scheme: "http",
            headers: &self.headers,
        }
    }

    /// From here on the body is kept while it is sent, as far as that is short, so that it can be sent again.
    pub(crate) fn keep_body(&mut self) {
        if let OutgoingBody::Once(body) = &mut self.body
            && let Some(RequestBody::Stream(body)) = body.take()
        {
            self.body = OutgoingBody::Kept(Kept::new(body));
        }
    }

    /// A second request like this one, whose body follows this one's. Only before this one is sent; an upgrade is not
    /// copied.
    pub(crate) fn copy(&mut self) -> Option<Self> {
        let body = match &mut self.body {
            OutgoingBody::Empty => OutgoingBody::Empty,
            OutgoingBody::Once(Some(RequestBody::Stream(body))) => OutgoingBody::Once(Some(body.copy())),
            OutgoingBody::Once(_) | OutgoingBody::Kept(_) => return None,
        };
        self.upgrade.is_none().then(|| Self {
            method: self.method.clone(),
            authority: self.authority.clone(),
            path_and_query: self.path_and_query.clone(),
            headers: self.headers.clone(),
            host: self.host.clone(),
            body,
            received: None,
            upgrade: None,
            came_in_http2: self.came_in_http2,
            before_gate: None,
        })
    }

    /// Has the spans of a copy not kept.
    pub(crate) fn unsample(&mut self) {
        trace::unsample(&mut self.headers);
    }

    /// Whether there is more of its body to come before it can be sent beside itself.
    pub(crate) fn is_coming(&self) -> bool {
        matches!(&self.body, OutgoingBody::Kept(kept) if kept.is_coming())
    }

    /// The same request for another try, in place of those before or `beside` those under way; `None` if its body is not
    /// kept for that. An upgrade is not taken along.
    pub(crate) fn again(&self, beside: bool) -> Option<Self> {
        let body = match &self.body {
            OutgoingBody::Empty => OutgoingBody::Empty,
            OutgoingBody::Kept(kept) => OutgoingBody::Kept(kept.again(beside)?),
            OutgoingBody::Once(_) => return None,
        };
        Some(Self {
            method: self.method.clone(),
            authority: self.authority.clone(),
            path_and_query: self.path_and_query.clone(),
            headers: self.headers.clone(),
            host: self.host.clone(),
            body,
            received: self.received.clone(),
            upgrade: None,
            came_in_http2: self.came_in_http2,
            before_gate: None,
        })
    }

    /// Marks a copy by `-shadow` after its host, as Envoy does. A host that cannot have it, an IPv6 address, stays.
    pub(crate) fn append_shadow(&mut self) {
        let marked = with_shadow(&self.authority);
        if let Some((authority, host)) =
            marked.and_then(|authority| Some((authority.clone(), host_of(&authority).ok()?)))
        {
            (self.authority, self.host) = (authority, host);
        }
    }

    /// What policies see of it, with the claims of its token.
    pub(crate) fn as_policies_see_it<'a>(&'a self, claims: Option<&'a Claims>) -> HttpAccess<'a> {
        HttpAccess {
            method: self.method.as_str(),
            host: self.authority.as_str(),
            path: self.path_and_query.as_str(),
            headers: &self.headers,
            claims,
        }
    }

    pub(crate) fn has_body(&self) -> bool {
        !matches!(self.body, OutgoingBody::Empty)
    }

    /// The beginning of its body, `max` bytes at most, and whether it goes on; `None` if it is longer and may not be
    /// read in part. It is sent on all the same.
    pub(crate) async fn read_ahead(&mut self, max: usize, partly: bool) -> Result<Beginning, ProxyError> {
        let read = poll_fn(|cx| match &mut self.body {
            OutgoingBody::Once(Some(RequestBody::Stream(body))) => body.poll_ahead(cx, max, partly),
            OutgoingBody::Kept(kept) => kept.poll_ahead(cx, max, partly),
            OutgoingBody::Empty | OutgoingBody::Once(_) => Poll::Ready(Ok(Some((Bytes::new(), false)))),
        });
        read.await.map_err(ProxyError::RequestBroke)
    }

    /// Whether it can be sent, as if for the first time.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.body {
            OutgoingBody::Empty => true,
            OutgoingBody::Once(body) => body.is_some(),
            OutgoingBody::Kept(kept) => kept.is_whole(),
        }
    }

    pub(crate) fn need(&self) -> Need {
        if self.upgrade.is_some() { Need::Upgrade } else { Need::Any }
    }

    /// Takes headers off, whoever set them.
    pub(crate) fn take_off(&mut self, headers: &[HeaderName]) {
        for name in headers {
            self.headers.remove(name);
        }
    }

    /// Changes what verified tokens change: headers off and on, and the path where a token was taken off the query.
    pub(crate) fn authenticated(
        &mut self,
        remove: Vec<HeaderName>,
        set: Vec<(HeaderName, HeaderValue)>,
        path_and_query: Option<String>,
    ) -> Result<(), ProxyError> {
        self.take_off(&remove);
        for (name, value) in set {
            self.headers.insert(name, value);
        }
        if let Some(path_and_query) = path_and_query {
            self.path_and_query = PathAndQuery::try_from(path_and_query)
                .map_err(|_| ProxyError::BadRequest("malformed query around a token"))?;
        }
        Ok(())
    }

    /// Keeps what a workload's gate may change, for a next try at another workload.
    pub(crate) fn remember(&mut self) {
        self.before_gate = Some(Box::new((self.headers.clone(), self.path_and_query.clone())));
    }

    /// Takes back what a gate has changed.
    pub(crate) fn restore(&mut self) {
        if let Some(before) = self.before_gate.take() {
            (self.headers, self.path_and_query) = *before;
        }
    }

    /// Changes the host and the path.
    pub(crate) fn rewrite(&mut self, rewrite: &Rewrite<'_>) -> Result<(), ProxyError> {
        const X_ENVOY_ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
        const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
        if let Some(authority) = rewrite.authority {
            self.headers.insert(X_ENVOY_ORIGINAL_HOST, self.host.clone());
            self.authority = authority
                .parse()
                .map_err(|_| ProxyError::BadRequest("the route's authority rewrite is not a valid authority"))?;
            self.host = host_of(&self.authority)?;
        }
        if let Some(path_and_query) = &rewrite.path_and_query {
            if let Ok(original) = HeaderValue::from_str(self.path_and_query.as_str()) {
                self.headers.insert(X_ENVOY_ORIGINAL_PATH, original);
            }
            self.path_and_query = PathAndQuery::try_from(path_and_query.as_str())
                .map_err(|_| ProxyError::BadRequest("the route's rewrite gives no valid path"))?;
        }
        Ok(())
    }

    /// Sends the request; on success the rest is the response's.
    pub(crate) async fn send(&mut self, lease: &mut Lease) -> Result<Response<UpstreamBody>, SendError> {
        let request = self.request(lease.is_http2())?;
        let Unanswered { error, unsent } = match lease.send(request).await {
            Ok(response) => return Ok(response),
            Err(unanswered) => unanswered,
        };
        if let Some(broke_off) = self.received.as_ref().and_then(|received| received.broke_off.get()) {
            return Err(ProxyError::RequestBroke(broke_off).into());
        }
        if error.is_malformed() {
            return Err(ProxyError::BadResponse(with_sources(&error)).into());
        }
        let was_refused = unsent.is_some() || error.was_refused();
        if let Some(unsent) = unsent
            && let OutgoingBody::Once(body) = &mut self.body
        {
            let (head, stream) = unsent.into_parts();
            (self.headers, *body) = (head.headers, Some(stream));
            for name in [header::HOST, header::CONNECTION, header::UPGRADE] {
                self.headers.remove(name); // the next hop may be of another version
            }
        }
        let stale = lease.may_be_stale() && (was_refused || self.is_lost_to_idle_close(&error)) && self.is_whole();
        let failure = if was_refused { Failure::Refused } else { Failure::Reset };
        Err(SendError { error: ProxyError::Reset(error.into()), failure: Some(failure), stale })
    }

    /// The request for the next hop. The head is copied only if the body allows for a second try.
    fn request(&mut self, http2: bool) -> Result<Request<RequestBody>, ProxyError> {
        let (headers, body) = match &mut self.body {
            OutgoingBody::Empty => (self.headers.clone(), RequestBody::Empty),
            OutgoingBody::Once(body) => (std::mem::take(&mut self.headers), body.take().unwrap_or(RequestBody::Empty)),
            OutgoingBody::Kept(kept) => (self.headers.clone(), kept.replay()),
        };
        let mut request = Request::new(body);
        *request.headers_mut() = headers;
        *request.method_mut() = self.method.clone();
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(self.path_and_query.clone());
        let is_empty = matches!(request.body(), RequestBody::Empty);
        let headers = request.headers_mut();
        if http2 {
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(self.authority.clone());
            match headers.get(header::TE) {
                Some(te) if te == "trailers" => {}
                Some(_) => {
                    headers.remove(header::TE);
                }
                None => {}
            }
        } else {
            headers.insert(header::HOST, self.host.clone());
            headers.remove(header::TE);
            join_cookies(headers);
            if is_empty && [Method::POST, Method::PUT, Method::PATCH].contains(&self.method) {
                // HTTP/2 needs no length to say so; some HTTP/1.1 servers do (RFC 9110 section 8.6).
                headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
            }
            if let Some(Upgrade { protocol, .. }) = &self.upgrade {
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, protocol.clone());
            }
        }
        *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| ProxyError::BadRequest("malformed request target"))?;
        Ok(request)
    }

    /// A kept-alive connection that the peer closed just as the request went out: no byte of a response has come. A
    /// method that changes nothing by being done twice may be repeated then (RFC 9110 section 9.2.2).
    fn is_lost_to_idle_close(&self, error: &UpstreamError) -> bool {
        self.method.is_idempotent() && error.is_unanswered()
    }

    /// Whom to give the connection to, if the upstream switches protocols.
    pub(crate) fn take_client_upgrade(&mut self) -> Option<upgrade::Client> {
        self.upgrade.take().map(|upgrade| upgrade.client)
    }
}

fn host_of(authority: &Authority) -> Result<HeaderValue, ProxyError> {
    HeaderValue::from_str(authority.as_str()).map_err(|_| ProxyError::BadRequest("malformed host"))
}

fn with_shadow(authority: &Authority) -> Option<Authority> {
    if authority.as_str().starts_with('[') {
        return None;
    }
    let port = authority.port().map(|port| format!(":{port}")).unwrap_or_default();
    Authority::try_from(format!("{}-shadow{port}", authority.host())).ok()
}

/// HTTP/2 may split cookies over several headers; HTTP/1.1 may not (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if let (Some(_), Some(_)) = (cookies.next(), cookies.next()) {
        let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(b"; ".as_slice())) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

/// A try that brought no response.
pub(crate) struct SendError {
    pub(crate) error: ProxyError,
    /// How it failed on its way; `None` if it cannot be sent at all.
    pub(crate) failure: Option<Failure>,
    /// A kept-alive connection that its peer had just closed: the request is whole, and wants another connection.
    pub(crate) stale: bool,
}

impl From<ProxyError> for SendError {
    fn from(error: ProxyError) -> Self {
        Self { error, failure: None, stale: false }
    }
}

/// What the upstream answered, with all that must live as long as the answer.
pub(crate) struct Answer {
    pub(crate) response: Response<UpstreamBody>,
    pub(crate) lease: Lease,
    pub(crate) active: Option<ActiveRequest>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) client_upgrade: Option<upgrade::Client>,
    /// The caller, if the connection may become a tunnel to a workload of this node.
    pub(crate) guest: Option<Rc<Guest>>,
    /// What is done to the response's body on purpose.
    pub(crate) fault: Option<BodyFault>,
}

impl Answer {
    /// What becomes a tunnel is decided by the caller's request, never by an upstream alone.
    fn switches_unasked(&self) -> bool {
        let protocol = || self.response.headers().get(header::UPGRADE);
        match &self.client_upgrade {
            _ if self.response.status() != StatusCode::SWITCHING_PROTOCOLS => {
                self.client_upgrade.as_ref().is_some_and(|client| client.is_misled_by(&self.response))
            }
            None => true,
            Some(_) => protocol().is_none_or(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"h2c")),
        }
    }

    /// The response for the caller. Its body carries the record to the exchange's end.
    pub(crate) fn into_response(self, worker: &Rc<Worker>, mut record: ExchangeRecord) -> Response<ResponseBody> {
        let Self { mut response, lease, active, deadline, client_upgrade, guest, fault } = self;
        record.response_head(&response);
        if let Some(line) = record.line() {
            line.answered_by(&response, lease.local());
        }
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = switched.then(|| response.headers_mut().remove(header::UPGRADE)).flatten();
        strip_hop_by_hop(response.headers_mut());
        *response.version_mut() = Version::HTTP_11; // hyper speaks what the caller speaks
        let (Some(protocol), Some(client)) = (protocol, client_upgrade) else {
            let (head, body) = response.into_parts();
            return Response::from_parts(head, ResponseBody::upstream(body, lease, active, deadline, fault, record));
        };
        let (mut head, _) = response.into_parts();
        let upstream = lease.into_tunnel();
        client.grant(&mut head.status, &mut head.headers, protocol);
        let stream = client.stream;
        let (received, sent) = (record.received(), Cell::new(0));
        worker.tasks.spawn(async move {
            let _kept = active;
            let Some(upstream) = upstream else { return record.fail(Flag::UpstreamReset, &client::Error::NoTunnel) };
            match stream.await {
                Ok(client) => {
                    let client = tcp::Counted::new(
                        TokioIo::new(client),
                        |bytes| received.add(bytes),
                        |bytes| sent.set(sent.get() + bytes),
                    );
                    tcp::splice(client, upstream, guest.as_deref()).await;
                    record.add_sent(sent.get());
                    record.complete();
                }
                Err(error) => record.fail(Flag::UpstreamReset, &error),
            }
        });
        Response::from_parts(head, ResponseBody::tunnel())
    }
}

/// What the caller is answered.
pub(crate) enum Reply {
    Upstream(Answer),
    /// An answer of the proxy's own.
    Own(Response<Bytes>),
}

impl Reply {
    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Upstream(answer) => answer.response.headers_mut(),
            Self::Own(response) => response.headers_mut(),
        }
    }

    /// The protocol is that of the upstream, if it is the upstream's answer.
    pub(crate) fn status_and_protocol(&self) -> (StatusCode, Option<Version>) {
        match self {
            Self::Upstream(answer) => (answer.response.status(), Some(answer.response.version())),
            Self::Own(response) => (response.status(), None),
        }
    }
}

/// The response to a request, from the upstream or of our own making.
pub(crate) fn finish(
    worker: &Rc<Worker>,
    reply: Result<Reply, ProxyError>,
    record: ExchangeRecord,
) -> Response<ResponseBody> {
    match reply {
        Ok(Reply::Upstream(answer)) if answer.switches_unasked() => respond::refuse(
            &ProxyError::BadResponse("it switches protocols unasked, or does not where it was asked to".into()),
            record,
        ),
        Ok(Reply::Upstream(answer)) => answer.into_response(worker, record),
        Ok(Reply::Own(response)) => respond::answer(response, record),
        Err(error) => respond::refuse(&error, record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, headers: &[(&'static str, &'static str)]) -> http::request::Parts {
        let mut request = Request::get("/").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_the_connection_header_names_goes_with_it() {
        let mut headers = head(Version::HTTP_11, &[("connection", "close, X-A"), ("x-a", "1"), ("x-b", "2")]).headers;
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-b"]);
    }

    #[test]
    fn a_shadow_is_named_in_the_host_before_the_port() {
        for (authority, expected) in [
            ("reviews", Some("reviews-shadow")),
            ("127.0.0.1:19900", Some("127.0.0.1-shadow:19900")),
            ("[::1]:80", None),
        ] {
            let shadow = with_shadow(&authority.parse().unwrap());
            assert_eq!(shadow.as_ref().map(Authority::as_str), expected, "{authority}");
        }
    }

    #[test]
    fn cookies_that_http2_has_split_are_joined_for_http1() {
        let mut headers = head(Version::HTTP_2, &[("cookie", "a=1"), ("cookie", "b=2")]).headers;
        join_cookies(&mut headers);
        let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn request_ids_are_version_4_uuids_and_differ() {
        let (one, two) = (new_request_id(), new_request_id());
        assert_ne!(one, two);
        let text = one.to_str().unwrap();
        assert_eq!(text.len(), 36);
        assert!(text[14..].starts_with('4') && matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{text}");
    }
}
