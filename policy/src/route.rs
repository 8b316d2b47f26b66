//! Routing: from a request's head, and from who sends it, to the cluster that serves it or to an answer.
//!
//! A VirtualService, or a namespace's routes for a service, is compiled once into a [`RuleSet`], which names services; a request looks those up in its view.
//! So neither knows of the other's changes.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use weft_wire::{document::Stamp, id::Namespace};

use crate::{
    api::values::Share,
    balance::Cluster,
    cors::Cors,
    document::Document,
    endpoint::{Endpoint, Workload},
    fault::FaultInjection,
    headers::HeaderRules,
    hosts::{self, HostPattern},
    matcher::{ClientMatch, Fields, MatchedPath, RequestMatch, Values},
    namespaces::Visibility,
    provider::Provider,
    redirect::Redirect,
    retry::RetryPolicy,
    rewrite::PathRewrite,
    session::{Session, Sticky, Token},
    sidecar::{Scope, Sight},
    unserved::{PASSTHROUGH_ROUTE, Passthrough},
    view::{MeshView, Service},
};

/// What routing reads of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a Method,
    pub path_and_query: &'a str,
    pub authority: &'a str,
    pub scheme: &'a str,
    pub headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    /// The path without query and fragment.
    pub fn path(&self) -> &'a str {
        let end = self.path_and_query.find(['?', '#']).unwrap_or(self.path_and_query.len());
        &self.path_and_query[..end]
    }

    /// The query without `?` and fragment.
    pub(crate) fn query(&self) -> Option<&'a str> {
        let without_fragment = self.path_and_query.split('#').next()?;
        without_fragment.split_once('?').map(|(_, query)| query)
    }
}

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub namespace: &'a Namespace,
    /// `None` for one that is not known more closely: it has no labels.
    pub workload: Option<&'a Workload>,
}

impl<'a> Client<'a> {
    pub(crate) fn label(&self, name: &str) -> Option<&'a String> {
        self.workload?.labels.get(name)
    }
}

/// The rule that holds for a request.
#[derive(Debug)]
pub struct Matched<'v> {
    /// `NAME` or `NAME.NAME OF THE MATCH`; may be empty; `default` where no VirtualService rules the host.
    pub route_name: &'v str,
    /// Which rule it is.
    pub origin: Option<Origin<'v>>,
    pub cors: Option<&'v Cors>,
    /// To be asked first, in this order; `None` if there are none.
    pub authorizers: Option<Box<Authorizers<'v>>>,
    pub fault: Option<&'v FaultInjection>,
    /// To be applied in this order.
    pub headers: [Option<&'v HeaderRules>; 2],
    pub action: Action<'v>,
}

/// Those of a rule, then those of its destination.
pub type Authorizers<'v> = [&'v [Provider]; 2];

impl<'v> Matched<'v> {
    /// The session that the request is of, if the rule has any.
    pub fn session(&self) -> Option<&Sticky<'v>> {
        match &self.action {
            Action::Forward(forward) => forward.session.as_deref(),
            _ => None,
        }
    }
}

/// The place of a rule in a document.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'v> {
    pub document: &'v Arc<Document>,
    /// The rule's place in `http`.
    pub rule: usize,
    /// The place in its `match`; `None` for a rule without.
    pub condition: Option<usize>,
}

#[derive(Debug)]
pub enum Action<'v> {
    Forward(Forward<'v>),
    Redirect {
        status: StatusCode,
        location: String,
    },
    Respond(&'v DirectResponse),
    /// The rule names a service, port or subset that does not exist: 503, flag NC.
    UnknownCluster,
    /// The rule of a route of the Gateway API sends the request to nothing that exists and may be named: 500.
    InvalidBackend,
}

#[derive(Debug)]
pub struct Forward<'v> {
    pub service: &'v Arc<Service>,
    pub cluster: &'v Arc<Cluster>,
    /// Bounds the whole exchange; `None` is no limit.
    pub timeout: Option<Duration>,
    pub retry: &'v RetryPolicy,
    pub rewrite: Option<Rewrite<'v>>,
    /// Copies of the request; see [`MeshView::mirrored`].
    pub mirrors: &'v [Mirror],
    /// Where the rule's clients stay with their endpoints.
    pub session: Option<Box<Sticky<'v>>>,
}

