//! External authorizers: what a policy of action `CUSTOM` asks, or a rule of a route, and what becomes of a request by
//! the answer. The words are those of Envoy's ext_authz filters. A request that no such policy matches, and no such rule,
//! never comes here.

mod call;
mod check;
mod grpc;
mod message;
mod route;
mod side;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use tokio::time::timeout;
use weft_policy::{
    provider::{Protocol, Provider},
    view::MeshView,
};

use self::{
    call::{Answered, Caller},
    side::Side,
};
pub(crate) use self::{route::RuledRequest, side::Gate};
use crate::{
    decisions::Found,
    error::{Denial, ProxyError, WhyDenied},
    exchange::Outgoing,
    record::GRPC_STATUS,
    worker::Worker,
};

/// Whether a body is an answer of an authorizer that speaks gRPC: for the fuzz target.
pub fn is_answer(body: &[u8]) -> bool {
    let ok = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
    let answer = Answered {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(body),
        trailers: ok,
    };
    grpc::read(answer).is_ok()
}

/// What an authorizer says, once it has said something.
enum Says {
    Yes(Changes),
    No(Refusal),
}

/// What callers get who are refused.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Refusal {
    fn of_status(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

/// What becomes of a request that may pass.
#[derive(Default)]
struct Changes {
    remove: Vec<HeaderName>,
    request: Vec<Change>,
    response: Vec<Change>,
}

/// One header.
pub(crate) struct Change {
    name: HeaderName,
    value: HeaderValue,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// In place of all that are there.
    Set,
    /// Beside what is there.
    Append,
    OnlyIfAbsent,
    OnlyIfPresent,
}

impl Change {
    fn set(name: HeaderName, value: HeaderValue) -> Self {
        Self { name, value, how: How::Set }
    }
}

/// Changes headers as an authorizer has said.
pub(crate) fn apply(changes: Vec<Change>, headers: &mut HeaderMap) {
    for Change { name, value, how } in changes {
        match how {
            How::Append => {
                headers.append(name, value);
            }
            How::OnlyIfAbsent if headers.contains_key(&name) => {}
            How::OnlyIfPresent if !headers.contains_key(&name) => {}
            How::Set | How::OnlyIfAbsent | How::OnlyIfPresent => {
                headers.insert(name, value);
            }
        }
    }
}

/// What is not an authorizer's to say: where a request goes, where a message ends, and what only proxies tell.
fn is_reserved(name: &str) -> bool {
    const RESERVED: [&str; 10] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "upgrade",
        "te",
        "trailer",
        "proxy-connection",
        "x-forwarded-client-cert",
    ];
    let name = name.to_ascii_lowercase();
    name.starts_with(':') || name.starts_with("x-weft-") || RESERVED.contains(&name.as_str())
}

/// As [`Change::set`] for each, where a name may come with several values.
fn set_all(headers: HeaderMap) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::with_capacity(headers.len());
    let mut last: Option<HeaderName> = None;
    for (name, value) in headers {
        // Only the first value of a name comes with it.
        let how = if name.is_some() { How::Set } else { How::Append };
        last = name.or(last);
        changes.extend(last.clone().map(|name| Change { name, value, how }));
    }
    changes
}

/// Who asks, in whose name, about whom.
pub(crate) struct Question<'a, S> {
    pub(crate) worker: &'a Worker,
    pub(crate) view: &'a MeshView,
    pub(crate) side: S,
}

impl Question<'_, Gate<'_>> {
    /// The provider that a policy names.
    fn named(&self, name: &str) -> Result<&Provider, ProxyError> {
        let provider = self.view.settings.providers.get(name);
        // Policies are compiled with the providers of the same view.
        provider.map(|provider| &**provider).ok_or_else(|| {
            self.denied(Refusal::of_status(StatusCode::FORBIDDEN), name, "the mesh has no such provider", None)
        })
    }

    /// Asks the provider of that name about a request; see [`Question::of_request`].
    pub(crate) async fn of_request_by_name(
        &self,
        name: &str,
        outgoing: &mut Outgoing,
    ) -> Result<Vec<Change>, ProxyError> {
        self.of_request(self.named(name)?, name, outgoing).await
    }

    /// Asks the provider of that name about a connection that is not read as HTTP.
    pub(crate) async fn of_connection(&self, name: &str) -> Result<(), ProxyError> {
        let provider = self.named(name)?;
        match self.ask(provider, grpc::request(provider, &self.side, None)).await {
            Ok(Says::Yes(_)) => Ok(()),
            Ok(Says::No(refusal)) => Err(self.denied(refusal, name, "it says no", None)),
            Err(why) => {
                self.failed(name, &why);
                match provider.fail_open {
                    true => Ok(()),
                    false => Err(self.denied(Refusal::of_status(provider.status_on_error), name, &why, None)),
                }
            }
        }
    }
}

