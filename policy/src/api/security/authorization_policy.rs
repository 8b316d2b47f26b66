//! AuthorizationPolicy: who may ask for what. Rules: Istio's `pkg/config/validation/validation.go` and
//! `pkg/config/security/security.go`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    api::{
        target::{PolicyTargetReference, Target, WorkloadSelector},
        values::List,
    },
    authorize::Attribute,
    document::Checker,
    kinds::Resource,
};

/// Marks a policy that is evaluated and reported, and never enforced.
const DRY_RUN_ANNOTATION: &str = "istio.io/dry-run";

/// Who may ask workloads for what. Once a workload has a policy of action `ALLOW`, what none allows is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorizationPolicy {
    /// Without it, all workloads of the namespace; in the root namespace, all of the mesh.
    pub selector: Option<WorkloadSelector>,
    /// Old form of `targetRefs`.
    pub target_ref: Option<PolicyTargetReference>,
    pub target_refs: List<PolicyTargetReference, 0, 16>,
    /// The policy matches if any of these does. Without rules it never matches.
    pub rules: List<Rule, 0, 512>,
    pub action: Action,
    /// Who decides, with action `CUSTOM`.
    pub provider: Option<ExtensionProvider>,
}

/// What follows when a rule matches. `CUSTOM` is asked first, then `DENY`, then `ALLOW`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    #[default]
    Allow,
    Deny,
    /// Is reported, and decides nothing.
    Audit,
    /// Ask a provider.
    Custom,
}

/// An external authorizer, by its name in the mesh's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtensionProvider {
    pub name: String,
}

/// Matches if one of `from`, one of `to` and all of `when` do; an empty rule always matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rule {
    pub from: Option<List<From, 1, 512>>,
    pub to: Option<List<To, 1, 512>>,
    pub when: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct From {
    pub source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct To {
    pub operation: Operation,
}

/// Whom a request comes from; all fields hold together. Values are exact, or with a `*` at their start or end; `*`
/// alone is any value. What is about the peer's certificate needs mutual TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Source {
    /// Of the peer's certificate, such as `cluster.local/ns/default/sa/productpage`.
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    /// Of the request's token, as `ISSUER/SUBJECT`.
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
    /// Of the peer's certificate.
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    /// Of the peer's certificate, as `ACCOUNT` of this namespace or `NAMESPACE/ACCOUNT`.
    pub service_accounts: List<String, 0, 16>,
    pub not_service_accounts: List<String, 0, 16>,
    /// Of the peer's certificate.
    pub trust_domains: Vec<String>,
    pub not_trust_domains: Vec<String>,
    /// Addresses, or ranges of them, of the direct peer.
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    /// Addresses of the original client, as trusted proxies tell it.
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
}

/// What a request asks for; all fields hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Operation {
    /// As the client sent it, with the port if it sent one; case does not matter.
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    /// The workload's own ports.
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    /// Normalised, without query. `{*}` stands for one segment, `{**}` for any number of them.
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
}

/// What an attribute of the request must be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// Such as `request.headers[x-user]` or `source.ip`.
    pub key: String,
    #[serde(default)]
    pub values: Vec<String>,
    #[serde(default)]
    pub not_values: Vec<String>,
}

/// A field with the one that negates it.
#[derive(Debug)]
pub(crate) struct Field<'p> {
    pub(crate) attribute: Attribute,
    pub(crate) name: &'static str,
    pub(crate) values: &'p [String],
    pub(crate) not_name: &'static str,
    pub(crate) not_values: &'p [String],
}

impl Field<'_> {
    fn is_given(&self) -> bool {
        !self.values.is_empty() || !self.not_values.is_empty()
    }

    fn check(&self, checker: &mut Checker<'_>) {
        let namespace = checker.namespace();
        for (name, values) in [(self.name, self.values), (self.not_name, self.not_values)] {
            checker.each(name, values, |checker, value| {
                if let Err(what) = self.attribute.test(value, &namespace) {
                    checker.error(what);
                }
            });
        }
        checker.pending(self.name, self.is_given() && !self.attribute.is_known_to_requests());
    }
}

impl Source {
    pub(crate) fn fields(&self) -> [Field<'_>; 7] {
        let field =
            |attribute, name, values, not_name, not_values| Field { attribute, name, values, not_name, not_values };
        use Attribute::*;
        [
            field(Principal, "principals", &self.principals[..], "notPrincipals", &self.not_principals[..]),
            field(
                RequestPrincipal,
                "requestPrincipals",
                &self.request_principals,
                "notRequestPrincipals",
                &self.not_request_principals,
            ),
            field(Namespace, "namespaces", &self.namespaces, "notNamespaces", &self.not_namespaces),
            field(
                ServiceAccount,
                "serviceAccounts",
                &self.service_accounts,
                "notServiceAccounts",
                &self.not_service_accounts,
            ),
            field(TrustDomain, "trustDomains", &self.trust_domains, "notTrustDomains", &self.not_trust_domains),
            field(SourceIp, "ipBlocks", &self.ip_blocks, "notIpBlocks", &self.not_ip_blocks),
            field(RemoteIp, "remoteIpBlocks", &self.remote_ip_blocks, "notRemoteIpBlocks", &self.not_remote_ip_blocks),
        ]
    }

