//! The composition root: reads a node's identity and configuration, binds every socket, starts the actors and the
//! proxy; and ends them in order.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    num::NonZeroUsize,
    os::unix::fs::PermissionsExt,
    process::ExitCode,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Context;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::pki_types::UnixTime;
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, watch},
    time::Instant,
};
use weft_discovery::{
    cells::Abroad,
    membership::{MemberSet, Stats},
};
use weft_policy::{circuit::CircuitTable, compile::ResolvedNames, view::MeshView};
use weft_proxy::{
    access_log::{AccessLog, AccessLogFormat, NodeLog, NodeLogTo},
    config::{ListenerConfig, ListenerProtocol, ProxyConfig},
    elsewhere::Elsewhere,
    metrics::Metrics,
    ports::{Caller, IdentitySnapshot, identities, key_sets, originations, views},
    resolve::host_resolver,
    server::{BoundProxy, Drained, RunningProxy},
    tap::Taps,
};
use weft_wire::{
    fact::{FactVersion, NodeRecord, NodeState},
    frame::MESH_PORT,
    id::{NodeName, ServiceAccount},
};

use crate::{
    actors::{
        Handles, Stop,
        circuits::{self, CircuitsActor},
        documents::{self, DocumentsActor},
        facts::{self, FactsActor},
        follow::Following,
        health::{self, HealthActor},
        issuer::{self, IssuerActor},
        keys::{self, KeysActor},
        links::{self, LinkTable, LinksActor},
        membership::{
            self, MembershipActor,
            gossip::{self, GossipInbox},
        },
        names::{self, NamesActor},
        overload::{self, OverloadActor},
        plaintext::{self, PlaintextActor},
        secrets::{self, SecretsActor},
        signals::{self, SignalsActor},
        traces::{Signals, TracesActor},
        view::{self, ViewActor},
    },
    admin::{
        ask::GATHERED_AT_ONCE, certificates::OwnCertificates, decision::OwnDecisions, log::OwnLog,
        plaintext::OwnPlaintext, server::ApiActor, sessions::Sessions, tap::TapDesk, traces::OwnTraces,
        traffic::OwnTraffic,
    },
    circuits::Circuits,
    config::{self, Config},
    dir::Dir,
    fetch::Fetcher,
    identity::NodeIdentity,
    originations::Originations,
    otlp::{Exporters, MetricsPushActor, Way},
    peer::{quic::Quic, session::Receivers},
    plaintext::Sightings,
    seeds::Seeds,
    store::Store,
    supervisor::{Limits, Supervisor},
    tap::OwnTaps,
    telemetry::{NodeMetrics, Telemetry},
    vault::Vault,
};

/// Open exchanges may take so long to finish when the node stops.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// So long is waited for what is still to be written to the access log.
const LOG_DEADLINE: Duration = Duration::from_secs(1);
/// Actors may take so long to finish their queues.
const ACTORS_DEADLINE: Duration = Duration::from_secs(5);
/// If the end takes longer than all of its parts may, something is stuck for good.
const END_DEADLINE: Duration = Duration::from_secs(20);
/// Changes of the remembered peers within this time are written as one.
const SAVE_PEERS: Duration = Duration::from_secs(2);

/// What actors publish. The node holds on to it: while one actor is down, or the last to stop, the others read on.
struct Published {
    facts: Arc<watch::Sender<Arc<facts::Published>>>,
    heard: Arc<watch::Sender<circuits::Heard>>,
    documents: documents::Published,
    secrets: secrets::Published,
    hosted: Arc<watch::Sender<health::HostedSet>>,
    standings: Arc<watch::Sender<membership::Standings>>,
    rumours: Arc<watch::Sender<Arc<MemberSet>>>,
    abroad: Arc<watch::Sender<Arc<Abroad>>>,
    /// The facts of the present view.
    followed: Arc<watch::Sender<Arc<facts::Published>>>,
    certified: Arc<watch::Sender<BTreeSet<ServiceAccount>>>,
    overloaded: Arc<watch::Sender<bool>>,
    identity_changes: Arc<watch::Sender<u64>>,
    issuer_end: Arc<watch::Sender<Option<UnixTime>>>,
    gossip_stats: Arc<watch::Sender<Option<Stats>>>,
    key_sets: Arc<watch::Sender<keys::Wanted>>,
    wanted_names: Arc<watch::Sender<names::Wanted>>,
    names: Arc<watch::Sender<Arc<ResolvedNames>>>,
    plaintext: Arc<watch::Sender<Sightings>>,
    /// Addresses with which to hold links.
    held: Arc<watch::Sender<BTreeSet<SocketAddr>>>,
    /// Where members are or were.
    remembered: Arc<watch::Sender<BTreeSet<SocketAddr>>>,
}

