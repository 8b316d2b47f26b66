//! Cases: a VirtualService each, with requests chosen to meet its conditions and to just miss them. All of it follows
//! from the seed and the case's number.
//!
//! What Envoy and weft are known to treat differently is left out; comments name it as `docs/differences.md` does.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};

use crate::{conditions::Match, words};

/// Services and versions of them that answer, each with where its process listens.
pub(crate) const BACKENDS: &[Backend] = &[
    Backend { service: "alpha", version: "v1", listens: 9001 },
    Backend { service: "alpha", version: "v2", listens: 9002 },
    Backend { service: "alpha", version: "v3", listens: 9003 },
    Backend { service: "beta", version: "v1", listens: 9011 },
    Backend { service: "beta", version: "v2", listens: 9012 },
    Backend { service: "solo", version: "v1", listens: 9021 },
];
/// The port of every service.
pub(crate) const PORT: u16 = 80;
/// What weft does not do yet as Envoy does: fields of documents, and matters that `docs/differences.md` has by these
/// names. No case has them unless it is asked for; what comes into force leaves this list.
const NOT_YET: &[&str] = &[];

pub(crate) struct Backend {
    pub(crate) service: &'static str,
    pub(crate) version: &'static str,
    pub(crate) listens: u16,
}

pub(crate) struct Case {
    pub(crate) number: u64,
    pub(crate) virtual_service: Value,
    pub(crate) probes: Vec<Probe>,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// Of this request alone.
    pub(crate) id: String,
    pub(crate) form: Form,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// How a request says whom it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// HTTP/1.1 with a Host header.
    Origin,
    /// HTTP/1.1 with the whole URI in its first line, as proxies are asked.
    Absolute,
    Http2,
}

/// The DestinationRules that hold for all cases.
pub(crate) fn destination_rules() -> Vec<Value> {
    let rule = |host: &str, versions: &[&str]| {
        let subset = |version: &&str| json!({ "name": version, "labels": { "version": version } });
        let mut subsets: Vec<Value> = versions.iter().map(subset).collect();
        subsets.push(json!({ "name": "everybody", "labels": { "app": host } }));
        subsets.push(json!({ "name": "nobody", "labels": { "version": "v9" } }));
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": { "name": host },
            "spec": { "host": host, "subsets": subsets },
        })
    };
    vec![rule("alpha", &["v1", "v2", "v3"]), rule("beta", &["v1", "v2"]), rule("solo", &["v1"])]
}

/// The Service that a case's VirtualService rules.
pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": { "ports": [{ "name": "http", "port": PORT }] },
    })
}

impl Case {
    /// `asked_for` are fields of [`NOT_YET`] that it may have all the same.
    pub(crate) fn new(seed: u64, number: u64, asked_for: &[String]) -> Self {
        // Far apart, so that neighbouring seeds have no case in common.
        let random = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let name = Self::name_of(number);
        let mut source = Source { random, service: name.clone(), asked_for };
        let mut rules = Vec::new();
        let mut probes = Vec::new();
        for _ in 0..source.pick(&[1, 2, 3, 4]) {
            let mut rule = Rule::new(&mut source);
            rules.push(rule.document);
            probes.append(&mut rule.probes);
        }
        probes.push(Probe::any(&mut source));
        for (index, probe) in probes.iter_mut().enumerate() {
            probe.id = format!("{number}.{index}");
        }
        let host = source.spelled(&name);
        let virtual_service = json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": { "name": name },
            "spec": { "hosts": [host], "http": rules },
        });
        Self { number, virtual_service, probes }
    }

    pub(crate) fn name(&self) -> String {
        Self::name_of(self.number)
    }

    fn name_of(number: u64) -> String {
        format!("case-{number}")
    }
}

/// What a case's choices are drawn from.
pub(crate) struct Source<'a> {
    random: StdRng,
    /// The service that the case is about.
    pub(crate) service: String,
    asked_for: &'a [String],
}

impl Source<'_> {
    pub(crate) fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all.choose(&mut self.random).expect("never empty").clone()
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    /// Whether a case gets something that has a name, with this probability if it may have it at all.
    pub(crate) fn gives(&mut self, name: &str, probability: f64) -> bool {
        let may = !NOT_YET.contains(&name) || self.asked_for.iter().any(|asked| asked == name || asked == "all");
        may && self.chance(probability)
    }

    /// A service's name, short or in full.
    fn spelled(&mut self, service: &str) -> String {
        if self.chance(0.8) { service.to_owned() } else { format!("{service}.default.svc.cluster.local") }
    }

    /// The names that the service has for callers of its own namespace. Left out: "a port that the service has not",
    /// "a last dot".
    pub(crate) fn hosts(&self) -> Vec<String> {
        let service = &self.service;
        let mut hosts: Vec<String> = ["", ".default", ".default.svc", ".default.svc.cluster.local"]
            .iter()
            .flat_map(|end| [format!("{service}{end}"), format!("{service}{end}:{PORT}")])
            .collect();
        hosts.extend([service.to_uppercase(), format!("{service}.default.svc.cluster.local.")]);
        hosts
    }
}

