//! What arrives from the network is anybody's bytes: whatever they are, decoding returns.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use weft_wire::{
    codec::{self, WireError},
    document::{DocumentKey, DocumentVersion, KeptVersion, MAX_VERSIONS, SignedDocument},
    fact::{FactBody, FactKind, FactVersion, NodeRecord, SignedFact},
    frame::{
        Holdings, JoinRequest, MAX_DECISION_LEN, MAX_FRAME_LEN, MAX_HAVE_ITEMS, MAX_JOIN_FRAME_LEN, MAX_PLAINTEXT_LEN,
        MAX_PUSH_ITEMS, MAX_SPANS_QUERY_LEN, MAX_TOLD_LEN, Push, Request, Response,
    },
    id::{AccountName, Namespace, NodeId},
    secret::{MAX_SECRET_LEN, SecretBytes, SecretPayload},
};

use crate::{
    checks,
    samples::{self, secret},
};

/// Reads the bytes as every type that the network may carry.
fn decode_as_everything(bytes: &[u8]) {
    checks::push(bytes);
    checks::request(bytes);
    checks::response(bytes);
    checks::join_question(bytes);
    checks::join_response(bytes);
    checks::fact_body(bytes);
    checks::decode::<SignedFact>(bytes, MAX_FRAME_LEN);
    checks::decode::<SignedDocument>(bytes, MAX_FRAME_LEN);
}

#[test]
fn messages_of_more_items_than_anyone_needs_are_refused() {
    let fact = || SignedFact { body: vec![], chain: vec![], signature: vec![], ..samples::fact() };
    let push = |items| Push::Facts(std::iter::repeat_with(fact).take(items).collect());
    assert_eq!(push(MAX_PUSH_ITEMS).check(), Ok(()));
    let refused = WireError::TooMany { items: MAX_PUSH_ITEMS + 1, limit: MAX_PUSH_ITEMS };
    assert_eq!(push(MAX_PUSH_ITEMS + 1).check(), Err(refused));
    let version = (fact().owner.id(), fact().kind, fact().version());
    let pull = |items| Request::PullFacts { have: vec![version; items] };
    assert_eq!(pull(MAX_HAVE_ITEMS).check(), Ok(()));
    let refused = WireError::TooMany { items: MAX_HAVE_ITEMS + 1, limit: MAX_HAVE_ITEMS };
    assert_eq!(pull(MAX_HAVE_ITEMS + 1).check(), Err(refused));
}

#[test]
fn secrets_larger_than_anyone_may_write_are_refused() {
    let large = SecretPayload { data: [("a".into(), SecretBytes::new(vec![0; MAX_SECRET_LEN]))].into(), ..secret() };
    let refused = |result| matches!(result, Err(WireError::Malformed(_)));
    assert!(refused(Response::Secret(large.clone()).check()));
    assert!(refused(Request::KeepSecrets { documents: vec![], contents: vec![large] }.check()));
    assert_eq!(Response::Secret(secret()).check(), Ok(()));
    let keep = |items| Request::KeepSecrets { documents: vec![], contents: vec![secret(); items] };
    assert_eq!(keep(MAX_PUSH_ITEMS).check(), Ok(()));
    assert!(matches!(keep(MAX_PUSH_ITEMS + 1).check(), Err(WireError::TooMany { .. })));
}

#[test]
fn what_is_longer_than_any_of_its_kind_is_refused() {
    let decision = |len| Response::Decision { json: Some("x".repeat(len)) };
    assert_eq!(decision(MAX_DECISION_LEN).check(), Ok(()));
    let refused = WireError::TooLarge { len: MAX_DECISION_LEN + 1, limit: MAX_DECISION_LEN };
    assert_eq!(decision(MAX_DECISION_LEN + 1).check(), Err(refused));
    let kept = KeptVersion { document: samples::document(None), written_here: false };
    let versions = |items| Response::Versions(vec![kept.clone(); items]);
    assert_eq!(versions(MAX_VERSIONS).check(), Ok(()));
    let refused = WireError::TooMany { items: MAX_VERSIONS + 1, limit: MAX_VERSIONS };
    assert_eq!(versions(MAX_VERSIONS + 1).check(), Err(refused));
    let holdings = |items| {
        let unreadable = vec![samples::document(None).key; items];
        Response::Holdings(Holdings { unreadable, ..Holdings::default() })
    };
    assert_eq!(holdings(MAX_HAVE_ITEMS).check(), Ok(()));
    assert!(matches!(holdings(MAX_HAVE_ITEMS + 1).check(), Err(WireError::TooMany { .. })));
    let plaintext = |len| Response::Plaintext { json: "x".repeat(len) };
    assert_eq!(plaintext(MAX_PLAINTEXT_LEN).check(), Ok(()));
    let refused = WireError::TooLarge { len: MAX_PLAINTEXT_LEN + 1, limit: MAX_PLAINTEXT_LEN };
    assert_eq!(plaintext(MAX_PLAINTEXT_LEN + 1).check(), Err(refused));
    let told = |len| Response::Told { json: "x".repeat(len) };
    assert_eq!(told(MAX_TOLD_LEN).check(), Ok(()));
    let refused = WireError::TooLarge { len: MAX_TOLD_LEN + 1, limit: MAX_TOLD_LEN };
    assert_eq!(told(MAX_TOLD_LEN + 1).check(), Err(refused));
    let query = |len| Request::FindSpans { query: "x".repeat(len) };
    assert_eq!(query(MAX_SPANS_QUERY_LEN).check(), Ok(()));
    let refused = WireError::TooLarge { len: MAX_SPANS_QUERY_LEN + 1, limit: MAX_SPANS_QUERY_LEN };
    assert_eq!(query(MAX_SPANS_QUERY_LEN + 1).check(), Err(refused));
}

