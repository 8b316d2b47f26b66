//! `weft tap`: requests of the whole mesh as they go by.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use weft_wire::id::NodeName;

use super::{
    Common, Scope,
    client::Client,
    completions,
    documents::{Operator, operator},
    output::{Format, line, printable},
};
use crate::{
    admin::{
        api::Status,
        tap::{self, TapEvent, TapRequest, TapState},
    },
    config,
    tap::{event::Seen, query::TapQuery},
    traffic::{Side, table},
};

/// Longest event, in bytes, that a node may tell.
const MAX_EVENT: usize = 1024 * 1024;

#[derive(Args)]
pub(super) struct TapArgs {
    /// Only requests to this service.
    #[arg(add = completions::services())]
    service: Option<String>,
    /// Only what goes to this: NAME, NAME.NAMESPACE, svc/NAME, workload/NAME or ns/NAME.
    #[arg(long, value_name = "X", conflicts_with = "service")]
    to: Option<String>,
    /// Only what comes from this: NAME, NAME.NAMESPACE, workload/NAME or ns/NAME.
    #[arg(long, value_name = "X")]
    from: Option<String>,
    /// Only what this node tells.
    #[arg(long, value_name = "NAME", add = completions::nodes())]
    node: Option<String>,
    /// Only this one, such as GET.
    #[arg(long)]
    method: Option<String>,
    /// Only paths that begin like this; with * in it, that are like it.
    #[arg(long)]
    path: Option<String>,
    /// Only these: 503, 5xx, 400-499, several with commas; 0 is no response.
    #[arg(long)]
    status: Option<String>,
    /// Only requests with this header: NAME, or NAME:VALUE. Repeatable.
    #[arg(long, value_name = "NAME[:VALUE]")]
    header: Vec<String>,
    /// Show so much of each body, up to 16KiB, as far as secrets in it can be told.
    #[arg(long, default_value = "0", value_parser = size, value_name = "SIZE")]
    body: usize,
    /// Requests per second that each node tells at most; how many were over is told.
    #[arg(long, default_value_t = 100, value_name = "N")]
    max_rps: u32,
    /// Whose word: of the node of the caller (source) or of the called workload (destination).
    #[arg(long, default_value = "source", value_parser = side, value_name = "SIDE")]
    side: Side,
    /// How long, up to 30m.
    #[arg(long = "for", default_value = "5m", value_parser = duration, value_name = "TIME")]
    length: Duration,
    /// Directory of the operator credential (cert.pem, key.pem) [default: DIR/operator where it exists, else the node
    /// signs with its own key, if its role lets it].
    #[arg(long, env = "WEFT_CREDENTIAL", value_name = "DIR")]
    credential: Option<PathBuf>,
    #[command(flatten)]
    scope: Scope,
}

fn size(text: &str) -> Result<usize, String> {
    tap::size(text).map_err(|error| error.to_string())
}

fn side(text: &str) -> Result<Side, String> {
    tap::side(text).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).ok_or_else(|| format!("{text:?} is not a duration: write 30s or 5m"))
}

impl TapArgs {
    fn query(&self) -> TapQuery {
        TapQuery {
            to: self.service.as_ref().map(|service| format!("svc/{service}")).or_else(|| self.to.clone()),
            from: self.from.clone(),
            namespace: self.scope.namespace().map(ToString::to_string),
            node: self.node.clone(),
            method: self.method.clone(),
            path: self.path.clone(),
            status: self.status.clone(),
            header: self.header.clone(),
            body: self.body,
            max_rps: self.max_rps,
            side: self.side,
        }
    }
}

