//! What the gate found against callers, kept for a while under an id that callers are told.
//!
//! A ring for each worker, locked only to keep a finding and to look for one: who is let in never comes here.

use std::{
    collections::VecDeque,
    fmt,
    net::IpAddr,
    num::NonZeroUsize,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use parking_lot::Mutex;
use weft_policy::{
    authenticate::Refusal,
    authorize::{AccessRequest, Denied, HttpAccess, RuleRef},
};
use weft_wire::{document::DocumentKey, id::ServiceName};

use crate::access::Call;

/// Findings that each worker keeps; older ones go.
const KEPT: usize = 1_024;
/// Longest text of a request that is kept, in bytes.
const MAX_TEXT: usize = 512;

/// Names one finding: 16 hex digits, which nobody can guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionId(u64);

impl DecisionId {
    pub(crate) fn header(self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).expect("hex digits are visible ASCII")
    }
}

impl From<u64> for DecisionId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl From<DecisionId> for u64 {
    fn from(id: DecisionId) -> Self {
        id.0
    }
}

impl FromStr for DecisionId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_id = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|_| is_id);
        id.map(Self).ok_or_else(|| format!("{text:?} is no id: 16 hex digits, as in the header x-weft-decision"))
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The findings of all workers.
#[derive(Clone)]
pub struct Decisions(Arc<[Mutex<VecDeque<Finding>>]>);

/// What was found about a request or a connection.
#[derive(Clone, Debug)]
pub struct Finding {
    pub id: DecisionId,
    pub at: SystemTime,
    pub asked: Asked,
    pub found: Found,
}

/// Who asked whom for what, as policies saw it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `NAMESPACE/WORKLOAD`; empty where the caller's node refuses it before a workload is chosen.
    pub workload: String,
    pub service: ServiceName,
    /// The workload's own port, or else the service's.
    pub port: u16,
    /// The caller's identity, such as `cluster.local/ns/default/sa/productpage`.
    pub principal: Option<String>,
    pub source_ip: IpAddr,
    pub remote_ip: IpAddr,
    /// `None` for a connection that is not read as HTTP.
    pub http: Option<AskedHttp>,
}

#[derive(Clone, Debug)]
pub struct AskedHttp {
    pub method: String,
    pub authority: String,
    /// Normalised, without the query: a query may hold secrets.
    pub path: String,
    /// `ISSUER/SUBJECT` of the token that was verified.
    pub token_principal: Option<String>,
}

#[derive(Clone, Debug)]
pub enum Found {
    Denied(Rule),
    /// By an external authorizer that the rule asks; with its reason, in words.
    DeniedByProvider(Rule, String),
    RefusedToken(Refusal),
    /// By a policy that is only tried.
    WouldBeDenied(Rule),
    Audited(Rule),
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The document and the rule's place in `spec.rules`; `None` where policies allow others, and none allows this.
    pub rule: Option<(DocumentKey, usize)>,
    /// The rule asks a provider that the mesh does not have.
    pub lacks_provider: bool,
}

impl From<RuleRef<'_>> for Rule {
    fn from(rule: RuleRef<'_>) -> Self {
        Self { rule: Some((rule.policy.clone(), rule.rule)), lacks_provider: false }
    }
}

impl Rule {
    pub(crate) fn of(denied: Denied<'_>) -> Self {
        match denied {
            Denied::ByRule(rule) => rule.into(),
            Denied::WithoutProvider(rule) => Self { lacks_provider: true, ..rule.into() },
            Denied::ByDefault => Self { rule: None, lacks_provider: false },
        }
    }

    /// How Envoy's access log names it where Istio has configured it.
    pub(crate) fn envoy_details(&self) -> String {
        let policy = match &self.rule {
            None => "none".to_owned(),
            Some((key, rule)) => {
                let namespace = key.namespace.as_ref().map_or("default", |namespace| namespace.as_str());
                format!("ns[{namespace}]-policy[{}]-rule[{rule}]", key.name)
            }
        };
        format!("rbac_access_denied_matched_policy[{policy}]")
    }
}

fn short(text: &str) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text[..end].to_owned()
}

impl Asked {
    pub(crate) fn of(call: &Call<'_>, request: &AccessRequest<'_>) -> Self {
        Self {
            workload: format!("{}/{}", call.workload.namespace, call.workload.name),
            service: call.workload.service.clone(),
            port: call.port,
            principal: call.principal.map(str::to_owned),
            source_ip: request.source_ip,
            remote_ip: request.remote_ip,
            http: request.http.map(AskedHttp::of),
        }
    }

