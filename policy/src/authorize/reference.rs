//! What policies mean, written as plainly as can be: each value becomes the regular expression that Istio would make of
//! it. Slow; the compiled form must say the same.

use regex::Regex;
use weft_wire::id::{Namespace, TrustDomain};

use super::{
    AccessRequest,
    attribute::{Attribute, HeaderField},
};
use crate::{
    api::security::{Action, AuthorizationPolicy, Operation, Rule, Source},
    document::{Document, Spec},
};

/// `allow`, `deny`, or `ask PROVIDER`; the provider is always one that can be asked, and the only one.
pub(super) fn decide(documents: &[Document], trust: &[TrustDomain], request: &AccessRequest<'_>) -> String {
    let policies = || {
        documents.iter().filter_map(|document| match &document.spec {
            Spec::AuthorizationPolicy(policy) if !document.annotations.contains_key("istio.io/dry-run") => {
                Some((document.namespace(), &**policy))
            }
            _ => None,
        })
    };
    let matches = |wanted: Action| {
        policies().find(|(namespace, policy)| {
            policy.action == wanted
                && policy.rules.iter().any(|rule| Reader { namespace, trust, request, action: wanted }.rule(rule))
        })
    };
    if let Some((_, policy)) = matches(Action::Custom) {
        return format!("ask {}", policy.provider.as_ref().unwrap().name);
    }
    let has_allow = policies().any(|(_, policy): (_, &AuthorizationPolicy)| policy.action == Action::Allow);
    let allowed = matches(Action::Deny).is_none() && (!has_allow || matches(Action::Allow).is_some());
    if allowed { "allow".into() } else { "deny".into() }
}

struct Reader<'r> {
    namespace: &'r Namespace,
    trust: &'r [TrustDomain],
    request: &'r AccessRequest<'r>,
    action: Action,
}

/// The request has no such attribute, as it is no HTTP.
struct HttpOnly;

