//! Why a caller may ask a workload for something, or may not: what its policies say, one by one.
//!
//! Policies are those of the target's workloads. This node knows them all, from documents and from what nodes announce;
//! so it tells what the node that hosts the workload decides, as long as that one has the same documents.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, Method, header};
use serde::Serialize;
use serde_json::{Map, Value};
use weft_wire::id::{Namespace, SpiffeId};

use super::{Step, Steps, described, nobody, workloads_named, write_whose_lines};
use crate::{
    access::Access,
    api::security::Action,
    authenticate::{Claims, KeysAt, KnownKeys, Outcome, TokenRequest},
    authorize::{AccessRequest, Allowed, Denied, HttpAccess, Peer, RuleRef, Verdict, forwarded_for},
    document::{Document, Spec},
    endpoint::{Endpoint, EndpointAddress, Workload},
    mtls::MtlsMode,
    normalise::normalise,
    provider::{Protocol, Provider},
    sidecar::Sight,
    view::{Host, MeshView, Service, sni},
};

/// What one wants to know of.
#[derive(Clone, Copy)]
pub struct AccessQuestion<'q> {
    /// A workload or a service, with `.NAMESPACE` if it is of another one; a service account as `NAMESPACE/ACCOUNT`; or
    /// a principal such as `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub from: &'q str,
    /// A service, and its port if it has several.
    pub to: &'q str,
    /// Where short names are at home.
    pub namespace: &'q Namespace,
    pub method: &'q Method,
    pub path_and_query: &'q str,
    pub headers: &'q HeaderMap,
    /// Of a token that counts as verified; those in the headers are not looked at then.
    pub claims: Option<&'q Map<String, Value>>,
    /// The caller's address; `None` is that of its node.
    pub source_ip: Option<IpAddr>,
    /// The keys of token issuers that this node has.
    pub keys: &'q dyn Fn(&KeysAt) -> KnownKeys,
    /// Seconds since 1970.
    pub now: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessOutcome {
    Allowed,
    Denied,
    /// This node cannot tell: a provider decides, or keys of a token's issuer are elsewhere.
    Unknown,
}

/// What the policies of workloads say that all decide alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkloadAccess {
    /// Each as `WORKLOAD on NODE, port PORT`.
    pub workloads: Vec<String>,
    pub steps: Vec<Step>,
    pub outcome: AccessOutcome,
}

/// Who may call, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessExplanation {
    pub steps: Vec<Step>,
    pub workloads: Vec<WorkloadAccess>,
}

impl AccessExplanation {
    /// Whether each of the workloads lets the request pass.
    pub fn is_allowed(&self) -> bool {
        self.workloads.iter().all(|workload| workload.outcome == AccessOutcome::Allowed)
    }
}

/// Judges a request that nobody sends.
///
/// # Errors
/// The caller, the service or its port does not exist, or no workload serves it; in words.
pub fn explain_access(view: &MeshView, question: &AccessQuestion<'_>) -> Result<AccessExplanation, String> {
    let mut steps = Steps::default();
    let caller = caller(view, question, &mut steps)?;
    let (service, port) = target(view, question)?;
    let Some(known) = service.port(port) else {
        let ports: Vec<String> = service.ports.iter().map(|known| known.port.to_string()).collect();
        return Err(format!("name a port of service {}: it has {}", service.id, ports.join(", ")));
    };
    let is_http = known.protocol.is_http();
    let read = if is_http { known.protocol.as_str() } else { "tcp, so no policy sees requests" };
    steps.add("service", format!("{}, port {} ({read})", service.fqdn, known.port));
    let path = normalise(question.path_and_query, view.settings.path_normalization)
        .map_err(|_| "the path has an escaped NUL: such a request is answered with 400".to_owned())?;
    if is_http {
        steps.add("path", format!("policies and the workload see {path}"));
    }
    let mut workloads: Vec<WorkloadAccess> = Vec::new();
    for endpoint in service.cluster(known.port).into_iter().flat_map(|cluster| &cluster.endpoints) {
        // What is outside of the mesh asks nobody.
        let Some(workload) = &endpoint.workload else { continue };
        let asked = Asked { view, question, caller: &caller, endpoint, workload, path: is_http.then_some(&*path) };
        let told = asked.told();
        match workloads.iter_mut().find(|known| known.steps == told.steps && known.outcome == told.outcome) {
            Some(known) => known.workloads.extend(told.workloads),
            None => workloads.push(told),
        }
    }
    if workloads.is_empty() {
        return Err(format!("no workload serves port {} of service {}, so nobody decides", known.port, service.id));
    }
    Ok(AccessExplanation { steps: steps.0, workloads })
}