    /// Of a request that the caller's own node judges.
    pub(crate) fn of_service(
        service: ServiceName,
        port: u16,
        principal: Option<String>,
        [source_ip, remote_ip]: [IpAddr; 2],
        http: Option<HttpAccess<'_>>,
    ) -> Self {
        Self { workload: String::new(), service, port, principal, source_ip, remote_ip, http: http.map(AskedHttp::of) }
    }
}

impl AskedHttp {
    fn of(http: HttpAccess<'_>) -> Self {
        Self {
            method: short(http.method),
            authority: short(http.host),
            path: short(http.path.split('?').next().unwrap_or_default()),
            token_principal: http.claims.and_then(|claims| claims.principal()).map(|principal| short(&principal)),
        }
    }
}

impl Decisions {
    pub(crate) fn new(workers: NonZeroUsize) -> Self {
        Self((0..workers.get()).map(|_| Mutex::default()).collect())
    }

    /// The part of one worker.
    pub(crate) fn of_worker(&self, number: usize) -> WorkerDecisions {
        WorkerDecisions { all: self.clone(), number }
    }

    /// The finding that a caller was told the id of.
    pub fn find(&self, id: DecisionId) -> Option<Finding> {
        self.0.iter().find_map(|ring| ring.lock().iter().find(|kept| kept.id == id).cloned())
    }

    /// The latest findings, the newest first.
    pub fn latest(&self, most: usize) -> Vec<Finding> {
        let mut all: Vec<Finding> =
            self.0.iter().flat_map(|ring| ring.lock().iter().cloned().collect::<Vec<_>>()).collect();
        all.sort_by_key(|finding| {
            std::cmp::Reverse(finding.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
        });
        all.truncate(most);
        all
    }

    /// Findings after that time, the oldest first. Costs what is new, not what is kept.
    pub fn after(&self, at: SystemTime) -> Vec<Finding> {
        let newer = |ring: &Mutex<VecDeque<Finding>>| -> Vec<Finding> {
            ring.lock().iter().rev().take_while(|finding| finding.at > at).cloned().collect()
        };
        let mut all: Vec<Finding> = self.0.iter().flat_map(newer).collect();
        all.sort_by_key(|finding| finding.at);
        all
    }
}

/// Where one worker keeps its findings.
pub(crate) struct WorkerDecisions {
    all: Decisions,
    number: usize,
}

impl WorkerDecisions {
    pub(crate) fn keep(&self, asked: Asked, found: Found) -> DecisionId {
        let id = DecisionId(rand::random());
        let finding = Finding { id, at: SystemTime::now(), asked, found };
        if let Some(ring) = self.all.0.get(self.number) {
            let mut ring = ring.lock();
            if ring.len() >= KEPT {
                ring.pop_front();
            }
            ring.push_back(finding);
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked {
            workload: "default/reviews-v1".into(),
            service: "reviews".parse().unwrap(),
            port: 9080,
            principal: None,
            source_ip: [10, 0, 0, 1].into(),
            remote_ip: [10, 0, 0, 1].into(),
            http: None,
        }
    }

    #[test]
    fn the_latest_findings_are_kept_and_found_by_their_id() {
        let decisions = Decisions::new(NonZeroUsize::new(2).unwrap());
        let (one, two) = (decisions.of_worker(0), decisions.of_worker(1));
        let by_default = || Found::Denied(Rule::of(Denied::ByDefault));
        let first = one.keep(asked(), by_default());
        let second = two.keep(asked(), by_default());
        assert_eq!(decisions.find(second.to_string().parse().unwrap()).unwrap().id, second);
        for _ in 0..KEPT {
            one.keep(asked(), by_default());
        }
        assert!(decisions.find(first).is_none(), "the oldest goes");
        assert!(decisions.find(second).is_some(), "each worker has its own");
        assert_eq!(decisions.latest(10).len(), 10);

        let before = decisions.latest(1)[0].at;
        assert!(decisions.after(before).is_empty());
        let third = two.keep(asked(), by_default());
        let fourth = one.keep(asked(), by_default());
        let after: Vec<DecisionId> = decisions.after(before).into_iter().map(|finding| finding.id).collect();
        assert_eq!(after, [third, fourth]);
    }

    #[test]
    fn ids_are_16_hex_digits() {
        for text in ["", "1", "00000000000000001", "+123456789abcdef", "000000000000000g"] {
            assert!(text.parse::<DecisionId>().is_err(), "{text:?}");
        }
        assert_eq!("00000000000000fF".parse(), Ok(DecisionId(255)));
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(short("abc"), "abc");
        let long = format!("{}é", "a".repeat(MAX_TEXT - 1));
        assert_eq!(short(&long).len(), MAX_TEXT - 1);
    }
}
