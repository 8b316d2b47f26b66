//! Routing: from a request's head, and from who sends it, to the cluster that serves it or to an answer.
//!
//! A VirtualService, or a namespace's routes for a service, is compiled once into a [`RuleSet`], which names services; a
//! request looks those up in its view. So neither knows of the other's changes.

mod connection;
mod rules;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use weft_wire::id::Namespace;

pub(crate) use self::connection::Callee;
use self::rules::Found;
pub(crate) use self::rules::{
    ConnectionMatch, DestinationFilters, ForwardRule, HttpDestination, HttpRule, HttpRules, NamedMatch, RuleAction,
    RuleSet, Target, TargetHost, TcpRule, TlsMatch, TlsRule, Unresolved, Weighted,
};
pub use self::{
    connection::{Destination, TcpRouting},
    rules::Mirror,
};
use crate::{
    balance::Cluster,
    cors::Cors,
    document::Document,
    endpoint::{Endpoint, Workload},
    fault::FaultInjection,
    headers::HeaderRules,
    matcher::{Fields, MatchedPath},
    provider::Provider,
    redirect::Redirect,
    retry::RetryPolicy,
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
        let end = memchr::memchr2(b'?', b'#', self.path_and_query.as_bytes()).unwrap_or(self.path_and_query.len());
        &self.path_and_query[..end]
    }

    /// The parameters of the query with their values, as they are written there.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let pairs = self.query().into_iter().flat_map(|query| query.split('&'));
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
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
    const LISTENS: bool = true;

    /// One of a rule's conditions does not hold.
    fn passed_over(&mut self, _: &'v HttpRule, _: &'v NamedMatch, _: &'v Fields) {}
    fn matched(&mut self, _: &'v HttpRule, _: &'v NamedMatch) {}
    /// It has no rule for such a client.
    fn not_ruled(&mut self, _: &'v RuleSet) {}
}

impl Recorder<'_> for () {
    const LISTENS: bool = false;
}

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
        let found = rules.http.find(&self.client, self.port, head);
        self.record(&rules.http, &found, recorder);
        match found {
            Found::Rule(rule, one, path) => Ruling::Matched(self.matched(rule, one, head, path)),
            Found::NoMatch => Ruling::NoMatch,
            Found::NoRules => Ruling::None,
        }
    }

    /// Tells of all matches up to the one that holds.
    fn record<R: Recorder<'v>>(&self, rules: &'v HttpRules, found: &Found<'v>, recorder: &mut R) {
        if !R::LISTENS {
            return;
        }
        for (rule, one) in rules.all() {
            match found {
                Found::Rule(_, holds, _) if std::ptr::eq(*holds, one) => return recorder.matched(rule, one),
                _ => recorder.passed_over(rule, one, rules.fields()),
            }
        }
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

    /// Where a copy of this request goes, if this one is of the mirrored share.
    pub(crate) fn mirrored(&self, mirror: &Mirror) -> Option<&'v Arc<Cluster>> {
        mirror.share.includes(self.random).then(|| self.target(&mirror.target))?.map(|(_, cluster)| cluster)
    }
}
