//! GatewayClass, Gateway and ListenerSet: where traffic enters the mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::Namespace;

use super::{
    AnnotationKey, AnnotationValue, ControllerName, GatewayDefaultScope, Group, Hostname, KindName, ObjectName,
    ObjectReference, ProtocolType, SecretObjectReference, SectionName,
    http_route::check_chars,
    references::{gateway_group, gateway_kind},
};
use crate::{
    api::values::{Int, Labels, List, Port, checked_text},
    document::Checker,
    kinds::Resource,
};

/// Longest description of a class, in characters.
const MAX_DESCRIPTION: usize = 64;
/// Most entries of `options`, and annotations of `infrastructure`.
const MAX_OPTIONS: usize = 16;
/// Most labels of `infrastructure`.
const MAX_LABELS: usize = 8;

/// Who serves the gateways of a class.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayClass {
    pub controller_name: ControllerName,
    #[serde(default)]
    pub parameters_ref: Option<ObjectReference>,
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub description: Option<String>,
}

impl Resource for GatewayClass {
    fn check(&self, checker: &mut Checker<'_>) {
        check_chars("description", self.description.as_deref(), MAX_DESCRIPTION, checker);
    }
}

/// Listeners through which traffic enters the mesh.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    pub gateway_class_name: ObjectName,
    pub listeners: List<Listener, 1, 64>,
    #[serde(default)]
    pub addresses: List<GatewayAddress, 0, 16>,
    #[serde(default)]
    pub infrastructure: Option<GatewayInfrastructure>,
    /// Which ListenerSets may add listeners; none if absent.
    #[serde(default)]
    pub allowed_listeners: Option<AllowedListeners>,
    #[serde(default)]
    pub tls: Option<GatewayTlsConfig>,
    /// Which routes attach that name no gateway and ask for a default one.
    #[serde(default)]
    pub default_scope: Option<GatewayDefaultScope>,
}

/// One port, protocol and maybe host.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    pub name: SectionName,
    /// All hosts if absent.
    #[serde(default)]
    pub hostname: Option<Hostname>,
    pub port: Port,
    pub protocol: ProtocolType,
    #[serde(default)]
    pub tls: Option<ListenerTlsConfig>,
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

