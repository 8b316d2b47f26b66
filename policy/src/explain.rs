//! Why a request goes where it goes: the steps of its routing, in words. The functions are those that requests use;
//! they tell a [`Recorder`] what they look at, which for requests is nobody. [`gateway`] does the same for requests from
//! outside of the mesh, [`access`] for who may call.

pub mod access;
pub mod gateway;

use std::{fmt, sync::Arc};

use http::{HeaderMap, Method};
use serde::Serialize;
use weft_wire::{document::DocumentKey, id::Namespace};

use crate::{
    balance::{Attempt, Cluster},
    compile,
    document::Document,
    endpoint::{EndpointAddress, Workload},
    matcher::{Fields, Values},
    normalise::normalise,
    retry::RetryPolicy,
    route::{
        Action, Client, Forward, HttpRule, Matched, Mirror, NamedMatch, Query, Recorder, RequestHead, RuleAction,
        RuleSet, Ruling, Target, TargetHost, passed,
    },
    sidecar::Sight,
    unserved::Unserved,
    view::{HTTP_PORT, Host, MeshView, Service},
};

/// What one wants to know of.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuestion<'q> {
    /// A workload, or a service whose first workload calls; with `.NAMESPACE` if it is of another one.
    pub from: &'q str,
    /// Host, and port if it has several.
    pub to: &'q str,
    /// Where short names are at home.
    pub namespace: &'q Namespace,
    pub method: &'q Method,
    pub path_and_query: &'q str,
    pub scheme: &'q str,
    pub headers: &'q HeaderMap,
    /// Milliseconds on the clock of endpoints' load counters.
    pub now_ms: u64,
}

/// One thing that was looked at or decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it is about: `caller`, `host`, `rule`, `fault`, `timeout`, …
    pub about: &'static str,
    /// Which document says so, as `KIND NAMESPACE/NAME`; empty where no document does.
    pub document: String,
    /// Which of its fields.
    pub field: String,
    /// Where the field, or what there is of the way to it, stands in the document as `weft get` prints it: counted from
    /// 1; `None` where nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The document that `document` names.
    #[serde(skip)]
    pub key: Option<DocumentKey>,
    pub says: String,
}

/// A share of the requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Such as `outbound|9080|v1|reviews.default.svc.cluster.local`; what the document names, if that does not exist.
    pub cluster: String,
    pub percent: f64,
    pub exists: bool,
    /// Each request says itself where it goes, so there are no endpoints beforehand.
    pub by_request: bool,
    /// Those that would be picked, the first first.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub workload: String,
    pub node: String,
    pub address: String,
    /// `healthy`, `unhealthy` or `draining`, as its own node says.
    pub health: &'static str,
    /// `preferred`, `demoted` or `excluded`, as this node sees it.
    pub standing: &'static str,
    /// A connect failed lately.
    pub failing: bool,
    pub active_requests: u32,
    /// Whether it is called: a draining one never is.
    pub picked: bool,
}

/// What becomes of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Outcome {
    /// To one of the shares.
    Forward,
    /// The proxy answers itself, for this reason.
    Answer { status: u16, reason: String },
    /// The connection is closed, or refused, for this reason.
    Closed { reason: String },
}

/// How a request is routed, step by step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteExplanation {
    pub steps: Vec<Step>,
    #[serde(flatten)]
    pub outcome: Outcome,
    pub shares: Vec<Share>,
}

