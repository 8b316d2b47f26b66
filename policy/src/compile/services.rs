//! Services: Service documents and nodes' announcements, merged by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weft_wire::{
    fact::{EndpointRow, Protocol},
    id::{AccountName, Namespace, ServiceName, SpiffeId},
};

use super::{Inputs, NodeInput};
use crate::{
    api::core::{self, TransportProtocol},
    document::{Document, Spec},
    endpoint::Workload,
    view::ServicePort,
};

/// One announced endpoint, with its node and the labels that selectors see.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) node: &'a NodeInput,
    pub(super) row: &'a EndpointRow,
    pub(super) labels: BTreeMap<&'a str, &'a str>,
    pub(super) workload: Arc<Workload>,
}

/// All rows of the nodes that are not gone, in an order that depends on nothing but them.
pub(super) fn rows<'a>(inputs: &Inputs<'a>) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = inputs
        .nodes
        .iter()
        .filter(|node| !node.record.state.is_gone())
        .flat_map(|node| node.record.endpoints.iter().map(move |row| (node, row)))
        // Nothing can be dialled on port 0.
        .filter(|(_, row)| row.port != 0 && row.target_port != 0)
        .map(|(node, row)| Row::new(inputs, node, row))
        .collect();
    rows.sort_by_key(|row| (&row.row.service, &row.node.name, &row.row.workload, row.row.port, row.row.target_port));
    rows
}

impl<'a> Row<'a> {
    fn new(inputs: &Inputs<'_>, node: &'a NodeInput, row: &'a EndpointRow) -> Self {
        let mut labels: BTreeMap<&str, &str> = row.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        labels.entry("app").or_insert(row.service.name.as_str());
        if !row.version.is_empty() {
            labels.entry("version").or_insert(&row.version);
        }
        // Istio's order for the canonical names.
        let label = |names: &[&str]| names.iter().find_map(|name| labels.get(name)).map(|value| (*value).to_owned());
        let account = row.account();
        let workload = Workload {
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
        };
        Self { node, row, labels, workload: Arc::new(workload) }
    }

    /// Whether it has all of these labels.
    pub(super) fn has_labels(&self, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(key, value)| self.labels.get(key.as_str()) == Some(&value.as_str()))
    }
}

/// A service before its endpoints are made.
#[derive(Debug, Default)]
pub(super) struct Model<'a> {
    /// The accounts that its document lets serve it; `None` is any.
    accounts: Option<Vec<AccountName>>,
    pub(super) ports: Vec<ServicePort>,
    /// For each of `ports`, the rows that serve it, each with the protocol that is spoken there.
    pub(super) members: Vec<Vec<(&'a Row<'a>, Protocol)>>,
}

/// Merges the documents with the rows.
pub(super) fn merge<'a>(documents: &'a [Arc<Document>], rows: &'a [Row<'a>]) -> BTreeMap<ServiceName, Model<'a>> {
    let mut by_namespace: BTreeMap<&Namespace, Vec<&'a Row<'a>>> = BTreeMap::new();
    let mut announced: BTreeMap<&ServiceName, Vec<&'a Row<'a>>> = BTreeMap::new();
    for row in rows {
        by_namespace.entry(&row.row.service.namespace).or_default().push(row);
        announced.entry(&row.row.service).or_default().push(row);
    }
    let declared = service_documents(documents);
    let names: BTreeSet<&ServiceName> = declared.keys().chain(announced.keys().copied()).collect();
    let none = Vec::new();
    names
        .into_iter()
        .map(|name| {
            let own = announced.get(name).unwrap_or(&none);
            let near = by_namespace.get(&name.namespace).unwrap_or(&none);
            (name.clone(), Model::new(declared.get(name), own, near))
        })
        .collect()
}

/// A Service document, and the accounts that it lets serve the service.
type Declared<'a> = (&'a core::Service, Option<Vec<AccountName>>);