fn sender<T>(first: T) -> Arc<watch::Sender<T>> {
    Arc::new(watch::channel(first).0)
}

/// A node whose sockets are bound and whose actors run.
pub struct Node {
    handles: Handles,
    quic: Quic,
    proxy: RunningProxy,
    stop: mpsc::Receiver<Stop>,
    access_log: AccessLog,
    store: Store,
    published: Published,
}

/// Builds the node that `dir` holds.
///
/// # Errors
/// Whatever keeps the node from running: no identity, a taken port, a service that the node may not host.
pub async fn build(config: Arc<Config>, dir: Dir) -> anyhow::Result<Node> {
    let identity = NodeIdentity::load(&dir)?;
    config.confirm_name(&identity.name)?;
    let accounts = configured_accounts(&config);
    let hosted_accounts = config.services.iter().map(config::ServiceConfig::account);
    for account in hosted_accounts.chain(accounts.iter().cloned()) {
        if !may_skip_grants() {
            weft_ca::rules::may_host(&identity.grant, &account)?;
        }
    }
    let about = NodeRecord {
        advertise: config.advertise,
        state: NodeState::Up,
        locality: config.locality.clone(),
        labels: config.labels.clone(),
        build: env!("CARGO_PKG_VERSION").into(),
        endpoints: Vec::new(),
    }
    .in_cell(&config.cell, config.relay);
    let hosted = HealthActor::configured(&about, &config.services).context("the services of node.yaml")?;
    let store = Store::open(dir.path())?;
    let vault = Vault::open(&dir.secrets())?;
    // A node that lost its disk but kept its name must still come out above its former self.
    let incarnation = store.next_incarnation(UnixTime::now().as_secs())?;
    let (name, trust_domain, mesh) = (identity.name.clone(), identity.trust_domain().clone(), identity.trust.mesh_id());
    let (first_identities, roots) = (trust_domain.clone(), identity.root_store());
    let identity = Arc::new(ArcSwap::from_pointee(identity));
    let advertise = SocketAddr::new(config.advertise, MESH_PORT);

    let telemetry = Telemetry::default();
    let proxy_metrics = telemetry.proxy.clone();
    proxy_metrics.add_runtime("control".into(), Handle::current().metrics());
    let (view_publisher, views) = views(MeshView::empty(trust_domain.clone()));
    proxy_metrics.shaped_by(views.clone());
    let (identity_publisher, data_identities) = identities(IdentitySnapshot {
        trust_domain: first_identities,
        roots: Arc::new(roots),
        revocations: Arc::default(),
        workloads: Default::default(),
        default_caller: None,
    });
    let (key_publisher, keys) = key_sets();
    let (origination_publisher, of_outside) = originations();
    let told_circuits = Circuits::new(&telemetry);
    let exporters = Exporters::new(&telemetry);
    let supervisor = Supervisor::new(Limits::default())?;
    let (spans, traces_opened) = supervisor.open("traces", 4_096);
    let (facts_box, facts_opened) = supervisor.open("facts", 128);
    let told = facts_box.clone();
    // What is not taken is told again with the next call.
    let elsewhere = Arc::new(Elsewhere::new(move |service| drop(told.try_send(facts::Msg::Call(service.to_owned())))));
    let signals = Arc::new(Signals { spans, exporters: exporters.clone() });
    let own_taps = OwnTaps::default();
    let access_log = access_log(&config, &name, proxy_metrics.clone(), signals.clone())?;
    let proxy = BoundProxy::bind(
        proxy_config(&config, access_log.clone(), signals, own_taps.taps.clone(), elsewhere.clone()),
        views.clone(),
        data_identities.clone(),
        keys.clone(),
        of_outside,
        proxy_metrics.clone(),
        Arc::new(told_circuits.clone()),
    )?;
    exporters.set_way(Way { views: views.clone(), outbound: proxy.outbound() });
    let quic = Quic::bind(advertise, identity.clone())?;
    let unix = Arc::new(unix_listener(&dir)?);
    let tcp = Arc::new(
        TcpListener::bind(config.admin).await.with_context(|| format!("cannot listen on {} (admin)", config.admin))?,
    );
    let metrics = match config.metrics {
        None => None,
        Some(address) => {
            let bound = TcpListener::bind(address).await;
            Some(Arc::new(bound.with_context(|| format!("cannot listen on {address} (metrics)"))?))
        }
    };

    let (documents_box, documents_opened) = supervisor.open("documents", 128);
    let (secrets_box, secrets_opened) = supervisor.open("secrets", 64);
    let (links_box, links_opened) = supervisor.open("links", 256);
    let (issuer_box, issuer_opened) = supervisor.open("issuer", 64);
    let (membership_box, membership_opened) = supervisor.open("membership", 256);
    let (health_box, health_opened) = supervisor.open("health", 256);
    let (_, keys_opened) = supervisor.open("keys", 1);
    let (_, names_opened) = supervisor.open("names", 1);
    let (_, overload_opened) = supervisor.open("overload", 1);
    let (_, plaintext_opened) = supervisor.open("plaintext", 1);
    let (_, circuits_opened) = supervisor.open("circuits", 1);
    let (_, signals_opened) = supervisor.open("signals", 1);
    let (_, view_opened) = supervisor.open("view", 1);
    let (_, api_opened) = supervisor.open("api", 1);

    let published = Published {
        facts: sender(Arc::default()),
        heard: sender(Arc::default()),
        documents: documents::Published::default(),
        secrets: secrets::Published::default(),
        hosted: sender(hosted),
        standings: sender(membership::Standings::default()),
        rumours: sender(Arc::default()),
        abroad: sender(Arc::default()),
        followed: sender(Arc::default()),
        certified: sender(BTreeSet::new()),
        overloaded: sender(false),
        identity_changes: sender(0),
        issuer_end: sender(None),
        gossip_stats: sender(None),
        key_sets: sender(keys::Wanted::default()),
        wanted_names: sender(names::Wanted::default()),
        names: sender(Arc::default()),
        plaintext: sender(Sightings::default()),
        held: sender(BTreeSet::new()),
        remembered: sender(remembered(&store)),
    };
    let table = Arc::new(LinkTable::default());
    let gossip_inbox = GossipInbox::default();
    let first_view = Arc::new(OnceLock::new());
    let (stop, stopped) = mpsc::channel(1);

    let links = links::Handle::new(quic.clone(), table.clone(), published.held.clone(), telemetry.clone());
    let facts = facts::Handle::new(facts_box.clone(), published.facts.subscribe());
    let documents = documents::Handle::new(documents_box.clone(), &published.documents, store.clone());
    let membership =
        membership::Handle::new(membership_box, published.standings.subscribe(), published.rumours.subscribe());
    let issuer = issuer::Handle::new(
        issuer_box.clone(),
        identity.clone(),
        published.facts.subscribe(),
        documents.clone(),
        telemetry.clone(),
    );
    let health =
        health::Handle::new(health_box.clone(), published.hosted.subscribe(), config.local_ip(), identity.clone());

    let setup = facts::Setup {
        about: about.clone(),
        wants: config.wants(),
        elsewhere,
        incarnation,
        seq: Arc::new(AtomicU64::new(0)),
        state: Arc::new(watch::channel(NodeState::Up).0),
        identity: identity.clone(),
        identity_changes: published.identity_changes.subscribe(),
        hosted: published.hosted.subscribe(),
        certified: published.certified.subscribe(),
        overloaded: published.overloaded.subscribe(),
        standings: published.standings.subscribe(),
        published: published.facts.clone(),
        heard: published.heard.clone(),
        store: store.clone(),
        links: links.clone(),
        myself: facts_box,
        telemetry: telemetry.clone(),
    };
    supervisor.start(facts_opened, move || FactsActor::new(setup.clone()));

    let setup = documents::Setup {
        contents: published.secrets.held.subscribe(),
        identity: identity.clone(),
        identity_changes: published.identity_changes.subscribe(),
        published: published.documents.clone(),
        store: store.clone(),
        links: links.clone(),
        standings: published.standings.subscribe(),
        rumours: published.rumours.subscribe(),
        abroad: published.abroad.subscribe(),
        myself: documents_box,
        telemetry: telemetry.clone(),
    };
    supervisor.start(documents_opened, move || Ok(DocumentsActor::new(setup.clone())));

    let setup = secrets::Setup {
        name: name.clone(),
        vault,
        identity: identity.clone(),
        documents: published.documents.held.subscribe(),
        policy: published.documents.policy.subscribe(),
        facts: published.facts.subscribe(),
        standings: published.standings.subscribe(),
        published: published.secrets.clone(),
        links: links.clone(),
        myself: secrets_box,
        telemetry: telemetry.clone(),
    };
    let secrets = secrets::Handle::new(setup.clone());
    supervisor.start(secrets_opened, move || Ok(SecretsActor::new(setup.clone())));

    let setup = issuer::Setup {
        dir: dir.clone(),
        identity: identity.clone(),
        identity_changes: published.identity_changes.clone(),
        policy: published.documents.policy.subscribe(),
        publisher: Arc::new(Mutex::new(identity_publisher)),
        hosted: published.hosted.subscribe(),
        accounts,
        outbound: config.outbound.account.clone(),
        certified: published.certified.clone(),
        issuer_end: published.issuer_end.clone(),
        joins: Arc::default(),
        facts: facts.clone(),
        documents: documents.clone(),
        links: links.clone(),
        telemetry: telemetry.clone(),
        myself: issuer_box,
    };
    supervisor.start(issuer_opened, move || IssuerActor::new(setup.clone()));

    let following = Following::new(published.followed.subscribe(), views.clone());
    let decisions = OwnDecisions { node: name.clone(), kept: proxy.decisions() };
    let plaintext =
        OwnPlaintext { node: name.clone(), seen: published.plaintext.subscribe(), metrics: proxy_metrics.clone() };
    let traffic = OwnTraffic::default();
    let taps = TapDesk { own: own_taps.clone(), identity: identity.clone(), events: telemetry.events.clone() };
    let traces = OwnTraces::new(name.clone());
    let certificates = OwnCertificates::new(data_identities.clone());
    let log =
        OwnLog { node: name.clone(), is_on: config.access_log != config::AccessLog::Off, recent: access_log.recent() };
    if let Some(push) = config.metrics_push.clone() {
        let (_, opened) = supervisor.open("metrics-push", 1);
        let (exporters, telemetry, node) = (exporters.clone(), telemetry.clone(), name.clone());
        let began = std::time::SystemTime::now();
        supervisor.start(opened, move || {
            let (exporters, telemetry, node) = (exporters.clone(), telemetry.clone(), node.clone());
            Ok(MetricsPushActor { push: push.clone(), exporters, telemetry, node, began })
        });
    }
    let of_traces = (traces.clone(), exporters);
    supervisor.start(traces_opened, move || {
        let (own, exporters) = of_traces.clone();
        Ok(TracesActor { own, exporters })
    });
    let receivers = Receivers {
        gossip: gossip_inbox.clone(),
        membership: membership.clone(),
        facts: facts.clone(),
        documents: documents.clone(),
        secrets: secrets.clone(),
        following: following.clone(),
        decisions: decisions.clone(),
        plaintext: plaintext.clone(),
        traffic: traffic.clone(),
        taps: taps.clone(),
        identity: identity.clone(),
        identity_changes: published.identity_changes.subscribe(),
        traces: traces.clone(),
        certificates: certificates.clone(),
        log: log.clone(),
        issuer: issuer.clone(),
        telemetry: telemetry.clone(),
    };
    let of_links = (quic.clone(), table.clone(), identity.clone(), membership.clone(), published.held.subscribe());
    supervisor.start(links_opened, move || {
        let (quic, table, identity, membership, held) = of_links.clone();
        Ok(LinksActor::new(quic, table, identity, membership, receivers.clone(), held, links_box.clone()))
    });

    let setup = membership::Setup {
        gossip: gossip::Setup {
            mesh,
            cell: config.cell.clone(),
            name: name.clone(),
            incarnation,
            advertise,
            inbox: gossip_inbox,
            starts: Arc::new(AtomicU64::new(0)),
            stats: published.gossip_stats.clone(),
            links: links.clone(),
            table,
            telemetry: telemetry.clone(),
        },
        seeds: Seeds::follow(&config.seeds),
        remembered: published.remembered.clone(),
        standings: published.standings.clone(),
        rumours: published.rumours.clone(),
        abroad: published.abroad.clone(),
        is_relay: config.relay,
        facts: facts.clone(),
        documents: documents.clone(),
    };
    supervisor.start(membership_opened, move || Ok(MembershipActor::new(setup.clone())));

    let of_health = (Arc::new(about), published.hosted.clone(), Arc::new(AtomicU64::new(1)), health_box);
    supervisor.start(health_opened, move || {
        let (about, hosted, next_id, myself) = of_health.clone();
        Ok(HealthActor::new(about, hosted, next_id, myself))
    });

    let setup = keys::Setup {
        wanted: published.key_sets.subscribe(),
        fetcher: Fetcher::new(views.clone(), proxy.outbound()),
        publisher: Arc::new(Mutex::new(key_publisher)),
    };
    supervisor.start(keys_opened, move || Ok(KeysActor::new(setup.clone())));

    let setup = names::Setup {
        wanted: published.wanted_names.subscribe(),
        resolve: host_resolver(),
        found: published.names.clone(),
        failures: telemetry.names_failed.clone(),
    };
    supervisor.start(names_opened, move || Ok(NamesActor::new(setup.clone())));

    let setup = overload::Setup { pressure: proxy.pressure(), overloaded: published.overloaded.clone() };
    supervisor.start(overload_opened, move || Ok(OverloadActor(setup.clone())));

    let setup = plaintext::Setup { hosted: published.hosted.subscribe(), seen: published.plaintext.clone() };
    supervisor.start(plaintext_opened, move || Ok(PlaintextActor(setup.clone())));

    let circuits = Arc::new(Mutex::new(CircuitTable::new(name.clone())));
    let setup = circuits::Setup {
        views: views.clone(),
        heard: published.heard.subscribe(),
        standings: published.standings.subscribe(),
        table: circuits.clone(),
        circuits: told_circuits,
        facts: facts.clone(),
    };
    supervisor.start(circuits_opened, move || Ok(CircuitsActor::new(setup.clone())));

    let setup = signals::Setup {
        windows: traffic.windows.clone(),
        taps: own_taps,
        telemetry: telemetry.clone(),
        decisions: decisions.clone(),
        facts: published.facts.subscribe(),
        supervisor: supervisor.clone(),
    };
    supervisor.start(signals_opened, move || Ok(SignalsActor::new(setup.clone())));

    let setup = view::Setup {
        name,
        trust_domain,
        facts: published.facts.subscribe(),
        standings: published.standings.subscribe(),
        documents: published.documents.policy.subscribe(),
        culprits: Arc::default(),
        documents_actor: documents.clone(),
        hosted: published.hosted.subscribe(),
        secrets: published.secrets.in_use.subscribe(),
        names: published.names.subscribe(),
        wanted_names: published.wanted_names.clone(),
        key_sets: published.key_sets.clone(),
        originations: Arc::new(Mutex::new(Originations::new(origination_publisher))),
        publisher: Arc::new(Mutex::new(view_publisher)),
        followed: published.followed.clone(),
        views: views.clone(),
        first: first_view.clone(),
    };
    supervisor.start(view_opened, move || Ok(ViewActor(setup.clone())));

    let handles = Handles {
        dir,
        identity,
        incarnation,
        advertise: config.advertise,
        cell: config.cell.clone(),
        is_relay: config.relay,
        started: Instant::now(),
        supervisor: supervisor.clone(),
        facts,
        documents,
        secrets,
        issuer,
        health,
        membership,
        gossip: published.gossip_stats.subscribe(),
        links,
        following,
        hosted: published.hosted.subscribe(),
        certified: published.certified.subscribe(),
        issuer_end: published.issuer_end.subscribe(),
        views,
        keys,
        decisions,
        plaintext,
        traffic,
        taps,
        gathers: Arc::new(Semaphore::new(GATHERED_AT_ONCE)),
        traces,
        certificates,
        log,
        circuits,
        first_view,
        telemetry: telemetry.clone(),
        admin: config.admin,
        sessions: Sessions::default(),
        stop,
    };
    NodeMetrics::new(handles.clone(), data_identities).register(&telemetry);
    let of_api = handles.clone();
    supervisor.start(api_opened, move || {
        let (unix, tcp, metrics) = (unix.clone(), tcp.clone(), metrics.clone());
        Ok(ApiActor { unix, tcp, metrics, handles: of_api.clone() })
    });
    Ok(Node { handles, quic, proxy: proxy.run()?, stop: stopped, access_log, store, published })
}

