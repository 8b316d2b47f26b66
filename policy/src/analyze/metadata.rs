//! Annotations, status, and what is old.

use super::{
    Code, Report,
    input::{Content, Input, Subject, inside},
    mesh::Mesh,
};
use crate::document::tree::{Node, Value};

pub(super) fn analyze(input: &Input, mesh: &Mesh<'_>, report: &mut Report) {
    for subject in input.subjects.values() {
        find_wrong_annotations(subject, report);
        find_negative_conditions(subject, report);
    }
    find_deprecated(mesh, report);
    find_no_provider(mesh, report);
}

/// What an annotation may say.
#[derive(Clone, Copy)]
enum Allowed {
    Anything,
    Number,
    Boolean,
    /// Port numbers joined by commas; `*` alone is all.
    Ports,
}

const POD: &[&str] = &["Pod"];
const SERVICE: &[&str] = &["Service"];
/// No kind that annotations are checked of.
const OTHERS: &[&str] = &[];
const ANY: &[&str] = CHECKED_KINDS;

/// The kinds of Kubernetes whose annotations are checked: others are written by controllers.
const CHECKED_KINDS: &[&str] = &["Namespace", "Service", "Pod", "Deployment"];

/// Annotations that are Istio's, though their name does not say so.
const FOREIGN_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Istio's annotations, of which kinds, and what they may say.
const ANNOTATIONS: &[(&str, &[&str], Allowed)] = &[
    ("alpha.istio.io/canonical-serviceaccounts", SERVICE, Allowed::Anything),
    ("alpha.istio.io/identity", POD, Allowed::Anything),
    ("alpha.istio.io/kubernetes-serviceaccounts", SERVICE, Allowed::Anything),
    ("ambient.istio.io/bypass-inbound-capture", POD, Allowed::Boolean),
    ("ambient.istio.io/dns-capture", POD, Allowed::Boolean),
    ("ambient.istio.io/redirection", POD, Allowed::Anything),
    ("ambient.istio.io/waypoint-inbound-binding", OTHERS, Allowed::Anything),
    ("galley.istio.io/analyze-suppress", ANY, Allowed::Anything),
    ("gateway.istio.io/controller-version", OTHERS, Allowed::Anything),
    ("gateway.istio.io/name-override", OTHERS, Allowed::Anything),
    ("gateway.istio.io/service-account", OTHERS, Allowed::Anything),
    ("inject.istio.io/templates", POD, Allowed::Anything),
    ("install.operator.istio.io/chart-owner", ANY, Allowed::Anything),
    ("install.operator.istio.io/owner-generation", ANY, Allowed::Anything),
    ("install.operator.istio.io/version", ANY, Allowed::Anything),
    ("internal.istio.io/parents", OTHERS, Allowed::Anything),
    ("internal.istio.io/service-semantics", OTHERS, Allowed::Anything),
    ("istio.io/autoRegistrationGroup", OTHERS, Allowed::Anything),
    ("istio.io/connectedAt", OTHERS, Allowed::Anything),
    ("istio.io/disconnectedAt", OTHERS, Allowed::Anything),
    ("istio.io/dry-run", OTHERS, Allowed::Boolean),
    ("istio.io/rev", POD, Allowed::Anything),
    ("istio.io/reroute-virtual-interfaces", POD, Allowed::Anything),
    ("istio.io/workloadController", OTHERS, Allowed::Anything),
    ("kubernetes.io/ingress.class", OTHERS, Allowed::Anything),
    ("networking.istio.io/address-type", OTHERS, Allowed::Anything),
    ("networking.istio.io/exportTo", SERVICE, Allowed::Anything),
    ("networking.istio.io/service-type", OTHERS, Allowed::Anything),
    ("networking.istio.io/traffic-distribution", &["Service", "Namespace"], Allowed::Anything),
    ("networking.alpha.istio.io/endpointsVersion", SERVICE, Allowed::Anything),
    ("networking.alpha.istio.io/serviceScope", SERVICE, Allowed::Anything),
    ("prometheus.istio.io/merge-metrics", POD, Allowed::Boolean),
    ("proxy.istio.io/config", POD, Allowed::Anything),
    ("proxy.istio.io/overrides", POD, Allowed::Anything),
    ("readiness.status.sidecar.istio.io/applicationPorts", POD, Allowed::Ports),
    ("readiness.status.sidecar.istio.io/failureThreshold", POD, Allowed::Number),
    ("readiness.status.sidecar.istio.io/initialDelaySeconds", POD, Allowed::Number),
    ("readiness.status.sidecar.istio.io/periodSeconds", POD, Allowed::Number),
    ("sidecar.istio.io/agentLogLevel", POD, Allowed::Anything),
    ("sidecar.istio.io/bootstrapOverride", POD, Allowed::Anything),
    ("sidecar.istio.io/componentLogLevel", POD, Allowed::Anything),
    ("sidecar.istio.io/controlPlaneAuthPolicy", POD, Allowed::Anything),
    ("sidecar.istio.io/discoveryAddress", POD, Allowed::Anything),
    ("sidecar.istio.io/enableCoreDump", POD, Allowed::Boolean),
    ("sidecar.istio.io/extraStatTags", POD, Allowed::Anything),
    ("sidecar.istio.io/inject", POD, Allowed::Anything),
    ("sidecar.istio.io/interceptionMode", POD, Allowed::Anything),
    ("sidecar.istio.io/logLevel", POD, Allowed::Anything),
    ("sidecar.istio.io/nativeSidecar", POD, Allowed::Boolean),
    ("sidecar.istio.io/proxyCPU", POD, Allowed::Anything),
    ("sidecar.istio.io/proxyCPULimit", POD, Allowed::Anything),
    ("sidecar.istio.io/proxyImage", POD, Allowed::Anything),
    ("sidecar.istio.io/proxyImageType", POD, Allowed::Anything),
    ("sidecar.istio.io/proxyMemory", POD, Allowed::Anything),
    ("sidecar.istio.io/proxyMemoryLimit", POD, Allowed::Anything),
    ("sidecar.istio.io/rewriteAppHTTPProbers", POD, Allowed::Boolean),
    ("sidecar.istio.io/statsCompression", POD, Allowed::Boolean),
    ("sidecar.istio.io/statsEvictionInterval", POD, Allowed::Anything),
    ("sidecar.istio.io/statsHistogramBuckets", POD, Allowed::Anything),
    ("sidecar.istio.io/statsInclusionPrefixes", POD, Allowed::Anything),
    ("sidecar.istio.io/statsInclusionRegexps", POD, Allowed::Anything),
    ("sidecar.istio.io/statsInclusionSuffixes", POD, Allowed::Anything),
    ("sidecar.istio.io/status", POD, Allowed::Anything),
    ("sidecar.istio.io/userVolume", POD, Allowed::Anything),
    ("sidecar.istio.io/userVolumeMount", POD, Allowed::Anything),
    ("status.sidecar.istio.io/port", POD, Allowed::Number),
    ("topology.istio.io/controlPlaneClusters", &["Namespace"], Allowed::Anything),
    ("traffic.istio.io/nodeSelector", SERVICE, Allowed::Anything),
    ("traffic.sidecar.istio.io/excludeInboundPorts", POD, Allowed::Ports),
    ("traffic.sidecar.istio.io/excludeInterfaces", POD, Allowed::Anything),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", POD, Allowed::Anything),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", POD, Allowed::Ports),
    ("traffic.sidecar.istio.io/includeInboundPorts", POD, Allowed::Ports),
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", POD, Allowed::Anything),
    ("traffic.sidecar.istio.io/includeOutboundPorts", POD, Allowed::Ports),
    ("traffic.sidecar.istio.io/kubevirtInterfaces", POD, Allowed::Anything),
];

