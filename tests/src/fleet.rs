//! A fleet of callers, and two services of which one endpoint each falls ill: circuits of `shared` are the mesh's, those
//! of `private` each node's own. Both are called side by side, and clients count what fails.

use std::{fs, ops::Range, path::PathBuf, time::Duration};

use serde_json::Value;

use crate::lab::{Lab, Load, PATIENCE, origin, wait_for};

/// Who joins whom, and how much is sent.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub callers: usize,
    /// Of each service.
    pub endpoints: usize,
    /// Requests a second, of each caller to each service.
    pub rate: u32,
}

/// The node that never calls `shared`.
pub const BYSTANDER: usize = 2;
/// Hosts all endpoints.
const HOST: usize = 1;
const FIRST_CALLER: usize = 3;

/// So many failures in a row eject an endpoint.
pub const TOO_MANY: usize = 5;

/// Both alike but for who judges. An ejection is 5 s, then 10 s, and so on.
const DOCUMENTS: &str = "
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

/// The mesh, with everyone calling.
pub struct Fleet {
    pub lab: Lab,
    plan: Plan,
    ill: PathBuf,
    loads: Vec<(&'static str, Load)>,
}

/// Requests that failed, as clients count them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failed {
    pub shared: usize,
    pub private: usize,
}

impl Fleet {
    pub fn start(plan: Plan) -> Self {
        let mut lab = Lab::new(plan.callers + FIRST_CALLER);
        lab.form_mesh();
        let file = lab.file("circuits.yaml", DOCUMENTS);
        lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
        let ill = file.with_file_name("ill");
        for (service, first_port) in [("shared", 8100), ("private", 8200)] {
            for i in 0..plan.endpoints {
                let (port, origin) = ((first_port + i).to_string(), origin());
                let (listen, name) = (format!("127.0.0.1:{port}"), format!("{service}-{i}"));
                let ill = ill.to_string_lossy();
                let mut command = vec![&*origin, "--listen", &listen, "--name", &name];
                if i == 0 {
                    command.extend(["--fails-while", &ill]);
                }
                let options = ["--service", service, "--workload", &name, "--port", "8080", "--target-port", &port];
                lab.host_mut(HOST).host_command(&options, &command);
            }
        }
        let everyone = BYSTANDER..plan.callers + FIRST_CALLER;
        everyone.clone().for_each(|i| lab.host_mut(i).host_client());
        for i in everyone {
            lab.wait_healthy(i, "shared", plan.endpoints);
            lab.wait_healthy(i, "private", plan.endpoints);
            let is_ready = || (lab.host(i).json(&["status"])["ready"] == true).then_some(());
            wait_for("the caller is ready", PATIENCE, is_ready);
        }
        let mut loads = Vec::new();
        for service in ["shared", "private"] {
            let of_service = Self::callers_of(plan).map(|i| (service, lab.host(i).load(service, plan.rate)));
            loads.extend(of_service);
        }
        let fleet = Self { lab, plan, ill, loads };
        wait_for("each knows who calls, before anything fails", PATIENCE, || {
            let called =
                |i: usize| fleet.lab.host(i).metric("istio_requests_total", &["\"shared\"", "\"200\""]) >= 50.0;
            fleet.callers().all(called).then_some(())
        });
        fleet
    }

    fn callers_of(plan: Plan) -> Range<usize> {
        FIRST_CALLER..FIRST_CALLER + plan.callers
    }

    pub fn callers(&self) -> Range<usize> {
        Self::callers_of(self.plan)
    }

    /// The first endpoint of each service fails all requests from now on.
    pub fn fall_ill(&self) {
        fs::write(&self.ill, "").expect("the lab's directory is writable");
    }

    pub fn recover(&self) {
        fs::remove_file(&self.ill).expect("it was ill");
    }

    /// So many requests to `private` have failed, as its callers' nodes count them.
    pub fn lost_privately(&self) -> f64 {
        let of_private = ["\"private\"", "response_code=\"500\""];
        self.callers().map(|node| self.lab.host(node).metric("istio_requests_total", &of_private)).sum()
    }

    /// How a node stands to the first endpoint of `shared`, and in which states nodes have it; `None` if nobody complains.
    pub fn complaints(&self, node: usize) -> Option<(String, Vec<String>)> {
        let circuits = self.lab.host(node).json(&["circuits"]);
        let circuits = circuits.as_array().expect("a list");
        let is_it = |circuit: &&Value| circuit["endpoint"].as_str().is_some_and(|key| key.contains("/shared-0:"));
        let circuit = circuits.iter().find(is_it)?;
        let states = circuit["seen"].as_array()?.iter().filter_map(|seen| Some(seen["state"].as_str()?.to_owned()));
        Some((circuit["standing"].as_str()?.to_owned(), states.collect()))
    }

    /// How long after the first node ejected it the bystander kept from it, by their logs.
    pub fn heard_after(&self) -> Option<Duration> {
        let first = |node: usize, words: &str| {
            let log = self.lab.host(node).log_tail(usize::MAX);
            let mut lines = log.lines().filter(|line| line.contains(words) && line.contains("/shared-0:"));
            time_of_day(lines.next()?)
        };
        let ejected = self.callers().filter_map(|node| first(node, "endpoint ejected")).min()?;
        first(BYSTANDER, "the mesh has seen an endpoint")?.checked_sub(ejected)
    }

    /// Stops calling.
    pub fn finish(&mut self) -> Failed {
        let mut failed = Failed::default();
        for (service, load) in self.loads.drain(..) {
            let failures = load.finish(0).failures().len();
            match service {
                "shared" => failed.shared += failures,
                _ => failed.private += failures,
            }
        }
        failed
    }
}

/// When a line was logged: `2026-01-31T13:05:59.123456Z …`
pub fn time_of_day(line: &str) -> Option<Duration> {
    let (_, time) = line.split_once('T')?;
    let mut parts = time.split_once('Z')?.0.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    Some(Duration::from_secs_f64((hours * 60.0 + minutes) * 60.0 + seconds))
}