impl Probe {
    /// A request for the service that asks for nothing in particular.
    pub(crate) fn any(source: &mut Source<'_>) -> Self {
        let form = source.pick(&[Form::Origin, Form::Origin, Form::Absolute, Form::Http2]);
        let mut headers = Vec::new();
        if source.chance(0.6) {
            let (name, value) = source.pick(words::OTHER_HEADERS);
            headers.push((name.to_owned(), value.to_owned()));
        }
        // A header for one connection only, which HTTP/2 has not.
        if form != Form::Http2 && source.chance(0.1) {
            headers.extend([("connection", "x-hop"), ("x-hop", "1")].map(|(name, value)| (name.into(), value.into())));
        }
        let hosts = source.hosts();
        let paths = if source.chance(0.2) { words::UNCLEAN_PATHS } else { words::PATHS };
        Self {
            id: String::new(),
            form,
            method: source.pick(words::METHODS).to_owned(),
            host: source.pick(&hosts),
            target: format!("{}{}", source.pick(paths), source.pick(words::QUERIES)),
            headers,
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn query(&self) -> Option<&str> {
        Some(self.target.split_once('?')?.1)
    }

    /// Replaces the path and keeps the query.
    pub(crate) fn set_path(&mut self, path: &str) {
        self.target = self.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    }

    /// Adds a parameter before those that there are.
    pub(crate) fn add_parameter(&mut self, parameter: &str) {
        let rest = self.query().map_or_else(String::new, |query| format!("&{query}"));
        self.target = format!("{}?{parameter}{rest}", self.path());
    }

    /// Sends a header that has commas in several lines.
    pub(crate) fn split_header(&mut self, name: &str) {
        let Some(at) = self.headers.iter().position(|(other, _)| other.eq_ignore_ascii_case(name)) else { return };
        let (name, value) = self.headers.remove(at);
        self.headers.extend(value.split(',').map(|line| (name.clone(), line.to_owned())));
    }

    /// Replaces a header, or leaves it out. What every request has stays, and its scheme is that of the listener.
    pub(crate) fn set_header(&mut self, name: &str, value: Option<&str>) {
        match (name, value) {
            (":method", Some(value)) => self.method = value.to_owned(),
            (":authority" | "Host", Some(value)) => self.host = value.to_owned(),
            (":method" | ":authority" | "Host" | ":scheme", _) => {}
            (name, value) => {
                // Left out: "an empty cookie in HTTP/2".
                let value = value.filter(|value| !(value.is_empty() && name == "cookie" && self.form == Form::Http2));
                self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
                self.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
            }
        }
    }
}

/// One `http` entry, and requests for it.
struct Rule {
    document: Map<String, Value>,
    probes: Vec<Probe>,
}

impl Rule {
    fn new(source: &mut Source<'_>) -> Self {
        let matches: Vec<Match> = (0..source.pick(&[0, 1, 1, 1, 1, 2, 3])).map(|_| Match::new(source)).collect();
        let mut probes: Vec<Probe> = matches.iter().flat_map(|one| one.probes(source)).collect();
        if probes.is_empty() {
            probes.push(Probe::any(source));
        }
        let mut rule = Self { document: Map::new(), probes };
        if !matches.is_empty() {
            rule.set("match", matches.iter().map(Match::document).collect::<Vec<_>>());
        }
        if source.gives("redirect", 0.1) {
            rule.set("redirect", source.pick(&words::redirects()));
        } else if source.gives("directResponse", 0.1) {
            rule.set("directResponse", source.pick(&words::direct_responses()));
        } else {
            rule.forward(source);
        }
        if source.gives("headers", 0.2) {
            rule.set("headers", headers(source, words::RULE_HEADERS));
        }
        let forwards = rule.document.contains_key("route");
        if source.gives("corsPolicy", 0.15) && (forwards || source.gives("CORS of redirects", 1.0)) {
            rule.add_cors(source);
        }
        rule
    }

    fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.document.insert(field.to_owned(), value.into());
    }

    /// Also sends the rule's first request with these headers.
    fn probe_with(&mut self, headers: &[(&str, &str)]) -> &mut Probe {
        let mut probe = self.probes[0].clone();
        headers.iter().for_each(|(name, value)| probe.set_header(name, Some(value)));
        self.probes.push(probe);
        self.probes.last_mut().expect("just pushed")
    }

    /// What redirects and direct responses cannot have.
    fn forward(&mut self, source: &mut Source<'_>) {
        self.set("route", destinations(source));
        if source.chance(0.4) {
            self.set("rewrite", rewrite(source));
        }
        // Few run into their timeout, because each that does takes its time.
        if source.chance(0.01) {
            self.set("timeout", "3s");
            self.probe_with(&[("x-delay-ms", "9000")]);
        } else if source.chance(0.01) {
            let on = source.pick(&["5xx", "gateway-error", "reset", "connect-failure"]);
            self.set("retries", json!({ "attempts": 1, "retryOn": on, "perTryTimeout": "3s" }));
            self.probe_with(&[("x-delay-ms", "9000")]);
        } else if source.chance(0.1) {
            self.set("timeout", "30s");
        }
        if source.gives("fault", 0.1) {
            self.set("fault", source.pick(&words::faults()));
        }
        if source.gives("retries", 0.15) && !self.document.contains_key("retries") {
            self.set("retries", source.pick(&words::retries()));
        }
        if source.chance(0.1) {
            self.probe_with(&[("x-status", source.pick(words::STATUSES))]);
        }
    }

    fn add_cors(&mut self, source: &mut Source<'_>) {
        let mut policy = source.pick(&words::cors_policies());
        if source.gives("any CORS method", 0.1) {
            policy["allowMethods"] = json!(["*"]);
        }
        self.set("corsPolicy", policy);
        for origin in [source.pick(words::ORIGINS), source.pick(words::ORIGINS)] {
            self.probe_with(&[("origin", origin)]);
            let preflight = [("origin", origin), ("access-control-request-method", "DELETE")];
            self.probe_with(&preflight).method = "OPTIONS".into();
        }
    }
}

/// One or several destinations, of which one gets everything: both proxies choose alike.
fn destinations(source: &mut Source<'_>) -> Vec<Value> {
    let mut all = vec![share(source)];
    match source.pick(&[0, 1, 2, 2]) {
        0 => all[0]["weight"] = source.pick(&[0, 1, 100]).into(),
        1 => {
            all[0]["weight"] = source.pick(&[1, 100]).into();
            for _ in 0..source.pick(&[1, 2]) {
                let mut other = share(source);
                if source.chance(0.5) {
                    other["weight"] = 0.into();
                }
                let place = source.pick(&[0, all.len()]);
                all.insert(place, other);
            }
        }
        _ => {}
    }
    all
}

fn share(source: &mut Source<'_>) -> Value {
    let mut share = json!({ "destination": destination(source) });
    if source.gives("headers", 0.1) {
        let shared = source.gives("one header of rule and destination", 0.5);
        share["headers"] = headers(source, if shared { words::RULE_HEADERS } else { words::SHARE_HEADERS });
    }
    share
}

fn destination(source: &mut Source<'_>) -> Value {
    let (host, subsets) = source.pick(words::DESTINATIONS);
    let mut subset = source.pick(subsets);
    let mut name = source.spelled(host);
    let mut port = source.chance(0.3).then_some(PORT);
    if source.chance(0.1) {
        match source.pick(&[0, 1, 2, 3]) {
            0 => subset = "nobody",
            1 => subset = "unknown",
            2 => name = "unknown".into(),
            _ => port = Some(PORT + 1),
        }
    }
    let mut destination = json!({ "host": name });
    if !subset.is_empty() {
        destination["subset"] = subset.into();
    }
    if let Some(port) = port {
        destination["port"] = json!({ "number": port });
    }
    destination
}

fn rewrite(source: &mut Source<'_>) -> Value {
    let mut rewrite = Map::new();
    match source.pick(&["uri", "uriRegexRewrite", "neither"]) {
        "uri" => {
            rewrite.insert("uri".into(), source.pick(words::REWRITES).into());
        }
        "uriRegexRewrite" => {
            let (pattern, substitution) = source.pick(words::REGEX_REWRITES);
            rewrite.insert("uriRegexRewrite".into(), json!({ "match": pattern, "rewrite": substitution }));
        }
        _ => {}
    }
    if rewrite.is_empty() || source.chance(0.3) {
        rewrite.insert("authority".into(), source.pick(&["other.example", "other.example:8080", "alpha"]).into());
    }
    rewrite.into()
}

/// Operations on the headers of a rule or of a destination.
fn headers(source: &mut Source<'_>, (changed, removed): (&[&str], &[&str])) -> Value {
    let mut headers = json!({});
    for side in ["request", "response"] {
        for operation in ["set", "add"] {
            if source.chance(0.5) {
                headers[side][operation][source.pick(changed)] = source.pick(words::HEADER_VALUES).into();
            }
        }
        if source.chance(0.5) {
            headers[side]["remove"] = json!([source.pick(removed)]);
        }
    }
    headers
}
