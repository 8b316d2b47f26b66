//! The `health` actor: the workloads that this host runs, from `node.yaml` and from `weft run`, and whether each
//! passes its check. It publishes them; the facts, issuer and view actors take it from there.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, anyhow, bail};
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
};
use weft_discovery::facts::check_record;
use weft_wire::{
    fact::{EndpointHealth, EndpointRow, FactBody, NodeRecord},
    id::{Namespace, WorkloadName},
};

use crate::{
    config::{ServiceConfig, ServiceSpec, first_of},
    health::{HealthState, ProbeError},
    identity::IdentityReader,
    supervisor::{Actor, Inbox, Mailbox},
};

/// A workload's name on this host.
pub type WorkloadKey = (Namespace, WorkloadName);

/// A workload that this host runs.
#[derive(Clone, Debug)]
pub struct Hosted {
    pub service: ServiceConfig,
    pub health: EndpointHealth,
    /// Which registration it is; 0 for one from `node.yaml`.
    registration: u64,
}

impl Hosted {
    /// What the node's fact says of it.
    pub fn row(&self) -> EndpointRow {
        EndpointRow {
            service: self.service.service.clone(),
            workload: self.service.workload.clone(),
            service_account: self.service.service_account.clone(),
            version: self.service.version.clone(),
            labels: self.service.labels.clone(),
            port: self.service.port,
            target_port: self.service.target_port,
            protocol: self.service.protocol,
            health: self.health,
        }
    }
}

/// All workloads of this host.
pub type HostedSet = Arc<BTreeMap<WorkloadKey, Hosted>>;

pub enum Msg {
    Register(Box<ServiceConfig>, oneshot::Sender<anyhow::Result<u64>>),
    Deregister(WorkloadKey, u64),
    Drain(WorkloadKey, oneshot::Sender<anyhow::Result<()>>),
    Probed(WorkloadKey, u64, Result<(), ProbeError>),
}

#[derive(Clone)]
pub struct Handle {
    mailbox: Mailbox<Msg>,
    hosted: watch::Receiver<HostedSet>,
    /// Where processes listen that do not say.
    default_address: std::net::IpAddr,
    identity: IdentityReader,
}

impl Handle {
    pub fn new(
        mailbox: Mailbox<Msg>,
        hosted: watch::Receiver<HostedSet>,
        default_address: std::net::IpAddr,
        identity: IdentityReader,
    ) -> Self {
        Self { mailbox, hosted, default_address, identity }
    }

    /// Adds a workload for as long as the registration lives.
    ///
    /// # Errors
    /// If the description is wrong, the node may not host its account, its name is taken, or the node's record would
    /// be too large with it.
    pub async fn register(&self, spec: ServiceSpec) -> anyhow::Result<Registration> {
        let service = spec.check(self.default_address).map_err(|problems| anyhow!("{}", first_of(&problems)))?;
        weft_ca::rules::may_host(&self.identity.load().grant, &service.account())?;
        let key = (service.service.namespace.clone(), service.workload.clone());
        let id = self.mailbox.ask(|reply| Msg::Register(Box::new(service), reply)).await??;
        Ok(Registration { key, id, mailbox: self.mailbox.clone(), hosted: self.hosted.clone(), told: None })
    }

    /// Has callers send nothing new to a workload.
    pub async fn drain(&self, key: WorkloadKey) -> anyhow::Result<()> {
        self.mailbox.ask(|reply| Msg::Drain(key, reply)).await?
    }
}

/// Keeps a workload registered; dropping it ends that.
pub struct Registration {
    key: WorkloadKey,
    id: u64,
    mailbox: Mailbox<Msg>,
    hosted: watch::Receiver<HostedSet>,
    told: Option<EndpointHealth>,
}

impl Registration {
    /// `namespace/workload`
    pub fn workload(&self) -> String {
        format!("{}/{}", self.key.0, self.key.1)
    }

