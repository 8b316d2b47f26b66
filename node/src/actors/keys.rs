//! The `keys` actor: fetches the key sets of token issuers that this node's workloads believe, and keeps them fresh.
//! Requests read what it publishes, and wait only for a set that was never fetched.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use weft_policy::authenticate::{Jwks, KeysAt, KnownKeys, MAX_JWKS_LEN};
use weft_proxy::ports::KeyPublisher;

use super::refresh::{self, Refresh};
use crate::{
    fetch::Fetcher,
    supervisor::{Actor, Inbox},
};

/// How old a set may be before it is fetched again, as in Istio.
const REFRESH_EVERY: Duration = Duration::from_secs(20 * 60);

/// The sets that workloads of this node need, each with the longest time that fetching it may take.
pub type Wanted = Arc<BTreeMap<KeysAt, Duration>>;

#[derive(Clone)]
pub struct Setup {
    pub wanted: watch::Receiver<Wanted>,
    pub fetcher: Fetcher,
    /// Outlives the actor, and with it what was fetched; only the actor locks it.
    pub publisher: Arc<Mutex<KeyPublisher>>,
}

pub struct KeysActor {
    setup: Setup,
    sets: HashMap<KeysAt, KeySet>,
    fetches: JoinSet<(KeysAt, anyhow::Result<Jwks>)>,
}

struct KeySet {
    known: KnownKeys,
    refresh: Refresh,
}

impl KeysActor {
    pub fn new(setup: Setup) -> Self {
        let published = setup.publisher.lock().table();
        let known = |known: &KnownKeys| KeySet { known: known.clone(), refresh: Refresh::due(Instant::now()) };
        let sets = published.iter().map(|(at, keys)| (at.clone(), known(keys))).collect();
        Self { setup, sets, fetches: JoinSet::new() }
    }

    fn follow_wanted(&mut self) {
        let wanted = self.setup.wanted.borrow_and_update().clone();
        let before = self.sets.len();
        self.sets.retain(|at, _| wanted.contains_key(at));
        for at in wanted.keys() {
            let new = || KeySet { known: KnownKeys::NotFetched, refresh: Refresh::due(Instant::now()) };
            self.sets.entry(at.clone()).or_insert_with(new);
        }
        if self.sets.len() != before {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let table = self.sets.iter().map(|(at, set)| (at.clone(), set.known.clone()));
        self.setup.publisher.lock().publish(table.collect());
    }

    fn fetch_due(&mut self) {
        let now = Instant::now();
        let wanted = self.setup.wanted.borrow().clone();
        for (at, set) in &mut self.sets {
            if !set.refresh.is_due(now) {
                continue;
            }
            let Some(limit) = wanted.get(at).copied() else { continue };
            set.refresh.begin();
            let (at, fetcher) = (at.clone(), self.setup.fetcher.clone());
            self.fetches.spawn(async move {
                let fetched = timeout(limit, fetch(&fetcher, &at)).await;
                let fetched = fetched.unwrap_or_else(|_| Err(anyhow::anyhow!("took longer than {limit:?}")));
                (at, fetched)
            });
        }
    }

    fn on_fetched(&mut self, at: KeysAt, fetched: anyhow::Result<Jwks>) {
        let Some(set) = self.sets.get_mut(&at) else { return };
        match fetched {
            Ok(keys) => {
                for problem in &keys.problems {
                    tracing::warn!(?at, problem, "a key of a token issuer is left out");
                }
                set.known = KnownKeys::Known(Arc::new(keys));
                set.refresh.succeeded(Instant::now(), REFRESH_EVERY);
            }
            Err(error) => {
                let (_, pause) = set.refresh.failed(Instant::now());
                tracing::warn!(?at, error = format!("{error:#}"), ?pause, "a token issuer's keys cannot be fetched");
                // The last good ones stay.
                if !matches!(set.known, KnownKeys::Known(_)) {
                    set.known = KnownKeys::Failed;
                }
            }
        }
        self.publish();
    }

    fn next_fetch(&self) -> Option<Instant> {
        self.sets.values().filter_map(|set| set.refresh.next()).min()
    }
}

async fn fetch(fetcher: &Fetcher, at: &KeysAt) -> anyhow::Result<Jwks> {
    let url = match at {
        KeysAt::Url(url) => url.clone(),
        KeysAt::Issuer(issuer) => {
            let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let found = fetcher.get(&url, MAX_JWKS_LEN).await.with_context(|| url.clone())?;
            let found: serde_json::Value = serde_json::from_slice(&found).with_context(|| format!("{url}: no JSON"))?;
            let keys_at = found.get("jwks_uri").and_then(|url| url.as_str());
            keys_at.with_context(|| format!("{url}: has no text jwks_uri"))?.to_owned()
        }
    };
    let text = fetcher.get(&url, MAX_JWKS_LEN).await.with_context(|| url.clone())?;
    let text = std::str::from_utf8(&text).with_context(|| format!("{url}: no text"))?;
    Jwks::read(text).map_err(|what| anyhow::anyhow!("{url}: {what}"))
}

impl Actor for KeysActor {
    type Msg = Infallible;

