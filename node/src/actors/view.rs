//! The `view` actor: compiles facts, documents, the members' standing and this host's workloads into the one view
//! that requests read, whenever any of them changes. It owns nothing but the publisher.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::pending,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::anyhow;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use weft_discovery::liveness::Status;
use weft_policy::{
    compile::{Inputs, NodeInput, ResolvedNames, compile},
    document::Document,
    endpoint::Standing,
    secrets::Contents,
    view::MeshView,
};
use weft_proxy::ports::{ViewPublisher, Views};
use weft_wire::id::{Namespace, NodeName, TrustDomain, WorkloadName};

use crate::{
    actors::{documents, facts, health::HostedSet, keys, membership::Standings, names},
    culprit::{Known, Search},
    originations::Originations,
    supervisor::{Actor, Inbox, panic_message},
};

/// Pause after a view was compiled: a burst of changes is worth few views, and one change alone waits for nothing.
const PAUSE: Duration = Duration::from_millis(20);
/// How often files that documents name are looked at again while nothing else changes.
const REREAD_EVERY: Duration = Duration::from_secs(60);
/// A view that takes longer to be compiled than so many looks never comes. Looks are counted, not timed, as the watchdog
/// does it: a process that was itself stopped comes back to one that was missed.
const LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_millis(500);

/// Everything that a view is made of, and where it goes.
#[derive(Clone)]
pub struct Setup {
    pub name: NodeName,
    pub trust_domain: TrustDomain,
    pub facts: watch::Receiver<Arc<facts::Published>>,
    pub standings: watch::Receiver<Standings>,
    pub documents: watch::Receiver<Arc<Vec<Arc<Document>>>>,
    pub hosted: watch::Receiver<HostedSet>,
    pub secrets: watch::Receiver<Arc<Contents>>,
    /// What names outside of the mesh resolve to.
    pub names: watch::Receiver<Arc<ResolvedNames>>,
    /// Which of them the view needs.
    pub wanted_names: Arc<watch::Sender<names::Wanted>>,
    /// Which keys of token issuers the view needs.
    pub key_sets: Arc<watch::Sender<keys::Wanted>>,
    /// What TLS to places outside of the mesh needs. Outlives the actor; only the actor locks it.
    pub originations: Arc<Mutex<Originations>>,
    /// Outlives the actor; only the actor locks it.
    pub publisher: Arc<Mutex<ViewPublisher>>,
    /// Over which documents compiling failed. Outlives the actor; only the actor locks it.
    pub culprits: Arc<Mutex<Known>>,
    /// Who hears of them.
    pub documents_actor: documents::Handle,
    /// The facts that the published view was made of. Outlives the actor.
    pub followed: Arc<watch::Sender<Arc<facts::Published>>>,
    pub views: Views,
    /// Set once the first view is out: the node is not ready before.
    pub first: Arc<OnceLock<()>>,
}

pub struct ViewActor(pub Setup);

/// All that one view is made of, but for the documents.
struct Ingredients {
    name: NodeName,
    trust_domain: TrustDomain,
    facts: Arc<facts::Published>,
    nodes: Vec<NodeInput>,
    local: BTreeMap<(Namespace, WorkloadName), IpAddr>,
    secrets: Arc<Contents>,
    names: Arc<ResolvedNames>,
    last: Arc<MeshView>,
}

impl Ingredients {
    fn compile(&self, documents: &[Arc<Document>]) -> MeshView {
        #[cfg(feature = "testing")]
        injected_fault(documents);
        let inputs = Inputs {
            trust_domain: &self.trust_domain,
            this_node: &self.name,
            nodes: &self.nodes,
            documents,
            local: &self.local,
            secrets: &self.secrets,
            names: &self.names,
        };
        compile(&inputs, Some(&self.last))
    }
}

/// A document that says so makes compiling fail, for the scenario tests.
#[cfg(feature = "testing")]
fn injected_fault(documents: &[Arc<Document>]) {
    let fault = |document: &Arc<Document>| document.annotations.get("testing.weft.mesh/fault").cloned();
    match documents.iter().find_map(fault).as_deref() {
        Some("panic") => panic!("a test made this document panic"),
        Some("hang") => loop {
            std::thread::park();
        },
        _ => {}
    }
}

