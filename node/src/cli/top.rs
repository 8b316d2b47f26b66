//! `weft top`: the mesh's traffic, live. On a terminal a screen that sorts, filters and follows keys ([`screen`]);
//! elsewhere lines, or JSON, each second.

mod screen;
mod state;

use std::{
    io::{IsTerminal, stdout},
    time::Duration,
};

use clap::Args;
use ratatui::crossterm::event::{self, Event};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use self::state::{Next, Top, View};
use super::{
    Common,
    output::{Format, aligned, line, print},
    traffic::Wanted,
};
use crate::admin::traffic::Traffic;

const ASK_EVERY: Duration = Duration::from_secs(1);
/// Keys that wait to be acted on. More are not pressed by hand.
const KEYS: usize = 32;

#[derive(Args)]
pub(super) struct TopArgs {
    /// What to begin with: services, workloads or edges.
    #[arg(value_enum, default_value = "services")]
    view: View,
    #[command(flatten)]
    wanted: Wanted,
}

pub(super) async fn top(common: &Common, TopArgs { view, wanted }: TopArgs) -> anyhow::Result<()> {
    let top = Top::new(view, wanted.selection(None, None), wanted.is_of_all_namespaces());
    match &common.output {
        Format::Table | Format::Wide if stdout().is_terminal() => on_terminal(common, &wanted, top).await,
        Format::Table | Format::Wide => lines(common, &wanted, &top).await,
        Format::Json => json(common, &wanted).await,
        _ => anyhow::bail!("weft top prints lines, or JSON: -o json"),
    }
}

/// A table each second, for whoever reads on.
async fn lines(common: &Common, wanted: &Wanted, top: &Top) -> anyhow::Result<()> {
    loop {
        let traffic = wanted.ask(common).await?;
        let table = top.table(&traffic);
        print(&aligned(&[vec![table.header], table.rows].concat()))?;
        line(format_args!(""))?;
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// A line each second.
async fn json(common: &Common, wanted: &Wanted) -> anyhow::Result<()> {
    loop {
        let traffic = wanted.ask(common).await?;
        line(format_args!("{}", serde_json::to_string(&traffic)?))?;
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn on_terminal(common: &Common, wanted: &Wanted, mut top: Top) -> anyhow::Result<()> {
    // Before the screen is taken: an error is for the terminal as it is.
    let first = wanted.ask(common).await?;
    let mut terminal = ratatui::try_init()?;
    let shown = follow(common, wanted, &mut top, &mut terminal, first).await;
    ratatui::restore();
    shown
}

async fn follow(
    common: &Common,
    wanted: &Wanted,
    top: &mut Top,
    terminal: &mut ratatui::DefaultTerminal,
    first: Traffic,
) -> anyhow::Result<()> {
    let mut events = terminal_events();
    let mut tick = tokio::time::interval(ASK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    let (mut traffic, mut trouble) = (first, None);
    loop {
        terminal.draw(|frame| screen::draw(frame, top, &traffic, wanted.window(), trouble.as_deref()))?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Key(key)) => if top.press(key) == Next::Quit { return Ok(()) },
                // Of another size, or in front again: it is drawn anew in any case.
                Some(_) => {}
                None => return Ok(()),
            },
            _ = tick.tick() => match wanted.ask(common).await {
                Ok(news) => (traffic, trouble) = (news, None),
                // The node may be on its way back.
                Err(error) => trouble = Some(format!("{error:#}")),
            },
        }
    }
}

/// What the terminal says, read by a thread of its own, which ends with the process.
fn terminal_events() -> mpsc::Receiver<Event> {
    let (send, events) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if send.blocking_send(event).is_err() {
                return;
            }
        }
    });
    events
}