/// What to send upstream instead of what came.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewrite<'v> {
    /// `None` leaves it as it is.
    pub path_and_query: Option<String>,
    pub authority: Option<&'v str>,
}

/// An answer that a document gives.
#[derive(Debug, PartialEq, Eq)]
pub struct DirectResponse {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Where a connection goes that is not read as HTTP.
#[derive(Debug)]
pub enum TcpRouting<'v> {
    Forward(&'v Arc<Service>, &'v Arc<Cluster>),
    /// There are rules for TLS, and none is for the server that the client names.
    NoRoute,
    /// The rule names a service, port or subset that does not exist. Also: the service has no such port.
    UnknownCluster,
}

/// Route name of a service that no VirtualService rules, as in Istio.
const DEFAULT_ROUTE_NAME: &str = "default";

/// Of a request whose host nobody serves, and that passes.
pub(crate) fn passed(to: Passthrough<'_>) -> Matched<'_> {
    Matched {
        route_name: PASSTHROUGH_ROUTE,
        origin: None,
        cors: None,
        authorizers: None,
        fault: None,
        headers: [None; 2],
        action: Action::Forward(Forward {
            service: to.service,
            cluster: to.cluster,
            timeout: None,
            retry: to.retry,
            rewrite: None,
            mirrors: &[],
            session: None,
        }),
    }
}

/// One VirtualService, or the routes of the Gateway API that one namespace has for a service, as clients inside the
/// mesh are ruled by it; or what one says at a gateway, or several routes for one host there.
#[derive(Debug, Default)]
pub(crate) struct RuleSet {
    /// When it was first applied; of several documents the oldest.
    pub(crate) created: Stamp,
    /// `None` at gateways.
    pub(crate) namespace: Option<Namespace>,
    pub(crate) hosts: Vec<HostPattern>,
    pub(crate) visible: Visibility,
    pub(crate) http: Vec<HttpRule>,
    pub(crate) fields: Fields,
    pub(crate) tls: Vec<TlsRule>,
    pub(crate) tcp: Vec<TcpRule>,
}

/// One `http` entry, with what it delegates to.
#[derive(Debug)]
pub(crate) struct HttpRule {
    pub(crate) document: Arc<Document>,
    /// Its place in the document's `http`.
    pub(crate) place: usize,
    /// Any of these; a rule without conditions has one that always holds.
    pub(crate) matches: Vec<NamedMatch>,
    pub(crate) cors: Option<Cors>,
    pub(crate) authorizers: Vec<Provider>,
    pub(crate) fault: Option<FaultInjection>,
    pub(crate) headers: Option<HeaderRules>,
    pub(crate) action: RuleAction,
}

#[derive(Debug)]
pub(crate) struct NamedMatch {
    pub(crate) route_name: String,
    pub(crate) condition: Option<usize>,
    pub(crate) request: RequestMatch,
}

#[derive(Debug)]
pub(crate) enum RuleAction {
    Forward(Box<ForwardRule>),
    Redirect(Redirect),
    Respond(DirectResponse),
}

#[derive(Debug)]
pub(crate) struct ForwardRule {
    pub(crate) destinations: Weighted<HttpDestination>,
    pub(crate) timeout: Option<Duration>,
    /// `None` is the mesh's default.
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) path_rewrite: Option<PathRewrite>,
    pub(crate) authority: Option<String>,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) session: Option<Session>,
    pub(crate) unresolved: Unresolved,
}

/// What becomes of a request whose destination does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// As in Istio.
    UnknownCluster,
    /// As in the Gateway API.
    InvalidBackend,
}

#[derive(Debug)]
pub(crate) struct HttpDestination {
    pub(crate) target: Target,
    pub(crate) headers: Option<HeaderRules>,
    /// The rule's operations are in `headers` already.
    pub(crate) has_rules_headers: bool,
    pub(crate) authority: Option<String>,
    pub(crate) own: Option<Box<DestinationFilters>>,
}

/// What is done to the requests of one destination beside what the rule does.
#[derive(Debug)]
pub(crate) struct DestinationFilters {
    /// They are sent elsewhere.
    pub(crate) redirect: Option<Redirect>,
    /// Instead of the rule's.
    pub(crate) path_rewrite: Option<PathRewrite>,
    /// The rule's with them.
    pub(crate) mirrors: Vec<Mirror>,
    /// Instead of the rule's.
    pub(crate) cors: Option<Cors>,
    /// Beside the rule's.
    pub(crate) authorizers: Vec<Provider>,
}

