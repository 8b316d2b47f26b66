//! What services a mesh has, and who serves them.

use super::*;

#[test]
fn announcements_alone_make_services() {
    let view = bookinfo().view();
    let names: Vec<String> = view.services().map(|service| service.id.to_string()).collect();
    assert_eq!(names, ["ratings.default", "reviews.default", "ratings.prod"].map(String::from));
    assert_eq!(workloads_of(&view, "reviews", 9080), ["reviews-v1", "reviews-v2", "reviews-v3"]);
    let port = service(&view, "reviews").port(None).unwrap();
    assert_eq!((port.port, port.protocol), (9080, Protocol::Http));
    assert!(service(&view, "reviews").port(Some(80)).is_none());
}

#[test]
fn a_host_means_a_service_in_each_of_its_forms() {
    let view = bookinfo().view();
    let prod: Namespace = "prod".parse().unwrap();
    let name = |host: &str, client: &Namespace| view.service(host, client).map(|service| service.id.to_string());
    let default = Namespace::default_namespace();
    assert_eq!(name("ratings", &default).as_deref(), Some("ratings.default"));
    assert_eq!(name("ratings", &prod).as_deref(), Some("ratings.prod"));
    for host in
        ["ratings.prod", "ratings.prod.svc", "ratings.prod.svc.cluster.local", "Ratings.PROD.Svc.Cluster.Local."]
    {
        assert_eq!(name(host, &default).as_deref(), Some("ratings.prod"), "{host}");
    }
    let long = "a".repeat(300);
    for host in ["", ".", "..", "reviews.svc", "ratings.prod.x", "ratings..svc", "ratings.prod.svc.cluster", &long] {
        assert_eq!(name(host, &default), None, "{host}");
    }
}

#[test]
fn a_service_of_this_node_is_called_directly_and_others_by_their_node() {
    let view = bookinfo().view();
    let cluster = service(&view, "reviews").cluster(9080).unwrap();
    let address = |name: &str| {
        let endpoint = cluster.endpoints.iter().find(|endpoint| endpoint.key.workload.as_str() == name).unwrap();
        endpoint.address.clone()
    };
    assert_eq!(address("reviews-v1"), EndpointAddress::Local("127.0.0.9:9080".parse().unwrap()));
    let sni = "p9080.reviews-v2.default.workload.cluster.local";
    assert_eq!(
        address("reviews-v2"),
        EndpointAddress::Remote { address: "10.0.0.5:15008".parse().unwrap(), sni: sni.into() }
    );
    assert!(view.local_workload(sni).is_none(), "hosted elsewhere");
    let local = view.local_workload("p9080.reviews-v1.default.workload.cluster.local").unwrap();
    assert_eq!(local.address, "127.0.0.9:9080".parse().unwrap());
    assert_eq!(local.service.to_string(), "reviews.default");
}

#[test]
fn a_server_may_only_show_the_identity_of_its_row() {
    let view = bookinfo().view();
    for endpoint in &service(&view, "reviews").cluster(9080).unwrap().endpoints {
        let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap();
        assert_eq!(*endpoint.identities, [id]);
    }
}

#[test]
fn a_services_annotation_narrows_who_may_serve_it() {
    let impostor = EndpointRow { service_account: "ratings".parse().unwrap(), ..row("reviews", "reviews-x") };
    let mesh = bookinfo().node("other", vec![impostor]);
    assert!(workloads_of(&mesh.view(), "reviews", 9080).contains(&"reviews-x"));
    let mesh = mesh.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: reviews, annotations: \
         {weft.mesh/service-accounts: 'a, reviews'}}, spec: {ports: [{port: 9080}]}}",
    );
    assert_eq!(workloads_of(&mesh.view(), "reviews", 9080), ["reviews-v1", "reviews-v2", "reviews-v3"]);
}

#[test]
fn a_selector_adds_the_workloads_that_have_its_labels() {
    let labelled = EndpointRow { labels: [("tier".into(), "gold".into())].into(), ..row("x", "x-1") };
    let mesh = bookinfo().node("other", vec![labelled]).apply(
        "
{apiVersion: v1, kind: Service, metadata: {name: reviews-v2}, spec: {ports: [{port: 9080}], selector: {app: reviews, version: v2}}}
---
{apiVersion: v1, kind: Service, metadata: {name: gold}, spec: {ports: [{port: 9080}], selector: {tier: gold}}}
---
{apiVersion: v1, kind: Service, metadata: {name: none}, spec: {ports: [{port: 9080}]}}
",
    );
    let view = mesh.view();
    assert_eq!(workloads_of(&view, "reviews-v2", 9080), ["reviews-v2"]);
    assert_eq!(workloads_of(&view, "gold", 9080), ["x-1"]);
    assert!(workloads_of(&view, "none", 9080).is_empty());
    assert!(service(&view, "none").cluster(9080).unwrap().pick(&Attempt::default()).is_none());
}

