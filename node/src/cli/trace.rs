//! `weft trace` and `weft traces`: what the mesh remembers of requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::{
    Common,
    client::Client,
    completions,
    output::{data, line, printable},
    parse_duration,
};
use crate::{
    admin::traces::{TraceAnswer, TraceQuery},
    traces::{Forwarding, Search, TraceSpan},
};

#[derive(Args)]
pub(super) struct TraceArgs {
    /// A trace's id, or a request's x-request-id; or `doctor`, which names workloads that do not hand on the trace headers
    /// that they get.
    #[arg(value_name = "ID|doctor")]
    id: String,
    /// How far back `doctor` looks.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    since: Duration,
}

#[derive(Args)]
pub(super) struct TracesArgs {
    /// Only requests of or to a service: NAME or NAME.NAMESPACE.
    #[arg(long, add = completions::services())]
    service: Option<String>,
    /// Only failures.
    #[arg(long)]
    error: bool,
    /// Only requests that took as long at least, such as 200ms.
    #[arg(long, value_parser = parse_duration)]
    min: Option<Duration>,
    /// Only requests that began since then, such as 10m.
    #[arg(long, value_parser = parse_duration)]
    since: Option<Duration>,
}

/// A trace in `weft traces`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Summary {
    trace: String,
    /// Microseconds since 1970, and of the longest span.
    start_us: u64,
    duration_us: u64,
    /// Of the earliest span that was found.
    name: String,
    method: String,
    path: String,
    /// The worst of the answers.
    status: u16,
    error: bool,
    /// Found spans, and whose they are.
    spans: usize,
    services: BTreeSet<String>,
}

pub(super) async fn trace(common: &Common, TraceArgs { id, since }: TraceArgs) -> anyhow::Result<()> {
    if id == "doctor" {
        return doctor(common, since).await;
    }
    let found = ask(common, &TraceQuery::Trace { id: id.clone() }).await?;
    warn_of_silent(&found)?;
    if found.spans.is_empty() {
        bail!(
            "no node knows {id}: nodes keep the latest few thousand spans that were sampled, slow or failed; \
             randomSamplingPercentage in a Telemetry has more of them kept"
        );
    }
    if !common.output.is_for_people() {
        return data(&common.output, &found, &[], |_| Vec::new());
    }
    let by_trace = grouped(&found.spans);
    for (trace, spans) in by_trace {
        let services: BTreeSet<&str> = spans.iter().filter_map(|span| span.service.as_deref()).collect();
        let longest = spans.iter().map(|span| span.duration_us).max().unwrap_or_default();
        line(format_args!(
            "trace {}: {} spans of {} services, {}",
            printable(trace),
            spans.len(),
            services.len(),
            millis(longest)
        ))?;
        for (depth, span) in tree(&spans) {
            line(format_args!("{}", row_of_tree(depth, span)))?;
        }
    }
    Ok(())
}

pub(super) async fn traces(common: &Common, arguments: TracesArgs) -> anyhow::Result<()> {
    let TracesArgs { service, error, min, since } = arguments;
    let min_us = min.map_or(0, |min| min.as_micros() as u64);
    let since_us = since.map_or(0, since_us);
    let found = ask(common, &TraceQuery::Search(Search { service, error, min_us, since_us })).await?;
    warn_of_silent(&found)?;
    let mut summaries: Vec<Summary> =
        grouped(&found.spans).into_iter().map(|(trace, spans)| sum_up(trace, &spans)).collect();
    summaries.sort_by_key(|summary| std::cmp::Reverse(summary.start_us));
    let header = ["TIME", "TRACE", "DURATION", "STATUS", "SPANS", "SERVICES", "REQUEST"];
    data(&common.output, &summaries, &header, |summaries| summaries.iter().map(row).collect())
}

