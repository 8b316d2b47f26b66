//! Which endpoints are ejected, and when: DestinationRules with outlier detection on a ServiceEntry each, and the same
//! as clusters of Envoy.
//!
//! Requests of a case go one after the other, and no endpoint comes back meanwhile. So how many requests an endpoint
//! fails before it is ejected, and who is left in the end, depends on no clock and not on whose turn is first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
};

use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};
use serde_json::{Map, Value, json};
use weft_tests::lab::{Lab, PATIENCE, origin, wait_for};

use crate::{
    CONCURRENCY, SHOWN, apply,
    compare::{self, Answer},
    envoy::{self, LISTEN_PORT, run, typed},
    generator::{Form, Probe},
    seed, weft_port,
};

const CASES: usize = 60;
const REQUESTS: usize = 100;
/// Of the requests, the last ones: whom nobody of these meets is ejected.
const AT_THE_END: usize = 30;
/// Origins by what they answer; the first listens on [`FIRST_PORT`], the others follow.
const ORIGINS: [u16; 9] = [200, 200, 200, 500, 500, 500, 503, 503, 503];
const FIRST_PORT: u16 = 9_200;
/// Of Envoy's admin interface.
const ADMIN_PORT: u16 = 10_001;
/// Has one healthy endpoint, and is applied last.
const LAST: &str = "ejection-last.example";

#[test]
fn weft_ejects_as_envoy_does() {
    let seed = seed();
    println!("seed {seed}, {CASES} cases (WEFT_DIFF_SEED={seed} repeats them)");
    let cases: Vec<Case> = (0..CASES).map(|number| Case::new(seed, number)).collect();
    let mut lab = Lab::new(1);
    let at = IpAddr::from(lab.host(0).address);
    start_weft(&mut lab, &cases, at);
    run(&mut lab, &bootstrap(&cases, at));

    let outcomes = ask_both(&lab, &cases);
    let different: Vec<usize> = (0..CASES).filter(|&case| outcomes[case].0 != outcomes[case].1).collect();
    for &case in different.iter().take(SHOWN) {
        let yaml = serde_saphyr::to_string(&cases[case].destination_rule()).expect("plain values");
        let (envoy, weft) = &outcomes[case];
        println!(
            "--- seed {seed}, case {case}, origins {:?}\n{yaml}envoy: {envoy:?}\nweft:  {weft:?}",
            cases[case].origins
        );
    }
    assert!(different.is_empty(), "{} of {CASES} cases went differently", different.len());
    // Else the cases do not ask what they are meant to ask.
    let count = |is: &dyn Fn(&Outcome) -> bool| outcomes.iter().filter(|(envoy, _)| is(envoy)).count();
    let (none, some) = (count(&|outcome| outcome.ejected.is_empty()), count(&|outcome| !outcome.ejected.is_empty()));
    let all = count(&|outcome| outcome.left.is_empty());
    println!("{some} cases with ejections, in {all} of them of all endpoints; {none} without");
    assert!(some >= CASES / 4 && none >= CASES / 10 && all > 0, "one outcome is rare");
}

/// What became of a case.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Of endpoints that were ejected: what they answer, and how often they did before. Sorted.
    ejected: Vec<(u16, usize)>,
    /// What the others answer. Sorted.
    left: Vec<u16>,
    /// Whether the proxy refused requests in the end.
    refuses: bool,
}

impl Outcome {
    /// `served` has the origin of each answer, `None` where it was the proxy's own.
    fn of(served: &[Option<usize>]) -> Self {
        let mut counts = BTreeMap::<usize, usize>::new();
        for origin in served.iter().flatten() {
            *counts.entry(*origin).or_default() += 1;
        }
        let end = &served[served.len() - AT_THE_END..];
        let still: BTreeSet<usize> = end.iter().flatten().copied().collect();
        let ejected = counts.iter().filter(|(origin, _)| !still.contains(*origin));
        let mut ejected: Vec<_> = ejected.map(|(&origin, &count)| (ORIGINS[origin], count)).collect();
        ejected.sort_unstable();
        Self { ejected, left: still.iter().map(|&origin| ORIGINS[origin]).collect(), refuses: end.contains(&None) }
    }
}

