//! Which security policies are for which workload of this node, and what they say together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    access::Access,
    api::target::{self, ROOT_NAMESPACE},
    authenticate::Authenticator,
    authorize::{Authorizer, AuthorizerSettings},
    document::{Document, Spec},
    endpoint::Workload,
    mtls::{EffectiveMtls, Level},
    namespaces::same,
    settings::MeshSettings,
    view::Service,
};

/// Documents that say who may call, by their namespace, each sorted by key.
pub(super) type SecurityDocuments = BTreeMap<Box<str>, Vec<Arc<Document>>>;

/// The access of this node's workloads. One without policies is not in it.
#[derive(Debug, Default)]
pub(crate) struct AccessIndex {
    documents: SecurityDocuments,
    settings: Option<Arc<MeshSettings>>,
    /// By the address of the workload, which the entry keeps in memory.
    by_workload: HashMap<usize, Entry>,
}

#[derive(Debug)]
struct Entry {
    workload: Arc<Workload>,
    /// The services that it belongs to.
    services: Vec<Box<str>>,
    documents: Vec<Arc<Document>>,
    access: Arc<Access>,
}

impl AccessIndex {
    /// The access of each workload that has any.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Access>> {
        self.by_workload.values().map(|entry| &entry.access)
    }

    pub(crate) fn get(&self, workload: &Arc<Workload>) -> Option<&Arc<Access>> {
        if self.by_workload.is_empty() {
            return None;
        }
        let entry = self.by_workload.get(&address(workload))?;
        Arc::ptr_eq(&entry.workload, workload).then_some(&entry.access)
    }

    fn has_same_workloads(&self, other: &Self) -> bool {
        let is_same = |(address, entry): (&usize, &Entry)| {
            let known = self.by_workload.get(address);
            known.is_some_and(|known| {
                Arc::ptr_eq(&known.workload, &entry.workload)
                    && Arc::ptr_eq(&known.access, &entry.access)
                    && known.services == entry.services
            })
        };
        self.by_workload.len() == other.by_workload.len() && other.by_workload.iter().all(is_same)
    }

    /// The policies that are for a workload of any node, and what they say together. Those of other nodes' workloads
    /// are compiled for each question.
    pub(crate) fn of_any(
        &self,
        workload: &Arc<Workload>,
        services: &[Arc<Service>],
    ) -> (Vec<Arc<Document>>, Arc<Access>) {
        if let Some(entry) = self.by_workload.get(&address(workload)) {
            return (entry.documents.clone(), entry.access.clone());
        }
        let services = services_of(workload, services);
        let documents = documents_for(workload, &services, &self.documents);
        let access = match &self.settings {
            Some(settings) if !documents.is_empty() => access(&documents, workload, &services, settings),
            _ => Access::default(),
        };
        (documents, Arc::new(access))
    }
}

fn address(workload: &Arc<Workload>) -> usize {
    Arc::as_ptr(workload) as usize
}

/// Whether a document says who may call.
pub(super) fn is_about_security(document: &Document) -> bool {
    matches!(document.spec, Spec::AuthorizationPolicy(_) | Spec::RequestAuthentication(_) | Spec::PeerAuthentication(_))
}

/// Compiles the access of this node's workloads; takes over what is known of those whose policies are the same.
pub(super) fn compile(
    documents: &SecurityDocuments,
    settings: &Arc<MeshSettings>,
    services: &[Arc<Service>],
    known: Option<&Arc<AccessIndex>>,
) -> Arc<AccessIndex> {
    if documents.is_empty() {
        return known.filter(|known| known.documents.is_empty()).cloned().unwrap_or_default();
    }
    let has_same_settings =
        |known: &&AccessIndex| known.settings.as_ref().is_some_and(|known| Arc::ptr_eq(known, settings));
    let before = known.filter(|known| has_same_settings(&&***known)).cloned();
    let known = before.as_deref();
    let has_same_documents = known.is_some_and(|known| {
        known.documents.len() == documents.len()
            && known.documents.iter().zip(documents).all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
    });

    let mut by_documents: HashMap<Vec<*const Document>, Arc<Access>> = HashMap::new();
    for entry in known.iter().flat_map(|known| known.by_workload.values()) {
        by_documents.entry(addresses(&entry.documents)).or_insert_with(|| entry.access.clone());
    }
    let mut by_workload = HashMap::new();
    for (address, (workload, services)) in workloads_with_services(services) {
        let known = known.and_then(|known| known.by_workload.get(&address));
        let documents = match known {
            Some(known) if has_same_documents && known.services == services => known.documents.clone(),
            _ => documents_for(&workload, &services, documents),
        };
        if documents.is_empty() {
            continue;
        }
        let access = by_documents
            .entry(addresses(&documents))
            .or_insert_with(|| Arc::new(access(&documents, &workload, &services, settings)))
            .clone();
        by_workload.insert(address, Entry { workload, services, documents, access });
    }
    let index = AccessIndex { documents: documents.clone(), settings: Some(settings.clone()), by_workload };
    before.filter(|before| has_same_documents && before.has_same_workloads(&index)).unwrap_or_else(|| Arc::new(index))
}