/// Who calls.
struct Caller {
    /// As policies write it.
    principal: String,
    /// Where several workloads have this principal, the first.
    workload: Option<Arc<Workload>>,
}

fn caller(view: &MeshView, question: &AccessQuestion<'_>, steps: &mut Steps) -> Result<Caller, String> {
    let from = question.from;
    let caller = match from.trim_start_matches("spiffe://").matches('/').count() {
        0 => {
            let named = workloads_named(view, from, question.namespace);
            let first = named.first().ok_or_else(|| nobody(from, question.namespace))?;
            if let Some(other) = named.iter().find(|other| other.account != first.account) {
                let (one, other) = (&first.account, &other.account);
                return Err(format!("{from} is of several accounts: name one of them, such as {one} or {other}"));
            }
            steps.add("caller", described(first));
            Caller { principal: without_scheme(&first.principal), workload: Some((*first).clone()) }
        }
        1 => {
            let (namespace, account) = from.split_once('/').unwrap_or_default();
            let principal = format!("{}/ns/{namespace}/sa/{account}", view.trust_domain);
            Caller { workload: workload_of(view, &principal), principal }
        }
        _ => {
            let id: SpiffeId = format!("spiffe://{}", from.trim_start_matches("spiffe://"))
                .parse()
                .map_err(|_| format!("{from:?} is no principal, such as {}/ns/default/sa/web", view.trust_domain))?;
            let principal = without_scheme(&id.to_string());
            Caller { workload: workload_of(view, &principal), principal }
        }
    };
    let known = if caller.workload.is_none() { ", which no workload has" } else { "" };
    steps.add("principal", format!("{}{known}", caller.principal));
    Ok(caller)
}

fn without_scheme(principal: &str) -> String {
    principal.trim_start_matches("spiffe://").to_owned()
}

fn workload_of(view: &MeshView, principal: &str) -> Option<Arc<Workload>> {
    let all = view.callers.by_name.values().flatten();
    let named = all.filter(|workload| workload.principal.strip_prefix("spiffe://") == Some(principal));
    named.min_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node))).cloned()
}

fn target<'v>(view: &'v MeshView, question: &AccessQuestion<'_>) -> Result<(&'v Service, Option<u16>), String> {
    let (host, port) = match question.to.rsplit_once(':') {
        Some((host, port)) => {
            (host, Some(port.parse::<u16>().map_err(|_| format!("{port:?} is no port: write SERVICE:PORT"))?))
        }
        None => (question.to, None),
    };
    match view.find(host, Sight::of_all(question.namespace)) {
        Some(Host::Service(service)) => Ok((service, port)),
        Some(Host::Virtual(_) | Host::Passthrough(_)) => Err(format!(
            "{host} is no service, and so has no policies; `weft explain route` tells to which service it leads"
        )),
        None => Err(format!("{host} is no service of the mesh: `weft services` lists them")),
    }
}

/// The question to one workload.
struct Asked<'a> {
    view: &'a MeshView,
    question: &'a AccessQuestion<'a>,
    caller: &'a Caller,
    endpoint: &'a Endpoint,
    workload: &'a Arc<Workload>,
    /// Normalised; `None` on a port that is not HTTP.
    path: Option<&'a str>,
}

/// What comes of a request before all is looked at.
struct Ended(AccessOutcome);

