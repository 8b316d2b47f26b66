//! Services of type ExternalName: names of other hosts.

use super::*;
use crate::{references::missing_backends, sidecar::Sight};

pub(super) fn alias(name: &str, host: &str, ports: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: ExternalName, externalName: {host}, \
         ports: [{ports}]}}}}"
    )
}

/// What a client in the namespace `prod` finds by a host.
fn found(view: &MeshView, host: &str) -> Option<String> {
    match view.find(host, Sight::of_all(&"prod".parse().unwrap()))? {
        Host::Service(service) => Some(service.id.to_string()),
        Host::Virtual(_) => Some("virtual".into()),
        Host::Passthrough(_) => None,
    }
}

const REVIEWS: &str = "reviews.default.svc.cluster.local";

#[test]
fn an_alias_of_a_service_is_that_service() {
    let view = bookinfo().apply(&alias("opinions", REVIEWS, "")).view();
    for host in ["opinions.default", "Opinions.default.svc", "opinions.default.svc.cluster.local."] {
        assert_eq!(found(&view, host).as_deref(), Some("reviews.default"), "{host}");
    }
    assert_eq!(found(&view, "opinions"), None, "it is a name of its namespace");
    assert!(view.services().all(|service| service.id.name() != "opinions"), "and no service of its own");
}

#[test]
fn an_alias_of_an_alias_is_what_that_one_stands_for_and_a_circle_is_nothing() {
    let view = bookinfo()
        .apply(&alias("a", "b.default.svc.cluster.local", ""))
        .apply(&alias("b", REVIEWS, ""))
        .apply(&alias("c", "d.default.svc.cluster.local", "{port: 80}"))
        .apply(&alias("d", "c.default.svc.cluster.local", "{port: 80}"))
        .apply(&alias("e", "gone.default.svc.cluster.local", "{port: 80}"))
        .view();
    assert_eq!(found(&view, "a.default").as_deref(), Some("reviews.default"));
    for nothing in ["c.default", "d.default", "e.default"] {
        assert_eq!(found(&view, nothing), None, "{nothing}");
    }
    assert!(view.names_to_resolve().is_empty(), "no name server knows a service of the mesh");
}

#[test]
fn an_alias_of_a_host_of_service_entries_is_that_host_as_the_client_sees_it() {
    let hidden = entries::static_entry("name: hidden", "hidden.example.org", "10.9.0.4")
        .replace("spec: {", "spec: {exportTo: [.], ");
    let view = Mesh::new()
        .apply(entries::API)
        .apply(&entries::static_entry("name: wild", "*.example.org", "10.9.0.3"))
        .apply(&hidden)
        .apply(&alias("a", "api.example.com.", ""))
        .apply(&alias("w", "www.example.org", "{port: 80}"))
        .apply(&alias("h", "hidden.example.org", ""))
        .view();
    assert_eq!(found(&view, "a.default").as_deref(), Some("api.example.com"));
    assert_eq!(found(&view, "w.default").as_deref(), Some("*.example.org"));
    assert_eq!(found(&view, "h.default").as_deref(), Some("*.example.org"), "the other entry is not for this client");
    assert!(view.services().next().is_none());
}

#[test]
fn a_host_that_nothing_describes_is_looked_up_and_called_at_the_ports_that_clients_name() {
    let text = alias("db", "old.example.net", "{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 3306}");
    let mut mesh = Mesh::new().node("other", vec![on_ports(80, 80, row("db", "db-1"))]).apply(&text);
    Arc::make_mut(&mut mesh.names).insert("old.example.net".into(), [[10, 9, 0, 1].into()].into());
    let view = mesh.view();
    assert_eq!(view.names_to_resolve().into_iter().collect::<Vec<_>>(), ["old.example.net"]);
    let places = |port: u16| -> Vec<String> {
        let endpoints = &service(&view, "db").cluster(port).unwrap().endpoints;
        endpoints.iter().map(|endpoint| endpoint.address.socket().to_string()).collect()
    };
    assert_eq!(places(80), ["10.9.0.1:80"], "as behind a CNAME; and nobody can announce himself for it");
    assert_eq!(places(3306), ["10.9.0.1:3306"]);
    assert_eq!(service(&view, "db").port(Some(80)).unwrap().protocol, Protocol::Http);
    // Once an entry describes the host, it holds.
    let entry = entries::static_entry("name: net", "old.example.net", "10.9.0.2");
    let mesh = mesh.apply(&entry);
    let after = mesh.view_after(Some(&view));
    assert_eq!(found(&after, "db.default").as_deref(), Some("old.example.net"));
    assert!(after.names_to_resolve().is_empty());
}

#[test]
fn a_virtual_service_sends_to_what_an_alias_stands_for() {
    let to = "[{route: [{destination: {host: opinions, port: {number: 9080}}}]}]";
    let mesh = bookinfo().apply(&alias("opinions", REVIEWS, "")).apply(&rule("r", "[reviews]", to));
    let view = mesh.view();
    assert_eq!(&*forward(&view, &get("/")).cluster.fqdn, REVIEWS);
    let document = mesh.documents.last().unwrap();
    assert_eq!(missing_backends(document, &view), Some(BTreeSet::new()));
    let gone = Mesh::new().apply(&alias("opinions", REVIEWS, "")).view();
    assert_eq!(missing_backends(document, &gone).unwrap().len(), 1, "what it stands for is not there");
}

#[test]
fn a_virtual_service_for_the_alias_rules_it_and_others_follow_the_alias() {
    let private =
        rule("r", "[opinions]", "[{directResponse: {status: 200}}]").replace("spec: {", "spec: {exportTo: [.], ");
    let view = bookinfo().apply(&alias("opinions", REVIEWS, "")).apply(&private).view();
    assert_eq!(found(&view, "opinions.default").as_deref(), Some("reviews.default"), "the rule is not for this client");
    let own = view.find("opinions", Sight::of_all(&Namespace::default_namespace()));
    assert!(matches!(own, Some(Host::Virtual(_))));
}

#[test]
fn a_route_may_not_name_an_alias_as_its_backend() {
    let route = |backend: &str| {
        gateway_api::of_kind(
            "HTTPRoute",
            "r",
            "default",
            "",
            &format!("{{backendRefs: [{{name: {backend}, port: 9080}}]}}"),
        )
    };
    let outcome_of = |host: &str, backend: &str| {
        let mesh = bookinfo().apply(&alias("opinions", host, "{port: 9080}")).apply(&route(backend));
        outcome(&mesh.view(), &get("/"))
    };
    assert_eq!(outcome_of(REVIEWS, "ratings"), "");
    assert_eq!(outcome_of(REVIEWS, "opinions"), "500");
    assert_eq!(outcome_of("old.example.net", "opinions"), "500");
}
