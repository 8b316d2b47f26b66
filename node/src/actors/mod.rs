//! The node's actors, one file each: state, messages, handle, loop. What others need of an actor's state it publishes
//! (a watch or a swap), so that readers never wait for it and keep the last value while it restarts.

pub mod circuits;
pub mod documents;
pub mod facts;
pub mod follow;
pub mod health;
pub mod issuer;
pub mod keys;
pub mod links;
pub mod membership;
pub mod names;
pub mod overload;
pub mod plaintext;
mod refresh;
pub mod secrets;
pub mod signals;
pub mod traces;
pub mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rustls::pki_types::UnixTime;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::Instant,
};
use weft_ca::token::TokenId;
use weft_discovery::{liveness::Status, membership::Stats};
use weft_policy::{circuit::CircuitTable, endpoint::Endpoint, secrets::Reference, status::Judge, view::Service};
use weft_proxy::ports::{KeySets, Views};
use weft_wire::{
    document::DocumentKey,
    fact::{EndpointHealth, EndpointRow, FactVersion},
    frame::MESH_PORT,
    id::{CellName, Namespace, Role, ServiceAccount, WorkloadName},
};

use crate::{
    admin::{
        api,
        certificates::OwnCertificates,
        decision::OwnDecisions,
        log::OwnLog,
        plaintext::OwnPlaintext,
        sessions::Sessions,
        status::{status_of, without_content},
        tap::TapDesk,
        traces::OwnTraces,
        traffic::OwnTraffic,
    },
    dir::Dir,
    identity::IdentityReader,
    supervisor::Supervisor,
    telemetry::Telemetry,
};

/// Callers that do not confirm that they send nothing new, such as nodes of an older version and those with which there
/// is no link, have this long to hear that a workload or node drains.
const DRAIN_NOTICE: Duration = Duration::from_millis(500);
/// A peer that has not answered by then does not confirm.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);
/// Requests that were about to be sent when their node followed have so long to be counted, or to arrive.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// Why the node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal: the node will be back.
    Shutdown,
    /// `weft leave`: its identity goes.
    Leave,
}

/// Every endpoint of a service, with the service's port that leads to it.
fn endpoints(service: &Service) -> impl Iterator<Item = (u16, &Arc<Endpoint>)> {
    let clusters = service.ports.iter().filter_map(|port| service.cluster(port.port));
    clusters.flat_map(|cluster| cluster.endpoints.iter().map(|endpoint| (cluster.port, endpoint)))
}

/// Seconds from now until then; negative if it is past.
pub fn seconds_until(then: UnixTime) -> i64 {
    then.as_secs() as i64 - UnixTime::now().as_secs() as i64
}

/// Everything that the admin API reads and commands.
#[derive(Clone)]
pub struct Handles {
    pub dir: Dir,
    pub identity: IdentityReader,
    pub incarnation: u64,
    pub advertise: std::net::IpAddr,
    pub cell: CellName,
    pub is_relay: bool,
    pub started: Instant,
    pub supervisor: Supervisor,
    pub facts: facts::Handle,
    pub documents: documents::Handle,
    pub secrets: secrets::Handle,
    pub issuer: issuer::Handle,
    pub health: health::Handle,
    pub membership: membership::Handle,
    /// Of gossip; `None` until it has begun.
    pub gossip: watch::Receiver<Option<Stats>>,
    pub links: links::Handle,
    pub following: follow::Following,
    pub hosted: watch::Receiver<health::HostedSet>,
    pub certified: watch::Receiver<BTreeSet<ServiceAccount>>,
    /// When a CA node's intermediate ends.
    pub issuer_end: watch::Receiver<Option<UnixTime>>,
    pub views: Views,
    /// Of token issuers.
    pub keys: KeySets,
    pub decisions: OwnDecisions,
    pub plaintext: OwnPlaintext,
    pub traffic: OwnTraffic,
    pub taps: TapDesk,
    /// Turns to ask all nodes something.
    pub gathers: Arc<Semaphore>,
    pub traces: OwnTraces,
    pub certificates: OwnCertificates,
    pub log: OwnLog,
    pub circuits: Arc<Mutex<CircuitTable>>,
    pub first_view: Arc<OnceLock<()>>,
    pub telemetry: Telemetry,
    /// Where the admin API is read, and who is signed in to the console there.
    pub admin: SocketAddr,
    pub sessions: Sessions,
    pub stop: mpsc::Sender<Stop>,
}

