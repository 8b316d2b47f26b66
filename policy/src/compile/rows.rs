//! The rows of all nodes, found by what they are for. Of an index that is known only those lists are made anew that rows
//! of changed nodes are in.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::Hash,
    sync::Arc,
};

use foldhash::{HashMap, HashMapExt};
use weft_wire::id::{Namespace, NodeName, ServiceName};

use super::{
    Parts,
    nodes::{NodeRows, Row},
};

/// Sorted by node; those of one node in its order.
pub(super) type Rows = Arc<[Arc<Row>]>;

/// Which labels the selectors of a namespace begin with.
pub(super) type FirstLabels = BTreeMap<Namespace, BTreeSet<String>>;

#[derive(Clone, Debug, Default)]
pub(super) struct RowIndex {
    pub(super) announced: HashMap<ServiceName, Rows>,
    /// By namespace and one label's name, for the labels that selectors begin with.
    by_label: HashMap<Namespace, HashMap<String, Arc<ByValue>>>,
    first_labels: FirstLabels,
}

/// Rows by one label's value.
type ByValue = HashMap<String, Rows>;

/// The nodes' rows; takes over what is known of them.
pub(super) fn index(
    nodes: &BTreeMap<NodeName, Arc<NodeRows>>,
    first_labels: &FirstLabels,
    known: &Parts,
) -> Arc<RowIndex> {
    let has_same_labels = *first_labels == known.rows.first_labels;
    let nothing = BTreeMap::new();
    let before = if has_same_labels { &known.nodes } else { &nothing };
    let changes = Changes::between(before, nodes);
    if has_same_labels && changes.nodes.is_empty() {
        return known.rows.clone();
    }
    let mut index = match has_same_labels {
        true => RowIndex::clone(&known.rows),
        false => RowIndex { first_labels: first_labels.clone(), ..RowIndex::default() },
    };
    index.update(&changes);
    Arc::new(index)
}

/// Whether two lists are one.
pub(super) fn are_same(a: Option<&Rows>, b: Option<&Rows>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// Nodes whose rows are not the ones that they were.
#[derive(Default)]
struct Changes<'n> {
    nodes: HashSet<&'n NodeName>,
    /// All of their rows now, by node.
    rows: Vec<&'n Arc<Row>>,
    /// The rows that they have no more, and those that they did not have.
    differing: Vec<&'n Arc<Row>>,
}

impl<'n> Changes<'n> {
    fn between(before: &'n BTreeMap<NodeName, Arc<NodeRows>>, now: &'n BTreeMap<NodeName, Arc<NodeRows>>) -> Self {
        let mut changes = Self::default();
        for (name, rows) in now {
            match before.get(name) {
                Some(known) if Arc::ptr_eq(known, rows) => {}
                known => changes.add(name, known.map_or(&[], |known| &known.rows), &rows.rows),
            }
        }
        for (name, rows) in before.iter().filter(|(name, _)| !now.contains_key(*name)) {
            changes.add(name, &rows.rows, &[]);
        }
        changes
    }

    fn add(&mut self, name: &'n NodeName, before: &'n [Arc<Row>], now: &'n [Arc<Row>]) {
        let addresses = |rows: &[Arc<Row>]| rows.iter().map(Arc::as_ptr).collect::<HashSet<_>>();
        let (old, new) = (addresses(before), addresses(now));
        self.differing.extend(before.iter().filter(|row| !new.contains(&Arc::as_ptr(row))));
        self.differing.extend(now.iter().filter(|row| !old.contains(&Arc::as_ptr(row))));
        self.rows.extend(now);
        self.nodes.insert(name);
    }

    /// The lists that change, each with the changed nodes' rows that belong in it. `keys` says which lists a row is in.
    fn lists<K: Eq + Hash, I: Iterator<Item = K>>(&self, keys: impl Fn(&'n Row) -> I) -> HashMap<K, Vec<Arc<Row>>> {
        let mut lists: HashMap<K, Vec<Arc<Row>>> = HashMap::new();
        for key in self.differing.iter().flat_map(|row| keys(row)) {
            lists.entry(key).or_default();
        }
        for row in &self.rows {
            for key in keys(row) {
                if let Some(list) = lists.get_mut(&key) {
                    list.push(Arc::clone(row));
                }
            }
        }
        lists
    }

    /// A list as it was, with the changed nodes' rows as they are.
    fn merged(&self, known: Option<&Rows>, mut rows: Vec<Arc<Row>>) -> Rows {
        let is_kept = |row: &&Arc<Row>| !self.nodes.contains(&row.workload.node);
        rows.extend(known.into_iter().flat_map(|known| known.iter()).filter(is_kept).cloned());
        // Stable: the rows of a node stay in its order.
        rows.sort_by(|a, b| a.workload.node.cmp(&b.workload.node));
        rows.into()
    }
}

impl RowIndex {
    fn update(&mut self, changes: &Changes<'_>) {
        for (service, rows) in changes.lists(|row| std::iter::once(&row.announced.service)) {
            let rows = changes.merged(self.announced.get(service), rows);
            if rows.is_empty() {
                self.announced.remove(service);
            } else {
                self.announced.insert(service.clone(), rows);
            }
        }
        let first_labels = &self.first_labels;
        let labels_of = |row| labels(row, first_labels);
        for ((namespace, name, value), rows) in changes.lists(labels_of) {
            let by_name = self.by_label.entry(namespace.clone()).or_default();
            let by_value = Arc::make_mut(by_name.entry(name.clone()).or_default());
            let rows = changes.merged(by_value.get(value), rows);
            if rows.is_empty() {
                by_value.remove(value);
            } else {
                by_value.insert(value.clone(), rows);
            }
        }
    }

    /// Whether the same services are announced.
    pub(super) fn has_same_services(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || self.announced.len() == other.announced.len()
                && self.announced.keys().all(|service| other.announced.contains_key(service))
    }

    /// All rows of a namespace.
    pub(super) fn of_namespace(&self, namespace: &Namespace) -> Vec<Arc<Row>> {
        let mut services: Vec<_> =
            self.announced.iter().filter(|(service, _)| service.namespace == *namespace).collect();
        services.sort_by_key(|(service, _)| *service);
        services.into_iter().flat_map(|(_, rows)| rows.iter()).cloned().collect()
    }

    /// The rows of a namespace that could be selected by a selector: those with its first label.
    pub(super) fn with_first(&self, namespace: &Namespace, selector: &BTreeMap<String, String>) -> Option<&Rows> {
        let (name, value) = selector.first_key_value()?;
        self.by_label.get(namespace)?.get(name)?.get(value)
    }

    /// The rows of a namespace that a selector selects, which has a label at least.
    pub(super) fn selected(&self, namespace: &Namespace, selector: &BTreeMap<String, String>) -> Vec<Arc<Row>> {
        let rows = self.with_first(namespace, selector).into_iter().flat_map(|rows| rows.iter());
        rows.filter(|row| row.workload.has_labels(selector)).cloned().collect()
    }
}

/// The labels of a row by which it is found.
fn labels<'r>(
    row: &'r Row,
    first_labels: &'r FirstLabels,
) -> impl Iterator<Item = (&'r Namespace, &'r String, &'r String)> {
    let namespace = &row.announced.service.namespace;
    let names = first_labels.get(namespace).into_iter().flatten();
    names.filter_map(move |name| Some((namespace, name, row.workload.labels.get(name)?)))
}
