//! Names and identities. Each type is parsed once, at the edge, and is valid from then on.
//!
//! The SPIFFE forms are those of <https://spiffe.io/docs/latest/spiffe-specs/spiffe-id/>; workload ids follow
//! Istio's `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest label that DNS and Kubernetes accept (RFC 1123).
pub const MAX_LABEL_LEN: usize = 63;
/// Longest DNS name (RFC 1035), also the longest trust domain (SPIFFE).
pub const MAX_DNS_NAME_LEN: usize = 253;

/// Why a string is not the name it was meant to be. The text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("{what} {value:?} must be 1 to 63 of a-z, 0-9 and '-', and neither start nor end with '-'")]
    NotALabel { what: &'static str, value: String },
    #[error("{what} {value:?} must be DNS labels (a-z, 0-9, '-') joined by dots, 253 characters at most")]
    NotADnsName { what: &'static str, value: String },
    #[error("{what} {value:?} must look like {form}")]
    BadForm { what: &'static str, value: String, form: &'static str },
}

/// True for an RFC 1123 label in lower case.
pub fn is_label(s: &str) -> bool {
    (1..=MAX_LABEL_LEN).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

/// True for labels joined by dots, 253 characters at most.
pub fn is_dns_name(s: &str) -> bool {
    s.len() <= MAX_DNS_NAME_LEN && s.split('.').all(is_label)
}

/// A string that was checked by its constructor. Cheap to clone; compares and hashes as the string.
macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $error:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                if $check(s) { Ok(Self(s.into())) } else { Err(IdError::$error { what: $what, value: s.into() }) }
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

checked_name! {
    /// A node's name: unique in its mesh, bound to a key by its certificate.
    NodeName, "node name", is_label, NotALabel
}
checked_name! {
    /// A SPIFFE trust domain, such as `cluster.local`.
    TrustDomain, "trust domain", is_dns_name, NotADnsName
}
checked_name! {
    /// A namespace of services and documents, such as `default`.
    Namespace, "namespace", is_label, NotALabel
}
checked_name! {
    /// The name of one workload (one service instance), unique within its node and namespace, such as `reviews-v1`.
    WorkloadName, "workload name", is_label, NotALabel
}

checked_name! {
    /// A cell: nodes that gossip with each other. A large mesh has several.
    CellName, "cell name", is_label, NotALabel
}

impl CellName {
    /// The cell of nodes that name none.
    pub fn default_cell() -> Self {
        Self("default".into())
    }

    /// What stands for the whole cell where nodes are told apart by id; no node has it.
    pub fn id(&self) -> NodeId {
        short_id(&["cell/", &self.0])
    }
}

impl Namespace {
    /// The namespace of what names none.
    pub fn default_namespace() -> Self {
        Self("default".into())
    }
}

impl NodeName {
    /// The node's short id: the first 8 bytes of the SHA-256 of its name. Short because membership repeats every id
    /// in each message; derived, so that no table maps one to the other.
    pub fn id(&self) -> NodeId {
        short_id(&[&self.0])
    }
}

fn short_id(parts: &[&str]) -> NodeId {
    let hash = digest::digest(&digest::SHA256, parts.concat().as_bytes());
    let mut id = [0; 8];
    id.copy_from_slice(&hash.as_ref()[..8]);
    NodeId(id)
}

/// A node's short id, printed as 16 hex digits. See [`NodeName::id`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 8]);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for NodeId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        read_hex(s).map(Self).ok_or_else(|| IdError::BadForm {
            what: "node id",
            value: s.into(),
            form: "16 lower-case hex digits",
        })
    }
}

/// A mesh: the SHA-256 of its root's SubjectPublicKeyInfo. Whoever holds the root key is the mesh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MeshId(pub [u8; 32]);

impl MeshId {
    /// The id of the mesh whose root has this DER-encoded SubjectPublicKeyInfo.
    pub fn of_root_spki(spki_der: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, spki_der);
        let mut id = [0; 32];
        id.copy_from_slice(hash.as_ref());
        Self(id)
    }
}
impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}
impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for MeshId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        read_hex(s).map(Self).ok_or_else(|| IdError::BadForm {
            what: "mesh id",
            value: s.into(),
            form: "64 lower-case hex digits",
        })
    }
}