impl Handles {
    /// What keeps the node from serving, in words; empty when it is ready.
    pub fn not_ready(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.first_view.get().is_none() {
            missing.push("no view has been compiled yet".to_owned());
        }
        let certified = self.certified.borrow();
        let hosted = self.hosted.borrow();
        let accounts: BTreeSet<ServiceAccount> = hosted.values().map(|hosted| hosted.service.account()).collect();
        missing.extend(accounts.difference(&certified).map(|account| format!("no certificate yet for {account}")));
        missing
    }

    pub fn status(&self) -> api::Status {
        let identity = self.identity.load();
        let standings = self.membership.standings().borrow().clone();
        let not_ready = self.not_ready();
        api::Status {
            name: identity.name.to_string(),
            id: identity.name.id().to_string(),
            mesh: identity.trust.mesh_id().to_string(),
            trust_domain: identity.trust_domain().to_string(),
            role: identity.grant.role,
            cell: self.cell.to_string(),
            relay: self.is_relay,
            allow: identity.grant.accounts.clone(),
            advertise: SocketAddr::new(self.advertise, MESH_PORT).to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            incarnation: self.incarnation,
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: not_ready.is_empty(),
            not_ready,
            certificate_seconds_left: seconds_until(identity.certificate.not_after),
            issuer_seconds_left: self.issuer_seconds_left(),
            members_alive: 1 + standings.values().filter(|standing| standing.status == Status::Alive).count(),
            members_known: 1 + standings.len(),
            documents: self.documents.count(),
            documents_digest: self.documents.root().iter().map(|byte| format!("{byte:02x}")).collect(),
            view_epoch: self.views.load().epoch,
            actors: self.supervisor.status(),
        }
    }

    /// How long a CA node's intermediate is still good for; negative once it has ended.
    pub fn issuer_seconds_left(&self) -> Option<i64> {
        self.issuer_end.borrow().map(seconds_until)
    }

    pub fn members(&self) -> Vec<api::Member> {
        let standings = self.membership.standings().borrow().clone();
        let facts = self.facts.published().borrow().clone();
        let me = self.identity.load().name.clone();
        let members = facts.nodes.iter().filter_map(|(name, node)| {
            let (state, since) = match standings.get(&name.id()) {
                _ if *name == me => ("alive", self.started),
                Some(standing) => (standing.status.as_str(), standing.since),
                None if node.record.state.is_gone() => return None,
                // Known from this node's disk, not yet seen alive.
                None => (Status::Suspect.as_str(), self.started),
            };
            Some(api::Member {
                name: name.to_string(),
                id: name.id().to_string(),
                address: SocketAddr::new(node.record.advertise, MESH_PORT).to_string(),
                state: state.into(),
                this_node: *name == me,
                role: node.certificate.as_ref().and_then(|c| c.grant.as_ref()).map_or(Role::Member, |grant| grant.role),
                locality: node.record.locality.to_string(),
                cell: node.record.cell().to_string(),
                relay: node.record.is_relay(),
                labels: node.record.labels.clone(),
                version: node.record.build.clone(),
                incarnation: node.version.incarnation,
                endpoints: node.record.endpoints.len(),
                since_seconds: since.elapsed().as_secs(),
                certificate_seconds_left: node.certificate.as_ref().map(|known| seconds_until(known.not_after)),
            })
        });
        members.collect()
    }

