//! `weft demo`: a mesh of five hosts on this machine, with bookinfo in it.
//!
//! The demo is a user like any other: it starts child processes of this very binary, gives them `node.yaml` files and
//! speaks to them by the command line and by HTTP. Nothing here reaches into a node.

pub(crate) mod bookinfo;
mod check;
mod http_call;
mod load;
mod mesh;
mod plan;
mod processes;
mod tally;

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    path::PathBuf,
    time::Duration,
};

use anyhow::ensure;
use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use self::{
    check::Evidence,
    load::{Load, Visitor},
    mesh::Mesh,
    plan::{FIRST, HOSTS, PAGE_PORT, SERVICE_PORT},
    tally::LiveLine,
};

/// How long `--check` drives its load when `--duration` does not say.
const CHECK_DURATION: Duration = Duration::from_secs(10);

/// Arguments of `weft demo`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Check for some seconds that the routes are really followed, print what was seen, exit 0 only if they are
    #[arg(long)]
    pub(crate) check: bool,
    /// Keep keys, logs and documents of the demo in this new or empty directory [default: a temporary one]
    // Not `--dir`, which is a node's data directory and may come from the environment.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// End after this time, such as 30s [default: on Ctrl-C; with --check after 10s]
    #[arg(long, value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,
}

fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    crate::config::duration(text).ok_or("write 500ms, 30s or 2m")
}

/// Runs the demo until Ctrl-C, SIGTERM or its duration's end, and leaves no process behind.
///
/// # Errors
/// A port is taken, a step of coming up fails, a process of the demo ends by itself, or a check does not pass.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut mesh = Mesh::new(args.keep.clone())?;
    let outcome = tokio::select! {
        outcome = play(&mut mesh, &args) => outcome,
        _ = interrupt.recv() => stopped(&args),
        _ = terminate.recv() => stopped(&args),
        _ = hangup.recv() => stopped(&args),
    };
    if stdout().is_terminal() && !args.check {
        // The live line has no end of its own.
        let _ = writeln!(stdout());
    }
    // Blocks for as long as the processes take to end; nothing else is left to run.
    drop(mesh);
    outcome
}

/// Being told to stop is how a demo ends, but no way for a check to pass.
fn stopped(args: &DemoArgs) -> anyhow::Result<()> {
    ensure!(!args.check, "the check was stopped before it was done");
    Ok(())
}

async fn play(mesh: &mut Mesh, args: &DemoArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    // Standard output begins with the console's address; what leads there is said beside it.
    mesh.bring_up(|step| {
        let _ = writeln!(stderr(), "weft demo: {step}");
    })
    .await?;
    let _ = writeln!(stderr(), "weft demo: up after {:.1} s", started.elapsed().as_secs_f64());
    let load = Load::start(FIRST).await?;
    if args.check {
        return check(mesh, &load, args.duration.unwrap_or(CHECK_DURATION)).await;
    }
    introduce(mesh, mesh.console().await?.trim())?;
    match args.duration {
        None => watch(mesh, &load).await,
        // Its end is the demo's.
        Some(duration) => timeout(duration, watch(mesh, &load)).await.unwrap_or(Ok(())),
    }
}

fn introduce(mesh: &Mesh, console: &str) -> std::io::Result<()> {
    let weft = mesh.weft().display();
    let address = FIRST.address;
    let dir = mesh.host_dir(FIRST);
    let dir = dir.display();
    let documents = mesh.documents();
    let route = documents.join("virtual-service-reviews.yaml");
    let route = route.display();
    let proxy = FIRST.outbound();
    writeln!(
        stdout(),
        "{console}   the console: the whole mesh, live; signs in once
http://{address}:{PAGE_PORT}/productpage   through the mesh; sign in as jason for reviews v2, with black stars

Try next:
  {weft} members --dir {dir}
  {weft} services --dir {dir}
  {weft} endpoints reviews --dir {dir}
  {weft} status --dir {dir}
  {weft} console --dir {dir}
  http_proxy=http://{proxy} curl http://reviews:{SERVICE_PORT}/reviews/0
  http_proxy=http://{proxy} curl -H 'end-user: jason' http://reviews:{SERVICE_PORT}/reviews/0
  edit the weights in {route}, then
  {weft} apply -f {route} --dir {dir}

Ctrl-C ends it all.
"
    )
}

/// Prints the live line: rewritten each second on a terminal, else a new one every 5 s.
async fn watch(mesh: &mut Mesh, load: &Load) -> anyhow::Result<()> {
    let terminal = stdout().is_terminal();
    let mut tick = interval(Duration::from_secs(if terminal { 1 } else { 5 }));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tick.tick().await;
        mesh.all_alive()?;
        let members = mesh.members_alive().await.ok();
        let line = LiveLine { members, expected: HOSTS.len(), recent: load.tally().recent(Instant::now()) };
        let mut out = stdout().lock();
        if terminal {
            // To the line's start, and clear it.
            write!(out, "\r\x1b[2K{line}")?;
        } else {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
    }
}

async fn check(mesh: &mut Mesh, load: &Load, duration: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + duration;
    let (reviews, jasons_reviews) = check::ask_reviews(&Visitor::anonymous(FIRST)).await;
    tokio::time::sleep_until(end).await;
    mesh.all_alive()?;
    let members = mesh.members_alive().await?;
    let (pages, jasons_pages) = {
        let tally = load.tally();
        (tally.anonymous.clone(), tally.jason.clone())
    };
    let evidence = Evidence { members, expected_members: HOSTS.len(), pages, jasons_pages, reviews, jasons_reviews };
    let checks = check::judge(&evidence);
    let mut out = stdout().lock();
    for check in &checks {
        writeln!(out, "{check}")?;
    }
    let failed = checks.iter().filter(|check| !check.passed).count();
    ensure!(failed == 0, "{failed} of {} checks failed: the lines with ✗ say what was seen instead", checks.len());
    Ok(())
}
