//! Policies and the workloads that they are for.

use std::collections::{BTreeMap, BTreeSet};

use weft_wire::id::Namespace;

use super::{
    Code, Report,
    input::Subject,
    mesh::{Item, Mesh},
};
use crate::api::{
    security::AuthorizationPolicy,
    target::{ROOT_NAMESPACE, WorkloadSelector},
};

/// Marks workloads that serve a Gateway of the Gateway API.
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

pub(super) fn analyze(mesh: &Mesh<'_>, report: &mut Report) {
    analyze_sidecars(mesh, report);
    analyze_telemetries(mesh, report);
    for item in &mesh.authorization_policies {
        find_no_workload(mesh, item, report);
        find_missing_namespaces(mesh, item, report);
    }
    find_selected_gateways(mesh, report);
}

/// A policy of a kind of which each workload uses one.
struct Single<'m> {
    subject: &'m Subject,
    /// `None` if it is for its whole namespace.
    selector: Option<&'m BTreeMap<String, String>>,
}

fn analyze_sidecars(mesh: &Mesh<'_>, report: &mut Report) {
    let mut singles = Vec::new();
    for (subject, sidecar) in &mesh.sidecars {
        let selector = sidecar.workload_selector.as_ref().map(|selector| &selector.labels.0);
        let selector = selector.filter(|labels| !labels.is_empty());
        let namespace = subject.namespace();
        let is_ineffective = match selector {
            None => mesh.is_ambient(&namespace),
            Some(selector) => mesh.workloads.iter().any(|workload| {
                workload.is_ambient && workload.namespace == namespace && workload.is_selected(selector)
            }),
        };
        if is_ineffective {
            let text = "has no effect: its workloads have no proxy of their own".to_owned();
            report.add(Code::IneffectivePolicy, subject, "", text);
        }
        if selector.is_some() || !is_ineffective {
            singles.push(Single { subject, selector });
        }
    }
    let codes = (Code::ConflictingSidecarWorkloadSelectors, Code::MultipleSidecarsWithoutWorkloadSelectors);
    find_singles_conflicts(mesh, &singles, "spec.workloadSelector", codes, report);
}

fn analyze_telemetries(mesh: &Mesh<'_>, report: &mut Report) {
    let untargeted =
        mesh.telemetries.iter().filter(|(_, spec)| spec.target_ref.is_none() && spec.target_refs.is_empty());
    let singles: Vec<Single<'_>> = untargeted
        .map(|(subject, telemetry)| {
            let selector = telemetry.selector.as_ref().map(|selector| &selector.match_labels.0);
            Single { subject, selector: selector.filter(|labels| !labels.is_empty()) }
        })
        .collect();
    let codes = (Code::ConflictingTelemetryWorkloadSelectors, Code::MultipleTelemetriesWithoutWorkloadSelectors);
    find_singles_conflicts(mesh, &singles, "spec.selector", codes, report);
}

/// Finds those that select nothing, and those that meet on a workload or in a namespace.
fn find_singles_conflicts(
    mesh: &Mesh<'_>,
    singles: &[Single<'_>],
    path: &str,
    (same_workload, same_namespace): (Code, Code),
    report: &mut Report,
) {
    let mut rivals: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let mut selects_any: BTreeSet<usize> = BTreeSet::new();
    for workload in &mesh.workloads {
        let selects = |single: &Single<'_>| {
            single.subject.namespace() == workload.namespace
                && single.selector.is_some_and(|selector| workload.is_selected(selector))
        };
        let group: Vec<usize> = (0..singles.len()).filter(|index| selects(&singles[*index])).collect();
        selects_any.extend(&group);
        for index in &group {
            rivals.entry(*index).or_default().extend(group.iter().filter(|other| *other != index));
        }
    }
    let mut by_namespace: BTreeMap<Namespace, Vec<usize>> = BTreeMap::new();
    for (index, single) in singles.iter().enumerate() {
        let Some(selector) = single.selector else {
            by_namespace.entry(single.subject.namespace()).or_default().push(index);
            continue;
        };
        if !selects_any.contains(&index) {
            let text = format!(
                "selector \"{}\" not found: no workload of the namespace has these labels",
                labels_text(selector)
            );
            report.add(Code::ReferencedResourceNotFound, single.subject, path, text);
        }
    }
    let names = |group: &mut dyn Iterator<Item = usize>| {
        group.map(|index| singles[index].subject.key.to_string()).collect::<Vec<_>>().join(", ")
    };
    for (index, others) in rivals.iter().filter(|(_, others)| !others.is_empty()) {
        let text = format!(
            "{} selects workloads that this one selects: which holds is not defined",
            names(&mut others.iter().copied())
        );
        report.add(same_workload, singles[*index].subject, path, text);
    }
    for (namespace, group) in by_namespace.iter().filter(|(_, group)| group.len() > 1) {
        for index in group {
            let others = names(&mut group.iter().copied().filter(|other| other != index));
            let text = format!("{others} is for the whole namespace {namespace} too: which holds is not defined");
            report.add(same_namespace, singles[*index].subject, "", text);
        }
    }
}

