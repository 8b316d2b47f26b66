//! Where requests go whose cluster has no places of its own: to the address that each asks for, or that its host has.
//! Each worker looks names up for itself, and keeps what it made for an address, so that a failed connect and an
//! ejection are remembered.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use weft_policy::{
    address::{self, may_be_outside},
    balance::Cluster,
};

use crate::{
    error::ProxyError,
    resolve::{Resolve, usable},
};

/// How old an answer may be before it is asked for again. The host's resolver tells no time to live.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// The same for a failure.
const FAILURE_KEPT_FOR: Duration = Duration::from_secs(1);
/// The longest that a look-up may take, with waiting for its turn.
const LIMIT: Duration = Duration::from_secs(5);
/// Look-ups of a worker under way at once. Each holds a thread of the runtime's pool for blocking work.
const AT_ONCE: usize = 16;
/// Names, and addresses, that a worker remembers. Callers choose them: beyond that it forgets.
const MAX_KNOWN: usize = 1_024;

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Where it came in: who calls that would come here again, for ever. `None` where the proxy asks for itself.
    pub(crate) local: Option<SocketAddr>,
}

/// Of a name its addresses, sorted, or why there is none.
type Answer = Result<Arc<[IpAddr]>, Arc<str>>;

struct Name {
    asked_at: Instant,
    answer: Shared<LocalBoxFuture<'static, Answer>>,
}

/// A cluster with the places at some addresses, and the one that it was made of.
struct Made {
    of: Arc<Cluster>,
    cluster: Arc<Cluster>,
}

pub(crate) struct Originals {
    resolve: Resolve,
    turns: Rc<Semaphore>,
    names: RefCell<HashMap<Box<str>, Name>>,
    /// There are few clusters with places at the same addresses, so a list will do.
    made: RefCell<HashMap<Box<[SocketAddr]>, Vec<Made>>>,
}

impl Originals {
    pub(crate) fn new(resolve: Resolve) -> Self {
        let turns = Rc::new(Semaphore::new(AT_ONCE));
        Self { resolve, turns, names: RefCell::default(), made: RefCell::default() }
    }

    /// The cluster with the places that a request asks for.
    pub(crate) async fn find(&self, cluster: &Arc<Cluster>, asked: &Asked) -> Result<Arc<Cluster>, ProxyError> {
        let host = cluster.destination_host(&asked.host);
        let port = cluster.original_destination().and_then(|original| original.port).unwrap_or(asked.port);
        let ips = match address::of_host(host) {
            Some(ip) if may_be_outside(ip) => Arc::from([ip.to_canonical()]),
            Some(_) => return Err(ProxyError::NotOutside(host.to_owned())),
            None => {
                let failed = |why| ProxyError::Unresolved { host: host.to_owned(), why };
                self.addresses_of(host).await.map_err(failed)?
            }
        };
        let own = asked.local.map(|local| SocketAddr::new(local.ip().to_canonical(), local.port()));
        let addresses = ips.iter().map(|ip| SocketAddr::new(*ip, port));
        let addresses: Vec<SocketAddr> = addresses.filter(|address| Some(*address) != own).collect();
        if addresses.is_empty() {
            return Err(ProxyError::NotOutside(host.to_owned()));
        }
        self.made_for(cluster, &addresses).ok_or_else(|| ProxyError::NoEndpoint(host.to_owned()))
    }

    async fn addresses_of(&self, host: &str) -> Answer {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let now = Instant::now();
        let known = self.names.borrow().get(&*host).filter(|name| name.is_current(now)).map(|name| name.answer.clone());
        match known {
            Some(answer) => answer.await,
            None => self.ask(host, now).await,
        }
    }