/// Writes bytes as lower-case hex digits.
///
/// # Errors
/// Those of the formatter.
pub fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// Reads what [`write_hex`] wrote; `None` for any other length or character, upper case included.
pub fn read_hex<const N: usize>(s: &str) -> Option<[u8; N]> {
    let digits = s.as_bytes();
    if digits.len() != 2 * N || digits.iter().any(|d| !matches!(d, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// A service: a name within a namespace, printed `reviews.default`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ServiceName {
    pub namespace: Namespace,
    pub name: ServiceLabel,
}

checked_name! {
    /// The name of a service within its namespace, such as `reviews`.
    ServiceLabel, "service name", is_label, NotALabel
}

impl ServiceName {
    /// The fully qualified name in the cluster domain, such as `reviews.default.svc.cluster.local`.
    pub fn fqdn(&self) -> String {
        format!("{}.{}.svc.{CLUSTER_DOMAIN}", self.name, self.namespace)
    }
}
impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}
impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for ServiceName {
    type Err = IdError;
    /// Reads `name.namespace`, or `name` for the default namespace.
    fn from_str(s: &str) -> Result<Self, IdError> {
        let (name, namespace) = match s.split_once('.') {
            Some((name, namespace)) => (name, namespace.parse()?),
            None => (s, Namespace::default_namespace()),
        };
        Ok(Self { namespace, name: name.parse()? })
    }
}

/// The domain under which services have DNS names, as in Kubernetes.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

checked_name! {
    /// The name of a service account within its namespace. Kubernetes allows DNS names here, not just labels.
    AccountName, "service account", is_dns_name, NotADnsName
}

/// A service account: what workloads run as, printed `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ServiceAccount {
    pub namespace: Namespace,
    pub name: AccountName,
}

impl ServiceAccount {
    /// `default/default`: the account of what names none.
    pub fn default_account() -> Self {
        Self { namespace: Namespace::default_namespace(), name: AccountName("default".into()) }
    }
}
impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for ServiceAccount {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let (namespace, name) = s.split_once('/').ok_or_else(|| IdError::BadForm {
            what: "service account",
            value: s.into(),
            form: "NAMESPACE/NAME",
        })?;
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

/// Who somebody is, as a certificate of the mesh says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    pub trust_domain: TrustDomain,
    pub subject: Subject,
}

/// The three kinds of identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// `spiffe://TD/ns/NAMESPACE/sa/NAME`
    Workload(ServiceAccount),
    /// `spiffe://TD/node/NAME`
    Node(NodeName),
    /// `spiffe://TD/operator/NAME`
    Operator(AccountName),
}

impl SpiffeId {
    pub fn workload(trust_domain: TrustDomain, account: ServiceAccount) -> Self {
        Self { trust_domain, subject: Subject::Workload(account) }
    }
    pub fn node(trust_domain: TrustDomain, name: NodeName) -> Self {
        Self { trust_domain, subject: Subject::Node(name) }
    }
    pub fn operator(trust_domain: TrustDomain, name: AccountName) -> Self {
        Self { trust_domain, subject: Subject::Operator(name) }
    }
    pub fn as_node(&self) -> Option<&NodeName> {
        match &self.subject {
            Subject::Node(name) => Some(name),
            _ => None,
        }
    }
    pub fn as_workload(&self) -> Option<&ServiceAccount> {
        match &self.subject {
            Subject::Workload(account) => Some(account),
            _ => None,
        }
    }
}
impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/", self.trust_domain)?;
        match &self.subject {
            Subject::Workload(account) => write!(f, "ns/{}/sa/{}", account.namespace, account.name),
            Subject::Node(name) => write!(f, "node/{name}"),
            Subject::Operator(name) => write!(f, "operator/{name}"),
        }
    }
}
impl FromStr for SpiffeId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let bad = || IdError::BadForm {
            what: "SPIFFE id",
            value: s.into(),
            form: "spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/NAME, …/node/NAME or …/operator/NAME",
        };
        let (trust_domain, path) = s.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        let parts: Vec<&str> = path.split('/').collect();
        let subject = match parts.as_slice() {
            ["ns", namespace, "sa", name] => {
                Subject::Workload(ServiceAccount { namespace: namespace.parse()?, name: name.parse()? })
            }
            ["node", name] => Subject::Node(name.parse()?),
            ["operator", name] => Subject::Operator(name.parse()?),
            _ => return Err(bad()),
        };
        Ok(Self { trust_domain: trust_domain.parse()?, subject })
    }
}
impl TryFrom<String> for SpiffeId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}
impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> String {
        id.to_string()
    }
}

/// What a node may do beyond hosting. Ordered: each role may do all that the one before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Hosts and calls services.
    Member,
    /// Also writes documents, signed with its own key.
    Admin,
    /// Also issues certificates and tokens.
    Ca,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Ca => "ca",
        }
    }
}
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl FromStr for Role {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        match s {
            "member" => Ok(Self::Member),
            "admin" => Ok(Self::Admin),
            "ca" => Ok(Self::Ca),
            _ => Err(IdError::BadForm { what: "role", value: s.into(), form: "member, admin or ca" }),
        }
    }
}

