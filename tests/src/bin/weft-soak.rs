//! A small mesh under load for as long as is asked, while its documents change, its endpoints restart and its
//! certificates are renewed. No request may fail, and memory, file descriptors and tasks may not grow. Wants root.
#![forbid(unsafe_code)]

use std::{
    fmt,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use nix::sys::signal::Signal;
use weft_tests::lab::{Lab, Load, OUTBOUND, PATIENCE, Process, origin, wait_for};

const HOSTS: usize = 3;
/// Connections and streams of the caller that speaks HTTP/2.
const HTTP2: [&str; 4] = ["-c", "4", "-m", "8"];
/// A load's report holds every request, so it is ended, and the next begun, this often.
const LOAD: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(5);
/// By how much what is used may tend to grow from the second quarter's begin to the end. A leak of 8 bytes a request is
/// more within half an hour.
const TREND: Usage = Usage { memory_kib: 2 * 1024, descriptors: 16, tasks: 16 };
/// By how much the last quarter may be above the second. The buffers of a burst may stay, once.
const STEP_UP: Usage = Usage { memory_kib: 8 * 1024, descriptors: 64, tasks: 64 };

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Requests per second over HTTP/1.1; a tenth of it is sent over HTTP/2.
    #[arg(long, default_value_t = 500)]
    rate: u32,
}

/// What a node uses at a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    /// Of memory that is its own. Pages of the program come and go as the kernel likes.
    memory_kib: u64,
    descriptors: u64,
    tasks: u64,
}

impl Usage {
    fn of(lab: &mut Lab, i: usize) -> Self {
        let process = format!("/proc/{}", lab.host_mut(i).node().pid());
        let status = std::fs::read_to_string(format!("{process}/status")).expect("the node runs");
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        Self {
            memory_kib: own.and_then(|kib| kib.trim().parse().ok()).expect("Linux tells it"),
            descriptors: std::fs::read_dir(format!("{process}/fd")).expect("the node runs").count() as u64,
            tasks: lab.host(i).metric("weft_tasks", &[]) as u64,
        }
    }

    /// The means of what was seen.
    fn mean(seen: &[Self]) -> Self {
        let mean = |of: fn(&Self) -> u64| seen.iter().map(of).sum::<u64>() / seen.len().max(1) as u64;
        Self { memory_kib: mean(|u| u.memory_kib), descriptors: mean(|u| u.descriptors), tasks: mean(|u| u.tasks) }
    }

    /// By how much it tends to grow from the first to the last.
    fn trend(seen: &[Self]) -> Self {
        let trend = |of: fn(&Self) -> u64| trend(&seen.iter().map(of).collect::<Vec<_>>());
        Self { memory_kib: trend(|u| u.memory_kib), descriptors: trend(|u| u.descriptors), tasks: trend(|u| u.tasks) }
    }

    fn minus(&self, other: &Self) -> Self {
        Self {
            memory_kib: self.memory_kib.saturating_sub(other.memory_kib),
            descriptors: self.descriptors.saturating_sub(other.descriptors),
            tasks: self.tasks.saturating_sub(other.tasks),
        }
    }

    fn is_within(&self, limit: &Self) -> bool {
        self.memory_kib <= limit.memory_kib && self.descriptors <= limit.descriptors && self.tasks <= limit.tasks
    }
}

/// How much values grow from the first to the last, by the median of the slopes between all pairs of them (Theil and
/// Sen): what happens once, as when a burst needs buffers, is no trend. None if they fall.
fn trend(values: &[u64]) -> u64 {
    let slope = |i: usize, j: usize| (values[j] as f64 - values[i] as f64) / (j - i) as f64;
    let mut slopes: Vec<f64> = (0..values.len()).flat_map(|j| (0..j).map(move |i| slope(i, j))).collect();
    slopes.sort_by(f64::total_cmp);
    let median = slopes.get(slopes.len() / 2).copied().unwrap_or_default();
    (median * values.len() as f64).max(0.0) as u64
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.memory_kib as f64 / 1024.0;
        write!(f, "{mib:6.1} MiB {:4} fds {:4} tasks", self.descriptors, self.tasks)
    }
}

/// An endpoint that is restarted now and then.
struct Twin {
    host: usize,
    version: &'static str,
    port: &'static str,
    process: Option<Process>,
}

impl Twin {
    fn start(&mut self, lab: &Lab) {
        let listen = format!("127.0.0.1:{}", self.port);
        let options = ["--service", "echo", "--version", self.version, "--port", "8080", "--target-port", self.port];
        let command = [&*origin(), "--listen", &listen, "--name", self.version];
        self.process = Some(lab.host(self.host).start_run(&options, &command));
    }

    fn restart(&mut self, lab: &Lab) {
        let mut process = self.process.take().expect("it was started");
        process.signal(Signal::SIGTERM);
        process.wait(PATIENCE).expect("weft run ends");
        self.start(lab);
    }
}

/// Requests so far.
#[derive(Default)]
struct Counts {
    sent: usize,
    failed: usize,
}

impl Counts {
    fn add(&mut self, load: Load) {
        let report = load.finish(0);
        let failures = report.failures();
        self.sent += report.exchanges.len();
        self.failed += failures.len();
        failures.iter().take(3).for_each(|failure| eprintln!("failed: {failure:?}"));
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut lab = Lab::new(HOSTS);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 1);
    let mut twins = [
        Twin { host: 1, version: "v2", port: "9082", process: None },
        Twin { host: 2, version: "v3", port: "9083", process: None },
        Twin { host: 2, version: "v4", port: "9084", process: None },
    ];
    twins.iter_mut().for_each(|twin| twin.start(&lab));
    lab.wait_healthy(0, "echo", 4);

