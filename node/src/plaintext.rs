//! Who calls workloads of this host past weft, so without its TLS and its policies: what the kernel's table of TCP
//! sockets shows, remembered for a while, since many connections are short.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use crate::actors::health::WorkloadKey;

/// Callers are forgotten when they were not seen for so long.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Callers that are remembered; of more, those that were seen last.
const MAX_SIGHTINGS: usize = 1_024;

/// Closed connections stay in the kernel's table for a minute at least where this host closed them first; others are
/// seen only while they are open.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Where a look takes long: its table has a place for each 64 KiB of the host's memory, which the kernel goes through.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(20);
/// Looking takes one part in so many of the time, unless that were too seldom.
const SHARE: u32 = 1_000;

/// How long to wait until the next look, after one that has taken so long.
pub fn pause(took: Duration) -> Duration {
    took.saturating_mul(SHARE).clamp(LOOK_EVERY, LOOK_AT_LEAST_EVERY)
}

/// A connection in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub is_established: bool,
}

/// The connections in a table in the form of `/proc/net/tcp` and `/proc/net/tcp6`
/// (<https://docs.kernel.org/networking/proc_net_tcp.html>): those that carry data, or have until just now. Lines in
/// another form are left out.
pub fn connections(table: &str) -> impl Iterator<Item = Connection> {
    table.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (socket(words.next()?)?, socket(words.next()?)?);
        // Of include/net/tcp_states.h, without those in which no handshake is complete yet, LISTEN and CLOSE.
        let is_established = match u8::from_str_radix(words.next()?, 16).ok()? {
            1 => true,
            4 | 5 | 6 | 8 | 9 | 11 => false,
            _ => return None,
        };
        Some(Connection { local, remote, is_established })
    })
}

