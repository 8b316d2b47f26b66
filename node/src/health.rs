//! Whether a hosted workload works: how to ask it ([`Probe`]) and what the answers add up to ([`HealthState`]).

mod grpc;
mod http;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use ::http::StatusCode;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{net::TcpStream, process::Command, time::timeout};
use weft_wire::fact::EndpointHealth;

pub use self::http::{HttpProbe, Statuses};

/// What probes call themselves.
const USER_AGENT: &str = concat!("weft-health/", env!("CARGO_PKG_VERSION"));

/// How a workload is checked. The first probe is sent at once, the others `interval` after the one before ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures in a row that make a healthy workload unhealthy.
    pub unhealthy_after: u32,
    /// Successes in a row that make an unhealthy workload healthy again.
    pub healthy_after: u32,
}

/// One question to a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    Http(Box<HttpProbe>),
    /// Well if a server of gRPC says that it serves; an empty service is the server as a whole.
    Grpc {
        service: String,
        port: u16,
    },
    /// Well if the connection is accepted.
    Tcp {
        port: u16,
    },
    /// Well if the program exits with 0.
    Command(Vec<String>),
}

/// Why a workload is not well.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("no HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("{what} does not fit into a request: {source}")]
    Request { what: String, source: ::http::Error },
    #[error("answered with status {0}")]
    Status(StatusCode),
    #[error("answered the health check of gRPC with {0}")]
    Grpc(String),
    #[error("cannot run {program:?}: {source}")]
    Start { program: String, source: io::Error },
    #[error("the command ended with {0}")]
    Exit(ExitStatus),
}