    let length = Duration::from_secs(args.minutes * 60);
    let seconds = length.as_secs().to_string();
    let per_client = format!("--rps={}", (args.rate / 40).max(1));
    let url = format!("http://{OUTBOUND}/");
    let mut http2 = lab.host(0).command("h2load");
    http2.args(["-D", &seconds, &per_client, "-H", ":authority: echo"]).args(HTTP2).arg(&url);
    let http2 = Process::start_piped(&mut http2, &lab.file("h2load.log", ""));
    let (start, mut load_began) = (Instant::now(), Instant::now());
    let mut load = lab.host(0).load("echo", args.rate);
    let mut counts = Counts::default();
    let mut seen: [Vec<Usage>; HOSTS] = Default::default();
    let (mut changes, mut restarts, mut renewals) = (0, 0, 0);
    for step in 0.. {
        let next = STEP * (step + 1);
        let elapsed = start.elapsed();
        if next > length {
            break;
        }
        // The pace of the run: nothing is waited for here.
        std::thread::sleep(next.saturating_sub(elapsed));
        let file = lab.file("echo.yaml", &documents(step));
        lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
        changes += 1;
        if step % 4 == 1 {
            twins[step as usize / 4 % twins.len()].restart(&lab);
            lab.wait_healthy(0, "echo", 4);
            restarts += 1;
        }
        if step % 6 == 2 {
            let i = step as usize / 6 % HOSTS;
            let issued = |lab: &Lab| lab.host(i).metric("weft_certificates_total", &["issued"]);
            let before = issued(&lab);
            lab.host(i).admin("POST", "/debug/certificates/renew").ok();
            wait_for("new certificates", PATIENCE, || (issued(&lab) >= before + 2.0).then_some(()));
            renewals += 1;
        }
        (0..HOSTS).for_each(|i| seen[i].push(Usage::of(&mut lab, i)));
        if load_began.elapsed() >= LOAD {
            let following = lab.host(0).load("echo", args.rate);
            counts.add(std::mem::replace(&mut load, following));
            load_began = Instant::now();
            let last: Vec<String> = seen.iter().filter_map(|seen| Some(seen.last()?.to_string())).collect();
            let minute = start.elapsed().as_secs() / 60;
            println!("{minute:3} min: {} sent, {} failed | {}", counts.sent, counts.failed, last.join(" | "));
        }
    }
    counts.add(load);
    let http2 = http2.finish("", PATIENCE);
    let http2 = http2.lines().find(|line| line.starts_with("requests:")).unwrap_or("requests: h2load told none");
    println!("HTTP/1.1: {} sent, {} failed", counts.sent, counts.failed);
    println!("HTTP/2: {http2}");
    println!("{changes} changes of documents, {restarts} restarts of endpoints, {renewals} renewals of certificates");
    let mut is_well = counts.failed == 0 && http2.contains(" 0 failed, 0 errored, 0 timeout");
    for (i, seen) in seen.iter().enumerate() {
        let quarter = seen.len() / 4;
        let (before, after) = (Usage::mean(&seen[quarter..2 * quarter]), Usage::mean(&seen[seen.len() - quarter..]));
        let trend = Usage::trend(&seen[quarter..]);
        let has_grown = !trend.is_within(&TREND) || !after.minus(&before).is_within(&STEP_UP);
        is_well &= !has_grown;
        println!(
            "host-{}: second quarter {before} | last quarter {after} | trend {trend}{}",
            i + 1,
            if has_grown { " GROWN" } else { "" }
        );
    }
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ever different ones.
fn documents(step: u32) -> String {
    let (one, other) = (step % 101, 100 - step % 101);
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: echo }}
spec:
  host: echo
  trafficPolicy: {{ loadBalancer: {{ simple: {balancer} }} }}
  subsets:
  - {{ name: old, labels: {{ version: v1 }} }}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: echo }}
spec:
  hosts: [echo]
  http:
  - timeout: {timeout}s
    route:
    - {{ destination: {{ host: echo, subset: old }}, weight: {one} }}
    - {{ destination: {{ host: echo }}, weight: {other} }}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: echo-{which} }}
spec:
  action: DENY
  rules:
  - to: [{{ operation: {{ paths: [/forbidden-{step}] }} }}]
",
        balancer = if step.is_multiple_of(2) { "LEAST_REQUEST" } else { "ROUND_ROBIN" },
        timeout = 5 + step % 7,
        which = step % 5,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_all_the_time_is_a_trend_and_what_grows_once_is_none() {
        let leak: Vec<u64> = (0..270).map(|i| 36_000 + 20 * i + i % 7).collect();
        assert!((5_300..5_500).contains(&trend(&leak)), "{}", trend(&leak));
        let slow_leak: Vec<u64> = (0..270).map(|i| 36_000 + 10 * i + 500 * u64::from(i % 20 == 0)).collect();
        assert!(trend(&slow_leak) > TREND.memory_kib);
        let step: Vec<u64> = (0..270).map(|i| 36_000 + 2_300 * u64::from(i > 100) + i % 7).collect();
        assert!(trend(&step) < 200, "{}", trend(&step));
        let falls: Vec<u64> = (0..100).map(|i| 1_000 - i).collect();
        assert_eq!([trend(&falls), trend(&[]), trend(&[1])], [0; 3]);
    }
}