impl<S: Side> Question<'_, S> {
    /// Asks about a request. Returns what is to be changed of the response, if it may pass. `name` is the provider's, for
    /// people.
    pub(crate) async fn of_request(
        &self,
        provider: &Provider,
        name: &str,
        outgoing: &mut Outgoing,
    ) -> Result<Vec<Change>, ProxyError> {
        let (body, is_partial) = match provider.body {
            None => (None, None),
            Some(wanted) => match outgoing.read_ahead(wanted.max_bytes, wanted.allows_partial).await? {
                Some((body, is_partial)) => (Some(body), wanted.allows_partial.then_some(is_partial)),
                None => {
                    let refusal = Refusal {
                        body: Bytes::from_static(b"Payload Too Large"),
                        ..Refusal::of_status(StatusCode::PAYLOAD_TOO_LARGE)
                    };
                    let why = "its body is longer than the authorizer is told";
                    return Err(self.denied(refusal, name, why, Some(outgoing)));
                }
            },
        };
        let asked = Check { outgoing, body: body.unwrap_or_default(), is_partial };
        let request = match &provider.protocol {
            Protocol::Http(http) => check::request(http, &asked),
            Protocol::Grpc(_) => grpc::request(provider, &self.side, Some(&asked)),
        };
        match self.ask(provider, request).await {
            Ok(Says::Yes(Changes { remove, request, response })) => {
                outgoing.take_off(&remove);
                apply(request, &mut outgoing.headers);
                Ok(response)
            }
            Ok(Says::No(refusal)) => Err(self.denied(refusal, name, "it says no", Some(outgoing))),
            Err(why) => {
                self.failed(name, &why);
                let refusal = Refusal::of_status(provider.status_on_error);
                match provider.fail_open {
                    true => Ok(Vec::new()),
                    false => Err(self.denied(refusal, name, &why, Some(outgoing))),
                }
            }
        }
    }

    /// Asks within the provider's time. An error says why there is no answer.
    async fn ask(&self, provider: &Provider, request: Result<Request<Bytes>, String>) -> Result<Says, String> {
        let caller = Caller { worker: self.worker, view: self.view, side: &self.side };
        let answer = timeout(provider.timeout, caller.ask(provider, request?)).await;
        let answer = answer.map_err(|_| format!("no answer within {:?}", provider.timeout))??;
        match &provider.protocol {
            Protocol::Http(http) => check::read(http, answer),
            Protocol::Grpc(_) => grpc::read(answer),
        }
    }

    fn failed(&self, provider: &str, why: &str) {
        self.worker.metrics.shared().count_provider_failure();
        tracing::debug!(provider, why, "an external authorizer gives no answer");
    }

    fn denied(&self, refusal: Refusal, provider: &str, why: &str, outgoing: Option<&Outgoing>) -> ProxyError {
        self.worker.metrics.shared().count_denied_by_policy();
        let asked = self.side.asked(outgoing.map(|outgoing| outgoing.as_policies_see_it(None)));
        let why_kept = format!("the provider {provider} was asked: {why}");
        let id = self.worker.decisions.keep(asked, Found::DeniedByProvider(self.side.rule(), why_kept));
        ProxyError::Denied(Box::new(Denial { why: WhyDenied::Provider(refusal), id }))
    }
}

/// What an authorizer is told of a request.
struct Check<'a> {
    outgoing: &'a Outgoing,
    body: Bytes,
    /// Whether the body goes on; `None` where that is not told.
    is_partial: Option<bool>,
}

/// Tells whether the body that the authorizer gets is only the beginning of the request's.
const X_ENVOY_AUTH_PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

fn partial_body(is_partial: bool) -> HeaderValue {
    HeaderValue::from_static(if is_partial { "true" } else { "false" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn headers_are_set_appended_or_left() {
        let mut changed = headers(&[("a", "1"), ("a", "2"), ("b", "1")]);
        let change = |name, value, how| Change {
            name: HeaderName::from_static(name),
            value: HeaderValue::from_static(value),
            how,
        };
        let changes = vec![
            change("a", "3", How::Set),
            change("b", "2", How::Append),
            change("b", "3", How::OnlyIfAbsent),
            change("c", "1", How::OnlyIfPresent),
            change("d", "1", How::OnlyIfAbsent),
        ];
        apply(changes, &mut changed);
        assert_eq!(changed, headers(&[("a", "3"), ("b", "1"), ("b", "2"), ("d", "1")]));
    }

    #[test]
    fn what_only_proxies_say_is_not_an_authorizers_to_say() {
        for name in [":path", "Host", "content-length", "X-Weft-Reason", "x-forwarded-client-cert", "te"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["authorization", "x-user", "cookie", "te-x"] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn several_values_of_one_name_replace_what_was_there_together() {
        let mut changed = headers(&[("a", "0"), ("b", "0")]);
        apply(set_all(headers(&[("a", "1"), ("a", "2")])), &mut changed);
        assert_eq!(changed, headers(&[("a", "1"), ("a", "2"), ("b", "0")]));
    }
}
