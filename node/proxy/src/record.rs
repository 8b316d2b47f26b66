//! One record per exchange. It is begun with the request and dropped with the end of the response, whichever way
//! that comes, and writes the metrics and the access log line as it goes: so a caller who hangs up is counted too.

use std::{cell::Cell, error::Error, net::SocketAddr, rc::Rc, sync::Arc, task::Context};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use tokio::time::Instant;
use tracing::warn;
use weft_policy::{
    access_log::{Entry, RequestLine, TraceIds},
    balance::{Cluster, Outcome},
    endpoint::{Endpoint, EndpointAddress, LocalWorkload},
    experiment::Experiment,
    telemetry::Signals,
    trace::{TraceContext, sampled_by_request_id},
};

use crate::{
    body::Upstream,
    config::Limits,
    connection::Load,
    error::{BrokeOff, ProxyError},
    fault,
    grpc::Messages,
    headers::Watched,
    metrics::{Counted, Exchanged, Flag, HttpOutcome, Parties, Refused, Reporter, RequestProtocol},
    overdue::Lent,
    ports::{Caller, Span},
    recheck::Stay,
    tap::{Bodies, Watch},
    upstream,
    worker::Worker,
};

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// gRPC's code UNKNOWN: what a status that is no code of gRPC's is counted as.
const GRPC_UNKNOWN: u8 = 2;

/// The two ends of the caller's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Downstream {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// What has come of a request's body.
pub(crate) struct Received {
    bytes: Cell<u64>,
    load: Rc<Load>,
    /// Only of a gRPC call.
    messages: Option<Rc<Messages>>,
    /// Only where somebody watches.
    bodies: Option<Rc<Bodies>>,
    pub(crate) broke_off: Cell<Option<BrokeOff>>,
}

impl Received {
    fn new(load: Rc<Load>, messages: Option<Rc<Messages>>, bodies: Option<Rc<Bodies>>) -> Self {
        Self { bytes: Cell::new(0), load, messages, bodies, broke_off: Cell::new(None) }
    }

    /// Bytes are kept though they were passed on.
    pub(crate) fn keeps(&self, bytes: u64) {
        self.load.came(bytes);
    }

    pub(crate) fn forgets(&self, bytes: u64) {
        self.load.passed(bytes);
    }

    /// Bytes of the body have come.
    pub(crate) fn data(&self, data: &[u8]) {
        self.add(data.len() as u64);
        if let Some(messages) = &self.messages {
            messages.received(data);
        }
        if let Some(bodies) = &self.bodies {
            bodies.of_request(data);
        }
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.load.passed(bytes);
        self.bytes.set(self.bytes.get() + bytes);
    }
}

/// What is known of an exchange so far. Boxed, because bodies that carry it are moved about.
pub(crate) struct ExchangeRecord(Box<State>);

struct State {
    worker: Rc<Worker>,
    load: Rc<Load>,
    started: Instant,
    parties: Parties,
    protocol: RequestProtocol,
    outcome: HttpOutcome,
    /// The end was seen: anything else is a caller who went away.
    settled: bool,
    is_tunnel: bool,
    received: Option<Rc<Received>>,
    response_bytes: u64,
    /// Tries after the first.
    retries: u32,
    /// Of the trace that the request is part of, if that is recorded: for exemplars.
    trace_id: Option<u128>,
    /// Only of a gRPC call.
    messages: Option<Rc<Messages>>,
    /// Experiments that want to know how it went; mostly none.
    watching: Vec<Arc<Experiment>>,
    /// The cluster and the endpoint that wait for a gRPC call's status, for outlier detection.
    judged: Option<(Arc<Cluster>, Arc<Endpoint>)>,
    /// As whom it is made, once nobody else has to know.
    caller: Option<Arc<Caller>>,
    /// Only between workloads of this node.
    stay: Option<(Stay, Downstream)>,
    /// Only with an access log or traces, or where somebody watches.
    line: Option<Box<Line>>,
    /// Only where somebody watches.
    bodies: Option<Rc<Bodies>>,
    /// Only where a rule writes it into headers.
    watched: Option<Box<Watched>>,
}

