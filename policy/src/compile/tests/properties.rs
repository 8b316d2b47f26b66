//! What holds for all inputs.

use proptest::prelude::*;

use super::*;

/// What a view says, in a form that can be compared.
fn picture(view: &MeshView) -> String {
    let mut picture = String::new();
    for service in view.services().chain(view.externals()) {
        picture.push_str(&format!("{} {:?}\n", service.id, service.ports));
        for port in &service.clusters.elsewhere().others.ports {
            for cluster in std::iter::once(&port.all).chain(&port.subsets) {
                let endpoints: Vec<_> = cluster.endpoints.iter().map(|e| (&e.key, &e.address, e.health)).collect();
                let (balancer, panic) = (cluster.balancer(), cluster.panic_percent());
                picture.push_str(&format!("  {} {balancer:?} {panic} {endpoints:?}\n", cluster.name));
            }
        }
        for rule in service.rules.elsewhere().iter().flat_map(|rules| rules.http.iter()) {
            picture.push_str(&format!("  {:?} {:?}\n", rule.matches, rule.action));
        }
    }
    for rules in view.services().flat_map(|service| &service.of_routes) {
        picture.push_str(&format!("{:?} {:?}\n", rules.visible, rules.created));
        for rule in rules.http.iter() {
            picture.push_str(&format!("  {} {:?} {:?}\n", rule.document.key, rule.matches, rule.action));
        }
    }
    for gateway in view.gateways() {
        picture.push_str(&format!("{} {:?} {:?}\n", gateway.key, gateway.nodes, gateway.listeners));
        for port in gateway.ports() {
            picture.push_str(&format!("  {} {}\n", port.number, port.bind));
            for (name, chain) in port.chains.all() {
                picture.push_str(&format!("  {name} {:?} {:?}\n", chain.listeners, chain.connections));
                for (name, host) in chain.hosts.all() {
                    let rules = host.rules.iter().flat_map(|rules| rules.http.iter());
                    let rules: Vec<_> = rules.map(|rule| (&rule.document.key, &rule.matches, &rule.action)).collect();
                    picture.push_str(&format!("    {name} {} {rules:?}\n", host.redirects_to_https));
                }
            }
        }
    }
    let mut virtual_hosts: Vec<&str> = view.virtual_hosts.by_name.keys().map(|name| &**name).collect();
    virtual_hosts.sort_unstable();
    let ends: Vec<_> = view.virtual_hosts.by_end.all().into_iter().map(|(end, _)| end).collect();
    for (place, name) in view.services.iter().map(|service| service.id.to_string()).enumerate() {
        assert_eq!(view.by_name.get(name.as_str()).copied(), u32::try_from(place).ok());
    }
    assert_eq!(view.by_name.len(), view.services.len());
    let aliases: BTreeMap<_, _> = view.aliases.iter().collect();
    let mut local: Vec<_> = view.local.iter().collect();
    local.sort_by_key(|(name, _)| *name);
    let mut access: Vec<_> = view.local.iter().map(|(name, local)| (name, view.access(&local.workload))).collect();
    access.sort_by_key(|(name, _)| *name);
    let mut callers: Vec<_> = view.callers.by_name.iter().collect();
    callers.sort_by_key(|(name, _)| *name);
    format!("{picture}{virtual_hosts:?} {ends:?}\n{aliases:?}\n{local:?}\n{access:?}\n{callers:?}")
}

pub(super) fn authorization(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: \
         {namespace}}}, spec: {spec}}}"
    )
}