pub(super) async fn tap(common: &Common, args: TapArgs) -> anyhow::Result<()> {
    let show: fn(&Seen) -> anyhow::Result<String> = match &common.output {
        Format::Json => |seen| Ok(serde_json::to_string(seen)?),
        Format::Wide => |seen| Ok(in_full(seen)),
        format if format.is_for_people() => |seen| Ok(in_short(seen)),
        _ => anyhow::bail!("tap prints lines: a short one for each request, with headers with -o wide, or -o json"),
    };
    let mut client = Client::connect(&common.dir).await?;
    let query = args.query();
    let signed = match operator(common, args.credential.as_ref())? {
        Some(Operator { id, chain, key }) => {
            let status: Status = client.get("/api/v1/status").await?;
            let reader: NodeName = status.name.parse()?;
            let mut tap = tap::draft(&query, args.length, reader, id)?;
            tap.chain = chain;
            tap.signature = key.sign(&tap.signed_bytes());
            Some(tap)
        }
        None => None,
    };
    let for_ms = u64::try_from(args.length.as_millis()).unwrap_or(u64::MAX);
    let request = TapRequest { query, for_ms, signed };
    let mut body = client.send(Method::POST, "/api/v1/tap", Some(&request)).await?.into_body();
    let (mut text, mut known) = (Vec::new(), TapState::default());
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(&frame?.into_data().unwrap_or_default());
        anyhow::ensure!(text.len() <= MAX_EVENT, "the node says more at once than is read");
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let said: Vec<u8> = text.drain(..=end).collect();
            let Some(json) = said.strip_prefix(b"data: ") else { continue };
            match serde_json::from_slice(json)? {
                TapEvent::Seen(seen) => line(format_args!("{}", show(&seen)?))?,
                TapEvent::State(state) => {
                    tell(&known, &state);
                    known = state;
                }
            }
        }
    }
    Ok(())
}

/// What has changed about the tap, on stderr.
fn tell(before: &TapState, now: &TapState) {
    if now.silent != before.silent && !now.silent.is_empty() {
        eprintln!(
            "weft: these nodes do not answer, and what they see is missing: {}",
            printable(&now.silent.join(", "))
        );
    }
    for (node, why) in now.refused.iter().filter(|(node, _)| !before.refused.contains_key(*node)) {
        eprintln!("weft: {} shows nothing: {}", printable(node), printable(why));
    }
    if now.missed > before.missed {
        eprintln!("weft: {} requests were more than --max-rps or than fits", now.missed - before.missed);
    }
    if now.ended {
        eprintln!("weft: the tap's time is up");
    }
}

fn in_short(seen: &Seen) -> String {
    let call = &seen.call;
    let time = seen.at.split_once('T').map_or(seen.at.as_str(), |(_, time)| time.trim_end_matches('Z'));
    let status = match (seen.status, seen.grpc_status) {
        (0, _) => "no response".to_owned(),
        (status, Some(grpc)) => format!("{status} grpc {grpc}"),
        (status, None) => status.to_string(),
    };
    let flag = if seen.flag == "-" { String::new() } else { format!(" {}", seen.flag) };
    let text = format!(
        "{time} {} -> {} ({}) {} {} {status}{flag} {} {}/{}",
        table::named(&call.source_namespace, &call.source_workload),
        table::named(&call.service_namespace, &call.service),
        table::named(&call.destination_namespace, &call.destination_workload),
        seen.method,
        seen.path,
        table::milliseconds(seen.duration_ms),
        table::bytes(seen.request_bytes as f64),
        table::bytes(seen.response_bytes as f64),
    );
    printable(&text)
}

fn in_full(seen: &Seen) -> String {
    let mut text = in_short(seen);
    let mut add = |mark: &str, what: &str| text.extend(["\n    ", mark, " ", &printable(what)]);
    add("|", &format!("{} by {}, {} tries, {}", seen.authority, seen.node, seen.attempts, seen.version));
    for (name, value) in &seen.request_headers {
        add(">", &format!("{name}: {value}"));
    }
    for body in seen.request_body.iter().flat_map(|body| body.lines()) {
        add(">", body);
    }
    if let Some(failure) = &seen.failure {
        add("!", failure);
    }
    for (name, value) in seen.response_headers.iter().chain(&seen.trailers) {
        add("<", &format!("{name}: {value}"));
    }
    for body in seen.response_body.iter().flat_map(|body| body.lines()) {
        add("<", body);
    }
    text
}
