//! Sidecars: what a client sees of the mesh. Rules: Istio's `pilot/pkg/model/sidecar.go`.

use super::{
    entries::static_entry,
    explain::{explain, steps},
    *,
};
use crate::unserved::Unserved;

fn sidecar(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {spec}}}"
    )
}

/// A Sidecar of the default namespace that shows these hosts.
fn shows(hosts: &str) -> String {
    sidecar("s", "default", &format!("{{egress: [{{hosts: [{hosts}]}}]}}"))
}

/// Where the requests of a client go that asks for `HOST` or `HOST:PORT`: the cluster, an answer, or what becomes of
/// hosts that nobody serves.
fn reached_by(view: &MeshView, client: Client<'_>, asked: &str) -> String {
    let (host, port) = asked.split_once(':').map_or((asked, None), |(host, port)| (host, port.parse().ok()));
    let found = match (view.host(host, port, client), view.unserved(client)) {
        (Some(found), _) => found,
        (None, Unserved::Passed(passthrough)) => Host::Passthrough(passthrough),
        (None, Unserved::BlackHoled(service)) => return service.id.name().to_owned(),
        (None, Unserved::Refused) => return "refused".into(),
    };
    let only = match found {
        Host::Service(service) => service.port(None).map(|port| port.port),
        Host::Virtual(_) | Host::Passthrough(_) => None,
    };
    match view.route(found, port.or(only).unwrap_or(80), &get("/").head(), client, 0).map(|matched| matched.action) {
        Some(Action::Forward(forward)) => forward.cluster.name.to_string(),
        Some(Action::Respond(response)) => String::from_utf8(response.body.to_vec()).unwrap(),
        other => format!("{other:?}"),
    }
}

fn reached(view: &MeshView, namespace: &str, asked: &str) -> String {
    reached_by(view, Client { namespace: &namespace.parse().unwrap(), workload: None }, asked)
}

fn sees(view: &MeshView, namespace: &str, asked: &str) -> bool {
    reached(view, namespace, asked) != "refused"
}

fn answer(name: &str, namespace: &str, hosts: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{hosts: {hosts}, http: [{{directResponse: {{status: 200, body: {{string: {name}}}}}}}]}}}}"
    )
}

#[test]
fn egress_hosts_are_all_that_a_client_sees() {
    for (hosts, reviews, ratings_of_prod, api) in [
        ("'*/*'", true, true, true),
        ("'./*'", true, false, true),
        ("'prod/*'", false, true, false),
        ("'~/*'", false, false, false),
        ("'./*', 'prod/*'", true, true, true),
        ("default/reviews.default.svc.cluster.local", true, false, false),
        ("'*/reviews.default.svc.cluster.local'", true, false, false),
        ("prod/reviews.default.svc.cluster.local", false, false, false),
        ("'*/*.svc.cluster.local'", true, true, false),
        ("'*/*.prod.svc.cluster.local'", false, true, false),
        ("'./*.example.com'", false, false, true),
        ("'./*.com'", false, false, true),
        ("'prod/*', '*/api.example.com'", false, true, true),
    ] {
        let mesh = bookinfo().apply(&static_entry("name: api", "API.example.com", "10.9.0.1"));
        let view = mesh.apply(&shows(hosts)).view();
        let seen = ["reviews", "ratings.prod", "api.example.com"].map(|host| sees(&view, "default", host));
        assert_eq!(seen, [reviews, ratings_of_prod, api], "{hosts}");
        let elsewhere = ["reviews.default", "ratings", "api.example.com"].map(|host| sees(&view, "prod", host));
        assert_eq!(elsewhere, [true; 3], "it is for its own namespace");
    }
}

#[test]
fn a_wildcard_is_seen_where_all_of_it_is() {
    let mesh = bookinfo().apply(&static_entry("name: wild", "*.example.com", "10.9.0.1"));
    for (hosts, seen) in [("'./*.example.com'", true), ("'./*.com'", true), ("./a.example.com", false)] {
        let mesh = Mesh { documents: mesh.documents.clone(), ..bookinfo() }.apply(&shows(hosts));
        assert_eq!(sees(&mesh.view(), "default", "a.example.com"), seen, "{hosts}");
    }
}

