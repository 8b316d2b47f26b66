//! The node's own log and metrics. The proxy's metrics live in the same registry; `/metrics` prints both.

mod process;

use std::{
    collections::BTreeMap,
    fmt,
    io::IsTerminal,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode_registry},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
    },
    registry::Registry,
};
use rustls::pki_types::UnixTime;
use tracing_subscriber::EnvFilter;
use weft_policy::experiment::{Experiment, Phase};
use weft_proxy::{
    metrics::{
        Metrics,
        text::{Format, Page},
    },
    ports::Identities,
};
use weft_wire::circuit::CircuitState;

use crate::{
    actors::{Handles, facts, seconds_until},
    config::{LogFormat, Logs},
    events::Events,
    identity::wall_ms,
    supervisor::ActorStatus,
};

/// Starts logging to stderr. `WEFT_LOG` overrides the level, with `tracing`'s filter syntax.
///
/// # Errors
/// If `WEFT_LOG` is not a filter, or logging was started before.
pub fn start_logging(logs: &Logs) -> anyhow::Result<()> {
    let filter = match std::env::var("WEFT_LOG") {
        Ok(filter) => EnvFilter::try_new(&filter).map_err(|error| anyhow::anyhow!("WEFT_LOG {filter:?}: {error}"))?,
        // The libraries' news is of use only when asked for; what chitchat warns of is counted, and peers could fill a disk
        // with it.
        Err(_) => EnvFilter::new(format!(
            "warn,chitchat=error,weft={level},weft_node={level},weft_discovery={level},weft_proxy={level},weft_ca={level}",
            level = logs.level.as_str()
        )),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    match logs.format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// What a counter of refusals or losses is about: one of a fixed few words.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    pub reason: &'static str,
}

/// Which event of membership.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Event {
    pub event: &'static str,
}

/// Keeps what strangers can cause as often as they like from filling the log.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// When the present period began, and the lines written in it.
    period: Option<(Instant, u32)>,
    left_out: u64,
}

impl LogLimit {
    const PERIOD: Duration = Duration::from_secs(10);
    const LINES: u32 = 10;

    /// Whether a line may be written now; if so, how many were left out since the last one.
    pub fn allow(&mut self, now: Instant) -> Option<u64> {
        let written = match self.period {
            Some((began, written)) if now.saturating_duration_since(began) < Self::PERIOD => written,
            _ => {
                self.period = Some((now, 0));
                0
            }
        };
        if written == Self::LINES {
            self.left_out += 1;
            return None;
        }
        self.period = self.period.map(|(began, written)| (began, written + 1));
        Some(std::mem::take(&mut self.left_out))
    }
}

/// The registry, and the counters that the control side increments. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    registry: Arc<Mutex<Registry>>,
    /// The data path's, which are written beside the registry.
    pub proxy: Metrics,
    pub events: Events,
    pub facts_refused: Family<Reason, Counter>,
    pub documents_refused: Family<Reason, Counter>,
    pub secrets_refused: Family<Reason, Counter>,
    pub peers_refused: Family<Reason, Counter>,
    pub joins: Family<Reason, Counter>,
    pub certificates: Family<Reason, Counter>,
    pub member_events: Family<Event, Counter>,
    pub messages_dropped: Family<Reason, Counter>,
    pub gossip_restarts: Counter,
    pub names_failed: Counter,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::default();
        let facts_refused = Family::default();
        let documents_refused = Family::default();
        let secrets_refused = Family::default();
        let peers_refused = Family::default();
        let joins = Family::default();
        let certificates = Family::default();
        let member_events = Family::default();
        let messages_dropped = Family::default();
        let gossip_restarts = Counter::default();
        let names_failed = Counter::default();
        registry.register(
            "weft_facts_refused",
            "Facts from peers that were neither stored nor forwarded",
            facts_refused.clone(),
        );
        registry.register(
            "weft_documents_refused",
            "Documents that were neither stored nor forwarded",
            documents_refused.clone(),
        );
        registry.register("weft_secrets_refused", "Questions of peers for Secrets refused", secrets_refused.clone());
        registry.register("weft_peers_refused", "Peer connections and messages refused", peers_refused.clone());
        registry.register("weft_joins", "Join requests answered, by outcome", joins.clone());
        registry.register(
            "weft_certificates",
            "Certificates that this node asked for, by outcome",
            certificates.clone(),
        );
        registry.register("weft_member_events", "Changes of members' standing, as seen here", member_events.clone());
        registry.register(
            "weft_messages_dropped",
            "Messages between nodes dropped because a queue was full or a peer away; repaired by pull",
            messages_dropped.clone(),
        );
        registry.register("weft_gossip_restarts", "Starts of gossip after it had failed", gossip_restarts.clone());
        registry.register(
            "weft_name_lookups_failed",
            "Look-ups of names outside of the mesh that failed",
            names_failed.clone(),
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
            proxy: Metrics::default(),
            events: Events::default(),
            facts_refused,
            documents_refused,
            secrets_refused,
            peers_refused,
            joins,
            certificates,
            member_events,
            messages_dropped,
            gossip_restarts,
            names_failed,
        }
    }
}