impl Asked<'_> {
    fn told(&self) -> WorkloadAccess {
        let (workload, key) = (self.workload, &self.endpoint.key);
        let (documents, access) = self.view.access_of_any(workload);
        let mut steps = Steps::default();
        self.of_mtls(&documents, &access, &mut steps);
        let outcome = self.judged(&access, &mut steps).unwrap_or_else(|Ended(outcome)| outcome);
        let workloads = vec![format!("{} on {}, port {}", workload.name, workload.node, key.target_port)];
        WorkloadAccess { workloads, steps: steps.0, outcome }
    }

    /// In the order in which the gate judges: providers are asked about the request as it came, before its tokens are read.
    fn judged(&self, access: &Access, steps: &mut Steps) -> Result<AccessOutcome, Ended> {
        let mut headers = self.question.headers.clone();
        // Policies see it as the request's host.
        let host = headers.remove(header::HOST);
        let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(self.question.to);
        let mut path = self.path.unwrap_or_default().to_owned();
        let sni =
            sni(&self.workload.name, &self.workload.namespace, self.endpoint.key.target_port, &self.view.trust_domain);
        let provider = self.of_provider(access, &self.request(&sni, host, &path, &headers, None), steps)?;
        let claims = self.of_tokens(access, &mut headers, &mut path, steps)?;
        let request = self.request(&sni, host, &path, &headers, claims.as_ref());
        Ok(self.of_policies(access, &request, provider, steps))
    }

    /// As policies see it.
    fn request<'r>(
        &'r self,
        sni: &'r str,
        host: &'r str,
        path: &'r str,
        headers: &'r HeaderMap,
        claims: Option<&'r Claims>,
    ) -> AccessRequest<'r> {
        let (source, destination) = self.addresses();
        let source_ip = self.question.source_ip.unwrap_or(source);
        let method = self.question.method.as_str();
        let http = self.path.map(|_| HttpAccess { method, host, path, headers, claims });
        AccessRequest {
            peer: Some(Peer::new(&self.caller.principal)),
            source_ip,
            remote_ip: http.and_then(|http| forwarded_for(http.headers)).unwrap_or(source_ip),
            destination_ip: Some(destination),
            destination_port: self.endpoint.key.target_port,
            sni: (!self.is_within_node()).then_some(sni),
            http,
        }
    }

    /// The provider that is asked, if one is.
    fn of_provider<'a>(
        &self,
        access: &'a Access,
        request: &AccessRequest<'_>,
        steps: &mut Steps,
    ) -> Result<Option<&'a str>, Ended> {
        tell_policies(access, request, |action| action == Action::Custom, steps);
        match access.authorizer.ask(request) {
            None | Some(Verdict::Allow(_)) => Ok(None),
            Some(Verdict::Ask { provider: name, rule }) => {
                if let Some(provider) = self.view.settings.providers.get(name) {
                    let says = format!("{name} is asked: {}", question_to(provider, request));
                    steps.add_key("provider", rule.policy, rule_field(rule.rule), says);
                }
                Ok(Some(name))
            }
            Some(Verdict::Deny(why)) => {
                denied(why, steps);
                Err(Ended(AccessOutcome::Denied))
            }
        }
    }

    fn of_mtls(&self, documents: &[Arc<Document>], access: &Access, steps: &mut Steps) {
        for document in documents {
            if let Spec::PeerAuthentication(policy) = &document.spec {
                let says = policy.mtls.map_or_else(|| "nothing".into(), |mtls| format!("{:?}", mtls.mode));
                steps.add_of("mtls", document, "spec.mtls".into(), format!("says {}", says.to_uppercase()));
            }
        }
        let mode = match access.mtls.mode(self.endpoint.key.target_port) {
            MtlsMode::Strict => "STRICT",
            MtlsMode::Permissive => "PERMISSIVE",
            MtlsMode::Disable => "DISABLE",
        };
        let how = match self.is_within_node() {
            true => "the call stays within the node, which knows who calls",
            false => "the caller shows its certificate",
        };
        steps.add("mtls", format!("{mode}: {how}"));
    }

    fn is_within_node(&self) -> bool {
        self.caller.workload.as_ref().is_some_and(|caller| caller.node == self.workload.node)
    }

    /// Verifies the tokens as the gate does, which also changes headers and path. No claims where there is no token, or
    /// nobody reads it.
    fn of_tokens(
        &self,
        access: &Access,
        headers: &mut HeaderMap,
        path: &mut String,
        steps: &mut Steps,
    ) -> Result<Option<Claims>, Ended> {
        let authenticator = &access.authenticator;
        if self.path.is_none() {
            return Ok(None);
        }
        if authenticator.is_empty() {
            let says = "no RequestAuthentication is for this workload: tokens are not read, and claims have no value";
            steps.add("token", says.into());
            return Ok(None);
        }
        for name in authenticator.claimed_headers() {
            headers.remove(name);
        }
        if let Some(claims) = self.question.claims {
            return self.of_claims(access, claims, steps);
        }
        let request = TokenRequest { method: self.question.method, path, headers };
        match authenticator.authenticate(&request, self.question.keys, self.question.now) {
            Outcome::Anonymous => {
                steps.add("token", "the request has none that a rule looks at, and may have none".into());
                Ok(None)
            }
            Outcome::Authenticated(taken) => {
                let principal = taken.claims.principal().unwrap_or_else(|| "nobody".into());
                let field = format!("spec.jwtRules[{}]", taken.rule);
                steps.add_key("token", taken.policy, field, format!("is good, and of {principal}"));
                for name in taken.remove {
                    headers.remove(name);
                }
                headers.extend(taken.set);
                *path = taken.path.unwrap_or_else(|| std::mem::take(path));
                Ok(Some(taken.claims))
            }
            Outcome::NeedsKeys { at, .. } => {
                let (KeysAt::Url(place) | KeysAt::Issuer(place)) = at;
                let says = format!("this node has no keys of {place}: ask a node of the workload, or give --claim");
                steps.add("token", says);
                Err(Ended(AccessOutcome::Unknown))
            }
            Outcome::Refused(refusal) => {
                steps.add("token", format!("refused with {}: {refusal}", refusal.status().as_u16()));
                Err(Ended(AccessOutcome::Denied))
            }
        }
    }

    fn of_claims(
        &self,
        access: &Access,
        claims: &Map<String, Value>,
        steps: &mut Steps,
    ) -> Result<Option<Claims>, Ended> {
        let claims = Claims::assumed(claims.clone());
        let issuer = claims.text("iss");
        let takes = |rule: Option<&str>| rule.is_none() || issuer.is_none() || rule == issuer;
        match access.authenticator.rules().find(|(_, _, issuer)| takes(*issuer)) {
            Some((policy, rule, _)) => {
                let field = format!("spec.jwtRules[{rule}]");
                steps.add_key("token", policy, field, "takes a token with these claims".into());
                Ok(Some(claims))
            }
            None => {
                steps.add("token", format!("refused with 401: no rule takes tokens of {}", issuer.unwrap_or_default()));
                Err(Ended(AccessOutcome::Denied))
            }
        }
    }

    fn of_policies(
        &self,
        access: &Access,
        request: &AccessRequest<'_>,
        provider: Option<&str>,
        steps: &mut Steps,
    ) -> AccessOutcome {
        tell_policies(access, request, |action| action != Action::Custom, steps);
        let decision = access.authorizer.decide_after_provider(request);
        if let Some(dry_run) = decision.dry_run {
            let would = if dry_run.is_allowed() { "allow" } else { "deny" };
            steps.add("dry run", format!("the policies in dry run would {would} it"));
        }
        let allowed = match decision.verdict {
            Verdict::Allow(allowed) => allowed,
            Verdict::Deny(why) => {
                denied(why, steps);
                return AccessOutcome::Denied;
            }
            // Nobody is asked again.
            Verdict::Ask { .. } => return AccessOutcome::Unknown,
        };
        let condition = provider.map(|name| format!(", if the provider {name} allows it")).unwrap_or_default();
        match allowed {
            Allowed::ByRule(RuleRef { policy, rule }) => {
                steps.add_key("verdict", policy, rule_field(rule), format!("allowed{condition}"));
            }
            Allowed::ByDefault => {
                let says = format!("allowed{condition}: no policy of action ALLOW is for this workload");
                steps.add("verdict", says);
            }
        }
        match provider {
            Some(_) => AccessOutcome::Unknown,
            None => AccessOutcome::Allowed,
        }
    }

    /// The caller's address and the one that it reaches, as the gate sees them.
    fn addresses(&self) -> (IpAddr, IpAddr) {
        const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
        const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        if self.is_within_node() {
            return (LOOPBACK, LOOPBACK);
        }
        let own = self.view.own_address.unwrap_or(UNKNOWN);
        let of = |endpoint: &Endpoint| match endpoint.address {
            EndpointAddress::Local(_) => own,
            EndpointAddress::Remote { address, .. } | EndpointAddress::Outside(address) => address.ip(),
        };
        let caller = self.caller.workload.as_ref().and_then(|caller| {
            let services = self.view.services.iter();
            let clusters =
                services.flat_map(|service| service.ports.iter().filter_map(|port| service.cluster(port.port)));
            clusters
                .flat_map(|cluster| &cluster.endpoints)
                .find(|endpoint| endpoint.key.node.as_ref() == Some(&caller.node))
        });
        (caller.map_or(UNKNOWN, |endpoint| of(endpoint)), of(self.endpoint))
    }
}