struct Case {
    host: String,
    /// Indices of [`ORIGINS`].
    origins: BTreeSet<usize>,
    detection: Value,
}

impl Case {
    fn new(seed: u64, number: usize) -> Self {
        // As for access, and other ones than those.
        let mut random =
            StdRng::seed_from_u64(seed.rotate_left(32) ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (good, bad) = (random.random_range(0..=3), random.random_range(1..=3));
        // Of one kind, for else it depends on whose turn is first which of them are left when no more may be ejected.
        let failing = *[500, 503].choose(&mut random).expect("not empty");
        let mut of = |status: u16, count: usize| {
            let origins = (0..ORIGINS.len()).filter(|&origin| ORIGINS[origin] == status);
            origins.choose_multiple(&mut random, count)
        };
        let origins = [of(200, good), of(failing, bad)].concat().into_iter().collect();
        let mut detection = Map::new();
        let mut maybe = |field: &str, probability: f64, values: &[u32]| {
            if random.random_bool(probability) {
                let value = values.choose(&mut random).expect("never empty");
                detection.insert(field.to_owned(), (*value).into());
            }
        };
        maybe("consecutive5xxErrors", 0.7, &[0, 1, 2, 3, 7]);
        maybe("consecutiveGatewayErrors", 0.5, &[0, 1, 2, 4, 6]);
        maybe("maxEjectionPercent", 0.9, &[1, 20, 34, 50, 67, 100, 100, 100]);
        maybe("minHealthPercent", 0.3, &[0, 20, 50, 80]);
        // Nothing comes back within a test.
        detection.insert("baseEjectionTime".into(), "600s".into());
        detection.insert("interval".into(), "600s".into());
        Self { host: format!("ejection-{number}.example"), origins, detection: detection.into() }
    }

    fn service_entry(&self, at: IpAddr) -> Value {
        let endpoint = |&origin: &usize| json!({ "address": at, "ports": { "http": port(origin) } });
        let endpoints: Vec<Value> = self.origins.iter().map(endpoint).collect();
        document(
            "ServiceEntry",
            &self.host,
            json!({
                "hosts": [self.host],
                "ports": [{ "number": 80, "name": "http", "protocol": "HTTP" }],
                "resolution": "STATIC",
                "endpoints": endpoints,
            }),
        )
    }

    fn destination_rule(&self) -> Value {
        let policy = json!({ "loadBalancer": { "simple": "ROUND_ROBIN" }, "outlierDetection": self.detection });
        document("DestinationRule", &self.host, json!({ "host": self.host, "trafficPolicy": policy }))
    }

    /// Each request is one try.
    fn virtual_service(&self) -> Value {
        let rule = json!({ "route": [{ "destination": { "host": self.host } }], "retries": { "attempts": 0 } });
        document("VirtualService", &self.host, json!({ "hosts": [self.host], "http": [rule] }))
    }

    fn documents(&self, at: IpAddr) -> [Value; 3] {
        [self.service_entry(at), self.destination_rule(), self.virtual_service()]
    }

    /// What Istio makes of it: it sets the panic threshold where there is outlier detection, to 0 unless told.
    fn cluster(&self, at: IpAddr) -> Value {
        let mut detection = json!({
            "base_ejection_time": self.detection["baseEjectionTime"],
            "interval": self.detection["interval"],
            "enforcing_success_rate": 0,
        });
        for (field, count, enforcing) in [
            ("consecutive5xxErrors", "consecutive_5xx", "enforcing_consecutive_5xx"),
            ("consecutiveGatewayErrors", "consecutive_gateway_failure", "enforcing_consecutive_gateway_failure"),
        ] {
            if let Some(errors) = self.detection[field].as_u64() {
                detection[count] = errors.into();
                detection[enforcing] = if errors == 0 { 0 } else { 100 }.into();
            }
        }
        if let Some(percent) = self.detection.get("maxEjectionPercent") {
            detection["max_ejection_percent"] = percent.clone();
        }
        let mut cluster =
            envoy::cluster_of_addresses(&self.host, self.origins.iter().map(|&origin| (at, port(origin))));
        let panic = self.detection["minHealthPercent"].as_u64().unwrap_or(0);
        cluster["outlier_detection"] = detection;
        // Envoy tells its balancers of an ejection at once, but of those that follow within this window after it.
        cluster["common_lb_config"] =
            json!({ "healthy_panic_threshold": { "value": panic }, "update_merge_window": "0s" });
        cluster
    }
}

fn port(origin: usize) -> u16 {
    FIRST_PORT + u16::try_from(origin).expect("a few origins")
}

fn document(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

fn start_weft(lab: &mut Lab, cases: &[Case], at: IpAddr) {
    for (origin_number, status) in ORIGINS.iter().enumerate() {
        let listen = format!("{at}:{}", port(origin_number));
        let arguments = ["--listen", &listen, "--name", &origin_number.to_string(), "--status", &status.to_string()];
        lab.host_mut(0).run_beside(origin().as_ref(), &arguments);
    }
    lab.found_mesh();
    lab.host_mut(0).host_client();
    let documents: Vec<Value> = cases.iter().flat_map(|case| case.documents(at)).collect();
    apply(lab, "ejection.yaml", &documents);
    let last = Case { host: LAST.into(), origins: [0].into(), detection: json!({}) };
    apply(lab, "last.yaml", &[last.service_entry(at)]);
    wait_for("all documents are in force", PATIENCE, || (lab.host(0).call(LAST, "/", &[]).status == 200).then_some(()));
}

fn bootstrap(cases: &[Case], at: IpAddr) -> Value {
    let virtual_host = |case: &Case| {
        let routes = json!([{ "match": { "prefix": "/" }, "route": { "cluster": case.host, "timeout": "0s" } }]);
        json!({ "name": case.host, "domains": [case.host], "routes": routes })
    };
    let router = typed("extensions.filters.http.router.v3.Router", json!({}));
    let manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "ejection",
            "http_filters": [{ "name": "router", "typed_config": router }],
            "route_config": { "virtual_hosts": cases.iter().map(virtual_host).collect::<Vec<_>>() },
        }),
    );
    let mut bootstrap = envoy::with_listener(&manager, cases.iter().map(|case| case.cluster(at)).collect());
    bootstrap["admin"] = json!({ "address": envoy::address(envoy::LOOPBACK, ADMIN_PORT) });
    bootstrap
}

