//! The kinds of documents that weft knows.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{
    api::{core, discovery, gateway, mesh, networking, security, telemetry},
    document::{Checker, DocumentError, read_in_spec, read_root, tree::Node},
};

/// What one kind of document says.
pub(crate) trait Resource: DeserializeOwned + JsonSchema {
    /// Whether it holds what must not be spread in the clear, so that only its head is.
    const CONFIDENTIAL: bool = false;

    /// Finds what is wrong beyond the type of each field, and what deserves a word.
    fn check(&self, checker: &mut Checker<'_>);
}

/// Where a document of a kind says what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In its field `spec`.
    Spec,
    /// In fields beside `metadata`.
    Root,
}

/// One kind of document.
#[derive(Debug)]
pub struct Kind {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// Such as `VirtualService`.
    pub kind: &'static str,
    /// Such as `virtualservices`.
    pub plural: &'static str,
    /// Such as `vs`.
    pub short: &'static [&'static str],
    pub namespaced: bool,
    /// The versions that are read, the preferred one first; they mean the same.
    pub versions: &'static [&'static str],
    /// Whether it holds what must not be spread in the clear: what is stored is its head.
    pub confidential: bool,
    pub(crate) place: Place,
    pub(crate) read: fn(&Node) -> Result<Spec, DocumentError>,
    pub(crate) schema: fn() -> schemars::Schema,
}

impl Kind {
    /// Such as `networking.istio.io/v1`; the core group's have no group.
    pub fn api_versions(&self) -> impl Iterator<Item = String> {
        self.versions.iter().map(|version| match self.group {
            "" => (*version).to_owned(),
            group => format!("{group}/{version}"),
        })
    }
}

macro_rules! kinds {
    (@namespaced Namespaced) => { true };
    (@namespaced Cluster) => { false };
    (@read Spec) => { read_in_spec };
    (@read Root) => { read_root };
    ($( $variant:ident($type:ty) $kind:literal $scope:ident $place:ident $group:literal $versions:expr, $plural:literal $short:expr; )*) => {
        /// What a document says, by kind.
        #[derive(Debug, PartialEq)]
        pub enum Spec {
            $( $variant(Box<$type>), )*
            /// A Secret as it is stored.
            SecretHead(Box<core::SecretHead>),
        }

        impl Spec {
            pub(crate) fn check(&self, checker: &mut Checker<'_>) {
                match self {
                    $( Self::$variant(spec) => spec.check(checker), )*
                    Self::SecretHead(head) => head.check(checker),
                }
            }
        }

        static KINDS: &[Kind] = &[ $( Kind {
            group: $group,
            kind: $kind,
            plural: $plural,
            short: $short,
            namespaced: kinds!(@namespaced $scope),
            versions: $versions,
            confidential: <$type>::CONFIDENTIAL,
            place: Place::$place,
            read: |node| kinds!(@read $place)(node).map(|spec| Spec::$variant(Box::new(spec))),
            schema: || schemars::schema_for!($type),
        }, )* ];
    };
}