impl Telemetry {
    /// Lets another part register its metrics.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock());
    }

    /// All metrics as text.
    pub fn encode(&self, format: Format) -> anyhow::Result<String> {
        let mut page = Page::new(format);
        self.proxy.write(&mut page);
        let mut own = String::new();
        encode_registry(&mut own, &self.registry.lock())?;
        page.add(&own);
        Ok(page.finish())
    }
}

/// What is read off the node's state at each scrape, rather than counted.
pub struct NodeMetrics {
    handles: Handles,
    identities: Identities,
}

impl NodeMetrics {
    pub fn new(handles: Handles, identities: Identities) -> Self {
        Self { handles, identities }
    }

    pub fn register(self, telemetry: &Telemetry) {
        telemetry.register(|registry| registry.register_collector(Box::new(self)));
    }
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeMetrics")
    }
}

type Labels = Vec<(&'static str, String)>;

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        process::encode(&mut encoder, self.handles.started.elapsed(), UNIX_EPOCH.elapsed().unwrap_or_default())?;
        let mut members: BTreeMap<String, i64> = BTreeMap::new();
        for member in self.handles.members() {
            *members.entry(member.state).or_default() += 1;
        }
        let members: Vec<(Labels, i64)> =
            members.into_iter().map(|(state, count)| (vec![("state", state)], count)).collect();
        gauge(&mut encoder, "weft_members", "Nodes of the mesh, by state as seen from here", &members)?;

        let links = self.handles.links.count() as i64;
        gauge(&mut encoder, "weft_links", "Nodes with which there is a link", &[(vec![], links)])?;
        self.encode_cells(&mut encoder)?;
        let help = "Round-trip time of the link with a node";
        let mut times = encoder.encode_descriptor("weft_link_rtt_seconds", help, None, MetricType::Gauge)?;
        for (name, rtt) in self.handles.links.round_trips() {
            let labels: Labels = vec![("node", name.to_string())];
            ConstGauge::new(rtt.as_secs_f64()).encode(times.encode_family(&labels)?)?;
        }

        let actors = self.handles.supervisor.status();
        let label = |actor: &ActorStatus| vec![("actor", actor.name.clone())];
        let queued: Vec<_> = actors.iter().map(|actor| (label(actor), actor.queue_depth as i64)).collect();
        gauge(&mut encoder, "weft_actor_queue_depth", "Messages that wait in an actor's inbox", &queued)?;
        let room: Vec<_> = actors.iter().map(|actor| (label(actor), actor.queue_capacity as i64)).collect();
        gauge(&mut encoder, "weft_actor_queue_capacity", "Messages that an actor's inbox takes", &room)?;
        let help = "Messages that an actor's inbox had no room for";
        let mut dropped = encoder.encode_descriptor("weft_actor_messages_dropped", help, None, MetricType::Counter)?;
        for actor in &actors {
            ConstCounter::new(actor.dropped).encode(dropped.encode_family(&label(actor))?)?;
        }
        let help = "Restarts of an actor since the node started";
        let mut restarts = encoder.encode_descriptor("weft_actor_restarts", help, None, MetricType::Counter)?;
        for actor in &actors {
            ConstCounter::new(actor.restarts).encode(restarts.encode_family(&label(actor))?)?;
        }

        let identity = self.handles.identity.load();
        let left = seconds_until(identity.certificate.not_after);
        let help = "Seconds until the node's certificate ends";
        gauge(&mut encoder, "weft_certificate_seconds_left", help, &[(vec![], left)])?;
        let issuer: Vec<(Labels, i64)> =
            self.handles.issuer_seconds_left().map(|left| (vec![], left)).into_iter().collect();
        let help = "Seconds until this CA node's intermediate ends";
        gauge(&mut encoder, "weft_issuer_seconds_left", help, &issuer)?;
        let snapshot = self.identities.load();
        let workloads = snapshot.workloads.iter().map(|(account, identity)| {
            let labels = vec![("namespace", account.namespace.to_string()), ("account", account.name.to_string())];
            let ends = identity.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            (labels, seconds_until(UnixTime::since_unix_epoch(Duration::from_secs(ends))))
        });
        let help = "Seconds until the certificate of a service account that runs here ends";
        let workloads: Vec<_> = workloads.collect();
        gauge(&mut encoder, "weft_workload_certificate_seconds_left", help, &workloads)?;

        let documents = self.handles.documents.count() as i64;
        gauge(&mut encoder, "weft_documents", "Documents that this node holds", &[(vec![], documents)])?;
        let nodes = self.handles.nodes_with_all_documents();
        let help = "Nodes of the mesh, by whether they have all documents that this node has";
        let nodes = [("current", nodes.current), ("lagging", nodes.lagging.len())];
        let nodes = nodes.map(|(state, count)| (vec![("state", state.to_owned())], count as i64));
        gauge(&mut encoder, "weft_document_nodes", help, &nodes)?;

        let epoch = self.handles.views.load().epoch as i64;
        gauge(&mut encoder, "weft_view_epoch", "Views compiled since the node started", &[(vec![], epoch)])?;

        let held_back = self.handles.documents.held_back() as i64;
        let help = "Documents that are held back because views cannot be compiled with them";
        gauge(&mut encoder, "weft_documents_quarantined", help, &[(vec![], held_back)])?;

        let taps = self.handles.taps.own.count() as i64;
        gauge(&mut encoder, "weft_taps", "Operators who watch requests of this node", &[(vec![], taps)])?;

        self.encode_circuits(&mut encoder)?;
        self.encode_rate_limits(&mut encoder)?;
        self.encode_experiments(&mut encoder)?;

        let Some(stats) = *self.handles.gossip.borrow() else { return Ok(()) };
        let help = "Length of the last gossip digest; gossip stops at 64 KiB";
        gauge(&mut encoder, "weft_gossip_digest_bytes", help, &[(vec![], stats.digest_bytes as i64)])?;
        let help = "1 while the gossip digest is above half of its limit: split the mesh";
        gauge(&mut encoder, "weft_gossip_digest_alarm", help, &[(vec![], stats.digest_alarm.into())])?;
        Ok(())
    }
}