#[test]
fn a_declared_port_finds_the_port_of_each_workload() {
    let target_ports = |mesh: Mesh, port: u16| -> Vec<u16> {
        let view = mesh.view();
        let cluster = service(&view, "web").cluster(port).unwrap();
        cluster.endpoints.iter().map(|endpoint| endpoint.key.target_port).collect()
    };
    let web = |ports: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{ports: [{ports}], selector: {{app: web}}}}}}"
        )
    };
    let hosting = |row: EndpointRow| Mesh::new().node("other", vec![row]);
    let own = |port, target| hosting(on_ports(port, target, row("web", "web-1")));
    assert_eq!(target_ports(own(80, 8080).apply(&web("{port: 80}")), 80), [8080], "the row's own target port");
    assert_eq!(
        target_ports(own(80, 8081).apply(&web("{port: 80, targetPort: 8080}")), 80),
        [8081],
        "over the document's"
    );
    assert_eq!(target_ports(own(8080, 8080).apply(&web("{port: 80, targetPort: 8080}")), 80), [8080], "by target port");
    let selected = |port, target| {
        hosting(EndpointRow {
            labels: [("app".into(), "web".into())].into(),
            ..on_ports(port, target, row("x", "x-1"))
        })
    };
    assert_eq!(
        target_ports(selected(9000, 80).apply(&web("{port: 80}")), 80),
        [80],
        "as Kubernetes: target is the port"
    );
    assert_eq!(target_ports(selected(80, 8080).apply(&web("{port: 80}")), 80), [8080], "announced for another service");
    let named = "{port: 80, targetPort: http}";
    assert_eq!(target_ports(own(80, 8080).apply(&web(named)), 80), [8080], "what the node says of its own workload");
    assert_eq!(target_ports(selected(80, 8080).apply(&web(named)), 80), [8080], "for another service");
    assert!(target_ports(selected(9000, 8080).apply(&web(named)), 80).is_empty(), "nobody knows the name");
    let closed = selected(9000, 9000).apply(&web("{port: 80, targetPort: 22}"));
    assert!(target_ports(closed, 80).is_empty(), "no document opens a port that its node did not announce");
}

#[test]
fn internal_traffic_policy_local_leads_to_workloads_of_this_node_alone() {
    let with = |policy: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: reviews}}, spec: {{ports: [{{port: 9080}}], \
             internalTrafficPolicy: {policy}}}}}"
        );
        bookinfo().apply(&text)
    };
    assert_eq!(workloads_of(&with("Local").view(), "reviews", 9080), ["reviews-v1"]);
    assert_eq!(workloads_of(&with("Cluster").view(), "reviews", 9080), ["reviews-v1", "reviews-v2", "reviews-v3"]);
    let mut mesh = with("Local");
    mesh.nodes.remove(0);
    let view = mesh.view();
    assert!(service(&view, "reviews").cluster(9080).unwrap().pick(&Attempt::default()).is_none());
}

#[test]
fn a_service_that_publishes_not_ready_addresses_does_not_ask_for_health() {
    let sick = |health| EndpointRow { health, ..row("web", "web-1") };
    let chosen = |health, publish: bool| {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{ports: [{{port: 9080}}], \
             publishNotReadyAddresses: {publish}}}}}"
        );
        let view = Mesh::new().node("other", vec![sick(health), row("web", "web-2")]).apply(&text).view();
        let endpoints = &service(&view, "web").cluster(9080).unwrap().endpoints;
        endpoints.iter().find(|endpoint| endpoint.key.workload.as_str() == "web-1").unwrap().health
    };
    assert_eq!(chosen(EndpointHealth::Unhealthy, true), EndpointHealth::Healthy);
    assert_eq!(chosen(EndpointHealth::Unhealthy, false), EndpointHealth::Unhealthy);
    assert_eq!(chosen(EndpointHealth::Draining, true), EndpointHealth::Draining, "it ends its connections itself");
}

#[test]
fn an_announced_port_that_no_document_declares_is_a_port_too() {
    let mesh = Mesh::new()
        .node("other", vec![row("web", "web-1"), on_ports(9090, 9090, row("web", "web-1"))])
        .apply("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 9080, name: http}]}}");
    let view = mesh.view();
    let ports: Vec<u16> = service(&view, "web").ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [9080, 9090]);
}

#[test]
fn a_second_row_for_a_declared_port_takes_nothing_from_other_nodes() {
    let mesh = Mesh::new()
        .node("good", vec![row("web", "web-1")])
        .node("greedy", vec![row("web", "web-2"), on_ports(9080, 9999, row("web", "web-2"))])
        .apply("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 9080, name: http}]}}");
    let view = mesh.view();
    assert_eq!(service(&view, "web").ports.len(), 1);
    assert_eq!(workloads_of(&view, "web", 9080), ["web-1", "web-2"]);
}

#[test]
fn the_documents_protocol_holds_over_the_rows() {
    let declare = |port: &str| {
        let text = format!("{{apiVersion: v1, kind: Service, metadata: {{name: reviews}}, spec: {{ports: [{port}]}}}}");
        let view = bookinfo().apply(&text).view();
        let cluster = service(&view, "reviews").cluster(9080).unwrap();
        (service(&view, "reviews").ports[0].protocol, cluster.endpoints[0].protocol)
    };
    assert_eq!(declare("{port: 9080, name: grpc-api}"), (Protocol::Grpc, Protocol::Grpc));
    assert_eq!(declare("{port: 9080}"), (Protocol::Http, Protocol::Http));
}

