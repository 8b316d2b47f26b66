//! TLS to places outside of the mesh, which have certificates of their own: what documents say of it, DestinationRules
//! in `tls` and BackendTLSPolicies. Within the mesh there is mutual TLS whatever they say.

use std::sync::Arc;

use weft_wire::id::Namespace;

use crate::{
    api::{
        gateway::{BackendTlsPolicy, SubjectAltName, WellKnownCaCertificates},
        networking::{ClientTlsMode, ClientTlsSettings},
    },
    secrets::Reference,
};

/// How a cluster's places outside of the mesh are called, where not in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    Tls(Arc<Origination>),
    /// Documents ask for TLS that weft cannot give; the text says why. To call such a place in the clear would give away
    /// what was to be kept secret, so it is not called.
    Refused(Arc<str>),
}

/// One way to speak TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origination {
    pub authorities: Authorities,
    /// A file of the host with revocation lists, in PEM.
    pub revoked: Option<String>,
    /// What is shown to a server that asks for it.
    pub identity: Option<ClientIdentity>,
    /// The server name (SNI); `None` is the host that each request is for.
    pub server_name: Option<Arc<str>>,
    /// Host names, addresses and URIs of which the certificate must hold one; none is the server name.
    pub names: Vec<String>,
}

/// Who may have signed the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Authorities {
    /// Whom the host itself believes.
    System,
    /// A file of the host, in PEM.
    File(String),
    /// What `ca.crt` of ConfigMaps hold together: of those that are there and hold certificates.
    ConfigMaps(Vec<Reference>),
    /// What `ca.crt` of a Secret holds, or else of a ConfigMap.
    Named(Reference),
    /// The server's certificate is not looked at.
    Anybody,
}

/// A client's certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientIdentity {
    /// Files of the host, in PEM.
    Files {
        certificates: String,
        key: String,
    },
    Secret(Reference),
}

impl Origination {
    /// Whether files of the host hold a part of it.
    pub fn reads_files(&self) -> bool {
        let has_file = matches!(self.identity, Some(ClientIdentity::Files { .. }));
        has_file || self.revoked.is_some() || matches!(self.authorities, Authorities::File(_))
    }
}

impl Protection {
    /// What a DestinationRule says; `None` for calls in the clear. `names` are those that the host's ServiceEntry gives its
    /// certificate; `credentials` is where Secrets are named, if they may be.
    pub(crate) fn read(tls: &ClientTlsSettings, names: &[String], credentials: Option<&Namespace>) -> Option<Self> {
        let refused = |why: &str| Some(Self::Refused(why.into()));
        match tls.mode {
            None | Some(ClientTlsMode::Disable) => return None,
            Some(ClientTlsMode::IstioMutual) => {
                return refused(
                    "tls.mode ISTIO_MUTUAL is for workloads of the mesh: a place outside has no identity in it",
                );
            }
            Some(ClientTlsMode::Simple | ClientTlsMode::Mutual) => {}
        }
        let named = |name: &str| match credentials {
            Some(namespace) => Reference::of_credential(name, namespace).ok_or("is no name of a Secret"),
            None => Err("names a Secret for gateways alone, unless the rule has a workloadSelector"),
        };
        let given = |name: &String| (!name.is_empty()).then(|| named(name)).transpose();
        let credential = match given(&tls.credential_name) {
            Ok(credential) => credential,
            Err(why) => return refused(&format!("tls.credentialName {why}")),
        };
        let of_authorities = match given(&tls.ca_cert_credential_name) {
            Ok(named) => named.or_else(|| credential.clone()),
            Err(why) => return refused(&format!("tls.caCertCredentialName {why}")),
        };
        let identity = (tls.mode == Some(ClientTlsMode::Mutual)).then(|| match credential {
            Some(secret) => ClientIdentity::Secret(secret),
            None => {
                ClientIdentity::Files { certificates: tls.client_certificate.clone(), key: tls.private_key.clone() }
            }
        });
        let file = |path: &str| Some(path.to_owned()).filter(|path| !path.is_empty());
        let authorities = match (tls.insecure_skip_verify, of_authorities, file(&tls.ca_certificates)) {
            (Some(true), _, _) => Authorities::Anybody,
            (_, Some(name), _) => Authorities::Named(name),
            (_, None, Some(path)) => Authorities::File(path),
            (_, None, None) => Authorities::System,
        };
        let names = if tls.subject_alt_names.is_empty() { names } else { &tls.subject_alt_names };
        Some(Self::Tls(Arc::new(Origination {
            authorities,
            revoked: file(&tls.ca_crl),
            identity,
            server_name: Some(tls.sni.as_str()).filter(|name| !name.is_empty()).map(Into::into),
            names: names.to_vec(),
        })))
    }

    /// What a BackendTLSPolicy of a namespace says.
    pub(crate) fn of_backend(policy: &BackendTlsPolicy, namespace: &Namespace) -> Self {
        let validation = &policy.validation;
        let references = validation.ca_certificate_refs.iter().filter(|reference| reference.is_config_map());
        let config_maps: Vec<Reference> = references.map(|one| Reference::new(namespace, &one.name)).collect();
        let authorities = match validation.well_known_ca_certificates {
            Some(WellKnownCaCertificates::System) => Authorities::System,
            None if config_maps.is_empty() => {
                return Self::Refused("validation.caCertificateRefs of a BackendTLSPolicy names no ConfigMap".into());
            }
            None => Authorities::ConfigMaps(config_maps),
        };
        let name = |name: &SubjectAltName| match (&name.hostname, &name.uri) {
            (Some(hostname), _) => Some(hostname.to_string()),
            (None, uri) => uri.as_ref().map(ToString::to_string),
        };
        Self::Tls(Arc::new(Origination {
            authorities,
            revoked: None,
            identity: None,
            server_name: Some((&*validation.hostname).into()),
            names: validation.subject_alt_names.iter().filter_map(name).collect(),
        }))
    }

    pub fn origination(&self) -> Option<&Arc<Origination>> {
        match self {
            Self::Tls(origination) => Some(origination),
            Self::Refused(_) => None,
        }
    }
}