    /// Those of which endpoints are known here, and those that relays of other cells tell of.
    pub fn services(&self) -> Vec<api::Service> {
        let view = self.views.load();
        let mut elsewhere = self.services_elsewhere();
        let services = view.services().chain(view.externals()).map(|service| {
            let endpoints: Vec<_> = endpoints(service).map(|(_, endpoint)| endpoint).collect();
            let versions: BTreeSet<&str> =
                endpoints.iter().filter_map(|endpoint| Some(endpoint.workload.as_ref()?.version.as_str())).collect();
            api::Service {
                name: service.id.name().to_owned(),
                namespace: service.id.namespace().to_string(),
                host: service.fqdn.to_string(),
                ports: service
                    .ports
                    .iter()
                    .map(|port| api::Port {
                        port: port.port,
                        name: port.name.clone(),
                        protocol: port.protocol.as_str().into(),
                    })
                    .collect(),
                versions: versions.into_iter().filter(|version| !version.is_empty()).map(str::to_owned).collect(),
                healthy: endpoints.iter().filter(|endpoint| endpoint.health == EndpointHealth::Healthy).count(),
                endpoints: endpoints.len(),
                cells: elsewhere.remove(&*service.fqdn).map(|service| service.cells).unwrap_or_default(),
            }
        });
        let mut services: Vec<_> = services.collect();
        services.extend(elsewhere.into_values());
        services
    }

    /// By host: what relays of other cells tell. Those of one cell may differ for a moment.
    fn services_elsewhere(&self) -> BTreeMap<String, api::Service> {
        let facts = self.facts.published().borrow().clone();
        let mut found: BTreeMap<String, api::Service> = BTreeMap::new();
        for (cell, summary) in facts.summaries.values().filter(|(cell, _)| *cell != self.cell) {
            for (service, ports) in &summary.services {
                let host = service.fqdn();
                let known = found.entry(host.clone()).or_insert_with(|| api::Service {
                    name: service.name.to_string(),
                    namespace: service.namespace.to_string(),
                    host,
                    ports: Vec::new(),
                    versions: Vec::new(),
                    endpoints: 0,
                    healthy: 0,
                    cells: BTreeMap::new(),
                });
                for port in ports {
                    if known.ports.iter().all(|known| known.port != port.port) {
                        let (port, protocol) = (port.port, port.protocol.as_str().to_owned());
                        known.ports.push(api::Port { port, name: String::new(), protocol });
                    }
                }
                let most = ports.iter().map(|port| port.endpoints).max().unwrap_or_default();
                let told = known.cells.entry(cell.to_string()).or_default();
                *told = most.max(*told);
            }
        }
        found
    }

    /// What nodes announce, also of nodes that are gone for now: their services are still meant.
    pub fn workloads(&self) -> Vec<api::Workload> {
        let facts = self.facts.published().borrow().clone();
        let rows = facts.nodes.iter().flat_map(|(name, node)| node.record.endpoints.iter().map(move |row| (name, row)));
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let workloads = rows.map(|(node, row)| api::Workload {
            service: row.service.clone(),
            workload: row.workload.to_string(),
            port: row.port,
            node: node.to_string(),
            protocol: row.protocol,
            account: row.service_account.to_string(),
            labels: row.selector_labels().into_iter().map(owned).collect(),
        });
        workloads.collect()
    }

    /// Those of a service, or of a host that ServiceEntries describe, as they write it; of several namespaces all.
    pub fn endpoints(&self, named: &str) -> anyhow::Result<Vec<api::Endpoint>> {
        let view = self.views.load();
        let found: Vec<&Arc<Service>> = match view.service(named, &Namespace::default_namespace()) {
            Some(service) => vec![service],
            None => {
                let is_named = |service: &&Arc<Service>| service.fqdn.eq_ignore_ascii_case(named);
                view.externals().into_iter().filter(is_named).collect()
            }
        };
        anyhow::ensure!(!found.is_empty(), "no service or host {named}: `weft services` lists those that are");
        Ok(self.told(found, |_| true))
    }

