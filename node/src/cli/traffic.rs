//! `weft stat`, `weft edges`, `weft graph`: who calls whom in the mesh, how often and how well.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    Common, Scope,
    client::Client,
    output::{Format, data, line, print, printable},
};
use crate::{
    admin::traffic::{Traffic, window},
    traffic::{
        Row,
        graph::Graph,
        select::{Kind, Resource, Selection, Stat},
        table::{Width, edge_header, edge_row, stat_header, stat_row},
    },
};

/// How often `--watch` asks.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Which traffic, and of when.
#[derive(Args, Clone)]
pub(super) struct Wanted {
    /// Only what comes from this: NAME, NAME.NAMESPACE, workload/NAME or ns/NAME.
    #[arg(long, value_name = "X")]
    from: Option<Resource>,
    /// Only what goes to this: NAME, NAME.NAMESPACE, svc/NAME, workload/NAME or ns/NAME.
    #[arg(long, value_name = "X")]
    to: Option<Resource>,
    /// Of how long ago rates are made: 1s to 1m. A node that has just started knows less.
    #[arg(long, default_value = "10s", value_parser = window_of, value_name = "TIME")]
    window: String,
    #[command(flatten)]
    scope: Scope,
}

fn window_of(text: &str) -> Result<String, String> {
    window(Some(text)).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl Wanted {
    pub(super) async fn ask(&self, common: &Common) -> anyhow::Result<Traffic> {
        let path = format!("/api/v1/traffic?window={}", self.window);
        Client::connect(&common.dir).await?.get(&path).await
    }

    pub(super) fn window(&self) -> &str {
        &self.window
    }

    pub(super) fn selection(&self, kind: Option<Kind>, name: Option<String>) -> Selection {
        // All namespaces, where namespaces are asked for.
        let namespace = self.scope.namespace().filter(|_| kind != Some(Kind::Namespace)).map(ToString::to_string);
        Selection { namespace, name, from: self.from.clone(), to: self.to.clone() }
    }

    pub(super) fn is_of_all_namespaces(&self) -> bool {
        self.scope.namespace().is_none()
    }
}

/// `KIND` or `KIND/NAME`.
#[derive(Clone, Debug)]
pub(super) struct What {
    kind: Kind,
    name: Option<String>,
}

fn what(text: &str) -> Result<What, String> {
    let (kind, name) = match text.split_once('/') {
        Some((_, "")) => return Err(format!("{text:?} names nothing after the slash")),
        Some((kind, name)) => (kind, Some(name.to_owned())),
        None => (text, None),
    };
    Ok(What { kind: kind.parse()?, name })
}

#[derive(Args)]
pub(super) struct StatArgs {
    /// svc, workload or ns; or KIND/NAME.
    #[arg(default_value = "svc", value_name = "KIND", value_parser = what)]
    what: What,
    /// Only the one of this name.
    name: Option<String>,
    #[command(flatten)]
    wanted: Wanted,
    /// Print it again each second, until Ctrl-C.
    #[arg(long, short)]
    watch: bool,
}

#[derive(Args)]
pub(super) struct EdgesArgs {
    /// Only those that touch svc, workload or ns; or KIND/NAME.
    #[arg(value_name = "KIND", value_parser = what)]
    what: Option<What>,
    /// Only the one of this name.
    #[arg(requires = "what")]
    name: Option<String>,
    #[command(flatten)]
    wanted: Wanted,
    /// Print them again each second, until Ctrl-C.
    #[arg(long, short)]
    watch: bool,
}

#[derive(Args)]
pub(super) struct GraphArgs {
    #[command(flatten)]
    wanted: Wanted,
}

/// Which nodes are missing from an answer, on stderr.
fn tell_missing(traffic: &Traffic) {
    if !traffic.silent.is_empty() {
        let silent = traffic.silent.join(", ");
        eprintln!("weft: these nodes do not answer, and what they see is missing: {}", printable(&silent));
    }
    if traffic.left_out > 0 {
        eprintln!("weft: {} calls are left out for want of room", traffic.left_out);
    }
}

/// Prints a machine's format, when it is printed once or again and again.
fn machine<T: Serialize>(format: &Format, value: &T, watch: bool) -> anyhow::Result<()> {
    match (watch, format) {
        (true, Format::Json) => Ok(line(format_args!("{}", serde_json::to_string(value)?))?),
        _ => data(format, value, &[], |_| Vec::new()),
    }
}

fn width(format: &Format) -> Width {
    if *format == Format::Wide { Width::Wide } else { Width::Usual }
}

pub(super) async fn stat(common: &Common, args: StatArgs) -> anyhow::Result<()> {
    let StatArgs { what: What { kind, name: in_what }, name, wanted, watch } = args;
    let selection = wanted.selection(Some(kind), name.or(in_what));
    let with_namespace = wanted.is_of_all_namespaces() && kind != Kind::Namespace;
    again_and_again(common, watch, async || {
        let traffic = wanted.ask(common).await?;
        let stats = selection.stats(kind, &traffic.rows).map_err(anyhow::Error::msg)?;
        if !common.output.is_for_people() {
            machine(&common.output, &stats, watch)?;
        } else if stats.is_empty() {
            line(format_args!("no traffic in the last {}", wanted.window()))?;
        } else {
            let width = width(&common.output);
            let row = |stat: &Stat| stat_row(stat, width, with_namespace).iter().map(|cell| printable(cell)).collect();
            let header = stat_header(width, with_namespace);
            data(&common.output, &stats, &header, |stats| stats.iter().map(row).collect())?;
        }
        tell_missing(&traffic);
        Ok(())
    })
    .await
}

pub(super) async fn edges(common: &Common, args: EdgesArgs) -> anyhow::Result<()> {
    let EdgesArgs { what, name, wanted, watch } = args;
    let kind = what.as_ref().map(|what| what.kind);
    let selection = wanted.selection(kind, name.or(what.and_then(|what| what.name)));
    again_and_again(common, watch, async || {
        let traffic = wanted.ask(common).await?;
        let edges = selection.edges_of(kind, &traffic.rows);
        if !common.output.is_for_people() {
            machine(&common.output, &edges, watch)?;
        } else if edges.is_empty() {
            line(format_args!("no traffic in the last {}", wanted.window()))?;
        } else {
            let width = width(&common.output);
            let row = |edge: &&Row| edge_row(edge, width).iter().map(|cell| printable(cell)).collect();
            data(&common.output, &edges, &edge_header(width), |edges| edges.iter().map(row).collect())?;
        }
        tell_missing(&traffic);
        Ok(())
    })
    .await
}

pub(super) async fn graph(common: &Common, GraphArgs { wanted }: GraphArgs) -> anyhow::Result<()> {
    let traffic = wanted.ask(common).await?;
    let graph = Graph::of(&wanted.selection(None, None).edges_of(None, &traffic.rows));
    match &common.output {
        Format::Dot | Format::Table | Format::Wide => print(&printable_lines(&graph.dot()))?,
        Format::Mermaid => print(&printable_lines(&graph.mermaid()))?,
        format => machine(format, &graph, false)?,
    }
    tell_missing(&traffic);
    Ok(())
}

fn printable_lines(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}

/// Does it once, or each second until it fails; tables with a blank line between.
async fn again_and_again(
    common: &Common,
    watch: bool,
    mut show: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        show().await?;
        if !watch {
            return Ok(());
        }
        sleep(ASK_EVERY).await;
        if common.output.is_for_people() {
            line(format_args!(""))?;
        }
    }
}