fn rich_mesh() -> Mesh {
    let to = |name: &str, hosts: &str, timeout: u32| {
        rule(
            name,
            hosts,
            &format!(
                "[{{name: {name}, timeout: {timeout}s, route: [{{destination: {{host: reviews, subset: v1}}}}]}}]"
            ),
        )
    };
    let mut mesh = bookinfo()
        .node("other", vec![row("reviews", "reviews-v1"), on_ports(80, 8080, row("web", "web-1"))])
        .apply(SUBSETS)
        .apply(&to("a", "[reviews]", 1))
        .apply(&to("b", "[reviews, ratings]", 2))
        .apply(&to("c", "['*.local']", 3))
        .apply(&destination_rule("d", "default", "{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}}"))
        .apply(&destination_rule("e", "default", "{host: reviews, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}"))
        .apply(&authorization("allow", "default", "{selector: {matchLabels: {version: v1}}, rules: [{}]}"))
        .apply(&authorization("deny", "istio-system", "{action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]}"))
        .apply("{apiVersion: weft.mesh/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: u}, spec: {targetRefs: [{group: '', kind: Service, name: ratings}], loadBalancer: {peakEwma: {decay: 1s}}}}")
        .apply("{apiVersion: weft.mesh/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: v}, spec: {targetRefs: [{group: '', kind: Service, name: ratings}], loadBalancer: {peakEwma: {decay: 2s}}}}")
        .apply("{apiVersion: weft.mesh/v1alpha1, kind: CircuitPolicy, metadata: {name: default}, spec: {}}")
        .apply(&gateway_api::of_kind("HTTPRoute", "g", "default", "", "{matches: [{path: {value: /g}}]}"))
        .apply(&gateway_api::of_kind("HTTPRoute", "h", "prod", "", "{backendRefs: [{name: web, namespace: default, port: 80}]}"))
        .apply(&gateway_api::of_kind("GRPCRoute", "i", "default", ", port: 9080", "{matches: [{method: {service: s}}]}"))
        .apply(
            "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: j}, spec: {from: \
             [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: prod}], to: [{group: '', kind: Service}]}}",
        )
        .apply("{apiVersion: v1, kind: Service, metadata: {name: all}, spec: {ports: [{port: 9080}], selector: {version: v1}}}")
        .apply(slices::SERVICE)
        .apply(&slices::slice("l", "endpoints: [{addresses: [10.9.0.1]}]"))
        .apply(&slices::slice("m", "endpoints: [{addresses: [10.9.0.1], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.9.0.2]}]"))
        .apply("{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: t}, spec: {targetRefs: [{group: '', kind: Service, name: legacy, sectionName: http}], validation: {hostname: a.example, wellKnownCACertificates: System}}}");
    mesh = mesh
        .apply(&aliases::alias("w", "www.example.com", "{port: 80}"))
        .apply(&aliases::alias("x", "all.default.svc.cluster.local", ""))
        .apply(&aliases::alias("y", "old.example.net", "{port: 80}"))
        .apply(entries::API)
        .apply(&entries::static_entry("name: n, namespace: prod", "api.example.com", "10.9.0.7"))
        .apply(&entries::static_entry("name: o", "api.example.com", "10.9.0.8"))
        .apply(&entries::static_entry("name: p", "*.example.com", "10.9.0.9"))
        .apply(&to("q", "['*.com']", 5));
    // Gateways of both projects, with what is bound to them.
    let rest = |service: &str| {
        format!("{}, {{{}}}", "{match: [{uri: {prefix: /x}}], redirect: {uri: /}}", gateways::to(service))
    };
    mesh = mesh
        .apply(&gateways::gateway("old", &gateways::http(80, "['*.example.com']")))
        .apply(&gateways::gateway("new", &gateways::http(80, "['*', './only.example.org']")))
        .apply(&gateways::bound("r", "[old, new, mesh]", "[www.example.com]", &rest("web")))
        .apply(&gateways::bound("s", "[new]", "[www.example.com, only.example.org]", &rest("reviews")))
        .apply(&gateway_listeners::gateway(
            "{name: l, port: 80, protocol: HTTP}, {name: m, port: 80, protocol: HTTP, hostname: '*.example.com'}",
        ))
        .apply(&gateway_listeners::route("u", "{name: gw}", "www.example.com", "", "web"))
        .apply(&gateway_listeners::route(
            "v",
            "{name: gw, sectionName: m}",
            "'*.com'",
            "{path: {value: /v}}",
            "reviews",
        ));
    // Two documents with one stamp, of two authors.
    mesh.next_stamp -= 1;
    mesh = mesh.apply(&to("f", "[web]", 4));
    mesh.next_stamp -= 1;
    mesh.apply(&gateway_api::of_kind("HTTPRoute", "k", "default", "", "{matches: [{path: {value: /g}}]}"))
}

