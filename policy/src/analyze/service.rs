//! Services and ServiceEntries: ports whose protocol is not said, or not agreed on.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Code, Report,
    host::Scope,
    input::Input,
    mesh::{Item, Mesh, Workload},
};
use crate::api::{
    core::{Service, ServicePort, ServiceType, TargetPort, TransportProtocol},
    networking::PortProtocol,
    target::ROOT_NAMESPACE,
};

/// Starts of port names that say a protocol which weft passes as it is.
const OTHER_PROTOCOLS: [&str; 3] = ["udp", "hbone", "http_proxy"];
/// Ports whose protocol is known: SMTP, DNS, MySQL, MongoDB.
const KNOWN_PORTS: [i64; 4] = [25, 53, 3306, 27017];
/// Namespaces of systems, whose services are not the mesh's.
const SYSTEM_NAMESPACES: [&str; 5] =
    ["kube-system", "kube-public", "kube-node-lease", "local-path-storage", ROOT_NAMESPACE];
/// Marks what serves a Gateway that is made for services.
const MANAGED_LABEL: &str = "gateway.istio.io/managed";

pub(super) fn analyze(input: &Input, mesh: &Mesh<'_>, report: &mut Report) {
    for item in &mesh.services {
        find_unconventional_names(item, report);
    }
    for workload in mesh.workloads.iter().filter(|workload| workload.in_mesh) {
        find_workload_conflicts(mesh, workload, report);
    }
    find_missing_addresses(mesh, report);
    find_protocol_conflicts(mesh, report);
    find_disagreeing_nodes(input, mesh, report);
}

fn find_unconventional_names(&(subject, service): &Item<'_, Service>, report: &mut Report) {
    let is_external = service.kind == Some(ServiceType::ExternalName);
    if SYSTEM_NAMESPACES.contains(&subject.namespace().as_str()) || service.selector.is_empty() || is_external {
        return;
    }
    for (index, port) in service.ports.iter().enumerate().filter(|(_, port)| !says_protocol(port)) {
        let text = format!(
            "port {} (name {:?}) says no protocol: begin the name with one, such as http-, or set appProtocol",
            port.port.get(),
            port.name
        );
        let path = format!("spec.ports[{index}]");
        report.add(Code::PortNameIsNotUnderNamingConvention, subject, &path, text);
    }
}

fn says_protocol(port: &ServicePort) -> bool {
    let prefix = port.name.split('-').next().unwrap_or_default();
    port.transport() != TransportProtocol::Tcp
        || port.spoken().is_some()
        || OTHER_PROTOCOLS.contains(&prefix)
        || KNOWN_PORTS.contains(&port.port.get())
}

/// What a port of a service speaks, as far as it is said.
fn protocol(port: &ServicePort) -> String {
    match port.spoken() {
        Some(protocol) => format!("{protocol:?}").to_uppercase(),
        None => format!("{:?}", port.transport()).to_uppercase(),
    }
}

fn find_workload_conflicts(mesh: &Mesh<'_>, workload: &Workload<'_>, report: &mut Report) {
    let Some(subject) = workload.subject.filter(|subject| subject.key.kind != "Pod") else { return };
    if subject.labels.contains_key(MANAGED_LABEL) {
        return;
    }
    // Services by port and protocol, and by the workload's own port and theirs.
    let mut spoken: BTreeMap<i64, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let mut reached: BTreeMap<String, BTreeMap<i64, BTreeSet<String>>> = BTreeMap::new();
    for (other, service) in &mesh.services {
        if other.namespace() != workload.namespace
            || service.selector.is_empty()
            || !workload.is_selected(&service.selector)
        {
            continue;
        }
        let name = other.key.name.clone();
        for port in &service.ports {
            let number = port.port.get();
            spoken.entry(number).or_default().entry(protocol(port)).or_default().insert(name.clone());
            let target = match &port.target_port {
                Some(TargetPort::Name(name)) => name.clone(),
                Some(TargetPort::Number(number)) => number.get().to_string(),
                None => number.to_string(),
            };
            reached.entry(target).or_default().entry(number).or_default().insert(name.clone());
        }
    }
    for (number, protocols) in spoken.iter().filter(|(_, protocols)| protocols.len() > 1) {
        let services = joined(protocols.values().flatten());
        let text = format!(
            "is in the services {services}, which say different protocols of port {number}: {}",
            joined(protocols.keys())
        );
        report.add(Code::DeploymentAssociatedToMultipleServices, subject, "", text);
    }
    for (target, ports) in reached.iter().filter(|(_, ports)| ports.len() > 1) {
        let services = joined(ports.values().flatten());
        let numbers: Vec<String> = ports.keys().map(i64::to_string).collect();
        let text = format!("is in the services {services}, which reach its port {target} by {}", numbers.join(", "));
        report.add(Code::DeploymentConflictingPorts, subject, "", text);
    }
}

