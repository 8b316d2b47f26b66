//! Prints what large meshes take. The tables go into `docs/scale.md`.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use weft_sim::{
    fleet::Fleet,
    stories::{cold_start, heal, starved},
    world::Broken,
};

/// Measure large meshes in the simulator
#[derive(Parser)]
struct Args {
    /// Simulated hours with nodes that are starved of their processor
    #[arg(long, default_value_t = 24)]
    hours: u64,
    /// Facts that are spread over each fleet
    #[arg(long, default_value_t = 20)]
    facts: usize,
}

const HOUR: Duration = Duration::from_secs(3_600);

fn main() -> ExitCode {
    let args = Args::parse();
    flood(args.facts);
    match stories(args.hours) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            println!("a bar is missed");
            ExitCode::FAILURE
        }
        Err(broken) => {
            broken.events.iter().for_each(|event| println!("  {event}"));
            println!("at {:.3} s: {}", broken.at.as_secs_f64(), broken.what);
            ExitCode::FAILURE
        }
    }
}

fn flood(facts: usize) {
    println!("One fact to all, one region, by flood alone\n");
    println!(
        "| nodes | dead, unknown | p50 | p99 | last | live nodes missed | links | messages per node | bytes per node | CPU per node |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (size, dead) in [(100, 0), (1_000, 0), (1_000, 5), (10_000, 0), (10_000, 5)] {
        let mut fleet = Fleet::new(size, dead, 1);
        let spread = fleet.spread(facts);
        let at = |part: f64| {
            let last = spread.times.len().saturating_sub(1);
            spread.times.get(((spread.times.len() as f64 * part) as usize).min(last)).map_or(0.0, |t| millis(*t))
        };
        let per_node = |count: f64| count / (size * facts) as f64;
        println!(
            "| {size} | {dead} % | {:.1} ms | {:.1} ms | {:.1} ms | {} | {:.1} | {:.2} | {:.0} | {:.2} ms |",
            at(0.5),
            at(0.99),
            at(1.0),
            spread.missed,
            fleet.mean_links(),
            per_node(spread.messages as f64),
            per_node(spread.bytes as f64),
            per_node(millis(spread.cpu)),
        );
    }
}

/// Whether every bar was met.
fn stories(hours: u64) -> Result<bool, Broken> {
    println!("\n| what | took | bar |");
    println!("|---|---|---|");
    let mut met = true;
    let mut row = |what: &str, took: Duration, bar: Duration| {
        met &= took <= bar;
        println!("| {what} | {:.1} s | {} s |", took.as_secs_f64(), bar.as_secs());
    };
    let (minute, ten) = (Duration::from_secs(60), Duration::from_secs(10));
    row("3 and 2 nodes, parted for a minute: same facts and documents", heal(5, minute, 1)?, ten);
    row("50 and 50 nodes, parted for a minute: same facts and documents", heal(100, minute, 1)?, ten);
    row("4 and 4 nodes, parted for 72 h: same facts and documents", heal(8, 72 * HOUR, 20)?, minute);
    let (known, alive) = cold_start(300)?;
    row("300 nodes start on one seed: each has the facts of all", known, Duration::from_secs(30));
    row("and holds all for alive", alive, Duration::from_secs(30));
    let starved = starved(20, HOUR * u32::try_from(hours).unwrap_or(u32::MAX))?;
    println!(
        "\n{hours} h, one of 20 nodes stands still for 2 s, {} times: no endpoint removed; {} verdicts of a failure, each taken back",
        starved.spells, starved.demoted
    );
    Ok(met)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