impl NodeMetrics {
    fn encode_cells(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let facts = self.handles.facts.published().borrow().clone();
        let (mut nodes, mut services): (BTreeMap<String, i64>, BTreeMap<String, i64>) = Default::default();
        for (cell, summary) in facts.summaries.values() {
            // Relays of a cell may differ for a moment.
            let raise = |counts: &mut BTreeMap<String, i64>, count: i64| {
                let known = counts.entry(cell.to_string()).or_default();
                *known = count.max(*known);
            };
            raise(&mut nodes, i64::from(summary.nodes));
            raise(&mut services, summary.services.len() as i64);
        }
        let by_cell = |counts: BTreeMap<String, i64>| -> Vec<(Labels, i64)> {
            counts.into_iter().map(|(cell, count)| (vec![("cell", cell)], count)).collect()
        };
        gauge(encoder, "weft_cell_nodes", "Nodes of each cell, as its relays tell", &by_cell(nodes))?;
        gauge(encoder, "weft_cell_services", "Services of each cell, as its relays tell", &by_cell(services))?;
        let is_abroad = |node: &&facts::Node| node.record.is_relay() && node.record.cell() != self.handles.cell;
        let abroad: Vec<_> =
            facts.nodes.iter().filter(|(_, node)| is_abroad(node)).map(|(name, _)| name.id()).collect();
        let linked = self.handles.links.peers();
        let links = abroad.iter().filter(|relay| linked.contains(relay)).count() as i64;
        gauge(encoder, "weft_relay_links", "Relays of other cells with which there is a link", &[(vec![], links)])
    }

