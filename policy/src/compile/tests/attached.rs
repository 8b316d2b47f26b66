//! Which policies of weft's own hold for a request.

use super::*;
use crate::{condition, references::missing_targets, route::Origin};

fn limit(name: &str, targets: &str, limits: &str) -> String {
    format!(
        "{{apiVersion: weft.mesh/v1alpha1, kind: RateLimit, metadata: {{name: {name}}}, \
         spec: {{targetRefs: [{targets}], limits: [{limits}]}}}}"
    )
}

const REVIEWS: &str = "{group: '', kind: Service, name: reviews}";
const ONE: &str = "{requests: 1, unit: Hour}";

/// Whether a request to a workload here is limited; `None` if no limit is about it.
fn at_workload(view: &MeshView, workload: &str) -> Option<bool> {
    let local = view.local_workload(&format!("p9080.{workload}.default.workload.cluster.local")).unwrap();
    let limits = view.limits_of_workload(&local.workload, local.address.port())?;
    let request = get("/");
    let head = request.head();
    let request = condition::Request { head: &head, principal: None };
    limits.check(&request, None, 0).map(|verdict| verdict.is_limited)
}

fn at_rule(view: &MeshView, request: &Request) -> Option<bool> {
    let origin: Origin<'_> = route(view, request)?.origin?;
    let limits = view.limits_of_rule(origin)?;
    let head = request.head();
    limits.check(&condition::Request { head: &head, principal: None }, None, 0).map(|verdict| verdict.is_limited)
}

#[test]
fn a_limit_of_a_service_counts_at_its_workloads_and_nowhere_else() {
    let view = bookinfo().apply(&limit("a", REVIEWS, ONE)).view();
    assert_eq!([at_workload(&view, "reviews-v1"), at_workload(&view, "reviews-v1")], [Some(false), Some(true)]);
    assert_eq!(at_workload(&view, "ratings-v1"), None);
    let elsewhere = bookinfo().apply(&limit("a", "{group: '', kind: Service, name: details}", ONE)).view();
    assert_eq!(at_workload(&elsewhere, "reviews-v1"), None);
}

#[test]
fn a_limit_of_a_port_counts_there_alone() {
    let declared = "{apiVersion: v1, kind: Service, metadata: {name: reviews}, \
                    spec: {ports: [{name: http, port: 9080}, {name: admin, port: 9081}]}}";
    for (section, counted) in [("http", true), ("9080", true), ("admin", false), ("other", false)] {
        let target = format!("{{group: '', kind: Service, name: reviews, sectionName: '{section}'}}");
        let view = bookinfo().apply(declared).apply(&limit("a", &target, ONE)).view();
        assert_eq!(at_workload(&view, "reviews-v1").is_some(), counted, "{section}");
    }
}

#[test]
fn a_limit_of_a_route_counts_for_its_rules_or_for_one_of_them_by_name() {
    let rules = rule(
        "r",
        "[reviews]",
        "[{name: a, match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}, \
          {name: b, route: [{destination: {host: reviews}}]}]",
    );
    let target = |section: &str| format!("{{group: networking.istio.io, kind: VirtualService, name: r{section}}}");
    let whole = bookinfo().apply(&rules).apply(&limit("l", &target(""), ONE)).view();
    assert_eq!([at_rule(&whole, &get("/a")), at_rule(&whole, &get("/b"))], [Some(false), Some(true)], "one count");
    let of_a = bookinfo().apply(&rules).apply(&limit("l", &target(", sectionName: a"), ONE)).view();
    assert_eq!([at_rule(&of_a, &get("/a")), at_rule(&of_a, &get("/b"))], [Some(false), None]);
    assert_eq!(at_workload(&whole, "reviews-v1"), None, "callers count it");
}

#[test]
fn of_several_policies_the_one_with_the_least_left_is_told() {
    let view = bookinfo()
        .apply(&limit("a", REVIEWS, "{name: wide, requests: 10, unit: Hour}"))
        .apply(&limit("b", REVIEWS, "{name: tight, requests: 2, unit: Hour}"))
        .view();
    let local = view.local_workload("p9080.reviews-v1.default.workload.cluster.local").unwrap();
    let limits = view.limits_of_workload(&local.workload, 9080).unwrap();
    let request = get("/");
    let head = request.head();
    let verdict = limits.check(&condition::Request { head: &head, principal: None }, None, 0).unwrap();
    assert_eq!((verdict.name, verdict.remaining), ("tight", 1));
    let counted: Vec<_> =
        view.rate_limits().flat_map(|limiter| limiter.counted()).map(|c| (c.limit, c.passed)).collect();
    assert_eq!(counted, [("wide", 1), ("tight", 1)]);
}

#[test]
fn counts_outlast_a_view_and_a_change_of_other_fields() {
    let mesh = bookinfo().apply(&limit("a", REVIEWS, ONE));
    let before = mesh.view();
    assert_eq!(at_workload(&before, "reviews-v1"), Some(false));
    let mut mesh = mesh.apply(SUBSETS);
    let after = mesh.view_after(Some(&before));
    assert_eq!(at_workload(&after, "reviews-v1"), Some(true));
    mesh.documents.retain(|document| document.key.kind != "RateLimit");
    let mesh = mesh.apply(&limit("a", &format!("{REVIEWS}, {{group: '', kind: Service, name: ratings}}"), ONE));
    let changed = mesh.view_after(Some(&after));
    assert_eq!(at_workload(&changed, "ratings-v1"), Some(true), "the same count, now for two services");
}

#[test]
fn a_target_is_missing_until_the_namespace_has_it() {
    let virtual_service = "{group: networking.istio.io, kind: VirtualService, name: r, sectionName: a}";
    let mesh = bookinfo().apply(&limit("a", &format!("{REVIEWS}, {virtual_service}"), ONE));
    let missing = |mesh: &Mesh| missing_targets(&mesh.documents[0], &mesh.view()).unwrap();
    assert_eq!(missing(&mesh).into_iter().collect::<Vec<_>>(), ["VirtualService r with a"]);
    let mesh = mesh.apply(&rule("r", "[reviews]", "[{name: a, route: [{destination: {host: reviews}}]}]"));
    assert!(missing(&mesh).is_empty());
    assert_eq!(missing_targets(&mesh.documents[1], &mesh.view()), None);
}
