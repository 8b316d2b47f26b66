//! What may be wrong with a node and its mesh: the rules by which `weft doctor` judges what was observed, in words that
//! say what is wrong, why it matters, and what to type. Observing is others' matter: `admin/doctor.rs` does it in a
//! running node, `cli/doctor.rs` where none runs.

use std::{fmt::Display, io, net::SocketAddr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};
use weft_ca::trust::TrustBundle;

use crate::peer::quic::dial_seed;

/// A connection that is not there by then counts as refused.
const REACHED_WITHIN: Duration = Duration::from_secs(3);
/// Documents whose stamps are further ahead are refused by everybody.
const MAX_OFFSET_MS: i64 = 2_000;
/// Renewal begins at half of a day: what has less left is not being renewed.
const CERTIFICATE_LOW: i64 = 6 * 3_600;
const INTERMEDIATE_LOW: i64 = 10 * 24 * 3_600;
/// Each proxied connection takes two files.
const FILES_WANTED: u64 = 16_384;
const FILES_NEEDED: u64 = 1_024;
/// QUIC's smallest packets, which it begins with.
const SMALLEST_MTU: u16 = 1_200;
/// What is listed of one kind.
const LISTED: usize = 20;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It works, and may not for long, or not well.
    Warning,
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Such as `clock`, or `peer host-2`.
    pub about: String,
    pub verdict: Verdict,
    /// What was found.
    pub what: String,
    /// Why that is bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do, mostly a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    pub fn ok(about: impl Display, what: impl Display) -> Self {
        Self { about: about.to_string(), verdict: Verdict::Ok, what: what.to_string(), why: None, fix: None }
    }

    pub fn warning(about: impl Display, what: impl Display, why: impl Display, fix: impl Display) -> Self {
        Self { verdict: Verdict::Warning, ..Self::error(about, what, why, fix) }
    }

    pub fn error(about: impl Display, what: impl Display, why: impl Display, fix: impl Display) -> Self {
        Self {
            about: about.to_string(),
            verdict: Verdict::Error,
            what: what.to_string(),
            why: Some(why.to_string()),
            fix: Some(fix.to_string()),
        }
    }
}

/// Whether an address can be reached; each with what went wrong otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    pub tcp: Option<String>,
    pub udp: Option<String>,
}

impl Reach {
    /// Connects to a node's port both ways that it serves: TCP, and UDP by a QUIC handshake as a joining host makes it,
    /// which takes no member's place. The node must belong to the mesh.
    pub async fn probe(address: SocketAddr, trust: &TrustBundle) -> Self {
        let tcp = async {
            match timeout(REACHED_WITHIN, TcpStream::connect(address)).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {REACHED_WITHIN:?}")),
            }
        };
        let udp = async {
            match timeout(REACHED_WITHIN, dial_seed(address, trust.mesh_id())).await {
                Ok(Ok((endpoint, connection, _))) => {
                    connection.close(0u32.into(), b"reached");
                    let _ = timeout(Duration::from_millis(200), endpoint.wait_idle()).await;
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {REACHED_WITHIN:?}")),
            }
        };
        let (tcp, udp) = tokio::join!(tcp, udp);
        Self { tcp, udp }
    }

    fn failures(&self, way: &str) -> Vec<String> {
        let failure =
            |protocol: &str, why: &Option<String>| why.as_ref().map(|why| format!("{way} by {protocol}: {why}"));
        [failure("TCP", &self.tcp), failure("UDP", &self.udp)].into_iter().flatten().collect()
    }
}

/// What a peer found when it was asked to reach this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub back: Reach,
    /// Its clock when it was asked, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// What is known of a peer.
#[derive(Clone, Debug)]
pub struct Peer {
    pub name: String,
    pub address: SocketAddr,
    pub there: Reach,
    /// What it says of the way back, if it can be asked.
    pub back: Result<Reach, String>,
}

pub fn peer(me: &str, Peer { name, address, there, back }: &Peer) -> Check {
    let about = format!("peer {name}");
    let mut failures = there.failures("from here");
    let port = address.port();
    let mut asked_in_vain = None;
    match back {
        Ok(back) => failures.extend(back.failures("from there")),
        Err(why) => asked_in_vain = Some(why),
    }
    let everything_fails = there.tcp.is_some() && there.udp.is_some();
    match (failures.as_slice(), asked_in_vain) {
        ([], None) => Check::ok(about, format!("{address} reached by TCP and UDP, and this node from there")),
        ([], Some(why)) => Check::warning(
            about,
            format!("{address} reached by TCP and UDP; it could not be asked for the way back: {why}"),
            "it may be of an older version, or just starting",
            format!("run `weft doctor` on {name}"),
        ),
        _ if everything_fails => Check::error(
            about,
            format!("{address} is not reached: {}", failures.join("; ")),
            "its services are the last choice, and it gets no news from here",
            format!(
                "on {name}: `systemctl status weft` and `weft doctor`; if it runs, let {port}/tcp and {port}/udp through any firewall between"
            ),
        ),
        _ => Check::error(
            about,
            failures.join("; "),
            "requests go by TCP, news by UDP: nodes want both, in both directions",
            format!(
                "let {port}/tcp and {port}/udp through between {me} and {name}: `nft list ruleset` on both, and the network's own rules"
            ),
        ),
    }
}