// One line a kind: variant, type, name, scope, where its fields stand, API group, versions, and its names on the command line.
kinds! {
    ConfigMap(core::ConfigMap) "ConfigMap" Namespaced Root "" &["v1"], "configmaps" &["cm"];
    Namespace(core::Namespace) "Namespace" Cluster Root "" &["v1"], "namespaces" &["ns"];
    Secret(core::Secret) "Secret" Namespaced Root "" &["v1"], "secrets" &[];
    Service(core::Service) "Service" Namespaced Spec "" &["v1"], "services" &["svc"];
    ServiceAccount(core::ServiceAccount) "ServiceAccount" Namespaced Root "" &["v1"], "serviceaccounts" &["sa"];
    EndpointSlice(discovery::EndpointSlice) "EndpointSlice" Namespaced Root "discovery.k8s.io" &["v1"], "endpointslices" &[];
    DestinationRule(networking::DestinationRule) "DestinationRule" Namespaced Spec "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "destinationrules" &["dr"];
    IstioGateway(networking::Gateway) "Gateway" Namespaced Spec "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "gateways" &["gw"];
    ServiceEntry(networking::ServiceEntry) "ServiceEntry" Namespaced Spec "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "serviceentries" &["se"];
    Sidecar(networking::Sidecar) "Sidecar" Namespaced Spec "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "sidecars" &[];
    VirtualService(networking::VirtualService) "VirtualService" Namespaced Spec "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "virtualservices" &["vs"];
    AuthorizationPolicy(security::AuthorizationPolicy) "AuthorizationPolicy" Namespaced Spec "security.istio.io" &["v1", "v1beta1"], "authorizationpolicies" &["ap"];
    PeerAuthentication(security::PeerAuthentication) "PeerAuthentication" Namespaced Spec "security.istio.io" &["v1", "v1beta1"], "peerauthentications" &["pa"];
    RequestAuthentication(security::RequestAuthentication) "RequestAuthentication" Namespaced Spec "security.istio.io" &["v1", "v1beta1"], "requestauthentications" &["ra"];
    Telemetry(telemetry::Telemetry) "Telemetry" Namespaced Spec "telemetry.istio.io" &["v1", "v1alpha1"], "telemetries" &[];
    GatewayClass(gateway::GatewayClass) "GatewayClass" Cluster Spec "gateway.networking.k8s.io" &["v1", "v1beta1", "v1alpha2"], "gatewayclasses" &["gc"];
    K8sGateway(gateway::Gateway) "Gateway" Namespaced Spec "gateway.networking.k8s.io" &["v1", "v1beta1", "v1alpha2"], "gateways" &["gtw"];
    ListenerSet(gateway::ListenerSet) "ListenerSet" Namespaced Spec "gateway.networking.k8s.io" &["v1"], "listenersets" &["lset"];
    XListenerSet(gateway::ListenerSet) "XListenerSet" Namespaced Spec "gateway.networking.x-k8s.io" &["v1alpha1"], "xlistenersets" &[];
    HttpRoute(gateway::HttpRoute) "HTTPRoute" Namespaced Spec "gateway.networking.k8s.io" &["v1", "v1beta1", "v1alpha2"], "httproutes" &[];
    GrpcRoute(gateway::GrpcRoute) "GRPCRoute" Namespaced Spec "gateway.networking.k8s.io" &["v1", "v1alpha2"], "grpcroutes" &[];
    TcpRoute(gateway::TcpRoute) "TCPRoute" Namespaced Spec "gateway.networking.k8s.io" &["v1", "v1alpha2"], "tcproutes" &[];
    TlsRoute(gateway::TlsRoute) "TLSRoute" Namespaced Spec "gateway.networking.k8s.io" &["v1", "v1alpha3", "v1alpha2"], "tlsroutes" &[];
    UdpRoute(gateway::UdpRoute) "UDPRoute" Namespaced Spec "gateway.networking.k8s.io" &["v1", "v1alpha2"], "udproutes" &[];
    ReferenceGrant(gateway::ReferenceGrant) "ReferenceGrant" Namespaced Spec "gateway.networking.k8s.io" &["v1", "v1beta1", "v1alpha2"], "referencegrants" &["refgrant"];
    BackendTlsPolicy(gateway::BackendTlsPolicy) "BackendTLSPolicy" Namespaced Spec "gateway.networking.k8s.io" &["v1", "v1alpha3"], "backendtlspolicies" &["btlspolicy"];
    MeshConfig(mesh::MeshConfig) "MeshConfig" Namespaced Spec "weft.mesh" &["v1alpha1"], "meshconfigs" &[];
    RateLimit(mesh::RateLimit) "RateLimit" Namespaced Spec "weft.mesh" &["v1alpha1"], "ratelimits" &[];
    CircuitPolicy(mesh::CircuitPolicy) "CircuitPolicy" Namespaced Spec "weft.mesh" &["v1alpha1"], "circuitpolicies" &[];
    BackendTrafficPolicy(mesh::BackendTrafficPolicy) "BackendTrafficPolicy" Namespaced Spec "weft.mesh" &["v1alpha1"], "backendtrafficpolicies" &["btp"];
    Revocation(mesh::Revocation) "Revocation" Cluster Spec "weft.mesh" &["v1alpha1"], "revocations" &[];
    FaultExperiment(mesh::FaultExperiment) "FaultExperiment" Namespaced Spec "weft.mesh" &["v1alpha1"], "faultexperiments" &[];
    WorkloadEntry(networking::WorkloadEntry) "WorkloadEntry" Namespaced Spec "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "workloadentries" &["we"];
    WorkloadGroup(networking::WorkloadGroup) "WorkloadGroup" Namespaced Spec "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "workloadgroups" &["wg"];
}