    fn check(&self, action: Action, checker: &mut Checker<'_>) {
        let fields = self.fields();
        if !fields.iter().any(Field::is_given) {
            checker.error("must not be empty: leave from out to match any source");
        }
        for field in &fields {
            field.check(checker);
            if action == Action::Custom && field.is_given() && field.attribute.is_unknown_to_providers() {
                checker.error_in(field.name, "cannot be used with action CUSTOM");
            }
        }
        let by_account = !self.service_accounts.is_empty() || !self.not_service_accounts.is_empty();
        let by_name = [&self.principals, &self.not_principals, &self.namespaces, &self.not_namespaces];
        if by_account && by_name.iter().any(|values| !values.is_empty()) {
            checker.error_in("serviceAccounts", "cannot be used beside principals or namespaces: use two sources");
        }
    }
}

impl Operation {
    pub(crate) fn fields(&self) -> [Field<'_>; 4] {
        let field =
            |attribute, name, values, not_name, not_values| Field { attribute, name, values, not_name, not_values };
        [
            field(Attribute::Host, "hosts", &self.hosts[..], "notHosts", &self.not_hosts[..]),
            field(Attribute::DestinationPort, "ports", &self.ports, "notPorts", &self.not_ports),
            field(Attribute::Method, "methods", &self.methods, "notMethods", &self.not_methods),
            field(Attribute::Path, "paths", &self.paths, "notPaths", &self.not_paths),
        ]
    }

    fn check(&self, checker: &mut Checker<'_>) {
        let fields = self.fields();
        if !fields.iter().any(Field::is_given) {
            checker.error("must not be empty: leave to out to match any operation");
        }
        fields.iter().for_each(|field| field.check(checker));
    }
}

impl Condition {
    /// The condition as a field, or why its key is none.
    pub(crate) fn field(&self) -> Result<Field<'_>, String> {
        Ok(Field {
            attribute: Attribute::of_key(&self.key)?,
            name: "values",
            values: &self.values,
            not_name: "notValues",
            not_values: &self.not_values,
        })
    }

    fn check(&self, action: Action, checker: &mut Checker<'_>) {
        let field = match self.field() {
            Ok(field) => field,
            Err(what) => return checker.error_in("key", what),
        };
        if !field.is_given() {
            checker.error("needs at least one of values and notValues");
        }
        field.check(checker);
        if action == Action::Custom && field.attribute.is_unknown_to_providers() {
            checker.error_in("key", format!("{} cannot be used with action CUSTOM", self.key));
        }
    }
}

impl Rule {
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.from.iter().flat_map(|from| from.iter()).map(|from| &from.source)
    }

    pub(crate) fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.to.iter().flat_map(|to| to.iter()).map(|to| &to.operation)
    }

    fn check(&self, action: Action, checker: &mut Checker<'_>) {
        checker.given("from", &self.from, |checker, from| {
            checker.items(from, |checker, from| checker.field("source", |checker| from.source.check(action, checker)));
        });
        checker.given("to", &self.to, |checker, to| {
            checker.items(to, |checker, to| checker.field("operation", |checker| to.operation.check(checker)));
        });
        checker.each("when", &self.when, |checker, condition| condition.check(action, checker));
        if action == Action::Deny && self.is_for_http_alone() {
            checker.warn(
                "will deny all traffic to TCP ports: it has HTTP attributes alone, which are left out there; name the \
                 ports that it is for",
            );
        }
    }

    /// Whether on a TCP port nothing of its sources or operations would be left.
    fn is_for_http_alone(&self) -> bool {
        let holds_on_tcp = |field: &Field<'_>| field.is_given() && !field.attribute.is_http_only();
        let from_holds = self.sources().any(|source| source.fields().iter().any(holds_on_tcp));
        let to_holds = self.operations().any(|operation| operation.fields().iter().any(holds_on_tcp));
        (self.from.is_some() && self.to.is_none() && !from_holds) || (self.to.is_some() && !to_holds)
    }
}

impl AuthorizationPolicy {
    pub(crate) fn target(&self) -> Target<'_> {
        Target { selector: &self.selector, target_ref: &self.target_ref, target_refs: &self.target_refs }
    }
}

/// Whether a policy is only evaluated, not enforced.
pub(crate) fn is_dry_run(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(DRY_RUN_ANNOTATION).and_then(|value| read_bool(value)).unwrap_or(false)
}

/// What Go reads as a boolean.
fn read_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Resource for AuthorizationPolicy {
    fn check(&self, checker: &mut Checker<'_>) {
        self.target().check(checker);
        let provider = self.provider.as_ref().map(|provider| provider.name.as_str());
        match self.action {
            Action::Custom => {
                if provider.is_none_or(str::is_empty) {
                    checker.error_in("provider", "must name a provider: action CUSTOM asks it");
                }
                if self.rules.is_empty() {
                    checker
                        .error_in("rules", "must be given with action CUSTOM; an empty rule {} matches all requests");
                }
            }
            action => {
                if provider.is_some() {
                    checker.error_in("provider", "can be given with action CUSTOM only");
                }
                if action == Action::Deny && self.rules.is_empty() {
                    checker.error_in("rules", "must be given with action DENY; an empty rule {} matches all requests");
                }
            }
        }
        checker.each("rules", &self.rules, |checker, rule| rule.check(self.action, checker));
        if checker.header.annotations.get(DRY_RUN_ANNOTATION).is_some_and(|value| read_bool(value).is_none()) {
            checker.warn(&format!("annotation {DRY_RUN_ANNOTATION} is neither true nor false: the policy is enforced"));
        }
    }
}