/// Which service accounts a node may host: `NS/SA`, `NS/*` or `*/*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub enum AccountPattern {
    Account(ServiceAccount),
    Namespace(Namespace),
    Any,
}

impl AccountPattern {
    pub fn matches(&self, account: &ServiceAccount) -> bool {
        match self {
            Self::Account(allowed) => allowed == account,
            Self::Namespace(namespace) => *namespace == account.namespace,
            Self::Any => true,
        }
    }
}
impl fmt::Display for AccountPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(account) => fmt::Display::fmt(account, f),
            Self::Namespace(namespace) => write!(f, "{namespace}/*"),
            Self::Any => f.write_str("*/*"),
        }
    }
}
impl FromStr for AccountPattern {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        match s.split_once('/') {
            Some(("*", "*")) => Ok(Self::Any),
            Some((namespace, "*")) => Ok(Self::Namespace(namespace.parse()?)),
            _ => Ok(Self::Account(s.parse()?)),
        }
    }
}
impl TryFrom<String> for AccountPattern {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}
impl From<AccountPattern> for String {
    fn from(pattern: AccountPattern) -> String {
        pattern.to_string()
    }
}

/// What a certificate lets its holder do, written into it by the CA that signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub role: Role,
    pub accounts: Vec<AccountPattern>,
}

impl Grant {
    /// Whether the holder may host this service account.
    pub fn allows(&self, account: &ServiceAccount) -> bool {
        self.accounts.iter().any(|pattern| pattern.matches(account))
    }
}

/// Where a node is: Istio's `region/zone/subzone`, each part may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub subzone: String,
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.region, &self.zone, &self.subzone];
        let used = parts.iter().rposition(|part| !part.is_empty()).map_or(0, |last| last + 1);
        for (i, part) in parts[..used].iter().enumerate() {
            write!(f, "{}{part}", if i == 0 { "" } else { "/" })?;
        }
        Ok(())
    }
}

/// Whose certificates are revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The node's own certificate, those of workloads that it was given, and what it signed if it is a CA node.
    Node(NodeName),
    /// The account's, on all nodes.
    Account(ServiceAccount),
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Account(account) => write!(f, "service account {account}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_print_as_they_are_read() {
        for id in [
            "spiffe://cluster.local/ns/default/sa/bookinfo-reviews",
            "spiffe://cluster.local/node/host-1",
            "spiffe://a.example/operator/admin",
        ] {
            assert_eq!(id.parse::<SpiffeId>().unwrap().to_string(), id);
        }
    }

    #[test]
    fn spiffe_ids_of_another_form_are_refused() {
        for id in [
            "",
            "spiffe://",
            "http://cluster.local/node/a",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/default/sa/",
            "spiffe://cluster.local/ns/default/sa/a/b",
            "spiffe://cluster.local/node/A",
            "spiffe://UPPER/node/a",
            "spiffe://cluster.local//node/a",
        ] {
            assert!(id.parse::<SpiffeId>().is_err(), "{id}");
        }
    }

    #[test]
    fn a_grant_allows_by_account_namespace_or_all() {
        let account: ServiceAccount = "default/reviews".parse().unwrap();
        for (pattern, allowed) in [
            ("default/reviews", true),
            ("default/*", true),
            ("*/*", true),
            ("default/ratings", false),
            ("prod/*", false),
        ] {
            let grant = Grant { role: Role::Member, accounts: vec![pattern.parse().unwrap()] };
            assert_eq!(grant.allows(&account), allowed, "{pattern}");
        }
        assert!("*/reviews".parse::<AccountPattern>().is_err());
    }

    #[test]
    fn ids_are_hex_of_fixed_length() {
        let id = "a".parse::<NodeName>().unwrap().id();
        assert_eq!(id.to_string(), "ca978112ca1bbdca");
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
        assert!("CA978112CA1BBDCA".parse::<NodeId>().is_err());
        assert!("ca978112ca1bbd".parse::<NodeId>().is_err());
    }

    #[test]
    fn a_locality_prints_without_empty_ends() {
        let locality = |region: &str, zone: &str, subzone: &str| {
            Locality { region: region.into(), zone: zone.into(), subzone: subzone.into() }.to_string()
        };
        assert_eq!(locality("", "", ""), "");
        assert_eq!(locality("eu", "", ""), "eu");
        assert_eq!(locality("eu", "a", ""), "eu/a");
        assert_eq!(locality("eu", "", "x"), "eu//x");
    }
}