/// How connections to a listener are decrypted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ListenerTlsConfig {
    pub mode: TlsMode,
    /// Secrets with certificate and key.
    pub certificate_refs: List<SecretObjectReference, 0, 64>,
    #[schemars(with = "BTreeMap<String, String>")]
    pub options: BTreeMap<AnnotationKey, AnnotationValue>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TlsMode {
    #[default]
    Terminate,
    /// The gateway reads the server name only and passes the connection on.
    Passthrough,
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AllowedRoutes {
    pub namespaces: RouteNamespaces,
    /// Kinds of routes; those of the protocol if there are none.
    pub kinds: List<RouteGroupKind, 0, 8>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RouteNamespaces {
    pub from: RoutesFrom,
    /// Labels of namespaces, for `from: Selector`.
    pub selector: Option<LabelSelector>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum RoutesFrom {
    All,
    Selector,
    #[default]
    Same,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteGroupKind {
    #[serde(default = "gateway_group")]
    pub group: Group,
    pub kind: KindName,
}

/// Which ListenerSets may add listeners.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AllowedListeners {
    pub namespaces: ListenerNamespaces,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ListenerNamespaces {
    pub from: ListenersFrom,
    /// Labels of namespaces, for `from: Selector`.
    pub selector: Option<LabelSelector>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ListenersFrom {
    All,
    Selector,
    Same,
    #[default]
    None,
}

/// Kubernetes' selector: all labels and all expressions must hold. An empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LabelSelector {
    pub match_labels: Labels,
    pub match_expressions: List<LabelSelectorRequirement, 0, 64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelectorRequirement {
    pub key: AnnotationKey,
    pub operator: LabelSelectorOperator,
    /// For `In` and `NotIn`.
    #[serde(default)]
    pub values: List<String, 0, 256>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum LabelSelectorOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    pub(crate) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|one| {
                let value = labels.get(&*one.key);
                let is_listed = value.is_some_and(|value| one.values.contains(value));
                match one.operator {
                    LabelSelectorOperator::In => is_listed,
                    LabelSelectorOperator::NotIn => !is_listed,
                    LabelSelectorOperator::Exists => value.is_some(),
                    LabelSelectorOperator::DoesNotExist => value.is_none(),
                }
            })
    }

    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        checker.each("matchExpressions", &self.match_expressions, |checker, one| {
            let takes_values = matches!(one.operator, LabelSelectorOperator::In | LabelSelectorOperator::NotIn);
            if takes_values && one.values.is_empty() {
                checker.error_in("values", "needs at least one value with the operators In and NotIn");
            }
            if !takes_values && !one.values.is_empty() {
                checker.error_in("values", "must be empty with the operators Exists and DoesNotExist");
            }
        });
    }
}

checked_text!(
    /// What kind of address it is: IPAddress, Hostname, NamedAddress, or one of an implementation.
    AddressType,
    1..=253,
    r"^(IPAddress|Hostname|NamedAddress|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+)$",
    "IPAddress, Hostname, NamedAddress, or a DNS name, '/' and a path"
);

/// An address that the gateway shall have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayAddress {
    #[serde(rename = "type", default = "ip_address")]
    pub kind: AddressType,
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub value: String,
}

fn ip_address() -> AddressType {
    AddressType::try_from("IPAddress".to_owned()).unwrap_or_default()
}

/// For what is created on behalf of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GatewayInfrastructure {
    pub labels: Labels,
    #[schemars(with = "BTreeMap<String, String>")]
    pub annotations: BTreeMap<AnnotationKey, AnnotationValue>,
    pub parameters_ref: Option<LocalParametersReference>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalParametersReference {
    pub group: Group,
    pub kind: KindName,
    pub name: ObjectName,
}

/// TLS of the whole gateway: towards clients (`frontend`) and towards services (`backend`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GatewayTlsConfig {
    pub backend: Option<GatewayBackendTls>,
    pub frontend: Option<FrontendTlsConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GatewayBackendTls {
    /// The certificate that the gateway shows to services.
    pub client_certificate_ref: Option<SecretObjectReference>,
}

/// How clients' certificates are verified, on all HTTPS ports and on some.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTlsConfig {
    #[serde(rename = "default")]
    pub all_ports: FrontendTls,
    /// Replaces `default` on these ports.
    #[serde(default)]
    pub per_port: List<PortFrontendTls, 0, 64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FrontendTls {
    pub validation: Option<FrontendTlsValidation>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortFrontendTls {
    pub port: Port,
    pub tls: FrontendTls,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTlsValidation {
    /// ConfigMaps with the CA certificates, as `ca.crt`.
    pub ca_certificate_refs: List<ObjectReference, 1, 8>,
    #[serde(default)]
    pub mode: FrontendValidationMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum FrontendValidationMode {
    #[default]
    AllowValidOnly,
    /// Lets clients without a valid certificate in too.
    AllowInsecureFallback,
}

impl Resource for Gateway {
    fn check(&self, checker: &mut Checker<'_>) {
        check_listeners(&self.listeners, checker);
        self.check_addresses(checker);
        checker.given("infrastructure", &self.infrastructure, |checker, infrastructure| {
            check_options("annotations", &infrastructure.annotations, checker);
            if infrastructure.labels.len() > MAX_LABELS {
                checker.error_in(
                    "labels",
                    format!("has {} entries; {MAX_LABELS} are the most", infrastructure.labels.len()),
                );
            }
        });
        checker.given("allowedListeners", &self.allowed_listeners, |checker, allowed| {
            checker.field("namespaces", |checker| {
                let needs_selector = allowed.namespaces.from == ListenersFrom::Selector;
                check_selector(needs_selector, &allowed.namespaces.selector, checker);
            });
        });
        checker.given("tls", &self.tls, |checker, tls| {
            checker.given("frontend", &tls.frontend, |checker, frontend| {
                checker.unique("perPort", &frontend.per_port, |one| Some(one.port.get()));
            });
        });
        checker.pending("listeners", true);
    }
}

impl Gateway {
    fn check_addresses(&self, checker: &mut Checker<'_>) {
        checker.unique("addresses", &self.addresses, |address| {
            let is_unique = matches!(&*address.kind, "IPAddress" | "Hostname");
            (is_unique && !address.value.is_empty()).then(|| format!("{} {}", address.kind, address.value))
        });
        checker.each("addresses", &self.addresses, |checker, address| {
            check_chars("value", Some(&address.value), 253, checker);
            if address.value.is_empty() {
                return;
            }
            if &*address.kind == "IPAddress" && address.value.parse::<IpAddr>().is_err() {
                checker.error_in("value", format!("{:?} is not an IP address, as the type says", address.value));
            }
            if &*address.kind == "Hostname" && Hostname::try_from(address.value.clone()).is_err() {
                checker.error_in("value", format!("{:?} is not a host name, as the type says", address.value));
            }
        });
    }
}

/// What the rules of a listener are about, in a Gateway and in a ListenerSet.
pub(crate) trait AnyListener {
    fn name(&self) -> &SectionName;
    fn hostname(&self) -> Option<&Hostname>;
    fn port(&self) -> Option<i64>;
    fn protocol(&self) -> String;
    fn tls(&self) -> Option<&ListenerTlsConfig>;
    fn allowed_routes(&self) -> &AllowedRoutes;
}

impl AnyListener for Listener {
    fn name(&self) -> &SectionName {
        &self.name
    }
    fn hostname(&self) -> Option<&Hostname> {
        self.hostname.as_ref()
    }
    fn port(&self) -> Option<i64> {
        Some(self.port.get())
    }
    fn protocol(&self) -> String {
        self.protocol.to_ascii_uppercase()
    }
    fn tls(&self) -> Option<&ListenerTlsConfig> {
        self.tls.as_ref()
    }
    fn allowed_routes(&self) -> &AllowedRoutes {
        &self.allowed_routes
    }
}

fn check_listeners<L: AnyListener>(listeners: &[L], checker: &mut Checker<'_>) {
    checker.unique("listeners", listeners, |listener| Some(listener.name()));
    let mut seen = BTreeSet::new();
    checker.each("listeners", listeners, |checker, listener| {
        let protocol = listener.protocol();
        if let Some(port) = listener.port()
            && !seen.insert((port, protocol.clone(), listener.hostname()))
        {
            checker.error(format!("another listener has the same port {port}, protocol {protocol} and hostname"));
        }
        check_listener(listener, &protocol, checker);
    });
}

fn check_listener(listener: &impl AnyListener, protocol: &str, checker: &mut Checker<'_>) {
    match (protocol, listener.tls()) {
        ("HTTP" | "TCP" | "UDP", Some(_)) => checker.error_in("tls", format!("is not for the protocol {protocol}")),
        ("HTTPS", Some(tls)) if tls.mode != TlsMode::Terminate => {
            checker.field("tls", |checker| checker.error_in("mode", "must be Terminate for the protocol HTTPS"));
        }
        ("TLS", None) => checker.require("tls", false),
        ("HTTPS", None) => checker.warn("has the protocol HTTPS and no tls: it serves no certificate"),
        _ => {}
    }
    if matches!(protocol, "TCP" | "UDP") && listener.hostname().is_some() {
        checker.error_in("hostname", format!("is not for the protocol {protocol}"));
    }
    if let Some(tls) = listener.tls() {
        checker.field("tls", |checker| {
            if tls.mode == TlsMode::Terminate && tls.certificate_refs.is_empty() && tls.options.is_empty() {
                checker.error("certificateRefs or options must be given with the mode Terminate");
            }
            check_options("options", &tls.options, checker);
        });
    }
    checker.field("allowedRoutes", |checker| {
        checker.field("namespaces", |checker| {
            let namespaces = &listener.allowed_routes().namespaces;
            check_selector(namespaces.from == RoutesFrom::Selector, &namespaces.selector, checker);
        });
    });
}

fn check_selector(is_needed: bool, selector: &Option<LabelSelector>, checker: &mut Checker<'_>) {
    checker.require("selector", !is_needed || selector.is_some());
    checker.given("selector", selector, |checker, selector| selector.check(checker));
}

pub(super) fn check_options(key: &str, options: &BTreeMap<AnnotationKey, AnnotationValue>, checker: &mut Checker<'_>) {
    if options.len() > MAX_OPTIONS {
        checker.error_in(key, format!("has {} entries; {MAX_OPTIONS} are the most", options.len()));
    }
}

/// More listeners for a Gateway that allows it.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerSet {
    pub parent_ref: ParentGatewayReference,
    pub listeners: List<ListenerEntry, 1, 64>,
}

/// The Gateway that the listeners are added to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentGatewayReference {
    #[serde(default = "gateway_group")]
    pub group: Group,
    #[serde(default = "gateway_kind")]
    pub kind: KindName,
    pub name: ObjectName,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub namespace: Option<Namespace>,
}

/// One port, protocol and maybe host.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerEntry {
    pub name: SectionName,
    /// All hosts if absent.
    #[serde(default)]
    pub hostname: Option<Hostname>,
    /// In v1alpha1 it may be absent or 0.
    #[serde(default)]
    pub port: Option<Int<0, 65535>>,
    pub protocol: ProtocolType,
    #[serde(default)]
    pub tls: Option<ListenerTlsConfig>,
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

impl AnyListener for ListenerEntry {
    fn name(&self) -> &SectionName {
        &self.name
    }
    fn hostname(&self) -> Option<&Hostname> {
        self.hostname.as_ref()
    }
    fn port(&self) -> Option<i64> {
        self.port.map(Int::get).filter(|port| *port > 0)
    }
    fn protocol(&self) -> String {
        self.protocol.to_ascii_uppercase()
    }
    fn tls(&self) -> Option<&ListenerTlsConfig> {
        self.tls.as_ref()
    }
    fn allowed_routes(&self) -> &AllowedRoutes {
        &self.allowed_routes
    }
}

impl Resource for ListenerSet {
    fn check(&self, checker: &mut Checker<'_>) {
        check_listeners(&self.listeners, checker);
        if checker.version() == "v1" {
            checker.each("listeners", &self.listeners, |checker, listener| {
                if listener.port().is_none() {
                    checker.error_in("port", "must be given: a whole number from 1 to 65535");
                }
            });
        }
        checker.pending("listeners", true);
    }
}
