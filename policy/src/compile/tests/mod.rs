mod access;
mod addresses;
mod aliases;
mod attached;
mod balancing;
mod connections;
mod entries;
mod explain;
mod explain_access;
mod gateway_api;
mod gateway_listeners;
mod gateways;
mod properties;
mod routing;
mod services;
mod settings;
mod sidecars;
mod slices;
mod telemetry;

use std::collections::BTreeSet;

use http::{HeaderMap, Method};
use weft_wire::{
    document::Stamp,
    fact::{EndpointHealth, EndpointRow, NodeState, Protocol},
    id::{Locality, ServiceAccount, ServiceName, SpiffeId},
};

use super::*;
use crate::{
    balance::{Attempt, Balancer, Cluster},
    document::{parse_stored, parse_yaml},
    endpoint::{EndpointAddress, Workload},
    route::{Action, Client, Destination, Forward, Matched, RequestHead, TcpRouting},
    view::Host,
};

/// The workload of a service that has one.
fn only_workload<'v>(view: &'v MeshView, of: &str) -> &'v Workload {
    service(view, of).cluster(9080).unwrap().endpoints[0].workload.as_deref().unwrap()
}

/// A client of whom no more is known.
fn anybody(namespace: &Namespace) -> Client<'_> {
    Client { namespace, workload: None }
}

/// What a test's mesh is made of. This node is `here`; hosted workloads listen on 127.0.0.9.
struct Mesh {
    nodes: Vec<NodeInput>,
    documents: Vec<Arc<Document>>,
    local: BTreeMap<(Namespace, WorkloadName), IpAddr>,
    names: Arc<ResolvedNames>,
    next_stamp: u64,
}

impl Mesh {
    fn new() -> Self {
        Self { nodes: Vec::new(), documents: Vec::new(), local: BTreeMap::new(), names: Arc::default(), next_stamp: 1 }
    }

    fn node(mut self, name: &str, endpoints: Vec<EndpointRow>) -> Self {
        if name == "here" {
            for row in &endpoints {
                self.local.insert((row.service.namespace.clone(), row.workload.clone()), [127, 0, 0, 9].into());
            }
        }
        let record = NodeRecord {
            advertise: [10, 0, 0, name.len() as u8].into(),
            state: NodeState::Up,
            locality: Locality::default(),
            labels: BTreeMap::new(),
            build: "0.1.0".into(),
            endpoints,
        };
        let name = name.parse().unwrap();
        self.nodes.push(NodeInput { name, record: Arc::new(record), standing: Standing::Preferred });
        self
    }

    fn in_state(mut self, state: NodeState) -> Self {
        let node = self.nodes.last_mut().unwrap();
        Arc::make_mut(&mut node.record).state = state;
        self
    }

    /// Adds documents, each younger than those before.
    fn apply(mut self, yaml: &str) -> Self {
        let file = parse_yaml(yaml, &Namespace::default_namespace()).unwrap();
        assert_eq!(file.errors, [], "{yaml}");
        for parsed in file.documents {
            let created = Stamp { millis: self.next_stamp, counter: 0 };
            self.next_stamp += 1;
            self.documents.push(Arc::new(parse_stored(&parsed.key, &parsed.json, created).unwrap()));
        }
        self
    }

    fn view(&self) -> MeshView {
        self.view_after(None)
    }

    fn view_after(&self, previous: Option<&MeshView>) -> MeshView {
        let inputs = Inputs {
            trust_domain: &"cluster.local".parse().unwrap(),
            this_node: &"here".parse().unwrap(),
            nodes: &self.nodes,
            documents: &self.documents,
            local: &self.local,
            secrets: &Arc::default(),
            names: &self.names,
        };
        compile(&inputs, previous)
    }
}

/// `service[.namespace] workload`, on port 9080 of both kinds, with the account of the service's name.
fn row(service: &str, workload: &str) -> EndpointRow {
    let service: ServiceName = service.parse().unwrap();
    EndpointRow {
        service_account: service.name.as_str().parse().unwrap(),
        service,
        workload: workload.parse().unwrap(),
        version: workload.split_once('-').map_or("", |(_, version)| version).into(),
        labels: BTreeMap::new(),
        port: 9080,
        target_port: 9080,
        protocol: Protocol::Http,
        health: EndpointHealth::Healthy,
    }
}

fn on_ports(port: u16, target_port: u16, row: EndpointRow) -> EndpointRow {
    EndpointRow { port, target_port, ..row }
}

/// Three versions of reviews, and ratings.
fn bookinfo() -> Mesh {
    Mesh::new().node("here", vec![row("reviews", "reviews-v1"), row("ratings", "ratings-v1")]).node(
        "there",
        vec![row("reviews", "reviews-v2"), row("reviews", "reviews-v3"), row("ratings.prod", "ratings-v9")],
    )
}

const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

fn rule(name: &str, hosts: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n\
         spec: {{hosts: {hosts}, http: {http}}}\n"
    )
}

/// A request for the route functions.
#[derive(Default)]
struct Request {
    method: Method,
    path: &'static str,
    headers: HeaderMap,
}

fn get(path: &'static str) -> Request {
    Request { path, ..Request::default() }
}

impl Request {
    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    fn head(&self) -> RequestHead<'_> {
        RequestHead {
            method: &self.method,
            path_and_query: self.path,
            authority: "reviews:9080",
            scheme: "http",
            headers: &self.headers,
        }
    }
}

fn service<'v>(view: &'v MeshView, host: &str) -> &'v Arc<Service> {
    view.service(host, &Namespace::default_namespace()).unwrap_or_else(|| panic!("no service {host}"))
}

/// How a client in the default namespace is routed that calls reviews:9080.
fn route<'v>(view: &'v MeshView, request: &Request) -> Option<Matched<'v>> {
    let client = Client { namespace: &Namespace::default_namespace(), workload: None };
    view.route(Host::Service(service(view, "reviews")), 9080, &request.head(), client, 0)
}

fn forward<'v>(view: &'v MeshView, request: &Request) -> Forward<'v> {
    match route(view, request).map(|matched| matched.action) {
        Some(Action::Forward(forward)) => forward,
        other => panic!("{other:?}"),
    }
}

/// The subset that a request goes to, or why it goes nowhere.
fn outcome(view: &MeshView, request: &Request) -> String {
    match route(view, request).map(|matched| matched.action) {
        Some(Action::Forward(forward)) => forward.cluster.subset.clone(),
        Some(Action::Redirect { location, .. }) => location,
        Some(Action::Respond(response)) => String::from_utf8(response.body.to_vec()).unwrap(),
        Some(Action::UnknownCluster) => "NC".into(),
        Some(Action::InvalidBackend) => "500".into(),
        None => "404".into(),
    }
}

fn workloads(cluster: &Cluster) -> Vec<&str> {
    let mut names: Vec<&str> = cluster.endpoints.iter().map(|endpoint| endpoint.key.workload.as_str()).collect();
    names.sort_unstable();
    names
}

fn workloads_of<'v>(view: &'v MeshView, host: &str, port: u16) -> Vec<&'v str> {
    workloads(service(view, host).cluster(port).unwrap())
}

fn destination_rule(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {spec}}}"
    )
}