#[test]
fn a_build_before_a_question_refuses_it_and_reads_its_own_as_before() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)] // Only whether it can be read counts.
    enum Before {
        PullFacts { have: Vec<(NodeId, FactKind, FactVersion)> },
        PullDocuments { have: Vec<(DocumentKey, DocumentVersion)> },
        RenewNode { csr: Vec<u8> },
        CertifyWorkload { namespace: Namespace, account: AccountName, csr: Vec<u8> },
        RenewIssuer { csr: Vec<u8> },
    }
    for (name, request) in samples::requests() {
        let read = codec::decode::<Before>(&encode(&request), MAX_FRAME_LEN);
        let known = ["pull_facts", "pull_documents", "renew_node", "certify_workload", "renew_issuer"];
        let is_known = known.iter().any(|known| name.contains(known));
        assert_eq!(read.is_ok(), is_known, "{name}: {read:?}");
    }
}

/// One change of a message on its way: a byte overwritten, removed or put in, or the end cut off.
#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    Remove(usize),
    Insert(usize, u8),
    Cut(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<usize>();
    prop_oneof![
        (at, any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        at.prop_map(Mutation::Remove),
        (at, any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        at.prop_map(Mutation::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match *mutation {
        Mutation::Set(at, byte) => bytes[at % len] = byte,
        Mutation::Remove(at) => drop(bytes.remove(at % len)),
        Mutation::Insert(at, byte) => bytes.insert(at % len, byte),
        Mutation::Cut(at) => bytes.truncate(at % len),
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        decode_as_everything(&bytes);
        // With the version byte right, the bytes get past the first check.
        decode_as_everything(&[&[codec::VERSION], &bytes[..]].concat());
    }

    #[test]
    fn mutated_messages_never_panic(
        which in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..8),
    ) {
        let mut bytes = which.get(&samples::encoded()).1.clone();
        mutations.iter().for_each(|mutation| apply(&mut bytes, mutation));
        decode_as_everything(&bytes);
    }

    #[test]
    fn what_is_encoded_is_read_back(
        csr in prop::collection::vec(any::<u8>(), 0..2000),
        token in ".{0,300}",
        name in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        issuer in any::<bool>(),
    ) {
        let request = JoinRequest { token, name: name.clone(), issuer_csr: issuer.then(|| csr.clone()), csr };
        let bytes = codec::encode(&request, MAX_JOIN_FRAME_LEN)?;
        prop_assert_eq!(codec::decode::<JoinRequest>(&bytes, MAX_JOIN_FRAME_LEN)?, request);
    }

    #[test]
    fn a_fact_is_read_back_whatever_its_body(
        incarnation: u64,
        seq: u64,
        body in prop::collection::vec(any::<u8>(), 0..2000),
        signature in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let fact = SignedFact { incarnation, seq, body, signature, ..samples::fact() };
        let bytes = codec::encode(&fact, MAX_FRAME_LEN)?;
        prop_assert_eq!(codec::decode::<SignedFact>(&bytes, MAX_FRAME_LEN)?, fact);
    }
}

#[test]
fn golden_bytes_cut_short_anywhere_are_refused() {
    for (name, bytes) in samples::pushes().iter().map(|(name, push)| (name, encode(push))) {
        for len in 0..bytes.len() {
            assert!(codec::decode::<Push>(&bytes[..len], MAX_FRAME_LEN).is_err(), "{name} cut to {len}");
        }
    }
}

#[test]
fn bytes_left_over_are_refused() {
    let mut bytes = encode(&samples::join_request());
    bytes.extend([0, 0]);
    assert_eq!(codec::decode::<JoinRequest>(&bytes, MAX_FRAME_LEN), Err(WireError::TrailingBytes(2)));
}

#[test]
fn a_version_from_the_future_is_named() {
    let mut bytes = encode(&samples::join_request());
    bytes[0] = 9;
    assert_eq!(codec::decode::<JoinRequest>(&bytes, MAX_FRAME_LEN), Err(WireError::UnknownVersion(9)));
}

#[test]
fn a_message_over_the_limit_is_refused_by_both_ends() {
    let request = JoinRequest { csr: vec![7; MAX_JOIN_FRAME_LEN], ..samples::join_request() };
    let too_large = |result| matches!(result, Err(WireError::TooLarge { limit: MAX_JOIN_FRAME_LEN, .. }));
    assert!(too_large(codec::encode(&request, MAX_JOIN_FRAME_LEN).map(drop)));
    let bytes = encode(&request);
    assert!(too_large(codec::decode::<JoinRequest>(&bytes, MAX_JOIN_FRAME_LEN).map(drop)));
}

#[test]
fn a_name_that_its_type_would_refuse_is_refused_in_a_message() {
    let bytes = encode(&samples::node_record());
    let at = bytes.windows(4).position(|window| window == b"prod").expect("the namespace is in there");
    let mut hostile = bytes.clone();
    hostile[at..at + 4].copy_from_slice(b"../x");
    assert!(matches!(NodeRecord::decode(&hostile), Err(WireError::Malformed(_))));
    assert!(NodeRecord::decode(&bytes).is_ok());
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(value, MAX_FRAME_LEN).expect("fits")
}
