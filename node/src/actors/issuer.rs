//! The `issuer` actor: this node's certificates, renewed at half their life; and on a CA node, everybody else's.
//!
//! Keys are made here and stay here. A node that cannot sign a certificate itself asks the CA nodes; what it may ask
//! for, its own certificate says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::{
    sync::{oneshot, watch},
    time::MissedTickBehavior,
};
use weft_ca::{
    csr,
    issuer::{Issuer, NODE_LIFETIME, Root, WORKLOAD_LIFETIME},
    joins::{Known, RecentJoins},
    key::{PrivateKey, PublicKey},
    keyfile,
    renewal::Schedule,
    revocation::Revocations,
    rules,
    token::{JoinToken, TokenClaims, TokenContext, TokenId},
    trust::PeerIdentity,
};
use weft_policy::{api::mesh::revocations as revocations_of, document::Document};
use weft_proxy::ports::{Caller, IdentityPublisher, IdentitySnapshot, WorkloadIdentities, WorkloadIdentity};
use weft_wire::{
    fact::NodeState,
    frame::{JoinQuestion, JoinRequest, JoinResponse, MESH_PORT, Request, Response, Welcome},
    id::{Grant, NodeName, Revoked, Role, ServiceAccount, SpiffeId},
};

use crate::{
    actors::{
        documents::{self, TokenRecord},
        facts,
        health::HostedSet,
        links,
    },
    admin::api::{TokenCreated, TokenRequest},
    dir::{Credential, Dir},
    events::Kind,
    identity::{IdentityReader, NodeIdentity, certified_key, der_chain, wall_ms},
    peer::tls::{Peer, Standing},
    supervisor::{Actor, Inbox, Mailbox},
    telemetry::{Reason, Telemetry},
};

const TICK: Duration = Duration::from_millis(500);
/// Addresses of nodes that a joining host is told.
const MAX_PEERS_TOLD: usize = 16;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A CA node says daily that its intermediate could not be renewed, from so long before its end on.
const WARN_BEFORE_END: Duration = Duration::from_secs(10 * DAY.as_secs());
/// How often a CA node looks for tokens of which nothing needs to be remembered any more, and how many it then forgets.
const FORGET_EVERY: Duration = Duration::from_secs(600);
const MAX_FORGOTTEN: usize = 100;
/// Uses of a token are counted until so long after its end: some CA node's clock may be late.
const KEEP_USES: Duration = DAY;
/// The token's record is kept for longer, since it tells the other CA nodes when to forget the uses that they counted.
const KEEP_RECORD: Duration = Duration::from_secs(2 * DAY.as_secs());

type Chain = Vec<CertificateDer<'static>>;
/// A key and its certificate.
type Certified = anyhow::Result<(Arc<PrivateKey>, Chain)>;

/// The certificate that is wanted, by this node or by the one that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The node's own.
    Node,
    /// The intermediate of a CA node.
    Issuer,
    Workload(ServiceAccount),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Issuer => f.write_str("intermediate"),
            Self::Workload(account) => write!(f, "workload {account}"),
        }
    }
}

impl Wanted {
    fn request(&self, csr: Vec<u8>) -> Request {
        match self.clone() {
            Self::Node => Request::RenewNode { csr },
            Self::Issuer => Request::RenewIssuer { csr },
            Self::Workload(ServiceAccount { namespace, name }) => {
                Request::CertifyWorkload { namespace, account: name, csr }
            }
        }
    }
}

pub enum Msg {
    Certify(Box<Peer>, Wanted, Vec<u8>, oneshot::Sender<anyhow::Result<Response>>),
    Join(Box<JoinRequest>, NodeName, oneshot::Sender<anyhow::Result<Welcome>>),
    CreateToken(TokenRequest, oneshot::Sender<anyhow::Result<TokenClaims>>),
    /// What came of asking CA nodes.
    Renewed(Wanted, Certified),
    /// Every certificate but the intermediate, whether it is due or not.
    #[cfg(feature = "testing")]
    RenewAll,
}

#[derive(Clone)]
pub struct Handle {
    mailbox: Mailbox<Msg>,
    identity: IdentityReader,
    facts: watch::Receiver<Arc<facts::Published>>,
    documents: documents::Handle,
    telemetry: Telemetry,
}

impl Handle {
    pub fn new(
        mailbox: Mailbox<Msg>,
        identity: IdentityReader,
        facts: watch::Receiver<Arc<facts::Published>>,
        documents: documents::Handle,
        telemetry: Telemetry,
    ) -> Self {
        Self { mailbox, identity, facts, documents, telemetry }
    }

    /// Certifies a peer's key, if the peer may have what it wants.
    ///
    /// # Errors
    /// Why not, in words for the peer.
    pub async fn certify(&self, peer: Peer, wanted: Wanted, csr: Vec<u8>) -> anyhow::Result<Response> {
        self.mailbox.ask(|reply| Msg::Certify(Box::new(peer), wanted, csr, reply)).await?
    }

