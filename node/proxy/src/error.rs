//! Why an exchange failed before the upstream answered: who is at fault, and whether another endpoint may be tried.
//! What the caller is told about it is decided in `respond.rs` alone.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{StatusCode, uri::Authority};
use weft_policy::{authenticate, fault::FaultEnd, service_id::ServiceId};
use weft_wire::id::{ServiceAccount, SpiffeId};

use crate::{decisions::DecisionId, ext_authz::Refusal, http1::client, limit::Quota};

/// An exchange that the proxy itself must answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("{0}")]
    NotImplemented(&'static str),
    #[error("the request's body broke off: {0}")]
    RequestBroke(BrokeOff),
    #[error("the upstream's response is malformed: {0}")]
    BadResponse(String),
    #[error("unknown host {host:?}: no service of that name in the mesh, as seen from namespace {namespace}")]
    UnknownHost { host: String, namespace: String },
    #[error("the address of {host} is not known: {why}")]
    Unresolved { host: String, why: Arc<str> },
    #[error(
        "{0} is an address of this host, its links or a group, or the one that the call came to: nobody is led there"
    )]
    NotOutside(String),
    #[error("service {service} has no port {port}; it has {known}")]
    UnknownPort { service: ServiceId, port: String, known: String },
    #[error("port {port} of service {service} is {protocol}, not HTTP: use CONNECT or a tcp listener")]
    NotHttp { service: ServiceId, port: u16, protocol: &'static str },
    #[error("no rule for {0} matches this request")]
    NoRoute(String),
    #[error("the VirtualService for {0} names a destination or subset that does not exist")]
    UnknownCluster(String),
    /// With the words of Envoy's filter.
    #[error("local_rate_limited")]
    RateLimited(Quota),
    #[error("a route of {0} sends this request to no backend that exists and may be named")]
    InvalidBackend(String),
    #[error("fault filter abort")]
    Aborted(FaultEnd),
    #[error("no healthy upstream: {0} has no endpoint that may be called")]
    NoEndpoint(String),
    #[error("upstream connect error or disconnect/reset before headers. reset reason: overflow")]
    Overflow,
    #[error("{0} is not hosted on this node")]
    NotHosted(String),
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("upstream connect error or disconnect/reset before headers: {0}")]
    Reset(Arc<UpstreamError>),
    #[error("upstream request timeout")]
    Timeout,
    #[error("this node holds as much as it may for peers that send or read slowly")]
    Overload,
    #[error("{0}")]
    Denied(Box<Denial>),
}

/// Why nothing, or no more, comes of a request on the connection that it was given to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error(transparent)]
    Http1(#[from] client::Error),
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

impl UpstreamError {
    /// The upstream has answered, but with what is no response.
    pub(crate) fn is_malformed(&self) -> bool {
        matches!(self, Self::Http1(client::Error::Malformed(_)))
    }

    /// Whether the peer says that it has not looked at the request: a refused stream, or one that came after GOAWAY.
    pub(crate) fn was_refused(&self) -> bool {
        let Self::Http2(error) = self else { return false };
        let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
        source.is_some_and(|error| {
            error.is_remote()
                && (error.reason() == Some(h2::Reason::REFUSED_STREAM)
                    || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)))
        })
    }

    /// The peer ended the connection before it answered, as one does that has just been idle for too long.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Http1(error) if error.is_unanswered())
    }
}

/// The workload's policies do not let the caller in.
#[derive(Clone, Debug)]
pub(crate) struct Denial {
    pub(crate) why: WhyDenied,
    /// What the operator can ask for.
    pub(crate) id: DecisionId,
}

#[derive(Clone, Debug)]
pub(crate) enum WhyDenied {
    /// A token does not do. `url` is the request's, without the query.
    Token { refusal: authenticate::Refusal, url: String },
    /// `details` is how Envoy's access log names the rule.
    Policy { details: String },
    /// An external authorizer says no, or nothing.
    Provider(Refusal),
}

impl Denial {
    /// The answer's body where somebody else has made it.
    pub(crate) fn body(&self) -> Option<Bytes> {
        match &self.why {
            WhyDenied::Provider(refusal) => Some(refusal.body.clone()),
            WhyDenied::Token { .. } | WhyDenied::Policy { .. } => None,
        }
    }

    /// Envoy's words for its access log.
    pub(crate) fn details(&self) -> String {
        match &self.why {
            WhyDenied::Token { refusal, .. } => {
                format!("jwt_authn_access_denied{{{}}}", refusal.to_string().replace(' ', "_"))
            }
            WhyDenied::Policy { details } => details.clone(),
            WhyDenied::Provider(_) => "ext_authz_denied".to_owned(),
        }
    }
}

/// The answer's body, as Envoy has it. It does not say which rule: that is the operator's to know.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            WhyDenied::Token { refusal, .. } => refusal.fmt(f),
            WhyDenied::Policy { .. } => f.write_str("RBAC: access denied"),
            WhyDenied::Provider(refusal) => f.write_str(&String::from_utf8_lossy(&refusal.body)),
        }
    }
}

/// Why a request's body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BrokeOff {
    #[error("the caller went away")]
    Gone,
    #[error("it is malformed")]
    Malformed,
    #[error("it was announced and did not come")]
    Stalled,
}

