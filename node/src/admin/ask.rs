//! One question to all other nodes.

use std::{collections::BTreeSet, pin::pin, time::Duration};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use weft_discovery::liveness::Status;
use weft_wire::{
    frame::{Request, Response},
    id::NodeName,
};

use crate::{actors::Handles, peer::PeerError};

/// A node that has not answered by then is not waited for.
const ASKED_FOR: Duration = Duration::from_secs(3);
/// Nodes that are asked at once.
const ASKED_AT_ONCE: usize = 16;
/// Questions to all nodes that are under way at once.
pub const GATHERED_AT_ONCE: usize = 4;

/// What comes of a question to all other nodes.
pub(super) struct Answers<'h> {
    /// Who is asked.
    pub(super) asked: BTreeSet<String>,
    /// By name, as they come.
    pub(super) answers: BoxStream<'h, (String, anyhow::Result<Response>)>,
    /// Members that are not asked, because they seem to be down.
    pub(super) silent: Vec<String>,
}

impl Handles {
    pub(super) fn ask_others(&self, question: Request) -> Answers<'_> {
        let others = self.members().into_iter().filter(|member| !member.this_node);
        let others = others.filter(|member| member.state != Status::Left.as_str());
        let (up, down): (Vec<_>, Vec<_>) = others.partition(|member| member.state == Status::Alive.as_str());
        let asked = up.iter().map(|member| member.name.clone()).collect();
        let answers = stream::iter(up).map(move |member| {
            let question = question.clone();
            async move {
                let asked = self.ask(&member.name, &member.address, &question);
                let answer = tokio::time::timeout(ASKED_FOR, asked).await.unwrap_or_else(|late| Err(late.into()));
                (member.name, answer)
            }
        });
        let silent = down.into_iter().map(|member| member.name).collect();
        Answers { asked, answers: answers.buffer_unordered(ASKED_AT_ONCE).boxed(), silent }
    }

    /// What all other nodes answer within `deadline`, by name, and who does not.
    pub(super) async fn gather<T>(
        &self,
        question: Request,
        deadline: Duration,
        read: impl Fn(Response) -> anyhow::Result<T>,
    ) -> (Vec<(String, T)>, Vec<String>) {
        // Whoever asks often, such as a page in many windows, waits: the mesh is not asked more for that.
        let _turn = self.gathers.acquire().await;
        let Answers { asked: mut waiting, answers, mut silent } = self.ask_others(question);
        let mut answers = pin!(answers.take_until(tokio::time::sleep(deadline)));
        let mut told = Vec::new();
        while let Some((name, answer)) = answers.next().await {
            match answer.and_then(&read) {
                Ok(answer) => {
                    waiting.remove(&name);
                    told.push((name, answer));
                }
                Err(error) => tracing::debug!(node = name, error = format!("{error:#}"), "a node was asked in vain"),
            }
        }
        silent.extend(waiting);
        silent.sort();
        (told, silent)
    }

    async fn ask(&self, name: &str, address: &str, question: &Request) -> anyhow::Result<Response> {
        let node: NodeName = name.parse()?;
        match self.links.request_at(node.id(), address.parse()?, question).await {
            // It does answer: whoever has asked tells it apart from silence.
            Err(PeerError::Refused(why)) => Ok(Response::Refused { why }),
            answer => Ok(answer?),
        }
    }
}
