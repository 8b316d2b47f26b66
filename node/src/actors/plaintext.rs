//! The `plaintext` actor: looks now and then who is connected to workloads of this host past weft.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    sync::Arc,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::health::HostedSet;
use crate::{
    plaintext::{Connection, Sightings, connections, pause},
    supervisor::{Actor, Inbox},
};

/// Of the network that this process is in.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

#[derive(Clone)]
pub struct Setup {
    pub hosted: watch::Receiver<HostedSet>,
    /// Outlives the actor, and with it what was seen.
    pub seen: Arc<watch::Sender<Sightings>>,
}

pub struct PlaintextActor(pub Setup);

impl PlaintextActor {
    async fn look(&self) -> io::Result<()> {
        let mut ports = BTreeMap::<u16, BTreeSet<_>>::new();
        for (key, hosted) in self.0.hosted.borrow().iter() {
            ports.entry(hosted.service.target_port).or_default().insert(key.clone());
        }
        // Without workloads there is nothing to see, and what was seen runs out all the same.
        let found = if ports.is_empty() { Vec::new() } else { tokio::task::spawn_blocking(read_tables).await?? };
        self.0.seen.send_modify(|seen| seen.observe(Instant::now(), found, &ports));
        Ok(())
    }
}

fn read_tables() -> io::Result<Vec<Connection>> {
    let mut all = Vec::new();
    for table in TABLES {
        match std::fs::read_to_string(table) {
            Ok(text) => all.extend(connections(&text)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

impl Actor for PlaintextActor {
    type Msg = Infallible;

    async fn run(self, inbox: &mut Inbox<Infallible>) -> anyhow::Result<()> {
        let (mut next, mut was_told) = (Instant::now(), false);
        loop {
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(never) => match never {},
                    None => return Ok(()),
                },
                () = sleep_until(next) => {}
            }
            let begun = Instant::now();
            let looked = self.look().await;
            next = Instant::now() + pause(begun.elapsed());
            match looked {
                Ok(()) => was_told = false,
                Err(error) if was_told => tracing::debug!(%error, "cannot look at this host's connections"),
                Err(error) => {
                    was_told = true;
                    tracing::warn!(%error, "cannot look at this host's connections: weft plaintext will not show them");
                }
            }
        }
    }
}
