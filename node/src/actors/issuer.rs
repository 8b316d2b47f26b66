//! The `issuer` actor: this node's certificates, renewed at half their life; and on a CA node, everybody else's.
//!
//! Keys are made here and stay here. A node that is no CA asks one; what it may ask for, its own certificate says.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
};
use tokio::{
    sync::{oneshot, watch},
    time::MissedTickBehavior,
};
use weft_ca::{
    csr,
    issuer::{Issuer, Root},
    key::PrivateKey,
    keyfile, renewal, rules,
    token::{JoinToken, TokenClaims, TokenContext},
    trust::PeerIdentity,
};
use weft_proxy::ports::{Caller, IdentityPublisher, IdentitySnapshot, WorkloadIdentity};
use weft_wire::{
    fact::NodeState,
    frame::{JoinQuestion, JoinRequest, JoinResponse, MESH_PORT, Request, Response, Welcome},
    id::{Grant, NodeName, Role, ServiceAccount, SpiffeId},
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
    identity::{IdentityReader, NodeIdentity, certified_key, der_chain},
    supervisor::{Actor, Inbox, Mailbox},
    telemetry::{Reason, Telemetry},
};

const TICK: Duration = Duration::from_millis(500);
/// Addresses of nodes that a joining host is told.
const MAX_PEERS_TOLD: usize = 16;

/// A new key and its certificate.
type Certified = anyhow::Result<(Arc<PrivateKey>, Vec<CertificateDer<'static>>)>;

pub enum Msg {
    RenewNode(Box<PeerIdentity>, Vec<u8>, oneshot::Sender<anyhow::Result<Response>>),
    CertifyWorkload(Box<PeerIdentity>, ServiceAccount, Vec<u8>, oneshot::Sender<anyhow::Result<Response>>),
    Join(Box<JoinRequest>, SocketAddr, oneshot::Sender<anyhow::Result<Welcome>>),
    CreateToken(TokenRequest, oneshot::Sender<anyhow::Result<TokenClaims>>),
    /// A renewal that was asked of a CA node: for the node itself (`None`) or an account.
    Renewed(Option<ServiceAccount>, Certified),
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

    pub async fn renew_node(&self, peer: PeerIdentity, csr: Vec<u8>) -> anyhow::Result<Response> {
        self.mailbox.ask(|reply| Msg::RenewNode(Box::new(peer), csr, reply)).await?
    }

    pub async fn certify_workload(
        &self,
        peer: PeerIdentity,
        account: ServiceAccount,
        csr: Vec<u8>,
    ) -> anyhow::Result<Response> {
        self.mailbox.ask(|reply| Msg::CertifyWorkload(Box::new(peer), account, csr, reply)).await?
    }

    /// Answers a joining host, about whom nothing is known but what it shows.
    pub async fn answer_join(&self, question: JoinQuestion, from: SocketAddr) -> JoinResponse {
        let request = match question {
            JoinQuestion::WhoIssues => return JoinResponse::Issuers(self.issuers()),
            JoinQuestion::Join(request) => request,
        };
        let name = request.name.clone();
        let answer = self.mailbox.ask(|reply| Msg::Join(request, from, reply)).await;
        match answer.map_err(anyhow::Error::from).and_then(|answer| answer) {
            Ok(welcome) => {
                self.count("joined");
                tracing::info!(%from, %name, "host joined");
                JoinResponse::Welcome(Box::new(welcome))
            }
            Err(error) => {
                let why = format!("{error:#}");
                self.count("refused");
                tracing::warn!(%from, %name, %why, "join refused");
                JoinResponse::Refused { why }
            }
        }
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
        let claims = self.mailbox.ask(|reply| Msg::CreateToken(request, reply)).await??;
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
    /// Counts renewals of the node's certificate.
    pub renewed: Arc<watch::Sender<u64>>,
    /// Outlives the actor; only the actor locks it.
    pub publisher: Arc<Mutex<IdentityPublisher>>,
    pub hosted: watch::Receiver<HostedSet>,
    /// Accounts that the configuration names besides those of hosted workloads.
    pub accounts: BTreeSet<ServiceAccount>,
    /// As whom calls are made where nothing else says so.
    pub outbound: Option<ServiceAccount>,
    /// Hosted accounts that have a certificate: the node is not ready before all have.
    pub certified: Arc<watch::Sender<BTreeSet<ServiceAccount>>>,
    pub facts: facts::Handle,
    pub documents: documents::Handle,
    pub links: links::Handle,
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
    issuer_schedule: Schedule,
    /// Only on the node that created the mesh, until it is taken offline.
    root: Option<Root>,
}

#[derive(Default)]
struct Workload {
    identity: Option<Arc<WorkloadIdentity>>,
    schedule: Schedule,
}

impl Workload {
    fn is_good(&self, now: UnixTime) -> bool {
        self.identity.is_some() && now < self.schedule.not_after
    }
}

/// When a certificate is to be renewed.
struct Schedule {
    due: UnixTime,
    not_after: UnixTime,
    failures: u32,
    under_way: bool,
}

impl Default for Schedule {
    /// There is none yet: due now.
    fn default() -> Self {
        let epoch = UnixTime::since_unix_epoch(Duration::ZERO);
        Self { due: epoch, not_after: epoch, failures: 0, under_way: false }
    }
}

impl Schedule {
    fn of(not_before: UnixTime, not_after: UnixTime) -> Self {
        let due = renewal::renew_at(not_before, not_after, rand::random());
        Self { due, not_after, failures: 0, under_way: false }
    }
    fn is_due(&self, now: UnixTime) -> bool {
        !self.under_way && now >= self.due
    }
    fn failed(&mut self, now: UnixTime) {
        self.failures += 1;
        self.under_way = false;
        let wait = renewal::retry_after(self.failures, self.not_after, now, rand::random());
        // Whole seconds, rounded up: certificates know no finer time.
        self.due = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + wait.as_secs_f64().ceil() as u64));
    }
}