impl Node {
    /// Serves until a signal, `weft leave`, or an actor that cannot be kept alive; then says goodbye and ends.
    pub async fn run(mut self) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let given_up = self.handles.supervisor.given_up();
        tokio::pin!(given_up);
        let name = self.handles.identity.load().name.clone();
        tracing::info!(%name, version = env!("CARGO_PKG_VERSION"), advertise = %self.handles.advertise, "node up");
        let (mut up, mut ready) = (false, false);
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let mut save_peers = tokio::time::interval(SAVE_PEERS);
        let mut remembered = self.published.remembered.subscribe();
        let (stop, code) = loop {
            tokio::select! {
                _ = tick.tick(), if !up || !ready => {
                    // Certificates may be long in coming, if no CA node is up; systemd would not wait for them.
                    if !up && self.handles.first_view.get().is_some() {
                        up = true;
                        // Without systemd there is nobody to tell.
                        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
                    }
                    if !ready && self.handles.not_ready().is_empty() {
                        ready = true;
                        tracing::info!("node ready");
                    }
                }
                _ = save_peers.tick() => if remembered.has_changed().unwrap_or(false) {
                    let peers = remembered.borrow_and_update().clone();
                    self.save_peers(peers).await;
                },
                _ = terminate.recv() => break (Stop::Shutdown, ExitCode::SUCCESS),
                _ = interrupt.recv() => break (Stop::Shutdown, ExitCode::SUCCESS),
                Some(()) = hang_up.recv() => {
                    let access_log = self.access_log.clone();
                    // Whoever reads the log may be stuck, and this must not be.
                    tokio::spawn(async move { access_log.reopen().await });
                }
                Some(stop) = self.stop.recv() => break (stop, ExitCode::SUCCESS),
                given_up = &mut given_up => {
                    tracing::error!(actor = given_up.actor, why = given_up.why, "the node gives up and ends");
                    if given_up.thread_blocked {
                        end_by_force_after(END_DEADLINE);
                    }
                    break (Stop::Shutdown, ExitCode::FAILURE);
                }
            }
        };
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.end(stop).await?;
        Ok(code)
    }

    /// Callers are told first; then what is open finishes; then the node takes its leave.
    async fn end(self, stop: Stop) -> anyhow::Result<()> {
        tracing::info!("node stopping");
        end_by_force_after(END_DEADLINE);
        self.save_peers(self.published.remembered.borrow().clone()).await;
        if let Some(version) = say(&self.handles.facts, NodeState::Draining).await {
            self.handles.callers_follow(version).await;
        }
        if self.proxy.drain(DRAIN_DEADLINE).await == Drained::Cut {
            tracing::warn!("some exchanges did not finish within {DRAIN_DEADLINE:?} and were cut");
        }
        if tokio::time::timeout(LOG_DEADLINE, self.access_log.written()).await.is_err() {
            tracing::warn!("access log lines could not be written within {LOG_DEADLINE:?}");
        }
        let last_word = match stop {
            Stop::Shutdown => NodeState::Stopped,
            Stop::Leave => NodeState::Left,
        };
        say(&self.handles.facts, last_word).await;
        self.handles.links.flush(Duration::from_millis(500)).await;
        let cut = self.handles.supervisor.shutdown(ACTORS_DEADLINE).await;
        if !cut.is_empty() {
            tracing::warn!(actors = cut.join(", "), "actors had to be cut");
        }
        self.quic.close().await;
        // Someone else's by now, if two nodes fought for one directory; the store's lock rules that out.
        let _ = std::fs::remove_file(self.handles.dir.socket());
        if stop == Stop::Leave {
            remove_identity(&self.handles.dir)?;
        }
        tracing::info!("node stopped");
        Ok(())
    }

    async fn save_peers(&self, peers: BTreeSet<SocketAddr>) {
        if let Err(error) = self.store.call(move |store| store.save_peers(&peers)).await {
            tracing::warn!(%error, "peers could not be saved");
        }
    }
}