/// Compiles on a thread of its own, which is lost if that does not end: nothing can take it back.
///
/// # Errors
/// That it panicked or does not end, in words.
async fn compiled(ingredients: Arc<Ingredients>, documents: Vec<Arc<Document>>) -> Result<MeshView, String> {
    let mut compiling = tokio::task::spawn_blocking(move || ingredients.compile(&documents));
    for _ in 0..LOOKS {
        if let Ok(ended) = timeout(LOOK, &mut compiling).await {
            return ended.map_err(|error| match error.try_into_panic() {
                Ok(payload) => format!("panics: {}", panic_message(payload.as_ref())),
                Err(error) => error.to_string(),
            });
        }
    }
    Err(format!("has not ended after {} s", (LOOK * LOOKS).as_secs()))
}

impl ViewActor {
    /// What a view is to be made of now.
    fn take(&mut self) -> (Arc<Ingredients>, Search) {
        let Setup { name, trust_domain, facts, standings, documents, hosted, secrets, names, culprits, views, .. } =
            &mut self.0;
        let facts = facts.borrow_and_update().clone();
        let standings = standings.borrow_and_update().clone();
        let documents = documents.borrow_and_update().clone();
        let hosted = hosted.borrow_and_update().clone();
        let secrets = secrets.borrow_and_update().clone();
        let names = names.borrow_and_update().clone();
        let standing = |node: &NodeName| match standings.get(&node.id()).map(|standing| standing.status) {
            _ if node == name => Standing::Preferred,
            Some(Status::Alive | Status::Suspect) => Standing::Preferred,
            // Known from disk, or failed: last choice, for a verdict may be wrong and a try is better than none.
            Some(Status::Failed | Status::Left) | None => Standing::Demoted,
        };
        let nodes = facts.nodes.iter().map(|(node, facts::Node { record, .. })| NodeInput {
            name: node.clone(),
            record: record.clone(),
            standing: standing(node),
        });
        let ingredients = Ingredients {
            name: name.clone(),
            trust_domain: trust_domain.clone(),
            nodes: nodes.collect(),
            local: hosted.iter().map(|(key, hosted)| (key.clone(), hosted.service.address)).collect(),
            facts,
            secrets,
            names,
            last: views.load().clone(),
        };
        (Arc::new(ingredients), culprits.lock().search(&documents))
    }

    fn publish(&self, view: MeshView, facts: Arc<facts::Published>, search: Search) {
        let Setup { wanted_names, key_sets, originations, publisher, followed, culprits, documents_actor, .. } =
            &self.0;
        tracing::debug!(epoch = view.epoch, nodes = facts.nodes.len(), "view compiled");
        for blamed in search.blamed() {
            // It is told again with each view, until what holds is chosen by whoever reads documents.
            documents_actor.hold_back(blamed.clone());
        }
        culprits.lock().compiled(search);
        let wanted = view.key_sets();
        let names = view.names_to_resolve();
        originations.lock().follow(view.originations(), &view.credentials);
        publisher.lock().publish(view);
        replace(key_sets, wanted);
        replace(wanted_names, names);
        followed.send_replace(facts);
        // Set already: the node has been ready since.
        let _ = self.0.first.set(());
    }
}

/// Waits for facts that another view is made of; the present one follows the others too.
async fn new_nodes(
    facts: &mut watch::Receiver<Arc<facts::Published>>,
    followed: &watch::Sender<Arc<facts::Published>>,
) -> Result<(), watch::error::RecvError> {
    loop {
        facts.changed().await?;
        let news = facts.borrow_and_update().clone();
        if !Arc::ptr_eq(&news.nodes, &followed.borrow().nodes) {
            return Ok(());
        }
        followed.send_replace(news);
    }
}

/// Tells others what they are asked for, if that has changed.
fn replace<T: PartialEq>(sender: &watch::Sender<Arc<T>>, value: T) {
    sender.send_if_modified(|known| {
        let has_changed = **known != value;
        if has_changed {
            *known = Arc::new(value);
        }
        has_changed
    });
}

