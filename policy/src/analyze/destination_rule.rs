//! DestinationRules: hosts and subsets that nobody serves, servers that nobody verifies.

use std::collections::BTreeMap;

use super::{
    Code, Report,
    host::Host,
    mesh::{Item, Mesh},
};
use crate::api::networking::{ClientTlsMode, ClientTlsSettings, DestinationRule, Subset};

pub(super) fn analyze(mesh: &Mesh<'_>, report: &mut Report) {
    for rule in &mesh.destination_rules {
        find_unverified(rule, report);
        find_unserved(mesh, rule, report);
    }
}

fn find_unverified(&(subject, rule): &Item<'_, DestinationRule>, report: &mut Report) {
    let Some(policy) = &rule.traffic_policy else { return };
    // Secrets are given only to those that a selector names.
    let has_selector = rule.workload_selector.is_some();
    let mode = |tls: &ClientTlsSettings| {
        let mode = match tls.mode? {
            ClientTlsMode::Simple => "SIMPLE",
            ClientTlsMode::Mutual => "MUTUAL",
            ClientTlsMode::Disable | ClientTlsMode::IstioMutual => return None,
        };
        let from_secret = !tls.credential_name.is_empty() || !tls.ca_cert_credential_name.is_empty();
        let is_verified = !tls.ca_certificates.is_empty() || (from_secret && has_selector);
        (!is_verified).then_some(mode)
    };
    if let Some(mode) = policy.tls.as_ref().and_then(mode) {
        let text = format!(
            "TLS mode {mode} to {} without caCertificates believes each authority that the node's host trusts",
            rule.host
        );
        let code = Code::NoServerCertificateVerificationDestinationLevel;
        report.add(code, subject, "spec.trafficPolicy.tls", text);
    }
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        if let Some(mode) = port.tls.as_ref().and_then(mode) {
            let number = port.port.map_or(0, |port| port.number.number());
            let text = format!(
                "TLS mode {mode} to port {number} of {} without caCertificates believes each authority that the node's host trusts",
                rule.host
            );
            let path = format!("spec.trafficPolicy.portLevelSettings[{index}].tls");
            report.add(Code::NoServerCertificateVerificationPortLevel, subject, &path, text);
        }
    }
}

fn find_unserved(mesh: &Mesh<'_>, &(subject, rule): &Item<'_, DestinationRule>, report: &mut Report) {
    let Some(host) = mesh.hosts.find(&rule.host, &subject.namespace(), &rule.export_to) else {
        let text = format!("no service is called {}", rule.host);
        report.add(Code::UnknownDestinationRuleHost, subject, "spec.host", text);
        return;
    };
    for (index, subset) in rule.subsets.iter().enumerate() {
        if !has_workload(mesh, host, subset) {
            let text = format!("subset {} of {} has no endpoints: none has its labels", subset.name, rule.host);
            let path = format!("spec.subsets[{index}]");
            report.add(Code::DestinationRuleSubsetNotSelectPods, subject, &path, text);
        }
    }
}

fn has_workload(mesh: &Mesh<'_>, host: &Host<'_>, subset: &Subset) -> bool {
    let has_labels =
        |labels: &BTreeMap<String, String>| subset.labels.iter().all(|(key, value)| labels.get(key) == Some(value));
    let selected = host.selector.is_some_and(|selector| {
        mesh.workloads.iter().any(|workload| {
            host.namespace.as_ref().is_none_or(|namespace| *namespace == workload.namespace)
                && workload.is_selected(selector)
                && has_labels(&workload.labels)
        })
    });
    selected || host.endpoints.iter().any(|labels| has_labels(labels))
}