impl Probe {
    /// Asks the workload at `address` once.
    ///
    /// # Errors
    /// Every answer but a good one, and no answer within `limit`.
    pub async fn run(&self, address: IpAddr, limit: Duration) -> Result<(), ProbeError> {
        let probe = async {
            match self {
                Self::Http(probe) => probe.ask(SocketAddr::new(address, probe.port)).await,
                Self::Grpc { service, port } => grpc::check(SocketAddr::new(address, *port), service).await,
                Self::Tcp { port } => connect(SocketAddr::new(address, *port)).await.map(drop),
                Self::Command(words) => command(words).await,
            }
        };
        timeout(limit, probe).await.unwrap_or(Err(ProbeError::Timeout(limit)))
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, ProbeError> {
    TcpStream::connect(address).await.map_err(|source| ProbeError::Connect { address, source })
}

async fn command(words: &[String]) -> Result<(), ProbeError> {
    let (program, arguments) = words.split_first().map_or(("", words), |(program, rest)| (program.as_str(), rest));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ProbeError::Start { program: program.to_owned(), source })?;
    let mut group = KillGroup(child.id());
    // An error of `wait` means that the child is nobody's any more, which is no success either.
    let status = child.wait().await.map_err(|source| ProbeError::Start { program: program.to_owned(), source })?;
    group.0 = None;
    if status.success() { Ok(()) } else { Err(ProbeError::Exit(status)) }
}

/// Kills a process group when dropped before its leader was waited for: a shell's children must not outlive the
/// probe. The leader is not yet reaped then, so the id cannot have become another's.
struct KillGroup(Option<u32>);

impl Drop for KillGroup {
    fn drop(&mut self) {
        if let Some(leader) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // Fails only if the whole group has ended already.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}

/// Counts the answers of a workload that has a check, and so has to show that it works before it is healthy.
#[derive(Debug)]
pub struct HealthState {
    health: EndpointHealth,
    /// Answers in a row that speak against `health`.
    against: u32,
    unhealthy_after: u32,
    healthy_after: u32,
    /// Nothing is known yet: the first success is enough.
    fresh: bool,
}

impl HealthState {
    pub fn new(check: &HealthCheck) -> Self {
        Self {
            health: EndpointHealth::Unhealthy,
            against: 0,
            unhealthy_after: check.unhealthy_after,
            healthy_after: check.healthy_after,
            fresh: true,
        }
    }

    /// Goes on from what is known already.
    pub fn resume(check: &HealthCheck, health: EndpointHealth) -> Self {
        Self { health, fresh: health != EndpointHealth::Healthy, ..Self::new(check) }
    }

    pub fn current(&self) -> EndpointHealth {
        self.health
    }

    /// Takes in one answer; the new health if it changed.
    pub fn record(&mut self, passed: bool) -> Option<EndpointHealth> {
        let says = if passed { EndpointHealth::Healthy } else { EndpointHealth::Unhealthy };
        if says == self.health {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = match says {
            EndpointHealth::Healthy if self.fresh => 1,
            EndpointHealth::Healthy => self.healthy_after,
            _ => self.unhealthy_after,
        };
        if self.against < enough {
            return None;
        }
        self.fresh = false;
        self.against = 0;
        self.health = says;
        Some(says)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::Instant,
    };

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const LIMIT: Duration = Duration::from_secs(10);

    fn state(unhealthy_after: u32, healthy_after: u32) -> HealthState {
        HealthState::new(&HealthCheck {
            probe: Probe::Tcp { port: 1 },
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            unhealthy_after,
            healthy_after,
        })
    }

    #[test]
    fn a_workload_is_unhealthy_until_its_first_success() {
        let mut state = state(3, 2);
        assert_eq!(state.current(), EndpointHealth::Unhealthy);
        assert_eq!(state.record(false), None);
        assert_eq!(state.record(true), Some(EndpointHealth::Healthy));
    }

    #[test]
    fn health_changes_after_so_many_answers_in_a_row() {
        let mut state = state(3, 2);
        state.record(true);
        let answers = [false, false, true, false, false, false, true, false, true, true];
        let changes: Vec<_> = answers.into_iter().map(|passed| state.record(passed)).collect();
        let mut expected = vec![None; answers.len()];
        expected[5] = Some(EndpointHealth::Unhealthy);
        expected[9] = Some(EndpointHealth::Healthy);
        assert_eq!(changes, expected);
    }

    proptest! {
        #[test]
        fn a_change_is_reported_exactly_when_the_health_differs(
            answers in prop::collection::vec(any::<bool>(), 0..200), unhealthy in 1u32..5, healthy in 1u32..5,
        ) {
            let mut state = state(unhealthy, healthy);
            for passed in answers {
                let before = state.current();
                let change = state.record(passed);
                prop_assert_eq!(change, (state.current() != before).then_some(state.current()));
                if let Some(health) = change {
                    prop_assert_eq!(passed, health == EndpointHealth::Healthy);
                }
            }
        }
    }

    /// Answers one connection with these bytes, after reading a request's head; returns the head.
    async fn origin(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        (port, served)
    }

    fn get(port: u16) -> Probe {
        probe(port, Statuses::default())
    }

    fn probe(port: u16, statuses: Statuses) -> Probe {
        let headers = [("x-probe", "yes")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Probe::Http(Box::new(HttpProbe {
            path: "/health?deep=1".into(),
            port,
            host: None,
            headers: headers.into_iter().collect(),
            statuses,
        }))
    }

    fn sh(script: &str) -> Probe {
        Probe::Command(["sh", "-c", script].map(str::to_owned).to_vec())
    }

    #[tokio::test]
    async fn http_is_well_from_200_to_399() {
        for (answer, well) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\n\r\nclosed before long", true),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", false),
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", false),
            ("SSH-2.0-other\r\n", false),
            ("", false),
        ] {
            let (port, served) = origin(answer).await;
            let result = get(port).run(LOCAL, LIMIT).await;
            assert_eq!(result.is_ok(), well, "{answer:?}: {result:?}");
            let head = served.await.unwrap().to_lowercase();
            assert!(head.starts_with("get /health?deep=1 http/1.1\r\n"), "{head}");
            assert!(head.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{head}");
            assert!(head.contains("x-probe: yes\r\n"), "{head}");
        }
    }

    #[tokio::test]
    async fn http_may_expect_other_statuses_and_name_another_host() {
        for (answer, well) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false),
            ("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", true),
        ] {
            let (port, served) = origin(answer).await;
            let Probe::Http(mut probe) = probe(port, Statuses::read("401,403").unwrap()) else { panic!() };
            probe.host = Some("shop.example".parse().unwrap());
            assert_eq!(Probe::Http(probe).run(LOCAL, LIMIT).await.is_ok(), well, "{answer}");
            assert!(served.await.unwrap().to_lowercase().contains("host: shop.example\r\n"));
        }
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_is_silent_is_well_for_tcp_but_not_for_http() {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(Probe::Tcp { port }.run(LOCAL, LIMIT).await.is_ok());
        let limit = Duration::from_millis(100);
        assert!(matches!(get(port).run(LOCAL, limit).await, Err(ProbeError::Timeout(_))));
        drop(listener);
        assert!(matches!(Probe::Tcp { port }.run(LOCAL, LIMIT).await, Err(ProbeError::Connect { .. })));
    }

    #[tokio::test]
    async fn a_command_is_well_if_it_exits_with_0() {
        assert!(sh("exit 0").run(LOCAL, LIMIT).await.is_ok());
        assert!(
            matches!(sh("exit 3").run(LOCAL, LIMIT).await, Err(ProbeError::Exit(status)) if status.code() == Some(3))
        );
        let missing = Probe::Command(vec!["/no/such/program".into()]);
        assert!(matches!(missing.run(LOCAL, LIMIT).await, Err(ProbeError::Start { .. })));
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid_file.display());
        let result = sh(&script).run(LOCAL, Duration::from_millis(500)).await;
        assert!(matches!(result, Err(ProbeError::Timeout(_))), "{result:?}");
        let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let deadline = Instant::now() + LIMIT;
        // A killed process may stay as a zombie (state Z) where nobody reaps orphans.
        while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < deadline, "the child of the probe still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