async fn doctor(common: &Common, since: Duration) -> anyhow::Result<()> {
    let found = ask(common, &TraceQuery::Forwarding { since_us: since_us(since) }).await?;
    warn_of_silent(&found)?;
    let header = ["WORKLOAD", "NODE", "REQUESTS TO IT", "ITS OWN WITH A TRACE", "WITHOUT", "VERDICT"];
    let judged: Vec<Judged> = found.forwarding.into_iter().map(Judged::of).collect();
    if judged.is_empty() && common.output.is_for_people() {
        line(format_args!("no workload was seen that is called and calls others"))?;
        return Ok(());
    }
    data(&common.output, &judged, &header, |judged| judged.iter().map(Judged::row).collect())
}

#[derive(Debug, Serialize)]
struct Judged {
    #[serde(flatten)]
    seen: Forwarding,
    forwards: bool,
    verdict: String,
}

impl Judged {
    fn of(seen: Forwarding) -> Self {
        let (forwards, verdict) = match (seen.forwarded, seen.lost) {
            (_, 0) => (true, "hands trace headers on".to_owned()),
            (0, _) => (false, "does not hand on traceparent (or b3): its traces end here".to_owned()),
            (_, lost) => (false, format!("{lost} requests have no trace: not all of its calls hand headers on")),
        };
        Self { seen, forwards, verdict }
    }

    fn row(&self) -> Vec<String> {
        let Forwarding { workload, node, inbound, forwarded, lost, .. } = &self.seen;
        vec![
            printable(workload),
            printable(node),
            inbound.to_string(),
            forwarded.to_string(),
            lost.to_string(),
            self.verdict.clone(),
        ]
    }
}

async fn ask(common: &Common, query: &TraceQuery) -> anyhow::Result<TraceAnswer> {
    Client::connect(&common.dir).await?.post("/api/v1/traces", query).await
}

fn warn_of_silent(found: &TraceAnswer) -> anyhow::Result<()> {
    if !found.silent.is_empty() {
        eprintln!("weft: did not answer, so what they know is missing: {}", found.silent.join(", "));
    }
    Ok(())
}

fn since_us(since: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(since).as_micros()).unwrap_or(u64::MAX)
}

fn grouped(spans: &[TraceSpan]) -> BTreeMap<&str, Vec<&TraceSpan>> {
    let mut by_trace: BTreeMap<&str, Vec<&TraceSpan>> = BTreeMap::new();
    for span in spans {
        by_trace.entry(&span.trace).or_default().push(span);
    }
    by_trace
}

fn sum_up(trace: &str, spans: &[&TraceSpan]) -> Summary {
    let first = spans.iter().min_by_key(|span| span.start_us);
    let services = spans.iter().flat_map(|span| [&span.service, &span.peer]).flatten();
    Summary {
        trace: trace.to_owned(),
        start_us: first.map_or(0, |span| span.start_us),
        duration_us: spans.iter().map(|span| span.duration_us).max().unwrap_or_default(),
        name: first.map_or_else(String::new, |span| span.name.clone()),
        method: first.map_or_else(String::new, |span| span.method.clone()),
        path: first.map_or_else(String::new, |span| span.path.clone()),
        status: spans.iter().map(|span| span.status).max().unwrap_or_default(),
        error: spans.iter().any(|span| span.error),
        spans: spans.len(),
        services: services.cloned().collect(),
    }
}

fn row(summary: &Summary) -> Vec<String> {
    let services: Vec<&str> = summary.services.iter().map(String::as_str).collect();
    let time = UNIX_EPOCH + Duration::from_micros(summary.start_us);
    vec![
        weft_policy::date::Date::of(time).rfc3339(),
        printable(&summary.trace),
        millis(summary.duration_us),
        if summary.error { format!("{} error", summary.status) } else { summary.status.to_string() },
        summary.spans.to_string(),
        printable(&services.join(",")),
        printable(&format!("{} {}", summary.method, summary.path)),
    ]
}