/// `0100007F:1F90`: words of four bytes in this host's order, then the port.
fn socket(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (place, bytes) in bytes.chunks_exact_mut(4).enumerate() {
                bytes.copy_from_slice(&word(place * 8)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Who was seen calling which workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub workload: WorkloadKey,
    pub from: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Where the workload listens.
    pub port: u16,
    /// Connections that were open when it was looked last.
    pub open: usize,
    pub last: Instant,
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Sightings(HashMap<Call, Sighting>);

impl Sightings {
    /// Takes what the kernel's table shows now. `ports` has the workloads by where they listen; weft itself calls them
    /// from this host.
    pub fn observe(
        &mut self,
        now: Instant,
        connections: impl IntoIterator<Item = Connection>,
        ports: &BTreeMap<u16, BTreeSet<WorkloadKey>>,
    ) {
        for sighting in self.0.values_mut() {
            sighting.open = 0;
        }
        for Connection { local, remote, is_established } in connections {
            let from = remote.ip();
            if from.is_loopback() || from == local.ip() {
                continue;
            }
            for workload in ports.get(&local.port()).into_iter().flatten() {
                let call = Call { workload: workload.clone(), from };
                let sighting = self.0.entry(call).or_insert(Sighting { port: local.port(), open: 0, last: now });
                (sighting.port, sighting.last) = (local.port(), now);
                sighting.open += usize::from(is_established);
            }
        }
        self.0.retain(|_, sighting| now.duration_since(sighting.last) < REMEMBERED_FOR);
        if let Some(surplus) = self.0.len().checked_sub(MAX_SIGHTINGS).filter(|surplus| *surplus > 0) {
            let mut times: Vec<Instant> = self.0.values().map(|sighting| sighting.last).collect();
            let (_, latest_to_go, _) = times.select_nth_unstable(surplus - 1);
            let (latest_to_go, mut to_go) = (*latest_to_go, surplus);
            self.0.retain(|_, sighting| {
                let goes = sighting.last <= latest_to_go && to_go > 0;
                to_go -= usize::from(goes);
                !goes
            });
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Call, &Sighting)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0200000A:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0200000A:1F90 0900000A:D431 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0200000A:1F90 0900000A:D432 06 00000000:00000000 03:00000D0C 00000000     0        0 0 3 0
   3: 0200000A:1F90 0800000A:D433 03 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
   4: 0100007F:1F90 0100007F:D434 01 00000000:00000000 00:00000000 00000000     0        0 5 1 0 20 4 30 10 -1
   5: 0200000A:1F90 0200000A:D435 01 00000000:00000000 00:00000000 00000000     0        0 6 1 0 20 4 30 10 -1
";
    const TABLE_6: &str = "   0: 0000000000000000FFFF00000200000A:1F90 0000000000000000FFFF00000700000A:D431 01 0 0 0
   1: B80D01200000000000000000 01000000:1F90 B80D0120000000000000000002000000:D431 01
   2: B80D0120000000000000000001000000:1F90 B80D0120000000000000000002000000:D431 01 more
";

    fn key(name: &str) -> WorkloadKey {
        ("default".parse().unwrap(), name.parse().unwrap())
    }

    fn ports(workload: &str) -> BTreeMap<u16, BTreeSet<WorkloadKey>> {
        [(8080, [key(workload)].into())].into()
    }

    fn seen(sightings: &Sightings) -> Vec<(String, usize)> {
        let mut seen: Vec<_> =
            sightings.iter().map(|(call, sighting)| (call.from.to_string(), sighting.open)).collect();
        seen.sort();
        seen
    }

    // The kernel writes words in the host's order; these were written on a little-endian one.
    #[cfg(target_endian = "little")]
    #[test]
    fn only_connections_from_elsewhere_are_calls_past_weft() {
        let mut sightings = Sightings::default();
        sightings.observe(Instant::now(), connections(TABLE).chain(connections(TABLE_6)), &ports("web"));
        let expected = [("10.0.0.7", 1), ("10.0.0.9", 1), ("2001:db8::2", 1)];
        assert_eq!(seen(&sightings), expected.map(|(from, open)| (from.to_owned(), open)));

        sightings.observe(Instant::now(), connections(""), &ports("web"));
        assert_eq!(seen(&sightings), expected.map(|(from, _)| (from.to_owned(), 0)), "they are remembered");

        let mut others = Sightings::default();
        others.observe(Instant::now(), connections(TABLE), &[(9090, [key("web")].into())].into());
        assert_eq!(seen(&others), [], "nobody of this mesh listens there");
    }

    #[test]
    fn looking_takes_a_thousandth_of_the_time_but_is_not_too_seldom() {
        let pauses = [0, 4, 12, 20, 65, u64::MAX / 1_000].map(|took| pause(Duration::from_millis(took)).as_secs());
        assert_eq!(pauses, [5, 5, 12, 20, 20, 20]);
    }

    #[test]
    fn nothing_in_another_form_is_a_connection() {
        for line in ["", "0:", "0: x:y z:w 01", "0: 0200000A:1F90 0900000A 01", "0: é200000:1F90 0900000A:D431 01"] {
            assert_eq!(connections(line).collect::<Vec<_>>(), [], "{line:?}");
        }
    }

    #[test]
    fn callers_are_forgotten_after_a_day_and_the_oldest_where_they_are_too_many() {
        let connection = |last: u32| Connection {
            local: "10.0.0.2:8080".parse().unwrap(),
            remote: SocketAddr::new(Ipv4Addr::from(0x0a01_0000 + last).into(), 40_000),
            is_established: true,
        };
        let (mut sightings, now) = (Sightings::default(), Instant::now());
        sightings.observe(now, (0..10).map(connection), &ports("web"));
        let later = now + Duration::from_secs(60);
        sightings.observe(later, (10..10 + MAX_SIGHTINGS as u32 - 4).map(connection), &ports("web"));
        assert_eq!(sightings.iter().count(), MAX_SIGHTINGS);
        assert_eq!(sightings.iter().filter(|(_, sighting)| sighting.last == now).count(), 4);
        sightings.observe(now + REMEMBERED_FOR, [], &ports("web"));
        assert!(sightings.iter().all(|(_, sighting)| sighting.last == later));
        sightings.observe(later + REMEMBERED_FOR, [], &ports("web"));
        assert_eq!(sightings.iter().count(), 0);
    }
}