    /// Answers a joining host, about whom nothing is known but what it shows.
    pub async fn answer_join(&self, question: JoinQuestion, from: SocketAddr) -> JoinResponse {
        let request = match question {
            JoinQuestion::WhoIssues => return JoinResponse::Issuers(self.issuers()),
            JoinQuestion::Join(request) => request,
        };
        // What is no name is a stranger's text, and not for the log.
        let name: NodeName = match request.name.parse() {
            Ok(name) => name,
            Err(error) => {
                self.count("refused");
                tracing::warn!(%from, "join refused: the host asks for something that is no node name");
                return JoinResponse::Refused { why: format!("{error}") };
            }
        };
        let answer = self.mailbox.ask(|reply| Msg::Join(request, name.clone(), reply)).await;
        match answer.map_err(anyhow::Error::from).and_then(|answer| answer) {
            Ok(welcome) => {
                self.count("joined");
                tracing::info!(%from, %name, "host joined");
                self.telemetry.events.say(Kind::Certificate, &name, format!("issued to a joining host at {from}"));
                JoinResponse::Welcome(Box::new(welcome))
            }
            Err(error) => {
                let why = format!("{error:#}");
                self.count("refused");
                tracing::warn!(%from, %name, %why, "join refused");
                let now = std::time::Instant::now();
                self.telemetry.events.deny(wall_ms(), &name, format!("may not join, from {from}: {why}"), now);
                JoinResponse::Refused { why }
            }
        }
    }

    /// Renews the node's certificate and its workloads', for the scenario tests.
    #[cfg(feature = "testing")]
    pub async fn renew_all(&self) -> anyhow::Result<()> {
        Ok(self.mailbox.send(Msg::RenewAll).await?)
    }

    fn count(&self, reason: &'static str) {
        self.telemetry.joins.get_or_create(&Reason { reason }).inc();
    }

    fn issuers(&self) -> Vec<SocketAddr> {
        ca_nodes(&self.facts.borrow()).into_iter().map(|(_, address)| address).take(MAX_PEERS_TOLD).collect()
    }

    /// Makes a token, signed by this node, and records it so that every CA node can list and revoke it.
    pub async fn create_token(&self, request: TokenRequest) -> anyhow::Result<TokenCreated> {
        let identity = self.identity.load_full();
        if identity.grant.role != Role::Ca {
            bail!("this node is no CA (its role is {}): create tokens on a CA node", identity.grant.role);
        }
        let claims = self.mailbox.ask_outcome(|reply| Msg::CreateToken(request, reply)).await??;
        let token = JoinToken::create(claims, &identity.key)?;
        self.documents.record_token(TokenRecord::new(token.claims())).await?;
        Ok(TokenCreated { token: token.to_string() })
    }

    pub async fn revoke_token(&self, id: &str) -> anyhow::Result<()> {
        let known = self.documents.tokens().borrow().get(id).cloned();
        let record = known.with_context(|| format!("no token {id:?}: `weft token list` shows those that are"))?;
        self.documents.record_token(TokenRecord { revoked: true, ..record }).await
    }
}

/// The nodes that issue certificates, in random order so that they share the work.
fn ca_nodes(facts: &facts::Published) -> Vec<(NodeName, SocketAddr)> {
    let is_ca = |node: &facts::Node| {
        node.record.state == NodeState::Up
            && node.certificate.as_ref().and_then(|c| c.grant.as_ref()).is_some_and(|grant| grant.role == Role::Ca)
    };
    let mut nodes: Vec<_> = facts
        .nodes
        .iter()
        .filter(|(_, node)| is_ca(node))
        .map(|(name, node)| (name.clone(), SocketAddr::new(node.record.advertise, MESH_PORT)))
        .collect();
    nodes.shuffle(&mut rand::rng());
    nodes
}

/// What stays the same over the actor's restarts.
#[derive(Clone)]
pub struct Setup {
    pub dir: Dir,
    pub identity: IdentityReader,
    /// Counts changes of the node's certificate, and of what is revoked.
    pub identity_changes: Arc<watch::Sender<u64>>,
    /// Among them what is revoked.
    pub policy: watch::Receiver<Arc<Vec<Arc<Document>>>>,
    /// Outlives the actor; only the actor locks it.
    pub publisher: Arc<Mutex<IdentityPublisher>>,
    pub hosted: watch::Receiver<HostedSet>,
    /// Accounts that the configuration names besides those of hosted workloads.
    pub accounts: BTreeSet<ServiceAccount>,
    /// As whom calls are made where nothing else says so.
    pub outbound: Option<ServiceAccount>,
    /// Hosted accounts that have a certificate: the node is not ready before all have.
    pub certified: Arc<watch::Sender<BTreeSet<ServiceAccount>>>,
    /// When the intermediate ends, on a CA node.
    pub issuer_end: Arc<watch::Sender<Option<UnixTime>>>,
    /// Outlives the actor; only the actor locks it.
    pub joins: Arc<Mutex<RecentJoins>>,
    pub facts: facts::Handle,
    pub documents: documents::Handle,
    pub links: links::Handle,
    pub telemetry: Telemetry,
    pub myself: Mailbox<Msg>,
}

pub struct IssuerActor {
    setup: Setup,
    ca: Option<Ca>,
    node: Schedule,
    workloads: BTreeMap<ServiceAccount, Workload>,
}

/// What a CA node signs with.
struct Ca {
    issuer: Issuer,
    schedule: Schedule,
    /// When it was last said that the intermediate is about to end.
    warned: Option<Instant>,
    /// Only on the node that created the mesh, until it is taken offline.
    root: Option<Root>,
}

