//! Which security policies are for which workload, and which of them are compiled anew.

use std::net::{IpAddr, Ipv4Addr};

use super::{properties::authorization, *};
use crate::{
    access::Access,
    authorize::{AccessRequest, Peer},
    mtls::MtlsMode,
};

fn access<'v>(view: &'v MeshView, workload: &str, port: u16) -> Option<&'v Arc<Access>> {
    let local = view.local_workload(&format!("p{port}.{workload}.workload.cluster.local")).unwrap();
    view.access(&local.workload)
}

fn lets_in(view: &MeshView, workload: &str, principal: &str) -> bool {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let request = AccessRequest {
        peer: Some(Peer::new(principal)),
        source_ip: ip,
        remote_ip: ip,
        destination_ip: None,
        destination_port: 9080,
        sni: None,
        http: None,
    };
    access(view, workload, 9080).is_none_or(|access| access.authorizer.decide(&request).verdict.is_allowed())
}

#[test]
fn d_authz_policies_of_root_namespace_and_selector_add() {
    let mesh = Mesh::new().node("here", vec![row("a", "a-1"), row("b", "b-1"), row("a.prod", "a-9")]);
    let denied_to = |documents: &[String]| {
        let view = documents
            .iter()
            .fold(Mesh { nodes: mesh.nodes.clone(), local: mesh.local.clone(), ..Mesh::new() }, |mesh, yaml| {
                mesh.apply(yaml)
            })
            .view();
        let workloads = ["a-1.default", "b-1.default", "a-9.prod"];
        workloads
            .into_iter()
            .filter(|workload| !lets_in(&view, workload, "cluster.local/ns/x/sa/y"))
            .collect::<Vec<_>>()
    };
    let selects = "{selector: {matchLabels: {app: a}}}";
    assert_eq!(denied_to(&[]), [""; 0]);
    assert_eq!(denied_to(&[authorization("p", "istio-system", "{}")]), ["a-1.default", "b-1.default", "a-9.prod"]);
    assert_eq!(denied_to(&[authorization("p", "istio-system", selects)]), ["a-1.default", "a-9.prod"]);
    assert_eq!(denied_to(&[authorization("p", "default", "{}")]), ["a-1.default", "b-1.default"]);
    assert_eq!(denied_to(&[authorization("p", "prod", selects)]), ["a-9.prod"]);
    let for_service = "{targetRefs: [{kind: Service, group: '', name: b}]}";
    assert_eq!(denied_to(&[authorization("p", "default", for_service)]), ["b-1.default"]);
    let both = [authorization("p", "default", selects), authorization("q", "prod", "{}")];
    assert_eq!(denied_to(&both), ["a-1.default", "a-9.prod"]);
}

#[test]
fn d_authz_trust_domain_aliases_of_the_mesh_config_expand_principals() {
    let allow = authorization("p", "default", "{rules: [{from: [{source: {principals: [cluster.local/ns/x/sa/y]}}]}]}");
    let mesh = Mesh::new().node("here", vec![row("a", "a-1")]).apply(&allow);
    assert!(!lets_in(&mesh.view(), "a-1.default", "old.example/ns/x/sa/y"));
    let before = mesh.view();
    let mesh = mesh.apply(
        "{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default, namespace: istio-system}, \
         spec: {trustDomainAliases: [old.example]}}",
    );
    let view = mesh.view_after(Some(&before));
    assert!(lets_in(&view, "a-1.default", "old.example/ns/x/sa/y"));
    assert!(lets_in(&view, "a-1.default", "cluster.local/ns/x/sa/y"));
    assert!(!lets_in(&view, "a-1.default", "other.example/ns/x/sa/y"));
}

#[test]
fn d_mtls_the_effective_mode_is_the_workloads() {
    let peer = |name: &str, spec: &str| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: {name}}}, spec: {spec}}}"
        )
    };
    let mesh = Mesh::new()
        .node("here", vec![row("a", "a-1"), row("b", "b-1")])
        .apply(&peer("all", "{mtls: {mode: STRICT}}"))
        .apply(&peer("a", "{selector: {matchLabels: {app: a}}, portLevelMtls: {9080: {mode: DISABLE}}}"));
    let view = mesh.view();
    let mode = |workload| access(&view, workload, 9080).unwrap().mtls.mode(9080);
    assert_eq!((mode("a-1.default"), mode("b-1.default")), (MtlsMode::Disable, MtlsMode::Strict));
}

#[test]
fn only_what_has_changed_is_compiled_anew_and_equal_policies_are_shared() {
    let rows = vec![row("a", "a-1"), row("b", "b-1"), row("c", "c-1")];
    let mesh = Mesh::new()
        .node("here", rows)
        .apply(&authorization("all", "default", "{rules: [{}]}"))
        .apply(&authorization("of-a", "default", "{selector: {matchLabels: {app: a}}, action: DENY, rules: [{}]}"));
    let of =
        |view: &MeshView| ["a-1.default", "b-1.default", "c-1.default"].map(|name| access(view, name, 9080).cloned());
    let first = mesh.view();
    let [a, b, c] = of(&first);
    assert!(Arc::ptr_eq(b.as_ref().unwrap(), c.as_ref().unwrap()));

    // Another document, another node: nothing that concerns them.
    let mesh = mesh.apply(&authorization("elsewhere", "prod", "{}")).node("there", vec![row("a", "a-2")]);
    let second = mesh.view_after(Some(&first));
    let [a2, b2, _] = of(&second);
    assert!(Arc::ptr_eq(a.as_ref().unwrap(), a2.as_ref().unwrap()));
    assert!(Arc::ptr_eq(b.as_ref().unwrap(), b2.as_ref().unwrap()));

    let mesh =
        mesh.apply(&authorization("of-b", "default", "{selector: {matchLabels: {app: b}}, action: DENY, rules: [{}]}"));
    let third = mesh.view_after(Some(&second));
    let [a3, b3, c3] = of(&third);
    assert!(Arc::ptr_eq(a2.as_ref().unwrap(), a3.as_ref().unwrap()));
    assert!(!Arc::ptr_eq(b2.as_ref().unwrap(), b3.as_ref().unwrap()));
    assert!(Arc::ptr_eq(c.as_ref().unwrap(), c3.as_ref().unwrap()));
}

#[test]
fn a_workload_whose_labels_change_gets_other_policies() {
    let mesh = Mesh::new().node("here", vec![row("a", "a-1")]).apply(&authorization(
        "p",
        "default",
        "{selector: {matchLabels: {tier: front}}, action: DENY, rules: [{}]}",
    ));
    let first = mesh.view();
    assert!(access(&first, "a-1.default", 9080).is_none());
    let mut mesh = mesh;
    let record = Arc::make_mut(&mut mesh.nodes[0].record);
    record.endpoints[0].labels.insert("tier".into(), "front".into());
    let second = mesh.view_after(Some(&first));
    assert!(access(&second, "a-1.default", 9080).is_some());
    mesh.documents.clear();
    assert!(access(&mesh.view_after(Some(&second)), "a-1.default", 9080).is_none());
}
