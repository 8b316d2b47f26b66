//! What workloads' policies have found against callers, as the admin API and other nodes are told it.

use std::net::IpAddr;

use anyhow::{Context, bail};
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_policy::{date::Date, explain::title};
use weft_proxy::decisions::{Asked, DecisionId, Decisions, Finding, Found, Rule};
use weft_wire::{
    frame::{Request, Response},
    id::{NodeName, ServiceName},
};

use super::ask::Answers;
use crate::actors::Handles;

/// Findings that are listed, and no more.
const LISTED: usize = 50;

/// Body of `POST /api/v1/why`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct WhyQuestion {
    /// What a caller was told in `x-weft-decision`; `None` asks for the latest of this node.
    pub id: Option<String>,
}

/// An element of the answer to `POST /api/v1/why`, the newest first. A field that this version does not know is
/// left out: the answer may come from another node.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    pub id: String,
    /// The node that refused: the workload's, or the caller's where it is asked before a workload is chosen.
    pub node: NodeName,
    pub time: String,
    /// `denied`, `token refused`, `would be denied` by a policy in dry run, or `audited`.
    pub outcome: String,
    /// `NAMESPACE/WORKLOAD`; empty where none was chosen yet.
    pub workload: String,
    pub service: ServiceName,
    /// The workload's own, or else the service's.
    pub port: u16,
    /// Of the caller's certificate; `null` if it has none.
    pub principal: Option<String>,
    pub source_ip: IpAddr,
    /// The original client's, as `x-forwarded-for` has it.
    pub remote_ip: IpAddr,
    /// `null` for a connection that is not read as HTTP.
    pub request: Option<DecidedRequest>,
    /// Such as `AuthorizationPolicy default/deny-all`; `null` where no rule decided.
    pub document: Option<String>,
    /// The rule's place in the document, such as `spec.rules[0]`.
    pub field: Option<String>,
    pub why: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DecidedRequest {
    pub method: String,
    pub host: String,
    /// As policies saw it: normalised, without the query.
    pub path: String,
    /// `ISSUER/SUBJECT` of the verified token.
    pub token: Option<String>,
}

impl Decision {
    pub(crate) fn of(node: &NodeName, Finding { id, at, asked, found }: Finding) -> Self {
        let Asked { workload, service, port, principal, source_ip, remote_ip, http } = asked;
        let (outcome, rule, why) = match found {
            Found::Denied(rule) => {
                let why = why_denied(&rule);
                ("denied", Some(rule), why.to_owned())
            }
            Found::DeniedByProvider(rule, why) => ("denied", Some(rule), why),
            Found::RefusedToken(refusal) => ("token refused", None, refusal.to_string()),
            Found::WouldBeDenied(rule) => {
                let why = format!("the policies in dry run would deny it: {}", why_denied(&rule));
                ("would be denied", Some(rule), why)
            }
            Found::Audited(rule) => ("audited", Some(rule), "a policy of action AUDIT matches".to_owned()),
        };
        let rule = rule.and_then(|rule| rule.rule);
        Self {
            id: id.to_string(),
            node: node.clone(),
            time: Date::of(at).rfc3339(),
            outcome: outcome.to_owned(),
            workload,
            service,
            port,
            principal,
            source_ip,
            remote_ip,
            request: http.map(|http| DecidedRequest {
                method: http.method,
                host: http.authority,
                path: http.path,
                token: http.token_principal,
            }),
            document: rule.as_ref().map(|(key, _)| title(key)),
            field: rule.map(|(_, place)| format!("spec.rules[{place}]")),
            why,
        }
    }
}

fn why_denied(rule: &Rule) -> &'static str {
    match (&rule.rule, rule.lacks_provider) {
        (Some(_), true) => "its rule asks a provider that cannot be asked",
        (Some(_), false) => "a rule of action DENY matches",
        (None, _) => "policies of action ALLOW are for the workload, and none allows it",
    }
}

/// What this node's data path has found.
#[derive(Clone)]
pub struct OwnDecisions {
    pub node: NodeName,
    pub kept: Decisions,
}

impl OwnDecisions {
    /// The answer to a peer's [`Request::FindDecision`].
    pub fn answer(&self, id: u64) -> anyhow::Result<Response> {
        let found = self.find(id.into()).map(|decision| serde_json::to_string(&decision)).transpose()?;
        Ok(Response::Decision { json: found })
    }

    fn find(&self, id: DecisionId) -> Option<Decision> {
        self.kept.find(id).map(|finding| Decision::of(&self.node, finding))
    }

    fn latest(&self) -> Vec<Decision> {
        self.kept.latest(LISTED).into_iter().map(|finding| Decision::of(&self.node, finding)).collect()
    }
}

impl Handles {
    /// The finding of an id, of whichever node; or the latest of this one.
    pub async fn why(&self, question: &WhyQuestion) -> anyhow::Result<Vec<Decision>> {
        let Some(text) = &question.id else { return Ok(self.decisions.latest()) };
        let id: DecisionId = text.parse().map_err(anyhow::Error::msg)?;
        if let Some(found) = self.decisions.find(id) {
            return Ok(vec![found]);
        }
        let Answers { mut answers, mut silent, .. } = self.ask_others(Request::FindDecision { id: id.into() });
        while let Some((name, answer)) = answers.next().await {
            match answer.and_then(read) {
                Ok(Some(found)) => return Ok(vec![found]),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(node = name, error = format!("{error:#}"), "cannot ask for a decision");
                    silent.push(name);
                }
            }
        }
        silent.sort();
        let others = match silent.is_empty() {
            true => String::new(),
            false => format!("; not asked, because they do not answer: {}", silent.join(", ")),
        };
        bail!("no node knows the decision {id}: each keeps its latest ones until it is restarted{others}")
    }
}

fn read(answer: Response) -> anyhow::Result<Option<Decision>> {
    match answer {
        Response::Decision { json } => {
            let found = json.map(|json| serde_json::from_str(&json)).transpose();
            found.context("a decision in another form")
        }
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
}