#[test]
fn a_draining_node_gets_nothing_new_and_one_that_left_is_gone() {
    let mesh = |state| Mesh::new().node("other", vec![row("web", "web-1")]).in_state(state);
    let view = mesh(NodeState::Draining).view();
    let cluster = service(&view, "web").cluster(9080).unwrap();
    assert_eq!(cluster.endpoints.len(), 1);
    assert!(cluster.pick(&Attempt::default()).is_none());
    for gone in [NodeState::Left, NodeState::Stopped] {
        assert!(mesh(gone).view().services().next().is_none());
    }
}

#[test]
fn the_standing_of_a_node_is_that_of_its_endpoints() {
    let mut mesh = bookinfo();
    mesh.nodes[1].standing = Standing::Demoted;
    let view = mesh.view();
    let cluster = service(&view, "reviews").cluster(9080).unwrap();
    assert_eq!(cluster.pick(&Attempt::default()).unwrap().key.workload.as_str(), "reviews-v1");
}

#[test]
fn a_port_of_0_is_no_endpoint() {
    let view = Mesh::new().node("other", vec![on_ports(0, 80, row("web", "web-1"))]).view();
    assert!(view.services().next().is_none());
}

#[test]
fn workloads_are_named_as_metrics_expect() {
    let labels = [("app".into(), "shop".into()), ("version".into(), "2".into())];
    let named = EndpointRow { labels: labels.into(), ..row("web", "web-1") };
    let view =
        Mesh::new().node("other", vec![named, EndpointRow { version: String::new(), ..row("db", "db-1") }]).view();
    let web = service(&view, "web").cluster(9080).unwrap().endpoints[0].workload.as_ref().unwrap();
    assert_eq!((web.app.as_str(), web.version.as_str(), web.canonical_service.as_str()), ("shop", "2", "shop"));
    assert_eq!((web.canonical_revision.as_str(), web.node.as_str()), ("2", "other"));
    assert_eq!(web.principal, "spiffe://cluster.local/ns/default/sa/web");
    let db = service(&view, "db").cluster(9080).unwrap().endpoints[0].workload.as_ref().unwrap();
    assert_eq!((db.app.as_str(), db.version.as_str()), ("db", ""));
    assert_eq!((db.canonical_service.as_str(), db.canonical_revision.as_str()), ("db", "latest"));
}

#[test]
fn a_caller_is_believed_only_with_the_account_of_a_known_workload() {
    let view = bookinfo().view();
    let account = |text: &str| text.parse::<ServiceAccount>().unwrap();
    assert!(view.caller("default/reviews-v1", &account("default/reviews")).is_some());
    assert!(view.caller("default/reviews-v1", &account("default/ratings")).is_none());
    assert!(view.caller("default/unheard-of", &account("default/reviews")).is_none());
    let only = view.only_workload_of(&account("default/ratings")).unwrap();
    assert_eq!(only.name.as_str(), "ratings-v1");
    assert!(view.only_workload_of(&account("default/reviews")).is_none(), "three workloads share it");
    assert!(view.only_workload_of(&account("prod/nobody")).is_none());
}

#[test]
fn live_counters_outlast_a_view() {
    let mesh = bookinfo();
    let first = mesh.view();
    let load = |view: &MeshView| service(view, "reviews").cluster(9080).unwrap().endpoints[0].load.clone();
    let active = load(&first).begin();
    let second = mesh.view_after(Some(&first));
    assert_eq!((first.epoch, second.epoch), (1, 2));
    assert!(Arc::ptr_eq(&load(&first), &load(&second)));
    assert_eq!(load(&second).active(), 1);
    drop(active);
}

#[test]
fn a_workload_in_two_services_and_each_subset_has_one_load() {
    let view = bookinfo()
        .apply(SUBSETS)
        .apply("{apiVersion: v1, kind: Service, metadata: {name: again}, spec: {ports: [{port: 9080}], selector: {version: v2}}}")
        .apply(&rule("r", "[reviews]", "[{route: [{destination: {host: reviews, subset: v2}}]}]"))
        .view();
    let subset = forward(&view, &get("/")).cluster;
    let again = service(&view, "again").cluster(9080).unwrap();
    assert!(Arc::ptr_eq(&subset.endpoints[0].load, &again.endpoints[0].load));
}

#[test]
fn only_tcp_ports_of_a_service_are_served() {
    let view = bookinfo()
        .apply(
            "{apiVersion: v1, kind: Service, metadata: {name: dns}, spec: {selector: {app: reviews}, ports: \
             [{port: 53, name: udp, protocol: UDP}, {port: 9080, name: http}, {port: 9080, name: sctp, protocol: SCTP}]}}",
        )
        .view();
    let ports: Vec<u16> = service(&view, "dns").ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [9080]);
    assert_eq!(workloads_of(&view, "dns", 9080).len(), 3);
}
