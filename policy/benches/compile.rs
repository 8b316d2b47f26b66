//! What compiling and routing cost, printed: `cargo bench -p weft-policy`. 1,000 services with 5,000 endpoints on 100
//! nodes and 2,000 documents, and one host with 1,000 rules.

use std::{
    alloc::System,
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Method};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use weft_policy::{
    compile::{Inputs, NodeInput, ResolvedNames, compile},
    document::{Document, parse_stored, parse_yaml},
    endpoint::Standing,
    route::{Client, RequestHead},
    view::MeshView,
};
use weft_wire::{
    document::Stamp,
    fact::{EndpointHealth, EndpointRow, NodeRecord, NodeState, Protocol},
    id::{Locality, Namespace},
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SERVICES: usize = 1_000;
const ENDPOINTS_EACH: usize = 5;
const NODES: usize = 100;
const NAMESPACES: usize = 10;
const RULES: usize = 1_000;

fn namespace_of(service: usize) -> usize {
    service % NAMESPACES
}

fn node(number: usize) -> NodeInput {
    let endpoints = (0..SERVICES * ENDPOINTS_EACH).filter(|endpoint| endpoint % NODES == number).map(|endpoint| {
        let (service, instance) = (endpoint / ENDPOINTS_EACH, endpoint % ENDPOINTS_EACH);
        EndpointRow {
            service: format!("s{service}.n{}", namespace_of(service)).parse().unwrap(),
            workload: format!("s{service}-v{instance}").parse().unwrap(),
            service_account: format!("s{service}").parse().unwrap(),
            version: format!("v{}", instance % 2 + 1),
            labels: BTreeMap::new(),
            port: 9080,
            target_port: 9080,
            protocol: Protocol::Http,
            health: EndpointHealth::Healthy,
        }
    });
    let record = NodeRecord {
        advertise: [10, 0, 0, number as u8].into(),
        state: NodeState::Up,
        locality: Locality::default(),
        labels: BTreeMap::new(),
        build: "bench".into(),
        endpoints: endpoints.collect(),
    };
    let name = format!("node-{number}").parse().unwrap();
    NodeInput { name, record: Arc::new(record), standing: Standing::Preferred }
}

fn document(yaml: &str, millis: u64) -> Arc<Document> {
    let parsed = parse_yaml(yaml, &Namespace::default_namespace()).unwrap().documents.remove(0);
    Arc::new(parse_stored(&parsed.key, &parsed.json, Stamp { millis, counter: 0 }).unwrap())
}

fn yaml(api: &str, kind: &str, service: usize, spec: &str) -> String {
    let namespace = namespace_of(service);
    format!(
        "{{apiVersion: {api}, kind: {kind}, metadata: {{name: s{service}, namespace: n{namespace}}}, spec: {spec}}}"
    )
}

const NETWORKING: &str = "networking.istio.io/v1";

fn service(service: usize) -> String {
    yaml("v1", "Service", service, &format!("{{ports: [{{name: http, port: 9080}}], selector: {{app: s{service}}}}}"))
}

fn destination_rule(service: usize) -> String {
    let subsets = "subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]";
    yaml(NETWORKING, "DestinationRule", service, &format!("{{host: s{service}, {subsets}}}"))
}

fn virtual_service(service: usize) -> String {
    let to = |subset: &str| format!("route: [{{destination: {{host: s{service}, subset: {subset}}}}}]");
    let jason = "match: [{headers: {end-user: {exact: jason}}}]";
    let http = format!("[{{{jason}, timeout: 2s, {}}}, {{{}}}]", to("v2"), to("v1"));
    yaml(NETWORKING, "VirtualService", service, &format!("{{hosts: [s{service}], http: {http}}}"))
}

/// A host with many rules, none of which but the last matches a request for `/none`: in parts that it delegates to.
fn many_rules(condition: impl Fn(usize) -> String) -> Vec<Arc<Document>> {
    const PART: usize = 100;
    let parts = (0..RULES / PART).map(|part| {
        let rule = |i: usize| format!("{{match: [{}], directResponse: {{status: 200}}}}, ", condition(i));
        let rules: String = (part * PART..(part + 1) * PART).map(rule).collect();
        yaml(NETWORKING, "VirtualService", part * NAMESPACES, &format!("{{http: [{rules}]}}"))
    });
    let delegate = |part: usize| format!("{{delegate: {{name: s{}}}}}, ", part * NAMESPACES);
    let delegates: String = (0..RULES / PART).map(delegate).collect();
    let http = format!("[{delegates}{{directResponse: {{status: 404}}}}]");
    let root =
        yaml(NETWORKING, "VirtualService", SERVICES * NAMESPACES, &format!("{{hosts: [rules.example], http: {http}}}"));
    parts.chain([root]).map(|text| document(&text, 30_000)).collect()
}

/// A number without digits.
fn letters(number: usize) -> String {
    format!("{number:03}").bytes().map(|digit| char::from(digit - b'0' + b'a')).collect()
}

/// An expression without fixed text, of a thousand.
fn of_classes(number: usize) -> String {
    let letters = "[a-z]".repeat(number / 100 % 10);
    format!(".*[0-9]{{{}}}{letters}[{}-z]?[a-z]+", 10 + number % 10, char::from(b'a' + (number / 10 % 10) as u8))
}

/// Letters of which each may be missing, of a thousand such.
fn optional_letters(number: usize) -> String {
    format!("[a-{}]?", letters(number).split("").filter(|one| !one.is_empty()).collect::<Vec<_>>().join("]?[a-"))
}

struct Mesh {
    nodes: Vec<NodeInput>,
    documents: Vec<Arc<Document>>,
}

impl Mesh {
    fn compile(&self, previous: Option<&MeshView>) -> MeshView {
        let (trust_domain, this_node) = ("cluster.local".parse().unwrap(), "here".parse().unwrap());
        let (nodes, documents, local) = (&self.nodes, &self.documents, &BTreeMap::new());
        let secrets = &Arc::default();
        let names = &Arc::<ResolvedNames>::default();
        let inputs =
            Inputs { trust_domain: &trust_domain, this_node: &this_node, nodes, documents, local, secrets, names };
        compile(&inputs, previous)
    }
}

/// The fastest of some runs: what else the machine does only makes them slower.
fn fastest(runs: usize, run: impl FnMut() -> Duration) -> Duration {
    std::iter::repeat_with(run).take(runs).min().unwrap_or_default()
}

fn time<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let result = work();
    (begun.elapsed(), result)
}

