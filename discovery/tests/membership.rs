//! Real chitchat between several nodes, over channels that a test can cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;
use weft_discovery::membership::{Member, MemberSet, Membership, MembershipError, Settings, Transport};
use weft_wire::{
    fact::FactVersion,
    id::{CellName, MeshId, NodeName},
};

const INTERVAL: Duration = Duration::from_millis(50);
/// No step takes a tenth of this on an idle machine.
const DEADLINE: Duration = Duration::from_secs(60);
const MESH: MeshId = MeshId([7; 32]);

type Inboxes = BTreeMap<SocketAddr, mpsc::Sender<(SocketAddr, Bytes)>>;

/// Delivers between nodes, except over cut links.
#[derive(Clone, Default)]
struct Network {
    inboxes: Arc<Mutex<Inboxes>>,
    cut: Arc<Mutex<BTreeSet<(SocketAddr, SocketAddr)>>>,
}

impl Network {
    fn attach(&self, me: SocketAddr) -> Transport {
        let (deliver, incoming) = mpsc::channel(64);
        let (outgoing, mut sent) = mpsc::channel::<(SocketAddr, Bytes)>(64);
        self.inboxes.lock().unwrap().insert(me, deliver);
        let network = self.clone();
        tokio::spawn(async move {
            while let Some((to, bytes)) = sent.recv().await {
                let inbox = network.inboxes.lock().unwrap().get(&to).cloned();
                if !network.cut.lock().unwrap().contains(&(me, to))
                    && let Some(inbox) = inbox
                {
                    let _ = inbox.try_send((me, bytes)); // a full or closed inbox loses it, as a network may
                }
            }
        });
        Transport { outgoing, incoming }
    }

    /// Cuts all links between the two groups, both ways.
    fn cut(&self, one: &[SocketAddr], other: &[SocketAddr]) {
        let pairs = one.iter().flat_map(|&a| other.iter().flat_map(move |&b| [(a, b), (b, a)]));
        self.cut.lock().unwrap().extend(pairs);
    }

    fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }
}

fn name(n: u8) -> NodeName {
    format!("n{n}").parse().unwrap()
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, n], 15008))
}

async fn start(network: &Network, n: u8, incarnation: u64, mesh: MeshId) -> Membership {
    let settings = Settings {
        mesh,
        cell: CellName::default_cell(),
        name: name(n),
        incarnation,
        advertise: address(n),
        interval: INTERVAL,
    };
    let membership = Membership::start(settings, network.attach(address(n))).await.unwrap();
    membership.greet(address(1));
    membership
}

async fn start_mesh(network: &Network, nodes: u8) -> Vec<Membership> {
    let mut mesh = Vec::new();
    for n in 1..=nodes {
        mesh.push(start(network, n, 1, MESH).await);
    }
    for membership in &mesh {
        until(membership, |set| live(set) == (1..=nodes).map(name).collect()).await;
    }
    mesh
}

fn live(set: &MemberSet) -> BTreeSet<NodeName> {
    set.members.values().filter(|member| member.live).filter_map(|member| member.name.clone()).collect()
}

fn member(set: &MemberSet, n: u8) -> Option<&Member> {
    set.members.get(&name(n).id())
}

async fn until(membership: &Membership, wanted: impl Fn(&MemberSet) -> bool) {
    let mut watch = membership.watch();
    let met = tokio::time::timeout(DEADLINE, watch.wait_for(|set| wanted(set))).await;
    assert!(met.is_ok(), "still {:#?}", membership.watch().borrow());
}

#[tokio::test]
async fn five_nodes_find_each_other_through_one_seed_and_share_their_keys() {
    let network = Network::default();
    let mesh = start_mesh(&network, 5).await;
    let (facts, root) = (FactVersion { incarnation: 1, seq: 9 }, [3; 16]);
    mesh[4].announce_facts(facts).await;
    mesh[4].announce_documents(root).await;
    for membership in &mesh {
        until(membership, |set| {
            member(set, 5).is_some_and(|member| {
                member.facts == Some(facts) && member.documents == Some(root) && member.address == address(5)
            })
        })
        .await;
    }
    let stats = mesh[0].stats();
    assert!(stats.digest_bytes > 100 && !stats.digest_alarm, "{stats:?}");
    assert_eq!((stats.malformed, stats.unsendable), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn a_silent_node_is_noticed_and_its_restart_replaces_it() {
    let network = Network::default();
    let mut mesh = start_mesh(&network, 5).await;
    drop(mesh.remove(4));
    for membership in &mesh {
        until(membership, |set| member(set, 5).is_some_and(|member| !member.live)).await;
    }
    let restarted = start(&network, 5, 2, MESH).await;
    for membership in mesh.iter().chain([&restarted]) {
        until(membership, |set| member(set, 5).is_some_and(|member| member.live && member.incarnation == 2)).await;
        until(membership, |set| set.members.len() == 5).await;
    }
}

#[tokio::test]
async fn a_partition_splits_and_heals() {
    let network = Network::default();
    let mesh = start_mesh(&network, 5).await;
    let addresses: Vec<_> = (1..=5).map(address).collect();
    network.cut(&addresses[..3], &addresses[3..]);
    for (i, membership) in mesh.iter().enumerate() {
        let side: BTreeSet<_> = if i < 3 { (1..=3).map(name).collect() } else { (4..=5).map(name).collect() };
        until(membership, |set| live(set) == side).await;
    }
    let missed = FactVersion { incarnation: 1, seq: 77 };
    mesh[0].announce_facts(missed).await;
    network.heal();
    for membership in &mesh {
        until(membership, |set| live(set).len() == 5).await;
        until(membership, |set| member(set, 1).is_some_and(|member| member.facts == Some(missed))).await;
    }
}

#[tokio::test]
async fn a_node_of_another_mesh_is_no_member() {
    let network = Network::default();
    let mesh = start_mesh(&network, 2).await;
    let stranger = start(&network, 3, 1, MeshId([8; 32])).await;
    until(&stranger, |set| set.members.len() == 1).await;
    stranger.greet(address(1));
    stranger.greet(address(2));
    // In twenty rounds the others would have met it several times over.
    for _ in 0..20 {
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(mesh[0].watch().borrow().members.len(), 2);
        assert_eq!(stranger.watch().borrow().members.len(), 1);
    }
}

#[tokio::test]
async fn the_end_of_gossip_can_be_seen() {
    let network = Network::default();
    let membership = start(&network, 1, 1, MESH).await;
    until(&membership, |set| live(set).len() == 1).await;
    let terminated = membership.terminated();
    network.inboxes.lock().unwrap().clear();
    let error = tokio::time::timeout(DEADLINE, terminated).await.unwrap();
    assert!(matches!(&error, MembershipError::Terminated(why) if why.contains("closed")), "{error}");
}