impl IssuerActor {
    /// Takes up what is on disk.
    pub fn new(setup: Setup) -> anyhow::Result<Self> {
        let identity = setup.identity.load();
        let ca = load_ca(&setup.dir)?;
        if identity.grant.role == Role::Ca && ca.is_none() {
            bail!("this node's role is ca, but {} is missing", setup.dir.issuer().key.display());
        }
        let node = Schedule::of(identity.not_before, identity.not_after);
        Ok(Self { setup, ca, node, workloads: BTreeMap::new() })
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        der_chain(self.setup.identity.load().trust.roots())
    }

    async fn on(&mut self, message: Msg) {
        let now = UnixTime::now();
        match message {
            Msg::RenewNode(peer, csr, reply) => {
                let _ = reply.send(self.renew_node(&peer, &csr, now));
            }
            Msg::CertifyWorkload(peer, account, csr, reply) => {
                let _ = reply.send(self.certify_workload(&peer, &account, &csr, now));
            }
            Msg::CreateToken(request, reply) => {
                let identity = self.setup.identity.load();
                let grant = Grant { role: request.role, accounts: request.allow };
                let ttl = Duration::from_secs(request.ttl_seconds);
                let mesh = identity.trust.mesh_id();
                let claims = TokenClaims::new(mesh, identity.name.clone(), grant, request.uses, ttl, now);
                let _ = reply.send(Ok(claims));
            }
            Msg::Join(request, from, reply) => {
                let _ = reply.send(self.join(&request, from).await);
            }
            Msg::Renewed(None, certified) => self.node_renewed(certified),
            Msg::Renewed(Some(account), certified) => self.workload_renewed(account, certified),
        }
    }

    fn ca(&self) -> anyhow::Result<&Ca> {
        self.ca.as_ref().context("this node is no CA node and issues no certificates")
    }

    fn renew_node(&self, peer: &PeerIdentity, csr: &[u8], now: UnixTime) -> anyhow::Result<Response> {
        let (name, grant) = rules::may_renew(peer)?;
        let chain = self.ca()?.issuer.sign_node(name, grant, csr, now)?;
        Ok(Response::Certificate { chain: der_chain(&chain), roots: self.roots() })
    }

    fn certify_workload(
        &self,
        peer: &PeerIdentity,
        account: &ServiceAccount,
        csr: &[u8],
        now: UnixTime,
    ) -> anyhow::Result<Response> {
        rules::may_certify(peer, account)?;
        let chain = self.ca()?.issuer.sign_workload(account, csr, now)?;
        Ok(Response::Certificate { chain: der_chain(&chain), roots: self.roots() })
    }

