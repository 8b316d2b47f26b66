//! What the admin API says: the types of its JSON, shared by the server and the command line.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_policy::{date::Date, status::ParentName};
use weft_wire::{
    document::{DocumentKey, SignedDocument, VersionId},
    fact::Protocol,
    id::{AccountPattern, Namespace, Role, ServiceName, SpiffeId},
    secret::SecretPayload,
};

use crate::supervisor::ActorStatus;

/// Largest request body, in bytes: files of documents, a little larger as JSON.
pub const MAX_REQUEST_LEN: usize = 8 * 1024 * 1024;

/// A time in milliseconds since 1970, such as `2026-11-24T04:12:16.123Z`.
pub fn rfc3339(millis: u64) -> String {
    Date::of(UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)).rfc3339()
}

/// A value as YAML, with a newline at its end, as all commands print it.
///
/// # Errors
/// What the value itself cannot be written for.
pub fn yaml(value: &impl Serialize) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(value)
}

/// Why something was not done: what, why, what to do, in one line.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    pub error: String,
}

/// `GET /api/v1/status`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    pub name: String,
    pub id: String,
    pub mesh: String,
    pub trust_domain: String,
    pub role: Role,
    /// Empty from a node that knows no cells.
    #[serde(default)]
    pub cell: String,
    #[serde(default)]
    pub relay: bool,
    /// Service accounts that the node may host.
    pub allow: Vec<AccountPattern>,
    pub advertise: String,
    pub version: String,
    pub incarnation: u64,
    pub uptime_seconds: u64,
    pub ready: bool,
    /// Why the node is not ready; empty when it is.
    pub not_ready: Vec<String>,
    /// Negative once it has ended.
    pub certificate_seconds_left: i64,
    /// Of a CA node's intermediate; `null` on other nodes.
    pub issuer_seconds_left: Option<i64>,
    pub members_alive: usize,
    pub members_known: usize,
    pub documents: usize,
    /// Equal on all nodes that hold the same documents.
    pub documents_digest: String,
    pub view_epoch: u64,
    pub actors: Vec<ActorStatus>,
}

/// An element of `GET /api/v1/members`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    pub name: String,
    pub id: String,
    pub address: String,
    /// `alive`, `suspect`, `failed` or `left`, as this node sees it.
    pub state: String,
    pub this_node: bool,
    pub role: Role,
    pub locality: String,
    /// Empty from a node that knows no cells.
    #[serde(default)]
    pub cell: String,
    #[serde(default)]
    pub relay: bool,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub incarnation: u64,
    pub endpoints: usize,
    /// Seconds since the state last changed.
    pub since_seconds: u64,
    /// Of the certificate by which it said the latest of itself; negative once that has ended.
    #[serde(default)]
    pub certificate_seconds_left: Option<i64>,
}

/// An element of `GET /api/v1/services`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    pub name: String,
    pub namespace: String,
    pub host: String,
    pub ports: Vec<Port>,
    pub versions: Vec<String>,
    pub endpoints: usize,
    pub healthy: usize,
    /// Its endpoints in other cells, as relays of these tell: a node that wants them names the service in `wants`.
    #[serde(default)]
    pub cells: BTreeMap<String, u32>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Port {
    pub port: u16,
    pub name: String,
    pub protocol: String,
}

/// An element of `GET /api/v1/endpoints?service=NAME.NAMESPACE`, or `?service=HOST` of one outside of the mesh, or
/// `?node=NAME`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    pub workload: String,
    /// Empty for a place outside of the mesh.
    pub node: String,
    pub address: String,
    pub port: u16,
    pub target_port: u16,
    pub version: String,
    pub identities: Vec<String>,
    /// What the hosting node's own checks say: `healthy`, `unhealthy` or `draining`.
    pub health: String,
    /// How this node stands to it: `preferred`, `demoted` or `excluded`.
    pub standing: String,
    /// Why callers of this node get to it only as a last choice or not at all, and for how long: such as
    /// `consecutive_5xx 25s`. Empty if nothing holds it back.
    #[serde(default)]
    pub held_back: String,
    pub active_requests: u32,
    /// Where it is, such as `eu/eu-1/a`; empty if nobody says.
    #[serde(default)]
    pub locality: String,
    /// Its share of the requests among others of the service, 1 or more.
    #[serde(default)]
    pub weight: u32,
}

/// An element of `GET /api/v1/workloads`: a workload's port, as its node announces it
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Workload {
    pub service: ServiceName,
    /// Its name, in its service's namespace; empty if an older version tells it.
    #[serde(default)]
    pub workload: String,
    pub port: u16,
    /// A node of an older version says neither of these.
    #[serde(default)]
    pub node: String,
    #[serde(default)]
    pub protocol: Protocol,
    /// The service account that it runs as, in its service's namespace; empty if an older version tells it.
    #[serde(default)]
    pub account: String,
    /// What selectors see: with `app` and `version` where only the service and the version are given.
    pub labels: BTreeMap<String, String>,
}

/// Body of `POST /api/v1/explain/route`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RouteQuestion {
    /// A workload or a service, with `.NAMESPACE` if it is of another one. This or `gateway` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// See `weft_policy::explain::gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// `HOST` or `HOST:PORT`.
    pub to: String,
    pub namespace: Namespace,
    pub method: String,
    /// Path and query.
    pub path: String,
    pub scheme: String,
    pub headers: Vec<(String, String)>,
}

/// Body of `POST /api/v1/explain/access`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct AccessQuestion {
    /// A workload, a service, a service account or a principal; see `weft_policy::explain::access`.
    pub from: String,
    /// `SERVICE` or `SERVICE:PORT`.
    pub to: String,
    pub namespace: Namespace,
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// Of a token that counts as verified.
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
    pub source_ip: Option<IpAddr>,
}

