//! What an owner may say. A fact that breaks one rule is refused whole: half a node's endpoints would be worse than
//! none, because nobody would notice.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use weft_wire::{
    cell::{
        CellSummary, MAX_CELL_NODES, MAX_CELL_WANTS, MAX_INDEX, MAX_INDEX_PORTS, MAX_LINKED, MAX_WANTS, RelayWord,
        Wants,
    },
    circuit::{CircuitRecord, MAX_CIRCUITS, MAX_WATCHED},
    fact::{
        EndpointRow, FactBody, FactKind, MAX_ENDPOINTS, MAX_FACT_BODY_LEN, MAX_LABELS, NodeRecord, SignedFact,
        SpentTokens,
    },
    id::{Grant, Role},
};

use crate::authority::{Authority, Refusal, Signer, at_most, check_proof};

/// Kubernetes allows 63 characters after a prefix of up to 253.
const MAX_LABEL_KEY_LEN: usize = 253;
/// Also for versions, and for each part of a locality.
const MAX_LABEL_VALUE_LEN: usize = 63;
const MAX_BUILD_LEN: usize = 63;
const MAX_HOST_LEN: usize = 253;
/// What a CircuitPolicy may ask for.
const MAX_LEASE_MS: usize = 3_600_000;

/// A fact's body, decoded.
#[derive(Debug)]
pub(super) enum Claim {
    Node(Arc<NodeRecord>),
    SpentTokens(Arc<SpentTokens>),
    Circuits(Arc<CircuitRecord>),
    Wants(Arc<Wants>),
    Cell(Arc<CellSummary>),
    Relay(Arc<RelayWord>),
    /// Of a kind that this build does not know: kept and passed on.
    Unknown,
}

/// Checks a fact from a peer: who signed it, whether that is its owner, and whether the owner may say this. Returns the
/// owner's role too.
pub(super) fn verify(fact: &SignedFact, authority: &impl Authority, wall_ms: u64) -> Result<(Claim, Role), Refusal> {
    at_most("the fact's length", fact.body.len(), MAX_FACT_BODY_LEN)?;
    check_proof(&fact.chain, &fact.signature)?;
    let Signer { id, grant } =
        authority.signer(&fact.chain, &fact.signed_bytes(), &fact.signature, wall_ms).map_err(Refusal::NotTrusted)?;
    if id.as_node() != Some(&fact.owner) {
        return Err(Refusal::ForeignSigner { signer: id, claimed: format!("node {}", fact.owner) });
    }
    let claim = decode(fact)?;
    let role = grant.as_ref().map_or(Role::Member, |grant| grant.role);
    match &claim {
        Claim::Node(record) => check_accounts(fact, record, grant.as_ref())?,
        Claim::SpentTokens(_) if role < Role::Ca => {
            return Err(Refusal::RoleTooLow { signer: id, needs: "a node with role ca" });
        }
        // Of endpoints everybody may say what it sees; what others make of it is `weft_policy::circuit`.
        Claim::SpentTokens(_) | Claim::Circuits(_) | Claim::Unknown => {}
        // What these say is believed of a relay's own cell alone, and decides nothing that owners say themselves.
        Claim::Wants(_) | Claim::Cell(_) | Claim::Relay(_) => {}
    }
    Ok((claim, role))
}

fn check_accounts(fact: &SignedFact, record: &NodeRecord, grant: Option<&Grant>) -> Result<(), Refusal> {
    let allowed = |row: &&EndpointRow| grant.is_some_and(|grant| grant.allows(&row.account()));
    match record.endpoints.iter().find(|row| !allowed(row)) {
        Some(row) => Err(Refusal::AccountNotAllowed { node: fact.owner.clone(), account: row.account() }),
        None => Ok(()),
    }
}