/// Service documents by name. A store holds one document of a key.
fn service_documents(documents: &[Arc<Document>]) -> BTreeMap<ServiceName, Declared<'_>> {
    let service = |document: &'_ Arc<Document>| -> Option<ServiceName> {
        Some(ServiceName { namespace: document.key.namespace.clone()?, name: document.key.name.parse().ok()? })
    };
    documents
        .iter()
        .filter_map(|document| match &document.spec {
            // Checked when it was read, so an annotation that cannot be read lets nobody serve.
            Spec::Service(spec) => {
                let accounts = core::Service::accounts(&document.annotations).unwrap_or(Some(Vec::new()));
                Some((service(document)?, (&**spec, accounts)))
            }
            _ => None,
        })
        .collect()
}

impl<'a> Model<'a> {
    /// `own` are the rows announced under the service's name, `near` all of its namespace.
    fn new(declared: Option<&Declared<'a>>, own: &[&'a Row<'a>], near: &[&'a Row<'a>]) -> Self {
        let document = declared.map(|(document, _)| *document);
        let accounts = declared.and_then(|(_, accounts)| accounts.clone());
        let mut model = Self { accounts, ..Self::default() };
        let mut served: BTreeSet<*const Row<'a>> = BTreeSet::new();
        let selected: Vec<&'a Row<'a>> = match document {
            Some(document) if !document.selector.is_empty() => {
                near.iter().copied().filter(|row| row.has_labels(&document.selector)).collect()
            }
            _ => Vec::new(),
        };
        let ports = document.map_or(&[][..], |document| &document.ports);
        for port in ports.iter().filter(|port| port.transport() == TransportProtocol::Tcp) {
            let members = model.members_of(port, own, &selected);
            served.extend(members.iter().map(|row| std::ptr::from_ref(*row)));
            let declared = port.spoken();
            let protocol = declared.or_else(|| members.first().map(|row| row.row.protocol));
            model.add(port.port.number(), &port.name, protocol.unwrap_or_default(), declared, members);
        }
        // Ports that only announcements know.
        let mut rest: BTreeMap<u16, Vec<&'a Row<'a>>> = BTreeMap::new();
        for row in own {
            // Never a declared port again: a second row of a workload could take it from all others.
            let declared = model.ports.iter().any(|port| port.port == row.row.port);
            if declared || served.contains(&std::ptr::from_ref(*row)) || !model.admits(row) {
                continue;
            }
            rest.entry(row.row.port).or_default().push(row);
        }
        for (port, members) in rest {
            let protocol = members.first().map(|row| row.row.protocol).unwrap_or_default();
            model.add(port, protocol.as_str(), protocol, None, members);
        }
        model
    }

    fn add(
        &mut self,
        port: u16,
        name: &str,
        protocol: Protocol,
        declared: Option<Protocol>,
        members: Vec<&'a Row<'a>>,
    ) {
        self.ports.push(ServicePort { port, name: name.to_owned(), protocol });
        self.members.push(members.into_iter().map(|row| (row, declared.unwrap_or(row.row.protocol))).collect());
    }

    /// Whether the service's document lets this account serve it.
    fn admits(&self, row: &Row<'_>) -> bool {
        self.accounts.as_ref().is_none_or(|accounts| accounts.contains(&row.row.service_account))
    }

    /// The rows that serve a declared port: for each workload the best of those announced under the service's name
    /// for this port, then those on the target port, then, where no target port is declared, those for this port.
    /// So a node's word on its own workload beats the document's general one, and no document opens a port that the
    /// hosting node did not announce.
    fn members_of(&self, port: &core::ServicePort, own: &[&'a Row<'a>], selected: &[&'a Row<'a>]) -> Vec<&'a Row<'a>> {
        // A named target port selects as none does: nodes announce no names of ports.
        let (number, target_port) = (port.port.number(), port.target_number());
        let mut best: BTreeMap<_, (u8, &'a Row<'a>)> = BTreeMap::new();
        let own = own.iter().map(|row| (*row, true));
        for (row, is_own) in own.chain(selected.iter().map(|row| (*row, false))) {
            let rank = if is_own && row.row.port == number {
                0
            } else if row.row.target_port == target_port.unwrap_or(number) {
                1
            } else if target_port.is_none() && row.row.port == number {
                2
            } else {
                continue;
            };
            if !self.admits(row) {
                continue;
            }
            let kept = best.entry((&row.node.name, &row.row.workload)).or_insert((rank, row));
            if rank < kept.0 {
                *kept = (rank, row);
            }
        }
        best.into_values().map(|(_, row)| row).collect()
    }
}
