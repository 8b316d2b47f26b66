//! Nothing that the mesh does to itself costs a request: callers count. At a rate that unoptimised nodes keep up with
//! beside other tests; `make soak` has 500 requests a second and, in half an hour, 1,080 changes of documents, 90 restarts
//! of endpoints and 60 renewals of certificates.

use nix::sys::signal::Signal;
use weft_tests::lab::{Lab, PATIENCE, origin, wait_for};

/// Each of two documents.
const CHANGES: usize = 100;
const RESTARTS: usize = 6;
const RENEWALS: usize = 20;
const RATE: u32 = 200;

/// A caller on host 1, and room for services on the others.
fn mesh() -> Lab {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab
}

fn twin(version: &str, port: u16) -> (Vec<String>, Vec<String>) {
    let options = ["--service", "echo", "--version", version, "--port", "8080", "--target-port", &port.to_string()];
    let command = [&*origin(), "--listen", &format!("127.0.0.1:{port}"), "--name", version];
    (options.map(str::to_owned).to_vec(), command.map(str::to_owned).to_vec())
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn served(lab: &Lab, more_than: f64) -> f64 {
    wait_for("requests are served", PATIENCE, || {
        let served = lab.host(0).metric("istio_requests_total", &["reporter=\"source\"", "response_code=\"200\""]);
        (served > more_than).then_some(served)
    })
}

#[test]
fn no_change_of_a_document_costs_a_request() {
    let mut lab = mesh();
    for i in [1, 2] {
        lab.host_mut(i).host_service("echo", &format!("v{i}"), 8080, 1);
    }
    lab.wait_healthy(0, "echo", 2);
    let load = lab.host(0).load("echo", RATE);
    served(&lab, 0.0);
    for change in 0..CHANGES {
        let (one, other) = (change % 101, 100 - change % 101);
        let text = format!(
            "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: echo }}
spec:
  host: echo
  trafficPolicy: {{ loadBalancer: {{ simple: {} }} }}
  subsets:
  - {{ name: v1, labels: {{ version: v1 }} }}
  - {{ name: v2, labels: {{ version: v2 }} }}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: echo }}
spec:
  hosts: [echo]
  http:
  - timeout: {}s
    route:
    - {{ destination: {{ host: echo, subset: v1 }}, weight: {one} }}
    - {{ destination: {{ host: echo, subset: v2 }}, weight: {other} }}
",
            if change % 2 == 0 { "ROUND_ROBIN" } else { "RANDOM" },
            5 + change % 7,
        );
        let file = lab.file("echo.yaml", &text);
        lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    }
    served(&lab, 0.0);
    load.finish(CHANGES).assert_all_succeeded();
}

#[test]
fn no_restart_of_an_endpoint_costs_a_request() {
    let lab = mesh();
    let places = [(1, "v1", 9081), (1, "v2", 9082), (2, "v3", 9083)];
    let start = |lab: &Lab, (i, version, port): (usize, &str, u16)| {
        let (options, command) = twin(version, port);
        lab.host(i).start_run(&borrowed(&options), &borrowed(&command))
    };
    let mut running: Vec<_> = places.iter().map(|place| start(&lab, *place)).collect();
    lab.wait_healthy(0, "echo", places.len());
    let load = lab.host(0).load("echo", RATE);
    let mut count = served(&lab, 0.0);
    for restart in 0..RESTARTS {
        let which = restart % places.len();
        running[which].signal(Signal::SIGTERM);
        running[which].wait(PATIENCE).expect("weft run ends");
        running[which] = start(&lab, places[which]);
        lab.wait_healthy(0, "echo", places.len());
        count = served(&lab, count);
    }
    let report = load.finish(RESTARTS);
    report.assert_all_succeeded();
    assert_eq!(report.served_by().len(), places.len(), "each had a part");
}

#[test]
fn no_renewal_of_a_certificate_costs_a_request() {
    let mut lab = mesh();
    for i in [1, 2] {
        lab.host_mut(i).host_service("echo", &format!("v{i}"), 8080, 1);
    }
    lab.wait_healthy(0, "echo", 2);
    let load = lab.host(0).load("echo", RATE);
    let mut count = served(&lab, 0.0);
    let issued = |lab: &Lab, i| lab.host(i).metric("weft_certificates_total", &["issued"]);
    for renewal in 0..RENEWALS {
        // The node's, and that of its workloads' account.
        let (i, before) = (renewal % 3, issued(&lab, renewal % 3));
        lab.host(i).admin("POST", "/debug/certificates/renew").ok();
        wait_for("new certificates", PATIENCE, || (issued(&lab, i) >= before + 2.0).then_some(()));
        count = served(&lab, count);
    }
    load.finish(RENEWALS).assert_all_succeeded();
}

#[test]
fn no_restart_of_a_node_costs_a_request_to_a_service_that_others_have_too() {
    let mut lab = mesh();
    for (i, version) in [(1, "v1"), (2, "v2")] {
        lab.host_mut(i).host_service("echo", version, 8080, 20);
    }
    lab.wait_healthy(0, "echo", 2);
    let load = lab.host(0).load("echo", RATE);
    let mut count = served(&lab, 0.0);
    for restart in 0..4 {
        let i = 1 + restart % 2;
        lab.host_mut(i).stop();
        count = served(&lab, count);
        lab.host_mut(i).start();
        lab.wait_healthy(0, "echo", 2);
        count = served(&lab, count);
    }
    load.finish(100).assert_all_succeeded();
}

#[test]
fn callers_that_are_gone_do_not_keep_a_node_from_stopping() {
    let mut lab = mesh();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    // They hear nothing any more, and no link says so yet.
    lab.partition(&[0, 2], &[1]);
    lab.host_mut(1).stop();
}
