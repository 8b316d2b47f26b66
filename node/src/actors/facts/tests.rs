use std::sync::atomic::AtomicU32;

use parking_lot::Mutex;
use weft_discovery::pull::MAX_ROUNDS;

use super::*;
use crate::supervisor::{Limits, Supervisor};

/// Takes facts whose `seq` is new, and notes how many came at once.
#[derive(Clone, Default)]
struct Taker {
    seen: Arc<Mutex<BTreeSet<u64>>>,
    parts: Arc<Mutex<Vec<usize>>>,
}

impl Actor for Taker {
    type Msg = Msg;

    async fn run(self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        while let Some(message) = inbox.recv().await {
            match message {
                Msg::Have(reply) => drop(reply.send(Vec::new())),
                Msg::Merge(facts, _, reply) => {
                    self.parts.lock().push(facts.len());
                    let new = facts.iter().filter(|fact| self.seen.lock().insert(fact.seq)).count();
                    let _ = reply.send(new > 0);
                }
                _ => bail!("no other message belongs to a pull"),
            }
        }
        Ok(())
    }
}

fn facts(seqs: std::ops::Range<u64>) -> Vec<SignedFact> {
    let fact = |seq| SignedFact {
        owner: "a".parse().unwrap(),
        incarnation: 1,
        seq,
        kind: FactKind::NODE,
        body: vec![],
        chain: vec![],
        signature: vec![],
    };
    seqs.map(fact).collect()
}

/// Pulls from a peer that gives these answers; returns how often it was asked, and what came of it.
async fn pulled(answer: impl Fn(u64) -> Vec<SignedFact>) -> (u32, Taker) {
    let supervisor = Supervisor::new(Limits::default()).unwrap();
    let (mailbox, opened) = supervisor.open("facts", 4);
    let (taker, asked) = (Taker::default(), AtomicU32::new(0));
    let actor = taker.clone();
    supervisor.start(opened, move || Ok(actor.clone()));
    let ask = |_| {
        let answer = answer(asked.fetch_add(1, Ordering::Relaxed).into());
        async { Ok(Response::Facts(answer)) }
    };
    pull(NodeId([1; 8]), ask, &mailbox).await.unwrap();
    (asked.into_inner(), taker)
}

#[tokio::test]
async fn a_peer_is_asked_until_it_has_no_news_and_its_answers_are_taken_in_parts() {
    let (asked, taker) = pulled(|round| if round == 0 { facts(0..1_100) } else { facts(1_000..1_200) }).await;
    assert_eq!(asked, 3);
    assert_eq!(*taker.parts.lock(), [512, 512, 76, 200, 200]);
    assert_eq!(taker.seen.lock().len(), 1_200);
}

#[tokio::test]
async fn a_peer_that_always_has_news_is_not_asked_for_ever() {
    let (asked, _) = pulled(|round| facts(round..round + 1)).await;
    assert_eq!(asked, MAX_ROUNDS);
}
