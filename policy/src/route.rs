//! Routing: from a request's head to the cluster that serves it.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method};

use crate::{
    balance::Cluster,
    matcher::{MatchedPath, RequestMatch},
    rewrite::PathRewrite,
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
        let (_, query) = self.path_and_query.split_once('?')?;
        Some(query.split_once('#').map_or(query, |(query, _)| query))
    }
}

/// Where a request goes.
#[derive(Debug)]
pub enum Routing<'v> {
    Forward(Forward<'v>),
    /// A VirtualService rules this host and none of its rules matches: 404. Also: the service has no such port.
    NoRoute,
    /// The rule names a service, port or subset that does not exist: 503, flag NC.
    UnknownCluster,
}

#[derive(Debug)]
pub struct Forward<'v> {
    pub cluster: &'v Arc<Cluster>,
    /// The rule's name; `default` where no VirtualService rules the host; may be empty.
    pub route_name: &'v str,
    /// Bounds the whole exchange; `None` is no limit.
    pub timeout: Option<Duration>,
    pub rewrite: Option<Rewrite<'v>>,
}

/// What to send upstream instead of what came.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewrite<'v> {
    /// `None` leaves it as it is.
    pub path_and_query: Option<String>,
    pub authority: Option<&'v str>,
}

/// Route name of a service that no VirtualService rules, as in Istio.
const DEFAULT_ROUTE_NAME: &str = "default";

/// How requests to one port of a service are routed.
#[derive(Debug)]
pub(crate) struct PortRoutes {
    /// The service's own endpoints: TCP, and HTTP that no VirtualService rules.
    pub(crate) default: Arc<Cluster>,
    /// The rules of the VirtualService that rules this host, in written order.
    pub(crate) rules: Option<Vec<Rule>>,
}

/// One `http` entry of a VirtualService, with its destinations looked up.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: Arc<str>,
    /// Any of these; none at all matches everything.
    pub(crate) matches: Arc<[RequestMatch]>,
    pub(crate) destinations: Destinations,
    pub(crate) timeout: Option<Duration>,
    pub(crate) path_rewrite: Option<Arc<PathRewrite>>,
    pub(crate) authority_rewrite: Option<Arc<str>>,
}

/// Where a rule sends its requests. `None` instead of a cluster: it names something that does not exist.
#[derive(Debug)]
pub(crate) enum Destinations {
    One(Option<Arc<Cluster>>),
    /// Each with the sum of the weights up to and with its own; zero weights are left out.
    Weighted(Vec<(u64, Option<Arc<Cluster>>)>),
}

impl Destinations {
    fn choose(&self, random: u64) -> Option<&Arc<Cluster>> {
        match self {
            Self::One(cluster) => cluster.as_ref(),
            Self::Weighted(entries) => {
                let total = entries.last().map_or(0, |(sum, _)| *sum);
                let point = ((u128::from(random) * u128::from(total)) >> 64) as u64;
                let chosen = entries.partition_point(|(sum, _)| *sum <= point);
                entries.get(chosen).and_then(|(_, cluster)| cluster.as_ref())
            }
        }
    }
}

impl PortRoutes {
    pub(crate) fn route<'v>(&'v self, head: &RequestHead<'_>, random: u64) -> Routing<'v> {
        let Some(rules) = &self.rules else {
            return Routing::Forward(Forward {
                cluster: &self.default,
                route_name: DEFAULT_ROUTE_NAME,
                timeout: None,
                rewrite: None,
            });
        };
        for rule in rules {
            if let Some(matched) = rule.matched_by(head) {
                return rule.apply(head, matched, random);
            }
        }
        Routing::NoRoute
    }
}

impl Rule {
    /// How the request matches, if it does.
    fn matched_by(&self, head: &RequestHead<'_>) -> Option<MatchedPath> {
        if self.matches.is_empty() {
            return Some(MatchedPath::ANY);
        }
        self.matches.iter().find_map(|one| one.matches(head))
    }

    fn apply<'v>(&'v self, head: &RequestHead<'_>, matched: MatchedPath, random: u64) -> Routing<'v> {
        let Some(cluster) = self.destinations.choose(random) else {
            return Routing::UnknownCluster;
        };
        let path_and_query = self.path_rewrite.as_ref().map(|rewrite| rewrite.apply(head, matched));
        let authority = self.authority_rewrite.as_deref();
        let rewrite =
            (path_and_query.is_some() || authority.is_some()).then_some(Rewrite { path_and_query, authority });
        Routing::Forward(Forward { cluster, route_name: &self.name, timeout: self.timeout, rewrite })
    }
}
