//! Rules and conditions of one VirtualService that earlier ones leave nothing to.

use super::{Code, Report, input::Subject, mesh::Mesh};
use crate::api::{
    networking::{HttpMatchRequest, HttpRoute},
    values::StringMatch,
};

pub(super) fn analyze(mesh: &Mesh<'_>, report: &mut Report) {
    for (subject, service) in &mesh.virtual_services {
        let http: Vec<Vec<HttpMatchRequest>> = service.http.iter().map(nameless).collect();
        let rules: Vec<&[HttpMatchRequest]> = http.iter().map(Vec::as_slice).collect();
        find_repeated("http", &rules, subject, report);
        find_covered(&rules, subject, report);
        let rules: Vec<_> = service.tls.iter().map(|rule| rule.matches.as_slice()).collect();
        find_repeated("tls", &rules, subject, report);
        let rules: Vec<_> = service.tcp.iter().map(|rule| rule.matches.as_slice()).collect();
        find_repeated("tcp", &rules, subject, report);
    }
}

/// A rule's conditions without their names, which decide nothing.
fn nameless(rule: &HttpRoute) -> Vec<HttpMatchRequest> {
    let nameless = |one: &HttpMatchRequest| HttpMatchRequest { name: String::new(), ..one.clone() };
    rule.matches.iter().map(nameless).collect()
}

/// Finds conditions that stood before, and rules of which none is left.
fn find_repeated<M: PartialEq>(field: &str, rules: &[&[M]], subject: &Subject, report: &mut Report) {
    let mut seen: Vec<(&M, usize)> = Vec::new();
    let mut catch_all = None;
    for (index, matches) in rules.iter().enumerate() {
        let path = format!("spec.{field}[{index}]");
        let mut unreachable = |why: String| {
            let text = format!("rule {field}[{index}] is never reached: {why}");
            report.add(Code::VirtualServiceUnreachableRule, subject, &path, text);
        };
        if let Some(earlier) = catch_all {
            unreachable(format!("{field}[{earlier}] has no conditions, and so matches everything"));
            continue;
        }
        if matches.is_empty() {
            catch_all = Some(index);
            continue;
        }
        let mut repeated = Vec::new();
        for (place, one) in matches.iter().enumerate() {
            match seen.iter().find(|(earlier, _)| *earlier == one) {
                Some((_, earlier)) => repeated.push((place, *earlier)),
                None => seen.push((one, index)),
            }
        }
        if repeated.len() == matches.len() {
            unreachable("all of its conditions stand in earlier rules".into());
        }
        for (place, earlier) in repeated {
            let text = format!("match[{place}] of {field}[{index}] has no effect: {field}[{earlier}] has the same");
            let path = format!("{path}.match[{place}]");
            report.add(Code::VirtualServiceIneffectiveMatch, subject, &path, text);
        }
    }
}

/// Finds conditions with a prefix that a shorter prefix before them leaves nothing to.
fn find_covered(rules: &[&[HttpMatchRequest]], subject: &Subject, report: &mut Report) {
    let mut seen: Vec<(&str, &HttpMatchRequest, usize)> = Vec::new();
    for (index, matches) in rules.iter().enumerate() {
        for (place, one) in matches.iter().enumerate() {
            let Some(StringMatch::Prefix(prefix)) = &one.uri else { continue };
            let covers = |shorter: &str, earlier: &HttpMatchRequest| {
                prefix.len() > shorter.len() && prefix.starts_with(shorter) && is_implied(earlier, one)
            };
            if let Some((shorter, _, earlier)) = seen.iter().find(|(shorter, earlier, _)| covers(shorter, earlier)) {
                let text = format!(
                    "match[{place}] of http[{index}] has no effect: http[{earlier}] takes all paths that start with \
                     {shorter}, so also those with {prefix}"
                );
                let path = format!("spec.http[{index}].match[{place}]");
                report.add(Code::VirtualServiceIneffectiveMatch, subject, &path, text);
            }
            seen.push((prefix, one, index));
        }
    }
}

/// Whether a request that fulfils `later` fulfils all of `earlier`, their paths apart.
fn is_implied(earlier: &HttpMatchRequest, later: &HttpMatchRequest) -> bool {
    fn same<T: PartialEq>(earlier: &Option<T>, later: &Option<T>) -> bool {
        earlier.is_none() || earlier == later
    }
    same(&earlier.scheme, &later.scheme)
        && same(&earlier.method, &later.method)
        && same(&earlier.authority, &later.authority)
        && same(&earlier.port, &later.port)
        && earlier.headers.iter().all(|(name, value)| later.headers.get(name) == Some(value))
        && earlier.query_params.iter().all(|(name, value)| later.query_params.get(name) == Some(value))
        && earlier.without_headers.iter().all(|(name, value)| later.without_headers.get(name) == Some(value))
        && earlier.source_labels.iter().all(|(name, value)| later.source_labels.get(name) == Some(value))
        && (earlier.gateways.is_empty() || earlier.gateways == later.gateways)
        && (earlier.source_namespace.is_empty() || earlier.source_namespace == later.source_namespace)
        && (earlier.ignore_uri_case || !later.ignore_uri_case)
}
