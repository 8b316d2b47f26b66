//! Prints how soon many real nodes follow what one of them is told, and what they take while nothing happens. Wants root.
#![forbid(unsafe_code)]

use std::{
    fs, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use weft_tests::{
    fleet::time_of_day,
    lab::{Host, Lab, wait_for},
};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// Documents that are applied, and then nodes that are stopped, one after the other.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// For how long nothing happens.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
}

/// After the last node has joined.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// The others' first views after a change, at the latest.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(30);
/// In which unit `/proc` tells processor time.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() {
    let Args { nodes, rounds, idle_seconds } = Args::parse();
    assert!(nodes > rounds + 1, "each round stops another node");
    make_room_for_neighbours(nodes);
    let mut lab = Lab::new(nodes);
    for i in 0..nodes {
        lab.host_mut(i).environment.push(("WEFT_LOG", "warn,weft_node::actors::view=debug"));
    }
    lab.form_mesh();
    // Until what joining made them do is over: this measures, and decides no test.
    thread::sleep(SETTLED_AFTER);

    let before = (0..nodes).map(|i| Taken::by(&mut lab, i)).collect::<Vec<_>>();
    thread::sleep(Duration::from_secs(idle_seconds));
    let after = (0..nodes).map(|i| Taken::by(&mut lab, i)).collect::<Vec<_>>();
    let seconds = idle_seconds as f64;
    let mean = |of: &dyn Fn(&Taken, &Taken) -> f64| {
        before.iter().zip(&after).map(|(before, after)| of(before, after)).sum::<f64>() / nodes as f64
    };
    println!(
        "idle, {nodes} nodes: {:.2} % of a core, {:.1} KB/s out, {:.1} MiB of its own, each",
        mean(&|before, after| (after.ticks - before.ticks) / TICKS_PER_SECOND / seconds * 100.0),
        mean(&|before, after| (after.sent - before.sent) / seconds / 1_000.0),
        mean(&|_, after| after.resident_kib / 1_024.0),
    );

    let mut documents = Vec::new();
    for round in 0..rounds {
        let name = format!("d{round}");
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {name} }}\n\
             spec: {{ hosts: [{name}], http: [{{ timeout: 1s, route: [{{ destination: {{ host: {name} }} }}] }}] }}\n"
        );
        let file = lab.file(&format!("{name}.yaml"), &text);
        let views = views(&lab, 0..nodes);
        let begun = now();
        lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
        documents.extend(followed(&lab, 1..nodes, &views, begun));
    }
    println!("a document, from the command on: in force on all others after {}", Spread(documents));

    let mut facts = Vec::new();
    for round in 0..rounds {
        let stopped = nodes - 1 - round;
        let views = views(&lab, 0..nodes);
        let begun = now();
        lab.host_mut(stopped).stop();
        facts.extend(followed(&lab, 0..stopped, &views, begun));
    }
    println!("a node that is told to stop: out of all others' views after {}", Spread(facts));
}

/// All network namespaces share the kernel's room for addresses of neighbours, which is for a thousand by default: where
/// it is used up, packets are lost.
fn make_room_for_neighbours(nodes: usize) {
    let (file, wanted) = ("/proc/sys/net/ipv4/neigh/default/gc_thresh3", nodes * nodes * 2);
    let room = fs::read_to_string(file).ok().and_then(|room| room.trim().parse::<usize>().ok());
    if room.is_some_and(|room| room < wanted) {
        fs::write(file, wanted.to_string()).expect("the user is root");
        println!("net.ipv4.neigh.default.gc_thresh3 is {wanted} from now on, for so many hosts on one kernel");
    }
}

/// Time of day, as logs tell it.
fn now() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Duration::from_secs_f64(since.as_secs_f64() % 86_400.0)
}

/// When each of these nodes compiled its views.
fn compiled(host: &Host) -> Vec<Duration> {
    let log = host.log_tail(usize::MAX);
    log.lines().filter(|line| line.contains("view compiled")).filter_map(time_of_day).collect()
}

/// How many views each has compiled.
fn views(lab: &Lab, nodes: std::ops::Range<usize>) -> Vec<usize> {
    nodes.map(|i| compiled(lab.host(i)).len()).collect()
}

/// After which time each node compiled the first view past those that it had.
fn followed(lab: &Lab, nodes: std::ops::Range<usize>, had: &[usize], begun: Duration) -> Vec<Duration> {
    nodes
        .map(|i| {
            let what = format!("{} follows", lab.host(i).name);
            let at = wait_for(&what, FOLLOWED_WITHIN, || compiled(lab.host(i)).get(had[i]).copied());
            at.saturating_sub(begun)
        })
        .collect()
}

/// What a node has taken since it was started.
struct Taken {
    ticks: f64,
    sent: f64,
    resident_kib: f64,
}

impl Taken {
    fn by(lab: &mut Lab, i: usize) -> Self {
        let pid = lab.host_mut(i).node().pid();
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it runs");
        let number = |text: &str| text.parse::<f64>().expect("a number");
        // proc(5): the name, in parentheses, is the second field; user and system time are the 14th and 15th.
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("proc(5)").1.split_whitespace().collect();
        let status = read("status");
        let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5");
        // Its network namespace is that of the host.
        let devices = read("net/dev");
        let sent = devices.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
        let sent = sent.map(|(_, counts)| number(counts.split_whitespace().nth(8).expect("bytes sent"))).sum();
        Self {
            ticks: number(fields[11]) + number(fields[12]),
            sent,
            resident_kib: number(resident.trim().trim_end_matches(" kB")),
        }
    }
}

/// How long it took, of all.
struct Spread(Vec<Duration>);

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |percent: usize| sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)].as_millis();
        write!(f, "p50 {} ms, p99 {} ms, the last {} ms, of {}", at(50), at(99), at(100), sorted.len())
    }
}
