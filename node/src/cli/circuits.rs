//! `weft circuits`: which endpoints somebody in the mesh keeps from, and who.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::{
    Common,
    client::Client,
    output::{age, data, line},
};
use crate::admin::circuits::{Circuit, Observation};

/// How often `--watch` asks.
const ASK_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn circuits(common: &Common, watch: bool) -> anyhow::Result<()> {
    let mut printed = None;
    loop {
        let circuits: Vec<Circuit> = Client::connect(&common.dir).await?.get("/api/v1/circuits").await?;
        let states = states(&circuits);
        if printed.as_ref() != Some(&states) {
            if printed.is_some() && common.output.is_for_people() {
                line(format_args!(""))?;
            }
            print(common, &circuits)?;
            printed = Some(states);
        }
        if !watch {
            return Ok(());
        }
        sleep(ASK_EVERY).await;
    }
}

/// What is worth printing anew when it changes: not how long leases last.
fn states(circuits: &[Circuit]) -> Vec<String> {
    let seen = |seen: &Observation| format!("{} {}", seen.node, seen.state);
    let circuit = |circuit: &Circuit| {
        let seen: Vec<String> = circuit.seen.iter().map(seen).collect();
        format!("{} {} {}", circuit.endpoint, circuit.standing, seen.join(","))
    };
    circuits.iter().map(circuit).collect()
}

fn print(common: &Common, circuits: &[Circuit]) -> anyhow::Result<()> {
    if circuits.is_empty() && common.output.is_for_people() {
        line(format_args!("nobody keeps from any endpoint"))?;
        return Ok(());
    }
    let header = ["ENDPOINT", "HERE", "SEEN BY", "STATE", "CAUSE", "FAILURES", "SINCE", "UNTIL", "LEASE"];
    data(&common.output, &circuits, &header, |circuits| {
        let rows = circuits.iter().flat_map(|circuit| circuit.seen.iter().map(move |seen| row(circuit, seen)));
        rows.collect()
    })
}

fn row(circuit: &Circuit, seen: &Observation) -> Vec<String> {
    let now_millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    let seconds = |millis: u64| millis.div_ceil(1_000);
    vec![
        circuit.endpoint.clone(),
        circuit.standing.clone(),
        if seen.this_node { format!("{} (this node)", seen.node) } else { seen.node.clone() },
        seen.state.clone(),
        seen.cause.clone(),
        seen.failures.to_string(),
        age(now_millis.saturating_sub(seen.since_unix_millis) / 1_000),
        if seen.left_millis == 0 { String::new() } else { age(seconds(seen.left_millis.into())) },
        seen.lease_left_millis.map_or_else(String::new, |left| age(seconds(left))),
    ]
}