fn labels_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn find_no_workload(mesh: &Mesh<'_>, &(subject, policy): &Item<'_, AuthorizationPolicy>, report: &mut Report) {
    if policy.target_ref.is_some() || !policy.target_refs.is_empty() {
        return;
    }
    let is_mesh_wide = subject.namespace().as_str() == ROOT_NAMESPACE;
    let selector = policy.selector.as_ref();
    if is_mesh_wide && selector.is_none() {
        return;
    }
    let is_for_any = mesh.workloads.iter().any(|workload| {
        workload.in_mesh
            && (is_mesh_wide || workload.namespace == subject.namespace())
            && selector.is_none_or(|selector| workload.is_selected(&selector.match_labels))
    });
    if !is_for_any {
        let what = selector.map(|selector| format!(" with the labels {}", labels_text(&selector.match_labels)));
        let text = format!("is for no workload: there is none{}", what.unwrap_or_default());
        report.add(Code::NoMatchingWorkloadsFound, subject, "spec.selector", text);
    }
}

fn find_missing_namespaces(mesh: &Mesh<'_>, &(subject, policy): &Item<'_, AuthorizationPolicy>, report: &mut Report) {
    let is_there = |wanted: &str| {
        wanted == "*"
            || mesh.namespaces.keys().map(Namespace::as_str).any(|name| match wanted.strip_prefix('*') {
                Some(end) => name.ends_with(end),
                None => wanted.strip_suffix('*').map_or(name == wanted, |start| name.starts_with(start)),
            })
    };
    for (index, rule) in policy.rules.iter().enumerate() {
        for (place, from) in rule.from.iter().flat_map(|from| from.iter()).enumerate() {
            for (field, names) in
                [("namespaces", &from.source.namespaces), ("notNamespaces", &from.source.not_namespaces)]
            {
                for (item, name) in names.iter().enumerate().filter(|(_, name)| !is_there(name)) {
                    let path = format!("spec.rules[{index}].from[{place}].source.{field}[{item}]");
                    let text = format!("namespace {name:?} not found");
                    report.add(Code::ReferencedResourceNotFound, subject, &path, text);
                }
            }
        }
    }
}

/// Policies with a selector do not reach gateways of the Gateway API.
fn find_selected_gateways(mesh: &Mesh<'_>, report: &mut Report) {
    type Policy<'m> = (&'m Subject, &'m Option<WorkloadSelector>, bool);
    let authorizations = mesh.authorization_policies.iter();
    let authentications = mesh.request_authentications.iter();
    let telemetries = mesh.telemetries.iter();
    let policies: Vec<Policy<'_>> = authorizations
        .map(|(subject, spec)| (*subject, &spec.selector, spec.target_ref.is_some() || !spec.target_refs.is_empty()))
        .chain(authentications.map(|(subject, spec)| {
            (*subject, &spec.selector, spec.target_ref.is_some() || !spec.target_refs.is_empty())
        }))
        .chain(telemetries.map(|(subject, spec)| {
            (*subject, &spec.selector, spec.target_ref.is_some() || !spec.target_refs.is_empty())
        }))
        .collect();
    for (subject, selector, is_targeted) in policies {
        let (Some(selector), false) = (selector, is_targeted) else { continue };
        let gateway = mesh.workloads.iter().find_map(|workload| {
            let gateway = workload.labels.get(GATEWAY_LABEL)?;
            (workload.namespace == subject.namespace() && workload.is_selected(&selector.match_labels))
                .then_some(gateway)
        });
        if let Some(gateway) = gateway {
            let text = format!(
                "selects Gateway {gateway} of the Gateway API, which it does not reach: refer to it in targetRefs"
            );
            report.add(Code::IneffectiveSelector, subject, "spec.selector", text);
        }
    }
}