/// One `tls` entry.
#[derive(Debug)]
pub(crate) struct TlsRule {
    /// Any of these.
    pub(crate) matches: Vec<TlsMatch>,
    pub(crate) destinations: Weighted<Target>,
}

#[derive(Debug)]
pub(crate) struct TlsMatch {
    pub(crate) client: ClientMatch,
    /// Any of these, as the client writes them in its SNI.
    pub(crate) server_names: Vec<HostPattern>,
}

impl TlsMatch {
    /// How closely one of its names means this server, the higher the closer; `None` if none does.
    fn closeness(&self, name: &str) -> Option<usize> {
        let of = |wanted: &HostPattern| match wanted {
            HostPattern::Exact(_) => usize::MAX,
            HostPattern::Wildcard(end) => end.len(),
        };
        self.server_names.iter().filter(|wanted| wanted.matches(name)).map(of).max()
    }
}

/// One `tcp` entry.
#[derive(Debug)]
pub(crate) struct TcpRule {
    /// Any of these; none at all matches everything.
    pub(crate) matches: Vec<ClientMatch>,
    pub(crate) destinations: Weighted<Target>,
}

/// A copy of a share of the requests.
#[derive(Clone, Debug)]
pub struct Mirror {
    pub(crate) target: Target,
    pub(crate) share: Share,
}

/// A service, or a part of it, as a document names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// `None` for what may not be named.
    pub(crate) host: Option<TargetHost>,
    /// `None` is the service's only port, else the one that the client dialled.
    pub(crate) port: Option<u16>,
    pub(crate) subset: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetHost {
    /// `NAME.NAMESPACE`: a service of the mesh, or a host that ServiceEntries give such a name.
    Service(String),
    /// `NAME.NAMESPACE` of a service of the mesh, and of none of type `ExternalName`: whoever may name that one may not
    /// therefore name all that it could stand for (CVE-2021-25740).
    Backend(String),
    /// A host outside of the mesh, by its own name.
    Other(String),
}

impl TargetHost {
    pub(crate) fn read(fqdn: String) -> Self {
        match hosts::service_of(&fqdn) {
            Some(service) => Self::Service(service.to_string()),
            None => Self::Other(fqdn),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Service(name) | Self::Backend(name) | Self::Other(name) => name,
        }
    }
}

/// Choices, each with the sum of the weights up to and with its own. Those without weight are left out.
#[derive(Debug)]
pub(crate) struct Weighted<T>(Vec<(u64, T)>);

impl<T> Weighted<T> {
    /// Of choices with their weights. The weight of an only one is not looked at.
    pub(crate) fn new(choices: impl ExactSizeIterator<Item = (u64, T)>) -> Self {
        let is_only = choices.len() == 1;
        let mut sum = 0;
        let weighted = choices.filter_map(|(weight, choice)| {
            let weight = if is_only { 1 } else { weight };
            sum += weight;
            (weight > 0).then_some((sum, choice))
        });
        Self(weighted.collect())
    }

    /// Each choice with its share in percent.
    pub(crate) fn shares(&self) -> Vec<(f64, &T)> {
        let total = self.0.last().map_or(0, |(sum, _)| *sum);
        let before = std::iter::once(0).chain(self.0.iter().map(|(sum, _)| *sum));
        let percent = |part: u64| part as f64 * 100.0 / total as f64;
        before.zip(&self.0).map(|(before, (sum, choice))| (percent(sum - before), choice)).collect()
    }

    fn choices(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, choice)| choice)
    }

    /// `random` is a fresh, uniform number.
    fn choose(&self, random: u64) -> Option<&T> {
        let total = self.0.last().map_or(0, |(sum, _)| *sum);
        let point = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        let chosen = self.0.partition_point(|(sum, _)| *sum <= point);
        self.0.get(chosen).map(|(_, choice)| choice)
    }
}

