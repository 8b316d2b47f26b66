//! The label sets of Istio's metrics: which labels, in which order, with which values.

use std::{
    borrow::Cow,
    iter,
    sync::{Arc, OnceLock},
};

use weft_policy::{endpoint::Workload, service_id::ServiceId};

use super::{
    recorded::Recorded,
    series::{HttpOutcome, Parties},
};

/// Labels and what they are worth, one after another.
pub(super) type Pairs = Vec<(&'static str, Cow<'static, str>)>;

/// One series' labels. There are thousands of sets of two dozen: so names are kept once for all, and values end to end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Labels {
    names: &'static [&'static str],
    values: Box<str>,
    /// Where each value ends, in bytes.
    ends: Box<[u32]>,
    /// What documents ask of requests beside.
    pub(super) recorded: Option<Arc<Recorded>>,
}

/// The names of all label sets of one kind, which the first of them brings.
pub(super) type Names = OnceLock<Box<[&'static str]>>;

impl Labels {
    pub(super) fn new(names: &'static Names, pairs: Pairs) -> Self {
        let mut values = String::with_capacity(pairs.iter().map(|(_, value)| value.len()).sum());
        let ends = pairs.iter().map(|(_, value)| {
            values.push_str(value);
            u32::try_from(values.len()).unwrap_or(u32::MAX)
        });
        let ends = ends.collect();
        let names = names.get_or_init(|| pairs.iter().map(|(name, _)| *name).collect());
        Self { names, values: values.into(), ends, recorded: None }
    }

    pub(super) fn with(self, recorded: Option<Arc<Recorded>>) -> Self {
        Self { recorded, ..self }
    }

    /// In Istio's order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let starts = iter::once(0).chain(self.ends.iter().copied());
        let values = starts.zip(&self.ends).map(|(start, end)| self.values.get(start as usize..*end as usize));
        self.names.iter().copied().zip(values.map(Option::unwrap_or_default))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(label, _)| *label == name).map(|(_, value)| value)
    }
}

/// What Istio writes where something is not known.
const UNKNOWN: &str = "unknown";
/// The one cluster that a mesh is; Kiali drops edges without it.
const CLUSTER: &str = "weft";
/// Label `request_protocol` of connections of bytes.
pub(super) const TCP: &str = "tcp";

/// Which side of the hop reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    Source,
    Destination,
}

impl Reporter {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// Who calls whom, in the labels' words: `unknown` where it is not known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    pub reporter: Reporter,
    pub source: Party,
    pub destination: Party,
    pub service_namespace: String,
    /// Without its namespace; a host outside of the mesh whole.
    pub service: String,
    /// Whether the service is no service of the mesh.
    pub is_outside: bool,
    /// `http`, `grpc` or `tcp`.
    pub protocol: &'static str,
}

/// One end of an edge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    pub namespace: String,
    pub workload: String,
    /// Istio's canonical service and revision.
    pub app: String,
    pub version: String,
}

impl Party {
    fn of(workload: Option<&Workload>) -> Self {
        let of = |value: fn(&Workload) -> String| workload.map_or_else(|| UNKNOWN.to_owned(), value);
        Self {
            namespace: of(|workload| workload.namespace.to_string()),
            workload: of(|workload| workload.name.to_string()),
            app: of(|workload| workload.canonical_service.clone()),
            version: of(|workload| workload.canonical_revision.clone()),
        }
    }
}

impl Edge {
    pub(super) fn of(parties: &Parties, protocol: &'static str) -> Self {
        let service = parties.service_id();
        let is_outside = matches!(service, Some(ServiceId::Host { .. }));
        let (service_namespace, service) = match service {
            Some(id) => (id.namespace().to_string(), id.name().to_owned()),
            None => (UNKNOWN.to_owned(), UNKNOWN.to_owned()),
        };
        Self {
            reporter: parties.reporter,
            source: Party::of(parties.source.as_deref()),
            destination: Party::of(parties.destination.as_deref()),
            service_namespace,
            service,
            is_outside,
            protocol,
        }
    }
}