impl Allowed {
    /// What the value must be, if it is not.
    fn refuse(self, value: &str) -> Option<&'static str> {
        let is_port = |text: &str| text.trim().parse::<u16>().is_ok();
        let (is_allowed, wanted) = match self {
            Self::Anything => return None,
            Self::Number => (value.parse::<u32>().is_ok(), "a whole number"),
            Self::Boolean => (matches!(value, "true" | "false"), "true or false"),
            Self::Ports => {
                (matches!(value, "" | "*") || value.split(',').all(is_port), "port numbers joined by commas, or *")
            }
        };
        (!is_allowed).then_some(wanted)
    }
}

fn find_wrong_annotations(subject: &Subject, report: &mut Report) {
    let kind = subject.key.kind.as_str();
    if !CHECKED_KINDS.contains(&kind) {
        return;
    }
    for (name, value) in &subject.annotations {
        let domain = name.split('/').next().unwrap_or_default();
        if !domain.ends_with("istio.io") && name != FOREIGN_ANNOTATION {
            continue;
        }
        let path = format!("metadata.annotations[{name:?}]");
        let Some((_, kinds, allowed)) = ANNOTATIONS.iter().find(|(known, ..)| known == name) else {
            report.add(Code::UnknownAnnotation, subject, &path, format!("Istio has no annotation {name}"));
            continue;
        };
        if !kinds.contains(&kind) {
            let belongs = if kinds.is_empty() { "other kinds".to_owned() } else { kinds.join(", ") };
            let text = format!("annotation {name} has no effect here: it is for {belongs}");
            report.add(Code::MisplacedAnnotation, subject, &path, text);
        } else if let Some(wanted) = allowed.refuse(value) {
            let text = format!("annotation {name} is {value:?}; it must be {wanted}");
            report.add(Code::InvalidAnnotation, subject, &path, text);
        }
    }
}