/// What one request asks of one view.
#[derive(Clone, Copy)]
pub(crate) struct Query<'v, 'r> {
    pub(crate) view: &'v MeshView,
    /// The port that the client dialled.
    pub(crate) port: u16,
    pub(crate) client: Client<'r>,
    /// The Sidecar that holds for the client.
    pub(crate) scope: Option<&'v Scope>,
    pub(crate) random: u64,
    /// Sessions go on, rather than begin anew.
    pub(crate) resumes: bool,
}

/// What goes on of a session.
struct Resumed<'v> {
    destination: &'v HttpDestination,
    endpoint: &'v Arc<Endpoint>,
    token: Token,
}

/// Hears what routing looks at. A request's is `()`, and costs it nothing.
pub(crate) trait Recorder<'v> {
    /// One of a rule's conditions does not hold.
    fn passed_over(&mut self, _: &'v HttpRule, _: &'v NamedMatch, _: &'v Fields) {}
    fn matched(&mut self, _: &'v HttpRule, _: &'v NamedMatch) {}
    /// It has no rule for such a client.
    fn not_ruled(&mut self, _: &'v RuleSet) {}
}

impl Recorder<'_> for () {}

/// What VirtualServices say of a request.
pub(crate) enum Ruling<'v> {
    Matched(Matched<'v>),
    /// There are rules for such a client, and none matches.
    NoMatch,
    /// There are no rules for such a client.
    None,
}

impl<'v> Query<'v, '_> {
    pub(crate) fn sight(&self) -> Sight<'_> {
        Sight { namespace: self.client.namespace, scope: self.scope, port: Some(self.port) }
    }

    /// Those of the rules that the client's Sidecar lets it see.
    fn seen(&self, rule_sets: &'v [Arc<RuleSet>]) -> impl Iterator<Item = &'v Arc<RuleSet>> {
        rule_sets.iter().filter(|rules| self.sight().includes_rules(rules))
    }

    pub(crate) fn target(&self, target: &Target) -> Option<(&'v Arc<Service>, &'v Arc<Cluster>)> {
        let service = self.view.destination(target.host.as_ref()?, self.sight())?;
        let port = match (target.port, service.ports.as_slice()) {
            (Some(port), _) => port,
            (None, [only]) => only.port,
            (None, _) => self.port,
        };
        Some((service, service.cluster_of(self.client, port, &target.subset)?))
    }

    /// By the first of the VirtualServices that has a rule for such a client.
    pub(crate) fn by_rules(
        &self,
        rule_sets: &'v [Arc<RuleSet>],
        head: &RequestHead<'_>,
        recorder: &mut impl Recorder<'v>,
    ) -> Ruling<'v> {
        for rules in self.seen(rule_sets) {
            match self.by_rule_set(rules, head, recorder) {
                Ruling::None => recorder.not_ruled(rules),
                ruling => return ruling,
            }
        }
        Ruling::None
    }

    /// By the first rule that matches of all these, as if they were one list: at a gateway.
    pub(crate) fn by_all_rules(
        &self,
        rule_sets: &'v [Arc<RuleSet>],
        head: &RequestHead<'_>,
        recorder: &mut impl Recorder<'v>,
    ) -> Ruling<'v> {
        for rules in rule_sets {
            if let Ruling::Matched(matched) = self.by_rule_set(rules, head, recorder) {
                return Ruling::Matched(matched);
            }
        }
        Ruling::NoMatch
    }

    fn by_rule_set(&self, rules: &'v RuleSet, head: &RequestHead<'_>, recorder: &mut impl Recorder<'v>) -> Ruling<'v> {
        let path = head.path();
        let mut values = Values::new(head, &rules.fields);
        let mut is_ruled = false;
        for rule in &rules.http {
            for one in &rule.matches {
                if !one.request.client.matches(&self.client, self.port) {
                    recorder.passed_over(rule, one, &rules.fields);
                    continue;
                }
                is_ruled = true;
                if let Some(matched) = one.request.matches(path, &mut values) {
                    recorder.matched(rule, one);
                    return Ruling::Matched(self.matched(rule, one, head, matched));
                }
                recorder.passed_over(rule, one, &rules.fields);
            }
        }
        if is_ruled { Ruling::NoMatch } else { Ruling::None }
    }

    fn matched(
        &self,
        rule: &'v HttpRule,
        one: &'v NamedMatch,
        head: &RequestHead<'_>,
        path: MatchedPath,
    ) -> Matched<'v> {
        let mut headers = [None, rule.headers.as_ref()];
        let mut cors = rule.cors.as_ref();
        let mut authorizers: Authorizers<'_> = [&rule.authorizers, &[]];
        let action = match &rule.action {
            RuleAction::Respond(response) => Action::Respond(response),
            RuleAction::Redirect(redirect) => self.redirect(redirect, head, path),
            RuleAction::Forward(forward) => {
                let resumed = forward.session.as_ref().and_then(|session| self.resumed(session, forward, head));
                let chosen = match &resumed {
                    Some(resumed) => Some(resumed.destination),
                    None => forward.destinations.choose(self.random),
                };
                if let Some(destination) = chosen {
                    let of_rule = rule.headers.as_ref().filter(|_| !destination.has_rules_headers);
                    headers = [destination.headers.as_ref(), of_rule];
                }
                let own = chosen.and_then(|destination| destination.own.as_ref());
                cors = own.and_then(|own| own.cors.as_ref()).or(cors);
                authorizers[1] = own.map_or(&[][..], |own| own.authorizers.as_slice());
                match own.and_then(|own| own.redirect.as_ref()) {
                    Some(redirect) => self.redirect(redirect, head, path),
                    None => self.forward(forward, (chosen, resumed), head, path),
                }
            }
        };
        Matched {
            route_name: &one.route_name,
            origin: Some(Origin { document: &rule.document, rule: rule.place, condition: one.condition }),
            cors,
            action: if self.lacks(&authorizers) { Action::InvalidBackend } else { action },
            authorizers: authorizers.iter().any(|some| !some.is_empty()).then(|| Box::new(authorizers)),
            fault: rule.fault.as_ref(),
            headers,
        }
    }

    /// Whether one of these cannot be asked, because it does not exist or may not be named.
    pub(crate) fn lacks(&self, authorizers: &Authorizers<'_>) -> bool {
        authorizers.iter().copied().flatten().any(|provider| provider.cluster(self.view, self.client).is_none())
    }

    /// Of the destinations that have weight, the one with the endpoint that a request's session is at.
    fn resumed(&self, session: &Session, rule: &'v ForwardRule, head: &RequestHead<'_>) -> Option<Resumed<'v>> {
        let token = session.token(head.headers).filter(|_| self.resumes)?;
        let found = rule.destinations.choices().find_map(|destination| {
            let (_, cluster) = self.target(&destination.target)?;
            let endpoint = cluster.endpoints.iter().find(|endpoint| token.names(&endpoint.key))?;
            Some((destination, endpoint))
        });
        let (destination, endpoint) = found?;
        Some(Resumed { destination, endpoint, token })
    }

    fn redirect(&self, redirect: &Redirect, head: &RequestHead<'_>, path: MatchedPath) -> Action<'v> {
        Action::Redirect { status: redirect.status, location: redirect.location(head, path, self.port) }
    }

    fn forward(
        &self,
        rule: &'v ForwardRule,
        (chosen, resumed): (Option<&'v HttpDestination>, Option<Resumed<'v>>),
        head: &RequestHead<'_>,
        path: MatchedPath,
    ) -> Action<'v> {
        let found = chosen.and_then(|destination| Some((destination, self.target(&destination.target)?)));
        let Some((destination, (service, cluster))) = found else {
            return match rule.unresolved {
                Unresolved::UnknownCluster => Action::UnknownCluster,
                Unresolved::InvalidBackend => Action::InvalidBackend,
            };
        };
        let own = destination.own.as_ref();
        let path_rewrite = own.and_then(|own| own.path_rewrite.as_ref()).or(rule.path_rewrite.as_ref());
        let path_and_query = path_rewrite.map(|rewrite| rewrite.apply(head, path));
        let authority = rule.authority.as_deref().or(destination.authority.as_deref());
        let rewrite =
            (path_and_query.is_some() || authority.is_some()).then_some(Rewrite { path_and_query, authority });
        let retry = rule.retry.as_ref().unwrap_or(&self.view.settings.default_retry);
        let mirrors = own.map_or(&rule.mirrors, |own| &own.mirrors).as_slice();
        let session = rule.session.as_ref().map(|session| {
            let home = resumed.map(|resumed| (resumed.token, resumed.endpoint));
            Box::new(Sticky { session, home })
        });
        Action::Forward(Forward { service, cluster, timeout: rule.timeout, retry, rewrite, mirrors, session })
    }

    /// A gateway sends what came without TLS to the same place with it.
    pub(crate) fn over_https(self, head: &RequestHead<'_>) -> Matched<'v> {
        let location = format!("https://{}{}", head.authority, head.path_and_query);
        let action = Action::Redirect { status: StatusCode::MOVED_PERMANENTLY, location };
        Matched { route_name: "", origin: None, cors: None, authorizers: None, fault: None, headers: [None; 2], action }
    }

    /// To the service itself, where no VirtualService says otherwise.
    pub(crate) fn by_default(&self, service: &'v Arc<Service>) -> Option<Matched<'v>> {
        let cluster = service.cluster_of(self.client, self.port, "")?;
        let retry = &self.view.settings.default_retry;
        Some(Matched {
            route_name: DEFAULT_ROUTE_NAME,
            origin: None,
            cors: None,
            authorizers: None,
            fault: None,
            headers: [None; 2],
            action: Action::Forward(Forward {
                service,
                cluster,
                timeout: None,
                retry,
                rewrite: None,
                mirrors: &[],
                session: None,
            }),
        })
    }

    /// Whether the server that the client names in its TLS handshake decides where its connection goes.
    pub(crate) fn reads_server_name(&self, rule_sets: &'v [Arc<RuleSet>]) -> bool {
        let mut matches = self.seen(rule_sets).flat_map(|rules| &rules.tls).flat_map(|rule| &rule.matches);
        matches.any(|one| one.client.matches(&self.client, self.port))
    }

    /// What the rules for TLS say of a connection whose handshake asks for a server.
    pub(crate) fn by_server_name(&self, rule_sets: &'v [Arc<RuleSet>], name: &str) -> Option<&'v Weighted<Target>> {
        // As Envoy chooses among the filter chains that Istio makes of them: by the closest name; of these the first.
        hosts::with_lower_case(name, |name| {
            let rules = self.seen(rule_sets).flat_map(|rules| &rules.tls);
            let matches = rules.flat_map(|rule| rule.matches.iter().map(move |one| (one, &rule.destinations)));
            let ours = matches.filter(|(one, _)| one.client.matches(&self.client, self.port));
            let named = ours.filter_map(|(one, to)| Some((one.closeness(name)?, to)));
            // `min_by_key` keeps the first of equals, `max_by_key` the last.
            named.min_by_key(|(closeness, _)| Reverse(*closeness)).map(|(_, to)| to)
        })?
    }

    /// What the rules for TCP say of a connection.
    pub(crate) fn by_tcp_rules(&self, rule_sets: &'v [Arc<RuleSet>]) -> Option<&'v Weighted<Target>> {
        let holds = |rule: &&TcpRule| {
            rule.matches.is_empty() || rule.matches.iter().any(|one| one.matches(&self.client, self.port))
        };
        self.seen(rule_sets).flat_map(|rules| &rules.tcp).find(holds).map(|rule| &rule.destinations)
    }

    /// `server_name` is the one of the client's TLS handshake, if its first bytes are one.
    pub(crate) fn tcp(
        &self,
        rule_sets: &'v [Arc<RuleSet>],
        service: &'v Arc<Service>,
        server_name: Option<&str>,
    ) -> TcpRouting<'v> {
        let by_tls = server_name.and_then(|name| self.by_server_name(rule_sets, name));
        let found = match by_tls.or_else(|| self.by_tcp_rules(rule_sets)) {
            Some(destinations) => destinations.choose(self.random).and_then(|target| self.target(target)),
            None if self.reads_server_name(rule_sets) => return TcpRouting::NoRoute,
            None => service.cluster_of(self.client, self.port, "").map(|cluster| (service, cluster)),
        };
        found.map_or(TcpRouting::UnknownCluster, |(service, cluster)| TcpRouting::Forward(service, cluster))
    }

    /// Where a copy of this request goes, if this one is of the mirrored share.
    pub(crate) fn mirrored(&self, mirror: &Mirror) -> Option<&'v Arc<Cluster>> {
        mirror.share.includes(self.random).then(|| self.target(&mirror.target))?.map(|(_, cluster)| cluster)
    }
}