    /// The workload's health at first, then each change of it. `None` once it is no longer registered.
    pub async fn next_health(&mut self) -> Option<EndpointHealth> {
        loop {
            let health = {
                let hosted = self.hosted.borrow_and_update();
                hosted.get(&self.key).filter(|hosted| hosted.registration == self.id)?.health
            };
            if self.told != Some(health) {
                self.told = Some(health);
                return self.told;
            }
            self.hosted.changed().await.ok()?;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let (mailbox, message) = (self.mailbox.clone(), Msg::Deregister(self.key.clone(), self.id));
        tokio::spawn(async move {
            // Fails only when the node is going down, and the registration with it.
            let _ = mailbox.send(message).await;
        });
    }
}

pub struct HealthActor {
    /// All of this node's record but its state and endpoints.
    about: Arc<NodeRecord>,
    hosted: Arc<watch::Sender<HostedSet>>,
    myself: Mailbox<Msg>,
    /// Counts registrations across restarts of the actor.
    next_id: Arc<AtomicU64>,
    checks: BTreeMap<WorkloadKey, Check>,
}

/// A workload's check under way.
struct Check {
    state: HealthState,
    probing: AbortHandle,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.probing.abort();
    }
}

impl HealthActor {
    /// `hosted` outlives the actor: after a crash it begins where it was.
    pub fn new(
        about: Arc<NodeRecord>,
        hosted: Arc<watch::Sender<HostedSet>>,
        next_id: Arc<AtomicU64>,
        myself: Mailbox<Msg>,
    ) -> Self {
        Self { about, hosted, myself, next_id, checks: BTreeMap::new() }
    }

    /// The workloads of `node.yaml`, as they are before any check of their health.
    ///
    /// # Errors
    /// If they are too many or too large for the node's record.
    pub fn configured(about: &NodeRecord, services: &[ServiceConfig]) -> anyhow::Result<HostedSet> {
        let hosted = services.iter().map(|service| {
            let key = (service.service.namespace.clone(), service.workload.clone());
            (key, Hosted { service: service.clone(), health: first_health(service), registration: 0 })
        });
        let hosted: BTreeMap<_, _> = hosted.collect();
        check_announced(about, hosted.values())?;
        Ok(Arc::new(hosted))
    }

    fn watch(&mut self, key: &WorkloadKey, hosted: &Hosted) {
        let Some(check) = hosted.service.health_check.clone() else { return };
        let (key, id, address, myself) =
            (key.clone(), hosted.registration, hosted.service.address, self.myself.clone());
        let state = HealthState::resume(&check, hosted.health);
        let probing = tokio::spawn({
            let key = key.clone();
            async move {
                let mut tick = tokio::time::interval(check.interval);
                tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    tick.tick().await;
                    let result = check.probe.run(address, check.timeout).await;
                    if myself.send(Msg::Probed(key.clone(), id, result)).await.is_err() {
                        // The actor is restarting (and starts its own checks) or stopping.
                        return;
                    }
                }
            }
        })
        .abort_handle();
        self.checks.insert(key, Check { state, probing });
    }

    fn on(&mut self, message: Msg) {
        match message {
            Msg::Register(service, reply) => {
                let _ = reply.send(self.register(*service));
            }
            Msg::Deregister(key, id) => {
                let known = self.hosted.borrow().get(&key).is_some_and(|hosted| hosted.registration == id);
                if known {
                    self.checks.remove(&key);
                    self.hosted.send_modify(|set| {
                        Arc::make_mut(set).remove(&key);
                    });
                    tracing::info!(workload = %key.1, namespace = %key.0, "workload deregistered");
                }
            }
            Msg::Drain(key, reply) => {
                let known = self.hosted.borrow().contains_key(&key);
                if known {
                    self.checks.remove(&key);
                    self.set_health(&key, EndpointHealth::Draining);
                }
                let unknown = || anyhow!("no workload {}/{} runs on this host", key.0, key.1);
                let _ = reply.send(known.then_some(()).ok_or_else(unknown));
            }
            Msg::Probed(key, id, result) => {
                let known = self.hosted.borrow().get(&key).is_some_and(|hosted| hosted.registration == id);
                let Some(check) = self.checks.get_mut(&key).filter(|_| known) else { return };
                if let Some(health) = check.state.record(result.is_ok()) {
                    match &result {
                        Ok(()) => tracing::info!(workload = %key.1, namespace = %key.0, "workload is healthy"),
                        Err(why) => {
                            tracing::warn!(workload = %key.1, namespace = %key.0, %why, "workload is unhealthy")
                        }
                    }
                    self.set_health(&key, health);
                }
            }
        }
    }

    fn register(&mut self, service: ServiceConfig) -> anyhow::Result<u64> {
        let key = (service.service.namespace.clone(), service.workload.clone());
        if self.hosted.borrow().contains_key(&key) {
            bail!("workload {}/{} already runs on this host: give this one another name with --workload", key.0, key.1);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let hosted = Hosted { health: first_health(&service), service, registration: id };
        check_announced(&self.about, self.hosted.borrow().values().chain([&hosted]))?;
        let service = &hosted.service.service;
        tracing::info!(workload = %key.1, namespace = %key.0, %service, "workload registered");
        self.watch(&key, &hosted);
        self.hosted.send_modify(|set| {
            Arc::make_mut(set).insert(key, hosted);
        });
        Ok(id)
    }

    fn set_health(&self, key: &WorkloadKey, health: EndpointHealth) {
        self.hosted.send_if_modified(|set| {
            let Some(hosted) = Arc::make_mut(set).get_mut(key) else { return false };
            std::mem::replace(&mut hosted.health, health) != health
        });
    }
}