/// How long one route takes, and how many allocations; the host is found by name each time.
fn route(view: &MeshView, host: &str, path: &str, headers: &HeaderMap) -> (Duration, usize) {
    const ROUNDS: u32 = 1_000;
    let namespace = "n0".parse().unwrap();
    let head = RequestHead { method: &Method::GET, path_and_query: path, authority: host, scheme: "http", headers };
    let client = Client { namespace: &namespace, workload: None };
    let one = || {
        let found = view.host(black_box(host), None, client).unwrap();
        black_box(view.route(found, 9080, &head, client, 7)).unwrap();
    };
    for _ in 0..ROUNDS / 10 {
        one();
    }
    let region = Region::new(ALLOCATOR);
    let elapsed = fastest(20, || time(|| (0..ROUNDS / 20).for_each(|_| one())).0 * 20);
    (elapsed / ROUNDS, region.change().allocations / ROUNDS as usize)
}

/// How long a route takes whose path nobody sent before, in expressions for which each leads to states of its own.
fn unseen(bytes: usize) -> Duration {
    const PATHS: u64 = 200;
    let condition = |i: usize| {
        let last = char::from(b'b' + (i / 100) as u8);
        format!("{{uri: {{regex: '.*a[ab]{{{}}}[a-{last}]c{{{}}}'}}}}", 8 + i % 10, 1 + i / 10 % 10)
    };
    let view = Mesh { nodes: Vec::new(), documents: many_rules(condition) }.compile(None);
    let mut bits = 1_u64;
    let mut letter = || {
        // Marsaglia's xorshift.
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        if bits & 1 == 0 { 'a' } else { 'b' }
    };
    let paths = (0..PATHS).map(|_| std::iter::repeat_with(&mut letter).take(bytes).chain("bccc".chars()).collect());
    let paths: Vec<String> = paths.collect();
    let (namespace, headers) = ("n0".parse().unwrap(), &HeaderMap::new());
    let client = Client { namespace: &namespace, workload: None };
    let (elapsed, ()) = time(|| {
        for path_and_query in &paths {
            let head = RequestHead {
                method: &Method::GET,
                path_and_query,
                authority: "rules.example",
                scheme: "http",
                headers,
            };
            let found = view.host("rules.example", None, client).unwrap();
            black_box(view.route(found, 9080, &head, client, 7)).unwrap();
        }
    });
    elapsed / PATHS as u32
}

