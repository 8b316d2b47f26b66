//! The rules of each kind, by section D-VALID of Istio's validation.

mod destination_rule;
mod gateway;
mod service_entry;
mod sidecar;
mod virtual_service;
mod workload;

/// The group and version that most documents have.
const API: &str = "networking.istio.io/v1";

/// What is said of these specs of a kind.
fn assert_refused(kind: &str, cases: &[(&str, &str)]) {
    let cases: Vec<(String, &str)> = cases.iter().map(|(spec, wanted)| (format!("spec: {spec}"), *wanted)).collect();
    let cases: Vec<(&str, &str)> = cases.iter().map(|(body, wanted)| (body.as_str(), *wanted)).collect();
    crate::api::tests::assert_refused(API, kind, &cases);
}

fn assert_noticed(kind: &str, cases: &[(&str, &str)]) {
    let cases: Vec<(String, &str)> = cases.iter().map(|(spec, wanted)| (format!("spec: {spec}"), *wanted)).collect();
    let cases: Vec<(&str, &str)> = cases.iter().map(|(body, wanted)| (body.as_str(), *wanted)).collect();
    crate::api::tests::assert_noticed(API, kind, &cases);
}

fn assert_accepted(kind: &str, specs: &[&str]) {
    for spec in specs {
        crate::api::tests::accepted(&text(kind, spec));
    }
}

fn text(kind: &str, spec: &str) -> String {
    crate::api::tests::text(API, kind, &format!("spec: {spec}"))
}