/// What only access logs, traces and taps want to know.
pub(crate) struct Line {
    signals: Arc<Signals>,
    /// Whether it is logged.
    is_logged: bool,
    /// Whether its metrics have labels that are worked out where logs are written.
    is_counted_there: bool,
    /// Whether all headers and trailers are kept.
    keeps_heads: bool,
    trace: Option<Trace>,
    watch: Option<Watch>,
    /// As far as it is known. Nothing of it is moved about until it is handed over.
    entry: Entry,
}

/// The span of an exchange.
#[derive(Clone, Copy)]
struct Trace {
    ids: TraceIds,
    parent: Option<u64>,
    is_sampled: bool,
}

/// How an exchange ended, as far as its line does not know it.
pub(crate) struct Ended {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) outcome: HttpOutcome,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// What is left to be counted.
    pub(crate) counted: Option<Box<Counted>>,
}

impl Line {
    /// Of a connection of bytes; `None` where nothing is logged of it.
    pub(crate) fn begin(worker: &Worker, signals: &Arc<Signals>, downstream: Downstream) -> Option<Box<Self>> {
        worker.access_log.takes(signals).then(|| Box::new(Self::new(signals, true, downstream, None)))
    }

    /// Of a request; `None` where it is neither logged nor traced, and nobody watches.
    fn of_request<B>(
        worker: &Worker,
        signals: &Arc<Signals>,
        downstream: Downstream,
        request: &Request<B>,
    ) -> Option<Box<Self>> {
        let is_logged = worker.access_log.takes(signals);
        let is_watched = worker.taps.is_on();
        let is_counted_there = signals.recorded().is_some();
        if !is_logged && !is_watched && !is_counted_there && !signals.tracing.is_on() {
            return None;
        }
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let keeps_heads = signals.needs_heads || is_watched;
        let head = RequestLine::of(method, uri, request.version(), headers, keeps_heads);
        let watch = if is_watched { worker.taps.watch(&head) } else { None };
        let line = Self::new(signals, is_logged, downstream, Some(head));
        Some(Box::new(Self { keeps_heads, watch, is_counted_there, ..line }))
    }

    fn new(signals: &Arc<Signals>, is_logged: bool, downstream: Downstream, request: Option<RequestLine>) -> Self {
        Self {
            signals: signals.clone(),
            is_logged,
            is_counted_there: false,
            keeps_heads: signals.needs_heads,
            trace: None,
            watch: None,
            entry: Entry { request, ..Entry::new(downstream.local, downstream.remote) },
        }
    }

    /// Begins the span of a request that goes on with these headers, and has them say so. Returns its trace, if that is
    /// recorded.
    fn trace(&mut self, context: &TraceContext, headers: &mut HeaderMap) -> Option<u128> {
        let tracing = &self.signals.tracing;
        if !tracing.is_on() {
            return context.recorded();
        }
        let trace = context.parent.map_or_else(|| rand::random::<u128>() | 1, |parent| parent.trace);
        let ids = TraceIds { trace, span: rand::random::<u64>() | 1 };
        let is_sampled = context.sampled.unwrap_or_else(|| {
            let by_id = tracing.samples_by_request_id.then(|| sampled_by_request_id(tracing.sampling, headers));
            by_id.flatten().unwrap_or_else(|| tracing.sampling.includes(rand::random()))
        });
        if tracing.propagates {
            context.write(ids, is_sampled, &tracing.propagators, headers);
        }
        self.trace = Some(Trace { ids, parent: context.parent.map(|parent| parent.span), is_sampled });
        is_sampled.then_some(trace)
    }

    pub(crate) fn server_name(&mut self, sni: impl Into<Arc<str>>) {
        if self.is_logged {
            self.entry.requested_server_name = Some(sni.into());
        }
    }