/// Returns the version of what was said.
async fn say(facts: &facts::Handle, state: NodeState) -> Option<FactVersion> {
    let said = facts.say(state).await;
    said.inspect_err(|error| tracing::warn!(%error, ?state, "peers could not be told")).ok()
}

/// Accounts that the configuration names besides those of its services.
fn configured_accounts(config: &Config) -> BTreeSet<ServiceAccount> {
    let listeners = config.listeners.iter().filter_map(|listener| listener.account.clone());
    listeners.chain(config.outbound.account.clone()).collect()
}

/// Only for the scenario tests, which need a node that says more than it may.
fn may_skip_grants() -> bool {
    cfg!(feature = "testing") && std::env::var_os("WEFT_TESTING_SKIP_GRANTS").is_some()
}

/// journald's socket.
const JOURNAL: &str = "/run/systemd/journal/socket";

fn access_log(config: &Config, name: &NodeName, metrics: Metrics, signals: Arc<Signals>) -> anyhow::Result<AccessLog> {
    let format = match config.access_log {
        config::AccessLog::Text => Some(AccessLogFormat::Text),
        config::AccessLog::Json => Some(AccessLogFormat::Json),
        config::AccessLog::Off => None,
    };
    let to = match &config.access_log_to {
        config::AccessLogTo::Stdout => NodeLogTo::Stream(Box::new(std::io::stdout())),
        config::AccessLogTo::Journald => NodeLogTo::Journal(JOURNAL.into()),
        config::AccessLogTo::File(path) => NodeLogTo::File(path.clone()),
    };
    let log = NodeLog { format, to, node: name.to_string() };
    AccessLog::start(log, metrics, signals).with_context(|| match &config.access_log_to {
        config::AccessLogTo::File(path) => format!("accessLogTo {} cannot be written", path.display()),
        _ => "the access log cannot be started".to_owned(),
    })
}