/// Decodes a body and checks its form.
pub(super) fn decode(fact: &SignedFact) -> Result<Claim, Refusal> {
    let malformed = |error| Refusal::Malformed(format!("the fact's body: {error}"));
    match fact.kind {
        FactKind::NODE => {
            let record = NodeRecord::decode(&fact.body).map_err(malformed)?;
            check_record(&record)?;
            Ok(Claim::Node(Arc::new(record)))
        }
        FactKind::SPENT_TOKENS => Ok(Claim::SpentTokens(Arc::new(SpentTokens::decode(&fact.body).map_err(malformed)?))),
        FactKind::CIRCUITS => {
            let record = CircuitRecord::decode(&fact.body).map_err(malformed)?;
            check_circuits(&record)?;
            Ok(Claim::Circuits(Arc::new(record)))
        }
        FactKind::WANTS => {
            let wants = Wants::decode(&fact.body).map_err(malformed)?;
            at_most("the number of wanted services", wants.services.len(), MAX_WANTS)?;
            Ok(Claim::Wants(Arc::new(wants)))
        }
        FactKind::CELL => {
            let summary = CellSummary::decode(&fact.body).map_err(malformed)?;
            at_most("the number of services of a cell", summary.services.len(), MAX_INDEX)?;
            at_most("the number of services that a cell wants", summary.wants.len(), MAX_CELL_WANTS)?;
            let most_ports = summary.services.values().map(Vec::len).max();
            at_most("the number of ports of a service", most_ports.unwrap_or_default(), MAX_INDEX_PORTS)?;
            Ok(Claim::Cell(Arc::new(summary)))
        }
        FactKind::RELAY => {
            let word = RelayWord::decode(&fact.body).map_err(malformed)?;
            at_most("the number of linked relays", word.linked.len(), MAX_LINKED)?;
            at_most("the number of nodes of a cell", word.alive.len(), MAX_CELL_NODES)?;
            Ok(Claim::Relay(Arc::new(word)))
        }
        _ => {
            at_most("the fact's length", fact.body.len(), MAX_FACT_BODY_LEN)?;
            Ok(Claim::Unknown)
        }
    }
}

/// Whether peers would take this record from a node that may host its accounts.
///
/// # Errors
/// The [`Refusal`] that they would answer with.
pub fn check_record(record: &NodeRecord) -> Result<(), Refusal> {
    let unusable = match record.advertise {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    };
    if unusable {
        return Err(Refusal::Malformed(format!("{} is no address of a node", record.advertise)));
    }
    let locality = &record.locality;
    for part in [&locality.region, &locality.zone, &locality.subzone] {
        check_text("a locality part", part, MAX_LABEL_VALUE_LEN)?;
    }
    check_text("the build", &record.build, MAX_BUILD_LEN)?;
    check_labels(&record.labels)?;
    at_most("the number of endpoints", record.endpoints.len(), MAX_ENDPOINTS)?;
    record.endpoints.iter().try_for_each(check_row)?;
    check_workloads(&record.endpoints)
}

fn check_circuits(record: &CircuitRecord) -> Result<(), Refusal> {
    at_most("the number of circuits", record.circuits.len(), MAX_CIRCUITS)?;
    at_most("the number of watched services", record.watched.len(), MAX_WATCHED)?;
    record.watched.iter().try_for_each(|host| check_text("a host name", host, MAX_HOST_LEN))?;
    let longest = record.circuits.values().map(|circuit| circuit.lease_ms).max();
    at_most("a lease in milliseconds", longest.unwrap_or_default() as usize, MAX_LEASE_MS)
}

fn check_row(row: &EndpointRow) -> Result<(), Refusal> {
    check_text("a version", &row.version, MAX_LABEL_VALUE_LEN)?;
    if row.port == 0 || row.target_port == 0 {
        return Err(Refusal::Malformed(format!("port 0 of workload {}", row.workload)));
    }
    check_labels(&row.labels)
}

/// A workload may serve several ports, each once, and runs as one account: the SNI names workload and port, and must
/// lead to one endpoint with one identity.
fn check_workloads(rows: &[EndpointRow]) -> Result<(), Refusal> {
    let mut ports = BTreeSet::new();
    let mut accounts = BTreeMap::new();
    for row in rows {
        let workload = (&row.service.namespace, &row.workload);
        if !ports.insert((workload, row.target_port)) {
            return Err(Refusal::Malformed(format!("workload {} twice with port {}", row.workload, row.target_port)));
        }
        match accounts.entry(workload) {
            Entry::Vacant(entry) => {
                entry.insert(&row.service_account);
            }
            Entry::Occupied(entry) if *entry.get() != &row.service_account => {
                return Err(Refusal::Malformed(format!("workload {} with two service accounts", row.workload)));
            }
            Entry::Occupied(_) => {}
        }
    }
    Ok(())
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    at_most("the number of labels", labels.len(), MAX_LABELS)?;
    for (key, value) in labels {
        check_text("a label's key", key, MAX_LABEL_KEY_LEN)?;
        check_text("a label's value", value, MAX_LABEL_VALUE_LEN)?;
        if key.is_empty() {
            return Err(Refusal::Malformed("a label without key".into()));
        }
    }
    Ok(())
}