/// `offsets`: how far the clocks of peers are ahead of this one's, in milliseconds.
pub fn clock(me: &str, offsets: &[(String, i64)]) -> Vec<Check> {
    let off: Vec<&(String, i64)> = offsets.iter().filter(|(_, offset)| offset.abs() > MAX_OFFSET_MS).collect();
    let why = "documents from a clock that is more than 2 s ahead are refused, and certificates seem to begin late";
    let fix = |on: &str| format!("on {on}: `timedatectl set-ntp true`, then `timedatectl timesync-status`");
    let seconds = |ms: i64| format!("{:.1}s", ms as f64 / 1_000.0);
    if off.is_empty() {
        let largest = offsets.iter().map(|(_, offset)| offset.abs()).max();
        let what = match largest {
            Some(largest) => format!("within {largest}ms of {} peers' clocks", offsets.len()),
            None => "no peer to compare with".to_owned(),
        };
        return vec![Check::ok("clock", what)];
    }
    // If most are off in one direction, it is this clock that is off.
    let ahead = off.iter().filter(|(_, offset)| *offset > 0).count();
    let most = ahead.max(off.len() - ahead);
    if most * 2 > offsets.len() && offsets.len() > 1 || offsets.len() == 1 {
        let (_, offset) = off[0];
        let (what, whose) = match offsets.len() {
            1 => {
                (format!("{} and {me} are {} apart", off[0].0, seconds(offset.abs())), format!("{me} and {}", off[0].0))
            }
            _ if *offset > 0 => {
                (format!("this clock is {} behind that of {most} peers", seconds(*offset)), me.to_owned())
            }
            _ => (format!("this clock is {} ahead of that of {most} peers", seconds(-offset)), me.to_owned()),
        };
        return vec![Check::error("clock", what, why, fix(&whose))];
    }
    let each = off.into_iter().map(|(name, offset)| {
        let how = if *offset > 0 { "ahead" } else { "behind" };
        Check::error(format!("clock of {name}"), format!("{} {how}", seconds(offset.abs())), why, fix(name))
    });
    each.collect()
}

/// `whose`: such as `certificate of this node`. `begins_in`: seconds until it is valid.
pub fn certificate(about: &str, begins_in: i64, left: i64, is_intermediate: bool) -> Check {
    let days = |seconds: i64| match seconds {
        seconds if seconds < 2 * 86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    };
    let renewed_by = match is_intermediate {
        true => "give a CA node the mesh's root (root/ in its data directory) and restart it: `systemctl restart weft`",
        false => {
            "make sure that a CA node is up and reached (`weft members`), then look for \"certificate\" in `journalctl -u weft`"
        }
    };
    if begins_in > 0 {
        return Check::error(
            about,
            format!("it is valid only in {}s", begins_in),
            "this host's clock is behind",
            "`timedatectl set-ntp true`",
        );
    }
    if left <= 0 {
        return Check::error(
            about,
            format!("it ended {} ago", days(-left)),
            "nobody talks to who shows it",
            renewed_by,
        );
    }
    let low = if is_intermediate { INTERMEDIATE_LOW } else { CERTIFICATE_LOW };
    match left < low {
        true => Check::warning(
            about,
            format!("it ends in {}", days(left)),
            "it should have been renewed by now",
            renewed_by,
        ),
        false => Check::ok(about, format!("good for {}", days(left))),
    }
}

/// `limit`: files that the node may have open.
pub fn files(limit: u64) -> Check {
    let why = "each connection that goes through takes two; beyond the limit, new ones are not accepted";
    let fix = "`systemctl edit weft`, add `[Service]` and `LimitNOFILE=1048576`, then `systemctl restart weft`; in a shell, `ulimit -n 1048576` before `weft up`";
    match limit {
        limit if limit < FILES_NEEDED => Check::error("open files", format!("only {limit} allowed"), why, fix),
        limit if limit < FILES_WANTED => Check::warning("open files", format!("only {limit} allowed"), why, fix),
        limit => Check::ok("open files", format!("{limit} allowed")),
    }
}