/// Which policies of some actions match.
fn tell_policies(access: &Access, request: &AccessRequest<'_>, of: fn(Action) -> bool, steps: &mut Steps) {
    for step in access.authorizer.explain(request).into_iter().filter(|step| of(step.action)) {
        let action = action(step.action);
        let dry_run = if step.is_dry_run { ", in dry run, which decides nothing" } else { "" };
        let (field, says) = match step.rule {
            Some(rule) => (rule_field(rule), "matches"),
            None => (String::new(), "no rule matches"),
        };
        steps.add_key("policy", step.policy, field, format!("{action}: {says}{dry_run}"));
    }
}

fn denied(why: Denied<'_>, steps: &mut Steps) {
    match why {
        Denied::ByRule(RuleRef { policy, rule }) => {
            steps.add_key("verdict", policy, rule_field(rule), "denied".into());
        }
        Denied::WithoutProvider(RuleRef { policy, rule }) => {
            steps.add_key("verdict", policy, rule_field(rule), "denied: its provider cannot be asked".into());
        }
        Denied::ByDefault => steps.add("verdict", "denied: no policy of action ALLOW allows it".into()),
    }
}

/// What a provider is asked about a request, in words: names of headers, not their values.
fn question_to(provider: &Provider, request: &AccessRequest<'_>) -> String {
    let Provider { host, port, timeout, fail_open, status_on_error, protocol, .. } = provider;
    let told = match (protocol, request.http) {
        (Protocol::Http(check), Some(HttpAccess { method, host, path, headers, .. })) => {
            let with = names(check.told(headers).keys());
            format!("{method} http://{host}{}{path}, with {with}, of", check.path_prefix)
        }
        (Protocol::Grpc(check), Some(HttpAccess { method, path, headers, .. })) => {
            let with = names(headers.keys().filter(|name| check.is_told(name)));
            format!("a Check of {method} {path}, with {with}, by gRPC of")
        }
        (_, None) => "a Check of the connection, by gRPC of".to_owned(),
    };
    let without = match (fail_open, request.http) {
        (true, _) => "is let pass".to_owned(),
        (false, Some(_)) => format!("is answered with {}", status_on_error.as_u16()),
        (false, None) => "is closed".to_owned(),
    };
    format!("{told} {host}:{port}; what gets no answer within {timeout:?} {without}")
}

fn names<'h>(names: impl Iterator<Item = &'h HeaderName>) -> String {
    let names: BTreeSet<&str> = names.map(HeaderName::as_str).collect();
    match names.is_empty() {
        true => "no headers".to_owned(),
        false => format!("headers {}", Vec::from_iter(names).join(", ")),
    }
}

fn rule_field(rule: usize) -> String {
    format!("spec.rules[{rule}]")
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
        Action::Audit => "AUDIT",
        Action::Custom => "CUSTOM",
    }
}

impl fmt::Display for AccessExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for WorkloadAccess { workloads, steps, .. } in &self.workloads {
            for (index, workload) in workloads.iter().enumerate() {
                writeln!(f, "{:<12}{workload}", if index == 0 { "workload" } else { "" })?;
            }
            for step in steps {
                writeln!(f, "  {step}")?;
            }
        }
        let of_workloads = self.workloads.iter().flat_map(|workload| &workload.steps);
        write_whose_lines(f, self.steps.iter().chain(of_workloads))
    }
}
