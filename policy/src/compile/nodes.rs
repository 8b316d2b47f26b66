//! What nodes announce: each row with the workload and the endpoint that it makes.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use weft_wire::{
    fact::{EndpointHealth, EndpointRow, NodeRecord, NodeState},
    frame::MESH_PORT,
    id::{NodeName, SpiffeId},
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
        let mut known_rows: HashMap<_, &Arc<Row>> = known_rows.iter().map(|row| (key(&row.announced), row)).collect();
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
            // Each is taken over once: two rows that say the same are two.
            let known_row = known_rows.remove(&key(announced));
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
