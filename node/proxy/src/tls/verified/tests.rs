use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{CertificateError, crypto::aws_lc_rs};

use super::*;

/// With these every signature is refused: what passes is remembered.
const NONE: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms { all: &[], mapping: &[] };

fn all() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

type Times = std::ops::Range<u64>;

/// In seconds since 1970.
const LONG: Times = 1_000_000_000..2_000_000_000;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// Certificates that hold from the first to the last of these seconds.
fn params(times: &Times) -> CertificateParams {
    let time = |seconds: u64| (std::time::UNIX_EPOCH + Duration::from_secs(seconds)).into();
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (time(times.start), time(times.end));
    params
}

fn authority(times: &Times) -> CertificateParams {
    let mut params = params(times);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A root with an intermediate.
struct Ca {
    roots: Arc<RootCertStore>,
    intermediate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// The intermediate holds for so long.
    fn new(times: &Times) -> Self {
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root_params = authority(&LONG);
        let root = root_params.self_signed(&root_key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let mut params = authority(times);
        params.distinguished_name.push(DnType::CommonName, "seed");
        let intermediate = params.signed_by(&key, &Issuer::new(root_params, root_key)).unwrap();
        Self { roots: Arc::new(roots), intermediate: intermediate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, id: &str, times: &Times, usages: &[ExtendedKeyUsagePurpose]) -> CertificateDer<'static> {
        let mut params = params(times);
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = usages.to_vec();
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    fn workload(&self, name: &str, times: &Times) -> CertificateDer<'static> {
        self.issue(&format!("spiffe://cluster.local/ns/default/sa/{name}"), times, &[])
    }

    /// Asks who this is, as a client.
    fn ask(
        &self,
        chains: &VerifiedChains,
        algorithms: WebPkiSupportedAlgorithms,
        leaf: &CertificateDer<'_>,
        now: u64,
    ) -> Result<String, Error> {
        let intermediates = std::slice::from_ref(&self.intermediate);
        let peer = chains.verify(&self.roots, algorithms, Role::Client, leaf, intermediates, at(now));
        peer.map(|peer| peer.id.to_string())
    }
}

const NOW: u64 = 1_500_000_000;
const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

#[test]
fn a_chain_is_verified_once_and_then_remembered() {
    let (ca, chains) = (Ca::new(&LONG), VerifiedChains::default());
    let web = ca.workload("web", &LONG);
    assert!(ca.ask(&chains, NONE, &web, NOW).is_err(), "nothing is known yet, and nothing is remembered of a refusal");
    assert_eq!(ca.ask(&chains, all(), &web, NOW).as_deref(), Ok(WEB));
    assert_eq!(ca.ask(&chains, NONE, &web, NOW + 1).as_deref(), Ok(WEB));
}

/// No test: prints what it costs to check a chain of leaf and intermediate, and one that is remembered.
#[test]
#[ignore = "a measurement: run it alone, with --release and --no-capture"]
fn what_a_chain_costs() {
    const ROUNDS: u32 = 2_000;
    let (ca, chains) = (Ca::new(&LONG), VerifiedChains::default());
    let web = ca.workload("web", &LONG);
    let time = |ask: &dyn Fn()| {
        let begun = std::time::Instant::now();
        (0..ROUNDS).for_each(|_| ask());
        begun.elapsed() / ROUNDS
    };
    let verified = time(&|| assert!(ca.ask(&VerifiedChains::default(), all(), &web, NOW).is_ok()));
    assert!(ca.ask(&chains, all(), &web, NOW).is_ok());
    let remembered = time(&|| assert!(ca.ask(&chains, NONE, &web, NOW).is_ok()));
    println!("verified: {verified:?}, remembered: {remembered:?}");
}

#[test]
fn a_remembered_chain_holds_for_as_long_as_all_of_its_certificates() {
    let (from, until) = (NOW - 100, NOW + 100);
    for (leaf, intermediate) in [(from..until, LONG), (LONG, from..until), (from..NOW + 500, NOW - 500..until)] {
        let (ca, chains) = (Ca::new(&intermediate), VerifiedChains::default());
        let web = ca.workload("web", &leaf);
        assert!(ca.ask(&chains, all(), &web, NOW).is_ok());
        for (now, holds) in [(from - 1, false), (from, true), (until, true), (until + 1, false)] {
            assert_eq!(ca.ask(&chains, all(), &web, now).is_ok(), holds, "{now}");
            assert_eq!(ca.ask(&chains, NONE, &web, now).is_ok(), holds, "{now}, remembered");
        }
        let late = ca.ask(&chains, all(), &web, until + 1).unwrap_err();
        assert_eq!(late, Error::InvalidCertificate(CertificateError::Expired));
    }
}

#[test]
fn other_roots_are_asked_anew() {
    let (mut ca, chains) = (Ca::new(&LONG), VerifiedChains::default());
    let web = ca.workload("web", &LONG);
    assert!(ca.ask(&chains, all(), &web, NOW).is_ok());
    ca.roots = Arc::new(RootCertStore::clone(&ca.roots));
    assert!(ca.ask(&chains, NONE, &web, NOW).is_err(), "the same, published anew");
    assert!(ca.ask(&chains, all(), &web, NOW).is_ok());
    ca.roots = Ca::new(&LONG).roots;
    assert!(ca.ask(&chains, all(), &web, NOW).is_err(), "a root that has not signed it");
}

#[test]
fn another_chain_is_verified_for_itself() {
    let (ca, chains) = (Ca::new(&LONG), VerifiedChains::default());
    let web = ca.workload("web", &LONG);
    assert!(ca.ask(&chains, all(), &web, NOW).is_ok());
    assert!(
        ca.ask(&chains, NONE, &ca.workload("web", &LONG), NOW).is_err(),
        "another leaf of the same name and issuer"
    );
    let mut forged = web.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert!(ca.ask(&chains, all(), &forged.into(), NOW).is_err(), "the same leaf with another signature");
    let without = chains.verify(&ca.roots, all(), Role::Client, &web, &[], at(NOW));
    assert!(without.is_err(), "the same leaf without its issuer");
}

#[test]
fn who_was_verified_as_a_client_is_therefore_no_server() {
    let (ca, chains) = (Ca::new(&LONG), VerifiedChains::default());
    let web = ca.issue(WEB, &LONG, &[ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(ca.ask(&chains, all(), &web, NOW).is_ok());
    let intermediates = std::slice::from_ref(&ca.intermediate);
    assert!(chains.verify(&ca.roots, all(), Role::Server, &web, intermediates, at(NOW)).is_err());
}

#[test]
fn who_names_nobody_is_refused_and_not_remembered() {
    let (ca, chains) = (Ca::new(&LONG), VerifiedChains::default());
    let nobody = ca.issue("https://example.com/web", &LONG, &[]);
    assert!(ca.ask(&chains, all(), &nobody, NOW).is_err());
    assert!(chains.0.lock().young.is_empty());
}

#[test]
fn only_so_many_are_remembered_and_those_that_are_asked_for_stay() {
    let (ca, chains) = (Ca::new(&LONG), VerifiedChains::default());
    let web = ca.workload("web", &LONG);
    assert!(ca.ask(&chains, all(), &web, NOW).is_ok());
    let peer = Arc::new(Peer::of(&web, Some(ca.intermediate.clone())).unwrap());
    let hold = Validity { from: 0, until: u64::MAX };
    for number in 0..5 * MOST {
        let mut key = [0; SHA256_OUTPUT_LEN];
        key[..8].copy_from_slice(&number.to_be_bytes());
        chains.0.lock().insert(Key(key), Verified { peer: peer.clone(), hold });
        if number % 100 == 0 {
            assert!(ca.ask(&chains, NONE, &web, NOW).is_ok(), "{number}");
        }
        let remembered = chains.0.lock();
        assert!(remembered.young.len() <= MOST && remembered.old.len() <= MOST);
    }
}