    fn encode_circuits(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut own = [CircuitState::Failing, CircuitState::Tripped, CircuitState::Probing].map(|state| (state, 0));
        let mut heard = 0;
        for seen in self.handles.circuits.lock().seen(wall_ms(), self.handles.views.now_ms()).values() {
            let mine = seen.iter().find(|seen| seen.lease_left_ms.is_none()).map(|seen| seen.circuit.state);
            own.iter_mut().filter(|(state, _)| mine == Some(*state)).for_each(|(_, count)| *count += 1);
            let is_trip = |state: CircuitState| state > CircuitState::Failing;
            heard += i64::from(seen.iter().any(|seen| seen.lease_left_ms.is_some() && is_trip(seen.circuit.state)));
        }
        let own: Vec<(Labels, i64)> =
            own.into_iter().map(|(state, count)| (vec![("state", state.as_str().to_owned())], count)).collect();
        gauge(encoder, "weft_circuits", "Endpoints that fail for this node's callers, by state", &own)?;
        gauge(encoder, "weft_circuits_heard", "Endpoints that other nodes keep from", &[(vec![], heard)])
    }

    fn encode_rate_limits(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.handles.views.load();
        let help = "Requests that a RateLimit counted on this node, by what became of them";
        let mut family = encoder.encode_descriptor("weft_rate_limit_requests", help, None, MetricType::Counter)?;
        for limiter in view.rate_limits() {
            let namespace = limiter.key.namespace.as_ref().map(ToString::to_string).unwrap_or_default();
            for (place, counted) in limiter.counted().enumerate() {
                let limit = if counted.limit.is_empty() { place.to_string() } else { counted.limit.to_owned() };
                for (outcome, value) in [("passed", counted.passed), ("limited", counted.limited)] {
                    let labels: Labels = vec![
                        ("namespace", namespace.clone()),
                        ("policy", limiter.key.name.clone()),
                        ("limit", limit.clone()),
                        ("outcome", outcome.to_owned()),
                    ];
                    ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn encode_experiments(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.handles.views.load();
        let labels = |experiment: &Experiment| {
            let namespace = experiment.key.namespace.as_ref().map(ToString::to_string).unwrap_or_default();
            vec![("namespace", namespace), ("experiment", experiment.key.name.clone())]
        };
        let help = "Requests and connections of this node's callers to which a FaultExperiment did its fault";
        let mut faults = encoder.encode_descriptor("weft_experiment_faults", help, None, MetricType::Counter)?;
        for experiment in view.all_experiments() {
            ConstCounter::new(experiment.hits()).encode(faults.encode_family(&labels(experiment))?)?;
        }
        let now_unix_ms = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64;
        let is_running = |experiment: &Experiment| experiment.phase(now_unix_ms) == Phase::Running;
        let running: Vec<(Labels, i64)> =
            view.all_experiments().map(|experiment| (labels(experiment), is_running(experiment).into())).collect();
        gauge(encoder, "weft_experiment_running", "1 while a FaultExperiment runs on this node", &running)
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, values: &[(Labels, i64)]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_and_what_was_left_out_is_told() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        let written = (0..100).filter(|_| limit.allow(start).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(limit.allow(start + Duration::from_secs(9)), None);
        assert_eq!(limit.allow(start + Duration::from_secs(10)), Some(91));
        assert_eq!(limit.allow(start + Duration::from_secs(10)), Some(0));
    }
}
