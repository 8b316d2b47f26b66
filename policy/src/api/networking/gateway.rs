//! Gateway: where a gateway listens. Rules: Istio's `pkg/config/validation/validation.go`.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::is_label;

use super::names::{PortProtocol, check_bind, check_host_part, check_namespace_part, unix_path};
use crate::{
    api::values::{Labels, PortOrZero},
    document::Checker,
    kinds::Resource,
};

/// Ports on which gateways take connections from outside the mesh, or to it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Gateway {
    pub servers: Vec<Server>,
    /// The gateways' labels; all gateways if empty.
    pub selector: Labels,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Server {
    pub port: ServerPort,
    /// An address, or `unix://PATH`; all addresses if empty.
    #[serde(default)]
    pub bind: String,
    /// `HOST` or `NAMESPACE/HOST`: which hosts VirtualServices may bind to it, and from which namespace (`.` its own,
    /// `*` any).
    pub hosts: Vec<String>,
    #[serde(default)]
    pub tls: Option<ServerTlsSettings>,
    #[serde(default)]
    pub default_endpoint: String,
    #[serde(default)]
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerPort {
    /// 0 for a Unix socket.
    pub number: PortOrZero,
    pub protocol: PortProtocol,
    pub name: String,
    /// Has no meaning here.
    #[serde(default)]
    pub target_port: Option<PortOrZero>,
}

/// How a listener ends TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServerTlsSettings {
    /// Plain HTTP is answered with a redirect to HTTPS.
    pub https_redirect: bool,
    /// `PASSTHROUGH` if absent.
    pub mode: Option<ServerTlsMode>,
    /// Paths of files on the gateway's host.
    pub server_certificate: String,
    pub private_key: String,
    pub ca_certificates: String,
    pub ca_crl: String,
    /// A Secret that has key and certificates.
    pub credential_name: String,
    /// Two Secrets, for certificates of two kinds of key.
    pub credential_names: Vec<String>,
    /// A Secret or ConfigMap that has the authorities of clients.
    pub ca_cert_credential_name: String,
    /// Two certificates, for two kinds of key.
    pub tls_certificates: Vec<TlsCertificate>,
    /// What a client's certificate must name.
    pub subject_alt_names: Vec<String>,
    pub verify_certificate_spki: Vec<String>,
    pub verify_certificate_hash: Vec<String>,
    pub min_protocol_version: Option<TlsProtocol>,
    pub max_protocol_version: Option<TlsProtocol>,
    pub cipher_suites: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsCertificate {
    pub server_certificate: String,
    pub private_key: String,
    pub ca_certificates: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    /// Goes on as it came, by its server name.
    Passthrough,
    Simple,
    /// Clients show a certificate.
    Mutual,
    /// As `PASSTHROUGH`; the server name says service and port.
    AutoPassthrough,
    /// Clients show a certificate of the mesh.
    IstioMutual,
    /// Clients may show a certificate.
    OptionalMutual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
pub enum TlsProtocol {
    #[serde(rename = "TLS_AUTO")]
    Auto,
    #[serde(rename = "TLSV1_0")]
    Tls10,
    #[serde(rename = "TLSV1_1")]
    Tls11,
    #[serde(rename = "TLSV1_2")]
    Tls12,
    #[serde(rename = "TLSV1_3")]
    Tls13,
}

impl Resource for Gateway {
    fn check(&self, checker: &mut Checker<'_>) {
        if !is_label(&checker.header.key.name) {
            checker.error("its metadata.name must be a DNS label: a-z, 0-9 and '-', without dots");
        }
        if self.servers.is_empty() {
            checker.error_in("servers", "needs at least one server");
        }
        let mut names = BTreeSet::new();
        checker.each("servers", &self.servers, |checker, server| {
            server.check(checker);
            checker.field("port", |checker| {
                if !server.port.name.is_empty() && !names.insert(server.port.name.clone()) {
                    checker.error_in("name", format!("the name {} is given twice", server.port.name));
                }
            });
        });
        checker.pending("servers", true);
    }
}

impl Server {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.hosts.is_empty() {
            checker.error_in("hosts", "needs at least one host");
        }
        checker.each("hosts", &self.hosts, |checker, text| {
            let host = match text.split_once('/') {
                Some((namespace, host)) => {
                    check_namespace_part(namespace, &["*", "."], checker);
                    host
                }
                None => text,
            };
            check_host_part(host, checker);
        });
        check_bind(&self.bind, checker);
        checker.field("port", |checker| self.check_port(checker));
        checker.given("tls", &self.tls, |checker, tls| tls.check(checker));
        self.check_tls_for_protocol(checker);
    }

    fn check_port(&self, checker: &mut Checker<'_>) {
        match (unix_path(&self.bind), self.port.number.get()) {
            (None, 0) => checker.error_in("number", "is 0; it must be from 1 to 65535, or bind must be unix://PATH"),
            (Some(_), 1..) => checker.error_in("number", "must be 0 where bind is a unix address"),
            _ => {}
        }
        checker.require("name", !self.port.name.is_empty());
        checker.require("protocol", self.port.protocol != PortProtocol::Detected);
        if self.port.target_port.is_some_and(|port| port.get() > 0) {
            checker.error_in("targetPort", "has no meaning at a gateway: leave it out");
        }
    }

    /// TLS is given exactly where the protocol is one; HTTP may have a redirect to it.
    fn check_tls_for_protocol(&self, checker: &mut Checker<'_>) {
        let protocol = self.port.protocol;
        let Some(tls) = &self.tls else {
            return checker.require("tls", !protocol.is_tls());
        };
        if !protocol.is_tls() {
            let has_files = [&tls.server_certificate, &tls.private_key, &tls.ca_certificates];
            let only_redirects = tls.passes_through() && has_files.iter().all(|path| path.is_empty());
            if !protocol.is_http() {
                checker.error_in("tls", "is only for the protocols HTTPS and TLS");
            } else if !only_redirects {
                checker.error_in("tls", "may have only httpsRedirect at a port of plain HTTP");
            }
        }
        if tls.https_redirect && !protocol.is_http() {
            checker.field("tls", |checker| {
                checker.warn_in("httpsRedirect", "has no effect: only plain HTTP can be redirected");
            });
        }
    }
}

impl ServerTlsSettings {
    fn passes_through(&self) -> bool {
        matches!(self.mode, None | Some(ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough))
    }

    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        let mode = self.mode.unwrap_or(ServerTlsMode::Passthrough);
        let file = |key: &'static str, path: &String| (key, !path.is_empty());
        let certificate = file("serverCertificate", &self.server_certificate);
        let key = file("privateKey", &self.private_key);
        let authorities = file("caCertificates", &self.ca_certificates);
        let credential = file("credentialName", &self.credential_name);
        let credentials = ("credentialNames", !self.credential_names.is_empty());
        let authorities_credential = file("caCertCredentialName", &self.ca_cert_credential_name);
        let certificates = ("tlsCertificates", !self.tls_certificates.is_empty());
        let revoked = file("caCrl", &self.ca_crl);
        let all =
            [certificate, key, authorities, revoked, credential, credentials, authorities_credential, certificates];

        self.check_lists(checker);
        checker.at_most_one(&[credential, credentials, certificates]);
        checker.at_most_one(&[certificate, certificates]);
        checker.at_most_one(&[authorities, authorities_credential]);
        let has_credential = credential.1 || credentials.1;
        match mode {
            ServerTlsMode::IstioMutual => {
                for (key, _) in all.iter().filter(|(_, given)| *given) {
                    checker
                        .error_in(key, "must not be given with ISTIO_MUTUAL, which uses the mesh's own certificates");
                }
            }
            ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
                if all.iter().any(|(_, given)| *given) {
                    checker.warn("has certificates that have no effect: TLS passes through");
                }
            }
            ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual if has_credential => {}
            ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
                if !certificates.1 {
                    checker.require("serverCertificate", certificate.1);
                    checker.require("privateKey", key.1);
                }
                if mode != ServerTlsMode::Simple {
                    let is_known = authorities.1
                        || authorities_credential.1
                        || self.tls_certificates.iter().any(|certificate| !certificate.ca_certificates.is_empty());
                    checker.require("caCertificates", is_known);
                }
            }
        }
        if revoked.1 && has_credential {
            checker.error_in("caCrl", "must stand in the credential where there is one");
        }
        if revoked.1 && mode == ServerTlsMode::Simple {
            checker.error_in("caCrl", "has no meaning with SIMPLE: clients show no certificate");
        }
    }

    fn check_lists(&self, checker: &mut Checker<'_>) {
        checker.limit("credentialNames", self.credential_names.len(), 2);
        checker.each("credentialNames", &self.credential_names, |checker, name| {
            if name.is_empty() {
                checker.error("must not be empty");
            }
        });
        checker.limit("tlsCertificates", self.tls_certificates.len(), 2);
        checker.each("tlsCertificates", &self.tls_certificates, |checker, certificate| {
            checker.require("serverCertificate", !certificate.server_certificate.is_empty());
            checker.require("privateKey", !certificate.private_key.is_empty());
        });
        if let (Some(min), Some(max)) = (self.min_protocol_version, self.max_protocol_version)
            && max != TlsProtocol::Auto
            && max < min
        {
            checker.error_in("maxProtocolVersion", "is below minProtocolVersion");
        }
        if matches!(self.min_protocol_version, Some(TlsProtocol::Tls10 | TlsProtocol::Tls11)) {
            checker.warn_in("minProtocolVersion", "is below TLS 1.2, which is the oldest that weft speaks");
        }
        let mut seen = BTreeSet::new();
        checker.each("cipherSuites", &self.cipher_suites, |checker, suite| {
            if !seen.insert(suite.clone()) {
                checker.warn("is given twice");
            }
        });
    }
}
