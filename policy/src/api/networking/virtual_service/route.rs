//! A rule for HTTP: what it does, and where requests go.

use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::Namespace;

use super::{
    CorsPolicy, Headers, HttpDirectResponse, HttpFaultInjection, HttpMatchRequest, HttpRedirect, HttpRetry,
    HttpRewrite, SessionPersistence, VirtualService, headers::is_authority,
};
use crate::{
    api::{
        networking::names::{is_name, read_name, warn_of_no_service},
        values::{Int, Percent, Port, Timeout},
    },
    document::Checker,
    hosts::HostPattern,
};

/// One rule for HTTP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRoute {
    /// Shows in logs and metrics.
    pub name: String,
    /// The rule holds for requests that match any of these; for all if there is none.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatchRequest>,
    /// Where requests go, by weight.
    pub route: Vec<HttpRouteDestination>,
    pub redirect: Option<HttpRedirect>,
    pub direct_response: Option<HttpDirectResponse>,
    /// A VirtualService without hosts that has the rules for these requests.
    pub delegate: Option<Delegate>,
    pub rewrite: Option<HttpRewrite>,
    /// Bounds the whole exchange, retries with it. Without it there is no limit.
    pub timeout: Option<Timeout>,
    pub retries: Option<HttpRetry>,
    pub fault: Option<HttpFaultInjection>,
    pub mirror: Option<Destination>,
    pub mirrors: Vec<HttpMirrorPolicy>,
    /// Old form of `mirrorPercentage`.
    pub mirror_percent: Option<Int<0, 100>>,
    /// Share of requests that `mirror` gets; 100 if absent.
    pub mirror_percentage: Option<Percent>,
    pub cors_policy: Option<CorsPolicy>,
    pub headers: Option<Headers>,
    pub session_persistence: Option<SessionPersistence>,
}

/// Where a share of the requests goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteDestination {
    pub destination: Destination,
    /// Its part of the sum of all weights. A single destination needs none.
    #[serde(default)]
    pub weight: Option<Int<0, { i32::MAX as i64 }>>,
    #[serde(default)]
    pub headers: Option<Headers>,
}

/// Where a share of the connections goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteDestination {
    pub destination: Destination,
    #[serde(default)]
    pub weight: Option<Int<0, { i32::MAX as i64 }>>,
}

/// A service, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    pub host: String,
    /// A subset that a DestinationRule of the host has.
    #[serde(default)]
    pub subset: String,
    /// Needed where the service has several ports and the client's is not meant.
    #[serde(default)]
    pub port: Option<PortSelector>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortSelector {
    pub number: Port,
}

/// Another VirtualService.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Delegate {
    pub name: String,
    /// That of this document if empty.
    pub namespace: String,
}

/// A copy of a share of the requests goes here; its answer is dropped.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMirrorPolicy {
    pub destination: Destination,
    /// 100 if absent.
    #[serde(default)]
    pub percentage: Option<Percent>,
}

impl Destination {
    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        let namespace = checker.namespace();
        match read_name(&self.host, &namespace) {
            Ok(host) if host.is_everything() => checker.error_in("host", "must be a host, not *"),
            Ok(host) => checker.field("host", |checker| warn_of_no_service(&host, checker)),
            Err(what) => checker.error_in("host", what),
        }
        if !self.subset.is_empty() && !is_name(&self.subset) {
            checker.error_in("subset", "must be the name of a subset: letters, digits and '-'");
        }
    }

    /// The host, fully qualified.
    pub(crate) fn fqdn(&self, namespace: &Namespace) -> String {
        HostPattern::read(&self.host, namespace).map_or_else(|_| self.host.clone(), |host| host.to_string())
    }
}

/// Of several destinations at least one needs a weight. (Istio does not ask that they sum up to 100.)
pub(super) fn check_weights<'a>(weights: impl ExactSizeIterator<Item = Option<i64>> + 'a, checker: &mut Checker<'_>) {
    if weights.len() > 1 && weights.map(Option::unwrap_or_default).sum::<i64>() == 0 {
        checker.error_in("route", "the weights of several destinations must not all be 0");
    }
}