/// Children under their parents, each by its time. A span whose parent is not known begins a tree.
fn tree<'s>(spans: &[&'s TraceSpan]) -> Vec<(usize, &'s TraceSpan)> {
    let known: BTreeSet<&str> = spans.iter().map(|span| span.span.as_str()).collect();
    let mut children: BTreeMap<&str, Vec<&'s TraceSpan>> = BTreeMap::new();
    let mut waiting: Vec<(usize, &'s TraceSpan)> = Vec::new();
    for span in spans {
        match span.parent.as_deref().filter(|parent| known.contains(parent) && *parent != span.span) {
            Some(parent) => children.entry(parent).or_default().push(span),
            None => waiting.push((0, span)),
        }
    }
    for of_parent in children.values_mut() {
        of_parent.sort_by_key(|span| std::cmp::Reverse(span.start_us));
    }
    waiting.sort_by_key(|(_, span)| std::cmp::Reverse(span.start_us));
    let mut rows = Vec::new();
    while let Some((depth, span)) = waiting.pop() {
        rows.push((depth, span));
        // Taken out: a circle of parents ends.
        let below = children.remove(span.span.as_str()).unwrap_or_default();
        waiting.extend(below.into_iter().map(|child| (depth + 1, child)));
    }
    rows
}

fn row_of_tree(depth: usize, span: &TraceSpan) -> String {
    let service = span.service.as_deref().unwrap_or("unknown");
    let status = match span.grpc_status {
        Some(code) => format!("gRPC {code}"),
        None => span.status.to_string(),
    };
    let flags = if span.flags == "-" { String::new() } else { format!(" {}", span.flags) };
    let text = format!(
        "{service} {} {} {} {} {status}{flags} {} on {}",
        span.kind,
        if span.kind == "client" { "->" } else { "<-" },
        span.name,
        format_args!("{} {}", span.method, span.path),
        millis(span.duration_us),
        span.node,
    );
    format!("{}{}", "  ".repeat(depth + 1), printable(&text))
}

fn millis(us: u64) -> String {
    format!("{}.{}ms", us / 1_000, us % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: Option<&str>, start_us: u64) -> TraceSpan {
        TraceSpan { span: id.into(), parent: parent.map(str::to_owned), start_us, ..TraceSpan::default() }
    }

    #[test]
    fn spans_stand_under_their_parents() {
        let spans = [
            span("c", Some("b"), 3),
            span("a", Some("elsewhere"), 1),
            span("d", Some("a"), 4),
            span("b", Some("a"), 2),
        ];
        let rows: Vec<_> =
            tree(&spans.iter().collect::<Vec<_>>()).into_iter().map(|(d, s)| (d, s.span.as_str())).collect();
        assert_eq!(rows, [(0, "a"), (1, "b"), (2, "c"), (1, "d")]);
        let own = [span("a", Some("a"), 1)];
        assert_eq!(tree(&own.iter().collect::<Vec<_>>()).len(), 1);
    }

    #[test]
    fn a_trace_is_summed_up_by_its_first_span_and_its_worst_answer() {
        let one = TraceSpan { status: 503, error: true, duration_us: 5, path: "/b".into(), ..span("b", None, 2) };
        let two = TraceSpan { status: 200, duration_us: 1_234, path: "/a".into(), ..span("a", None, 1) };
        let summary = sum_up("t", &[&one, &two]);
        assert_eq!((summary.path.as_str(), summary.status, summary.error, summary.spans), ("/a", 503, true, 2));
        assert_eq!(millis(summary.duration_us), "1.2ms");
    }

    #[test]
    fn who_loses_some_or_all_contexts_is_named() {
        let judge = |forwarded, lost| Judged::of(Forwarding { forwarded, lost, ..Forwarding::default() }).forwards;
        assert_eq!([judge(3, 0), judge(0, 3), judge(3, 1)], [true, false, false]);
    }
}
