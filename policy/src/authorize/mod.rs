//! Who may ask a workload for what: the AuthorizationPolicies that are for it, compiled. Rules of section "D-AUTHZ".
//!
//! An [`Authorizer`] is immutable and shared. [`Authorizer::decide`] allocates nothing, except where a policy asks for
//! a header that a request has on several lines.

mod attribute;
#[cfg(test)]
mod reference;
mod template;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr};

use http::{HeaderMap, HeaderName};
use weft_wire::{
    document::DocumentKey,
    id::{CLUSTER_DOMAIN, TrustDomain},
};

pub(crate) use self::attribute::Attribute;
use self::attribute::Test;
use crate::{
    api::{
        security::{self as api, Action, AuthorizationPolicy, Field},
        target::Workload,
    },
    authenticate::Claims,
    document::{Document, Spec},
};

/// A request, or a connection, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct AccessRequest<'a> {
    /// Whom the peer's certificate names; `None` without mutual TLS.
    pub peer: Option<Peer<'a>>,
    /// The direct peer's address.
    pub source_ip: IpAddr,
    /// The original client's address, as trusted proxies tell it.
    pub remote_ip: IpAddr,
    pub destination_ip: Option<IpAddr>,
    /// The workload's own port.
    pub destination_port: u16,
    pub sni: Option<&'a str>,
    /// `None` where the connection carries no HTTP.
    pub http: Option<HttpAccess<'a>>,
}

/// The parts of a request that only HTTP has.
#[derive(Clone, Copy, Debug)]
pub struct HttpAccess<'a> {
    pub method: &'a str,
    /// As the client sent it, with the port if it sent one; empty if it sent none.
    pub host: &'a str,
    /// Normalised (see [`crate::normalise`]), with the query.
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    /// Of the token that was verified.
    pub claims: Option<&'a Claims>,
}

impl HttpAccess<'_> {
    fn path_alone(&self) -> &str {
        let end = self.path.bytes().position(|byte| matches!(byte, b'?' | b'#'));
        end.map_or(self.path, |end| &self.path[..end])
    }
}

/// The original client, as [`AccessRequest::remote_ip`] has it: the last address of `x-forwarded-for`, which the
/// nearest proxy has added.
pub fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    let last = headers.get_all(X_FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    last.rsplit(',').next()?.trim().parse().ok()
}

/// The identity in a peer's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer<'a> {
    principal: &'a str,
}

impl<'a> Peer<'a> {
    /// Of a SPIFFE id, with or without `spiffe://`.
    pub fn new(spiffe_id: &'a str) -> Self {
        Self { principal: spiffe_id.strip_prefix("spiffe://").unwrap_or(spiffe_id) }
    }

    /// Such as `cluster.local/ns/default/sa/productpage`.
    pub fn principal(self) -> &'a str {
        self.principal
    }

    fn trust_domain(self) -> &'a str {
        self.principal.split('/').next().unwrap_or_default()
    }

    fn namespace(self) -> Option<&'a str> {
        self.after("ns")
    }

    fn account(self) -> Option<&'a str> {
        self.after("sa")
    }

    /// The value of a name in the id's path, which is pairs of them.
    fn after(self, name: &str) -> Option<&'a str> {
        let mut parts = self.principal.split('/').skip(1);
        while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
            if key == name {
                return Some(value);
            }
        }
        None
    }
}

/// An external authorizer that the mesh's configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// Can decide about HTTP requests only.
    Http,
    /// Can decide about connections too.
    Grpc,
}

/// What policies are compiled with, besides themselves.
#[derive(Clone, Copy, Debug)]
pub struct AuthorizerSettings<'s> {
    /// The mesh's trust domain first, then its aliases.
    pub trust_domains: &'s [TrustDomain],
    pub providers: &'s BTreeMap<String, ProviderKind>,
}

/// The policies that are for one workload.
#[derive(Debug, Default)]
pub struct Authorizer {
    http: Policies,
    tcp: Policies,
    /// What is decided of a request by what is known of it before it comes.
    any_request: Policies,
}

/// The policies as they read on one kind of traffic.
#[derive(Debug, Default)]
struct Policies {
    custom: Vec<CustomPolicy>,
    enforced: Enforced,
    dry_run: Enforced,
    audit: Vec<Policy>,
}

#[derive(Debug, Default)]
struct Enforced {
    deny: Vec<Policy>,
    allow: Vec<Policy>,
}

#[derive(Debug)]
struct CustomPolicy {
    policy: Policy,
    /// `None` where the mesh has no such provider, or the workload's policies name several: what matches is denied.
    provider: Option<String>,
}

