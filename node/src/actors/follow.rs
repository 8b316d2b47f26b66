//! What a caller confirms before a workload or a node stops: that its requests follow the news, and that those which
//! were sent before are answered.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use weft_policy::endpoint::EndpointLoad;
use weft_proxy::ports::Views;
use weft_wire::{
    fact::{EndpointHealth, FactVersion},
    id::NodeName,
};

use super::{endpoints, facts};

/// Within this time a caller confirms, or says that it cannot. What takes longer, such as streams, is not waited for.
const DEADLINE: Duration = Duration::from_millis(1_500);
/// How often it is looked whether requests are answered.
const POLL: Duration = Duration::from_millis(10);

/// Knows what this node's requests follow.
#[derive(Clone)]
pub struct Following {
    /// The facts that the present view was made of.
    facts: watch::Receiver<Arc<facts::Published>>,
    views: Views,
}

impl Following {
    pub fn new(facts: watch::Receiver<Arc<facts::Published>>, views: Views) -> Self {
        Self { facts, views }
    }

    /// Waits until requests follow what `node` said of itself up to `version`, and then for the answers to those that
    /// were sent to its draining endpoints before; for these until [`DEADLINE`] at most.
    ///
    /// # Errors
    /// If requests do not follow by the deadline.
    pub async fn confirm(&self, node: &NodeName, version: FactVersion) -> anyhow::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        // To a node that is not known nothing is sent.
        let follows = |facts: &Arc<facts::Published>| facts.nodes.get(node).is_none_or(|one| one.version >= version);
        let mut facts = self.facts.clone();
        timeout_at(deadline, facts.wait_for(follows)).await.context("not in time")?.context("this node is stopping")?;
        let draining = self.draining(node);
        while draining.iter().any(|load| load.active() > 0) && Instant::now() < deadline {
            sleep(POLL).await;
        }
        Ok(())
    }

    fn draining(&self, node: &NodeName) -> Vec<Arc<EndpointLoad>> {
        let view = self.views.load();
        let all = view.services().flat_map(|service| endpoints(service));
        let draining =
            all.filter(|(_, one)| one.key.node.as_ref() == Some(node) && one.health == EndpointHealth::Draining);
        draining.map(|(_, endpoint)| endpoint.load.clone()).collect()
    }
}
