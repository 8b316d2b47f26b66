//! The codes: those of Istio's `pkg/config/analysis/msg/messages.yaml`.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Info,
    Warning,
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        })
    }
}

macro_rules! codes {
    ($( $variant:ident $id:literal $severity:ident $meaning:literal; )*) => {
        /// What kind of message it is, in order of the numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $( $variant, )* }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// Such as `IST0101`.
            pub fn id(self) -> &'static str {
                match self { $( Self::$variant => $id, )* }
            }

            /// Such as `ReferencedResourceNotFound`.
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => stringify!($variant), )* }
            }

            pub fn severity(self) -> Severity {
                match self { $( Self::$variant => Severity::$severity, )* }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $( Self::$variant => $meaning, )* }
            }
        }
    };
}

codes! {
    Deprecated "IST0002" Warning "A field or kind is old: another one replaces it, or it is ignored.";
    ReferencedResourceNotFound "IST0101" Error "What a document refers to is not there: a host, port, subset, gateway, credential, namespace or workload.";
    SchemaValidationError "IST0106" Error "A document is refused: an unknown field, a wrong value or a broken rule.";
    MisplacedAnnotation "IST0107" Warning "An annotation of Istio stands on a kind that it does not belong to.";
    UnknownAnnotation "IST0108" Warning "Istio has no such annotation.";
    ConflictingMeshGatewayVirtualServiceHosts "IST0109" Error "Several VirtualServices claim a host for clients inside the mesh.";
    ConflictingSidecarWorkloadSelectors "IST0110" Error "Several Sidecars select one workload.";
    MultipleSidecarsWithoutWorkloadSelectors "IST0111" Error "Several Sidecars of a namespace have no selector.";
    VirtualServiceDestinationPortSelectorRequired "IST0112" Error "A destination has several ports, and the route names none.";
    DeploymentAssociatedToMultipleServices "IST0116" Warning "A workload is in services that say different protocols of one port.";
    PortNameIsNotUnderNamingConvention "IST0118" Info "The name of a port does not say its protocol.";
    InvalidAnnotation "IST0125" Warning "The value of an annotation of Istio is wrong.";
    NoMatchingWorkloadsFound "IST0127" Warning "An AuthorizationPolicy is for no workload.";
    NoServerCertificateVerificationDestinationLevel "IST0128" Warning "A DestinationRule starts TLS, and does not verify the server.";
    NoServerCertificateVerificationPortLevel "IST0129" Warning "A DestinationRule starts TLS to a port, and does not verify the server.";
    VirtualServiceUnreachableRule "IST0130" Warning "Earlier rules match all that a rule matches.";
    VirtualServiceIneffectiveMatch "IST0131" Info "Earlier conditions match all that a condition matches.";
    VirtualServiceHostNotFoundInGateway "IST0132" Warning "A gateway takes none of the hosts of a VirtualService that is bound to it.";
    SchemaWarning "IST0133" Warning "A document is accepted, and says something that its author should know.";
    ServiceEntryAddressesRequired "IST0134" Warning "A ServiceEntry for TCP has no addresses to tell its connections by.";
    DeploymentConflictingPorts "IST0137" Warning "A workload is in services that reach one of its ports by different ports.";
    GatewayDuplicateCertificate "IST0138" Warning "Gateways share a certificate: a client that reuses its connection gets 404.";
    IngressRouteRulesNotAffected "IST0140" Warning "A rule for clients inside the mesh that chooses a subset has no effect on requests from a gateway.";
    ConflictingGateways "IST0145" Error "Gateways on the same workloads claim the same host and port.";
    JwtClaimBasedRoutingWithoutRequestAuthN "IST0149" Error "A VirtualService routes by a token's claims, and its gateway takes no tokens.";
    InvalidTelemetryProvider "IST0157" Warning "Access logs are asked for without a provider, and the mesh has no default.";
    ConflictingTelemetryWorkloadSelectors "IST0159" Error "Several Telemetries select one workload.";
    MultipleTelemetriesWithoutWorkloadSelectors "IST0160" Error "Several Telemetries of a namespace have no selector.";
    InvalidGatewayCredential "IST0161" Error "The Secret of a gateway has no valid certificate and key.";
    GatewayPortNotDefinedOnService "IST0162" Warning "No Service of a gateway's workloads has its port.";
    ReferencedInternalGateway "IST0165" Warning "A VirtualService is bound to a gateway that was made from a Gateway of the Gateway API.";
    IneffectiveSelector "IST0166" Warning "A policy selects a gateway of the Gateway API, which takes only policies that refer to it.";
    IneffectivePolicy "IST0167" Warning "A policy has no effect where it stands.";
    MultiClusterInconsistentService "IST0170" Warning "Nodes announce different protocols of one port of a service, and no Service says which it is.";
    NegativeConditionStatus "IST0171" Warning "A condition of a document's status is False.";
    DestinationRuleSubsetNotSelectPods "IST0173" Error "A subset has no endpoints.";
    UnknownDestinationRuleHost "IST0174" Warning "A DestinationRule is for a host that is not there.";
    ConflictingServiceEntryProtocol "IST0177" Warning "ServiceEntries say different protocols of one host and port.";
}