/// Such text ends in logs, terminals and metrics.
fn check_text(what: &'static str, text: &str, limit: usize) -> Result<(), Refusal> {
    at_most(what, text.len(), limit)?;
    if text.chars().any(char::is_control) {
        return Err(Refusal::Malformed(format!("{what} with control characters: {text:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use weft_wire::circuit::{Circuit, CircuitCause, CircuitState, EndpointKey};

    use super::*;
    use crate::{
        authority::fake::{FakeAuthority, chain, sign},
        facts::tests::{record, row},
    };

    fn fact(kind: FactKind, body: Vec<u8>, role: &str, accounts: &str) -> SignedFact {
        let mut fact = SignedFact {
            owner: "a".parse().unwrap(),
            incarnation: 1,
            seq: 1,
            kind,
            body,
            chain: chain("spiffe://cluster.local/node/a", role, accounts),
            signature: Vec::new(),
        };
        fact.signature = sign(&fact.chain, &fact.signed_bytes());
        fact
    }

    fn verify_record(record: &NodeRecord) -> Result<(Claim, Role), Refusal> {
        verify(&fact(FactKind::NODE, record.encode().unwrap(), "member", "default/*"), &FakeAuthority, 0)
    }

    #[test]
    fn a_node_may_announce_what_its_grant_allows() {
        assert!(matches!(verify_record(&record(vec![row("w", "default", "reviews")])), Ok((Claim::Node(_), _))));
    }

    #[test]
    fn one_account_outside_the_grant_refuses_the_whole_fact() {
        let record = record(vec![row("w", "default", "reviews"), row("x", "prod", "payments")]);
        let refusal = verify_record(&record).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::AccountNotAllowed { node: "a".parse().unwrap(), account: "prod/payments".parse().unwrap() }
        );
        assert_eq!(refusal.label(), "account_not_allowed");
    }

    #[test]
    fn only_the_owners_node_identity_may_sign() {
        let body = record(vec![]).encode().unwrap();
        for id in [
            "spiffe://cluster.local/node/b",
            "spiffe://cluster.local/operator/a",
            "spiffe://cluster.local/ns/default/sa/a",
        ] {
            let mut fact = fact(FactKind::NODE, body.clone(), "ca", "*/*");
            fact.chain = chain(id, "ca", "*/*");
            fact.signature = sign(&fact.chain, &fact.signed_bytes());
            assert!(matches!(verify(&fact, &FakeAuthority, 0), Err(Refusal::ForeignSigner { .. })), "{id}");
        }
    }

    #[test]
    fn a_changed_fact_is_not_trusted() {
        let signed = fact(FactKind::NODE, record(vec![]).encode().unwrap(), "member", "*/*");
        let changes: [fn(&mut SignedFact); 5] = [
            |fact| fact.seq += 1,
            |fact| fact.incarnation += 1,
            |fact| fact.kind = FactKind(9),
            |fact| fact.body.push(0),
            |fact| fact.signature[0] ^= 1,
        ];
        for change in changes {
            let mut changed = signed.clone();
            change(&mut changed);
            assert!(matches!(verify(&changed, &FakeAuthority, 0), Err(Refusal::NotTrusted(_))));
        }
    }

    #[test]
    fn spent_tokens_count_only_from_a_ca_node() {
        let body = SpentTokens::default().encode().unwrap();
        let verify_as = |role| verify(&fact(FactKind::SPENT_TOKENS, body.clone(), role, ""), &FakeAuthority, 0);
        assert!(matches!(verify_as("ca"), Ok((Claim::SpentTokens(_), Role::Ca))));
        assert!(matches!(verify_as("admin"), Err(Refusal::RoleTooLow { .. })));
    }

    #[test]
    fn an_unknown_kind_needs_only_its_owners_signature() {
        assert!(matches!(
            verify(&fact(FactKind(999), vec![1, 2, 3], "member", ""), &FakeAuthority, 0),
            Ok((Claim::Unknown, _))
        ));
    }

    #[test]
    fn records_that_no_honest_node_sends_are_refused() {
        type Change = fn(&mut NodeRecord);
        let changes: [(&str, Change); 14] = [
            ("unspecified address", |r| r.advertise = "0.0.0.0".parse().unwrap()),
            ("multicast address", |r| r.advertise = "ff02::1".parse().unwrap()),
            ("broadcast address", |r| r.advertise = "255.255.255.255".parse().unwrap()),
            ("port 0", |r| r.endpoints[0].port = 0),
            ("target port 0", |r| r.endpoints[0].target_port = 0),
            ("too many labels", |r| r.labels = (0..33).map(|n| (n.to_string(), String::new())).collect()),
            ("long label key", |r| r.labels = [("k".repeat(254), String::new())].into()),
            ("long label value", |r| r.endpoints[0].labels = [("k".into(), "v".repeat(64))].into()),
            ("empty label key", |r| r.labels = [(String::new(), "v".into())].into()),
            ("control characters", |r| r.endpoints[0].version = "v1\x1b[2J".into()),
            ("long locality", |r| r.locality.zone = "z".repeat(64)),
            ("duplicate workload", |r| r.endpoints.push(r.endpoints[0].clone())),
            ("workload with two accounts", |r| {
                let other =
                    EndpointRow { service_account: "other".parse().unwrap(), target_port: 1, ..r.endpoints[0].clone() };
                r.endpoints.push(other);
            }),
            ("too many endpoints", |r| {
                r.endpoints = (0..301).map(|n| row(&format!("w{n}"), "default", "reviews")).collect();
            }),
        ];
        for (what, change) in changes {
            let mut record = record(vec![row("w", "default", "reviews")]);
            change(&mut record);
            assert!(verify_record(&record).is_err(), "{what}");
        }
    }

    #[test]
    fn bodies_that_do_not_decode_and_oversized_proofs_are_refused() {
        let malformed = fact(FactKind::NODE, vec![1, 2, 3], "member", "*/*");
        assert!(matches!(verify(&malformed, &FakeAuthority, 0), Err(Refusal::Malformed(_))));
        let mut large = fact(FactKind(9), vec![0; MAX_FACT_BODY_LEN + 1], "member", "");
        assert!(matches!(verify(&large, &FakeAuthority, 0), Err(Refusal::TooLarge { .. })));
        large.body.clear();
        large.chain = vec![Vec::new(); 5];
        assert!(matches!(verify(&large, &FakeAuthority, 0), Err(Refusal::TooLarge { .. })));
    }

    #[test]
    fn any_member_tells_what_it_sees_of_endpoints_within_bounds() {
        let key = |i: usize| EndpointKey {
            node: None,
            namespace: "default".parse().unwrap(),
            workload: format!("w{i}").parse().unwrap(),
            target_port: 80,
        };
        let circuit = |lease_ms| Circuit {
            state: CircuitState::Tripped,
            cause: CircuitCause::ConsecutiveErrors,
            failures: 5,
            since_ms: 0,
            left_ms: 0,
            lease_ms,
        };
        let verify = |circuits: usize, lease_ms: usize, watched: &[String]| {
            let circuits = (0..circuits).map(|i| (key(i), circuit(lease_ms as u32))).collect();
            let record = CircuitRecord { watched: watched.iter().cloned().collect(), circuits };
            verify(&fact(FactKind::CIRCUITS, record.encode().unwrap(), "member", ""), &FakeAuthority, 0)
        };
        assert!(matches!(verify(MAX_CIRCUITS, MAX_LEASE_MS, &["a.example".into()]), Ok((Claim::Circuits(_), _))));
        let names: Vec<String> = (0..=MAX_WATCHED).map(|i| format!("h{i}")).collect();
        for refused in [
            verify(MAX_CIRCUITS + 1, 1, &[]),
            verify(1, MAX_LEASE_MS + 1, &[]),
            verify(0, 0, &names),
            verify(0, 0, &["a\nb".into()]),
            verify(0, 0, &["a".repeat(MAX_HOST_LEN + 1)]),
        ] {
            assert!(matches!(refused, Err(Refusal::TooLarge { .. } | Refusal::Malformed(_))), "{refused:?}");
        }
    }
}
