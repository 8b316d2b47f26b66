//! The `health` actor: the workloads that this host runs, from `node.yaml` and from `weft run`, and whether each
//! passes its check. It publishes them; the facts, issuer and view actors take it from there.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{anyhow, bail};
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
};
use weft_wire::{
    fact::{EndpointHealth, EndpointRow},
    id::{Namespace, WorkloadName},
};

use crate::{
    config::{ServiceConfig, ServiceSpec},
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
    /// If the description is wrong, the node may not host its account, or its name is taken.
    pub async fn register(&self, spec: ServiceSpec) -> anyhow::Result<Registration> {
        let service = spec.check(self.default_address).map_err(|problems| {
            anyhow!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
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
    pub fn new(hosted: Arc<watch::Sender<HostedSet>>, next_id: Arc<AtomicU64>, myself: Mailbox<Msg>) -> Self {
        Self { hosted, myself, next_id, checks: BTreeMap::new() }
    }

    /// The workloads of `node.yaml`, as they are before any check.
    pub fn configured(services: &[ServiceConfig]) -> HostedSet {
        let hosted = services.iter().map(|service| {
            let key = (service.service.namespace.clone(), service.workload.clone());
            (key, Hosted { service: service.clone(), health: first_health(service), registration: 0 })
        });
        Arc::new(hosted.collect())
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
        tracing::info!(workload = %key.1, namespace = %key.0, service = %service.service, "workload registered");
        let hosted = Hosted { health: first_health(&service), service, registration: id };
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

/// Without a check a workload counts as healthy; with one, not before it passed.
fn first_health(service: &ServiceConfig) -> EndpointHealth {
    match &service.health_check {
        Some(check) => HealthState::new(check).current(),
        None => EndpointHealth::Healthy,
    }
}
