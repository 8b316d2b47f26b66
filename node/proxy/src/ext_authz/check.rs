//! An authorizer that is asked by a request like the one that it judges.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use weft_policy::provider::HttpCheck;

use super::{
    Changes, Check, Refusal, Says, X_ENVOY_AUTH_PARTIAL_BODY, call::Answered, is_reserved, partial_body, set_all,
};
use crate::exchange::strip_hop_by_hop;

/// The request that asks.
pub(super) fn request(http: &HttpCheck, check: &Check<'_>) -> Result<Request<Bytes>, String> {
    let Check { outgoing, body, is_partial } = check;
    let uri = format!("http://{}{}{}", outgoing.authority, http.path_prefix, outgoing.path_and_query);
    let request = Request::builder().method(outgoing.method.clone()).uri(uri).body(body.clone());
    let mut request = request.map_err(|error| error.to_string())?;
    *request.headers_mut() = http.told(&outgoing.headers);
    request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if let Some(is_partial) = is_partial {
        request.headers_mut().insert(X_ENVOY_AUTH_PARTIAL_BODY, partial_body(*is_partial));
    }
    Ok(request)
}

/// What the answer means: 200 is yes, 5xx is none, all else is no.
pub(super) fn read(http: &HttpCheck, answer: Answered) -> Result<Says, String> {
    let Answered { status, headers, body, .. } = answer;
    if status == StatusCode::OK {
        let (request, response) = (plain(http.to_workload(&headers)), plain(http.with_response(&headers)));
        let changes = Changes { remove: Vec::new(), request: set_all(request), response: set_all(response) };
        return Ok(Says::Yes(changes));
    }
    if status.is_server_error() {
        return Err(format!("it answers {status}"));
    }
    Ok(Says::No(Refusal { status, headers: plain(http.with_refusal(&headers)), body }))
}

/// Without what is not the authorizer's to say.
fn plain(mut headers: HeaderMap) -> HeaderMap {
    strip_hop_by_hop(&mut headers);
    let plain = headers.iter().filter(|(name, _)| !is_reserved(name.as_str()));
    plain.map(|(name, value)| (name.clone(), value.clone())).collect()
}
