//! Hosts outside of the mesh, found by the name that a client has for them.

use std::sync::Arc;

use foldhash::HashMap;
use ipnet::IpNet;

use crate::{
    address,
    compile::Entry,
    document::Document,
    hosts::{HostIndex, HostPattern},
    namespaces::PerNamespace,
    ranges::RangeIndex,
    sidecar::Sight,
    view::{HTTP_PORT, Service},
};

/// All hosts that ServiceEntries describe.
#[derive(Debug, Default)]
pub(crate) struct Externals {
    /// Wildcards too, as they are written; hosts that are written like services of the mesh by `name.namespace`.
    by_host: HashMap<Box<str>, Arc<External>>,
    by_end: HostIndex<Arc<External>>,
    by_address: RangeIndex<Addressed>,
}

/// One host.
#[derive(Debug)]
pub(crate) struct External {
    /// A service for each namespace that a client sees entries of: the first one that its Sidecar shows is meant.
    pub(crate) services: PerNamespace<Vec<Arc<Service>>>,
}

/// A host of a ServiceEntry that gives addresses.
#[derive(Clone, Debug)]
pub(crate) struct Addressed {
    pub(crate) external: Arc<External>,
    pub(crate) entry: Arc<Entry>,
}

impl Addressed {
    /// The host, if the client sees it by this entry, and the entry has the port.
    fn seen_by(&self, sight: Sight<'_>) -> Option<&Arc<Service>> {
        let is_for = self.entry.is_for(sight.namespace, sight.port.unwrap_or(HTTP_PORT));
        let service = is_for.then(|| self.external.seen_by(sight))?;
        service.filter(|service| self.entry.document().key.namespace.as_ref() == Some(service.id.namespace()))
    }
}

impl External {
    fn seen_by(&self, sight: Sight<'_>) -> Option<&Arc<Service>> {
        self.services.of(sight.namespace).iter().find(|service| sight.includes(service))
    }

    /// Each that some client sees.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.all().flatten()
    }
}

impl Externals {
    pub(crate) fn insert(&mut self, host: &HostPattern, looked_up: &str, external: &Arc<External>) {
        if let HostPattern::Wildcard(_) = host {
            self.by_end.insert(host, external.clone());
        }
        self.by_host.insert(looked_up.into(), external.clone());
    }

    /// Those of a range are asked in the order of insertion.
    pub(crate) fn insert_range(&mut self, range: IpNet, addressed: Addressed) {
        self.by_address.insert(range, addressed);
    }

    pub(crate) fn named(&self, name: &str) -> Option<&External> {
        self.by_host.get(name).map(|external| &**external)
    }

    /// The host that is meant by exactly this name, as a client sees it.
    pub(crate) fn service(&self, name: &str, sight: Sight<'_>) -> Option<&Arc<Service>> {
        self.by_host.get(name)?.seen_by(sight)
    }

    /// The host that documents mean by exactly this name: one that the client sees, or else any that it may see.
    pub(crate) fn destination(&self, name: &str, sight: Sight<'_>) -> Option<&Arc<Service>> {
        let external = self.by_host.get(name)?;
        external.seen_by(sight).or_else(|| external.services.of(sight.namespace).first())
    }

    /// The wildcard that matches a host most closely, as a client sees it.
    pub(crate) fn by_end(&self, host: &str, sight: Sight<'_>) -> Option<&Arc<Service>> {
        self.by_end.matching(host).find_map(|external| external.seen_by(sight))
    }

    /// The host that has an address which a client gives instead of a name, with the ServiceEntry that says so: the one
    /// with the narrowest range, of these the oldest.
    pub(crate) fn by_address(&self, host: &str, sight: Sight<'_>) -> Option<(&Arc<Service>, &Arc<Document>)> {
        if self.by_address.is_empty() {
            return None;
        }
        let mut found = self.by_address.matching(address::of_host(host)?.to_canonical());
        found.find_map(|addressed| Some((addressed.seen_by(sight)?, addressed.entry.document())))
    }

    /// All, each once, sorted by host and namespace.
    pub(crate) fn all(&self) -> Vec<&Arc<Service>> {
        let mut all: Vec<&Arc<Service>> = self.by_host.values().flat_map(|external| external.all()).collect();
        all.sort_by(|a, b| a.id.name().cmp(b.id.name()).then_with(|| a.id.cmp(&b.id)));
        all.dedup_by(|a, b| Arc::ptr_eq(a, b));
        all
    }
}
