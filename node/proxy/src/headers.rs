//! The header operations of the rule that a request has matched, and what their values speak of.

use std::{
    error::Error,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Method, Version};
use weft_policy::{
    headers::{HeaderContext, HeaderOperations, HeaderRules, ResponseContext},
    route::RequestHead,
};

use crate::{
    error::ProxyError,
    exchange::{Outgoing, Reply},
    record::{Downstream, ExchangeRecord, with_sources},
};

/// The operations of the rule and of the destination.
pub(crate) struct Operations<'a> {
    pub(crate) rules: [Option<&'a HeaderRules>; 2],
    pub(crate) protocol: Version,
    pub(crate) downstream: Downstream,
    pub(crate) node: &'a str,
    pub(crate) route: &'a str,
    pub(crate) cluster: Option<&'a str>,
}

/// A request as it was sent on, for values in the headers of its response.
pub(crate) struct Sent {
    method: Method,
    path_and_query: String,
    authority: String,
    headers: HeaderMap,
}

/// What values in the headers of a response want to know of the exchange.
#[derive(Default)]
pub(crate) struct Watched {
    /// Where the last try went, and how many there were.
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) attempts: u32,
    /// Why the proxy answers itself, in the access log's words, and why it could not ask an endpoint.
    pub(crate) details: Option<String>,
    pub(crate) failure: Option<String>,
}

impl Operations<'_> {
    /// Whether values in the headers of the response have to be worked out: only then is kept what they may speak of.
    pub(crate) fn watch(&self) -> bool {
        self.rules.into_iter().flatten().any(|rules| rules.response.has_variables())
    }

    pub(crate) fn of_request(&self, outgoing: &mut Outgoing, elapsed: Duration) {
        let Outgoing { method, authority, path_and_query, headers, .. } = outgoing;
        let context = || self.context(method, path_and_query.as_str(), authority.as_str(), elapsed);
        self.apply(headers, |rules| &rules.request, context);
    }

    pub(crate) fn of_response(&self, reply: &mut Reply, sent: Option<&Sent>, record: &ExchangeRecord) {
        let (status, protocol) = reply.status_and_protocol();
        let (Some(sent), Some(watched)) = (sent, record.watched()) else {
            let nothing_known = || self.context(&Method::GET, "", "", Duration::ZERO);
            return self.apply(reply.headers_mut(), |rules| &rules.response, nothing_known);
        };
        let own_details = if protocol.is_some() { "via_upstream" } else { "direct_response" };
        let response = ResponseContext {
            request: &sent.headers,
            status,
            protocol,
            endpoint: watched.endpoint,
            attempts: watched.attempts,
            flags: record.flag_text(),
            details: watched.details.as_deref().unwrap_or(own_details),
            failure: watched.failure.as_deref(),
        };
        let context = || HeaderContext {
            received: record.received_bytes(),
            response: Some(response),
            ..self.context(&sent.method, &sent.path_and_query, &sent.authority, record.started().elapsed())
        };
        self.apply(reply.headers_mut(), |rules| &rules.response, context);
    }

    fn context<'c>(
        &'c self,
        method: &'c Method,
        path_and_query: &'c str,
        authority: &'c str,
        elapsed: Duration,
    ) -> HeaderContext<'c> {
        let now = SystemTime::now();
        HeaderContext {
            method,
            path_and_query,
            authority,
            protocol: self.protocol,
            remote: self.downstream.remote,
            local: self.downstream.local,
            started: now - elapsed,
            now,
            node: self.node,
            route: self.route,
            cluster: self.cluster,
            received: 0,
            response: None,
        }
    }

    fn apply<'c>(
        &self,
        headers: &mut HeaderMap,
        operations: impl Fn(&HeaderRules) -> &HeaderOperations,
        context: impl Fn() -> HeaderContext<'c>,
    ) {
        for operations in self.rules.into_iter().flatten().map(operations) {
            operations.apply(headers, &context);
        }
    }
}

impl Watched {
    /// The exchange failed, and the proxy answers itself.
    pub(crate) fn fail(&mut self, error: &(dyn Error + 'static)) {
        match error.downcast_ref() {
            Some(ProxyError::Denied(denial)) => self.details = Some(denial.details()),
            Some(error @ (ProxyError::Connect(_) | ProxyError::Reset(_))) => {
                self.details = Some(error.reason().to_owned());
                self.failure = Some(with_sources(error));
            }
            Some(error) => self.details = Some(error.reason().to_owned()),
            None => {}
        }
    }
}

impl Sent {
    pub(crate) fn of(head: RequestHead<'_>) -> Self {
        Self {
            method: head.method.clone(),
            path_and_query: head.path_and_query.to_owned(),
            authority: head.authority.to_owned(),
            headers: head.headers.clone(),
        }
    }
}
