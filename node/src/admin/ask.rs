//! One question to all other nodes.

use std::time::Duration;

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use weft_discovery::liveness::Status;
use weft_wire::{
    frame::{Request, Response},
    id::NodeName,
};

use crate::actors::Handles;

/// A node that has not answered by then is not waited for.
const ASKED_FOR: Duration = Duration::from_secs(3);
/// Nodes that are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// What comes of a question to all other nodes.
pub(super) struct Answers<'h> {
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
        let answers = stream::iter(up).map(move |member| {
            let question = question.clone();
            async move {
                let asked = self.ask(&member.name, &member.address, &question);
                let answer = tokio::time::timeout(ASKED_FOR, asked).await.unwrap_or_else(|late| Err(late.into()));
                (member.name, answer)
            }
        });
        let silent = down.into_iter().map(|member| member.name).collect();
        Answers { answers: answers.buffer_unordered(ASKED_AT_ONCE).boxed(), silent }
    }

    async fn ask(&self, name: &str, address: &str, question: &Request) -> anyhow::Result<Response> {
        let node: NodeName = name.parse()?;
        Ok(self.links.request_at(node.id(), address.parse()?, question).await?)
    }
}