/// Peers by version, this node's own first.
pub fn versions(own: &str, peers: &[(String, String)]) -> Check {
    let others: Vec<String> =
        peers.iter().filter(|(_, version)| version != own).map(|(name, version)| format!("{name} {version}")).collect();
    if others.is_empty() {
        return Check::ok("versions", format!("all nodes run {own}"));
    }
    Check::warning(
        "versions",
        format!("this node runs {own}; {}", some(&others)),
        "what only one version knows is not in force everywhere",
        "bring all nodes to one version, one after the other",
    )
}

/// `bytes` of gossip's digest, which must fit into one message of `most`.
pub fn gossip(bytes: usize, most: usize, is_alarm: bool) -> Check {
    let what = format!(
        "the digest of members and former ones takes {} % of a message",
        bytes.saturating_mul(100) / most.max(1)
    );
    match is_alarm {
        false => Check::ok("gossip", what),
        true => Check::warning(
            "gossip",
            what,
            "when it fits no more, gossip stops, and members are judged by links and their own words alone",
            "split the mesh in two; hosts that are gone for good are forgotten sooner after `weft leave`",
        ),
    }
}

/// `mtu`: bytes of the largest packet that QUIC found to get through, and how many of its larger probes were lost.
pub fn mtu(links: &[(String, u16, u64)]) -> Check {
    let narrow = |(_, mtu, lost): &&(String, u16, u64)| *mtu <= SMALLEST_MTU && *lost >= 3;
    let narrow: Vec<String> = links.iter().filter(narrow).map(|(name, mtu, _)| format!("{name} ({mtu})")).collect();
    match (narrow.is_empty(), links.iter().map(|(_, mtu, _)| mtu).min()) {
        (true, Some(least)) => {
            Check::ok("MTU", format!("packets of {least} bytes and more pass to {} peers", links.len()))
        }
        (true, None) => Check::ok("MTU", "no link to a peer"),
        (false, _) => Check::warning(
            "MTU",
            format!("only the smallest packets pass to {}", some(&narrow)),
            "a tunnel or a firewall between drops larger ones, perhaps of TCP too: large answers would hang",
            "`tracepath -n ADDRESS` shows where; lower the interface's MTU, or let ICMP \"fragmentation needed\" through",
        ),
    }
}