/// All requests of all cases: what Envoy made of each case, and weft.
fn ask_both(lab: &Lab, cases: &[Case]) -> Vec<(Outcome, Outcome)> {
    let per_thread = cases.len().div_ceil(CONCURRENCY);
    thread::scope(|scope| {
        let parts: Vec<_> = cases
            .chunks(per_thread)
            .map(|some| {
                scope.spawn(|| {
                    lab.host(0).enter();
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                    let both =
                        |case| (runtime.block_on(ask(LISTEN_PORT, case)), runtime.block_on(ask(weft_port(), case)));
                    some.iter().map(both).collect::<Vec<_>>()
                })
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("no request fails")).collect()
    })
}

/// # Panics
/// If there is no answer: that would show nothing.
async fn ask(port: u16, case: &Case) -> Outcome {
    let mut served = Vec::with_capacity(REQUESTS);
    for number in 0..REQUESTS {
        let answer = get(port, case, number, "/").await;
        served.push(answer.backend().map(|name| name.parse().expect("origins are named by their number")));
        if port == LISTEN_PORT {
            // Its main thread decides on ejections: once it has answered this, it has decided on what it saw before.
            assert_eq!(get(ADMIN_PORT, case, number, "/ready").await.status, 200);
        }
    }
    Outcome::of(&served)
}

async fn get(port: u16, case: &Case, number: usize, target: &str) -> Answer {
    let probe = Probe {
        id: format!("{}.{number}", case.host),
        form: Form::Origin,
        method: "GET".into(),
        host: case.host.clone(),
        target: target.into(),
        headers: Vec::new(),
    };
    compare::ask(port, &probe).await.expect("an answer")
}