    /// The identity that the caller proved.
    pub(crate) fn peer(&mut self, id: &Arc<str>) {
        self.entry.peer = Some(id.clone());
    }

    pub(crate) fn route(&mut self, name: &str) {
        if self.is_logged {
            self.entry.route_name = Some(name.to_owned());
        }
    }

    pub(crate) fn cluster(&mut self, cluster: &Cluster) {
        self.entry.upstream.cluster = Some(cluster.name.clone());
    }

    /// The workload of this node that is called.
    pub(crate) fn workload(&mut self, workload: &LocalWorkload) {
        self.entry.upstream.host = Some(workload.address);
        self.entry.upstream.cluster = Some(workload.cluster_name.clone());
        self.entry.upstream.attempts = 1;
    }

    pub(crate) fn endpoint(&mut self, endpoint: &Endpoint) {
        self.entry.upstream.host = Some(endpoint.address.socket());
        self.entry.upstream.is_tls = matches!(endpoint.address, EndpointAddress::Remote { .. });
        self.entry.upstream.attempts += 1;
    }

    /// By which connection the response came.
    pub(crate) fn answered_by<B>(&mut self, response: &Response<B>, local: Option<SocketAddr>) {
        self.entry.upstream.protocol = Some(response.version());
        self.entry.upstream.local = local;
    }

    fn head(&mut self, headers: &HeaderMap) {
        if self.keeps_heads {
            self.entry.response = Some(Box::new(headers.clone()));
        }
    }

    pub(crate) fn detail(&mut self, error: &(dyn Error + 'static)) {
        match error.downcast_ref() {
            Some(ProxyError::Denied(denial)) => self.entry.code_details = Some(denial.details()),
            Some(own) => {
                self.entry.code_details = Some(own.code_details());
                self.entry.failure = Some(with_sources(error));
            }
            None => self.entry.failure = Some(with_sources(error)),
        }
    }

    /// Hands the finished line over.
    pub(crate) fn end(mut self: Box<Self>, worker: &Worker, parties: &Parties, how: Ended) {
        let Ended { started, ended, outcome, received, sent, counted } = how;
        let duration = ended.duration_since(started);
        let span = self.trace.filter(|trace| {
            let is_failure = outcome.is_failure() || (outcome.status == 0 && outcome.flag != Flag::DownstreamGone);
            let is_kept = || worker.tail.borrow_mut().keeps(is_failure, duration, worker.ms_at(ended));
            self.signals.tracing.reports && (trace.is_sampled || is_kept())
        });
        if !self.is_logged && counted.is_none() && span.is_none() && self.watch.is_none() {
            return;
        }
        self.fill(parties, outcome, (received, sent));
        (self.entry.start, self.entry.duration) = (worker.wall_clock_at(started), duration);
        let is_written =
            self.is_logged && counted.is_none() && worker.access_log.write_here(&self.entry, &self.signals);
        if is_written && span.is_none() && self.watch.is_none() {
            return;
        }
        let Self { signals, is_logged, watch, entry, .. } = *self;
        let entry = Arc::new(entry);
        if let Some(Trace { ids, parent, is_sampled }) = span {
            // What has no place is counted by whoever takes it.
            worker.signals.span(Span { ids, parent, is_sampled, entry: entry.clone(), signals: signals.clone() });
        }
        if let Some(watch) = watch {
            watch.end(&entry, parties.service_id());
        }
        if (is_logged && !is_written) || counted.is_some() {
            worker.log(entry, signals, counted);
        }
    }

    /// What is known only at the end, but for the times.
    fn fill(&mut self, parties: &Parties, outcome: HttpOutcome, (received, sent): (u64, u64)) {
        let entry = &mut self.entry;
        entry.is_server = parties.reporter == Reporter::Destination;
        if entry.code_details.is_none() {
            let has_own_answer = entry.until_response.is_none() && outcome.status > 0;
            let details = match outcome.flag {
                Flag::DownstreamGone => Some("downstream_remote_disconnect"),
                _ => has_own_answer.then_some("direct_response"),
            };
            entry.code_details = details.map(str::to_owned);
        }
        (entry.status, entry.grpc_status, entry.flag) = (outcome.status, outcome.grpc_status, outcome.flag.as_str());
        (entry.bytes_received, entry.bytes_sent) = (received, sent);
        (entry.source, entry.destination) = (parties.source.clone(), parties.destination.clone());
        entry.trace = self.trace.map(|trace| trace.ids);
    }
}

impl ExchangeRecord {
    pub(crate) fn begin<B>(
        worker: &Rc<Worker>,
        (reporter, signals): (Reporter, &Arc<Signals>),
        downstream: Downstream,
        load: &Rc<Load>,
        request: &Request<B>,
    ) -> Self {
        let line = Line::of_request(worker, signals, downstream, request);
        let bodies = line.as_ref().and_then(|line| line.watch.as_ref()?.bodies.clone());
        let protocol = if is_grpc(request.headers()) { RequestProtocol::Grpc } else { RequestProtocol::Http };
        load.began();
        Self(Box::new(State {
            worker: worker.clone(),
            load: load.clone(),
            started: Instant::now(),
            parties: Parties::new(reporter),
            protocol,
            outcome: HttpOutcome::default(),
            settled: false,
            is_tunnel: false,
            received: None,
            response_bytes: 0,
            retries: 0,
            trace_id: None,
            messages: (protocol == RequestProtocol::Grpc).then(Rc::default),
            watching: Vec::new(),
            judged: None,
            caller: None,
            stay: None,
            line,
            bodies,
            watched: None,
        }))
    }