/// Routes a request that nobody sends.
///
/// # Errors
/// No workload has the name of the caller.
pub fn explain_route(view: &MeshView, question: &RouteQuestion<'_>) -> Result<RouteExplanation, String> {
    let mut steps = Steps::default();
    let caller = caller(view, question, &mut steps)?;
    let client = Client { namespace: &caller.namespace, workload: Some(&caller) };
    let (host, port) = host_and_port(question.to)?;
    let scope = view.scope(client);
    if let Some(scope) = scope {
        let says = "says what the caller sees of the mesh".to_owned();
        steps.add_of("sidecar", &scope.document, String::new(), says);
    }
    let found = match view.host(host, port, client) {
        Some(found) => found,
        None => {
            match scope.filter(|_| view.find(host, Sight::of_all(client.namespace)).is_some()) {
                Some(scope) => {
                    let says = format!("shows the caller no {host}");
                    steps.add_of("host", &scope.document, "spec.egress".into(), says);
                }
                None => steps.add("host", format!("{host} is no service of the mesh, and no document names it")),
            }
            match view.unserved(client) {
                Unserved::Passed(passthrough) => Host::Passthrough(passthrough),
                unserved => return Ok(steps.refused(unserved)),
            }
        }
    };
    let port = match found {
        Host::Virtual(_) | Host::Passthrough(_) => port.unwrap_or(HTTP_PORT),
        Host::Service(service) => match service.port(port) {
            Some(known) => known.port,
            None => {
                let known: Vec<String> = service.ports.iter().map(|known| known.port.to_string()).collect();
                steps.add("host", format!("service {} has not this port; it has {}", service.id, known.join(", ")));
                return Ok(steps.answered(502, "unknown_port".into()));
            }
        },
    };
    let sight = Sight { namespace: client.namespace, scope, port: Some(port) };
    let by_address = view.externals.by_address(host, sight);
    if let (Host::Service(service), Some((addressed, entry))) = (found, by_address)
        && Arc::ptr_eq(service, addressed)
    {
        steps.add_of("host", entry, "spec.addresses".into(), format!("{host} is one of {}", service.fqdn));
    }
    steps.add(
        "host",
        match found {
            Host::Service(service) => format!("{host} is service {}, port {port} ({})", service.id, service.fqdn),
            Host::Virtual(_) => format!("{host} is no service; VirtualServices name it"),
            Host::Passthrough(to) if to.cluster.original_destination().is_none() => {
                format!("outboundTrafficPolicy lets it pass, to {}", to.service.id)
            }
            Host::Passthrough(_) => "outboundTrafficPolicy lets it pass, to the address that it asks for".to_owned(),
        },
    );
    let Some(path_and_query) = steps.path(view, question.path_and_query) else {
        return Ok(steps.answered(400, "bad_request".into()));
    };
    let head = RequestHead {
        method: question.method,
        path_and_query: &path_and_query,
        authority: question.to,
        scheme: question.scheme,
        headers: question.headers,
    };
    let query = view.query(port, client, 0);
    let mut notes = Notes { steps, query, head: &head, matched: None };
    let rules = found.rules(client.namespace);
    if let Host::Service(service) = found {
        notes.invisible(service, rules);
    }
    let ruling = query.by_rules(rules, &head, &mut notes);
    let Notes { mut steps, matched: rule, .. } = notes;
    let matched = match (ruling, found) {
        (Ruling::Matched(matched), _) => Some(matched),
        (Ruling::None, Host::Service(service)) => {
            steps.add("rule", "no VirtualService has a rule for this caller: the service itself is called".into());
            query.by_default(service)
        }
        (Ruling::None, Host::Passthrough(passthrough)) => Some(passed(passthrough)),
        (Ruling::NoMatch, _) | (Ruling::None, Host::Virtual(_)) => None,
    };
    Ok(conclude(&query, matched, rule, steps, question.now_ms))
}

/// What becomes of a request of which the rule is known.
fn conclude<'v>(
    query: &Query<'v, '_>,
    matched: Option<Matched<'v>>,
    rule: Option<&'v HttpRule>,
    mut steps: Steps,
    now_ms: u64,
) -> RouteExplanation {
    let Some(matched) = matched else {
        steps.add("rule", "none of the rules matches".into());
        return steps.answered(404, "no_route".into());
    };
    steps.of_rule(query.view, &matched, rule);
    steps.of_authorizers(query, &matched, rule);
    if matched.authorizers.as_ref().is_some_and(|authorizers| query.lacks(authorizers)) {
        return steps.answered(500, "invalid_backend".into());
    }
    let forwarding = rule.and_then(|rule| match &rule.action {
        RuleAction::Forward(forward) => Some(forward.destinations.shares()),
        _ => None,
    });
    let is_only = forwarding.as_ref().is_none_or(|shares| shares.len() < 2);
    let shares = match &matched.action {
        Action::Redirect { status, location } => {
            return steps.answered(status.as_u16(), format!("redirect to {location}"));
        }
        Action::Respond(response) => return steps.answered(response.status.as_u16(), "direct response".into()),
        Action::InvalidBackend if is_only => {
            steps.add("destination", "the rule sends it to no backend that exists and may be named".into());
            return steps.answered(500, "invalid_backend".into());
        }
        Action::UnknownCluster if is_only => {
            let named = forwarding.iter().flatten().map(|(_, destination)| named(&destination.target));
            steps.add("destination", format!("{} does not exist", named.collect::<Vec<_>>().join(", ")));
            return steps.answered(503, "unknown_cluster".into());
        }
        action => {
            if let Action::Forward(forward) = action {
                steps.of_forward(query, forward);
            }
            match (forwarding, action) {
                (Some(shares), _) => {
                    let targets = shares.into_iter().map(|(percent, destination)| (percent, &destination.target));
                    steps.shares(query, targets, now_ms)
                }
                (None, Action::Forward(forward)) => {
                    steps.of_cluster(forward.service, forward.cluster, query.client);
                    vec![share(forward.cluster, 100.0, now_ms)]
                }
                (None, _) => Vec::new(),
            }
        }
    };
    RouteExplanation { steps: steps.0, outcome: Outcome::Forward, shares }
}