#[derive(Debug)]
struct Policy {
    key: DocumentKey,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// Its place in the document.
    index: usize,
    /// One must hold, if there are any.
    sources: Vec<Vec<Condition>>,
    /// One must hold, if there are any.
    operations: Vec<Vec<Condition>>,
    /// All must hold.
    when: Vec<Condition>,
}

/// Holds if any of some tests and none of others matches.
#[derive(Debug)]
struct Condition {
    any_of: Vec<Test>,
    none_of: Vec<Test>,
}

/// A rule of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleRef<'a> {
    pub policy: &'a DocumentKey,
    /// Its place in `spec.rules`, from 0.
    pub rule: usize,
}

/// What comes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    pub verdict: Verdict<'a>,
    /// The first audit rule that matches; it decides nothing.
    pub audit: Option<RuleRef<'a>>,
    /// What the policies that are only tried would have said, if there are any.
    pub dry_run: Option<Verdict<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    Allow(Allowed<'a>),
    Deny(Denied<'a>),
    /// The provider decides. If it allows, [`Authorizer::decide_after_provider`] decides on.
    Ask {
        provider: &'a str,
        rule: RuleRef<'a>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed<'a> {
    ByRule(RuleRef<'a>),
    /// The workload has no policy of action `ALLOW`.
    ByDefault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied<'a> {
    ByRule(RuleRef<'a>),
    /// The rule asks a provider that cannot be asked.
    WithoutProvider(RuleRef<'a>),
    /// The workload has policies of action `ALLOW`, and none allows it.
    ByDefault,
}

/// What one policy says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    pub policy: &'a DocumentKey,
    pub action: Action,
    pub is_dry_run: bool,
    /// The first rule that matches, by its place in `spec.rules`.
    pub rule: Option<usize>,
}

impl Verdict<'_> {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

impl Authorizer {
    /// Compiles the policies among the documents that are for the workload.
    pub fn compile<'d>(
        documents: impl IntoIterator<Item = &'d Document>,
        workload: &Workload<'_>,
        settings: &AuthorizerSettings<'_>,
    ) -> Self {
        let mut policies: Vec<(&Document, &AuthorizationPolicy)> = documents
            .into_iter()
            .filter_map(|document| match &document.spec {
                Spec::AuthorizationPolicy(policy) => Some((document, &**policy)),
                _ => None,
            })
            .filter(|(document, policy)| policy.target().includes(&document.namespace(), workload))
            .collect();
        // What is decided does not depend on their order; which rule is named for it must not, either.
        policies.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        Self {
            http: Policies::compile(&policies, settings, Traffic::Http),
            tcp: Policies::compile(&policies, settings, Traffic::Tcp),
            any_request: Policies::compile(&policies, settings, Traffic::AnyRequest),
        }
    }

    /// Lets an open connection go on: one of HTTP, if some request that may come by it would be let in; another one, if it
    /// itself would be. Providers are not asked again. `connection.http` is `None`.
    ///
    /// # Errors
    /// What refuses it.
    pub fn may_go_on<'a>(&'a self, connection: &AccessRequest<'_>, is_http: bool) -> Result<(), Denied<'a>> {
        let policies = if is_http { &self.any_request } else { &self.tcp };
        let asked = policies.ask(connection).filter(|asked| matches!(asked, Verdict::Deny(_)));
        match asked.unwrap_or_else(|| policies.enforced.decide(connection)) {
            Verdict::Allow(_) => Ok(()),
            Verdict::Deny(why) => Err(why),
            Verdict::Ask { rule, .. } => Err(Denied::WithoutProvider(rule)),
        }
    }

    /// What comes of a request, or of a connection.
    pub fn decide<'a>(&'a self, request: &AccessRequest<'_>) -> Decision<'a> {
        let policies = self.policies(request);
        let verdict = policies.ask(request).unwrap_or_else(|| policies.enforced.decide(request));
        policies.decision(verdict, request)
    }

    /// Whether requests of HTTP may have to wait for somebody's answer.
    pub fn asks_providers(&self) -> bool {
        !self.http.custom.is_empty()
    }

    /// What the policies of action `CUSTOM` say of a request before its tokens are read, which they do not see; `None`
    /// if none of them matches. Never [`Verdict::Allow`].
    pub fn ask<'a>(&'a self, request: &AccessRequest<'_>) -> Option<Verdict<'a>> {
        self.policies(request).ask(request)
    }

    /// What comes of it once the provider that [`Verdict::Ask`] named has allowed it.
    pub fn decide_after_provider<'a>(&'a self, request: &AccessRequest<'_>) -> Decision<'a> {
        let policies = self.policies(request);
        policies.decision(policies.enforced.decide(request), request)
    }

    /// Each policy that is for the workload, in the order in which they are asked, and whether it matches.
    pub fn explain<'a>(&'a self, request: &AccessRequest<'_>) -> Vec<Step<'a>> {
        let policies = self.policies(request);
        let step = |action, is_dry_run, policy: &'a Policy| {
            let rule = policy.matching(request).map(|rule| rule.rule);
            Step { policy: &policy.key, action, is_dry_run, rule }
        };
        let custom = policies.custom.iter().map(|custom| step(Action::Custom, false, &custom.policy));
        let enforced =
            [(&policies.enforced, false), (&policies.dry_run, true)].into_iter().flat_map(|(of, is_dry_run)| {
                let deny = of.deny.iter().map(move |policy| step(Action::Deny, is_dry_run, policy));
                deny.chain(of.allow.iter().map(move |policy| step(Action::Allow, is_dry_run, policy)))
            });
        custom.chain(enforced).chain(policies.audit.iter().map(|policy| step(Action::Audit, false, policy))).collect()
    }

    fn policies(&self, request: &AccessRequest<'_>) -> &Policies {
        if request.http.is_some() { &self.http } else { &self.tcp }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    Http,
    Tcp,
    /// Some HTTP request, of which only the connection is known.
    AnyRequest,
}

impl Policies {
    fn compile(
        policies: &[(&Document, &AuthorizationPolicy)],
        settings: &AuthorizerSettings<'_>,
        traffic: Traffic,
    ) -> Self {
        let mut compiled = Self::default();
        let named: Vec<&str> = policies
            .iter()
            .filter(|(document, policy)| policy.action == Action::Custom && !api::is_dry_run(&document.annotations))
            .map(|(_, policy)| provider_of(policy))
            .collect();
        let have_one_provider = named.windows(2).all(|pair| pair[0] == pair[1]);
        for (document, policy) in policies {
            let one = Policy::compile(document, policy, settings.trust_domains, traffic);
            let is_dry_run = api::is_dry_run(&document.annotations);
            let enforced = if is_dry_run { &mut compiled.dry_run } else { &mut compiled.enforced };
            match policy.action {
                Action::Allow => enforced.allow.push(one),
                Action::Deny => enforced.deny.push(one),
                Action::Audit => compiled.audit.push(one),
                // A provider cannot be asked for a trial.
                Action::Custom if is_dry_run => {}
                Action::Custom => {
                    let name = provider_of(policy);
                    let kind = settings.providers.get(name).filter(|_| have_one_provider);
                    if (kind, traffic) != (Some(&ProviderKind::Http), Traffic::Tcp) {
                        let provider = kind.map(|_| name.to_owned());
                        compiled.custom.push(CustomPolicy { policy: one, provider });
                    }
                }
            }
        }
        compiled
    }

    /// What the first policy of action `CUSTOM` that matches says.
    fn ask<'a>(&'a self, request: &AccessRequest<'_>) -> Option<Verdict<'a>> {
        self.custom.iter().find_map(|custom| {
            let rule = custom.policy.matching(request)?;
            Some(match &custom.provider {
                Some(provider) => Verdict::Ask { provider, rule },
                None => Verdict::Deny(Denied::WithoutProvider(rule)),
            })
        })
    }

    fn decision<'a>(&'a self, verdict: Verdict<'a>, request: &AccessRequest<'_>) -> Decision<'a> {
        Decision {
            verdict,
            audit: first_match(&self.audit, request),
            dry_run: (!self.dry_run.is_empty()).then(|| self.dry_run.decide(request)),
        }
    }
}

fn provider_of(policy: &AuthorizationPolicy) -> &str {
    policy.provider.as_ref().map_or("", |provider| &provider.name)
}

fn first_match<'a>(policies: &'a [Policy], request: &AccessRequest<'_>) -> Option<RuleRef<'a>> {
    policies.iter().find_map(|policy| policy.matching(request))
}

impl Enforced {
    fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty()
    }

    fn decide<'a>(&'a self, request: &AccessRequest<'_>) -> Verdict<'a> {
        if let Some(rule) = first_match(&self.deny, request) {
            return Verdict::Deny(Denied::ByRule(rule));
        }
        if self.allow.is_empty() {
            return Verdict::Allow(Allowed::ByDefault);
        }
        match first_match(&self.allow, request) {
            Some(rule) => Verdict::Allow(Allowed::ByRule(rule)),
            None => Verdict::Deny(Denied::ByDefault),
        }
    }
}

impl Policy {
    fn compile(document: &Document, policy: &AuthorizationPolicy, trust: &[TrustDomain], traffic: Traffic) -> Self {
        let context = Context { namespace: document.namespace(), trust, traffic, action: policy.action };
        let rules = policy.rules.iter().enumerate().filter_map(|(index, rule)| context.rule(index, rule)).collect();
        Self { key: document.key.clone(), rules }
    }

    fn matching(&self, request: &AccessRequest<'_>) -> Option<RuleRef<'_>> {
        let rule = self.rules.iter().find(|rule| rule.matches(request))?;
        Some(RuleRef { policy: &self.key, rule: rule.index })
    }
}

impl Rule {
    fn matches(&self, request: &AccessRequest<'_>) -> bool {
        let all = |conditions: &[Condition]| conditions.iter().all(|condition| condition.holds(request));
        let one = |parts: &[Vec<Condition>]| parts.is_empty() || parts.iter().any(|conditions| all(conditions));
        // Who calls is the quickest to compare, and what most rules differ in.
        one(&self.sources) && one(&self.operations) && all(&self.when)
    }
}

impl Condition {
    fn holds(&self, request: &AccessRequest<'_>) -> bool {
        let any = |tests: &[Test]| tests.iter().any(|test| test.matches(request));
        (self.any_of.is_empty() || any(&self.any_of)) && !any(&self.none_of)
    }
}

/// What a rule is compiled for.
struct Context<'c> {
    namespace: weft_wire::id::Namespace,
    trust: &'c [TrustDomain],
    traffic: Traffic,
    action: Action,
}

impl Context<'_> {
    /// `None` where the rule cannot match this traffic.
    fn rule(&self, index: usize, rule: &api::Rule) -> Option<Rule> {
        let sources = rule.sources().map(|source| self.conditions(source.fields())).collect::<Option<_>>()?;
        let operations =
            rule.operations().map(|operation| self.conditions(operation.fields())).collect::<Option<_>>()?;
        // Keys were checked when the document was read; what is none cannot match.
        let when: Vec<Field<'_>> = rule.when.iter().map(|condition| condition.field().ok()).collect::<Option<_>>()?;
        Some(Rule { index, sources, operations, when: self.conditions(when)? })
    }

    /// What only HTTP has is not there on a TCP connection: a rule that allows by it allows nothing, one that denies
    /// by it denies by the rest alone. Of some request it is not known: a rule that allows by it may allow one, one
    /// that denies by it does not deny them all.
    fn conditions<'f>(&self, fields: impl IntoIterator<Item = Field<'f>>) -> Option<Vec<Condition>> {
        let mut conditions = Vec::new();
        for field in fields {
            if field.values.is_empty() && field.not_values.is_empty() {
                continue;
            }
            if self.lacks(&field.attribute) {
                let goes_by_the_rest = (self.traffic == Traffic::AnyRequest) == (self.action == Action::Allow);
                if !goes_by_the_rest {
                    return None;
                }
                continue;
            }
            let tests = |values: &[String]| self.tests(&field.attribute, values);
            conditions.push(Condition { any_of: tests(field.values)?, none_of: tests(field.not_values)? });
        }
        Some(conditions)
    }

    fn lacks(&self, attribute: &Attribute) -> bool {
        match self.traffic {
            Traffic::Http => false,
            Traffic::Tcp => attribute.is_http_only(),
            // Each request names its original client.
            Traffic::AnyRequest => attribute.is_http_only() || *attribute == Attribute::RemoteIp,
        }
    }

    fn tests(&self, attribute: &Attribute, values: &[String]) -> Option<Vec<Test>> {
        let expanded;
        let values = match attribute {
            Attribute::Principal => {
                expanded = values.iter().flat_map(|value| in_all_trust_domains(value, self.trust)).collect::<Vec<_>>();
                &expanded[..]
            }
            _ => values,
        };
        values.iter().map(|value| attribute.test(value, &self.namespace).ok()).collect()
    }
}

/// A principal of the mesh's trust domain, or of an alias, stands for that of each of them. So does one of
/// `cluster.local`, which is how policies name the domain whatever it is. Only whole principals are meant so, as in
/// Istio: `cluster.local/*` is taken as it stands.
fn in_all_trust_domains(principal: &str, trust: &[TrustDomain]) -> Vec<String> {
    let kept = || vec![principal.to_owned()];
    let Some((domain, rest)) = principal.split_once('/').filter(|_| principal.split('/').count() == 5) else {
        return kept();
    };
    let named = attribute::TextMatch::read(domain);
    let is_own = |own: &TrustDomain| named.matches(own.as_str().as_bytes());
    if domain == "*" || !(domain == CLUSTER_DOMAIN || trust.iter().any(is_own)) {
        return kept();
    }
    let mut all: Vec<String> = Vec::with_capacity(trust.len());
    for own in trust {
        let is_meant = domain.starts_with('*') && is_own(own);
        let one = if is_meant { principal.to_owned() } else { format!("{own}/{rest}") };
        if !all.contains(&one) {
            all.push(one);
        }
    }
    if all.is_empty() { kept() } else { all }
}
