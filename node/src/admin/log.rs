//! The latest lines of access logs about a service or a workload, as the admin API and other nodes are asked for them.
//! Lines tell what others have asked for, in formats that may name any header: who may write documents may read them.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_ca::trust::PeerIdentity;
use weft_proxy::access_log::{self, RecentLines, SideOf};
use weft_wire::{
    frame::{MAX_TOLD_LEN, Request, Response},
    id::{NodeName, Role},
};

use crate::{actors::Handles, traffic::Side};

/// A node that has not answered by then is not waited for.
const DEADLINE: Duration = Duration::from_secs(3);
/// Lines that are told of all nodes.
const TOLD_OF_MESH: usize = 1_000;

/// Body of `POST /api/v1/log`, and what nodes ask each other: lines of which either side is all of this.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuery {
    pub namespace: Option<String>,
    /// Also a host that is no service of the mesh.
    pub service: Option<String>,
    pub workload: Option<String>,
    /// Which node has written them.
    pub node: Option<String>,
}

/// Answer to `POST /api/v1/log`
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Lines {
    /// The oldest first.
    pub lines: Vec<Line>,
    /// Nodes that did not answer.
    pub silent: Vec<String>,
    /// Nodes that do not tell, and why.
    pub refused: BTreeMap<String, String>,
    /// Nodes that write no lines but where documents say so.
    pub off: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// When the exchange began, milliseconds since 1970.
    pub at_ms: u64,
    /// Filled in by whoever asks.
    #[serde(default)]
    pub node: String,
    pub side: Side,
    /// As it was written, 2 KiB of it at most.
    pub text: String,
}

/// What one node tells.
#[derive(Default, Serialize, Deserialize)]
struct Told {
    lines: Vec<Line>,
    is_on: bool,
}

/// What this node keeps.
#[derive(Clone)]
pub struct OwnLog {
    pub node: NodeName,
    /// Whether it logs what no document says anything of.
    pub is_on: bool,
    pub recent: RecentLines,
}

impl LogQuery {
    fn wants(&self, line: &access_log::Line) -> bool {
        self.is_side(&line.source) || self.is_side(&line.destination) || self.is_cluster(&line.cluster)
    }

    fn is_side(&self, side: &SideOf) -> bool {
        let is = |wanted: &Option<String>, name: &String| wanted.as_ref().is_none_or(|wanted| wanted == name);
        is(&self.namespace, &side.namespace) && is(&self.service, &side.service) && is(&self.workload, &side.workload)
    }

    /// Whether it is of a service of which no workload was called.
    fn is_cluster(&self, cluster: &str) -> bool {
        let (Some(service), None) = (&self.service, &self.workload) else { return false };
        let host = cluster.rsplit('|').next().unwrap_or_default();
        let rest = host.strip_prefix(service.as_str());
        rest.is_some_and(|rest| {
            let namespace = rest.strip_prefix('.').and_then(|rest| rest.split('.').next());
            rest.is_empty()
                || namespace
                    .is_some_and(|namespace| self.namespace.as_ref().is_none_or(|wanted| wanted.as_str() == namespace))
        })
    }
}

impl OwnLog {
    fn find(&self, query: &LogQuery) -> Told {
        let is_here = query.node.as_ref().is_none_or(|node| *node == self.node.to_string());
        let lines = self.recent.find(|line| is_here && query.wants(line)).into_iter().map(|line| Line {
            at_ms: u64::try_from(line.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis())
                .unwrap_or(u64::MAX),
            node: String::new(),
            side: if line.is_server { Side::Destination } else { Side::Source },
            text: line.text,
        });
        Told { lines: lines.collect(), is_on: self.is_on }
    }

    /// The answer to a peer's [`Request::ListLog`].
    ///
    /// # Errors
    /// The peer may not read it, or the question is of another form.
    pub fn answer(&self, peer: &PeerIdentity, query: &str) -> anyhow::Result<Response> {
        let role = peer.grant.as_ref().map_or(Role::Member, |grant| grant.role);
        ensure!(role >= Role::Admin, "access logs are told to nodes of role admin or ca, and yours is {role}");
        let mut told = self.find(&serde_json::from_str(query).context("a question in another form")?);
        loop {
            let json = serde_json::to_string(&told)?;
            if json.len() <= MAX_TOLD_LEN {
                return Ok(Response::Told { json });
            }
            // What does not fit is left out, the oldest first.
            told.lines.drain(..told.lines.len().div_ceil(2));
        }
    }
}

impl Handles {
    /// What all nodes that answer in time remember.
    ///
    /// # Errors
    /// The question is too long.
    pub async fn log(&self, query: &LogQuery) -> anyhow::Result<Lines> {
        let question = Request::ListLog { query: serde_json::to_string(query)? };
        question.check()?;
        let (others, silent) = self.gather(question, DEADLINE, read).await;
        let own = (self.log.node.to_string(), Ok(self.log.find(query)));
        let mut found = Lines { silent, ..Lines::default() };
        for (node, told) in others.into_iter().chain([own]) {
            match told {
                Ok(Told { lines, is_on }) => {
                    found.lines.extend(lines.into_iter().map(|line| Line { node: node.clone(), ..line }));
                    found.off.extend((!is_on).then_some(node));
                }
                Err(why) => _ = found.refused.insert(node, why),
            }
        }
        found.off.sort();
        found.lines.sort_by_key(|line| line.at_ms);
        let too_many = found.lines.len().saturating_sub(TOLD_OF_MESH);
        found.lines.drain(..too_many);
        Ok(found)
    }
}

/// What a node tells, or why it does not.
fn read(answer: Response) -> anyhow::Result<Result<Told, String>> {
    match answer {
        Response::Told { json } => Ok(Ok(serde_json::from_str(&json).context("lines in another form")?)),
        Response::Refused { why } => Ok(Err(why)),
        _ => bail!("another answer than was asked for"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn line(source: [&str; 3], destination: [&str; 3], cluster: &str) -> access_log::Line {
        let side = |[namespace, workload, service]: [&str; 3]| SideOf {
            namespace: namespace.into(),
            workload: workload.into(),
            service: service.into(),
        };
        let (source, destination, cluster) = (side(source), side(destination), cluster.to_owned());
        access_log::Line { at: SystemTime::now(), is_server: false, source, destination, cluster, text: String::new() }
    }

    #[test]
    fn lines_are_of_both_sides_and_of_calls_that_found_nobody() {
        let query = |service: Option<&str>, workload: Option<&str>| LogQuery {
            namespace: Some("prod".into()),
            service: service.map(str::to_owned),
            workload: workload.map(str::to_owned),
            node: None,
        };
        let called = line(["shop", "web-v1", "web"], ["prod", "reviews-v2", "reviews"], "");
        assert!(query(Some("reviews"), None).wants(&called) && query(None, Some("reviews-v2")).wants(&called));
        assert!(query(None, None).wants(&called) && LogQuery::default().wants(&called));
        assert!(!query(Some("web"), None).wants(&called), "of another namespace");
        assert!(!query(Some("reviews"), Some("reviews-v1")).wants(&called));
        let calls = line(["prod", "reviews-v2", "reviews"], ["", "", ""], "outbound|80||api.example.com");
        assert!(query(Some("reviews"), None).wants(&calls) && query(Some("api.example.com"), None).wants(&calls));
        let none = line(["", "", ""], ["", "", ""], "outbound|9080|v2|reviews.prod.svc.cluster.local");
        assert!(query(Some("reviews"), None).wants(&none));
        assert!(!query(Some("review"), None).wants(&none) && !query(None, Some("reviews")).wants(&none));
    }
}