/// The parts of `HOST` or `HOST:PORT`; an IPv6 address as a host stands in brackets.
fn host_and_port(to: &str) -> Result<(&str, Option<u16>), String> {
    match to.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => {
            let port = port.parse().map_err(|_| format!("{port:?} is no port: write HOST:PORT"))?;
            Ok((host, Some(port)))
        }
        None => Ok((to, None)),
    }
}

/// The workload that is meant as the caller.
fn caller(view: &MeshView, question: &RouteQuestion<'_>, steps: &mut Steps) -> Result<Arc<Workload>, String> {
    let named = workloads_named(view, question.from, question.namespace);
    let workload = named.first().ok_or_else(|| nobody(question.from, question.namespace))?;
    steps.add("caller", described(workload));
    Ok((*workload).clone())
}

fn described(workload: &Workload) -> String {
    let labels: Vec<String> = workload.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let Workload { name, namespace, account, .. } = workload;
    format!("{name} of namespace {namespace}, as {account}, labels {}", labels.join(","))
}

fn nobody(name: &str, namespace: &Namespace) -> String {
    let (name, namespace) = name.split_once('.').unwrap_or((name, namespace.as_str()));
    format!("no workload or service {name} in namespace {namespace}: `weft services` and `weft endpoints` list them")
}