fn joined<'t>(names: impl Iterator<Item = &'t String>) -> String {
    let names: BTreeSet<&str> = names.map(String::as_str).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn find_missing_addresses(mesh: &Mesh<'_>, report: &mut Report) {
    for (subject, entry) in mesh.service_entries.iter().filter(|(_, entry)| entry.addresses.is_empty()) {
        for (index, port) in entry.ports.iter().enumerate() {
            if matches!(port.protocol, PortProtocol::Detected | PortProtocol::Tcp) {
                let text = format!(
                    "port {} is TCP: without addresses its connections cannot be told from others",
                    port.number.get()
                );
                report.add(Code::ServiceEntryAddressesRequired, subject, &format!("spec.ports[{index}]"), text);
            }
        }
    }
}

fn find_protocol_conflicts(mesh: &Mesh<'_>, report: &mut Report) {
    /// Protocols and documents.
    type Claims = BTreeSet<(String, usize)>;
    let mut claims: BTreeMap<(Scope, &str, i64), Claims> = BTreeMap::new();
    for (index, (subject, entry)) in mesh.service_entries.iter().enumerate() {
        for scope in Scope::of_field(&entry.export_to, &subject.namespace()) {
            for (host, port) in entry.hosts.iter().flat_map(|host| entry.ports.iter().map(move |port| (host, port))) {
                let claim = (format!("{:?}", port.protocol).to_uppercase(), index);
                claims.entry((scope.clone(), host, port.number.get())).or_default().insert(claim);
            }
        }
    }
    let mut told = BTreeSet::new();
    for ((scope, host, number), claimants) in &claims {
        let open = (*scope != Scope::All).then(|| claims.get(&(Scope::All, *host, *number))).flatten();
        let all: Claims = claimants.iter().chain(open.into_iter().flatten()).cloned().collect();
        let protocols = joined(all.iter().map(|(protocol, _)| protocol));
        let documents: BTreeSet<usize> = all.iter().map(|(_, index)| *index).collect();
        let differ = all.iter().map(|(protocol, _)| protocol).collect::<BTreeSet<_>>().len() > 1;
        if !differ || documents.len() < 2 {
            continue;
        }
        for index in documents.iter().filter(|index| told.insert(**index)) {
            let others = documents.iter().filter(|other| *other != index);
            let others: Vec<String> = others.map(|other| mesh.service_entries[*other].0.key.to_string()).collect();
            let text = format!("{} says another protocol of {host}:{number}: {protocols}", others.join(", "));
            report.add(Code::ConflictingServiceEntryProtocol, mesh.service_entries[*index].0, "spec.ports", text);
        }
    }
}

/// What Istio tells of clusters that know a service in different ways; here it is the nodes.
fn find_disagreeing_nodes(input: &Input, mesh: &Mesh<'_>, report: &mut Report) {
    for (name, announced) in &input.announced {
        let service = mesh
            .services
            .iter()
            .find(|(subject, _)| subject.key.name == name.name.as_str() && subject.namespace() == name.namespace);
        let is_declared = |number: u16| {
            let ports = service.map_or(&[][..], |(_, service)| service.ports.as_slice());
            ports.iter().any(|port| port.port.get() == i64::from(number) && port.spoken().is_some())
        };
        for (number, spoken) in announced.spoken.iter().filter(|(_, spoken)| spoken.len() > 1) {
            if is_declared(*number) {
                continue;
            }
            let said: Vec<String> = spoken
                .iter()
                .map(|(protocol, nodes)| format!("{} on {}", protocol.as_str(), joined(nodes.iter())))
                .collect();
            let text = format!(
                "port {number} is announced in different ways, each in force for its own workloads: {}; declare it in a \
                 Service, by the port's name or appProtocol",
                said.join(", ")
            );
            report.add_announced(
                Code::MultiClusterInconsistentService,
                name,
                service.map(|(subject, _)| *subject),
                text,
            );
        }
    }
}