impl Ca {
    /// Whether what is signed here gets its whole life, so that no other CA node could do better.
    fn can_give_all_of(&self, wanted: &Wanted, wall: UnixTime) -> bool {
        match wanted {
            Wanted::Node => self.issuer.can_give(NODE_LIFETIME, wall),
            Wanted::Issuer => self.root.is_some(),
            Wanted::Workload(_) => self.issuer.can_give(WORKLOAD_LIFETIME, wall),
        }
    }

    fn root(&self) -> anyhow::Result<&Root> {
        self.root.as_ref().context(
            "this CA node does not hold the root key, which a CA node's intermediate needs: ask the node that created \
             the mesh",
        )
    }

    /// Signs what a node may have, so that it is not revoked already.
    fn certify(
        &self,
        peer: &PeerIdentity,
        wanted: &Wanted,
        csr: &[u8],
        revocations: &Revocations,
        wall: UnixTime,
    ) -> anyhow::Result<Chain> {
        let (name, grant) = rules::may_renew(peer)?;
        let account = match wanted {
            Wanted::Workload(account) => Some(account),
            Wanted::Node | Wanted::Issuer => None,
        };
        let wall = wall.max(revocations.not_before(name, account).unwrap_or(wall));
        Ok(match wanted {
            Wanted::Node => self.issuer.sign_node(name, grant, csr, wall)?,
            Wanted::Issuer => vec![self.root()?.sign_intermediate(rules::may_renew_issuer(peer)?, csr, wall)?],
            Wanted::Workload(account) => {
                rules::may_certify(peer, account)?;
                self.issuer.sign_workload(account, name, csr, wall)?
            }
        })
    }

    /// Whether to say now that the intermediate is about to end.
    fn is_to_warn(&self, wall: UnixTime, now: Instant) -> bool {
        self.schedule.failures() > 0
            && !self.issuer.can_give(WARN_BEFORE_END, wall)
            && self.warned.is_none_or(|warned| now.saturating_duration_since(warned) >= DAY)
    }
}

#[derive(Default)]
struct Workload {
    identity: Option<Arc<WorkloadIdentity>>,
    schedule: Schedule,
}

impl Workload {
    fn is_good(&self, wall: UnixTime) -> bool {
        self.identity.is_some() && wall < self.schedule.not_after()
    }
}

fn schedule(not_before: UnixTime, not_after: UnixTime) -> Schedule {
    Schedule::of(not_before, not_after, rand::random())
}

impl IssuerActor {
    /// Takes up what is on disk.
    pub fn new(setup: Setup) -> anyhow::Result<Self> {
        let identity = setup.identity.load();
        let ca = load_ca(&setup.dir)?;
        if identity.grant.role == Role::Ca && ca.is_none() {
            bail!("this node's role is ca, but {} is missing", setup.dir.issuer().key.display());
        }
        setup.issuer_end.send_replace(ca.as_ref().map(|ca| ca.issuer.not_after()));
        let node = schedule(identity.certificate.not_before, identity.certificate.not_after);
        Ok(Self { setup, ca, node, workloads: BTreeMap::new() })
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        der_chain(self.setup.identity.load().trust.roots())
    }

    async fn on(&mut self, message: Msg) {
        let now = UnixTime::now();
        match message {
            Msg::Certify(peer, wanted, csr, reply) => {
                let identity = self.setup.identity.load();
                let revocations = identity.trust.revocations();
                let chain = self
                    .may_ask(&peer)
                    .and_then(|()| self.ca()?.certify(&peer.identity, &wanted, &csr, revocations, now));
                let response = |chain: Chain| Response::Certificate { chain: der_chain(&chain), roots: self.roots() };
                let _ = reply.send(chain.map(response));
            }
            Msg::CreateToken(request, reply) => {
                let identity = self.setup.identity.load();
                let grant = Grant { role: request.role, accounts: request.allow };
                let ttl = Duration::from_secs(request.ttl_seconds);
                let mesh = identity.trust.mesh_id();
                let claims = TokenClaims::new(mesh, identity.name.clone(), grant, request.uses, ttl, now);
                let _ = reply.send(Ok(claims));
            }
            Msg::Join(request, name, reply) => {
                let _ = reply.send(self.join(&request, name).await);
            }
            Msg::Renewed(wanted, certified) => self.renewed(wanted, certified),
            #[cfg(feature = "testing")]
            Msg::RenewAll => {
                self.renew(Wanted::Node);
                for account in self.workloads.keys().cloned().collect::<Vec<_>>() {
                    self.renew(Wanted::Workload(account));
                }
            }
        }
    }

    /// A revoked CA node may have made certificates of others' names, for keys of its own: of what it signed only that is
    /// renewed that belongs to the key by which the node is known.
    fn may_ask(&self, peer: &Peer) -> anyhow::Result<()> {
        if peer.standing != Standing::IssuerRevoked {
            return Ok(());
        }
        let facts = self.setup.facts.published().borrow().clone();
        let known = peer.identity.id.as_node().and_then(|name| self.holder(name, &facts, Instant::now()));
        match known {
            Some(key) if key == peer.identity.public_key => Ok(()),
            _ => bail!("who signed this certificate is revoked, and the node is not known by this key: join again"),
        }
    }

    fn ca(&self) -> anyhow::Result<&Ca> {
        self.ca.as_ref().context("this node is no CA node and issues no certificates")
    }