fn proxy_config(
    config: &Config,
    access_log: AccessLog,
    signals: Arc<Signals>,
    taps: Arc<Taps>,
    elsewhere: Arc<Elsewhere>,
) -> ProxyConfig {
    let listeners = config.listeners.iter().map(|listener| ListenerConfig {
        listen: listener.listen,
        service: listener.service.clone(),
        port: Some(listener.port),
        protocol: match listener.protocol {
            config::ListenerProtocol::Auto => ListenerProtocol::Auto,
            config::ListenerProtocol::Http => ListenerProtocol::Http,
            config::ListenerProtocol::Tcp => ListenerProtocol::Tcp,
        },
        source: listener.account.clone().map(|account| Arc::new(Caller::new(account, None))),
    });
    ProxyConfig {
        workers: NonZeroUsize::new(config.workers).unwrap_or(NonZeroUsize::MIN),
        inbound: SocketAddr::new(config.advertise, MESH_PORT),
        outbound: config.outbound.address,
        listeners: listeners.collect(),
        access_log,
        signals,
        taps,
        elsewhere,
        limits: weft_proxy::config::Limits {
            connections: config.limits.connections,
            held_bytes: config.limits.held_bytes,
            ..weft_proxy::config::Limits::default()
        },
    }
}

/// The admin API's socket. The store's lock is held, so a socket that is there is a dead node's.
fn unix_listener(dir: &Dir) -> anyhow::Result<UnixListener> {
    let path = dir.socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing the old socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    // The directory is 0700 already; this guards against one that was made by hand.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("setting the mode of {}", path.display()))?;
    Ok(listener)
}

