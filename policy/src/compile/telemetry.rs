//! Which Telemetry documents are for which workload of this node, and what they say together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use weft_wire::id::{Namespace, WorkloadName};

use super::nodes::NodeRows;
use crate::{
    api::{
        target::{ROOT_NAMESPACE, Target, Workload as Targeted},
        telemetry::Telemetry,
    },
    document::{Document, Spec},
    endpoint::Workload,
    namespaces::same,
    settings::MeshSettings,
    telemetry::WorkloadSignals,
};

/// What workloads of this node tell.
#[derive(Debug, Default)]
pub(crate) struct TelemetryIndex {
    /// What it was made of.
    documents: Vec<Arc<Document>>,
    settings: Option<Arc<MeshSettings>>,
    rows: Option<Arc<NodeRows>>,
    /// Workloads that a document of their own is for.
    by_workload: HashMap<Namespace, HashMap<WorkloadName, Arc<WorkloadSignals>>>,
    /// Namespaces that have a document for all of their workloads.
    by_namespace: HashMap<Namespace, Arc<WorkloadSignals>>,
    elsewhere: Arc<WorkloadSignals>,
    /// Whether anything becomes of anybody's metrics.
    pub(crate) shapes_metrics: bool,
}

impl TelemetryIndex {
    /// What a workload tells, or who else is of a namespace.
    pub(crate) fn of(&self, workload: Option<&Workload>, namespace: &Namespace) -> &Arc<WorkloadSignals> {
        if self.documents.is_empty() {
            return &self.elsewhere;
        }
        let own = workload.and_then(|workload| self.by_workload.get(&workload.namespace)?.get(&workload.name));
        own.or_else(|| self.by_namespace.get(namespace)).unwrap_or(&self.elsewhere)
    }
}

/// Whom a document is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For<'n> {
    Mesh,
    Namespace(&'n str),
    Workload,
}

fn of(document: &Document) -> Option<(&Telemetry, For<'_>)> {
    let Spec::Telemetry(spec) = &document.spec else { return None };
    let is_for_some = spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty())
        || spec.target_ref.is_some()
        || !spec.target_refs.is_empty();
    let namespace = document.key.namespace.as_ref().map_or("default", |namespace| namespace.as_str());
    let whom = match namespace {
        _ if is_for_some => For::Workload,
        ROOT_NAMESPACE => For::Mesh,
        namespace => For::Namespace(namespace),
    };
    Some((spec, whom))
}

/// `documents` are all Telemetry documents, the oldest first: at each level the oldest holds, as in Istio.
pub(super) fn compile(
    documents: &[Arc<Document>],
    settings: &Arc<MeshSettings>,
    rows: Option<&Arc<NodeRows>>,
    known: Option<&Arc<TelemetryIndex>>,
) -> Arc<TelemetryIndex> {
    let is_known = |known: &&Arc<TelemetryIndex>| {
        known.settings.as_ref().is_some_and(|known| Arc::ptr_eq(known, settings))
            && same(&known.documents, documents)
            && (documents.is_empty() || known.rows.as_ref().map(Arc::as_ptr) == rows.map(Arc::as_ptr))
    };
    if let Some(known) = known.filter(is_known) {
        return known.clone();
    }
    let first = |whom: For<'_>| documents.iter().filter_map(|one| of(one)).find(|(_, is_for)| *is_for == whom);
    let wide = |namespace: &Namespace| {
        let of_mesh = first(For::Mesh);
        let of_namespace = first(For::Namespace(namespace.as_str()));
        of_mesh.into_iter().chain(of_namespace).map(|(spec, _)| spec).collect::<Vec<_>>()
    };
    let merge = |levels: &[&Telemetry]| Arc::new(WorkloadSignals::merge(levels, &settings.signals));
    let namespaces = documents.iter().filter_map(|one| Some((of(one)?.1, one.key.namespace.clone()?)));
    let namespaces: BTreeSet<Namespace> =
        namespaces.filter(|(whom, _)| matches!(whom, For::Namespace(_))).map(|(_, namespace)| namespace).collect();

    let mut by_workload: HashMap<Namespace, HashMap<WorkloadName, Arc<WorkloadSignals>>> = HashMap::new();
    for (workload, services) in workloads(rows) {
        let attached: Vec<(&str, &str)> = services.iter().map(|name| ("Service", *name)).collect();
        let target = Targeted { namespace: &workload.namespace, labels: &workload.labels, attached: &attached };
        let is_for_it = |document: &&Arc<Document>| {
            document.namespace() == workload.namespace
                && of(document).is_some_and(|(spec, whom)| {
                    whom == For::Workload && target_of(spec).includes(&workload.namespace, &target)
                })
        };
        let Some((own, _)) = documents.iter().find(is_for_it).and_then(|document| of(document)) else { continue };
        let mut levels = wide(&workload.namespace);
        levels.push(own);
        by_workload.entry(workload.namespace.clone()).or_default().insert(workload.name.clone(), merge(&levels));
    }
    let of_mesh: Vec<&Telemetry> = first(For::Mesh).map(|(spec, _)| spec).into_iter().collect();
    let by_namespace: HashMap<Namespace, _> =
        namespaces.into_iter().map(|name| (name.clone(), merge(&wide(&name)))).collect();
    let elsewhere = merge(&of_mesh);
    let shapes = |signals: &Arc<WorkloadSignals>| signals.client.metrics.is_some() || signals.server.metrics.is_some();
    let of_workloads = by_workload.values().flat_map(HashMap::values);
    let shapes_metrics = of_workloads.chain(by_namespace.values()).chain([&elsewhere]).any(shapes);
    Arc::new(TelemetryIndex {
        shapes_metrics,
        by_workload,
        by_namespace,
        elsewhere,
        documents: documents.to_vec(),
        settings: Some(settings.clone()),
        rows: rows.cloned(),
    })
}

fn target_of(spec: &Telemetry) -> Target<'_> {
    Target { selector: &spec.selector, target_ref: &spec.target_ref, target_refs: &spec.target_refs }
}

/// The workloads of a node, each with the services that it is announced for.
fn workloads(rows: Option<&Arc<NodeRows>>) -> impl Iterator<Item = (&Workload, BTreeSet<&str>)> {
    let mut found: BTreeMap<(&Namespace, &WorkloadName), (&Workload, BTreeSet<&str>)> = BTreeMap::new();
    for row in rows.into_iter().flat_map(|node| &node.rows) {
        let workload = &*row.workload;
        let (_, services) =
            found.entry((&workload.namespace, &workload.name)).or_insert_with(|| (workload, BTreeSet::new()));
        services.insert(row.announced.service.name.as_str());
    }
    found.into_values()
}