impl Actor for ViewActor {
    type Msg = Infallible;

    async fn run(mut self, inbox: &mut Inbox<Infallible>) -> anyhow::Result<()> {
        loop {
            let (ingredients, mut search) = self.take();
            let view = loop {
                // While it waits, the actor is not frozen, however often it has to try.
                let compiled = tokio::select! {
                    biased;
                    message = inbox.recv() => match message {
                        Some(never) => match never {},
                        None => return Ok(()),
                    },
                    compiled = compiled(ingredients.clone(), search.documents()) => compiled,
                };
                match compiled {
                    Ok(view) if search.passed() => break view,
                    Ok(_) => {}
                    Err(why) => {
                        search.failed(why).map_err(|why| anyhow!("compiling a view without documents {why}"))?
                    }
                }
            };
            self.publish(view, ingredients.facts.clone(), search);
            let Setup { facts, followed, standings, documents, hosted, secrets, names, originations, views, .. } =
                &mut self.0;
            let reread = async {
                while originations.lock().reads_files() {
                    sleep(REREAD_EVERY).await;
                    originations.lock().refresh(&views.load().credentials);
                }
                pending::<Infallible>().await
            };
            let changed = async {
                sleep(PAUSE).await;
                tokio::select! {
                    changed = new_nodes(facts, followed) => changed,
                    changed = standings.changed() => changed,
                    changed = documents.changed() => changed,
                    changed = hosted.changed() => changed,
                    changed = secrets.changed() => changed,
                    changed = names.changed() => changed,
                }
            };
            tokio::select! {
                biased;
                changed = changed => changed?,
                never = reread => match never {},
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
    use weft_proxy::ports::views;

    use super::*;
    use crate::supervisor::{Limits, Supervisor};

    #[tokio::test(start_paused = true)]
    async fn one_change_is_compiled_at_once_and_a_burst_into_few_views() {
        let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
        let supervisor = Supervisor::new(Limits::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (mailbox, _) = supervisor.open("documents", 1);
        let store = crate::store::Store::open(dir.path()).unwrap();
        let documents_actor = documents::Handle::new(mailbox, &documents::Published::default(), store);
        let (publisher, views) = views(MeshView::empty(trust_domain.clone()));
        let (changes, facts) = watch::channel(Arc::default());
        let (_standings, standings) = watch::channel(Standings::default());
        let (_documents, documents) = watch::channel(Arc::default());
        let (_hosted, hosted) = watch::channel(HostedSet::default());
        let (_secrets, secrets) = watch::channel(Arc::default());
        let (_names, names) = watch::channel(Arc::default());
        let setup = Setup {
            name: "host-1".parse().unwrap(),
            trust_domain,
            facts,
            standings,
            documents,
            hosted,
            secrets,
            names,
            wanted_names: Arc::new(watch::channel(names::Wanted::default()).0),
            key_sets: Arc::new(watch::channel(keys::Wanted::default()).0),
            originations: Arc::new(Mutex::new(Originations::new(weft_proxy::ports::originations().0))),
            publisher: Arc::new(Mutex::new(publisher)),
            culprits: Arc::default(),
            documents_actor,
            followed: Arc::new(watch::channel(Arc::default()).0),
            views: views.clone(),
            first: Arc::default(),
        };
        let (_mailbox, opened) = supervisor.open("view", 1);
        supervisor.start(opened, move || Ok(ViewActor(setup.clone())));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(views.load().epoch, 1);
        changes.send_replace(Arc::default());
        sleep(Duration::from_millis(1)).await;
        assert_eq!(views.load().epoch, 2, "at once");
        for _ in 0..100 {
            changes.send_replace(Arc::default());
            sleep(Duration::from_millis(1)).await;
        }
        sleep(PAUSE).await;
        let compiled = views.load().epoch - 2;
        assert!((4..=6).contains(&compiled), "{compiled}");
        // The last of them counts too.
        let last = facts::Published::default();
        changes.send_replace(Arc::new(last));
        sleep(PAUSE).await;
        assert_eq!(views.load().epoch - 2, compiled + 1);
    }
}