    /// Lets a host in: everything is checked before the token is spent, and the token is spent before anything is
    /// signed.
    async fn join(&self, request: &JoinRequest, name: NodeName) -> anyhow::Result<Welcome> {
        let (wall, now) = (UnixTime::now(), Instant::now());
        let identity = self.setup.identity.load_full();
        let ca = self.ca()?;
        // So that it is not revoked with those of the name's former owner, if this clock is a little late.
        let wall = wall.max(identity.trust.revocations().not_before(&name, None).unwrap_or(wall));
        let token: JoinToken = request.token.parse()?;
        let key = csr::verify(&request.csr)?;
        let facts = self.setup.facts.published().borrow().clone();
        let issuer = match token.claims().issuer == identity.name {
            true => Some(&identity.certificate),
            false => facts.nodes.get(&token.claims().issuer).and_then(|node| node.certificate.as_deref()),
        };
        let id = token.claims().id;
        let revoked = self.setup.documents.tokens().borrow().get(&id.to_string()).is_some_and(|token| token.revoked);
        // A host that lost the answer asks again: its own use does not count against it.
        let again = self.setup.joins.lock().has(id, &name, &key, now);
        let spent = facts.spent.get(&id.0).copied().unwrap_or_default().saturating_sub(again.into());
        let mesh = identity.trust.mesh_id();
        let claims = token.verify(&TokenContext { mesh, issuer, spent: spent.into(), revoked, now: wall })?;
        let holder = self.holder(&name, &facts, now);
        rules::may_join(claims, &name, &key, request.issuer_csr.is_some(), holder.as_ref())?;
        if !ca.issuer.can_give(Duration::from_secs(1), wall) {
            bail!("this CA node's intermediate has ended: join through another CA node");
        }
        let intermediate = match &request.issuer_csr {
            None => None,
            Some(issuer_csr) => Some(ca.root()?.sign_intermediate(&name, issuer_csr, wall)?),
        };
        if !again {
            self.setup.facts.spend(id.0, claims.uses).await?;
            self.setup.joins.lock().remember(id, name.clone(), key, now);
        }
        let chain = ca.issuer.sign_node(&name, &claims.grant, &request.csr, wall)?;
        let mut peers = vec![];
        for (peer, node) in facts.nodes.iter().filter(|(_, node)| node.record.state == NodeState::Up) {
            let address = SocketAddr::new(node.record.advertise, MESH_PORT);
            // First whom the host has reached already.
            if *peer == identity.name { peers.insert(0, address) } else { peers.push(address) }
        }
        peers.truncate(MAX_PEERS_TOLD);
        tracing::debug!(%name, token = %id, again, "certificate signed for a joining host");
        Ok(Welcome {
            chain: der_chain(&chain),
            issuer_chain: intermediate.map(|certificate| vec![certificate.to_vec()]),
            roots: self.roots(),
            peers,
        })
    }

    /// Whose a name is.
    fn holder(&self, name: &NodeName, facts: &facts::Published, now: Instant) -> Option<PublicKey> {
        let identity = self.setup.identity.load();
        if *name == identity.name {
            return Some(identity.key.public_key());
        }
        let known = facts.nodes.get(name).and_then(|node| {
            let key = &node.certificate.as_ref()?.public_key;
            Some(Known { key, left: node.record.state == NodeState::Left })
        });
        self.setup.joins.lock().holder(name, known, now).cloned()
    }

    /// Starts whatever is due.
    fn renew_due(&mut self) {
        let (wall, now) = (UnixTime::now(), Instant::now());
        if let Some(ca) = &mut self.ca {
            if ca.is_to_warn(wall, now) {
                ca.warned = Some(now);
                let days_left = ca.issuer.not_after().as_secs().saturating_sub(wall.as_secs()) / DAY.as_secs();
                tracing::warn!(
                    days_left,
                    "this CA node's intermediate is about to end, and no CA node renews it: start the node that holds \
                     the root key, or join again with a token of role ca"
                );
            }
            if ca.schedule.is_due(wall, now) {
                self.renew(Wanted::Issuer);
            }
        }
        let hosted = self.setup.hosted.borrow().clone();
        let mut wanted = self.setup.accounts.clone();
        wanted.extend(hosted.values().map(|hosted| hosted.service.account()));
        wanted.extend(self.default_account(&hosted));
        let before = self.workloads.len();
        self.workloads.retain(|account, _| wanted.contains(account));
        let certified = self.workloads.values().filter(|workload| workload.is_good(wall)).count();
        let mut changed = before != self.workloads.len() || certified != self.setup.certified.borrow().len();
        for account in wanted {
            if !self.workloads.contains_key(&account) {
                changed |= self.adopt(&account, wall);
            }
            if self.workloads.get(&account).is_some_and(|workload| workload.schedule.is_due(wall, now)) {
                self.renew(Wanted::Workload(account));
            }
        }
        if self.node.is_due(wall, now) {
            self.renew(Wanted::Node);
        }
        if changed {
            self.publish();
        }
    }

    /// Takes up an account: from disk, if a certificate is there that is still good.
    fn adopt(&mut self, account: &ServiceAccount, wall: UnixTime) -> bool {
        let Credential { cert, key } = self.credential(account);
        let stored = keyfile::read_key(&key).ok().zip(keyfile::read_chain(&cert).ok());
        let workload = stored.and_then(|(key, chain)| self.check(account, &key, chain, wall).ok()).unwrap_or_default();
        let found = workload.identity.is_some();
        self.workloads.insert(account.clone(), workload);
        found
    }