/// Envoy's response flags, as far as they can occur. See
/// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Flag {
    #[default]
    None,
    NoHealthyUpstream,
    ConnectFailure,
    UpstreamReset,
    Timeout,
    NoRoute,
    NoCluster,
    NameNotResolved,
    DownstreamGone,
    DownstreamProtocol,
    UpstreamProtocol,
    Overload,
    IdleTimeout,
    FaultInjected,
    DelayInjected,
    RetriesExhausted,
    Overflow,
    RateLimited,
    /// A token was refused, or somebody else who was asked said no.
    Unauthorized,
}

impl Flag {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::NoHealthyUpstream => "UH",
            Self::ConnectFailure => "UF",
            Self::UpstreamReset => "UC",
            Self::Timeout => "UT",
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::NameNotResolved => "DF",
            Self::DownstreamGone => "DC",
            Self::DownstreamProtocol => "DPE",
            Self::UpstreamProtocol => "UPE",
            Self::Overload => "OM",
            Self::IdleTimeout => "SI",
            Self::FaultInjected => "FI",
            Self::DelayInjected => "DI",
            Self::RetriesExhausted => "URX",
            Self::Overflow => "UO",
            Self::RateLimited => "RL",
            Self::Unauthorized => "UAEX",
        }
    }
}

/// Label `request_protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RequestProtocol {
    Http,
    Grpc,
}

impl RequestProtocol {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

pub(super) fn http(parties: &Parties, protocol: RequestProtocol, outcome: &HttpOutcome) -> Labels {
    static NAMES: Names = OnceLock::new();
    let mut labels = parties_labels(parties);
    labels.extend([
        ("request_protocol", Cow::Borrowed(protocol.as_str())),
        ("response_code", outcome.status.to_string().into()),
        ("grpc_response_status", outcome.grpc_status.map(|code| code.to_string()).unwrap_or_default().into()),
        ("response_flags", outcome.flag.as_str().into()),
        ("connection_security_policy", security_policy(parties).into()),
    ]);
    Labels::new(&NAMES, labels)
}

/// Those that are known before the call has ended.
pub(super) fn messages(parties: &Parties) -> Labels {
    static NAMES: Names = OnceLock::new();
    let mut labels = parties_labels(parties);
    labels.extend([
        ("request_protocol", Cow::Borrowed(RequestProtocol::Grpc.as_str())),
        ("connection_security_policy", security_policy(parties).into()),
    ]);
    Labels::new(&NAMES, labels)
}

pub(super) fn tcp(parties: &Parties, flag: Flag) -> Labels {
    static NAMES: Names = OnceLock::new();
    let mut labels = parties_labels(parties);
    labels.extend([
        ("request_protocol", Cow::Borrowed(TCP)),
        ("response_flags", flag.as_str().into()),
        ("connection_security_policy", security_policy(parties).into()),
    ]);
    Labels::new(&NAMES, labels)
}

/// Only the server side reports how a connection is secured; what comes to it is always mutual TLS.
fn security_policy(parties: &Parties) -> &'static str {
    match parties.reporter {
        Reporter::Source => UNKNOWN,
        Reporter::Destination => "mutual_tls",
    }
}