    async fn run(mut self, inbox: &mut Inbox<Infallible>) -> anyhow::Result<()> {
        self.follow_wanted();
        loop {
            self.fetch_due();
            let due = refresh::until(self.next_fetch());
            tokio::select! {
                biased;
                changed = self.setup.wanted.changed() => {
                    changed?;
                    self.follow_wanted();
                }
                Some(fetched) = self.fetches.join_next() => {
                    let (at, fetched) = fetched?;
                    self.on_fetched(at, fetched);
                }
                () = due => {}
                message = inbox.recv() => match message {
                    Some(never) => match never {},
                    None => return Ok(()),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use weft_policy::view::MeshView;
    use weft_proxy::ports::{KeySets, key_sets, views};

    use super::*;
    use crate::supervisor::{Limits, Supervisor};

    const NO_KEYS: &str = r#"{"keys": []}"#;

    /// Answers each connection with what `answer` says for its path, or hangs up.
    async fn server(answer: impl Fn(&str) -> Option<String> + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 1024];
                let read = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let Some(body) = head.split(' ').nth(1).and_then(&answer) else { continue };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        url
    }

    fn start(wanted: BTreeMap<KeysAt, Duration>) -> (KeySets, watch::Sender<Wanted>, Arc<Supervisor>) {
        let (publisher, sets) = key_sets();
        let (sender, wanted) = watch::channel(Arc::new(wanted));
        let (_views, views) = views(MeshView::empty("cluster.local".parse().unwrap()));
        let fetcher = Fetcher::new(views, "127.0.0.1:1".parse().unwrap());
        let setup = Setup { wanted, fetcher, publisher: Arc::new(Mutex::new(publisher)) };
        let supervisor = Arc::new(Supervisor::new(Limits::default()).unwrap());
        let (_mailbox, opened) = supervisor.open("keys", 1);
        supervisor.start(opened, move || Ok(KeysActor::new(setup.clone())));
        (sets, sender, supervisor)
    }

    async fn becomes(sets: &KeySets, at: &KeysAt, wanted: fn(&KnownKeys) -> bool) {
        let mut changes = sets.changes();
        let found = async {
            while !wanted(&sets.get(at)) {
                let _ = timeout(Duration::from_millis(50), changes.changed()).await;
            }
        };
        timeout(Duration::from_secs(20), found).await.unwrap_or_else(|_| panic!("{at:?} is {:?}", sets.get(at)));
    }

    #[tokio::test]
    async fn sets_are_fetched_by_url_and_by_issuer_and_a_failure_keeps_the_last_good_one() {
        let keys = server(|_| Some(NO_KEYS.into())).await;
        let jwks_uri = format!("{keys}/jwks");
        let issuer = server(move |path| match path {
            "/realm/.well-known/openid-configuration" => Some(format!(r#"{{"jwks_uri": "{jwks_uri}"}}"#)),
            _ => None,
        })
        .await;
        let by_url = KeysAt::Url(format!("{keys}/jwks"));
        let by_issuer = KeysAt::Issuer(format!("{issuer}/realm/"));
        let broken = KeysAt::Url(format!("{issuer}/nothing"));
        let limit = Duration::from_secs(5);
        let wanted: BTreeMap<_, _> = [&by_url, &by_issuer, &broken].map(|at| (at.clone(), limit)).into();
        let (sets, sender, _supervisor) = start(wanted);
        let is_known = |known: &KnownKeys| matches!(known, KnownKeys::Known(_));
        becomes(&sets, &by_url, is_known).await;
        becomes(&sets, &by_issuer, is_known).await;
        becomes(&sets, &broken, |known| matches!(known, KnownKeys::Failed)).await;
        // What nobody wants any more is forgotten.
        sender.send_replace(Arc::new([(by_url.clone(), limit)].into()));
        becomes(&sets, &by_issuer, |known| matches!(known, KnownKeys::NotFetched)).await;
        becomes(&sets, &by_url, is_known).await;
    }

    #[tokio::test]
    async fn a_failed_fetch_is_tried_again() {
        let tries = Arc::new(Mutex::new(0));
        let counted = tries.clone();
        let keys = server(move |_| {
            let mut tries = counted.lock();
            *tries += 1;
            (*tries > 1).then(|| NO_KEYS.to_owned())
        })
        .await;
        let at = KeysAt::Url(keys);
        let (sets, _sender, _supervisor) = start([(at.clone(), Duration::from_secs(5))].into());
        becomes(&sets, &at, |known| matches!(known, KnownKeys::Known(_))).await;
        assert_eq!(*tries.lock(), 2);
    }

    #[test]
    fn a_failure_after_a_success_changes_nothing_for_requests() {
        let (publisher, _) = key_sets();
        let (_views, views) = views(MeshView::empty("cluster.local".parse().unwrap()));
        let (_sender, wanted) = watch::channel(Wanted::default());
        let fetcher = Fetcher::new(views, "127.0.0.1:1".parse().unwrap());
        let mut actor = KeysActor::new(Setup { wanted, fetcher, publisher: Arc::new(Mutex::new(publisher)) });
        let at = KeysAt::Url("http://a/".into());
        actor.sets.insert(at.clone(), KeySet { known: KnownKeys::NotFetched, refresh: Refresh::due(Instant::now()) });
        actor.on_fetched(at.clone(), Ok(Jwks::read(NO_KEYS).unwrap()));
        actor.on_fetched(at.clone(), Err(anyhow::anyhow!("down")));
        assert!(matches!(actor.sets[&at].known, KnownKeys::Known(_)));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            actor.on_fetched(at.clone(), Err(anyhow::anyhow!("down")));
            pauses.push(actor.sets[&at].refresh.next().unwrap() - Instant::now());
        }
        let (_, longest) = refresh::RETRY;
        assert!(pauses[8] <= longest && pauses[8] > longest / 2 && pauses[0] < pauses[8], "{pauses:?}");
    }
}
