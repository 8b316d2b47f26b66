//! A small network of hosts, each a network namespace with real `weft` processes in it, joined by one bridge.
//!
//! Nothing outside the namespaces is touched, and nothing is left behind: what a [`Lab`] made goes with it, and what
//! a killed test run left is removed by the next one. Wants root.

mod bookinfo;
mod command;
mod network;
mod process;

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
};
use serde_json::Value;
use tempfile::TempDir;

pub use bookinfo::bookinfo;
pub use command::{Http, Ran};
use network::Network;
pub use process::Process;

use crate::load::Report;

/// How long anything may take that has no bound of its own in the scenario. Generous: CI has two slow cores.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(50);
/// Where a node takes its host's outgoing requests.
pub const OUTBOUND: &str = "127.0.0.1:15001";
/// Where a node takes connections from other nodes.
pub const DATA_PORT: u16 = 15008;

/// Hosts `host-1` to `host-n`, addressed by index from 0.
pub struct Lab {
    hosts: Vec<Host>,
    network: Network,
    // Last, so that the processes that write here are gone first.
    files: TempDir,
}

impl Lab {
    /// # Panics
    /// If this is not root, or a tool is missing: a scenario that cannot run has failed.
    pub fn new(hosts: usize) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "scenarios make network namespaces: run them as root (make test)");
        let network = Network::new(hosts);
        let files = tempfile::Builder::new().prefix("weft-lab-").tempdir().expect("a temporary directory");
        let host = |i: usize| Host {
            name: format!("host-{}", i + 1),
            address: network.address(i),
            namespace: network.namespace(i),
            dir: files.path().join(format!("host-{}", i + 1)),
            environment: Vec::new(),
            resolver: None,
            node: None,
            services: Vec::new(),
            disk: None,
        };
        Self { hosts: (0..hosts).map(host).collect(), network, files }
    }

    pub fn host(&self, i: usize) -> &Host {
        &self.hosts[i]
    }

    pub fn host_mut(&mut self, i: usize) -> &mut Host {
        &mut self.hosts[i]
    }

    /// A file for the scenario's own use, such as a document to apply.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.files.path().join(name);
        fs::write(&path, content).expect("the lab's directory is writable");
        path
    }

    /// Creates a mesh on the first host, starts its node, and has each other host join through it as a member that may
    /// host every service account of the namespace `default`.
    pub fn form_mesh(&mut self) {
        self.form_mesh_of(&vec![["--allow", "default/*"].as_slice(); self.hosts.len() - 1]);
    }

    /// As [`Lab::form_mesh`], for as many hosts as there are tokens, and with these options of each.
    pub fn form_mesh_of(&mut self, tokens: &[&[&str]]) {
        self.found_mesh();
        for (i, options) in (1..).zip(tokens) {
            let token = self.token(options);
            self.join(i, &token).ok();
            self.host_mut(i).start();
        }
        for i in 0..=tokens.len() {
            self.wait_members(i, "alive", tokens.len() + 1);
        }
    }

    /// Creates a mesh on the first host and starts its node.
    pub fn found_mesh(&mut self) {
        self.host(0).init().ok();
        self.host_mut(0).start();
    }

    /// A join token from the first host.
    pub fn token(&self, options: &[&str]) -> String {
        self.host(0).weft(&[&["token", "create"], options].concat()).ok().trim().to_owned()
    }

    /// `weft join` on a host, through the first one.
    pub fn join(&self, i: usize, token: &str) -> Ran {
        let seed = format!("{}:{DATA_PORT}", self.host(0).address);
        self.host(i).join(&seed, token)
    }

    /// Waits until a host sees this many members in this state.
    pub fn wait_members(&self, i: usize, state: &str, count: usize) {
        let what = format!("{} sees {count} members {state}", self.host(i).name);
        wait_for(&what, PATIENCE, || {
            let members = self.host(i).try_json(&["members"])?;
            let seen = members.as_array()?.iter().filter(|member| member["state"] == state).count();
            (seen == count).then_some(())
        });
    }

    /// The state in which a host sees another.
    pub fn state_seen(&self, by: usize, of: usize) -> Option<String> {
        let members = self.host(by).try_json(&["members"])?;
        let member = members.as_array()?.iter().find(|member| member["name"] == self.host(of).name.as_str())?;
        Some(member["state"].as_str()?.to_owned())
    }

    /// Waits until a host sees this many healthy endpoints of a service.
    pub fn wait_healthy(&self, i: usize, service: &str, count: usize) {
        let what = format!("{} sees {count} healthy endpoints of {service}", self.host(i).name);
        wait_for(&what, PATIENCE, || {
            let endpoints = self.host(i).try_json(&["endpoints", service]);
            let endpoints = endpoints.as_ref().and_then(Value::as_array);
            let healthy = |endpoint: &&Value| endpoint["health"] == "healthy" && endpoint["standing"] == "preferred";
            (endpoints.map_or(0, |endpoints| endpoints.iter().filter(healthy).count()) == count).then_some(())
        });
    }

    /// Cuts every link between the hosts of one side and those of the other, both ways, without a word to anyone.
    pub fn partition(&self, one: &[usize], other: &[usize]) {
        self.network.partition(one, other);
    }

    /// Restores all links.
    pub fn heal(&self) {
        self.network.heal();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            for host in &self.hosts {
                eprintln!("--- end of the log of {} ({})\n{}", host.name, host.address, host.log_tail(60));
            }
        }
    }
}

