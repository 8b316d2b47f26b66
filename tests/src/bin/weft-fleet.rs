//! Prints what a fleet loses when one endpoint falls ill, with circuits that the mesh shares and with private ones, and how
//! soon a node that never called it keeps from it. Wants root.
#![forbid(unsafe_code)]

use std::{thread, time::Duration};

use clap::Parser;
use weft_tests::fleet::{Failed, Fleet, Plan};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 20)]
    callers: usize,
    /// Of each service.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Requests a second, of each caller to each service.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// For how long one endpoint of each service is ill.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

fn main() {
    let Args { callers, endpoints, rate, seconds } = Args::parse();
    let mut fleet = Fleet::start(Plan { callers, endpoints, rate });
    fleet.fall_ill();
    thread::sleep(Duration::from_secs(seconds));
    fleet.recover();
    let heard = fleet.heard_after();
    let Failed { shared, private } = fleet.finish();
    println!(
        "{callers} callers, {endpoints} endpoints, one of them ill for {seconds} s, {rate} requests/s of each caller"
    );
    println!("failed requests: {shared} where circuits are shared, {private} where they are private");
    let heard = heard.map_or("never".to_owned(), |after| format!("{} ms", after.as_millis()));
    println!("a node that never called it keeps from it after {heard}");
}