#[test]
fn a_row_that_a_node_announces_twice_counts_twice_also_when_it_is_added_later() {
    let mut mesh = bookinfo().node("other", vec![row("reviews", "reviews-v1")]);
    let before = mesh.view();
    let rows = &mut Arc::make_mut(&mut mesh.nodes.last_mut().unwrap().record).endpoints;
    rows.push(rows[0].clone());
    assert_eq!(picture(&mesh.view_after(Some(&before))), picture(&mesh.view()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_view_depends_on_the_set_of_its_inputs_only(seed in any::<u64>()) {
        let expected = picture(&rich_mesh().view());
        let mut mesh = rich_mesh();
        shuffle(&mut mesh.documents, seed);
        shuffle(&mut mesh.nodes, seed.rotate_left(9));
        for node in &mut mesh.nodes {
            shuffle(&mut Arc::make_mut(&mut node.record).endpoints, seed.rotate_left(23));
        }
        prop_assert_eq!(picture(&mesh.view()), expected);
    }

    #[test]
    fn a_view_made_from_a_previous_one_is_as_if_made_anew(changes in prop::collection::vec((0..11_u8, any::<u64>()), 1..16)) {
        let mut mesh = rich_mesh();
        let mut view = mesh.view();
        for (change, seed) in changes {
            let place = |len: usize| (seed % len as u64) as usize;
            match change {
                0 => { mesh.documents.remove(place(mesh.documents.len())); }
                1 => {
                    let at = place(rich_mesh().documents.len());
                    mesh.documents.push(rich_mesh().documents.swap_remove(at));
                    mesh.documents.dedup_by(|a, b| a.key == b.key);
                }
                2 => { mesh.nodes.truncate(1 + place(mesh.nodes.len())); }
                3 => mesh.nodes = rich_mesh().nodes,
                4 => {
                    let node = place(mesh.nodes.len());
                    let record = Arc::make_mut(&mut mesh.nodes[node].record);
                    if let Some(row) = record.endpoints.first_mut() {
                        row.health = EndpointHealth::Unhealthy;
                    }
                }
                5 => {
                    let node = place(mesh.nodes.len());
                    mesh.nodes[node].standing = Standing::Demoted;
                }
                6..9 => {
                    // A row is selected by other services, is of another one, or stands in the record twice.
                    let node = place(mesh.nodes.len());
                    let rows = &mut Arc::make_mut(&mut mesh.nodes[node].record).endpoints;
                    let at = seed.rotate_left(32) as usize % rows.len();
                    match change {
                        6 => rows[at].version = if seed % 2 == 0 { "v1" } else { "v7" }.into(),
                        7 => rows[at].service = if seed % 2 == 0 { "web" } else { "new.prod" }.parse().unwrap(),
                        _ => rows.push(EndpointRow { protocol: Protocol::Tcp, ..rows[at].clone() }),
                    }
                }
                9 => {
                    let address: IpAddr = [10, 9, 1, seed as u8].into();
                    Arc::make_mut(&mut mesh.names).insert("old.example.net".into(), [address].into());
                }
                _ => mesh.local.retain(|(_, workload), _| workload.as_str() != "reviews-v1" || seed % 2 == 0),
            }
            if mesh.documents.is_empty() {
                break;
            }
            let mut keys: Vec<_> = mesh.documents.iter().map(|document| document.key.clone()).collect();
            keys.sort();
            keys.dedup();
            prop_assume!(keys.len() == mesh.documents.len());
            view = mesh.view_after(Some(&view));
            prop_assert_eq!(picture(&view), picture(&mesh.view()));
        }
    }

    #[test]
    fn requests_split_by_weight(weights in prop::collection::vec(0_u64..100, 2..5), seed in any::<u64>()) {
        let total: u64 = weights.iter().sum();
        prop_assume!(total > 0);
        let subsets: String = (0..weights.len()).map(|i| format!("{{name: s{i}}}, ")).collect();
        let route: String = weights
            .iter()
            .enumerate()
            .map(|(i, weight)| format!("{{destination: {{host: reviews, subset: s{i}}}, weight: {weight}}}, "))
            .collect();
        let view = bookinfo()
            .apply(&destination_rule("a", "default", &format!("{{host: reviews, subsets: [{subsets}]}}")))
            .apply(&rule("r", "[reviews]", &format!("[{{route: [{route}]}}]")))
            .view();
        let request = get("/");
        let client = Client { namespace: &Namespace::default_namespace(), workload: None };
        let (reviews, mut random) = (service(&view, "reviews"), seed);
        let mut counts = vec![0_u64; weights.len()];
        const REQUESTS: u64 = 4_000;
        for _ in 0..REQUESTS {
            random = next(random);
            let matched = view.route(Host::Service(reviews), 9080, &request.head(), client, random).unwrap();
            let Action::Forward(forward) = matched.action else { panic!() };
            counts[forward.cluster.subset[1..].parse::<usize>().unwrap()] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            let expected = REQUESTS * weight / total;
            prop_assert!(count.abs_diff(expected) < 200, "{counts:?} for {weights:?}");
            prop_assert!(*weight > 0 || *count == 0, "a weight of 0 gets nothing");
        }
    }
}

/// Knuth's MMIX generator, its good high bits spread over all.
fn next(state: u64) -> u64 {
    let state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    state.rotate_left(32) ^ state
}

fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut random = seed;
    for i in (1..items.len()).rev() {
        random = next(random);
        items.swap(i, (random % (i as u64 + 1)) as usize);
    }
}

#[test]
fn what_has_not_changed_is_shared_with_the_previous_view() {
    let mut mesh = rich_mesh();
    let first = mesh.view();
    let names = |view: &MeshView| -> Vec<String> {
        let is_shared = |service: &&Arc<Service>| !first.services().any(|known| Arc::ptr_eq(known, service));
        view.services().filter(is_shared).map(|service| service.id.to_string()).collect()
    };
    assert!(names(&mesh.view_after(Some(&first))).is_empty());
    let record = Arc::make_mut(&mut mesh.nodes[2].record);
    record.endpoints[1].health = EndpointHealth::Unhealthy;
    assert_eq!(names(&mesh.view_after(Some(&first))), ["web.default"]);
    let next = mesh.view_after(Some(&first));
    assert!(Arc::ptr_eq(&next.by_name, &first.by_name) && Arc::ptr_eq(&next.virtual_hosts, &first.virtual_hosts));
    assert!(Arc::ptr_eq(&next.externals, &first.externals));
    let mesh = mesh.apply(&destination_rule("x", "default", "{host: ratings}"));
    assert_eq!(names(&mesh.view_after(Some(&first))), ["ratings.default", "web.default"]);
}

#[test]
fn a_document_in_the_place_of_another_one_is_read_anew() {
    let text = |name: &str| {
        rule(name, "[www.example.com]", "[{directResponse: {status: 200}}]").replace("http:", "tcp: [], http:")
    };
    let mut mesh = Mesh::new();
    let mut view = mesh.view();
    for round in 0..50 {
        mesh.documents.clear();
        mesh = mesh.apply(&text(&format!("a{round}")).replace("www", &format!("www{round}")));
        view = mesh.view_after(Some(&view));
        let client = Client { namespace: &Namespace::default_namespace(), workload: None };
        assert!(view.host(&format!("www{round}.example.com"), None, client).is_some());
    }
}