    pub(crate) fn started(&self) -> Instant {
        self.0.started
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.0.protocol == RequestProtocol::Grpc
    }

    /// Experiments are told how it ends.
    pub(crate) fn watch(&mut self, watching: Vec<Arc<Experiment>>) {
        self.0.watching = watching;
    }

    pub(crate) fn parties(&mut self) -> &mut Parties {
        &mut self.0.parties
    }

    /// The part of access logs and traces, if there are any.
    pub(crate) fn line(&mut self) -> Option<&mut Line> {
        self.0.line.as_deref_mut()
    }

    pub(crate) fn parties_and_line(&mut self) -> (&mut Parties, Option<&mut Line>) {
        (&mut self.0.parties, self.0.line.as_deref_mut())
    }

    /// The exchange becomes a connection of bytes, which has a record of its own: nothing is written here.
    pub(crate) fn into_tunnel(mut self) -> (Parties, Option<Box<Line>>) {
        self.0.is_tunnel = true;
        (self.0.parties.clone(), self.0.line.take())
    }

    /// Begins the span of a request that goes on with these headers, if there is to be one.
    pub(crate) fn trace(&mut self, headers: &mut HeaderMap) {
        let context = TraceContext::read(headers);
        self.0.trace_id = match self.line() {
            Some(line) => line.trace(&context, headers),
            None => context.recorded(),
        };
    }

    pub(crate) fn request_id(&mut self, id: &HeaderValue) {
        if let Some(request) = self.line().and_then(|line| line.entry.request.as_mut()) {
            request.request_id.get_or_insert_with(|| id.clone());
        }
    }

    /// From here on it is kept what headers of the response may tell of the tries.
    pub(crate) fn watch_tries(&mut self) {
        self.0.watched = Some(Box::default());
    }

    pub(crate) fn watched(&self) -> Option<&Watched> {
        self.0.watched.as_deref()
    }

    /// Envoy's flag of what has come of it so far.
    pub(crate) fn flag_text(&self) -> &'static str {
        self.0.outcome.flag.as_str()
    }