    fn ask(&self, host: String, now: Instant) -> Shared<LocalBoxFuture<'static, Answer>> {
        let (asked, turns) = ((self.resolve)(host.clone()), self.turns.clone());
        let found = async move {
            let in_turn = async {
                let _turn = turns.acquire().await.map_err(io::Error::other)?;
                usable(&asked.await?)
            };
            let found = timeout(LIMIT, in_turn).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match found {
                Ok(mut addresses) => {
                    addresses.sort_unstable();
                    Ok(addresses.into())
                }
                Err(error) => Err(error.to_string().into()),
            }
        };
        let answer = found.boxed_local().shared();
        let mut names = self.names.borrow_mut();
        if names.len() >= MAX_KNOWN {
            names.retain(|_, name| name.is_current(now));
        }
        if names.len() >= MAX_KNOWN {
            names.clear();
        }
        names.insert(host.into(), Name { asked_at: now, answer: answer.clone() });
        answer
    }

    fn made_for(&self, cluster: &Arc<Cluster>, addresses: &[SocketAddr]) -> Option<Arc<Cluster>> {
        let mut made = self.made.borrow_mut();
        if made.len() >= MAX_KNOWN && !made.contains_key(addresses) {
            made.clear();
        }
        if let Some(at_addresses) = made.get(addresses)
            && let Some(known) = at_addresses.iter().find(|made| Arc::ptr_eq(&made.of, cluster))
        {
            return Some(known.cluster.clone());
        }
        let at_addresses = made.entry(addresses.into()).or_default();
        // Of the view before.
        let known = at_addresses.iter().position(|made| made.of.name == cluster.name);
        let known = known.map(|place| at_addresses.swap_remove(place));
        let new = Arc::new(cluster.at(addresses, known.as_ref().map(|known| &*known.cluster))?);
        at_addresses.push(Made { of: cluster.clone(), cluster: new.clone() });
        Some(new)
    }
}

impl Name {
    fn is_current(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.asked_at);
        match self.answer.peek() {
            // Under way.
            None => true,
            Some(Ok(_)) => age < KEPT_FOR,
            Some(Err(_)) => age < FAILURE_KEPT_FOR,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr, sync::Mutex};

    use futures_util::future::join_all;
    use tokio::time::{advance, sleep};
    use weft_policy::{
        compile::{Inputs, compile},
        document::{parse_stored, parse_yaml},
        route::Client,
        unserved::Unserved,
    };
    use weft_wire::{
        document::Stamp,
        id::{Namespace, NodeName},
    };

    use super::*;

    /// Answers of a resolver by name, and how often it was asked.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<Known>>);

    #[derive(Default)]
    struct Known {
        answers: HashMap<String, Vec<IpAddr>>,
        times_asked: usize,
    }

    impl Fake {
        fn originals(&self) -> Originals {
            let fake = self.0.clone();
            Originals::new(Arc::new(move |name| {
                fake.lock().unwrap().times_asked += 1;
                let fake = fake.clone();
                Box::pin(async move {
                    sleep(Duration::from_millis(100)).await;
                    let found = fake.lock().unwrap().answers.get(&name).cloned();
                    found.ok_or_else(|| io::ErrorKind::NotFound.into())
                })
            }))
        }

        fn knows(&self, name: &str, addresses: &str) {
            let addresses = addresses.split(' ').map(|address| address.parse().unwrap()).collect();
            self.0.lock().unwrap().answers.insert(name.into(), addresses);
        }

        fn times_asked(&self) -> usize {
            self.0.lock().unwrap().times_asked
        }
    }

    /// The cluster of hosts that nobody serves.
    fn passthrough() -> Arc<Cluster> {
        let text = "{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default, namespace: \
                    istio-system}, spec: {outboundTrafficPolicy: {mode: ALLOW_ANY}}}";
        let parsed = parse_yaml(text, &Namespace::default_namespace()).unwrap().documents;
        let document = parse_stored(&parsed[0].key, &parsed[0].json, Stamp::default()).unwrap();
        let inputs = Inputs {
            trust_domain: &"cluster.local".parse().unwrap(),
            this_node: &"a".parse::<NodeName>().unwrap(),
            nodes: &[],
            documents: &[Arc::new(document)],
            local: &BTreeMap::new(),
            secrets: &Arc::default(),
            names: &Arc::default(),
        };
        let view = compile(&inputs, None);
        let client = Client { namespace: &Namespace::default_namespace(), workload: None };
        let Unserved::Passed(passthrough) = view.unserved(client) else { panic!() };
        passthrough.cluster.clone()
    }

