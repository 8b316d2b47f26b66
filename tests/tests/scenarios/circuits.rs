//! Circuits that the mesh shares.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use weft_tests::lab::{Lab, PATIENCE, origin, wait_for};

/// Each service has so many endpoints, and so many nodes call it.
const ENDPOINTS: usize = 5;
const CALLERS: usize = 6;

/// The endpoints of `private` are judged by each node alone.
const DETECTION: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: shared }
spec:
  host: shared
  trafficPolicy:
    outlierDetection: { consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 5s, maxEjectionPercent: 50 }
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: private }
spec:
  host: private
  trafficPolicy:
    outlierDetection: { consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 5s, maxEjectionPercent: 50 }
---
apiVersion: v1
kind: Service
metadata: { name: private }
spec: { ports: [{ name: http, port: 8080 }] }
---
apiVersion: weft.mesh/v1alpha1
kind: CircuitPolicy
metadata: { name: private }
spec:
  targetRefs: [{ group: '', kind: Service, name: private }]
  hearsay: Ignore
";

#[test]
fn what_one_node_sees_fail_all_avoid_and_the_fleet_loses_far_less_than_by_private_breakers() {
    let mut lab = Lab::new(CALLERS + 3);
    lab.form_mesh();
    let file = lab.file("detection.yaml", DETECTION);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    let ill = lab.file("ill", "");
    fs::remove_file(&ill).unwrap();
    for (service, first_port) in [("shared", 8100), ("private", 8200)] {
        for i in 0..ENDPOINTS {
            let (port, origin) = ((first_port + i).to_string(), origin());
            let (listen, name) = (format!("127.0.0.1:{port}"), format!("{service}-{i}"));
            let ill = ill.to_string_lossy();
            let mut command = vec![&*origin, "--listen", &listen, "--name", &name];
            if i == 0 {
                command.extend(["--fails-while", &ill]);
            }
            let options = ["--service", service, "--workload", &name, "--port", "8080", "--target-port", &port];
            lab.host_mut(1).host_command(&options, &command);
        }
    }
    let callers = 3..CALLERS + 3;
    for i in callers.clone().chain([2]) {
        lab.host_mut(i).host_client();
    }
    for i in callers.clone().chain([2]) {
        lab.wait_healthy(i, "shared", ENDPOINTS);
        lab.wait_healthy(i, "private", ENDPOINTS);
        wait_for("the caller is ready", PATIENCE, || (lab.host(i).json(&["status"])["ready"] == true).then_some(()));
    }

    let load = |service: &'static str| callers.clone().map(move |i| (service, i));
    let loads: Vec<_> =
        load("shared").chain(load("private")).map(|(service, i)| (service, lab.host(i).load(service, 20))).collect();
    let complained = |i: usize| complaints(&lab.host(i).json(&["circuits"]), "/shared-0:");
    // Each knows who calls, before anything fails.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(complained(2), None);

    // Host 2 has never called the service.
    fs::write(&ill, "").unwrap();
    let what = "a node that never called the service knows of its endpoint";
    let heard = wait_for(what, PATIENCE, || complained(2).filter(|(standing, _)| standing != "preferred"));
    assert!(!heard.1.is_empty());
    let seen = wait_for("most callers have seen it, so it is out of use for all", PATIENCE, || {
        complained(2).filter(|(standing, seen)| standing == "excluded" && seen.len() >= CALLERS / 2)
    });
    assert!(seen.1.iter().all(|state| ["failing", "tripped", "probing"].contains(&state.as_str())), "{seen:?}");
    assert_eq!(complaints(&lab.host(2).json(&["circuits"]), "/shared-1:"), None, "nobody complains of the others");

    // Past the end of two ejections of 5 s, and on.
    let until = Instant::now() + Duration::from_secs(20);
    wait_for("two ejections are over", PATIENCE, || (Instant::now() >= until).then_some(()));
    fs::remove_file(&ill).unwrap();
    wait_for("it is tried, answers, and is back in use for all", PATIENCE * 2, || {
        callers.clone().chain([2]).all(|i| complained(i).is_none()).then_some(())
    });

    let mut failed = [("shared", 0), ("private", 0)];
    for (service, load) in loads {
        let failures = load.finish().failures().len();
        failed.iter_mut().filter(|(name, _)| *name == service).for_each(|(_, sum)| *sum += failures);
    }
    let [(_, shared), (_, private)] = failed;
    println!("failed requests: {shared} where circuits are shared, {private} where they are private");
    assert!(shared > 0 && shared * 2 <= private, "{shared} of {private}");
}

/// How a node stands to an endpoint, and the states in which others have it; `None` if nobody complains of it.
fn complaints(circuits: &Value, endpoint: &str) -> Option<(String, Vec<String>)> {
    let circuits = circuits.as_array().expect("a list");
    let circuit =
        circuits.iter().find(|circuit| circuit["endpoint"].as_str().is_some_and(|key| key.contains(endpoint)))?;
    let states = circuit["seen"].as_array()?.iter().filter_map(|seen| Some(seen["state"].as_str()?.to_owned()));
    Some((circuit["standing"].as_str()?.to_owned(), states.collect()))
}