impl Actor for HealthActor {
    type Msg = Msg;

    async fn run(mut self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        let hosted = self.hosted.borrow().clone();
        for (key, hosted) in hosted.iter().filter(|(_, hosted)| hosted.health != EndpointHealth::Draining) {
            self.watch(key, hosted);
        }
        while let Some(message) = inbox.recv().await {
            self.on(message);
        }
        Ok(())
    }
}

/// Refuses workloads with which peers would refuse this node's record, and that whole.
fn check_announced<'a>(about: &NodeRecord, hosted: impl Iterator<Item = &'a Hosted>) -> anyhow::Result<()> {
    let record = NodeRecord { endpoints: hosted.map(Hosted::row).collect(), ..about.clone() };
    check_record(&record)
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(record.encode().map(drop)?))
        .context("too much for one host to announce: give its services fewer labels, or run some on another host")
}

/// Without a check a workload counts as healthy; with one, not before it passed.
fn first_health(service: &ServiceConfig) -> EndpointHealth {
    match &service.health_check {
        Some(check) => HealthState::new(check).current(),
        None => EndpointHealth::Healthy,
    }
}

#[cfg(test)]
mod tests {
    use weft_wire::{
        fact::{MAX_ENDPOINTS, MAX_LABELS, NodeState},
        id::Locality,
    };

    use super::*;
    use crate::supervisor::{Limits, Supervisor};

    fn about() -> NodeRecord {
        NodeRecord {
            advertise: "10.0.0.1".parse().unwrap(),
            state: NodeState::Up,
            locality: Locality::default(),
            labels: BTreeMap::new(),
            build: "0.1.0".into(),
            endpoints: Vec::new(),
        }
    }

    fn service(name: usize, labels: usize) -> ServiceConfig {
        let labels = (0..labels).map(|i| (format!("{i}.{0}.{0}/l", "long".repeat(15)), "v".repeat(63)));
        let spec =
            ServiceSpec { name: format!("s{name}"), port: 1, labels: labels.collect(), ..ServiceSpec::default() };
        spec.check("127.0.0.1".parse().unwrap()).unwrap()
    }

    fn actor(services: &[ServiceConfig]) -> HealthActor {
        let hosted = HealthActor::configured(&about(), services).unwrap();
        let (myself, _) = Supervisor::new(Limits::default()).unwrap().open("health", 1);
        HealthActor::new(Arc::new(about()), Arc::new(watch::channel(hosted).0), Arc::default(), myself)
    }

    #[test]
    fn what_peers_would_refuse_is_not_registered() {
        let most: Vec<_> = (0..MAX_ENDPOINTS).map(|i| service(i, 0)).collect();
        let error = format!("{:#}", actor(&most).register(service(MAX_ENDPOINTS, 0)).unwrap_err());
        assert!(error.contains("run some on another host") && error.contains("limit of 300"), "{error}");

        let mut actor = actor(&[]);
        let registered = (0..MAX_ENDPOINTS).take_while(|&i| actor.register(service(i, MAX_LABELS)).is_ok()).count();
        assert!((1..MAX_ENDPOINTS).contains(&registered), "{registered} are within 64 KiB");
        assert_eq!(actor.hosted.borrow().len(), registered);
        actor.register(service(MAX_ENDPOINTS, 0)).unwrap();

        let many: Vec<_> = (0..=MAX_ENDPOINTS).map(|i| service(i, 0)).collect();
        assert!(HealthActor::configured(&about(), &many).is_err());
    }
}