#[test]
fn the_closest_sidecar_holds_and_of_several_the_oldest() {
    let only = |what: &str| format!("egress: [{{hosts: ['*/{what}.default.svc.cluster.local']}}]");
    let own = sidecar("own", "default", &format!("{{{}}}", only("reviews")));
    let younger = sidecar("younger", "default", &format!("{{{}}}", only("ratings")));
    let root = sidecar("root", "istio-system", &format!("{{{}}}", only("ratings")));
    let selecting = |name: &str, label: &str, what: &str| {
        sidecar(name, "default", &format!("{{workloadSelector: {{labels: {{{label}}}}}, {}}}", only(what)))
    };
    // Which of reviews and ratings somebody sees: a client without labels, ratings, and one of another namespace.
    let seen = |documents: &[&str]| {
        let view = documents.iter().fold(bookinfo(), |mesh, document| mesh.apply(document)).view();
        let (default, prod) = (Namespace::default_namespace(), "prod".parse().unwrap());
        let ratings = view.caller("default/ratings-v1", &"default/ratings".parse().unwrap()).cloned();
        [(&default, None), (&default, ratings.as_deref()), (&prod, None)].map(|(namespace, workload)| {
            let client = Client { namespace, workload };
            ["reviews.default", "ratings.default"].map(|host| reached_by(&view, client, host) != "refused")
        })
    };
    let (reviews, ratings, both) = ([true, false], [false, true], [true, true]);
    assert_eq!(seen(&[]), [both, both, both]);
    assert_eq!(seen(&[&own, &younger]), [reviews, reviews, both]);
    assert_eq!(seen(&[&root]), [ratings, ratings, ratings], "that of the root namespace is for all");
    assert_eq!(seen(&[&root, &own]), [reviews, reviews, ratings], "that have none of their own");
    let by_label = selecting("a", "app: ratings", "ratings");
    assert_eq!(seen(&[&own, &by_label]), [reviews, ratings, both]);
    assert_eq!(seen(&[&selecting("a", "app: ratings, version: v9", "ratings")]), [both, both, both]);
    assert_eq!(seen(&[&by_label, &selecting("b", "version: v1", "reviews")]), [both, ratings, both]);
    let of_root = sidecar("a", "istio-system", &format!("{{workloadSelector: {{labels: {{}}}}, {}}}", only("ratings")));
    assert_eq!(seen(&[&of_root]), [both, both, both], "one with a selector is for workloads of its namespace");
}

#[test]
fn an_own_namespace_in_the_root_is_the_clients() {
    let root = sidecar("s", "istio-system", "{egress: [{hosts: ['./*']}]}");
    let view = bookinfo().apply(&root).view();
    assert!(sees(&view, "default", "reviews") && !sees(&view, "default", "ratings.prod"));
    assert!(sees(&view, "prod", "ratings") && !sees(&view, "prod", "reviews.default"));
}

#[test]
fn a_listener_with_a_port_says_what_is_seen_at_it_and_the_one_without_what_at_all_others() {
    let mesh = || {
        Mesh::new().node(
            "there",
            vec![
                on_ports(80, 80, row("reviews", "reviews-v1")),
                on_ports(9080, 9080, row("reviews", "reviews-v1")),
                on_ports(9080, 9080, row("ratings.prod", "ratings-v1")),
            ],
        )
    };
    let seen = |egress: &str| {
        let view = mesh().apply(&sidecar("s", "default", &format!("{{egress: [{egress}]}}"))).view();
        ["reviews:80", "reviews", "reviews:9080", "ratings.prod", "ratings.prod:9080"]
            .map(|asked| sees(&view, "default", asked))
    };
    let port = |port: &str, hosts: &str| format!("{{port: {{{port}}}, hosts: ['{hosts}']}}");
    let at_80 = port("number: 80, protocol: HTTP, name: a", "./*");
    assert_eq!(seen(&at_80), [true, true, false, false, false], "nothing at other ports; none means 80");
    assert_eq!(seen(&format!("{at_80}, {{hosts: ['prod/*']}}")), [true, true, false, true, true]);
    let proxy = port("number: 15080, protocol: HTTP_PROXY, name: a", "./*");
    assert_eq!(seen(&proxy), [true, true, true, false, false], "a proxy is for all ports");
    let socket = "{port: {number: 0, protocol: HTTP, name: a}, bind: 'unix:///a', hosts: ['*/*']}";
    assert_eq!(seen(socket), [false; 5]);
}

#[test]
fn virtual_services_are_seen_by_their_namespace_and_hosts() {
    let ruled =
        |hosts: &str, rule: &str| reached(&bookinfo().apply(rule).apply(&shows(hosts)).view(), "default", "reviews");
    let direct = "outbound|9080||reviews.default.svc.cluster.local";
    let of_prod = answer("ruled", "prod", "[reviews.default.svc.cluster.local]");
    assert_eq!(ruled("'./*'", &answer("ruled", "default", "[reviews]")), "ruled");
    assert_eq!(ruled("'./*'", &of_prod), direct, "of a namespace of which nothing is shown");
    assert_eq!(ruled("'./*', prod/other.org", &of_prod), direct, "the namespace shows another host");
    assert_eq!(ruled("'./*', 'prod/*'", &of_prod), "ruled");
    assert_eq!(ruled("'./*', '*/reviews.default.svc.cluster.local'", &of_prod), "ruled");
    // A wildcard is seen where it is shown in part, as in Istio.
    let wild = answer("ruled", "default", "['*.default.svc.cluster.local']");
    assert_eq!(ruled("./reviews.default.svc.cluster.local", &wild), "ruled");

    let only_ruled = answer("ruled", "default", "[www.example.com, a.org]");
    for (hosts, expected) in [("'./*'", "ruled"), ("./a.org", "ruled"), ("'prod/*'", "refused")] {
        let view = bookinfo().apply(&only_ruled).apply(&shows(hosts)).view();
        assert_eq!(reached(&view, "default", "www.example.com"), expected, "{hosts}");
    }
}