/// The workloads of a name, or those of the service of that name, by their names; of another namespace as
/// `NAME.NAMESPACE`.
fn workloads_named<'v>(view: &'v MeshView, name: &str, namespace: &Namespace) -> Vec<&'v Arc<Workload>> {
    let (name, namespace) = name.split_once('.').unwrap_or((name, namespace.as_str()));
    if let Some(known) = view.callers.by_name.get(format!("{namespace}/{name}").as_str()) {
        return known.iter().collect();
    }
    let Some(service) = view.service_named(&format!("{name}.{namespace}")) else { return Vec::new() };
    let clusters = service.ports.iter().filter_map(|port| service.cluster(port.port));
    let endpoints = clusters.flat_map(|cluster| &cluster.endpoints);
    let mut workloads: Vec<_> = endpoints.filter_map(|endpoint| endpoint.workload.as_ref()).collect();
    workloads.sort_by(|a, b| a.name.cmp(&b.name));
    workloads
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, about: &'static str, says: String) {
        self.push(about, None, String::new(), says);
    }

    fn add_of(&mut self, about: &'static str, document: &Document, field: String, says: String) {
        self.add_key(about, &document.key, field, says);
    }

    fn add_key(&mut self, about: &'static str, document: &DocumentKey, field: String, says: String) {
        self.push(about, Some(document), field, says);
    }

    fn push(&mut self, about: &'static str, document: Option<&DocumentKey>, field: String, says: String) {
        let (key, document) = (document.cloned(), document.map(title).unwrap_or_default());
        self.0.push(Step { about, document, field, line: None, key, says });
    }

    /// Ends with an answer of the proxy.
    fn answered(self, status: u16, reason: String) -> RouteExplanation {
        RouteExplanation { steps: self.0, outcome: Outcome::Answer { status, reason }, shares: Vec::new() }
    }

    /// Ends for a host that nobody serves.
    fn refused(mut self, unserved: Unserved<'_>) -> RouteExplanation {
        if let Unserved::BlackHoled(_) = unserved {
            self.add("host", "outboundTrafficPolicy refuses it: REGISTRY_ONLY".into());
        }
        self.answered(502, "unknown_host".into())
    }

    /// The path as rules read it; `None` if it is refused.
    fn path(&mut self, view: &MeshView, path_and_query: &str) -> Option<String> {
        let Ok(read) = normalise(path_and_query, view.settings.path_normalization) else {
            self.add("path", "has an escaped NUL".into());
            return None;
        };
        if read != path_and_query {
            self.add("path", format!("is read as {read}"));
        }
        Some(read.into_owned())
    }

    /// Where shares of the requests, or of the connections, go.
    fn shares<'t>(
        &mut self,
        query: &Query<'_, '_>,
        targets: impl Iterator<Item = (f64, &'t Target)>,
        now_ms: u64,
    ) -> Vec<Share> {
        let share = |(percent, target): (f64, &Target)| match query.target(target) {
            Some((service, cluster)) => {
                self.of_cluster(service, cluster, query.client);
                share(cluster, percent, now_ms)
            }
            None => Share { cluster: named(target), percent, exists: false, by_request: false, endpoints: Vec::new() },
        };
        targets.map(share).collect()
    }

    /// What the matched rule says beside where the request goes.
    fn of_rule(&mut self, view: &MeshView, matched: &Matched<'_>, rule: Option<&HttpRule>) {
        let Some(rule) = rule else {
            self.add("timeout", "none".into());
            return self.add("retries", by_default(&view.settings.default_retry));
        };
        // As Istio names it, and as the Gateway API does.
        let field = |name: &str, other: &str| format!("{}.{}", place(rule), if is_istio(rule) { name } else { other });
        if matched.cors.is_some() {
            self.add_of(
                "cors",
                &rule.document,
                field("corsPolicy", "filters"),
                "preflights are answered by the proxy".into(),
            );
        }
        if let Some(limits) = matched.origin.and_then(|origin| view.limits_of_rule(origin)) {
            for key in limits.policies() {
                self.add("limit", format!("{key} counts it at the caller"));
            }
        }
        if let Some(fault) = matched.fault {
            self.add_of("fault", &rule.document, field("fault", "filters"), fault.to_string());
        }
        if matched.headers.iter().any(Option::is_some) {
            let says = "headers of the request or the response are changed".into();
            self.add_of("headers", &rule.document, field("headers", "filters"), says);
        }
        let RuleAction::Forward(forward) = &rule.action else { return };
        match forward.timeout {
            Some(timeout) => {
                let says = format!("{timeout:?} for the whole exchange");
                self.add_of("timeout", &rule.document, field("timeout", "timeouts"), says);
            }
            None => self.add("timeout", "none".into()),
        }
        match &forward.retry {
            Some(retry) => self.add_of("retries", &rule.document, field("retries", "retry"), retry.to_string()),
            None => self.add("retries", by_default(&view.settings.default_retry)),
        }
        if let Some(session) = &forward.session {
            let says = format!("clients stay with the endpoint that answered them first, by the {session}");
            self.add_of("session", &rule.document, field("sessionPersistence", "sessionPersistence"), says);
        }
    }

    fn of_authorizers(&mut self, query: &Query<'_, '_>, matched: &Matched<'_>, rule: Option<&HttpRule>) {
        let (Some(rule), Some(authorizers)) = (rule, &matched.authorizers) else { return };
        for (providers, name) in authorizers.iter().zip(["filters", "backendRefs"]) {
            for provider in *providers {
                let exists = provider.cluster(query.view, query.client).is_some();
                let becomes = if exists { "is asked first" } else { "does not exist, or may not be named" };
                let says = format!("{}:{} {becomes}", provider.host, provider.port);
                self.add_of("authorizer", &rule.document, format!("{}.{name}", place(rule)), says);
            }
        }
    }

    fn of_forward(&mut self, query: &Query<'_, '_>, forward: &Forward<'_>) {
        if let Some(rewrite) = &forward.rewrite {
            let path = rewrite.path_and_query.iter().map(|path| format!("path {path}"));
            let host = rewrite.authority.iter().map(|host| format!("host {host}"));
            self.add("rewrite", path.chain(host).collect::<Vec<_>>().join(", "));
        }
        for Mirror { target, share, .. } in forward.mirrors {
            let exists = if query.target(target).is_some() { "" } else { ", which does not exist" };
            self.add("mirror", format!("{}% to {}{exists}", share.percent(), named(target)));
        }
    }

    /// Which DestinationRules make the cluster, and how it is called.
    fn of_cluster(&mut self, service: &Service, cluster: &Cluster, client: Client<'_>) {
        if cluster.original_destination().is_some() {
            let says = "each request says itself where it goes: the address of its host is looked up when it comes";
            self.add("destination", says.into());
        }
        if let Some(hedging) = cluster.hedging() {
            let says = format!("sent to a second endpoint if no response has come after {:?}", hedging.delay);
            self.add("hedging", says);
        }
        for document in compile::destination_rules(service, client) {
            let says = match cluster.subset.as_str() {
                "" => format!("its policy holds for {}", service.id),
                subset => format!("its policy and its subsets hold for {}, {subset} too", service.id),
            };
            self.add_of("destination", &document, String::new(), says);
        }
    }
}