    /// Lets a host in: everything is checked before the token is spent, and the token is spent before anything is
    /// signed.
    async fn join(&self, request: &JoinRequest, from: SocketAddr) -> anyhow::Result<Welcome> {
        let now = UnixTime::now();
        let identity = self.setup.identity.load_full();
        let ca = self.ca()?;
        let token: JoinToken = request.token.parse()?;
        let facts = self.setup.facts.published().borrow().clone();
        let own;
        let issuer = match token.claims().issuer == identity.name {
            true => {
                own = identity.trust.verify_chain(&identity.chain, now)?;
                Some(&own)
            }
            false => facts.nodes.get(&token.claims().issuer).and_then(|node| node.certificate.as_deref()),
        };
        let id = token.claims().id;
        let revoked = self.setup.documents.tokens().borrow().get(&id.to_string()).is_some_and(|token| token.revoked);
        let spent = facts.spent.get(&id.0).copied().unwrap_or_default();
        let mesh = identity.trust.mesh_id();
        let claims = token.verify(&TokenContext { mesh, issuer, spent: spent.into(), revoked, now })?;
        let name: NodeName = request.name.parse()?;
        let key = csr::verify(&request.csr)?;
        let holder = facts.nodes.get(&name).filter(|node| node.record.state != NodeState::Left);
        let holder = match name == identity.name {
            true => Some(identity.key.public_key()),
            false => {
                holder.and_then(|node| node.certificate.as_ref()).map(|certificate| certificate.public_key.clone())
            }
        };
        rules::may_join(claims, &name, &key, request.issuer_csr.is_some(), holder.as_ref())?;
        let intermediate = match &request.issuer_csr {
            None => None,
            Some(issuer_csr) => {
                let root = ca.root.as_ref().context(
                    "this CA node does not hold the root key, which a new CA node needs: join through the node that \
                     created the mesh",
                )?;
                Some(root.sign_intermediate(&name, issuer_csr, now)?)
            }
        };
        self.setup.facts.spend(id.0, claims.uses).await?;
        let chain = ca.issuer.sign_node(&name, &claims.grant, &request.csr, now)?;
        let mut peers = vec![];
        for (peer, node) in facts.nodes.iter().filter(|(_, node)| node.record.state == NodeState::Up) {
            let address = SocketAddr::new(node.record.advertise, MESH_PORT);
            // First whom the host has reached already.
            if *peer == identity.name { peers.insert(0, address) } else { peers.push(address) }
        }
        peers.truncate(MAX_PEERS_TOLD);
        tracing::debug!(%from, %name, token = %id, "certificate signed for a joining host");
        Ok(Welcome {
            chain: der_chain(&chain),
            issuer_chain: intermediate.map(|certificate| vec![certificate.to_vec()]),
            roots: self.roots(),
            peers,
        })
    }

    /// Starts whatever is due.
    fn renew_due(&mut self) {
        let now = UnixTime::now();
        self.renew_issuer(now);
        let hosted = self.setup.hosted.borrow().clone();
        let mut wanted = self.setup.accounts.clone();
        wanted.extend(hosted.values().map(|hosted| hosted.service.account()));
        wanted.extend(self.default_account(&hosted));
        let before = self.workloads.len();
        self.workloads.retain(|account, _| wanted.contains(account));
        let certified = self.workloads.values().filter(|workload| workload.is_good(now)).count();
        let mut changed = before != self.workloads.len() || certified != self.setup.certified.borrow().len();
        for account in wanted {
            if !self.workloads.contains_key(&account) {
                changed |= self.adopt(&account, now);
            }
            if self.workloads.get(&account).is_some_and(|workload| workload.schedule.is_due(now)) {
                self.ask_for(Some(account), now);
            }
        }
        if self.node.is_due(now) {
            self.ask_for(None, now);
        }
        if changed {
            self.publish();
        }
    }

    /// Takes up an account: from disk, if a certificate is there that is still good.
    fn adopt(&mut self, account: &ServiceAccount, now: UnixTime) -> bool {
        let Credential { cert, key } = self.credential(account);
        let stored = keyfile::read_key(&key).ok().zip(keyfile::read_chain(&cert).ok());
        let workload = stored.and_then(|(key, chain)| self.check(account, &key, chain, now).ok()).unwrap_or_default();
        let found = workload.identity.is_some();
        self.workloads.insert(account.clone(), workload);
        found
    }