/// Where members were in earlier runs: dialled for ever, so that a mesh comes together again after whatever time.
fn remembered(store: &Store) -> BTreeSet<SocketAddr> {
    match store.load_peers() {
        Ok(peers) => peers.rows.into_iter().collect(),
        Err(error) => {
            tracing::warn!(%error, "remembered peers could not be read");
            BTreeSet::new()
        }
    }
}

/// What `weft leave` takes away: all that made this host a member. The root and the operator's credential are the
/// operator's.
fn remove_identity(dir: &Dir) -> anyhow::Result<()> {
    let node = dir.node();
    let node = node.key.parent().unwrap_or(dir.path());
    let issuer = dir.issuer();
    let issuer = issuer.key.parent().unwrap_or(dir.path());
    // Kept under another name: a host that joins again begins with a configuration of its own.
    let _ = std::fs::rename(dir.config(), dir.config().with_extension("yaml.left"));
    // The node's directory last: while it is there, the host counts as a member's.
    for path in [&dir.secrets(), &dir.workloads(), issuer, &dir.path().join(Store::FILE_NAME), &dir.roots(), node] {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends the process from a thread of its own, should its runtime be stuck.
fn end_by_force_after(deadline: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(deadline);
        eprintln!("weft: the node did not end within {deadline:?}; ending it by force");
        std::process::exit(1);
    });
}
