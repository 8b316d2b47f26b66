//! What nodes announce: each row with the workload and the endpoint that it makes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use weft_wire::{
    fact::{EndpointHealth, EndpointRow, NodeRecord, NodeState},
    frame::MESH_PORT,
    id::{Namespace, NodeName, ServiceName, SpiffeId},
};

use super::{Inputs, NodeInput, Parts};
use crate::{
    endpoint::{Endpoint, EndpointAddress, EndpointKey, EndpointLoad, Place, Standing, Workload},
    view::sni,
};

/// One node's rows, in an order that depends on nothing but them.
#[derive(Debug)]
pub(crate) struct NodeRows {
    pub(super) record: Arc<NodeRecord>,
    standing: Standing,
    pub(super) place: Arc<Place>,
    pub(super) rows: Vec<Arc<Row>>,
}

/// One announced endpoint.
#[derive(Debug)]
pub(crate) struct Row {
    pub(super) announced: EndpointRow,
    pub(super) workload: Arc<Workload>,
    /// `None` for a workload of this node whose address is not known.
    pub(super) endpoint: Option<Arc<Endpoint>>,
}

/// The rows of all nodes, found by what they are for.
#[derive(Debug, Default)]
pub(super) struct RowIndex {
    pub(super) announced: HashMap<ServiceName, Vec<Arc<Row>>>,
    /// By namespace and one label's name, for the labels that selectors begin with.
    by_label: HashMap<Namespace, HashMap<String, ByValue>>,
    first_labels: BTreeMap<Namespace, BTreeSet<String>>,
}

/// Rows by one label's value.
type ByValue = HashMap<String, Vec<Arc<Row>>>;

/// Indexes the rows; takes over the known index if it is of the same rows. `first_labels` are the labels that
/// selectors begin with.
pub(super) fn index(
    nodes: &BTreeMap<NodeName, Arc<NodeRows>>,
    first_labels: &BTreeMap<Namespace, BTreeSet<String>>,
    known: &Parts,
) -> Arc<RowIndex> {
    let same_nodes =
        nodes.len() == known.nodes.len() && nodes.values().zip(known.nodes.values()).all(|(a, b)| Arc::ptr_eq(a, b));
    if same_nodes && *first_labels == known.rows.first_labels {
        return known.rows.clone();
    }
    let mut index = RowIndex { first_labels: first_labels.clone(), ..RowIndex::default() };
    for row in nodes.values().flat_map(|node| &node.rows) {
        let service = &row.announced.service;
        index.announced.entry(service.clone()).or_default().push(row.clone());
        for name in first_labels.get(&service.namespace).into_iter().flatten() {
            if let Some(value) = row.workload.labels.get(name) {
                let by_name = index.by_label.entry(service.namespace.clone()).or_default();
                let by_value = by_name.entry(name.clone()).or_default();
                by_value.entry(value.clone()).or_default().push(row.clone());
            }
        }
    }
    Arc::new(index)
}

impl RowIndex {
    /// All rows of a namespace.
    pub(super) fn of_namespace(&self, namespace: &Namespace) -> Vec<Arc<Row>> {
        let mut services: Vec<_> =
            self.announced.iter().filter(|(service, _)| service.namespace == *namespace).collect();
        services.sort_by_key(|(service, _)| *service);
        services.into_iter().flat_map(|(_, rows)| rows).cloned().collect()
    }

    /// The rows of a namespace that a selector selects, which has a label at least.
    pub(super) fn selected(&self, namespace: &Namespace, selector: &BTreeMap<String, String>) -> Vec<Arc<Row>> {
        let first = selector.first_key_value();
        let with_first = first.and_then(|(name, value)| self.by_label.get(namespace)?.get(name)?.get(value));
        let rows = with_first.into_iter().flatten();
        rows.filter(|row| row.workload.has_labels(selector)).cloned().collect()
    }
}

/// The rows of all nodes that have not left; of nodes that have not changed the known ones.
pub(super) fn read(inputs: &Inputs<'_>, known: &Parts) -> BTreeMap<NodeName, Arc<NodeRows>> {
    let is_up = |node: &&NodeInput| !node.record.state.is_gone();
    let rows = |node: &NodeInput| {
        let known_rows = known.nodes.get(&node.name);
        let is_same = |rows: &&Arc<NodeRows>| {
            Arc::ptr_eq(&rows.record, &node.record)
                && rows.standing == node.standing
                && (node.name != *inputs.this_node || *inputs.local == known.local)
        };
        match known_rows.filter(is_same) {
            Some(rows) => rows.clone(),
            None => Arc::new(NodeRows::new(inputs, node, known_rows.map(|rows| &**rows))),
        }
    };
    inputs.nodes.iter().filter(is_up).map(|node| (node.name.clone(), rows(node))).collect()
}