    /// Those that a node hosts, once for each service that they are of.
    pub fn endpoints_on(&self, node: &str) -> Vec<api::Endpoint> {
        let view = self.views.load();
        let is_there = |endpoint: &Endpoint| endpoint.key.node.as_ref().is_some_and(|on| on.to_string() == node);
        self.told(view.services().collect(), is_there)
    }

    fn told(&self, services: Vec<&Arc<Service>>, is_wanted: impl Fn(&Endpoint) -> bool) -> Vec<api::Endpoint> {
        let now_ms = self.views.now_ms();
        let held_back = |service: &Service, port, endpoint: &Endpoint| {
            let (why, left_ms) = service.held_back(port, &endpoint.key, now_ms)?;
            Some(format!("{why} {}s", left_ms.div_ceil(1_000)))
        };
        let all = services.into_iter().flat_map(|service| endpoints(service).map(move |found| (service, found)));
        let all = all.filter(|(_, (_, endpoint))| is_wanted(endpoint));
        let endpoints = all.map(|(service, (port, endpoint))| api::Endpoint {
            workload: endpoint.key.workload.to_string(),
            node: endpoint.key.node.as_ref().map(ToString::to_string).unwrap_or_default(),
            address: endpoint.address.socket().to_string(),
            port,
            target_port: endpoint.key.target_port,
            version: endpoint.workload.as_ref().map(|workload| workload.version.clone()).unwrap_or_default(),
            identities: endpoint.identities.iter().map(ToString::to_string).collect(),
            health: endpoint.health.as_str().into(),
            standing: endpoint.standing.as_str().into(),
            held_back: held_back(service, port, endpoint).unwrap_or_default(),
            active_requests: endpoint.load.active(),
            locality: endpoint.place.locality.to_string(),
            weight: endpoint.weight,
        });
        endpoints.collect()
    }

    /// All policy documents, by key.
    pub fn documents(&self) -> Vec<api::Document> {
        self.documents_of(|_| true)
    }

    /// Those with such keys.
    pub fn documents_of(&self, is_wanted: impl Fn(&DocumentKey) -> bool) -> Vec<api::Document> {
        let (view, nodes) = (self.views.load(), self.nodes_with_all_documents());
        let (held, secrets) = (self.documents.held(), self.secrets.held());
        let judge = Judge::new(&view);
        let wanted = held.policy().filter(|(document, _)| is_wanted(&document.key));
        let documents = wanted.filter_map(|(document, reading)| {
            let status = status_of(reading, &view, &judge, nodes.clone(), document.stamp.millis);
            let is_missing = Reference::of_secret(&document.key).is_some_and(|one| secrets.missing.contains(&one));
            Some(api::Document {
                key: document.key.clone(),
                author: document.author.to_string(),
                created_millis: document.created.millis,
                updated_millis: document.stamp.millis,
                version: document.version().id(),
                body: serde_json::from_str(document.body.as_deref()?).ok()?,
                status: if is_missing { without_content(status) } else { status },
            })
        });
        documents.collect()
    }

    /// Gives documents to the mesh, and before them what they commit to.
    ///
    /// # Errors
    /// The mesh refuses one of them: then none is written.
    pub async fn write(&self, write: api::Write) -> anyhow::Result<Vec<api::Written>> {
        self.check_issuers_after(&write)?;
        match write {
            api::Write::Drafts(drafts) => {
                self.secrets.secure_drafts(&drafts).await?;
                self.documents.write(api::Write::Drafts(drafts)).await
            }
            api::Write::Signed { documents, contents, if_versions } => {
                self.secrets.secure(&documents, contents).await?;
                self.documents.write(api::Write::Signed { documents, contents: Vec::new(), if_versions }).await
            }
        }
    }

