//! `weft run`: hosts one process as a service of the running node, for as long as the process runs.

use std::{
    io::IsTerminal,
    net::IpAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use anyhow::{Context, bail};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Common,
    client::{Client, Refused},
};
use crate::config::{GrpcProbeSpec, HealthCheckSpec, HttpProbeSpec, ServiceSpec, TcpProbeSpec};

/// Pause between attempts to register again after the node went away.
const RECONNECT: Duration = Duration::from_millis(500);
/// A process that shall stop does not wait longer for a node that hangs.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub(super) struct RunArgs {
    /// The service's name.
    #[arg(long, value_name = "NAME")]
    service: String,
    /// The service's port.
    #[arg(long)]
    port: u16,
    /// The port that the process listens on [default: the service's port].
    #[arg(long, value_name = "PORT")]
    target_port: Option<u16>,
    /// The address that the process listens on [default: loopback].
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// The service's version, which subsets of a DestinationRule select.
    #[arg(long, value_name = "V")]
    version: Option<String>,
    /// The service's namespace [default: default].
    #[arg(long, short = 'n', value_name = "N")]
    namespace: Option<String>,
    /// Whom the service runs as; the node's grant must allow it [default: default].
    #[arg(long, value_name = "SA")]
    service_account: Option<String>,
    /// The instance's name [default: NAME or NAME-VERSION].
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,
    /// A label of the workload. Repeatable.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// auto, http, http2, grpc or tcp [default: auto, what the process and its callers send first tells].
    #[arg(long)]
    protocol: Option<String>,
    /// Healthy while GET PATH answers 200 to 399 [default: while the port accepts connections].
    #[arg(long, value_name = "PATH", conflicts_with = "health_grpc")]
    health_http: Option<String>,
    /// Healthy while gRPC's health check (grpc.health.v1) says that SERVICE, or else the server as a whole, serves.
    #[arg(long, value_name = "SERVICE", num_args = 0..=1, default_missing_value = "")]
    health_grpc: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} must look like KEY=VALUE"))?;
    Ok((key.into(), value.into()))
}

impl RunArgs {
    fn spec(&self) -> ServiceSpec {
        // Without a check the service would get requests before the process listens.
        let check = match (&self.health_http, &self.health_grpc) {
            (Some(path), _) => HealthCheckSpec {
                http: Some(HttpProbeSpec { path: Some(path.clone()), ..HttpProbeSpec::default() }),
                ..HealthCheckSpec::default()
            },
            (None, Some(service)) => HealthCheckSpec {
                grpc: Some(GrpcProbeSpec { service: Some(service.clone()), port: None }),
                ..HealthCheckSpec::default()
            },
            (None, None) => HealthCheckSpec { tcp: Some(TcpProbeSpec::default()), ..HealthCheckSpec::default() },
        };
        ServiceSpec {
            name: self.service.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
            workload: self.workload.clone(),
            version: self.version.clone(),
            labels: self.labels.iter().cloned().collect(),
            address: self.address.map(|address| address.to_string()),
            port: self.port.into(),
            target_port: self.target_port.map(Into::into),
            protocol: self.protocol.clone(),
            health_check: Some(check),
        }
    }
}

pub(super) async fn run(common: &Common, args: RunArgs) -> anyhow::Result<ExitCode> {
    let spec = args.spec();
    // Registered before the process starts, so that what the node refuses never runs.
    let mut registration = Some(register(&common.dir, &spec).await?);
    let mut signals = Signals::new()?;
    let mut child = start(&args.command)?;
    // From the first signal to stop on: the service does not come back to the mesh.
    let mut stopping = false;
    let mut draining: Option<(Signal, JoinHandle<()>)> = None;
    let mut refusal_told = false;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(exit_code(status.context("waiting for the process")?)),
            signal = signals.next() => {
                let stops = matches!(signal, Signal::SIGTERM | Signal::SIGINT);
                match &registration {
                    Some(registration) if stops && !stopping => {
                        let drain = drain(common.dir.clone(), registration.workload.clone());
                        draining = Some((signal, tokio::spawn(drain)));
                    }
                    _ => {
                        // Who asks a second time to stop does not want to wait.
                        draining = draining.filter(|_| !stops);
                        forward(&child, signal);
                    }
                }
                stopping |= stops;
            }
            signal = drained(&mut draining) => {
                draining = None;
                forward(&child, signal);
            }
            () = ended(&mut registration) => {
                // The node restarts or is down: the service goes on, and comes back with it.
                registration = None;
            }
            again = register_again(&common.dir, &spec, &mut refusal_told), if registration.is_none() && !stopping => {
                registration = Some(again);
                refusal_told = false;
            }
        }
    }
}