fn parties_labels(parties: &Parties) -> Pairs {
    let of = |workload: &Option<_>, value: fn(&Workload) -> String| {
        let value = workload.as_deref().map(value).filter(|value: &String| !value.is_empty());
        value.map_or(Cow::Borrowed(UNKNOWN), Cow::Owned)
    };
    let (source, destination) = (&parties.source, &parties.destination);
    let service = parties.service_id();
    let service = service.as_ref();
    vec![
        ("reporter", parties.reporter.as_str().into()),
        ("source_workload", of(source, |w| w.name.to_string())),
        ("source_canonical_service", of(source, |w| w.canonical_service.clone())),
        ("source_canonical_revision", of(source, |w| w.canonical_revision.clone())),
        ("source_workload_namespace", of(source, |w| w.namespace.to_string())),
        ("source_principal", of(source, |w| w.principal.clone())),
        ("source_app", of(source, |w| w.app.clone())),
        ("source_version", of(source, |w| w.version.clone())),
        ("source_cluster", CLUSTER.into()),
        ("destination_workload", of(destination, |w| w.name.to_string())),
        ("destination_workload_namespace", of(destination, |w| w.namespace.to_string())),
        ("destination_principal", of(destination, |w| w.principal.clone())),
        ("destination_app", of(destination, |w| w.app.clone())),
        ("destination_version", of(destination, |w| w.version.clone())),
        ("destination_service", service.map_or(UNKNOWN.into(), |id| id.fqdn().into())),
        ("destination_canonical_service", of(destination, |w| w.canonical_service.clone())),
        ("destination_canonical_revision", of(destination, |w| w.canonical_revision.clone())),
        ("destination_service_name", service.map_or(UNKNOWN.into(), |id| id.name().to_owned().into())),
        ("destination_service_namespace", service.map_or(UNKNOWN.into(), |id| id.namespace().to_string().into())),
        ("destination_cluster", CLUSTER.into()),
    ]
}

/// `NAMESPACE/WORKLOAD` of the caller, and the host that is called.
pub(super) fn parties(labels: &Labels) -> (String, String) {
    let of = |name: &str| labels.get(name).unwrap_or(UNKNOWN);
    (format!("{}/{}", of("source_workload_namespace"), of("source_workload")), of("destination_service").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the order of Istio's own.
    const NAMES: [&str; 25] = [
        "reporter",
        "source_workload",
        "source_canonical_service",
        "source_canonical_revision",
        "source_workload_namespace",
        "source_principal",
        "source_app",
        "source_version",
        "source_cluster",
        "destination_workload",
        "destination_workload_namespace",
        "destination_principal",
        "destination_app",
        "destination_version",
        "destination_service",
        "destination_canonical_service",
        "destination_canonical_revision",
        "destination_service_name",
        "destination_service_namespace",
        "destination_cluster",
        "request_protocol",
        "response_code",
        "grpc_response_status",
        "response_flags",
        "connection_security_policy",
    ];

    #[test]
    fn labels_have_istios_names_order_and_words_for_what_is_not_known() {
        let source = Parties::new(Reporter::Source);
        let all = http(&source, RequestProtocol::Http, &HttpOutcome::default());
        assert_eq!(all.iter().map(|(name, _)| name).collect::<Vec<_>>(), NAMES);
        let value = |labels: &Labels, name: &str| labels.get(name).map(str::to_owned);
        for (name, expected) in [
            ("reporter", "source"),
            ("source_cluster", "weft"),
            ("destination_cluster", "weft"),
            ("request_protocol", "http"),
            ("response_code", "0"),
            ("grpc_response_status", ""),
            ("response_flags", "-"),
        ] {
            assert_eq!(value(&all, name).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(all.iter().filter(|(_, value)| *value == "unknown").count(), 18, "{all:?}");

        let destination = Parties::new(Reporter::Destination);
        let outcome = HttpOutcome { status: 200, grpc_status: Some(14), flag: Flag::Timeout };
        let all = http(&destination, RequestProtocol::Grpc, &outcome);
        assert_eq!(value(&all, "grpc_response_status").as_deref(), Some("14"));
        assert_eq!(value(&all, "response_flags").as_deref(), Some("UT"));
        assert_eq!(value(&all, "connection_security_policy").as_deref(), Some("mutual_tls"));

        let of_bytes = tcp(&source, Flag::None);
        let is_of_http = |name: &str| name == "response_code" || name == "grpc_response_status";
        let names: Vec<_> = NAMES.into_iter().filter(|name| !is_of_http(name)).collect();
        assert_eq!(of_bytes.iter().map(|(name, _)| name).collect::<Vec<_>>(), names);
        assert_eq!(value(&of_bytes, "request_protocol").as_deref(), Some("tcp"));
    }
}