fn addresses(documents: &[Arc<Document>]) -> Vec<*const Document> {
    documents.iter().map(Arc::as_ptr).collect()
}

/// The workloads of this node by their address, each with the names of the services of its namespace that it is in.
fn workloads_with_services(services: &[Arc<Service>]) -> BTreeMap<usize, (Arc<Workload>, Vec<Box<str>>)> {
    let mut found: BTreeMap<usize, (Arc<Workload>, Vec<Box<str>>)> = BTreeMap::new();
    for service in services {
        for (_, here) in &service.local {
            let (_, names) =
                found.entry(address(&here.workload)).or_insert_with(|| (here.workload.clone(), Vec::new()));
            let name = service.id.name();
            let is_new = names.last().is_none_or(|last| &**last != name);
            if is_new && *service.id.namespace() == here.workload.namespace {
                names.push(name.into());
            }
        }
    }
    found
}

/// The names of the services of its namespace that a workload is in.
fn services_of(workload: &Arc<Workload>, services: &[Arc<Service>]) -> Vec<Box<str>> {
    let has_it = |service: &&Arc<Service>| {
        let clusters = service.ports.iter().filter_map(|port| service.cluster(port.port));
        clusters
            .flat_map(|cluster| &cluster.endpoints)
            .filter_map(|one| one.workload.as_ref())
            .any(|one| Arc::ptr_eq(one, workload))
    };
    let of_namespace = services.iter().filter(|service| *service.id.namespace() == workload.namespace);
    of_namespace.filter(has_it).map(|service| service.id.name().into()).collect()
}

/// The workload as targets of policies mean it.
fn with_target<R>(workload: &Workload, services: &[Box<str>], ask: impl FnOnce(&target::Workload<'_>) -> R) -> R {
    let attached: Vec<(&str, &str)> = services.iter().map(|name| ("Service", &**name)).collect();
    ask(&target::Workload { namespace: &workload.namespace, labels: &workload.labels, attached: &attached })
}

/// Those of the workload's namespace and of the root that are for it.
fn documents_for(workload: &Workload, services: &[Box<str>], all: &SecurityDocuments) -> Vec<Arc<Document>> {
    let of = |namespace: &str| all.get(namespace).into_iter().flatten();
    let own = of(workload.namespace.as_str());
    let root = of(ROOT_NAMESPACE).filter(|_| workload.namespace.as_str() != ROOT_NAMESPACE);
    with_target(workload, services, |target| {
        let is_for_it = |document: &&Arc<Document>| match &document.spec {
            Spec::AuthorizationPolicy(policy) => policy.target().includes(&document.namespace(), target),
            Spec::RequestAuthentication(policy) => policy.target().includes(&document.namespace(), target),
            Spec::PeerAuthentication(policy) => Level::of(&document.namespace(), policy, target).is_some(),
            _ => false,
        };
        own.chain(root).filter(is_for_it).cloned().collect()
    })
}

fn access(documents: &[Arc<Document>], workload: &Workload, services: &[Box<str>], settings: &MeshSettings) -> Access {
    let settings = AuthorizerSettings { trust_domains: &settings.trust_domains, providers: &settings.provider_kinds };
    let documents = || documents.iter().map(|document| &**document);
    with_target(workload, services, |target| Access {
        authorizer: Authorizer::compile(documents(), target, &settings),
        authenticator: Authenticator::compile(documents(), target),
        mtls: EffectiveMtls::compose(documents(), target),
    })
}