    /// How much of the request's body has come so far.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.0.received.as_ref().map_or(0, |received| received.bytes.get())
    }

    /// The endpoint of the current try.
    pub(crate) fn endpoint(&mut self, cluster: &Cluster, endpoint: &Endpoint) {
        self.0.parties.call(cluster, endpoint);
        if let Some(watched) = &mut self.0.watched {
            watched.endpoint = Some(endpoint.address.socket());
            watched.attempts += 1;
        }
        if let Some(line) = self.line() {
            line.endpoint(endpoint);
        }
    }

    /// Where it is noted what comes of the request's body.
    pub(crate) fn received(&mut self) -> Rc<Received> {
        let State { load, messages, bodies, received, .. } = &mut *self.0;
        let new = || Rc::new(Received::new(load.clone(), messages.clone(), bodies.clone()));
        received.get_or_insert_with(new).clone()
    }

    pub(crate) fn count_refused(&self, reason: Refused) {
        self.0.worker.metrics.shared().count_refused(reason);
    }

    /// The upstream's response head has come.
    pub(crate) fn response_head<B>(&mut self, response: &Response<B>) {
        let started = self.0.started;
        if let Some(line) = self.line() {
            line.entry.until_response = Some(started.elapsed());
        }
        self.answered(response.status().as_u16(), response.headers());
    }

    /// The head that the caller is told.
    pub(crate) fn answered(&mut self, status: u16, headers: &HeaderMap) {
        self.0.outcome.status = status;
        if let Some(line) = self.line() {
            line.head(headers);
        }
        self.grpc_status(Some(headers)); // A response without a body carries its gRPC status in the head.
    }

    pub(crate) fn trailers(&mut self, trailers: Option<&HeaderMap>) {
        if let (Some(line), Some(trailers)) = (self.line(), trailers)
            && line.keeps_heads
        {
            line.entry.trailers = Some(Box::new(trailers.clone()));
        }
        self.grpc_status(trailers);
    }

    fn grpc_status(&mut self, trailers: Option<&HeaderMap>) {
        if self.is_grpc()
            && let Some(status) = trailers.and_then(|trailers| trailers.get(GRPC_STATUS))
        {
            self.0.outcome.grpc_status = Some(grpc_code(status));
        }
    }

    /// Has outlier detection look at a gRPC call's status, when it is known.
    pub(crate) fn judged(&mut self, cluster: &Arc<Cluster>, endpoint: &Arc<Endpoint>) {
        self.0.judged = Some((cluster.clone(), endpoint.clone()));
    }

    pub(crate) fn called_by(&mut self, caller: Option<Arc<Caller>>) {
        self.0.caller = caller;
    }

    /// Has the answer break off when the workload lets the caller in no more.
    pub(crate) fn stays(&mut self, stay: Stay, downstream: Downstream) {
        self.0.stay = Some((stay, downstream));
    }

    /// Judges the request anew, if there is reason to.
    ///
    /// # Errors
    /// The workload lets the caller in no more.
    pub(crate) fn judge(&self) -> Result<(), ProxyError> {
        let State { stay, caller, parties, .. } = &*self.0;
        match (stay, &parties.destination) {
            (Some((stay, downstream)), Some(workload)) => stay.judge(workload, caller.as_deref(), *downstream),
            _ => Ok(()),
        }
    }

    /// Has the task woken when there is reason to judge the request anew.
    pub(crate) fn wait(&self, cx: &Context<'_>) {
        if let Some((stay, _)) = &self.0.stay {
            stay.wait(cx);
        }
    }

    pub(crate) fn add_sent(&mut self, bytes: u64) {
        self.0.response_bytes += bytes;
    }

    /// Bytes of the upstream's response go to the caller.
    pub(crate) fn sent(&mut self, data: &[u8]) {
        self.add_sent(data.len() as u64);
        let State { messages, bodies, worker, parties, line, .. } = &*self.0;
        match messages {
            Some(messages) if line.as_ref().is_some_and(|line| line.is_counted_there) => messages.sent_untold(data),
            Some(messages) => messages.sent(data, || worker.metrics.messages(parties)),
            None => {}
        }
        if let Some(bodies) = bodies {
            bodies.of_response(data);
        }
    }

    /// The request is sent once more.
    pub(crate) fn retried(&mut self) {
        self.0.retries += 1;
    }

    /// Lends what a response comes from, until its time is up.
    pub(crate) fn lend(&self, upstream: Upstream, until: Instant) -> Lent<Upstream> {
        self.0.worker.overdue.lend(upstream, until)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.worker.limits
    }

    /// What the caller's connection costs us.
    pub(crate) fn load(&self) -> &Load {
        &self.0.load
    }

    /// The response is complete, as far as the caller's side can tell.
    pub(crate) fn complete(&mut self) {
        self.0.settled = true;
    }

    /// Something happened to an exchange that goes on.
    pub(crate) fn flag(&mut self, flag: Flag) {
        self.0.outcome.flag = flag;
    }

    /// The exchange failed: in the head, or after it.
    pub(crate) fn fail(&mut self, flag: Flag, error: &(dyn Error + 'static)) {
        self.0.outcome.flag = flag;
        self.0.settled = true;
        if let Some(line) = self.line() {
            line.detail(error);
        }
        if let Some(watched) = &mut self.0.watched {
            watched.fail(error);
        }
    }
}

