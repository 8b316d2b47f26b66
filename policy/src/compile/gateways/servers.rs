//! The servers of an Istio Gateway, before they are put together with those of others.

use std::{collections::BTreeMap, sync::Arc};

use weft_wire::id::Namespace;

use super::Bound;
use crate::{
    api::{
        networking::{Gateway, PortProtocol, Server, ServerTlsMode, ServerTlsSettings, TlsProtocol},
        target::ROOT_NAMESPACE,
    },
    compile::{audience::Audience, gateway_api::listeners::Refusal},
    document::{Document, Spec},
    gateway::{ListenerProtocol, ListenerTls},
    hosts::HostPattern,
    secrets::Reference,
};

/// A server, and whom it takes.
#[derive(Debug)]
pub(super) struct ReadServer<'d> {
    pub(super) gateway: &'d Arc<Document>,
    pub(super) spec: &'d Server,
    pub(super) protocol: ListenerProtocol,
    pub(super) hosts: Vec<ServerHost>,
}

/// One of `hosts`.
#[derive(Debug)]
pub(super) struct ServerHost {
    /// Whose VirtualServices may bind to it; `None` is anybody's.
    namespace: Option<String>,
    pub(super) name: HostPattern,
}

/// The servers of a document, in their order; none of one of another kind.
pub(super) fn read(document: &Arc<Document>) -> Vec<ReadServer<'_>> {
    let Some(gateway) = gateway_of(document) else { return Vec::new() };
    let own = document.namespace();
    let read = |spec| ReadServer { gateway: document, spec, protocol: protocol(spec), hosts: hosts(spec, &own) };
    gateway.servers.iter().map(read).collect()
}

pub(super) fn gateway_of(document: &Document) -> Option<&Gateway> {
    match &document.spec {
        Spec::IstioGateway(gateway) => Some(gateway),
        _ => None,
    }
}

impl<'d> ReadServer<'d> {
    /// Of its port; or of its gateway.
    pub(super) fn name(&self) -> &'d str {
        &self.spec.port.name
    }

    pub(super) fn port(&self) -> u16 {
        u16::try_from(self.spec.port.number.get()).unwrap_or_default()
    }

    pub(super) fn redirects_to_https(&self) -> bool {
        self.protocol == ListenerProtocol::Http && self.spec.tls.as_ref().is_some_and(|tls| tls.https_redirect)
    }

    /// For whom rules are compiled that hold here.
    pub(super) fn audience<'s>(&'s self, namespace: &'s Namespace) -> Audience<'s> {
        static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
        Audience::Gateway {
            namespace: namespace.as_str(),
            name: &self.gateway.key.name,
            selector: gateway_of(self.gateway).map_or(&NO_LABELS, |gateway| &gateway.selector),
        }
    }

    /// The hosts for which a VirtualService holds here: those that both name, the narrower of two.
    pub(super) fn common_hosts<'s>(&'s self, bound: &'s Bound) -> Vec<&'s HostPattern> {
        let taken = self.hosts.iter().filter(|host| host.takes(&bound.namespace));
        taken.flat_map(|host| bound.hosts.iter().filter_map(|name| host.name.common(name))).collect()
    }

    /// How TLS ends here, if it does.
    pub(super) fn tls(&self) -> Option<Arc<ListenerTls>> {
        let ends = matches!(self.protocol, ListenerProtocol::Https | ListenerProtocol::Tls);
        self.spec.tls.as_ref().filter(|_| ends).map(|tls| Arc::new(tls_of(tls)))
    }
}

impl ServerHost {
    fn takes(&self, namespace: &Namespace) -> bool {
        self.namespace.as_ref().is_none_or(|own| own == namespace.as_str())
    }
}

fn hosts(server: &Server, own: &Namespace) -> Vec<ServerHost> {
    let read = |text: &String| {
        let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
        let namespace = match namespace {
            "*" => None,
            "." => Some(own.to_string()),
            name => Some(name.to_owned()),
        };
        ServerHost { namespace, name: HostPattern::verbatim(host) }
    };
    server.hosts.iter().map(read).collect()
}

/// `PASSTHROUGH` if TLS is given without mode.
fn protocol(server: &Server) -> ListenerProtocol {
    let mode = server.tls.as_ref().map(|tls| tls.mode.unwrap_or(ServerTlsMode::Passthrough));
    match (server.port.protocol, mode) {
        (protocol, _) if protocol.is_http() => ListenerProtocol::Http,
        (PortProtocol::Https | PortProtocol::Tls, Some(ServerTlsMode::Passthrough)) => ListenerProtocol::Passthrough,
        // The server name says service and port: no document says what becomes of it.
        (_, Some(ServerTlsMode::AutoPassthrough)) => ListenerProtocol::Unsupported,
        (PortProtocol::Https, Some(_)) => ListenerProtocol::Https,
        (PortProtocol::Tls, Some(_)) => ListenerProtocol::Tls,
        (PortProtocol::Tcp | PortProtocol::Mongo | PortProtocol::Redis | PortProtocol::Mysql, None) => {
            ListenerProtocol::Tcp
        }
        _ => ListenerProtocol::Unsupported,
    }
}

fn tls_of(tls: &ServerTlsSettings) -> ListenerTls {
    // Istio's gateways read Secrets where they run.
    let root: Option<Namespace> = ROOT_NAMESPACE.parse().ok();
    let reference = |name: &String| Reference::of_credential(name, root.as_ref()?).filter(|_| !name.is_empty());
    let file = |certificate: &str, key: &str| (certificate.to_owned(), key.to_owned());
    let files = tls.tls_certificates.iter().map(|one| file(&one.server_certificate, &one.private_key));
    let only = (!tls.server_certificate.is_empty()).then(|| file(&tls.server_certificate, &tls.private_key));
    ListenerTls {
        mode: tls.mode.unwrap_or(ServerTlsMode::Passthrough),
        credentials: [&tls.credential_name].into_iter().chain(&tls.credential_names).filter_map(reference).collect(),
        authorities: reference(&tls.ca_cert_credential_name).into_iter().collect(),
        files: only.into_iter().chain(files).collect(),
        min_version: tls.min_protocol_version.filter(|version| *version != TlsProtocol::Auto),
        max_version: tls.max_protocol_version.filter(|version| *version != TlsProtocol::Auto),
        cipher_suites: tls.cipher_suites.clone(),
        subject_alt_names: tls.subject_alt_names.clone(),
    }
}

/// Why no server of a gateway takes a VirtualService, if none does.
pub(crate) fn refusal(gateway: &Arc<Document>, bound: &Bound) -> Option<Refusal> {
    let servers = read(gateway);
    if servers.iter().any(|server| !server.common_hosts(bound).is_empty()) && bound.is_visible {
        return None;
    }
    let meets = |host: &ServerHost| bound.hosts.iter().any(|name| host.name.common(name).is_some());
    let has_host = servers.iter().flat_map(|server| &server.hosts).any(meets);
    Some(if has_host { Refusal::NotAllowedByListeners } else { Refusal::NoMatchingListenerHostname })
}
