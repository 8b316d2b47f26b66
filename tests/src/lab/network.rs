//! Namespaces, a bridge between them, and cuts.

use std::{
    fs,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Where `ip netns` keeps the names of namespaces.
const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "weft-lab-";

/// Counts the networks of this process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// One namespace for the bridge and one per host, named `weft-lab-PID-COUNT-…`.
pub(super) struct Network {
    prefix: String,
    hosts: usize,
}

impl Network {
    pub(super) fn new(hosts: usize) -> Self {
        remove_leftovers();
        let prefix = format!("{PREFIX}{}-{}-", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let network = Self { prefix, hosts };
        let bridge = network.name("bridge");
        ip(&["netns", "add", &bridge]);
        ip(&["-n", &bridge, "link", "add", "name", "bridge0", "type", "bridge"]);
        ip(&["-n", &bridge, "link", "set", "bridge0", "up"]);
        for i in 0..hosts {
            let (host, port) = (network.name(&i.to_string()), format!("port{i}"));
            ip(&["netns", "add", &host]);
            ip(&["-n", &host, "link", "set", "lo", "up"]);
            ip(&["-n", &bridge, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host]);
            ip(&["-n", &bridge, "link", "set", &port, "master", "bridge0", "up"]);
            ip(&["-n", &host, "addr", "add", &format!("{}/24", network.address(i)), "dev", "eth0"]);
            ip(&["-n", &host, "link", "set", "eth0", "up"]);
            // Packets are dropped where they arrive, so that the sender is told nothing.
            network.nft(
                i,
                "table ip lab {\n set cut { type ipv4_addr; }\n \
                 chain input {\n type filter hook input priority 0;\n ip saddr @cut drop\n }\n}\n",
            );
        }
        network
    }

    /// From the range that is set aside for tests of network devices (RFC 2544): nothing real is ever there.
    pub(super) fn address(&self, i: usize) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 0, u8::try_from(i + 1).expect("a lab is small"))
    }

    pub(super) fn namespace(&self, i: usize) -> PathBuf {
        Path::new(NAMESPACES).join(self.name(&i.to_string()))
    }

    pub(super) fn partition(&self, one: &[usize], other: &[usize]) {
        for (side, far) in [(one, other), (other, one)] {
            let addresses: Vec<String> = far.iter().map(|&i| self.address(i).to_string()).collect();
            for &i in side {
                self.nft(i, &format!("add element ip lab cut {{ {} }}\n", addresses.join(", ")));
            }
        }
    }

    pub(super) fn heal(&self) {
        (0..self.hosts).for_each(|i| self.nft(i, "flush set ip lab cut\n"));
    }

    fn nft(&self, i: usize, rules: &str) {
        let mut nft = Command::new("nsenter")
            .args([&format!("--net={}", self.namespace(i).display()), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nsenter and nft are there (make test says what is needed)");
        nft.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("nft reads");
        assert!(nft.wait().expect("waitable").success(), "nft refused: {rules}");
    }

    fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&|name| name.starts_with(&self.prefix));
    }
}

/// Removes the namespaces of test processes that were killed.
fn remove_leftovers() {
    remove(&|name| {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    });
}

fn remove(chosen: &dyn Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| chosen(name)) {
        // What is still in there, such as the child of a service that was killed, would keep the namespace alive. All
        // of this may fail: another test may be removing the same leftover.
        let inside = Command::new("ip").args(["netns", "pids", &name]).output();
        let inside = inside.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for pid in inside.lines().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip is there (make test says what is needed)");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