    /// Whether a certificate is ours, for this account and this key, and good now.
    fn check(
        &self,
        account: &ServiceAccount,
        key: &PrivateKey,
        chain: Vec<CertificateDer<'static>>,
        now: UnixTime,
    ) -> anyhow::Result<Workload> {
        let identity = self.setup.identity.load();
        let certificate = identity.trust.verify_chain(&chain, now)?;
        let id = SpiffeId::workload(identity.trust_domain().clone(), account.clone());
        if certificate.id != id || certificate.public_key != key.public_key() {
            bail!("the certificate is for {} and perhaps another key, not for {id}", certificate.id);
        }
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(certificate.not_after.as_secs());
        let schedule = Schedule::of(certificate.not_before, certificate.not_after);
        let identity = WorkloadIdentity { id, certified_key: certified_key(key, chain)?, not_after };
        Ok(Workload { identity: Some(Arc::new(identity)), schedule })
    }

    /// Gets a certificate for the node (`None`) or an account: signs it here on a CA node, asks one elsewhere.
    fn ask_for(&mut self, account: Option<ServiceAccount>, now: UnixTime) {
        match &account {
            None => self.node.under_way = true,
            Some(account) => self.workloads.entry(account.clone()).or_default().schedule.under_way = true,
        }
        if let Some(ca) = &self.ca {
            let certified = self.sign_own(ca, account.as_ref(), now);
            return match account {
                None => self.node_renewed(certified),
                Some(account) => self.workload_renewed(account, certified),
            };
        }
        let (setup, identity) = (self.setup.clone(), self.setup.identity.load_full());
        tokio::spawn(async move {
            let certified = ask_ca(&setup, &identity, account.as_ref()).await;
            let _ = setup.myself.send(Msg::Renewed(account, certified)).await;
        });
    }

    fn sign_own(&self, ca: &Ca, account: Option<&ServiceAccount>, now: UnixTime) -> Certified {
        let identity = self.setup.identity.load();
        Ok(match account {
            None => {
                let key = identity.key.clone();
                let chain = ca.issuer.sign_node(&identity.name, &identity.grant, &csr::create(&key)?, now)?;
                (key, chain)
            }
            Some(account) => {
                let key = Arc::new(PrivateKey::generate()?);
                let chain = ca.issuer.sign_workload(account, &csr::create(&key)?, now)?;
                (key, chain)
            }
        })
    }

    fn node_renewed(&mut self, certified: Certified) {
        let now = UnixTime::now();
        let renewed = certified.and_then(|(key, chain)| {
            let old = self.setup.identity.load();
            let identity = NodeIdentity::new(key, chain, old.trust.clone())?;
            if identity.name != old.name {
                bail!("the CA certified {} instead of {}", identity.name, old.name);
            }
            keyfile::write_chain(&self.setup.dir.node().cert, &identity.chain)?;
            Ok(identity)
        });
        match renewed {
            Ok(identity) => {
                self.node = Schedule::of(identity.not_before, identity.not_after);
                self.setup.identity.store(Arc::new(identity));
                self.setup.renewed.send_modify(|count| *count += 1);
                tracing::info!("node certificate renewed");
            }
            Err(error) => {
                self.node.failed(now);
                tracing::warn!(error = format!("{error:#}"), "node certificate could not be renewed; trying again");
            }
        }
    }

    fn workload_renewed(&mut self, account: ServiceAccount, certified: Certified) {
        let now = UnixTime::now();
        let Credential { cert, key: key_file } = self.credential(&account);
        let renewed = certified.and_then(|(key, chain)| {
            let workload = self.check(&account, &key, chain.clone(), now)?;
            if let Some(dir) = key_file.parent() {
                keyfile::create_private_dir(dir)?;
            }
            // A crash between the two leaves a pair that does not fit, which the next start takes for none.
            keyfile::write_key(&key_file, &key)?;
            keyfile::write_chain(&cert, &chain)?;
            Ok(workload)
        });
        match renewed {
            Ok(workload) => {
                tracing::info!(%account, "workload certificate issued");
                self.workloads.insert(account, workload);
                self.publish();
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(%account, error, "workload certificate could not be had; trying again");
                self.workloads.entry(account).or_default().schedule.failed(now);
            }
        }
    }