/// `ill`: documents that are not in force, with the reason.
pub fn documents(count: usize, ill: &[(String, String)], lagging: &[String]) -> Vec<Check> {
    let mut checks: Vec<Check> = ill
        .iter()
        .take(LISTED)
        .map(|(document, why)| {
            Check::error(
                format!("document {document}"),
                "not in force as written",
                why,
                "mend the document and `weft apply -f` it again; `weft analyze` tells more",
            )
        })
        .collect();
    if ill.len() > LISTED {
        let more = ill.len() - LISTED;
        checks.push(Check::error(
            "documents",
            format!("{more} more are not in force"),
            "see their status",
            "`weft get all -A -o wide`",
        ));
    }
    if !lagging.is_empty() {
        checks.push(Check::warning(
            "documents",
            format!("not yet the same on {}", some(lagging)),
            "these nodes act by older documents",
            "wait a few seconds and look again; if it stays, `weft doctor` there",
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok("documents", format!("{count}, the same on all nodes")));
    }
    checks
}

/// An address that the node is to listen on, and whether that works.
pub fn port(what: &str, protocol: &str, address: SocketAddr, bound: io::Result<()>) -> Check {
    let about = format!("port {}/{protocol}", address.port());
    match bound {
        Ok(()) => Check::ok(about, format!("{address} is free for {what}")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Check::error(
            about,
            format!("{address}, for {what}, is taken"),
            "the node cannot start beside whoever listens there",
            format!(
                "`ss -lnp{} 'sport = :{}'` names the process: stop it, or give {what} another address in node.yaml",
                if protocol == "udp" { "u" } else { "t" },
                address.port()
            ),
        ),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Check::error(
            about,
            format!("{} is no address of this host", address.ip()),
            "the node can only listen on addresses that the host has",
            "`ip address` lists them: write one of them as `advertise` in node.yaml",
        ),
        Err(error) => Check::error(
            about,
            format!("{address}, for {what}: {error}"),
            "the node cannot start",
            "run it as root, or as its unit does: `systemctl start weft`",
        ),
    }
}

fn some(names: &[String]) -> String {
    let shown = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED { format!("{shown} and {} more", names.len() - LISTED) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(of: &[(&str, i64)]) -> Vec<(String, i64)> {
        of.iter().map(|(name, offset)| ((*name).to_owned(), *offset)).collect()
    }

    #[test]
    fn the_clock_that_is_off_is_named() {
        let judge = |of: &[(&str, i64)]| {
            let checks = clock("me", &offsets(of));
            checks
                .iter()
                .map(|check| format!("{:?} {}: {}", check.verdict, check.about, check.what))
                .collect::<Vec<_>>()
        };
        assert_eq!(judge(&[]), ["Ok clock: no peer to compare with"]);
        assert_eq!(judge(&[("a", 30), ("b", -1_999)]), ["Ok clock: within 1999ms of 2 peers' clocks"]);
        assert_eq!(judge(&[("a", 9_000)]), ["Error clock: a and me are 9.0s apart"]);
        assert_eq!(
            judge(&[("a", 9_000), ("b", 9_100), ("c", 10)]),
            ["Error clock: this clock is 9.0s behind that of 2 peers"]
        );
        assert_eq!(judge(&[("a", -5_000), ("b", 3), ("c", 4)]), ["Error clock of a: 5.0s behind"]);
    }

    #[test]
    fn a_peer_is_well_only_if_all_four_ways_work() {
        let reach = |tcp: bool, udp: bool| Reach {
            tcp: (!tcp).then(|| "refused".to_owned()),
            udp: (!udp).then(|| "no answer".to_owned()),
        };
        let judge = |there, back| {
            let address = "10.0.0.2:15008".parse().unwrap();
            peer("me", &Peer { name: "a".into(), address, there, back })
        };
        assert_eq!(judge(reach(true, true), Ok(reach(true, true))).verdict, Verdict::Ok);
        assert_eq!(judge(reach(true, true), Err("older".into())).verdict, Verdict::Warning);
        let no_way_back = judge(reach(true, true), Ok(reach(true, false)));
        assert_eq!((no_way_back.verdict, &*no_way_back.what), (Verdict::Error, "from there by UDP: no answer"));
        let down = judge(reach(false, false), Err("down".into()));
        assert!(
            down.what.contains("10.0.0.2:15008 is not reached") && down.fix.unwrap().contains("on a:"),
            "{}",
            down.what
        );
    }

    #[test]
    fn certificates_warn_before_they_end() {
        let verdict = |begins, left, intermediate| certificate("x", begins, left, intermediate).verdict;
        assert_eq!(verdict(-5, 20 * 3_600, false), Verdict::Ok);
        assert_eq!(verdict(-5, 3_600, false), Verdict::Warning);
        assert_eq!(verdict(-5, 9 * 86_400, true), Verdict::Warning);
        assert_eq!(verdict(-5, -1, false), Verdict::Error);
        assert_eq!(verdict(5, 86_400, false), Verdict::Error, "the clock is behind");
    }

    #[test]
    fn limits_versions_packets_and_documents_are_judged() {
        assert_eq!(
            [512, 4_096, 1 << 20].map(|limit| files(limit).verdict),
            [Verdict::Error, Verdict::Warning, Verdict::Ok]
        );
        let peers = [("a".to_owned(), "1.0".to_owned()), ("b".to_owned(), "0.9".to_owned())];
        assert_eq!(versions("1.0", &peers).what, "this node runs 1.0; b 0.9");
        assert_eq!(versions("1.0", &peers[..1]).verdict, Verdict::Ok);
        assert_eq!(
            [gossip(900, 65_507, false), gossip(40_000, 65_507, true)].map(|check| check.verdict),
            [Verdict::Ok, Verdict::Warning]
        );
        assert_eq!(mtu(&[("a".into(), 1_452, 0)]).verdict, Verdict::Ok);
        assert_eq!(mtu(&[("a".into(), 1_452, 0), ("b".into(), 1_200, 4)]).verdict, Verdict::Warning);
        let ill: Vec<_> =
            (0..25).map(|i| (format!("VirtualService default/v{i}"), "no such host".to_owned())).collect();
        let checks = documents(30, &ill, &["c".into()]);
        assert_eq!((checks.len(), checks[20].what.as_str()), (22, "5 more are not in force"));
        assert_eq!(documents(3, &[], &[])[0].verdict, Verdict::Ok);
    }

    #[test]
    fn ports_say_who_to_look_for() {
        let address = "10.0.0.1:15008".parse().unwrap();
        let judge = |kind| port("nodes", "udp", address, Err(io::Error::from(kind)));
        assert!(judge(io::ErrorKind::AddrInUse).fix.unwrap().contains("ss -lnpu 'sport = :15008'"));
        assert!(judge(io::ErrorKind::AddrNotAvailable).what.contains("10.0.0.1 is no address of this host"));
        assert_eq!(port("nodes", "tcp", address, Ok(())).verdict, Verdict::Ok);
    }
}