/// One host: a network namespace, a data directory, and the processes that were started in it.
pub struct Host {
    pub name: String,
    pub address: Ipv4Addr,
    namespace: PathBuf,
    pub dir: PathBuf,
    /// Added to that of every command on this host.
    pub environment: Vec<(&'static str, &'static str)>,
    /// Takes the place of `/etc/resolv.conf`, for commands from then on.
    pub resolver: Option<PathBuf>,
    node: Option<Process>,
    services: Vec<Process>,
    /// After the processes, which use it.
    disk: Option<Disk>,
}

/// A file system in memory.
struct Disk(PathBuf);

impl Disk {
    fn new(place: &Path, mib: u32) -> Self {
        let size = format!("size={mib}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place).status();
        assert!(mounted.is_ok_and(|status| status.success()), "a file system in memory at {}", place.display());
        Self(place.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that was just killed may hold on to it for a moment.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

impl Host {
    /// A command that runs on this host, and ends with the test whatever happens to that.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.display()));
        if let Some(file) = &self.resolver {
            command.args(["unshare", "--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]);
            command.arg(file);
        }
        command.args(["setpriv", "--pdeathsig", "KILL"]).arg(program.as_ref());
        command
            .env("WEFT_DIR", &self.dir)
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "0")
            .env_remove("http_proxy")
            .current_dir("/");
        command.envs(self.environment.iter().copied());
        command
    }

    /// Runs `weft` to its end.
    pub fn weft(&self, arguments: &[&str]) -> Ran {
        Ran::run(self.command(program("weft-under-test")).args(arguments), &format!("weft {}", arguments.join(" ")))
    }

    /// `weft … -o json`, read.
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.weft(&[arguments, &["-o", "json"]].concat()).json()
    }

    /// As [`Host::json`], or `None` while the node does not answer.
    pub fn try_json(&self, arguments: &[&str]) -> Option<Value> {
        let ran = self.weft(&[arguments, &["-o", "json"]].concat());
        (ran.code == Some(0)).then(|| ran.json())
    }

    /// `weft init` with this host's name and address.
    pub fn init(&self) -> Ran {
        self.weft(&["init", "--name", &self.name, "--advertise", &self.address.to_string()])
    }

    /// `weft join` with this host's name and address.
    pub fn join(&self, seed: &str, token: &str) -> Ran {
        let address = self.address.to_string();
        self.weft(&["join", seed, "--token", token, "--name", &self.name, "--advertise", &address])
    }

    /// Puts the data directory, before there is one, on a disk of its own of so many MiB.
    pub fn give_disk(&mut self, mib: u32) {
        fs::create_dir_all(&self.dir).expect("the lab's directory is writable");
        self.disk = Some(Disk::new(&self.dir, mib));
    }

    /// Appends to the node's configuration.
    pub fn configure(&self, yaml: &str) {
        let file = self.dir.join("node.yaml");
        let before = fs::read_to_string(&file).expect("weft init and weft join write it");
        fs::write(file, before + yaml).expect("the lab's directory is writable");
    }

    /// `weft up`, until it is ready.
    pub fn start(&mut self) {
        self.start_unready();
        let what = format!("{} is ready", self.name);
        wait_for(&what, PATIENCE, || {
            assert!(self.node.as_mut().expect("just started").is_running(), "weft up ended on {}", self.name);
            (self.try_json(&["status"])?["ready"] == true).then_some(())
        });
    }

    /// `weft up`, without waiting.
    pub fn start_unready(&mut self) {
        let mut command = self.command(program("weft-under-test"));
        self.node = Some(Process::start(command.arg("up"), &self.log()));
    }

    /// The running node.
    pub fn node(&mut self) -> &mut Process {
        self.node.as_mut().expect("the scenario started it")
    }

    /// Ends the node in order: SIGTERM, then its exit.
    pub fn stop(&mut self) {
        let mut node = self.node.take().expect("the scenario started it");
        node.signal(Signal::SIGTERM);
        assert_eq!(node.wait(PATIENCE), Some(0), "exit code of weft up on {}", self.name);
    }

    /// Ends the node as a power cut would.
    pub fn kill(&mut self) {
        self.node.take().expect("the scenario started it").kill();
    }

    /// Starts an HTTP service on `127.0.0.1:port` that answers after `delay_ms` and calls itself
    /// `SERVICE-VERSION@HOST`, and has it hosted by `weft run` until the lab ends.
    pub fn host_service(&mut self, service: &str, version: &str, port: u16, delay_ms: u64) {
        let (origin, port, delay) = (origin(), port.to_string(), delay_ms.to_string());
        let (listen, name) = (format!("127.0.0.1:{port}"), format!("{service}-{version}@{}", self.name));
        let command = [&*origin, "--listen", &listen, "--name", &name, "--delay-ms", &delay];
        self.host_command(&["--service", service, "--version", version, "--port", &port], &command);
    }

    /// Has a command hosted by `weft run` until the lab ends.
    pub fn host_command(&mut self, options: &[&str], command: &[&str]) {
        let service = self.start_run(options, command);
        self.services.push(service);
    }

    /// Runs a program on this host, beside its node, until the lab ends.
    pub fn run_beside(&mut self, program: &Path, arguments: &[&str]) -> &mut Process {
        let mut command = self.command(program);
        let process = Process::start(command.args(arguments), &self.log());
        self.services.push(process);
        self.services.last_mut().expect("just pushed")
    }

    /// Waits until what was started last by [`Host::run_beside`] has ended by itself.
    pub fn wait_beside(&mut self, within: Duration) {
        self.services.pop().expect("the scenario started it").wait(within);
    }

    /// Ends what was started last by [`Host::run_beside`].
    pub fn kill_beside(&mut self) {
        self.services.pop().expect("the scenario started it").kill();
    }

    /// Runs `weft` on this host, until the lab ends. What it prints is in the log.
    pub fn weft_beside(&mut self, arguments: &[&str]) -> &mut Process {
        self.run_beside(&program("weft-under-test"), arguments)
    }

    /// Moves the calling thread into this host's network: the sockets that it makes from now on are there.
    pub fn enter(&self) {
        let namespace = File::open(&self.namespace).expect("the lab keeps it");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("the lab's user is root");
    }

    /// `weft run` with these options and this command.
    pub fn start_run(&self, options: &[&str], command: &[&str]) -> Process {
        let mut weft = self.command(program("weft-under-test"));
        Process::start(weft.arg("run").args(options).arg("--").args(command), &self.log())
    }

    /// Hosts something to call other services as: a node calls in the name of a workload that it hosts.
    pub fn host_client(&mut self) {
        self.host_service("client", "v1", 7000, 0);
        let what = format!("{} hosts a client", self.name);
        wait_for(&what, PATIENCE, || {
            // Other hosts may have a client of their own.
            let endpoints = self.try_json(&["endpoints", "client"])?;
            endpoints.as_array()?.iter().any(|endpoint| endpoint["node"] == *self.name).then_some(())
        });
    }

    /// Asks with curl; the options come before the URL.
    pub fn curl(&self, options: &[&str], url: &str) -> Http {
        Http::run(self.command("curl").args(options), url)
    }

    /// Asks a service through this host's node.
    pub fn call(&self, host: &str, path: &str, options: &[&str]) -> Http {
        let header = format!("Host: {host}");
        self.curl(&[options, &["-H", &header]].concat(), &format!("http://{OUTBOUND}{path}"))
    }

    /// Starts sending requests to a service through this host's node.
    pub fn load(&self, host: &str, rate: u32) -> Load {
        self.load_path(host, "/", rate)
    }

    /// As [`Host::load`], for one path.
    pub fn load_path(&self, host: &str, path: &str, rate: u32) -> Load {
        let mut command = self.command(program("weft-load"));
        command.args(["--to", OUTBOUND, "--host", host, "--path", path, "--rate", &rate.to_string()]);
        Load(Process::start_piped(&mut command, &self.log()))
    }

    /// The sum of a metric's samples whose line holds all of these words, such as `reason="grant"`.
    pub fn metric(&self, name: &str, words: &[&str]) -> f64 {
        let page = self.curl(&[], "http://127.0.0.1:15000/metrics").ok();
        let is_sample = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && words.iter().all(|word| line.contains(word))
        };
        page.lines().filter(is_sample).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The node's admin API on its unix socket.
    pub fn admin(&self, method: &str, path: &str) -> Http {
        let socket = self.dir.join("weft.sock");
        self.curl(&["-X", method, "--unix-socket", &socket.to_string_lossy()], &format!("http://localhost{path}"))
    }

    fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// The last lines of what this host's processes wrote, without those of the access log, which begin with `[`.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<&str> = log.lines().filter(|line| !line.starts_with('[')).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Requests on their way.
pub struct Load(Process);

impl Load {
    /// Stops sending once `least` requests were sent, and waits for what is under way.
    pub fn finish(self, least: usize) -> Report {
        serde_json::from_str(&self.0.finish(&least.to_string(), PATIENCE)).expect("weft-load prints a report")
    }
}

/// The path of `weft-origin`, which answers with what it was asked.
pub fn origin() -> String {
    program("weft-origin").into_os_string().into_string().expect("cargo's paths are UTF-8")
}

/// The path of the `weft` that is under test.
pub fn weft() -> String {
    program("weft-under-test").into_os_string().into_string().expect("cargo's paths are UTF-8")
}

/// One of this package's programs.
fn program(name: &str) -> PathBuf {
    // Set by cargo, for the tests of the package that the program is in. Its programs find each other side by side.
    let path = std::env::var_os(format!("CARGO_BIN_EXE_{name}")).map(PathBuf::from);
    let beside =
        || std::env::current_exe().ok().map(|program| program.with_file_name(name)).filter(|path| path.exists());
    path.or_else(beside).unwrap_or_else(|| panic!("{name} is not built: run the scenarios with cargo"))
}

/// Waits until `poll` gives something.
///
/// # Panics
/// If it does not within that time.
pub fn wait_for<T>(what: &str, within: Duration, mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        thread::sleep(POLL);
    }
}

/// Microseconds since 1970, as [`crate::load::Exchange`] counts them.
pub fn now_us() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("the clock is past 1970").as_micros() as u64
}