    pub fn nodes_with_all_documents(&self) -> api::Nodes {
        let (digest, rumours) = (self.documents.root(), self.membership.rumours());
        let digests: BTreeMap<String, [u8; 16]> =
            rumours.members.iter().filter_map(|(id, member)| Some((id.to_string(), member.documents?))).collect();
        let (current, lagging): (Vec<_>, Vec<_>) = self
            .members()
            .into_iter()
            .filter(|member| member.state != Status::Left.as_str())
            .partition(|member| member.this_node || digests.get(&member.id) == Some(&digest));
        api::Nodes {
            current: current.len(),
            total: current.len() + lagging.len(),
            lagging: lagging.into_iter().map(|member| member.name).collect(),
        }
    }

    /// The join tokens that have not run out, with their uses at all CA nodes.
    pub fn tokens(&self) -> Vec<api::Token> {
        let facts = self.facts.published().borrow().clone();
        let now = UnixTime::now().as_secs();
        let tokens = self.documents.tokens().borrow().clone();
        let good = tokens.values().filter(|token| !token.revoked && token.expires > now);
        good.map(|token| api::Token {
            id: token.id.clone(),
            issuer: token.issuer.to_string(),
            role: token.role,
            allow: token.allow.clone(),
            uses: token.uses,
            used: token.id.parse().ok().and_then(|TokenId(id)| facts.spent.get(&id)).copied().unwrap_or(0),
            expires_in_seconds: token.expires - now,
        })
        .collect()
    }

    /// Has callers send nothing new to a workload; returns when they do not.
    pub async fn drain_workload(&self, namespace: Namespace, name: WorkloadName) -> anyhow::Result<()> {
        self.health.drain((namespace.clone(), name.clone())).await?;
        let is_this = |row: &EndpointRow| row.service.namespace == namespace && row.workload == name;
        let me = self.identity.load().name.clone();
        let drains = |facts: &Arc<facts::Published>| {
            let rows = facts.nodes.get(&me).map_or(&[][..], |node| &node.record.endpoints);
            rows.iter().filter(|row| is_this(row)).all(|row| row.health == EndpointHealth::Draining)
        };
        let mut said = self.facts.published().clone();
        let said =
            tokio::time::timeout(DRAIN_NOTICE, said.wait_for(drains)).await.context("not said in time")??.clone();
        if let Some(node) = said.nodes.get(&me) {
            self.callers_follow(node.version).await;
        }
        Ok(())
    }

    /// Waits until callers follow what this node said up to `version`: all peers confirm it, and this node's own requests
    /// do. Whoever does not confirm has [`DRAIN_NOTICE`], or a little longer if others do not answer at all.
    pub async fn callers_follow(&self, version: FactVersion) {
        let notice = tokio::time::sleep(DRAIN_NOTICE);
        let me = self.identity.load().name.clone();
        let standings = self.membership.standings().borrow().clone();
        let peers = standings.values().filter(|standing| standing.status == Status::Alive).count();
        let (confirmed, own) =
            tokio::join!(self.links.followed_by(version, CONFIRMED_WITHIN), self.following.confirm(&me, version));
        if confirmed < peers || own.is_err() {
            tracing::debug!(confirmed, peers, "not all callers confirm that they send nothing new");
            notice.await;
        }
        tokio::time::sleep(UNDER_WAY).await;
    }

    /// Begins the node's departure for good.
    pub fn leave(&self, force: bool) -> anyhow::Result<()> {
        if self.dir.root().exists() && !force {
            bail!(
                "this node holds the mesh's root key in {}: take it elsewhere first, or leave with --force (the key \
                 stays on disk)",
                self.dir.root().key.display()
            );
        }
        self.stop.try_send(Stop::Leave).context("the node is stopping already")
    }

    /// Makes an actor fail, for the scenario tests.
    #[cfg(feature = "testing")]
    pub fn inject(&self, actor: &str, fault: &str) -> anyhow::Result<()> {
        use crate::supervisor::Fault;
        let fault = match fault {
            "panic" => Fault::Panic,
            "freeze" => Fault::Freeze,
            _ => bail!("no fault {fault:?}: panic or freeze"),
        };
        if !self.supervisor.inject(actor, fault) {
            bail!("no actor {actor:?}");
        }
        Ok(())
    }
}