    /// Whether a certificate is ours, for this account and this key, and good now.
    fn check(
        &self,
        account: &ServiceAccount,
        key: &PrivateKey,
        chain: Chain,
        wall: UnixTime,
    ) -> anyhow::Result<Workload> {
        let identity = self.setup.identity.load();
        let certificate = identity.trust.verify_chain(&chain, wall)?;
        let id = SpiffeId::workload(identity.trust_domain().clone(), account.clone());
        if certificate.id != id || certificate.public_key != key.public_key() {
            bail!("the certificate is for {} and perhaps another key, not for {id}", certificate.id);
        }
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(certificate.not_after.as_secs());
        let schedule = schedule(certificate.not_before, certificate.not_after);
        let identity = WorkloadIdentity::new(id, certified_key(key, chain)?, not_after);
        Ok(Workload { identity: Some(Arc::new(identity)), schedule })
    }

    /// Gets a certificate: signs it here if that is as good as any, else asks the CA nodes.
    fn renew(&mut self, wanted: Wanted) {
        let (wall, now) = (UnixTime::now(), Instant::now());
        if let Some(schedule) = self.schedule(&wanted) {
            schedule.begun(now);
        }
        let identity = self.setup.identity.load_full();
        let request = self.key(&wanted, &identity).and_then(|key| Ok((csr::create(&key)?, key)));
        let (csr, key) = match request {
            Ok(request) => request,
            Err(error) => return self.renewed(wanted, Err(error)),
        };
        let revocations = identity.trust.revocations();
        let own = self.ca().and_then(|ca| ca.certify(&identity.certificate, &wanted, &csr, revocations, wall));
        if self.ca.as_ref().is_some_and(|ca| ca.can_give_all_of(&wanted, wall)) {
            return self.renewed(wanted, own.map(|chain| (key, chain)));
        }
        let setup = self.setup.clone();
        tokio::spawn(async move {
            // Better one that ends soon than none.
            let chain = ask_ca(&setup, wanted.request(csr)).await.or_else(|error| own.map_err(|_| error));
            let _ = setup.myself.send(Msg::Renewed(wanted, chain.map(|chain| (key, chain)))).await;
        });
    }

    /// The key to certify. Nodes and intermediates keep theirs: others know them by it.
    fn key(&self, wanted: &Wanted, identity: &NodeIdentity) -> anyhow::Result<Arc<PrivateKey>> {
        Ok(match wanted {
            Wanted::Node => identity.key.clone(),
            Wanted::Issuer => self.ca()?.issuer.key().clone(),
            Wanted::Workload(_) => Arc::new(PrivateKey::generate()?),
        })
    }

    fn schedule(&mut self, wanted: &Wanted) -> Option<&mut Schedule> {
        match wanted {
            Wanted::Node => Some(&mut self.node),
            Wanted::Issuer => self.ca.as_mut().map(|ca| &mut ca.schedule),
            Wanted::Workload(account) => self.workloads.get_mut(account).map(|workload| &mut workload.schedule),
        }
    }

    /// Tells what became of a certificate of this node's.
    fn say(&self, wanted: &Wanted, what: &str) {
        let name = self.setup.identity.load().name.clone();
        self.setup.telemetry.events.say(Kind::Certificate, format!("{name}: {wanted}"), what);
    }

    fn renewed(&mut self, wanted: Wanted, certified: Certified) {
        let (wall, now) = (UnixTime::now(), Instant::now());
        let taken = certified.and_then(|(key, chain)| match &wanted {
            Wanted::Node => self.take_node(key, chain, now),
            Wanted::Issuer => self.take_issuer(key, chain, wall, now),
            Wanted::Workload(account) => self.take_workload(account, &key, chain, wall, now),
        });
        let reason = if taken.is_ok() { "issued" } else { "failed" };
        self.setup.telemetry.certificates.get_or_create(&Reason { reason }).inc();
        let Err(error) = taken else {
            tracing::info!(certificate = %wanted, "certificate issued");
            self.say(&wanted, "issued");
            return;
        };
        let Some(schedule) = self.schedule(&wanted) else { return };
        schedule.failed(wall, now, rand::random());
        let (error, failures) = (format!("{error:#}"), schedule.failures());
        // It is tried again every few seconds, for as long as it takes.
        if failures == 1 {
            self.say(&wanted, &format!("could not be had: {error}"));
        }
        // The root key is offline by rights: that is said once, and again when the end is near.
        match wanted == Wanted::Issuer && failures > 1 {
            true => tracing::debug!(certificate = %wanted, error, "certificate could not be had; trying again"),
            false => tracing::warn!(certificate = %wanted, error, "certificate could not be had; trying again"),
        }
    }

    fn take_node(&mut self, key: Arc<PrivateKey>, chain: Chain, now: Instant) -> anyhow::Result<()> {
        let old = self.setup.identity.load();
        let identity = NodeIdentity::new(key, chain, old.trust.clone())?;
        identity.trust.check_revoked(&identity.certificate, UnixTime::now())?;
        if identity.name != old.name {
            bail!("the CA certified {} instead of {}", identity.name, old.name);
        }
        keyfile::write_chain(&self.setup.dir.node().cert, &identity.chain)?;
        self.node = schedule(identity.certificate.not_before, identity.certificate.not_after).issued(now);
        let was_believed = identity.trust.check_revoked(&old.certificate, UnixTime::now()).is_ok();
        self.setup.identity.store(Arc::new(identity));
        self.setup.identity_changes.send_modify(|count| *count += 1);
        if !was_believed {
            self.setup.links.renew();
            // Those of the workloads could not be had before.
            self.renew_revoked();
        }
        Ok(())
    }

