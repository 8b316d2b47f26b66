//! Hosts outside of the mesh: one service for each host and each set of ServiceEntries that some client sees of it.

use std::{collections::BTreeSet, sync::Arc};

use weft_wire::id::Namespace;

use super::{
    Ingredients, Inputs, Parts,
    entries::{Entry, Selected},
    policies::Policy,
    services,
};
use crate::{
    endpoint::Place,
    external::{Addressed, External, Externals},
    hosts::{self, HostPattern},
    namespaces::PerNamespace,
    service_id::ServiceId,
    view::Service,
};

/// Whether the rows that ServiceEntries select are the same, where the entries are.
pub(super) fn have_same_rows(parts: &Parts, known: &Parts) -> bool {
    let mut entries = parts.documents.entries.values().flatten();
    Arc::ptr_eq(&parts.rows, &known.rows) || entries.all(|entry| entry.selector().is_none())
}

/// All hosts.
pub(super) fn compile(inputs: &Inputs<'_>, parts: &Parts, previous: Option<&Externals>) -> Externals {
    let mut externals = Externals::default();
    let here = parts.nodes.get(inputs.this_node).map(|node| &node.place);
    let mut with_addresses: Vec<(&Arc<Entry>, &HostPattern, Arc<External>)> = Vec::new();
    for (host, entries) in &parts.documents.entries {
        let fqdn: Arc<str> = host.to_string().into();
        let looked_up = hosts::lookup_name(&fqdn);
        let known: Vec<&Arc<Service>> =
            previous.and_then(|previous| previous.named(looked_up)).into_iter().flat_map(External::all).collect();
        // One for each set of entries: most often all clients see the same.
        let mut made: Vec<Arc<Service>> = Vec::new();
        let services = per_client(entries).map(|seen| {
            let of_namespaces = seen.chunk_by(|a, b| a.namespace == b.namespace);
            let service_of = |entries: &[Arc<Entry>]| {
                let namespace = &entries.first()?.namespace;
                let ingredients = of(&fqdn, namespace, entries, here, inputs, parts);
                let is_same = |service: &&Arc<Service>| service.ingredients.are_same(&ingredients);
                let found = made.iter().find(is_same).or_else(|| known.iter().copied().find(is_same)).cloned();
                let service = found.unwrap_or_else(|| {
                    let id = ServiceId::Host { namespace: namespace.clone(), host: fqdn.clone() };
                    let before = known.iter().find(|service| service.id == id).map(|service| &***service);
                    Arc::new(services::service(inputs, id, fqdn.clone(), ingredients, before))
                });
                made.push(service.clone());
                Some(service)
            };
            of_namespaces.filter_map(service_of).collect()
        });
        let external = Arc::new(External { services });
        externals.insert(host, looked_up, &external);
        let addressed = entries.iter().filter(|entry| !entry.ranges.is_empty());
        with_addresses.extend(addressed.map(|entry| (entry, host, external.clone())));
    }
    add_addresses(&mut externals, with_addresses);
    externals
}

/// Has hosts found by the addresses of their entries, too: those of the oldest entry first, of one entry in the order in
/// which it names them.
fn add_addresses(externals: &mut Externals, mut all: Vec<(&Arc<Entry>, &HostPattern, Arc<External>)>) {
    all.sort_by_cached_key(|(entry, host, _)| {
        let document = entry.document();
        (document.created, document.key.clone(), entry.hosts.iter().position(|own| own == *host))
    });
    for (entry, _, external) in all {
        let addressed = Addressed { external, entry: entry.clone() };
        for range in &entry.ranges {
            externals.insert_range(*range, addressed.clone());
        }
    }
}

/// The entries for a host that clients see, those of a namespace together: first those of their own namespace, then
/// those of the namespace that has the oldest.
fn per_client(entries: &[Arc<Entry>]) -> PerNamespace<Vec<Arc<Entry>>> {
    let names = entries.iter().flat_map(|entry| entry.visible.names().chain([&entry.namespace]));
    let names: BTreeSet<&Namespace> = names.collect();
    PerNamespace::new(names, |client| {
        let seen = || entries.iter().filter(|entry| entry.visible.includes(client));
        let place = |one: &Arc<Entry>| {
            let age = seen().position(|entry| entry.namespace == one.namespace);
            (Some(&one.namespace) != client, age)
        };
        let mut all: Vec<Arc<Entry>> = seen().cloned().collect();
        // Keeps the order of those of a namespace.
        all.sort_by_key(|entry| place(entry));
        all
    })
}

fn of(
    fqdn: &str,
    namespace: &Namespace,
    entries: &[Arc<Entry>],
    here: Option<&Arc<Place>>,
    inputs: &Inputs<'_>,
    parts: &Parts,
) -> Ingredients {
    let Parts { documents, rows, .. } = parts;
    let policies: Vec<Arc<Policy>> = documents.policies.matching(fqdn).cloned().collect();
    Ingredients {
        localities: parts.localities_for(&policies),
        entries: entries.iter().map(|entry| Selected::new(entry, fqdn, documents, rows, inputs.names)).collect(),
        policies,
        circuits: documents.circuits.of(namespace, None),
        traffic: documents.traffic.of(namespace, None),
        rules: documents.rules.matching(fqdn).cloned().collect(),
        here: here.cloned(),
        ..Ingredients::default()
    }
}