/// Answer to `POST /api/v1/explain/route` and `POST /api/v1/explain/access`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// For people.
    pub text: String,
    /// For programs; see `weft_policy::explain`.
    pub explanation: serde_json::Value,
    /// Of access: whether all workloads allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<bool>,
}

/// Body of `POST /api/v1/tokens`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TokenRequest {
    pub role: Role,
    pub ttl_seconds: u64,
    pub uses: u32,
    pub allow: Vec<AccountPattern>,
}

/// Answer to `POST /api/v1/tokens`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    pub token: String,
}

/// An element of `GET /api/v1/tokens`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    pub id: String,
    pub issuer: String,
    pub role: Role,
    pub allow: Vec<AccountPattern>,
    pub uses: u32,
    pub used: u32,
    pub expires_in_seconds: u64,
}

/// Body of `POST /api/v1/documents/prepare`: what an author is about to sign.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Prepare {
    /// The node itself if absent.
    pub author: Option<SpiffeId>,
    pub drafts: Vec<Draft>,
}

/// What an author wants to say.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Draft {
    pub key: DocumentKey,
    /// The document as JSON; `None` deletes.
    pub body: Option<String>,
    /// What it commits to, if it is a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<SecretPayload>,
    /// The version that it is a change of: refused where the mesh has another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<VersionId>,
}

/// Body of `POST /api/v1/documents`: drafts for the node to sign, or prepared documents that an operator signed.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Write {
    Drafts(Vec<Draft>),
    Signed {
        documents: Vec<SignedDocument>,
        /// What the Secrets among them commit to.
        #[serde(default)]
        contents: Vec<SecretPayload>,
        /// [`Draft::if_version`] of those that had one.
        #[serde(default)]
        if_versions: Vec<(DocumentKey, VersionId)>,
    },
}

/// An element of the answer to both: what happened to one document.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Written {
    pub key: DocumentKey,
    /// `created`, `configured`, `unchanged` or `deleted`, as kubectl says.
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Created,
    Configured,
    Unchanged,
    Deleted,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        }
    }
}

/// Answer to `POST /api/v1/documents/prepare`, an element per draft: the document to sign, or none where the mesh
/// already says the same.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Prepared {
    pub outcome: Outcome,
    pub document: Option<SignedDocument>,
}

/// An element of `GET /api/v1/documents`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Document {
    pub key: DocumentKey,
    pub author: String,
    /// Milliseconds since 1970.
    pub created_millis: u64,
    pub updated_millis: u64,
    /// `metadata.resourceVersion`
    pub version: VersionId,
    /// As it is stored.
    pub body: serde_json::Value,
    pub status: DocumentStatus,
}

impl Document {
    /// With what a server sets, as `weft get` prints it. Applying it changes nothing: those fields are dropped, but for
    /// the version, which has a change of it refused when the document is no longer the same.
    pub fn printed(&self) -> serde_json::Value {
        let mut value = self.body.clone();
        value["metadata"]["creationTimestamp"] = rfc3339(self.created_millis).into();
        value["metadata"]["generation"] = self.updated_millis.into();
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        value["status"] = serde_json::json!(self.status);
        shorten_digest(&mut value);
        value
    }
}

const DIGEST_SHOWN: usize = 12;

/// Leaves of the digest of a Secret's content enough to tell versions apart.
pub fn shorten_digest(document: &mut serde_json::Value) {
    if let Some(serde_json::Value::String(digest)) = document.pointer_mut("/content/digest") {
        digest.truncate(DIGEST_SHOWN);
    }
}

/// What became of a document, as seen from the node that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DocumentStatus {
    /// The `metadata.generation` that was judged.
    pub observed_generation: u64,
    pub conditions: Vec<Condition>,
    /// Of a route of the Gateway API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentStatus>,
    /// Of a policy of the Gateway API, by its targets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<AncestorStatus>,
    /// Of a Gateway, of Istio too, or of a ListenerSet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerStatus>,
    /// Of a Gateway of the Gateway API: where the nodes are that are to serve it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<GatewayAddress>,
    pub nodes: Nodes,
}

/// An address of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GatewayAddress {
    /// `IPAddress`
    #[serde(rename = "type")]
    pub kind: String,
    pub value: IpAddr,
}

/// What a parent of a route, or a gateway of a VirtualService, makes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    pub parent_ref: ParentName,
    pub controller_name: String,
    pub conditions: Vec<Condition>,
}

/// What became of a policy at one of its targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    pub ancestor_ref: ParentName,
    pub controller_name: String,
    pub conditions: Vec<Condition>,
}

/// What became of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    pub name: String,
    /// None of one of Istio's.
    #[serde(default)]
    pub supported_kinds: Vec<RouteKind>,
    pub attached_routes: usize,
    pub conditions: Vec<Condition>,
}

/// A kind of routes that a listener takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteKind {
    pub group: String,
    pub kind: String,
}

impl DocumentStatus {
    /// Whether a condition is said not to hold.
    pub fn lacks(&self, condition: &str) -> bool {
        self.conditions.iter().any(|known| known.kind == condition && known.status == "False")
    }
}

/// Kubernetes' `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs` or `Programmed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    pub reason: String,
    pub message: String,
    pub observed_generation: u64,
    /// RFC 3339. Absent where it depends on more than the document, so that nobody noted the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

/// Which nodes of the mesh have all documents that the asked node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nodes {
    /// How many have.
    pub current: usize,
    /// How many there are.
    pub total: usize,
    /// The names of those that have not, by what they said last.
    pub lagging: Vec<String>,
}