impl BrokeOff {
    /// From what reading the body failed with.
    pub(crate) fn of(error: &hyper::Error) -> Self {
        use io::ErrorKind::{InvalidData, InvalidInput};
        let source = std::error::Error::source(error);
        let io = source.and_then(|source| source.downcast_ref::<io::Error>());
        let http2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
        let is_malformed = io.is_some_and(|error| matches!(error.kind(), InvalidData | InvalidInput))
            || http2.is_some_and(|error| error.is_library() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR));
        if is_malformed { Self::Malformed } else { Self::Gone }
    }
}

/// Why no connection to an endpoint could be made. Nothing was sent, so another endpoint may be tried.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(
        "this node has no service account to make the call as: host a service on it (services: in node.yaml, or weft \
         run), or name an account with `outbound.as` or the listener's `as`; a host that hosts nothing calls as \
         default/default if its token was made with --allow default/default"
    )]
    NoCaller,
    #[error("this node has no certificate for service account {0} yet, so it cannot call as it")]
    NoIdentity(ServiceAccount),
    /// A place outside of the mesh that may only be called by TLS.
    #[error("TLS with a place outside of the mesh is not possible: {0}")]
    Unprotected(Arc<str>),
    #[error("could not connect to {to}: {source}")]
    Tcp { to: Arc<str>, source: Arc<io::Error> },
    #[error("could not connect to {to} within {after:?}")]
    Timeout { to: Arc<str>, after: Duration },
    #[error("TLS with {to}: {source}")]
    Tls { to: Arc<str>, source: Arc<io::Error> },
    #[error("{to} is not who it must be: {source}")]
    Peer { to: Arc<str>, source: PeerError },
    #[error("{to} does not speak {expected} on this port")]
    Alpn { to: Arc<str>, expected: &'static str },
    #[error("HTTP with {to}: {source}")]
    Http { to: Arc<str>, source: Arc<hyper::Error> },
    #[error("the proxy {to} opens no tunnel to {target}: it has answered {status}")]
    Tunnel { to: Arc<str>, target: Authority, status: StatusCode },
}

impl ConnectError {
    /// From what a TLS handshake failed with. rustls wraps the verdicts of our own verifiers; they are unwrapped.
    pub(crate) fn of_handshake(to: Arc<str>, error: io::Error) -> Self {
        use rustls::{CertificateError, Error, OtherError};
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        if let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(verdict)))) = inner
            && let Some(source) = verdict.downcast_ref::<PeerError>()
        {
            return Self::Peer { to, source: source.clone() };
        }
        Self::Tls { to, source: Arc::new(error) }
    }

    /// Whether the endpoint, and not this node, is to blame: only then is it avoided and another one tried.
    pub(crate) fn blames_endpoint(&self) -> bool {
        match self {
            Self::NoCaller | Self::NoIdentity(_) | Self::Unprotected(_) => false,
            // Another proxy may reach what this one does not; who may not go there may not go there by another.
            Self::Tunnel { status, .. } => status.is_server_error(),
            _ => true,
        }
    }
}

/// One word for what is wrong with a certificate, if that is why TLS failed: with the server's, or with ours in its eyes.
pub(crate) fn certificate_problem(error: &io::Error) -> Option<&'static str> {
    use rustls::{AlertDescription, CertificateError, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())?;
    Some(match inner {
        Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => "certificate_of_unknown_authority",
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate_expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "certificate_not_yet_valid",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "certificate_of_another_name"
            }
            CertificateError::Revoked => "certificate_revoked",
            _ => "bad_certificate",
        },
        Error::AlertReceived(AlertDescription::CertificateRequired) => "client_certificate_wanted",
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => "client_certificate_refused",
        _ => return None,
    })
}

/// What is wrong with a certificate, if that is why a connection broke: servers of TLS 1.3 look at the client's only
/// after the handshake.
pub(crate) fn reset_by_certificate(error: &UpstreamError) -> Option<&'static str> {
    if let UpstreamError::Http1(client::Error::Io(error)) = error {
        return certificate_problem(error);
    }
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(problem) = error.downcast_ref::<io::Error>().and_then(certificate_problem) {
            return Some(problem);
        }
        source = error.source();
    }
    None
}

/// A peer that is not who it must be.
#[derive(Clone, Debug)]
pub(crate) enum PeerError {
    /// The server proved an identity, but not one that the service may have.
    WrongIdentity { shown: SpiffeId, expected: Arc<[SpiffeId]> },
    /// The certificate carries no SPIFFE id, or several.
    NoIdentity,
    /// An identity of another trust domain, or one that may not call (an operator's).
    NotAllowed(SpiffeId),
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongIdentity { shown, expected } => {
                write!(f, "the server is {shown}, but this service may only be ")?;
                for (i, id) in expected.iter().enumerate() {
                    write!(f, "{}{id}", if i == 0 { "" } else { " or " })?;
                }
                if expected.is_empty() {
                    f.write_str(
                        "nobody: neither signed facts nor a rule's subjectAltNames name an identity of the mesh",
                    )
                } else {
                    Ok(())
                }
            }
            Self::NoIdentity => f.write_str("the certificate does not carry exactly one SPIFFE id"),
            Self::NotAllowed(id) => write!(f, "{id} is no workload or node of this mesh's trust domain"),
        }
    }
}

impl std::error::Error for PeerError {}