/// All kinds.
pub fn kinds() -> &'static [Kind] {
    KINDS
}

const ALLOW_WHO: &str =
    "say who may call in an AuthorizationPolicy (security.istio.io), by the caller's identity; weft filters no packets";
const INGRESS: &str = "describe the listeners in a Gateway and the routes in HTTPRoutes (gateway.networking.k8s.io)";
const BY_GATEWAY_API: &str =
    "write it as the route of the same kind of gateway.networking.k8s.io, with the Service as its parentRef";
const SPLIT: &str =
    "give the backends of an HTTPRoute (gateway.networking.k8s.io) or the routes of a VirtualService weights";
const ROUTES: &str =
    "timeouts, retries and routes by path stand in an HTTPRoute (gateway.networking.k8s.io) or a VirtualService";

/// Kinds that people bring of other meshes, of Envoy, which weft is not, and of clusters, and what to use instead.
const UNSUPPORTED: &[(&str, &str, &str)] = &[
    ("networking.k8s.io", "Ingress", INGRESS),
    ("extensions", "Ingress", INGRESS),
    ("networking.k8s.io", "IngressClass", INGRESS),
    ("networking.k8s.io", "NetworkPolicy", ALLOW_WHO),
    ("cilium.io", "CiliumNetworkPolicy", ALLOW_WHO),
    (
        "install.istio.io",
        "IstioOperator",
        "weft has no control plane to install: each host runs `weft up`, and mesh-wide settings stand in a MeshConfig \
         (weft.mesh/v1alpha1)",
    ),
    ("linkerd.io", "ServiceProfile", ROUTES),
    ("policy.linkerd.io", "HTTPRoute", BY_GATEWAY_API),
    ("policy.linkerd.io", "GRPCRoute", BY_GATEWAY_API),
    ("policy.linkerd.io", "Server", ALLOW_WHO),
    ("policy.linkerd.io", "ServerAuthorization", ALLOW_WHO),
    ("policy.linkerd.io", "AuthorizationPolicy", ALLOW_WHO),
    ("policy.linkerd.io", "MeshTLSAuthentication", ALLOW_WHO),
    ("policy.linkerd.io", "NetworkAuthentication", ALLOW_WHO),
    ("policy.linkerd.io", "HTTPLocalRateLimitPolicy", "limit requests by a RateLimit (weft.mesh/v1alpha1)"),
    ("split.smi-spec.io", "TrafficSplit", SPLIT),
    ("specs.smi-spec.io", "HTTPRouteGroup", ROUTES),
    ("access.smi-spec.io", "TrafficTarget", ALLOW_WHO),
    ("consul.hashicorp.com", "ServiceDefaults", "name ports and protocols in a Service, limits in a DestinationRule"),
    ("consul.hashicorp.com", "ServiceResolver", "subsets, failover and load balancing stand in a DestinationRule"),
    ("consul.hashicorp.com", "ServiceRouter", ROUTES),
    ("consul.hashicorp.com", "ServiceSplitter", SPLIT),
    ("consul.hashicorp.com", "ServiceIntentions", ALLOW_WHO),
    ("consul.hashicorp.com", "ProxyDefaults", "mesh-wide settings stand in a MeshConfig (weft.mesh/v1alpha1)"),
    (
        "networking.istio.io",
        "EnvoyFilter",
        "weft has no Envoy to filter: VirtualService, DestinationRule, AuthorizationPolicy, RateLimit and Telemetry \
         cover headers, retries, limits, access and logs",
    ),
    (
        "extensions.istio.io",
        "WasmPlugin",
        "weft runs no plugins: call out with an AuthorizationPolicy of action CUSTOM, or run the code as a service on \
         the route",
    ),
    (
        "networking.istio.io",
        "ProxyConfig",
        "the proxy is part of each node: set workers in node.yaml, and mesh-wide settings in a MeshConfig \
         (weft.mesh/v1alpha1)",
    ),
];