    fn asked(host: &str) -> Asked {
        Asked { host: host.into(), port: 8080, local: "10.9.0.7:8080".parse().ok() }
    }

    async fn place(originals: &Originals, cluster: &Arc<Cluster>, host: &str) -> Result<String, String> {
        let found = originals.find(cluster, &asked(host)).await.map_err(|error| error.to_string())?;
        let places: Vec<String> = found.endpoints.iter().map(|one| one.address.socket().to_string()).collect();
        Ok(places.join(" "))
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_once_by_many_and_again_when_its_answer_is_old() {
        let (fake, cluster) = (Fake::default(), passthrough());
        let originals = fake.originals();
        fake.knows("a.example", "10.9.0.1");
        let found =
            join_all(["a.example", "A.Example.", "a.example"].map(|host| place(&originals, &cluster, host))).await;
        assert_eq!(found, vec![Ok("10.9.0.1:8080".to_owned()); 3]);
        assert_eq!(fake.times_asked(), 1);
        fake.knows("a.example", "10.9.0.2");
        advance(KEPT_FOR / 2).await;
        assert_eq!(place(&originals, &cluster, "a.example").await.unwrap(), "10.9.0.1:8080");
        advance(KEPT_FOR).await;
        assert_eq!(place(&originals, &cluster, "a.example").await.unwrap(), "10.9.0.2:8080");
        assert!(place(&originals, &cluster, "b.example").await.unwrap_err().contains("b.example is not known"));
        fake.knows("b.example", "10.9.0.4 10.9.0.3 127.0.0.1 10.9.0.7");
        advance(FAILURE_KEPT_FOR).await;
        let all_but_own = place(&originals, &cluster, "b.example").await.unwrap();
        assert_eq!(all_but_own, "10.9.0.3:8080 10.9.0.4:8080");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_led_to_this_host_or_to_where_it_came_from() {
        let (fake, cluster) = (Fake::default(), passthrough());
        let originals = fake.originals();
        fake.knows("near.example", "127.0.0.1");
        fake.knows("again.example", "10.9.0.7");
        for host in ["127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:127.0.0.1]", "10.9.0.7", "again.example"] {
            let error = originals.find(&cluster, &asked(host)).await.unwrap_err();
            assert!(matches!(error, ProxyError::NotOutside(_)), "{host}: {error}");
        }
        let error = originals.find(&cluster, &asked("near.example")).await.unwrap_err();
        assert!(matches!(error, ProxyError::Unresolved { .. }), "{error}");
        assert_eq!(place(&originals, &cluster, "[2001:db8::1]").await.unwrap(), "[2001:db8::1]:8080");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_of_a_place_lasts_and_callers_cannot_make_a_worker_remember_without_bound() {
        let (fake, cluster) = (Fake::default(), passthrough());
        let originals = fake.originals();
        let first = originals.find(&cluster, &asked("10.9.0.1")).await.unwrap();
        assert!(Arc::ptr_eq(&first, &originals.find(&cluster, &asked("10.9.0.1")).await.unwrap()));
        first.endpoints[0].load.connect_failed(0);
        // That of the next view.
        let next = originals.find(&passthrough(), &asked("10.9.0.1")).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &next) && next.endpoints[0].load.is_failing(1));
        for number in 0..2 * MAX_KNOWN {
            let address = Ipv4Addr::from_bits(0x0a0a_0000 + number as u32);
            assert!(originals.find(&cluster, &asked(&address.to_string())).await.is_ok());
            let _ = originals.find(&cluster, &asked(&format!("n{number}.example"))).now_or_never();
        }
        assert!(originals.made.borrow().len() <= MAX_KNOWN);
        assert!(originals.names.borrow().len() <= MAX_KNOWN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_does_not_answer_is_given_up() {
        let originals = Originals::new(Arc::new(|_| Box::pin(std::future::pending())));
        let (begun, cluster) = (Instant::now(), passthrough());
        assert!(place(&originals, &cluster, "a.example").await.is_err());
        assert_eq!(begun.elapsed(), LIMIT);
    }
}
