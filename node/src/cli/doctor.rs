//! `weft doctor`: what is wrong with this node and its mesh, why, and what to type. A running node examines itself and
//! its peers; where none runs, this does what it can with what is on disk.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    process::ExitCode,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use nix::sys::resource::{Resource, getrlimit};
use tokio::{net::lookup_host, time::timeout};
use weft_ca::trust::TrustBundle;
use weft_wire::frame::MESH_PORT;

use super::{
    Common,
    client::Client,
    output::{data, line, printable},
};
use crate::{
    actors::seconds_until,
    admin::doctor::Examination,
    config::Config,
    dir::Dir,
    doctor::{self, Check, Peer, Reach, Verdict},
    identity::NodeIdentity,
    store::Store,
};

/// A node that does not answer by then is stuck.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
const LOOKED_UP_WITHIN: Duration = Duration::from_secs(5);
/// Addresses of former peers that are tried.
const MAX_ADDRESSES: usize = 32;

pub(super) async fn doctor(common: &Common) -> anyhow::Result<ExitCode> {
    let examination = match ask(common).await {
        Ok(examination) => examination,
        Err(why) => examine(common, &why).await,
    };
    if common.output.is_for_people() {
        print(&examination)?;
    } else {
        data(&common.output, &examination, &[], |_| Vec::new())?;
    }
    let is_ill = examination.checks.iter().any(|check| check.verdict == Verdict::Error);
    Ok(if is_ill { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn ask(common: &Common) -> anyhow::Result<Examination> {
    let asked = async { Client::connect(&common.dir).await?.post("/api/v1/doctor", &()).await };
    timeout(ANSWERED_WITHIN, asked).await?
}

/// What can be seen of a node that does not answer.
async fn examine(common: &Common, why: &anyhow::Error) -> Examination {
    let dir = Dir::new(&common.dir);
    let shown = common.dir.display();
    let mut checks = Vec::new();
    let identity = match NodeIdentity::load(&dir) {
        Ok(identity) => {
            let certificate = &identity.certificate;
            let (begins_in, left) = (seconds_until(certificate.not_before), seconds_until(certificate.not_after));
            checks.push(doctor::certificate("certificate", begins_in, left, false));
            Some(identity)
        }
        Err(error) => {
            checks.push(Check::error(
                "identity",
                format!("{error:#}"),
                "a host without one is no node of a mesh",
                "`weft init` makes a mesh, `weft join SEED:15008 --token T` enters one; --dir if it is elsewhere",
            ));
            None
        }
    };
    let config = match Config::load(None, dir.path()) {
        Ok(config) => {
            checks.push(Check::ok("node.yaml", "is right"));
            Some(config)
        }
        Err(error) => {
            let fix = format!("mend {}; each line above names its field", dir.config().display());
            checks.push(Check::error("node.yaml", format!("{error:#}"), "the node does not start with it", fix));
            None
        }
    };
    let runs = std::os::unix::net::UnixStream::connect(dir.socket()).is_ok();
    if identity.is_some() {
        let (what, fix) = match runs {
            true => (format!("the node does not answer: {why:#}"), "`systemctl restart weft`".to_owned()),
            false => (
                format!("no node is running on {shown}"),
                format!("`systemctl start weft`, or `weft up --dir {shown}`; why it ended: `journalctl -u weft -e`"),
            ),
        };
        checks.push(Check::error("node", what, "nothing of this host is part of the mesh meanwhile", fix));
    }
    if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        checks.push(doctor::files(limit));
    }
    if let Some(config) = &config
        && !runs
    {
        checks.extend(ports(config));
    }
    if let Some(identity) = &identity {
        let addresses = addresses(&dir, config.as_ref(), runs).await;
        checks.extend(peers(&identity.trust, addresses).await);
    }
    let node = identity.map_or_else(|| "this host".to_owned(), |identity| identity.name.to_string());
    Examination { node, checks }
}

/// Whether the node could listen where it is to.
fn ports(config: &Config) -> Vec<Check> {
    let mesh = SocketAddr::new(config.advertise, MESH_PORT);
    let mut tcp =
        vec![("other nodes", mesh), ("local callers", config.outbound.address), ("the admin API", config.admin)];
    tcp.extend(config.metrics.map(|address| ("metrics", address)));
    tcp.extend(config.listeners.iter().map(|listener| ("a listener", listener.listen)));
    let udp = doctor::port("other nodes", "udp", mesh, UdpSocket::bind(mesh).map(drop));
    let tcp = tcp.into_iter().map(|(what, at)| doctor::port(what, "tcp", at, TcpListener::bind(at).map(drop)));
    tcp.chain([udp]).collect()
}

/// Where other nodes may be: the seeds, and where they were when this node ran.
async fn addresses(dir: &Dir, config: Option<&Config>, runs: bool) -> BTreeSet<SocketAddr> {
    let mut addresses = BTreeSet::new();
    for seed in config.iter().flat_map(|config| &config.seeds) {
        let found = timeout(LOOKED_UP_WITHIN, lookup_host((seed.host.as_str(), seed.port))).await;
        addresses.extend(found.into_iter().flatten().flatten());
    }
    // A node that runs has locked its store.
    if !runs
        && dir.path().join(Store::FILE_NAME).exists()
        && let Ok(remembered) = Store::open(dir.path()).and_then(|store| store.load_peers())
    {
        addresses.extend(remembered.rows);
    }
    let own = config.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |config| config.advertise);
    addresses.retain(|address| address.ip() != own && address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    addresses.into_iter().take(MAX_ADDRESSES).collect()
}

async fn peers(trust: &TrustBundle, addresses: BTreeSet<SocketAddr>) -> Vec<Check> {
    if addresses.is_empty() {
        return vec![Check::ok("peers", "no other node is known here")];
    }
    let examined = stream::iter(addresses).map(|address| async move {
        let there = Reach::probe(address, trust).await;
        let back = Err("this node is down".to_owned());
        let peer = Peer { name: address.to_string(), address, there, back };
        match doctor::peer("this host", &peer) {
            // Of course it could not be asked for the way back.
            Check { verdict: Verdict::Warning, about, .. } => Check::ok(about, "reached by TCP and UDP"),
            check => check,
        }
    });
    examined.buffer_unordered(MAX_ADDRESSES).collect().await
}

fn print(Examination { node, checks }: &Examination) -> anyhow::Result<()> {
    let width = checks.iter().map(|check| check.about.chars().count()).max().unwrap_or_default();
    for Check { about, verdict, what, why, fix } in checks {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "WARNING",
            Verdict::Error => "ERROR",
        };
        let what = what.lines().map(printable).collect::<Vec<_>>().join("; ");
        line(format_args!("{verdict:<8} {:<width$}  {what}", printable(about)))?;
        for (label, text) in [("why", why), ("do", fix)] {
            if let Some(text) = text {
                line(format_args!("{:9}{:<width$}  {label}: {}", "", "", printable(text)))?;
            }
        }
    }
    let count = |wanted| checks.iter().filter(|check| check.verdict == wanted).count();
    let (errors, warnings) = (count(Verdict::Error), count(Verdict::Warning));
    line(format_args!(""))?;
    match (errors, warnings) {
        (0, 0) => line(format_args!("{} is well", printable(node)))?,
        _ => line(format_args!("{}: {errors} errors, {warnings} warnings", printable(node)))?,
    }
    Ok(())
}
