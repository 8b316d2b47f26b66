//! An authorizer that speaks `envoy.service.auth.v3.Authorization`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use prost::Message;
use weft_policy::{
    deadline::{GRPC_TIMEOUT, grpc_timeout},
    provider::{Protocol, Provider},
};

use super::{
    Change, Changes, Check, How, Refusal, Says, X_ENVOY_AUTH_PARTIAL_BODY,
    call::Answered,
    is_reserved,
    message::{
        Address, AttributeContext, AttributeRequest, CheckRequest, CheckResponse, HeaderValueOption, HttpRequest,
        OkHttpResponse, Peer, SocketAddress, Timestamp,
    },
    partial_body,
    side::Side,
};
use crate::{exchange::X_REQUEST_ID, record::GRPC_STATUS};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// `append_action` of a header: see `HeaderValueOption.HeaderAppendAction`.
const ADD_IF_ABSENT: i32 = 1;
const OVERWRITE_IF_EXISTS: i32 = 3;

/// The request that asks, about a request or about a connection.
pub(super) fn request(
    provider: &Provider,
    side: &impl Side,
    check: Option<&Check<'_>>,
) -> Result<Request<Bytes>, String> {
    let (downstream, (destination, port)) = (side.downstream(), side.destination());
    let asked = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(downstream.remote, side.source_principal())),
            destination: Some(peer(SocketAddr::new(downstream.local.ip(), port), destination)),
            request: check.map(|check| AttributeRequest { time: Some(now()), http: Some(http(check, provider)) }),
        }),
    };
    let length = u32::try_from(asked.encoded_len()).map_err(|_| "the question is too long")?;
    let mut body = BytesMut::with_capacity(asked.encoded_len() + 5);
    body.put_u8(0); // not compressed
    body.put_u32(length);
    asked.encode(&mut body).map_err(|error| error.to_string())?;
    Request::post(format!("http://{}:{}{CHECK}", provider.host, provider.port))
        .header(header::CONTENT_TYPE, APPLICATION_GRPC)
        .header(header::TE, "trailers")
        .header(GRPC_TIMEOUT, grpc_timeout(provider.timeout))
        .body(body.freeze())
        .map_err(|error| error.to_string())
}

fn peer(address: SocketAddr, principal: Option<&str>) -> Peer {
    let socket_address =
        SocketAddress { address: address.ip().to_canonical().to_string(), port_value: address.port().into() };
    Peer {
        address: Some(Address { socket_address: Some(socket_address) }),
        principal: principal.map(|principal| format!("spiffe://{principal}")).unwrap_or_default(),
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

fn http(Check { outgoing, body, is_partial }: &Check<'_>, provider: &Provider) -> HttpRequest {
    let as_bytes = provider.body.is_some_and(|body| body.as_bytes);
    let (method, path) = (outgoing.method.to_string(), outgoing.path_and_query.to_string());
    let told = |name: &HeaderName| match &provider.protocol {
        Protocol::Grpc(check) => check.is_told(name),
        Protocol::Http(_) => true,
    };
    let mut headers = texts(&outgoing.headers, told);
    for (name, value) in [
        (":method", method.as_str()),
        (":path", &path),
        (":authority", outgoing.authority.as_str()),
        (":scheme", "http"),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    if let Some(value) = is_partial.map(partial_body) {
        headers.insert(X_ENVOY_AUTH_PARTIAL_BODY.to_string(), text(&value));
    }
    let length = outgoing.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    HttpRequest {
        id: outgoing.headers.get(X_REQUEST_ID).map(text).unwrap_or_default(),
        host: outgoing.authority.to_string(),
        scheme: "http".into(),
        size: length.unwrap_or(if outgoing.has_body() { -1 } else { 0 }),
        protocol: "HTTP/1.1".into(),
        body: if as_bytes { String::new() } else { String::from_utf8_lossy(body).into_owned() },
        raw_body: if as_bytes { body.to_vec() } else { Vec::new() },
        method,
        path,
        headers,
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn texts(headers: &HeaderMap, told: impl Fn(&HeaderName) -> bool) -> HashMap<String, String> {
    let mut texts: HashMap<String, String> = HashMap::with_capacity(headers.len() + 4);
    for (name, value) in headers.iter().filter(|(name, _)| told(name)) {
        texts
            .entry(name.to_string())
            .and_modify(|known| {
                known.push(',');
                known.push_str(&text(value));
            })
            .or_insert_with(|| text(value));
    }
    texts
}

/// What the answer means; an error if it is none.
pub(super) fn read(Answered { status, headers, body, trailers }: Answered) -> Result<Says, String> {
    if status != StatusCode::OK {
        return Err(format!("it answers {status}"));
    }
    let code = trailers.get(GRPC_STATUS).or_else(|| headers.get(GRPC_STATUS));
    if code.is_none_or(|code| code != "0") {
        return Err(format!("it answers with gRPC status {}", code.map_or_else(|| "none".into(), text)));
    }
    let message = match body.split_at_checked(5) {
        Some(([0, length @ ..], message)) if length == (message.len() as u32).to_be_bytes() => message,
        _ => return Err("its answer is not one message".into()),
    };
    let response = CheckResponse::decode(message).map_err(|error| error.to_string())?;
    if response.status.unwrap_or_default().code == 0 {
        return changes(response.ok_response.unwrap_or_default()).map(Says::Yes);
    }
    let denied = response.denied_response.unwrap_or_default();
    let status = denied.status.and_then(|status| StatusCode::from_u16(u16::try_from(status.code).ok()?).ok());
    let mut headers = HeaderMap::new();
    super::apply(all(denied.headers)?, &mut headers);
    let status = status.filter(|status| status.as_u16() >= 200).unwrap_or(StatusCode::FORBIDDEN);
    Ok(Says::No(Refusal { status, headers, body: denied.body.into() }))
}

fn changes(ok: OkHttpResponse) -> Result<Changes, String> {
    if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
        return Err("it changes query parameters, which weft does not do".into());
    }
    let name = |name: &String| name.parse::<HeaderName>().map_err(|_| format!("{name:?} is no header's name"));
    let removable = ok.headers_to_remove.iter().filter(|name| !is_reserved(name));
    Ok(Changes {
        remove: removable.map(name).collect::<Result<_, _>>()?,
        request: all(ok.headers)?,
        response: all(ok.response_headers_to_add)?,
    })
}

fn all(headers: Vec<HeaderValueOption>) -> Result<Vec<Change>, String> {
    let mut changes = Vec::with_capacity(headers.len());
    for HeaderValueOption { header, append, append_action } in headers {
        let Some(header) = header.filter(|header| !is_reserved(&header.key)) else { continue };
        let how = match (append, append_action) {
            (Some(append), _) if append.value => How::Append,
            (_, ADD_IF_ABSENT) => How::OnlyIfAbsent,
            (_, OVERWRITE_IF_EXISTS) => How::OnlyIfPresent,
            _ => How::Set,
        };
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        let name = header.key.parse().map_err(|_| format!("{:?} is no header's name", header.key))?;
        let value = HeaderValue::from_bytes(value).map_err(|_| format!("header {name} has no valid value"))?;
        changes.push(Change { how, ..Change::set(name, value) });
    }
    Ok(changes)
}