#[test]
fn a_rule_that_is_seen_leads_to_services_that_are_not() {
    let to = rule("to", "[to.org]", "[{route: [{destination: {host: ratings.prod.svc.cluster.local}}]}]");
    let view = bookinfo().apply(&to).apply(&shows("'./*'")).view();
    assert!(!sees(&view, "default", "ratings.prod"));
    assert_eq!(reached(&view, "default", "to.org"), "outbound|9080||ratings.prod.svc.cluster.local");
}

#[test]
fn routes_of_services_are_seen_by_their_namespace() {
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: default}, spec: \
                 {parentRefs: [{group: '', kind: Service, name: reviews}], rules: [{filters: [{type: RequestRedirect, \
                 requestRedirect: {hostname: to.org}}]}]}}";
    let is_ruled = |hosts: &str| {
        let view =
            bookinfo().apply(route).apply(&sidecar("s", "prod", &format!("{{egress: [{{hosts: [{hosts}]}}]}}"))).view();
        reached(&view, "prod", "reviews.default").contains("to.org")
    };
    assert!(is_ruled("'default/*'") && is_ruled("'*/reviews.default.svc.cluster.local'"));
    assert!(!is_ruled("'prod/*'"), "the service is not seen either");
}

#[test]
fn of_entries_for_a_host_those_of_a_namespace_that_is_shown_are_meant() {
    let of = |namespace: &str, address: &str| {
        static_entry(&format!("name: api, namespace: {namespace}"), "api.example.com", address)
    };
    let mesh = Mesh::new().apply(&of("prod", "10.9.0.1")).apply(&of("stage", "10.9.0.2"));
    let namespace_of = |hosts: &str| {
        let mesh = Mesh { documents: mesh.documents.clone(), ..Mesh::new() }.apply(&shows(hosts));
        let (view, namespace) = (mesh.view(), Namespace::default_namespace());
        match view.host("api.example.com", None, Client { namespace: &namespace, workload: None }) {
            Some(Host::Service(service)) => service.id.namespace().to_string(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(namespace_of("'*/*'"), "prod", "the oldest");
    assert_eq!(namespace_of("'stage/*'"), "stage");
    assert_eq!(namespace_of("'./*'"), "None");
}

#[test]
fn the_sidecars_word_on_other_hosts_comes_before_the_meshs() {
    let mesh_config = "{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default, namespace: \
                       istio-system}, spec: {outboundTrafficPolicy: {mode: ALLOW_ANY}}}";
    let of = |policy: &str| sidecar("s", "default", &format!("{{outboundTrafficPolicy: {policy}}}"));
    let mut view = bookinfo().apply(mesh_config).apply(&of("{}")).view();
    assert_eq!(reached(&view, "default", "www.example.com"), "BlackHoleCluster", "REGISTRY_ONLY if it says nothing");
    assert_eq!(reached(&view, "prod", "www.example.com"), "PassthroughCluster");
    assert!(reached(&view, "default", "ratings.prod").contains("ratings.prod"), "without egress all is seen");
    view = bookinfo().apply(&of("{mode: ALLOW_ANY}")).view();
    assert_eq!(reached(&view, "default", "www.example.com"), "PassthroughCluster");
    assert_eq!(reached(&view, "prod", "www.example.com"), "refused");
    let proxy = |host: &str| {
        of(&format!("{{mode: ALLOW_ANY, egressProxy: {{host: {host}, port: {{number: 9080}}, subset: v1}}}}"))
    };
    view = bookinfo().apply(SUBSETS).apply(&proxy("reviews.default.svc.cluster.local")).view();
    assert_eq!(reached(&view, "default", "www.example.com"), "outbound|9080|v1|reviews.default.svc.cluster.local");
    view = bookinfo().apply(&proxy("nobody.default.svc.cluster.local")).view();
    assert_eq!(reached(&view, "default", "www.example.com"), "BlackHoleCluster", "a proxy that does not exist");
}

#[test]
fn explain_tells_which_sidecar_hides_a_host() {
    let view =
        bookinfo().apply(&answer("r", "prod", "[reviews.default.svc.cluster.local]")).apply(&shows("'./*'")).view();
    let told = explain(&view, "reviews:9080", &get("/"));
    assert_eq!(steps(&told, "sidecar"), ["Sidecar default/s : says what the caller sees of the mesh"]);
    assert!(
        steps(&told, "rule")[0].ends_with("passed over: the caller's Sidecar does not show it"),
        "{:?}",
        steps(&told, "rule")
    );
    let told = explain(&view, "ratings.prod:9080", &get("/"));
    assert_eq!(steps(&told, "host")[0], "Sidecar default/s spec.egress: shows the caller no ratings.prod");
}

#[test]
fn a_sidecar_that_comes_and_goes_rebuilds_no_service() {
    let mesh = bookinfo().apply(SUBSETS);
    let before = mesh.view();
    let with = mesh.apply(&shows("'./*'")).view_after(Some(&before));
    assert!(Arc::ptr_eq(service(&before, "reviews"), service(&with, "reviews")));
}
