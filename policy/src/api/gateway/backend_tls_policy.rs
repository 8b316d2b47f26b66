//! BackendTLSPolicy: TLS of the backend's own, from the gateway on.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    AbsoluteUri, AnnotationKey, AnnotationValue, Group, Hostname, KindName, LocalObjectReference, ObjectName,
    PreciseHostname, SectionName, gateway::check_options,
};
use crate::{api::values::List, document::Checker, kinds::Resource};

/// How connections to some services are encrypted with TLS of the service's own, and how its certificate is verified.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsPolicy {
    /// The services.
    pub target_refs: List<PolicyTargetReference, 1, 16>,
    pub validation: BackendTlsValidation,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub options: BTreeMap<AnnotationKey, AnnotationValue>,
}

/// A document of the same namespace, or a section of it, such as a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTargetReference {
    pub group: Group,
    pub kind: KindName,
    pub name: ObjectName,
    #[serde(default)]
    pub section_name: Option<SectionName>,
}

impl PolicyTargetReference {
    pub(crate) fn is_service(&self) -> bool {
        self.group.is_empty() && &*self.kind == "Service"
    }
}

/// How the backend's certificate is verified.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsValidation {
    /// ConfigMaps with the CA certificates, as `ca.crt`.
    #[serde(default)]
    pub ca_certificate_refs: List<LocalObjectReference, 0, 8>,
    /// The host's own list of CA certificates.
    #[serde(default, rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<WellKnownCaCertificates>,
    /// The server name (SNI), which the certificate must hold unless `subjectAltNames` are given.
    pub hostname: PreciseHostname,
    /// Names of which the certificate must hold one.
    #[serde(default)]
    pub subject_alt_names: List<SubjectAltName, 0, 5>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum WellKnownCaCertificates {
    System,
}

/// One of `hostname` and `uri`, as `type` says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubjectAltName {
    #[serde(rename = "type")]
    pub kind: SubjectAltNameType,
    #[serde(default)]
    pub hostname: Option<Hostname>,
    #[serde(default)]
    pub uri: Option<AbsoluteUri>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SubjectAltNameType {
    Hostname,
    #[serde(rename = "URI")]
    Uri,
}

impl Resource for BackendTlsPolicy {
    fn check(&self, checker: &mut Checker<'_>) {
        let targets = &self.target_refs;
        let mut before = 0;
        checker.each("targetRefs", targets, |checker, target| {
            let is_same = |other: &&PolicyTargetReference| {
                (&other.group, &other.kind, &other.name) == (&target.group, &target.kind, &target.name)
            };
            if let Some(other) = targets[..before].iter().find(is_same)
                && other.section_name.is_some() != target.section_name.is_some()
            {
                checker.error(format!(
                    "{} {} is a target several times: all must give sectionName",
                    target.kind, target.name
                ));
            } else if targets[..before].contains(target) {
                checker.error(format!("{} {} is a target twice", target.kind, target.name));
            }
            before += 1;
        });
        checker.field("validation", |checker| {
            checker.exactly_one(&[
                ("caCertificateRefs", !self.validation.ca_certificate_refs.is_empty()),
                ("wellKnownCACertificates", self.validation.well_known_ca_certificates.is_some()),
            ]);
            checker.each("subjectAltNames", &self.validation.subject_alt_names, |checker, name| {
                let (wanted, other) = match name.kind {
                    SubjectAltNameType::Hostname => {
                        (("hostname", name.hostname.is_some()), ("uri", name.uri.is_some()))
                    }
                    SubjectAltNameType::Uri => (("uri", name.uri.is_some()), ("hostname", name.hostname.is_some())),
                };
                checker.require(wanted.0, wanted.1);
                if other.1 {
                    checker.error_in(
                        other.0,
                        format!("is only for the type {}", if wanted.0 == "uri" { "Hostname" } else { "URI" }),
                    );
                }
            });
        });
        check_options("options", &self.options, checker);
    }
}