/// The kinds whose status is looked at.
const KINDS_WITH_CONDITIONS: [&str; 3] = ["Service", "ServiceEntry", "AuthorizationPolicy"];

fn find_negative_conditions(subject: &Subject, report: &mut Report) {
    if matches!(subject.content, Content::Workload | Content::Host)
        || !KINDS_WITH_CONDITIONS.contains(&subject.key.kind.as_str())
    {
        return;
    }
    let Some(Node { value: Value::List(conditions), .. }) = inside(&subject.tree, &["status", "conditions"]) else {
        return;
    };
    for (index, condition) in conditions.iter().enumerate() {
        let text = |key: &str| condition.get(key).and_then(Node::text).unwrap_or_default();
        if text("status") == "False" {
            let text = format!("condition {} is False ({}): {}", text("type"), text("reason"), text("message"));
            report.add(Code::NegativeConditionStatus, subject, &format!("status.conditions[{index}]"), text);
        }
    }
}

fn find_deprecated(mesh: &Mesh<'_>, report: &mut Report) {
    for (subject, service) in &mesh.virtual_services {
        for (index, rule) in service.http.iter().enumerate() {
            let delay = rule.fault.as_ref().and_then(|fault| fault.delay.as_ref());
            if delay.and_then(|delay| delay.percent).is_some_and(|percent| percent.get() > 0) {
                let path = format!("spec.http[{index}].fault.delay.percent");
                report.add(Code::Deprecated, subject, &path, "percent is old: use percentage".into());
            }
        }
    }
    for (subject, sidecar) in &mesh.sidecars {
        if sidecar.outbound_traffic_policy.as_ref().is_some_and(|policy| policy.egress_proxy.is_some()) {
            let path = "spec.outboundTrafficPolicy.egressProxy";
            report.add(Code::Deprecated, subject, path, "egressProxy is ignored".into());
        }
    }
}

fn find_no_provider(mesh: &Mesh<'_>, report: &mut Report) {
    if mesh.mesh_configs.iter().any(|(_, config)| config.access_log != Default::default()) {
        return;
    }
    for (subject, telemetry) in &mesh.telemetries {
        for (index, logging) in telemetry.access_logging.iter().enumerate() {
            if logging.providers.is_empty() && logging.disabled != Some(true) {
                let text = "names no provider of access logs, and the mesh has no default one".to_owned();
                report.add(Code::InvalidTelemetryProvider, subject, &format!("spec.accessLogging[{index}]"), text);
            }
        }
    }
}
