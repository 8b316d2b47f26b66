//! Rules as they are compiled from documents. They name services, and know of no view.

use std::{collections::HashSet, ops::Deref, sync::Arc, time::Duration};

use ipnet::IpNet;
use weft_wire::{document::Stamp, id::Namespace};

use super::{Client, DirectResponse, RequestHead};
use crate::{
    api::values::Share,
    cors::Cors,
    document::Document,
    fault::FaultInjection,
    headers::HeaderRules,
    hosts::{self, HostPattern},
    matcher::{ClientMatch, Fields, MatchIndex, MatchedPath, Questions, RequestMatch, Values},
    namespaces::Visibility,
    provider::Provider,
    redirect::Redirect,
    retry::RetryPolicy,
    rewrite::PathRewrite,
    session::Session,
};

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
    pub(crate) http: HttpRules,
    pub(crate) tls: Vec<TlsRule>,
    pub(crate) tcp: Vec<TcpRule>,
}

/// Rules for requests, in the order in which they are tried.
#[derive(Debug, Default)]
pub(crate) struct HttpRules {
    rules: Vec<HttpRule>,
    /// What their conditions read.
    fields: Fields,
    /// What they ask of clients, each once.
    clients: Vec<ClientMatch>,
    /// `None` where they are few.
    index: Option<Box<RuleIndex>>,
}

/// Finds rules that could match.
#[derive(Debug)]
struct RuleIndex {
    matches: MatchIndex,
    questions: Option<Questions>,
    /// For each match its rule's place, and its own there.
    places: Box<[(u32, u32)]>,
}

/// With fewer matches it is sooner to ask each than to ask the index.
const LEAST_INDEXED: usize = 16;

/// What the rules say of a request.
pub(crate) enum Found<'r> {
    /// The first match that holds, and what it matched of the path.
    Rule(&'r HttpRule, &'r NamedMatch, MatchedPath),
    /// There are rules for such a client, and none matches.
    NoMatch,
    /// There are no rules for such a client.
    NoRules,
}

impl HttpRules {
    pub(crate) fn new(rules: Vec<HttpRule>, fields: Fields) -> Self {
        let count = rules.iter().map(|rule| rule.matches.len()).sum::<usize>();
        Self::with_index(rules, fields, count >= LEAST_INDEXED)
    }

    fn with_index(mut rules: Vec<HttpRule>, fields: Fields, is_indexed: bool) -> Self {
        let questions = is_indexed.then(|| {
            let all = rules.iter_mut().flat_map(|rule| &mut rule.matches).map(|one| &mut one.request);
            Questions::number(all)
        });
        let requests = || rules.iter().flat_map(|rule| &rule.matches).map(|one| &one.request);
        let mut clients: Vec<ClientMatch> = Vec::new();
        let mut known = HashSet::new();
        clients.extend(requests().map(|request| &request.client).filter(|client| known.insert(*client)).cloned());
        let index = is_indexed.then(|| {
            let places =
                (0..).zip(&rules).flat_map(|(rule, of)| (0..).zip(&of.matches).map(move |(one, _)| (rule, one)));
            let matches = MatchIndex::new(requests(), &fields);
            Box::new(RuleIndex { matches, questions: questions.flatten(), places: places.collect() })
        });
        Self { clients, index, rules, fields }
    }

    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The rule for a request, to the port that the client dialled.
    pub(crate) fn find(&self, client: &Client<'_>, port: u16, head: &RequestHead<'_>) -> Found<'_> {
        let path = head.path();
        let mut values =
            Values::new(head, &self.fields, self.index.as_ref().and_then(|index| index.questions.as_ref()));
        let mut holds = |one: &NamedMatch| {
            one.request.client.matches(client, port).then(|| one.request.matches(path, &mut values)).flatten()
        };
        let found = match &self.index {
            None => self.all().find_map(|(rule, one)| Some((rule, one, holds(one)?))),
            Some(index) => {
                let first = index.matches.first(client, head, |place| {
                    let (rule, one) = self.at(*index.places.get(place)?)?;
                    Some((rule, one, holds(one)?))
                });
                first.map(|(_, found)| found)
            }
        };
        match found {
            Some((rule, one, path)) => Found::Rule(rule, one, path),
            None if self.clients.iter().any(|one| one.matches(client, port)) => Found::NoMatch,
            None => Found::NoRules,
        }
    }

    /// All matches, each with its rule.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&HttpRule, &NamedMatch)> {
        self.rules.iter().flat_map(|rule| rule.matches.iter().map(move |one| (rule, one)))
    }

    fn at(&self, (rule, one): (u32, u32)) -> Option<(&HttpRule, &NamedMatch)> {
        let rule = self.rules.get(rule as usize)?;
        Some((rule, rule.matches.get(one as usize)?))
    }
}

impl Deref for HttpRules {
    type Target = [HttpRule];

    fn deref(&self) -> &[HttpRule] {
        &self.rules
    }
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

/// From whom a connection is, and where to.
#[derive(Debug, Default)]
pub(crate) struct ConnectionMatch {
    pub(crate) client: ClientMatch,
    /// Any of these; none at all is anywhere.
    pub(crate) subnets: Box<[IpNet]>,
}

impl From<ClientMatch> for ConnectionMatch {
    fn from(client: ClientMatch) -> Self {
        Self { client, subnets: Box::default() }
    }
}

#[derive(Debug)]
pub(crate) struct TlsMatch {
    pub(crate) connection: ConnectionMatch,
    /// Any of these, as the client writes them in its SNI.
    pub(crate) server_names: Vec<HostPattern>,
}

impl TlsMatch {
    /// How closely one of its names means this server, the higher the closer; `None` if none does.
    pub(super) fn closeness(&self, name: &str) -> Option<usize> {
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
    pub(crate) matches: Vec<ConnectionMatch>,
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

    pub(super) fn choices(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, choice)| choice)
    }

    /// `random` is a fresh, uniform number.
    pub(super) fn choose(&self, random: u64) -> Option<&T> {
        let total = self.0.last().map_or(0, |(sum, _)| *sum);
        let point = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        let chosen = self.0.partition_point(|(sum, _)| *sum <= point);
        self.0.get(chosen).map(|(_, choice)| choice)
    }
}