impl Drop for ExchangeRecord {
    fn drop(&mut self) {
        let request_bytes = self.received_bytes();
        let state = &mut *self.0;
        let ended = Instant::now();
        let duration = ended.duration_since(state.started);
        state.load.ended(duration, !state.settled && !state.is_tunnel);
        if state.is_tunnel {
            return;
        }
        if !state.settled {
            state.outcome.flag = Flag::DownstreamGone;
        }
        if let Some((cluster, endpoint)) = state.judged.take()
            && state.settled
        {
            let status = state.outcome.grpc_status.map(upstream::status_of_grpc);
            let outcome = status.map_or(Outcome::Broke, Outcome::Status);
            upstream::record(&state.worker, &cluster, &endpoint, outcome);
        }
        let (outcome, response_bytes) = (state.outcome, state.response_bytes);
        for experiment in &state.watching {
            // A caller who went away says nothing of the service.
            if state.settled && experiment.observe(outcome.is_failure(), duration, fault::unix_ms()) {
                warn!(experiment = %experiment.key.name, "a FaultExperiment's stop condition is met: it ends here");
            }
        }
        let metrics = &state.worker.metrics;
        let (protocol, line) = (state.protocol, state.line.take());
        let exchanged =
            Exchanged { duration, request_bytes, response_bytes, retries: state.retries, trace_id: state.trace_id };
        let is_counted_there = line.as_ref().is_some_and(|line| line.is_counted_there);
        let counted = is_counted_there.then(|| {
            let messages = state.messages.as_ref().map(|messages| messages.untold()).unwrap_or_default();
            Box::new(Counted { parties: state.parties.clone(), protocol, outcome, exchanged, messages })
        });
        if counted.is_none() {
            if let Some(messages) = &state.messages {
                messages.end(|| metrics.messages(&state.parties));
            }
            metrics.record_http(&state.parties, protocol, outcome, &exchanged);
        }
        if let Some(line) = line {
            let (received, sent) = (request_bytes, response_bytes);
            let how = Ended { started: state.started, ended, outcome, received, sent, counted };
            line.end(&state.worker, &state.parties, how);
        }
    }
}

/// The code in a `grpc-status`.
pub(crate) fn grpc_code(status: &HeaderValue) -> u8 {
    let code = status.to_str().ok().and_then(|text| text.parse().ok()).filter(|code| *code <= 16);
    code.unwrap_or(GRPC_UNKNOWN)
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    // Not application/grpc-web: its clients read HTTP/1.1 statuses.
    rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

/// An error with what caused it, on one line.
pub(crate) fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