    /// Takes up what documents revoke.
    fn follow_revocations(&mut self) {
        let mut revocations = Revocations::default();
        for (revoked, at) in revocations_of(self.setup.policy.borrow_and_update().iter().map(|document| &**document)) {
            if let Revoked::Node(name) = &revoked {
                self.setup.joins.lock().forget(name);
            }
            revocations.add(revoked, UnixTime::since_unix_epoch(Duration::from_secs(at)));
        }
        let identity = self.setup.identity.load();
        if revocations == **identity.trust.revocations() {
            return;
        }
        self.setup.identity.store(Arc::new(identity.with_revocations(Arc::new(revocations))));
        self.setup.identity_changes.send_modify(|count| *count += 1);
        self.renew_revoked();
        self.publish();
    }

    /// Gets new certificates in place of those that are revoked. The node's own is what it gets the others by: they are
    /// asked for again when it has come.
    fn renew_revoked(&mut self) {
        let (identity, wall) = (self.setup.identity.load_full(), UnixTime::now());
        if let Err(error) = identity.trust.check_revoked(&identity.certificate, wall) {
            tracing::error!(%error, "this node's certificate holds no more");
            self.node.revoked();
        }
        for workload in self.workloads.values_mut() {
            let own = workload.identity.as_ref();
            if own.is_some_and(|own| identity.trust.verify_chain(&own.certified_key.cert, wall).is_err()) {
                workload.schedule.revoked();
            }
        }
        self.renew_due();
    }

    fn take_issuer(&mut self, key: Arc<PrivateKey>, chain: Chain, wall: UnixTime, now: Instant) -> anyhow::Result<()> {
        let issuer = Issuer::open(key, chain)?;
        issuer.verify(&self.setup.identity.load().trust, wall)?;
        keyfile::write_chain(&self.setup.dir.issuer().cert, issuer.chain())?;
        let ca = self.ca.as_mut().context("this node is no CA node")?;
        ca.schedule = schedule(issuer.not_before(), issuer.not_after()).issued(now);
        self.setup.issuer_end.send_replace(Some(issuer.not_after()));
        ca.issuer = issuer;
        Ok(())
    }

    fn take_workload(
        &mut self,
        account: &ServiceAccount,
        key: &PrivateKey,
        chain: Chain,
        wall: UnixTime,
        now: Instant,
    ) -> anyhow::Result<()> {
        let mut workload = self.check(account, key, chain.clone(), wall)?;
        let files = self.credential(account);
        if let Some(dir) = files.key.parent() {
            keyfile::create_private_dir(dir)?;
        }
        // A crash between the two leaves a pair that does not fit, which the next start takes for none.
        keyfile::write_key(&files.key, key)?;
        keyfile::write_chain(&files.cert, &chain)?;
        workload.schedule = workload.schedule.issued(now);
        self.workloads.insert(account.clone(), workload);
        self.publish();
        Ok(())
    }

    /// Has the mesh forget tokens that ended long ago.
    fn forget_tokens(&self) {
        if self.ca.is_none() {
            return;
        }
        let (facts, documents) = (self.setup.facts.clone(), self.setup.documents.clone());
        let me = self.setup.identity.load().name.clone();
        let tokens = documents.tokens().borrow().clone();
        let (uses, records) = forgettable(&tokens, &me, UnixTime::now());
        tokio::spawn(async move {
            if let Err(error) = facts.forget_uses(uses).await {
                tracing::warn!(%error, "uses of old join tokens could not be forgotten; trying again");
            }
            if let Err(error) = documents.forget_tokens(&records).await {
                tracing::warn!(%error, "old join tokens could not be forgotten; trying again");
            }
        });
    }

    fn credential(&self, account: &ServiceAccount) -> Credential {
        let dir: PathBuf = self.setup.dir.workloads().join(account.namespace.as_str()).join(account.name.as_str());
        Credential::in_dir(&dir)
    }

    /// Publishes the identities to the proxy.
    fn publish(&self) {
        let now = UnixTime::now();
        let identity = self.setup.identity.load();
        let workloads: WorkloadIdentities = self
            .workloads
            .iter()
            .filter(|(_, workload)| workload.is_good(now))
            .filter_map(|(account, workload)| Some((account.clone(), workload.identity.clone()?)))
            .collect();
        let certified: BTreeSet<ServiceAccount> = workloads.keys().cloned().collect();
        self.setup.publisher.lock().publish(IdentitySnapshot {
            trust_domain: identity.trust_domain().clone(),
            roots: Arc::new(identity.root_store()),
            revocations: identity.trust.revocations().clone(),
            workloads,
            default_caller: self.default_caller().map(Arc::new),
        });
        self.setup.certified.send_if_modified(|published| std::mem::replace(published, certified.clone()) != certified);
    }

