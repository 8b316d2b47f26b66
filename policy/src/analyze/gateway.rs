//! Gateways: who serves them, with which certificates, and which claim the same.

use std::collections::BTreeSet;

use super::{
    Code, Report,
    host::literal,
    input::Subject,
    mesh::{Item, Mesh, OpenPorts, Workload},
};
use crate::{
    api::{
        core::TransportProtocol,
        networking::{Gateway, Server, ServerTlsSettings},
    },
    hosts::HostPattern,
};

pub(super) fn analyze(mesh: &Mesh<'_>, now: i64, report: &mut Report) {
    for item in &mesh.gateways {
        find_workloads(mesh, item, now, report);
        find_duplicate_certificates(mesh, item, report);
        find_conflicts(mesh, item, report);
    }
}

/// `key=value,…`, as Kubernetes prints selectors.
fn selector_text(gateway: &Gateway) -> String {
    let pairs: Vec<String> = gateway.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

fn find_workloads(mesh: &Mesh<'_>, item: &Item<'_, Gateway>, now: i64, report: &mut Report) {
    let (subject, gateway) = *item;
    let workloads: Vec<&Workload<'_>> =
        mesh.workloads.iter().filter(|workload| workload.is_selected(&gateway.selector)).collect();
    let Some(first) = workloads.first() else {
        let text = format!("selector \"{}\" not found: no workload has these labels", selector_text(gateway));
        report.add(Code::ReferencedResourceNotFound, subject, "spec.selector", text);
        return;
    };
    let opens_all = workloads.iter().any(|workload| workload.open == OpenPorts::All);
    let ports = reachable_ports(mesh, &workloads);
    for (index, server) in gateway.servers.iter().enumerate() {
        let number = server.port.number.get();
        if number != 0 && !opens_all && !ports.contains(&number) {
            let text = format!("port {number} is on no Service of the workloads with {}", selector_text(gateway));
            let path = format!("spec.servers[{index}].port.number");
            report.add(Code::GatewayPortNotDefinedOnService, subject, &path, text);
        }
        for (path, name) in credentials(index, server) {
            // Secrets are read where the gateway's workloads run.
            check_credential(mesh, first, subject, &path, name, now, report);
        }
    }
}

/// The ports on which clients reach one of the workloads.
fn reachable_ports(mesh: &Mesh<'_>, workloads: &[&Workload<'_>]) -> BTreeSet<i64> {
    let mut ports = BTreeSet::new();
    for workload in workloads {
        if let OpenPorts::These(open) = workload.open {
            ports.extend(open.iter().map(|port| i64::from(*port)));
        }
    }
    for (subject, service) in mesh.services.iter().filter(|(_, service)| !service.selector.is_empty()) {
        let namespace = subject.namespace();
        let selects =
            |workload: &&&Workload<'_>| workload.namespace == namespace && workload.is_selected(&service.selector);
        if workloads.iter().any(|workload| selects(&workload)) {
            let tcp = service.ports.iter().filter(|port| port.transport() == TransportProtocol::Tcp);
            ports.extend(tcp.map(|port| port.port.get()));
        }
    }
    ports
}

/// The Secrets that a listener names, with their paths.
fn credentials(index: usize, server: &Server) -> Vec<(String, &str)> {
    let Some(tls) = &server.tls else { return Vec::new() };
    let path = format!("spec.servers[{index}].tls");
    let one = Some((format!("{path}.credentialName"), tls.credential_name.as_str()));
    let several = tls.credential_names.iter().enumerate();
    let several = several.map(|(place, name)| (format!("{path}.credentialNames[{place}]"), name.as_str()));
    one.into_iter().chain(several).filter(|(_, name)| !name.is_empty()).collect()
}

fn check_credential(
    mesh: &Mesh<'_>,
    workload: &Workload<'_>,
    subject: &Subject,
    path: &str,
    name: &str,
    now: i64,
    report: &mut Report,
) {
    let (namespace, short) = name.split_once('/').unwrap_or((workload.namespace.as_str(), name));
    let is_meant = |subject: &Subject| subject.key.name == short && subject.namespace().as_str() == namespace;
    match mesh.secrets.iter().find(|(secret, _)| is_meant(secret)) {
        None => {
            let text = format!("credentialName {name:?} not found: no Secret of that name in namespace {namespace}");
            report.add(Code::ReferencedResourceNotFound, subject, path, text);
        }
        Some((_, content)) => {
            if let Err(why) = content.check_credential(now) {
                let text = format!("Secret {namespace}/{short} is no credential: {why}");
                report.add(Code::InvalidGatewayCredential, subject, path, text);
            }
        }
    }
}

/// Whether every workload that `wide` selects could be one that `narrow` selects too.
fn is_narrower(narrow: &Gateway, wide: &Gateway) -> bool {
    wide.selector.iter().all(|(key, value)| narrow.selector.get(key) == Some(value))
}

fn find_duplicate_certificates(mesh: &Mesh<'_>, &(subject, gateway): &Item<'_, Gateway>, report: &mut Report) {
    for (other_subject, other) in mesh.gateways.iter().filter(|(other, _)| other.key != subject.key) {
        if !is_narrower(other, gateway) {
            continue;
        }
        let settings =
            |gateway: &'_ Gateway| gateway.servers.iter().filter_map(|server| server.tls.clone()).collect::<Vec<_>>();
        let (own, others) = (settings(gateway), settings(other));
        if own.iter().any(|own| others.iter().any(|other| is_same_certificate(own, other))) {
            let text = format!("{} has the same certificate", other_subject.key);
            report.add(Code::GatewayDuplicateCertificate, subject, "", text);
        }
    }
}

fn is_same_certificate(a: &ServerTlsSettings, b: &ServerTlsSettings) -> bool {
    let same = |a: &str, b: &str| !a.is_empty() && a == b;
    if a.credential_name.is_empty() && b.credential_name.is_empty() {
        same(&a.server_certificate, &b.server_certificate) && same(&a.private_key, &b.private_key)
    } else {
        same(&a.credential_name, &b.credential_name)
    }
}

fn find_conflicts(mesh: &Mesh<'_>, &(subject, gateway): &Item<'_, Gateway>, report: &mut Report) {
    for (index, server) in gateway.servers.iter().enumerate() {
        let others = mesh.gateways.iter().filter(|(other, _)| other.key != subject.key);
        let claimants = others.filter(|(_, other)| {
            (is_narrower(other, gateway) || is_narrower(gateway, other))
                && other.servers.iter().any(|theirs| is_same_listener(server, theirs))
        });
        let claimants: Vec<String> = claimants.map(|(other, _)| other.key.to_string()).collect();
        if !claimants.is_empty() {
            let (number, hosts) = (server.port.number.get(), server.hosts.join(", "));
            let text = format!("{} claims port {number} for {hosts} too", claimants.join(", "));
            report.add(Code::ConflictingGateways, subject, &format!("spec.servers[{index}]"), text);
        }
    }
}

/// Whether two listeners claim a host on one port of one address.
fn is_same_listener(a: &Server, b: &Server) -> bool {
    let host = |text: &str| -> HostPattern { literal(text.split_once('/').map_or(text, |(_, host)| host)) };
    a.port.number == b.port.number
        && (a.bind.is_empty() || b.bind.is_empty() || a.bind == b.bind)
        && a.hosts.iter().any(|a| b.hosts.iter().any(|b| host(a).overlaps(&host(b))))
}