fn by_default(retry: &RetryPolicy) -> String {
    format!("the mesh's default: {retry}")
}

fn share(cluster: &Cluster, percent: f64, now_ms: u64) -> Share {
    let mut order: Vec<Arc<crate::endpoint::Endpoint>> = Vec::new();
    // As a request would that fails everywhere.
    while let Some(next) = cluster.pick(&Attempt { tried: &order, now_ms, ..Attempt::default() }) {
        if order.iter().any(|known| Arc::ptr_eq(known, next)) {
            break;
        }
        order.push(next.clone());
    }
    let rest = cluster.endpoints.iter().filter(|endpoint| !order.iter().any(|known| Arc::ptr_eq(known, endpoint)));
    let picked = order.iter().map(|endpoint| (endpoint, true)).chain(rest.map(|endpoint| (endpoint, false)));
    let endpoints = picked.map(|(endpoint, picked)| Endpoint {
        workload: endpoint.key.workload.to_string(),
        node: endpoint.key.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        address: match &endpoint.address {
            EndpointAddress::Local(address) | EndpointAddress::Outside(address) => format!("{address}, directly"),
            EndpointAddress::Remote { address, .. } => format!("{address}, mutual TLS"),
        },
        health: endpoint.health.as_str(),
        standing: endpoint.standing.as_str(),
        failing: endpoint.load.is_failing(now_ms),
        active_requests: endpoint.load.active(),
        picked,
    });
    Share {
        cluster: cluster.name.to_string(),
        percent,
        exists: true,
        by_request: cluster.original_destination().is_some(),
        endpoints: endpoints.collect(),
    }
}

/// What a document names as a destination.
fn named(target: &Target) -> String {
    let service = target.host.as_ref().map_or("what may not be named", TargetHost::name);
    let port = target.port.map(|port| format!(":{port}")).unwrap_or_default();
    let subset = if target.subset.is_empty() { String::new() } else { format!(" subset {}", target.subset) };
    format!("{service}{port}{subset}")
}

/// A document as people name it: `KIND NAMESPACE/NAME`.
pub fn title(key: &DocumentKey) -> String {
    match &key.namespace {
        Some(namespace) => format!("{} {namespace}/{}", key.kind, key.name),
        None => format!("{} {}", key.kind, key.name),
    }
}

/// The field of a rule.
fn place(rule: &HttpRule) -> String {
    let list = if rule.document.key.kind == "VirtualService" { "http" } else { "rules" };
    format!("spec.{list}[{}]", rule.place)
}

/// The field of one of a rule's conditions.
fn place_of(rule: &HttpRule, one: &NamedMatch) -> String {
    match one.condition {
        Some(condition) => format!("{}.{}[{condition}]", place(rule), if is_istio(rule) { "match" } else { "matches" }),
        None => place(rule),
    }
}

fn is_istio(rule: &HttpRule) -> bool {
    rule.document.key.kind == "VirtualService"
}

/// Takes down what routing looks at.
struct Notes<'v, 'r> {
    steps: Steps,
    query: Query<'v, 'r>,
    head: &'r RequestHead<'r>,
    matched: Option<&'v HttpRule>,
}