    /// As whom this host calls: what the configuration says, or else the one account that it hosts, or where it hosts
    /// nothing `default/default`, if it may. Several accounts leave it open: nobody may become another by calling
    /// through this host.
    fn default_account(&self, hosted: &HostedSet) -> Option<ServiceAccount> {
        if let Some(configured) = &self.setup.outbound {
            return Some(configured.clone());
        }
        let mut accounts = hosted.values().map(|hosted| hosted.service.account());
        match accounts.next() {
            Some(first) => accounts.all(|account| account == first).then_some(first),
            None => Some(ServiceAccount::default_account())
                .filter(|account| self.setup.identity.load().grant.allows(account)),
        }
    }

    fn default_caller(&self) -> Option<Caller> {
        let hosted = self.setup.hosted.borrow().clone();
        let account = self.default_account(&hosted)?;
        let mut workloads = hosted.values().filter(|hosted| hosted.service.account() == account);
        let only = workloads.next().filter(|_| workloads.next().is_none());
        Some(Caller::new(account, only.map(|hosted| &hosted.service.workload)))
    }
}

async fn ask_ca(setup: &Setup, request: Request) -> anyhow::Result<Chain> {
    let identity = setup.identity.load_full();
    let facts = setup.facts.published().borrow().clone();
    let is_believed = |name: &NodeName| {
        // A revoked one's facts may not be gone yet.
        let certificate = facts.nodes.get(name).and_then(|node| node.certificate.as_ref());
        certificate.is_some_and(|known| identity.trust.check_revoked(known, UnixTime::now()).is_ok())
    };
    let mut last_error = anyhow::anyhow!("no other CA node is known yet");
    let others = ca_nodes(&facts).into_iter().filter(|(name, _)| *name != identity.name && is_believed(name));
    for (name, address) in others {
        match setup.links.request_at(name.id(), address, &request).await {
            Ok(Response::Certificate { chain, .. }) => {
                return Ok(chain.into_iter().map(CertificateDer::from).collect());
            }
            Ok(_) => last_error = anyhow::anyhow!("{name} answered something else than a certificate"),
            Err(error) => last_error = anyhow::Error::from(error).context(format!("asking CA node {name}")),
        }
    }
    Err(last_error)
}

/// Of which tokens the uses, and of which of its own the records may be forgotten by this node.
fn forgettable(tokens: &BTreeMap<String, TokenRecord>, me: &NodeName, wall: UnixTime) -> (Vec<TokenId>, Vec<TokenId>) {
    let ended = |ago: Duration| {
        let long_ago = move |token: &&TokenRecord| token.expires.saturating_add(ago.as_secs()) <= wall.as_secs();
        tokens.values().filter(long_ago)
    };
    let id = |token: &TokenRecord| token.id.parse().ok();
    let records = ended(KEEP_RECORD).filter(|token| token.issuer == *me).filter_map(id).take(MAX_FORGOTTEN);
    (ended(KEEP_USES).filter_map(id).collect(), records.collect())
}

fn load_ca(dir: &Dir) -> anyhow::Result<Option<Ca>> {
    if !dir.issuer().exists() {
        return Ok(None);
    }
    let Credential { cert, key } = dir.issuer();
    let issuer = Issuer::open(keyfile::read_key(&key)?, keyfile::read_chain(&cert)?)?;
    let schedule = schedule(issuer.not_before(), issuer.not_after());
    let root = match dir.root() {
        root if root.exists() => {
            let certificate = keyfile::read_chain(&root.cert)?.into_iter().next().context("the root file is empty")?;
            Some(Root::open(keyfile::read_key(&root.key)?, certificate)?)
        }
        _ => None,
    };
    Ok(Some(Ca { issuer, schedule, warned: None, root }))
}

impl Actor for IssuerActor {
    type Msg = Msg;

    async fn run(mut self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        let mut hosted = self.setup.hosted.clone();
        hosted.mark_unchanged();
        self.follow_revocations();
        self.renew_due();
        self.publish();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forget = tokio::time::interval(FORGET_EVERY);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => self.renew_due(),
                _ = forget.tick() => self.forget_tokens(),
                changed = self.setup.policy.changed() => {
                    changed?;
                    self.follow_revocations();
                }
                changed = hosted.changed() => {
                    changed?;
                    self.renew_due();
                    // The default caller follows what is hosted.
                    self.publish();
                }
                message = inbox.recv() => match message {
                    Some(message) => self.on(message).await,
                    None => return Ok(()),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_ca::{init, issuer::INTERMEDIATE_LIFETIME, trust::TrustBundle};
    use weft_wire::id::AccountPattern;

    use super::*;
    use crate::supervisor::{Limits, Supervisor};

    const WALL: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));