/// What to use instead of a kind that weft will not have.
pub(crate) fn instead_of(group: &str, kind: &str) -> Option<&'static str> {
    let found = UNSUPPORTED.iter().find(|(known, name, _)| *known == group && *name == kind);
    found.map(|(_, _, instead)| *instead)
}

/// Kinds of Kubernetes that describe processes and how many of them run, which is the hosts' business here, by API group.
const WORKLOAD_KINDS: [(&str, &[&str]); 6] = [
    ("", &["Pod", "ReplicationController"]),
    ("apps", &["DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"]),
    ("autoscaling", &["HorizontalPodAutoscaler"]),
    ("batch", &["CronJob", "Job"]),
    // Where those of `apps` were once.
    ("extensions", &["DaemonSet", "Deployment", "ReplicaSet"]),
    ("policy", &["PodDisruptionBudget"]),
];

/// Whether a kind describes workloads, so that a file may hold it and weft skips it.
pub(crate) fn is_workload(group: &str, kind: &str) -> bool {
    WORKLOAD_KINDS.iter().any(|(known, kinds)| *known == group && kinds.contains(&kind))
}

/// The kind that a user means by a word, in any case: `virtualservice`, `virtualservices` or `vs`; and with its API
/// group, `virtualservices.networking.istio.io`, where a word alone means several.
pub fn find_kind(word: &str) -> Option<&'static Kind> {
    let is_named = |kind: &Kind, name: &str| {
        kind.kind.eq_ignore_ascii_case(name)
            || kind.plural.eq_ignore_ascii_case(name)
            || kind.short.iter().any(|short| short.eq_ignore_ascii_case(name))
    };
    KINDS.iter().find(|kind| is_named(kind, word)).or_else(|| {
        let (name, group) = word.split_once('.')?;
        KINDS.iter().find(|kind| is_named(kind, name) && kind.group.eq_ignore_ascii_case(group))
    })
}

/// The word that was probably meant: at most a third of its letters differ.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // A longer word is no misspelling of a field, and the distance is quadratic.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_each_of_their_names_in_any_case() {
        for word in ["VirtualService", "virtualservice", "virtualservices", "vs", "vs.networking.istio.io"] {
            assert_eq!(find_kind(word).map(|kind| kind.kind), Some("VirtualService"), "{word}");
        }
        assert!(find_kind("deployment").is_none());
    }

    #[test]
    fn what_to_use_instead_is_said_once_for_each_kind_and_of_none_that_weft_has() {
        for (place, (group, kind, instead)) in UNSUPPORTED.iter().enumerate() {
            assert_eq!(instead_of(group, kind), Some(*instead), "{group} {kind}");
            assert!(UNSUPPORTED[..place].iter().all(|(g, k, _)| (g, k) != (group, kind)), "{group} {kind} twice");
            assert!(!kinds().iter().any(|known| known.group == *group && known.kind == *kind), "{group} {kind}");
        }
    }

    #[test]
    fn no_two_kinds_of_a_group_share_a_name() {
        let mut names: Vec<String> = kinds()
            .iter()
            .flat_map(|kind| {
                let names = [kind.kind, kind.plural].into_iter().chain(kind.short.iter().copied());
                names.map(|name| format!("{}.{}", name.to_ascii_lowercase(), kind.group))
            })
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