    fn renew_issuer(&mut self, now: UnixTime) {
        let name = self.setup.identity.load().name.clone();
        let Some(Ca { issuer, issuer_schedule, root: Some(root) }) = &mut self.ca else { return };
        if !issuer_schedule.is_due(now) {
            return;
        }
        let Credential { cert, key } = self.setup.dir.issuer();
        let renewed =
            csr::create(issuer.key()).and_then(|csr| root.sign_intermediate(&name, &csr, now)).and_then(|signed| {
                let chain = vec![signed];
                keyfile::write_chain(&cert, &chain)?;
                Issuer::open(keyfile::read_key(&key)?, chain)
            });
        match renewed {
            Ok(renewed) => {
                *issuer_schedule = Schedule::of(renewed.not_before(), renewed.not_after());
                *issuer = renewed;
                tracing::info!("intermediate renewed");
            }
            Err(error) => {
                issuer_schedule.failed(now);
                tracing::error!(%error, "the intermediate could not be renewed");
            }
        }
    }

    fn credential(&self, account: &ServiceAccount) -> Credential {
        let dir: PathBuf = self.setup.dir.workloads().join(account.namespace.as_str()).join(account.name.as_str());
        Credential::in_dir(&dir)
    }

    /// Publishes the identities to the proxy.
    fn publish(&self) {
        let now = UnixTime::now();
        let identity = self.setup.identity.load();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(identity.trust.roots().iter().cloned());
        let workloads: HashMap<_, _> = self
            .workloads
            .iter()
            .filter(|(_, workload)| workload.is_good(now))
            .filter_map(|(account, workload)| Some((account.clone(), workload.identity.clone()?)))
            .collect();
        let certified: BTreeSet<ServiceAccount> = workloads.keys().cloned().collect();
        self.setup.publisher.lock().publish(IdentitySnapshot {
            trust_domain: identity.trust_domain().clone(),
            roots: Arc::new(roots),
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

async fn ask_ca(setup: &Setup, identity: &NodeIdentity, account: Option<&ServiceAccount>) -> Certified {
    let (key, request) = match account {
        None => (identity.key.clone(), Request::RenewNode { csr: csr::create(&identity.key)? }),
        Some(account) => {
            let key = Arc::new(PrivateKey::generate()?);
            let csr = csr::create(&key)?;
            let (namespace, account) = (account.namespace.clone(), account.name.clone());
            (key, Request::CertifyWorkload { namespace, account, csr })
        }
    };
    let issuers = ca_nodes(&setup.facts.published().borrow());
    let mut last_error = anyhow::anyhow!("no CA node is known yet");
    for (name, address) in issuers {
        match setup.links.request_at(name.id(), address, &request).await {
            Ok(Response::Certificate { chain, .. }) => {
                return Ok((key, chain.into_iter().map(CertificateDer::from).collect()));
            }
            Ok(_) => last_error = anyhow::anyhow!("{name} answered something else than a certificate"),
            Err(error) => last_error = anyhow::Error::from(error).context(format!("asking CA node {name}")),
        }
    }
    Err(last_error)
}

fn load_ca(dir: &Dir) -> anyhow::Result<Option<Ca>> {
    if !dir.issuer().exists() {
        return Ok(None);
    }
    let Credential { cert, key } = dir.issuer();
    let issuer = Issuer::open(keyfile::read_key(&key)?, keyfile::read_chain(&cert)?)?;
    let issuer_schedule = Schedule::of(issuer.not_before(), issuer.not_after());
    let root = match dir.root() {
        root if root.exists() => {
            let certificate = keyfile::read_chain(&root.cert)?.into_iter().next().context("the root file is empty")?;
            Some(Root::open(keyfile::read_key(&root.key)?, certificate)?)
        }
        _ => None,
    };
    Ok(Some(Ca { issuer, issuer_schedule, root }))
}

impl Actor for IssuerActor {
    type Msg = Msg;

    async fn run(mut self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        let mut hosted = self.setup.hosted.clone();
        hosted.mark_unchanged();
        self.renew_due();
        self.publish();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => self.renew_due(),
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