impl NodeRows {
    fn new(inputs: &Inputs<'_>, node: &NodeInput, known: Option<&Self>) -> Self {
        let known_rows = known.map_or(&[][..], |known| &known.rows);
        let key = |row: &'_ EndpointRow| (row.service.clone(), row.workload.clone(), row.port, row.target_port);
        let known_rows: HashMap<_, &Arc<Row>> = known_rows.iter().map(|row| (key(&row.announced), row)).collect();
        let NodeRecord { locality, labels, .. } = &*node.record;
        let place = Place { node: Some(node.name.clone()), locality: locality.clone(), labels: labels.clone() };
        let known_place = known.map(|known| &known.place).filter(|known| ***known == place);
        let place = known_place.cloned().unwrap_or_else(|| Arc::new(place));
        // A workload in several services has one load.
        let mut loads: HashMap<EndpointKey, Arc<EndpointLoad>> = known_rows
            .values()
            .filter_map(|row| row.endpoint.as_ref())
            .map(|endpoint| (endpoint.key.clone(), endpoint.load.clone()))
            .collect();
        let mut rows: Vec<Arc<Row>> = Vec::with_capacity(node.record.endpoints.len());
        for announced in &node.record.endpoints {
            // Nothing can be dialled on port 0.
            if announced.port == 0 || announced.target_port == 0 {
                continue;
            }
            let known_row = known_rows.get(&key(announced)).copied();
            let workload = Workload::of(inputs, node, announced);
            let workload = match known_row {
                Some(known) if *known.workload == workload => known.workload.clone(),
                _ => Arc::new(workload),
            };
            let endpoint = endpoint(inputs, node, announced, &workload, &place, &mut loads);
            let is_same = |known: &&Arc<Row>| {
                Arc::ptr_eq(&known.workload, &workload)
                    && known.announced == *announced
                    && match (&known.endpoint, &endpoint) {
                        (Some(a), Some(b)) => a.is_same(b),
                        (a, b) => a.is_none() && b.is_none(),
                    }
            };
            rows.push(match known_row.filter(is_same) {
                Some(known) => known.clone(),
                None => Arc::new(Row { announced: announced.clone(), workload, endpoint: endpoint.map(Arc::new) }),
            });
        }
        rows.sort_by(|a, b| {
            let key = |row: &'_ Row| (row.announced.port, row.announced.target_port);
            let (x, y) = (&a.announced, &b.announced);
            (&x.service, &x.workload, key(a)).cmp(&(&y.service, &y.workload, key(b)))
        });
        Self { record: node.record.clone(), standing: node.standing, place, rows }
    }
}

impl Workload {
    fn of(inputs: &Inputs<'_>, node: &NodeInput, row: &EndpointRow) -> Self {
        let labels: BTreeMap<String, String> =
            row.selector_labels().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        // Istio's order for the canonical names.
        let label = |names: &[&str]| names.iter().find_map(|name| labels.get(*name)).cloned();
        let account = row.account();
        Self {
            namespace: row.service.namespace.clone(),
            name: row.workload.clone(),
            principal: SpiffeId::workload(inputs.trust_domain.clone(), account.clone()).to_string(),
            account,
            app: label(&["app"]).unwrap_or_default(),
            version: label(&["version"]).unwrap_or_default(),
            canonical_service: label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
                .unwrap_or_default(),
            canonical_revision: label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"])
                .unwrap_or_else(|| "latest".to_owned()),
            service: row.service.clone(),
            node: node.name.clone(),
            labels,
        }
    }
}

fn endpoint(
    inputs: &Inputs<'_>,
    node: &NodeInput,
    row: &EndpointRow,
    workload: &Arc<Workload>,
    place: &Arc<Place>,
    loads: &mut HashMap<EndpointKey, Arc<EndpointLoad>>,
) -> Option<Endpoint> {
    let (record, target_port) = (&node.record, row.target_port);
    let address = if node.name == *inputs.this_node {
        let ip: &IpAddr = inputs.local.get(&(workload.namespace.clone(), workload.name.clone()))?;
        EndpointAddress::Local(SocketAddr::new(*ip, target_port))
    } else {
        EndpointAddress::Remote {
            address: SocketAddr::new(record.advertise, MESH_PORT),
            sni: sni(&workload.name, &workload.namespace, target_port, inputs.trust_domain).into(),
        }
    };
    let key = EndpointKey {
        node: Some(node.name.clone()),
        namespace: workload.namespace.clone(),
        workload: workload.name.clone(),
        target_port,
    };
    Some(Endpoint {
        load: loads.entry(key.clone()).or_default().clone(),
        key,
        workload: Some(workload.clone()),
        address,
        identities: [SpiffeId::workload(inputs.trust_domain.clone(), workload.account.clone())].into(),
        protocol: row.protocol,
        health: match record.state {
            NodeState::Up => row.health,
            NodeState::Draining | NodeState::Left | NodeState::Stopped => EndpointHealth::Draining,
        },
        standing: node.standing,
        place: place.clone(),
        weight: 1,
        monitor: None,
    })
}
