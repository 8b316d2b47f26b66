//! The `overload` actor: looks whether this node's proxy has more to do than it can. The rules are `crate::overload`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use weft_proxy::overload::Pressure;

use crate::{
    overload::Overload,
    supervisor::{Actor, Inbox},
};

/// As often as workers add up what they hold, and a little less.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Clone)]
pub struct Setup {
    pub pressure: Pressure,
    /// Whether it is so. Outlives the actor; the node's record says it.
    pub overloaded: Arc<watch::Sender<bool>>,
}

pub struct OverloadActor(pub Setup);

impl Actor for OverloadActor {
    type Msg = Infallible;

    async fn run(self, inbox: &mut Inbox<Infallible>) -> anyhow::Result<()> {
        let Setup { pressure, overloaded } = self.0;
        let mut overload = Overload::resume(*overloaded.borrow(), Instant::now().into_std());
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(never) => match never {},
                    None => return Ok(()),
                },
                _ = tick.tick() => {}
            }
            let percent = pressure.percent();
            let is_overloaded = overload.look(percent, Instant::now().into_std());
            if overloaded.send_if_modified(|known| std::mem::replace(known, is_overloaded) != is_overloaded) {
                match is_overloaded {
                    true => tracing::warn!(percent, "overloaded: callers are asked to prefer other endpoints"),
                    false => tracing::info!(percent, "no longer overloaded"),
                }
            }
        }
    }
}