impl Reader<'_> {
    fn rule(&self, rule: &Rule) -> bool {
        self.checked_rule(rule).unwrap_or(false)
    }

    fn checked_rule(&self, rule: &Rule) -> Result<bool, HttpOnly> {
        // All are read, so that what is no HTTP is noticed everywhere, whatever else holds.
        let mut when = true;
        for condition in &rule.when {
            let key = Attribute::of_key(&condition.key).unwrap();
            when &= self.both(&key, &condition.values, &condition.not_values)?;
        }
        let mut from = rule.from.is_none();
        for source in rule.from.iter().flat_map(|from| from.iter()) {
            from |= self.source(&source.source)?;
        }
        let mut to = rule.to.is_none();
        for operation in rule.to.iter().flat_map(|to| to.iter()) {
            to |= self.operation(&operation.operation)?;
        }
        Ok(from && to && when)
    }

    fn source(&self, source: &Source) -> Result<bool, HttpOnly> {
        let results = [
            self.both(&Attribute::Principal, &source.principals, &source.not_principals)?,
            self.both(&Attribute::RequestPrincipal, &source.request_principals, &source.not_request_principals)?,
            self.both(&Attribute::Namespace, &source.namespaces, &source.not_namespaces)?,
            self.both(&Attribute::ServiceAccount, &source.service_accounts, &source.not_service_accounts)?,
            self.both(&Attribute::TrustDomain, &source.trust_domains, &source.not_trust_domains)?,
            self.both(&Attribute::SourceIp, &source.ip_blocks, &source.not_ip_blocks)?,
            self.both(&Attribute::RemoteIp, &source.remote_ip_blocks, &source.not_remote_ip_blocks)?,
        ];
        Ok(results.iter().all(|holds| *holds))
    }

    fn operation(&self, operation: &Operation) -> Result<bool, HttpOnly> {
        let results = [
            self.both(&Attribute::Host, &operation.hosts, &operation.not_hosts)?,
            self.both(&Attribute::DestinationPort, &operation.ports, &operation.not_ports)?,
            self.both(&Attribute::Method, &operation.methods, &operation.not_methods)?,
            self.both(&Attribute::Path, &operation.paths, &operation.not_paths)?,
        ];
        Ok(results.iter().all(|holds| *holds))
    }

    fn both(&self, attribute: &Attribute, values: &[String], not_values: &[String]) -> Result<bool, HttpOnly> {
        let any = |values: &[String]| -> Result<Option<bool>, HttpOnly> {
            let mut found = None;
            for value in values {
                match self.one(attribute, value) {
                    Ok(matches) => found = Some(found.unwrap_or(false) | matches),
                    Err(HttpOnly) if self.action == Action::Allow => return Err(HttpOnly),
                    Err(HttpOnly) => {}
                }
            }
            Ok(found)
        };
        Ok(any(values)?.unwrap_or(true) & !any(not_values)?.unwrap_or(false))
    }

    fn one(&self, attribute: &Attribute, value: &str) -> Result<bool, HttpOnly> {
        let request = self.request;
        let spiffe = request.peer.map(|peer| format!("spiffe://{}", peer.principal()));
        let peer = |expression: &str| spiffe.as_ref().is_some_and(|id| is_whole(expression, id));
        let http = || request.http.as_ref().ok_or(HttpOnly);
        Ok(match attribute {
            Attribute::Principal => self.in_trust_domains(value).iter().any(|value| match value.as_str() {
                "*" => peer(".+"),
                value => peer(&format!("spiffe://{}", of_ends(value))),
            }),
            Attribute::Namespace => peer(&format!(".*/ns/{}/.*", value.replace('*', ".*"))),
            Attribute::ServiceAccount => {
                let own = self.namespace.to_string();
                let (namespace, account) = value.split_once('/').unwrap_or((&own, value));
                peer(&format!("spiffe://.+/ns/{namespace}/(.+/|)sa/{account}(/.+)?"))
            }
            Attribute::TrustDomain => peer(&format!("spiffe://{}/.*", regex::escape(value).replace(r"\*", "[^/]*"))),
            Attribute::SourceIp => is_inside(value, &request.source_ip.to_string()),
            Attribute::RemoteIp => is_inside(value, &request.remote_ip.to_string()),
            Attribute::DestinationIp => request.destination_ip.is_some_and(|ip| is_inside(value, &ip.to_string())),
            Attribute::DestinationPort => value == request.destination_port.to_string(),
            Attribute::Sni => request.sni.is_some_and(|sni| is_whole(&of_ends(value), sni)),
            Attribute::Host => is_whole(&format!("(?i){}", of_ends(value)), http()?.host),
            Attribute::Method => is_whole(&of_ends(value), http()?.method),
            Attribute::Path => {
                let segment = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]";
                let path = http()?.path.split('?').next().unwrap();
                match value.contains("{*}") || value.contains("{**}") {
                    true => {
                        let expression = regex::escape(value)
                            .replace(r"\{\*\*\}", &format!("(?:{segment}|/)*"))
                            .replace(r"\{\*\}", &format!("{segment}+"));
                        is_whole(&expression, path)
                    }
                    false => is_whole(&of_ends(value), path),
                }
            }
            Attribute::Header(HeaderField::Named(name)) => {
                let lines: Vec<&str> =
                    http()?.headers.get_all(name).iter().map(|line| line.to_str().unwrap()).collect();
                let expression = if value == "*" { ".*".into() } else { of_ends(value) };
                !lines.is_empty() && is_whole(&expression, &lines.join(","))
            }
            Attribute::Header(HeaderField::Method) => is_whole(&of_ends(value), http()?.method),
            Attribute::Header(HeaderField::Authority) => is_whole(&of_ends(value), http()?.host),
            Attribute::Header(HeaderField::Path) => is_whole(&of_ends(value), http()?.path),
            Attribute::HeaderItem(HeaderField::Named(name)) => {
                let lines: Vec<&str> =
                    http()?.headers.get_all(name).iter().map(|line| line.to_str().unwrap()).collect();
                let item = if value == "*" { ".*".into() } else { of_ends(value).replace(".*", "[^,]*") };
                !lines.is_empty() && is_whole(&format!("{item}|{item},.*|.*,{item},.*|.*,{item}"), &lines.join(","))
            }
            Attribute::HeaderItem(_) => unreachable!("not generated"),
            Attribute::Claim(names) => {
                let claims = http()?.claims;
                claims.is_some_and(|claims| claims.texts(names).any(|text| is_whole(&of_ends(value), text)))
            }
            Attribute::RequestPrincipal => {
                let Some(claims) = http()?.claims else { return Ok(false) };
                let (Some(issuer), Some(subject)) = (claims.text("iss"), claims.text("sub")) else { return Ok(false) };
                match value {
                    "*" => !issuer.is_empty() && !subject.is_empty(),
                    value => is_whole(&of_ends(value), &format!("{issuer}/{subject}")),
                }
            }
            Attribute::EnvoyMetadata => false,
        })
    }

    fn in_trust_domains(&self, principal: &str) -> Vec<String> {
        let parts: Vec<&str> = principal.split('/').collect();
        let is_own = parts[0] == "cluster.local" || self.trust.iter().any(|own| own.as_str() == parts[0]);
        if parts.len() != 5 || !is_own {
            return vec![principal.to_owned()];
        }
        self.trust.iter().map(|own| format!("{own}/{}", parts[1..].join("/"))).collect()
    }
}

/// A `*` at the start or the end stands for anything, one alone for anything but nothing.
fn of_ends(value: &str) -> String {
    if value == "*" {
        ".+".into()
    } else if let Some(suffix) = value.strip_prefix('*') {
        format!(".*{}", regex::escape(suffix))
    } else if let Some(prefix) = value.strip_suffix('*') {
        format!("{}.*", regex::escape(prefix))
    } else {
        regex::escape(value)
    }
}

fn is_whole(expression: &str, value: &str) -> bool {
    Regex::new(&format!("(?s)^(?:{expression})$")).unwrap().is_match(value)
}

/// By the bits of both.
fn is_inside(block: &str, ip: &str) -> bool {
    let bits = |ip: &str| -> String {
        match ip.parse().unwrap() {
            std::net::IpAddr::V4(ip) => format!("4{:032b}", u32::from(ip)),
            std::net::IpAddr::V6(ip) => format!("6{:0128b}", u128::from(ip)),
        }
    };
    let (address, len) = block.split_once('/').unwrap_or((block, "128"));
    let (address, ip) = (bits(address), bits(ip));
    let len = (1 + len.parse::<usize>().unwrap()).min(address.len());
    ip.len() == address.len() && ip[..len] == address[..len]
}