fn main() {
    let texts = (0..SERVICES).map(service).chain((0..500).map(destination_rule)).chain((0..500).map(virtual_service));
    let documents = texts.enumerate().map(|(age, text)| document(&text, age as u64)).collect();
    let mut mesh = Mesh { nodes: (0..NODES).map(node).collect(), documents };
    println!(
        "{SERVICES} services, {} endpoints on {NODES} nodes, {} documents",
        SERVICES * ENDPOINTS_EACH,
        mesh.documents.len()
    );

    let region = Region::new(ALLOCATOR);
    let mut view = mesh.compile(None);
    let used = region.change();
    println!("view: {:.1} MB", (used.bytes_allocated - used.bytes_deallocated) as f64 / 1e6);
    println!("full compile: {:?}", fastest(11, || time(|| mesh.compile(None)).0));
    println!("no change: {:?}", fastest(11, || time(|| mesh.compile(Some(&view))).0));

    let mut flip = 0;
    let one_row = fastest(21, || {
        flip += 1;
        let record = Arc::make_mut(&mut mesh.nodes[flip % NODES].record);
        let healthy = record.endpoints[0].health == EndpointHealth::Healthy;
        record.endpoints[0].health = if healthy { EndpointHealth::Unhealthy } else { EndpointHealth::Healthy };
        let (elapsed, next) = time(|| mesh.compile(Some(&view)));
        view = next;
        elapsed
    });
    println!("one endpoint's health: {one_row:?}");
    let one_document = fastest(21, || {
        flip += 1;
        let place = SERVICES + 500 + flip % 500;
        mesh.documents[place] = document(&virtual_service(flip % 500), 10_000 + flip as u64);
        let (elapsed, next) = time(|| mesh.compile(Some(&view)));
        view = next;
        elapsed
    });
    println!("one VirtualService: {one_document:?}");
    let one_rule = fastest(21, || {
        flip += 1;
        mesh.documents[SERVICES + flip % 500] = document(&destination_rule(flip % 500), 20_000 + flip as u64);
        let (elapsed, next) = time(|| mesh.compile(Some(&view)));
        view = next;
        elapsed
    });
    println!("one DestinationRule: {one_rule:?}");

    let mut jason = HeaderMap::new();
    jason.insert("end-user", "jason".parse().unwrap());
    let print = |what: &str, (time, allocations): (Duration, usize)| {
        println!("{what}: {time:?}, {allocations} allocations");
    };
    print("route, no VirtualService", route(&view, "s700.n0", "/reviews/0", &jason));
    print("route, two rules", route(&view, "s0", "/reviews/0", &jason));
    let long = format!("/path/{}", "0a/b1/".repeat(1_365));
    let mut lines = HeaderMap::new();
    for line in 0..64 {
        lines.append("end-user", format!("jason-{line}").parse().unwrap());
    }
    for (what, condition) in [
        ("exact paths", &(|i| format!("{{uri: {{exact: /path/of/rule/{i}}}}}")) as &dyn Fn(usize) -> String),
        ("path prefixes", &|i| format!("{{uri: {{prefix: /path/of/rule/{i}/}}}}")),
        ("path prefixes in any case", &|i| format!("{{uri: {{prefix: /path/of/rule/{i}/}}, ignoreUriCase: true}}")),
        ("path expressions", &|i| format!("{{uri: {{regex: '/path/of/rule/{i}/[a-z]+'}}}}")),
        ("path expressions without a start", &|i| format!("{{uri: {{regex: '.*/rule/{i}/[a-z]+'}}}}")),
        ("path expressions in any case", &|i| format!("{{uri: {{regex: '(?i)/path/of/{}/[a-z]+'}}}}", letters(i))),
        ("path expressions without any text", &|i| format!("{{uri: {{regex: '([a-z/]|{i})+'}}}}")),
        ("path expressions of classes", &|i| format!("{{uri: {{regex: '{}'}}}}", of_classes(i))),
        ("path expressions that share their text", &|i| format!("{{uri: {{regex: '/path/{}'}}}}", of_classes(i))),
        ("headers", &|i| format!("{{headers: {{end-user: {{exact: user-{i}}}}}}}")),
        ("header expressions", &|i| format!("{{headers: {{end-user: {{regex: 'user-{i}-.*'}}}}}}")),
        ("header expressions of classes", &|i| format!("{{headers: {{end-user: {{regex: '{}'}}}}}}", of_classes(i))),
        ("headers that must not be, and are", &|i| {
            format!("{{uri: {{prefix: /path}}, withoutHeaders: {{end-user: {{prefix: jas}}, x-{i}: {{exact: a}}}}}}")
        }),
        ("expressions that must not match, and do", &|i| {
            format!("{{withoutHeaders: {{end-user: {{regex: '{}.*'}}}}}}", optional_letters(i))
        }),
        ("pairs of expressions of which one matches", &|i| {
            let [all, none] = ["[a-z0-9/]+", "[a-z]+"].map(|class| format!("{class}{}", optional_letters(i)));
            format!("{{uri: {{regex: '{all}'}}, headers: {{end-user: {{regex: '{none}[0-9]'}}}}}}")
        }),
        ("expressions that are no outline, and must not match, and do", &|i| {
            format!("{{withoutHeaders: {{end-user: {{regex: '([a-z]{{2}}|{})+.*'}}}}}}", letters(i))
        }),
        ("different headers", &|i| format!("{{headers: {{x-{i}: {{exact: a}}}}}}")),
        ("query parameters", &|i| format!("{{queryParams: {{user: {{exact: user-{i}}}}}}}")),
    ] {
        let view = Mesh { nodes: Vec::new(), documents: many_rules(condition) }.compile(None);
        let path = "/path/of/rule/none/0123456789?a=b&user=jason&c=d";
        print(&format!("route, {RULES} {what}"), route(&view, "rules.example", path, &jason));
        print("  with a path of 8 KiB", route(&view, "rules.example", &long, &jason));
        print("  with 64 lines of the header", route(&view, "rules.example", path, &lines));
    }
    for bytes in [50, 8 << 10] {
        println!(
            "route, {RULES} path expressions of many states, a new path of {bytes} bytes each time: {:?}",
            unseen(bytes)
        );
    }
}
