//! Runs meshes of one seed after the other, until one breaks a rule.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use weft_sim::run::{run, run_with_calls};

/// Run simulated meshes, each with the faults that its seed decides
#[derive(Parser)]
struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Nodes call each other, and share their circuits
    #[arg(long)]
    calls: bool,
    /// Go on after a seed that fails
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (mut failed, mut state, mut standings, mut circuits) = (0, Vec::new(), Vec::new(), Vec::new());
    let run = if args.calls { run_with_calls } else { run };
    for seed in args.first..args.first + args.seeds {
        match run(seed) {
            Ok(healed) => {
                state.push(healed.state);
                standings.push(healed.standings);
                circuits.push(healed.circuits);
            }
            Err(broken) => {
                failed += 1;
                if !args.keep_going {
                    println!("last events:");
                    broken.events.iter().for_each(|event| println!("  {event}"));
                }
                println!("seed {seed} at {:.3} s: {}", broken.at.as_secs_f64(), broken.what);
                if !args.keep_going {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    println!("{} of {} seeds hold", args.seeds - failed, args.seeds);
    println!("after the last fault, same facts and documents: {}", spread(&mut state));
    println!("after the last fault, same standings:           {}", spread(&mut standings));
    if args.calls {
        println!("after that, all endpoints in use:               {}", spread(&mut circuits));
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: f64| times.get(((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1)));
    let seconds = |part| at(part).map_or(0.0, |time: &Duration| time.as_secs_f64());
    format!("p50 {:.1} s, p99 {:.1} s, longest {:.1} s", seconds(0.5), seconds(0.99), seconds(1.0))
}
