//! `v1` Service: the name, ports and selector of a service.

use std::collections::BTreeMap;

use weft_wire::{fact::Protocol, id::AccountName};

use super::{
    DocumentError,
    header::{Context, Header, ROOT_FIELDS_WITH_SPEC},
    read::{Field, Map},
    validate,
};

/// Narrows who may serve a service: names of service accounts in its namespace, joined by commas.
pub(super) const ACCOUNTS_ANNOTATION: &str = "weft.mesh/service-accounts";

const FIELDS: &[&str] = &[
    "ports",
    "selector",
    "type",
    "clusterIP",
    "clusterIPs",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "sessionAffinity",
];
/// Fields that speak of virtual addresses, which services do not have here: clients dial names.
const ADDRESS_FIELDS: &[&str] = &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
const MESH_ONLY: &str = "has no effect: the service is reached within the mesh only";
const PORT_FIELDS: &[&str] = &["name", "port", "targetPort", "protocol", "appProtocol", "nodePort"];

#[derive(Debug, PartialEq)]
pub struct Service {
    pub(crate) ports: Vec<Port>,
    /// Workloads with all of these labels belong to the service; empty selects none.
    pub(crate) selector: BTreeMap<String, String>,
    /// The accounts that may serve it; `None` is any of its namespace.
    pub(crate) accounts: Option<Vec<AccountName>>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Port {
    pub(crate) port: u16,
    pub(crate) name: String,
    /// The workloads' own port.
    pub(crate) target_port: Option<u16>,
    /// `None` where neither name nor `appProtocol` says it: each workload's own word holds.
    pub(crate) protocol: Option<Protocol>,
}

impl Service {
    pub(super) fn read(root: &Field<'_>, context: &mut Context<'_>) -> Result<Self, DocumentError> {
        let spec = root.map(ROOT_FIELDS_WITH_SPEC)?.required("spec")?.map(FIELDS)?;
        if let Some(field) = spec.get("type") {
            match field.text()? {
                "ClusterIP" => {}
                "NodePort" | "LoadBalancer" => context.notice(&field, MESH_ONLY),
                other => return Err(field.error(format!("{other} is not one of ClusterIP, NodePort, LoadBalancer"))),
            }
        }
        for field in ADDRESS_FIELDS.iter().filter_map(|name| spec.get(name)) {
            context.notice(&field, "has no effect: clients dial services by name, not by address");
        }
        only(&spec, "internalTrafficPolicy", "Cluster")?;
        only(&spec, "sessionAffinity", "None")?;

        let mut ports: Vec<Port> = Vec::new();
        let fields = spec.required("ports")?;
        let items = fields.list()?;
        for item in &items {
            let port = Port::read(item, context)?;
            if ports.iter().any(|other| other.port == port.port) {
                return Err(item.error(format!("port {} is given twice", port.port)));
            }
            if items.len() > 1 && port.name.is_empty() {
                return Err(item.error("needs a name: the service has several ports"));
            }
            if !port.name.is_empty() && ports.iter().any(|other| other.name == port.name) {
                return Err(item.error(format!("the name {} is given twice", port.name)));
            }
            ports.push(port);
        }
        if ports.is_empty() {
            return Err(fields.error("needs at least one port"));
        }
        let selector = spec.text_map("selector")?;
        if let Some(field) = spec.get("selector") {
            validate::labels(&field, &selector)?;
        }
        Ok(Self { ports, selector, accounts: read_accounts(root, context.header)? })
    }
}

impl Port {
    fn read(item: &Field<'_>, context: &mut Context<'_>) -> Result<Self, DocumentError> {
        let map = item.map(PORT_FIELDS)?;
        if let Some(field) = map.get("nodePort") {
            context.notice(&field, MESH_ONLY);
        }
        only(&map, "protocol", "TCP")?;
        let name = match map.get("name") {
            Some(field) => {
                validate::dns_name(&field)?;
                field.text()?.to_owned()
            }
            None => String::new(),
        };
        let target_port = match map.get("targetPort") {
            Some(field) if field.is_integer() => Some(field.port()?),
            Some(field) => {
                field.text()?;
                return Err(field.error("the name of a port is not supported here: write its number"));
            }
            None => None,
        };
        let app_protocol = match map.get("appProtocol") {
            Some(field) => Some(protocol_named(field.text()?).ok_or_else(|| {
                field.error(
                    "is not one of http, http2, kubernetes.io/h2c, kubernetes.io/ws, grpc, grpc-web, https, tls, tcp",
                )
            })?),
            None => None,
        };
        let protocol = app_protocol.or_else(|| protocol_of_port_name(&name));
        Ok(Self { port: map.required("port")?.port()?, name, target_port, protocol })
    }
}

/// Istio's rule: `PROTOCOL` or `PROTOCOL-SUFFIX`.
fn protocol_of_port_name(name: &str) -> Option<Protocol> {
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return protocol_named("grpc-web");
    }
    protocol_named(name.split('-').next().unwrap_or_default())
}

/// What a protocol's name means. TLS of the application's own, and protocols that weft does not read, pass as TCP.
fn protocol_named(name: &str) -> Option<Protocol> {
    match name {
        // gRPC-Web is framed for HTTP/1.1.
        "http" | "kubernetes.io/ws" | "grpc-web" => Some(Protocol::Http),
        "http2" | "kubernetes.io/h2c" => Some(Protocol::Http2),
        "grpc" => Some(Protocol::Grpc),
        "https" | "kubernetes.io/wss" | "tls" | "tcp" | "mongo" | "mysql" | "redis" => Some(Protocol::Tcp),
        _ => None,
    }
}

/// A field that may only say what weft does anyway.
fn only(map: &Map<'_>, key: &str, allowed: &str) -> Result<(), DocumentError> {
    match map.get(key) {
        Some(field) if field.text()? != allowed => Err(field
            .error(format!("{} is not supported by this version of weft; supported here: {allowed}", field.text()?))),
        _ => Ok(()),
    }
}

fn read_accounts(root: &Field<'_>, header: &Header) -> Result<Option<Vec<AccountName>>, DocumentError> {
    let Some(text) = header.annotations.get(ACCOUNTS_ANNOTATION) else { return Ok(None) };
    let parse = |name: &str| {
        name.trim()
            .parse::<AccountName>()
            .map_err(|error| root.error(format!("annotation {ACCOUNTS_ANNOTATION}: {error}")))
    };
    text.split(',').map(parse).collect::<Result<_, _>>().map(Some)
}