impl Notes<'_, '_> {
    /// The VirtualServices that name the host and that this caller does not see.
    fn invisible(&mut self, service: &Service, seen: &[Arc<RuleSet>]) {
        let hidden = seen.iter().filter(|rules| !self.query.sight().includes_rules(rules));
        for rule in hidden.filter_map(|rules| rules.http.first()) {
            let says = "passed over: the caller's Sidecar does not show it".into();
            self.steps.add_of("rule", &rule.document, String::new(), says);
        }
        let all = service.ingredients.rules();
        for rules in all.iter().filter(|rules| !seen.iter().any(|known| Arc::ptr_eq(known, rules))) {
            if let Some(rule) = rules.http.first() {
                let says = "passed over: it is not exported to the caller's namespace".into();
                self.steps.add_of("rule", &rule.document, "spec.exportTo".into(), says);
            }
        }
    }
}

impl<'v> Recorder<'v> for Notes<'v, '_> {
    fn passed_over(&mut self, rule: &'v HttpRule, one: &'v NamedMatch, fields: &'v Fields) {
        let why = match one.request.client.mismatch(&self.query.client, self.query.port) {
            Some(why) => why,
            None => {
                one.request.mismatch(self.head.path(), &mut Values::new(self.head, fields, None)).unwrap_or_default()
            }
        };
        self.steps.add_of("rule", &rule.document, place_of(rule, one), format!("passed over: {why}"));
    }

    fn matched(&mut self, rule: &'v HttpRule, one: &'v NamedMatch) {
        self.matched = Some(rule);
        let name = if one.route_name.is_empty() { String::new() } else { format!(" (route {})", one.route_name) };
        self.steps.add_of("rule", &rule.document, place_of(rule, one), format!("matches{name}"));
    }

    fn not_ruled(&mut self, rules: &'v RuleSet) {
        if let Some(rule) = rules.http.first() {
            let says = "passed over: it has no rule for such a caller".into();
            self.steps.add_of("rule", &rule.document, String::new(), says);
        }
    }
}

/// Says which lines are meant, if any are named.
fn write_whose_lines<'s>(f: &mut fmt::Formatter<'_>, mut steps: impl Iterator<Item = &'s Step>) -> fmt::Result {
    match steps.any(|step| step.line.is_some()) {
        true => writeln!(f, "{:<12}as `weft get KIND NAME -n NAMESPACE -o yaml` prints them", "lines"),
        false => Ok(()),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { about, document, field, line, says, key: _ } = self;
        write!(f, "{about:<12}{says}")?;
        let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
        match (document.as_str(), field.as_str()) {
            ("", _) => Ok(()),
            (document, "") => write!(f, "  [{document}{line}]"),
            (document, field) => write!(f, "  [{document} {field}{line}]"),
        }
    }
}

impl fmt::Display for RouteExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        match &self.outcome {
            Outcome::Answer { status, reason } => writeln!(f, "{:<12}{status} {reason}, by the proxy", "answer")?,
            Outcome::Closed { reason } => writeln!(f, "{:<12}{reason}", "closed")?,
            Outcome::Forward => {}
        }
        for Share { cluster, percent, exists, by_request, endpoints } in &self.shares {
            let percent = (percent * 100.0).round() / 100.0;
            let note = match (exists, endpoints.iter().any(|endpoint| endpoint.picked)) {
                (false, _) => ", which does not exist: refused",
                (true, false) if *by_request => ", at the address that it asks for",
                (true, false) => ", which has no endpoint to call: 503 no_healthy_upstream",
                (true, true) => "",
            };
            writeln!(f, "{:<12}{percent}% to {cluster}{note}", "forward")?;
            for endpoint in endpoints {
                let Endpoint { workload, node, address, health, standing, active_requests, .. } = endpoint;
                let failing = if endpoint.failing { ", a connect failed lately" } else { "" };
                let never = if endpoint.picked { "" } else { ", never called" };
                let state = format!("{health}, {standing}{failing}{never}, {active_requests} active");
                writeln!(f, "{:<12}  {workload} on {node} at {address}: {state}", "")?;
            }
        }
        write_whose_lines(f, self.steps.iter())
    }
}
