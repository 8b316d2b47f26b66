//! `weft events`: what has happened in the mesh.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use tokio::time::sleep;
use weft_policy::date::Date;

use super::{
    Common,
    client::Client,
    output::{Format, aligned, data, line, print, printable},
};
use crate::{
    admin::{
        events::{Timeline, since},
        live::Seen,
    },
    events::{Kind, Told},
};

/// How often `--watch` asks, and how far back: what is told late is told all the same.
const ASK_EVERY: Duration = Duration::from_secs(1);
const LATE: &str = "60s";
const HEADER: [&str; 5] = ["TIME", "KIND", "SUBJECT", "WHAT", "SEEN BY"];

#[derive(Args)]
pub(super) struct EventsArgs {
    /// How far back to look. Each node keeps its latest 2,000 events until it is restarted.
    #[arg(long, default_value = "10m", value_parser = since_of, value_name = "TIME")]
    since: String,
    /// Only events of this kind: member, document, circuit, certificate, denial, drain, actor, tap. Repeatable.
    #[arg(long, value_name = "KIND")]
    kind: Vec<Kind>,
    /// Go on with what happens, until Ctrl-C.
    #[arg(long, short)]
    watch: bool,
}

fn since_of(text: &str) -> Result<String, String> {
    since(Some(text)).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) async fn events(common: &Common, args: EventsArgs) -> anyhow::Result<()> {
    let mut timeline = ask(common, &args, &args.since).await?;
    if !args.watch {
        let nothing = timeline.events.is_empty() && common.output.is_for_people();
        match nothing {
            true => line(format_args!("nothing has happened in the last {}", args.since))?,
            false => data(&common.output, &timeline, &HEADER, |told| told.events.iter().map(row).collect())?,
        }
        tell_silent(&timeline.silent);
        return Ok(());
    }
    let (mut seen, mut silent) = (Seen::default(), Vec::new());
    loop {
        let news = seen.news(std::mem::take(&mut timeline.events));
        match &common.output {
            Format::Json => {
                news.iter().try_for_each(|told| anyhow::Ok(line(format_args!("{}", serde_json::to_string(told)?))?))?;
            }
            format if format.is_for_people() => print(&aligned(&news.iter().map(row).collect::<Vec<_>>()))?,
            _ => anyhow::bail!("--watch prints a table, or a line of JSON for each event: -o json"),
        }
        if silent != timeline.silent {
            tell_silent(&timeline.silent);
            silent = std::mem::take(&mut timeline.silent);
        }
        sleep(ASK_EVERY).await;
        timeline = ask(common, &args, LATE).await?;
    }
}

async fn ask(common: &Common, args: &EventsArgs, since: &str) -> anyhow::Result<Timeline> {
    let path = format!("/api/v1/events?since={since}");
    let mut timeline: Timeline = Client::connect(&common.dir).await?.get(&path).await?;
    timeline.events.retain(|told| args.kind.is_empty() || args.kind.contains(&told.event.kind));
    Ok(timeline)
}

fn tell_silent(silent: &[String]) {
    if !silent.is_empty() {
        let silent = printable(&silent.join(", "));
        eprintln!("weft: these nodes do not answer, and what they have seen is missing: {silent}");
    }
}

fn row(Told { event, nodes }: &Told) -> Vec<String> {
    let time = Date::of(UNIX_EPOCH + Duration::from_millis(event.at)).rfc3339();
    vec![time, event.kind.to_string(), printable(&event.subject), printable(&event.what), printable(&nodes.join(","))]
}