fn start(command: &[String]) -> anyhow::Result<Child> {
    let Some((program, arguments)) = command.split_first() else { bail!("no command given after --") };
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    // On a terminal the child stays in the terminal's group, so that it may read from it; elsewhere a group of its
    // own keeps a signal to us from reaching it twice.
    if !std::io::stdin().is_terminal() {
        command.process_group(0);
    }
    command.spawn().with_context(|| format!("cannot start {program:?}"))
}

fn forward(child: &Child, signal: Signal) {
    // A terminal's Ctrl-C has reached the child already: it is in the same group.
    if signal == Signal::SIGINT && std::io::stdin().is_terminal() {
        return;
    }
    if let Some(pid) = child.id() {
        // The child is not yet waited for, so the pid is still its own.
        let _ = kill(Pid::from_raw(pid as i32), signal);
    }
}

/// The child's own code, or 128 and the signal that ended it, as shells say.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(code as u8)
}

/// A registration lasts as long as its answer is being read.
struct Registration {
    body: Incoming,
    /// `namespace/workload`
    workload: String,
    /// Kept open: the node takes its end for ours.
    _client: Client,
}

async fn register(dir: &Path, spec: &ServiceSpec) -> anyhow::Result<Registration> {
    let mut client = Client::connect(dir).await?;
    let mut body = client.send(Method::POST, "/api/v1/workloads", Some(spec)).await?.into_body();
    let first = body.frame().await.context("the node closed the registration")??;
    let line: serde_json::Value = serde_json::from_slice(first.data_ref().context("no registration in the answer")?)?;
    let workload = line["workload"].as_str().context("no workload in the answer")?.to_owned();
    Ok(Registration { body, workload, _client: client })
}

async fn register_again(dir: &Path, spec: &ServiceSpec, refusal_told: &mut bool) -> Registration {
    loop {
        tokio::time::sleep(RECONNECT).await;
        match register(dir, spec).await {
            Ok(registration) => return registration,
            Err(error) if error.is::<Refused>() && !*refusal_told => {
                *refusal_told = true;
                eprintln!("weft: the node does not take {} back, and is asked again: {error:#}", spec.name);
            }
            // The node is down.
            Err(_) => {}
        }
    }
}

/// Waits until the node ends the registration; for ever if there is none.
async fn ended(registration: &mut Option<Registration>) {
    match registration {
        Some(registration) => while let Some(Ok(_)) = registration.body.frame().await {},
        None => std::future::pending().await,
    }
}

/// Has callers told to send nothing new, and gives them time to hear it.
async fn drain(dir: PathBuf, workload: String) {
    let path = format!("/api/v1/workloads/{workload}/drain");
    let drain = async { Client::connect(&dir).await?.post::<()>(&path, &()).await };
    match timeout(DRAIN_TIMEOUT, drain).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("weft: cannot drain before stopping: {error:#}"),
        Err(_) => eprintln!("weft: cannot drain before stopping: the node does not answer"),
    }
}

/// Waits until the process may be told to stop, and with which signal; for ever if it shall not stop.
async fn drained(draining: &mut Option<(Signal, JoinHandle<()>)>) -> Signal {
    match draining {
        Some((signal, task)) => {
            // However it ended, it has had its time.
            let _ = task.await;
            *signal
        }
        None => std::future::pending().await,
    }
}

/// The signals that are passed on.
struct Signals(Vec<(Signal, tokio::signal::unix::Signal)>);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let passed =
            [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
        let listen = |name: Signal| Ok((name, signal(SignalKind::from_raw(name as i32))?));
        Ok(Self(passed.into_iter().map(listen).collect::<std::io::Result<_>>()?))
    }

    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (name, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*name);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