impl HttpRoute {
    pub(super) fn check(&self, service: &VirtualService, checker: &mut Checker<'_>) {
        self.check_actions(service.is_delegate(), checker);
        checker.each("match", &self.matches, |checker, one| one.check(service.is_for_mesh(), checker));
        checker.each("route", &self.route, |checker, share| {
            checker.field("destination", |checker| share.destination.check(checker));
            checker.given("headers", &share.headers, |checker, headers| headers.check(checker));
        });
        check_weights(self.route.iter().map(|share| share.weight.map(Int::get)), checker);
        checker.given("redirect", &self.redirect, |checker, redirect| redirect.check(&self.matches, checker));
        checker.given("directResponse", &self.direct_response, |checker, response| response.check(checker));
        checker.given("rewrite", &self.rewrite, |checker, rewrite| rewrite.check(checker));
        checker.given("retries", &self.retries, |checker, retries| retries.check(checker));
        checker.given("fault", &self.fault, |checker, fault| fault.check(checker));
        checker.given("mirror", &self.mirror, |checker, mirror| mirror.check(checker));
        checker.each("mirrors", &self.mirrors, |checker, mirror| {
            checker.field("destination", |checker| mirror.destination.check(checker));
        });
        checker.given("corsPolicy", &self.cors_policy, |checker, policy| policy.check(checker));
        checker.given("headers", &self.headers, |checker, headers| headers.check(checker));
        self.check_authority(checker);
        checker.given("sessionPersistence", &self.session_persistence, |checker, session| session.check(checker));
    }

    /// What a rule does: exactly one thing.
    fn check_actions(&self, in_delegate: bool, checker: &mut Checker<'_>) {
        let (route, redirect) = (("route", !self.route.is_empty()), ("redirect", self.redirect.is_some()));
        let response = ("directResponse", self.direct_response.is_some());
        let delegate = ("delegate", self.delegate.is_some());
        if in_delegate {
            checker.exactly_one(&[route, redirect, response]);
        } else {
            checker.exactly_one(&[route, redirect, response, delegate]);
        }
        let (fault, rewrite) = (("fault", self.fault.is_some()), ("rewrite", self.rewrite.is_some()));
        for other in [fault, rewrite] {
            checker.at_most_one(&[redirect, other]);
        }
        checker.at_most_one(&[response, rewrite]);
        checker.at_most_one(&[response, fault]);
        checker.at_most_one(&[("mirror", self.mirror.is_some()), ("mirrors", !self.mirrors.is_empty())]);
        checker.given("delegate", &self.delegate, |checker, delegate| {
            checker.require("name", !delegate.name.is_empty());
            if !delegate.namespace.is_empty() && delegate.namespace.parse::<Namespace>().is_err() {
                checker.error_in("namespace", "must be a namespace");
            }
        });
        if self.mirror.is_none() && (self.mirror_percent.is_some() || self.mirror_percentage.is_some()) {
            checker.warn("has a share of mirrored requests, but no mirror");
        }
        if self.mirror_percent.is_some() {
            checker.warn_in("mirrorPercent", "is deprecated: use mirrorPercentage");
        }
    }

    /// Host can be set in several places, but only in one at a time.
    fn check_authority(&self, checker: &mut Checker<'_>) {
        let rewritten = self.rewrite.as_ref().is_some_and(|rewrite| !rewrite.authority.is_empty());
        let request = self.headers.as_ref().and_then(|headers| headers.request.as_ref());
        let set = request.map_or(0, |request| {
            request.set.keys().chain(request.add.keys()).filter(|name| is_authority(name)).count()
        });
        if set + usize::from(rewritten) > 1 {
            checker.error("sets the authority twice, in rewrite.authority or headers.request: leave one out");
        }
    }
}