    fn after(duration: Duration) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(WALL.as_secs()) + duration)
    }

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    /// A CA node that was made at [`WALL`], and what its certificate says.
    fn ca(with_root: bool) -> (Ca, PeerIdentity) {
        let mesh = init::create_mesh(&"cluster.local".parse().unwrap(), &name("seed"), WALL).unwrap();
        let trust = TrustBundle::new(vec![mesh.root.certificate().clone()]).unwrap();
        let schedule = Schedule::of(mesh.issuer.not_before(), mesh.issuer.not_after(), 0.5);
        let ca = Ca { issuer: mesh.issuer, schedule, warned: None, root: with_root.then_some(mesh.root) };
        (ca, trust.verify_chain(&mesh.node.chain, WALL).unwrap())
    }

    fn csr() -> Vec<u8> {
        csr::create(&PrivateKey::generate().unwrap()).unwrap()
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_a_stranger_calls_itself_is_not_logged_unless_it_is_a_name() {
        let mesh = init::create_mesh(&"cluster.local".parse().unwrap(), &name("seed"), UnixTime::now()).unwrap();
        let trust = TrustBundle::new(vec![mesh.root.certificate().clone()]).unwrap();
        let identity = NodeIdentity::new(Arc::new(mesh.node.key), mesh.node.chain, trust).unwrap();
        let supervisor = Supervisor::new(Limits::default()).unwrap();
        let published = documents::Published::default();
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(dir.path()).unwrap();
        let handle = Handle::new(
            supervisor.open("issuer", 1).0,
            Arc::new(arc_swap::ArcSwap::from_pointee(identity)),
            watch::channel(Arc::default()).1,
            documents::Handle::new(supervisor.open("documents", 1).0, &published, store),
            Telemetry::default(),
        );

        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let request = JoinRequest {
            token: String::new(),
            name: "root\n2026-01-01T00:00:00Z INFO host joined".into(),
            csr: Vec::new(),
            issuer_csr: None,
        };
        let answer = handle.answer_join(JoinQuestion::Join(Box::new(request)), ([10, 0, 0, 9], 1).into()).await;
        assert!(matches!(answer, JoinResponse::Refused { .. }), "{answer:?}");
        let log = String::from_utf8(log.0.lock().clone()).unwrap();
        assert!(log.contains("10.0.0.9") && !log.contains("host joined"), "{log}");
    }

    #[test]
    fn an_intermediate_is_renewed_by_the_root_for_ca_nodes_only() {
        let (ca, seed) = ca(true);
        let key = PrivateKey::generate().unwrap();
        let chain = ca
            .certify(&seed, &Wanted::Issuer, &csr::create(&key).unwrap(), &Revocations::default(), after(DAY))
            .unwrap();
        let renewed = Issuer::open(key, chain).unwrap();
        assert_eq!(renewed.not_after(), after(DAY + INTERMEDIATE_LIFETIME));

        let mut member = seed;
        member.grant = Some(Grant { role: Role::Admin, accounts: vec![AccountPattern::Any] });
        let error =
            ca.certify(&member, &Wanted::Issuer, &csr(), &Revocations::default(), WALL).unwrap_err().to_string();
        assert!(error.contains("only nodes of role ca"), "{error}");
    }

    #[test]
    fn a_ca_node_without_the_root_renews_no_intermediate() {
        let (ca, seed) = ca(false);
        assert!(!ca.can_give_all_of(&Wanted::Issuer, WALL));
        let error = ca.certify(&seed, &Wanted::Issuer, &csr(), &Revocations::default(), WALL).unwrap_err().to_string();
        assert!(error.contains("does not hold the root key"), "{error}");
    }

    #[test]
    fn a_ca_node_whose_intermediate_is_about_to_end_asks_others() {
        let (ca, _) = ca(false);
        let workload = Wanted::Workload(ServiceAccount::default_account());
        let before_end = |left: Duration| after(INTERMEDIATE_LIFETIME - left);
        assert!(ca.can_give_all_of(&Wanted::Node, before_end(NODE_LIFETIME)));
        assert!(!ca.can_give_all_of(&Wanted::Node, before_end(NODE_LIFETIME / 2)));
        assert!(ca.can_give_all_of(&workload, before_end(NODE_LIFETIME / 2)));
        assert!(!ca.can_give_all_of(&workload, before_end(WORKLOAD_LIFETIME / 2)));
    }

    #[test]
    fn an_intermediate_that_nobody_renews_is_said_daily_from_ten_days_before_its_end_on() {
        let (mut ca, _) = ca(false);
        let now = Instant::now();
        let late = after(INTERMEDIATE_LIFETIME - 9 * DAY);
        assert!(!ca.is_to_warn(late, now), "nobody was asked yet");
        ca.schedule.failed(late, now, 0.5);
        assert!(!ca.is_to_warn(after(INTERMEDIATE_LIFETIME - 11 * DAY), now));
        assert!(ca.is_to_warn(late, now));
        ca.warned = Some(now);
        assert!(!ca.is_to_warn(late, now + DAY - Duration::from_secs(1)));
        assert!(ca.is_to_warn(after(INTERMEDIATE_LIFETIME + DAY), now + DAY));
    }

    #[test]
    fn what_was_counted_of_a_token_is_forgotten_before_its_record() {
        let token = |id: u8, issuer: &str| {
            let id = TokenId([id; 8]).to_string();
            let (role, allow) = (Role::Member, Vec::new());
            let expires = WALL.as_secs();
            (id.clone(), TokenRecord { id, issuer: name(issuer), role, allow, uses: 1, expires, revoked: false })
        };
        let tokens = BTreeMap::from([token(1, "me"), token(2, "other")]);
        let at = |wall| forgettable(&tokens, &name("me"), wall);
        let (mine, theirs) = (TokenId([1; 8]), TokenId([2; 8]));
        assert_eq!(at(after(DAY - Duration::from_secs(1))), (vec![], vec![]));
        assert_eq!(at(after(DAY)), (vec![mine, theirs], vec![]));
        assert_eq!(at(after(2 * DAY)), (vec![mine, theirs], vec![mine]));
    }
}
