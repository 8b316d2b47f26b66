//! What the MeshConfig says, as requests and the compilation read it.

use std::{collections::BTreeMap, sync::Arc};

use weft_wire::id::TrustDomain;

use crate::{
    api::mesh::{MESH_CONFIG_NAME, MeshConfig, OutboundTrafficMode, PathNormalizationType, ROOT_NAMESPACE},
    authorize::ProviderKind,
    document::{Document, Spec},
    normalise::PathNormalization,
    provider::Provider,
    retry::RetryPolicy,
    telemetry::SignalProviders,
};

/// What holds in the whole mesh. Without a MeshConfig it is what Istio does without configuration.
#[derive(Debug)]
pub struct MeshSettings {
    /// What it was read from: whether the next one is the same is told by its place in memory.
    document: Option<Arc<Document>>,
    /// The mesh's own trust domain first, then its aliases. An identity of any of them is one of this mesh.
    pub trust_domains: Vec<TrustDomain>,
    pub path_normalization: PathNormalization,
    /// Retries where no VirtualService gives any.
    pub(crate) default_retry: RetryPolicy,
    /// Whether requests for hosts that nobody serves pass; `None` where no document says it.
    pub(crate) outbound: Option<OutboundTrafficMode>,
    /// Whether mirrored requests get `-shadow` after their host.
    pub appends_shadow_suffix: bool,
    /// External authorizers by their names.
    pub providers: BTreeMap<String, Arc<Provider>>,
    pub(crate) provider_kinds: BTreeMap<String, ProviderKind>,
    /// Where access logs and traces may go.
    pub(crate) signals: SignalProviders,
}

impl MeshSettings {
    /// Reads them from the MeshConfig, if there is one.
    pub(crate) fn new(trust_domain: &TrustDomain, document: Option<&Arc<Document>>) -> Self {
        let defaults = MeshConfig::default();
        let config = document.and_then(|document| config_of(document)).unwrap_or(&defaults);
        let aliases = config.trust_domain_aliases.iter().filter_map(|alias| alias.parse().ok());
        let mut trust_domains = vec![trust_domain.clone()];
        trust_domains.extend(aliases.filter(|alias| alias != trust_domain));
        let providers = config.extension_providers.iter();
        let providers: BTreeMap<String, Arc<Provider>> =
            providers.filter_map(|provider| Some((provider.name.clone(), Arc::new(Provider::of(provider)?)))).collect();
        Self {
            trust_domains,
            path_normalization: match config.path_normalization.normalization {
                PathNormalizationType::Default | PathNormalizationType::Base => PathNormalization::Base,
                PathNormalizationType::None => PathNormalization::None,
                PathNormalizationType::MergeSlashes => PathNormalization::MergeSlashes,
                PathNormalizationType::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
            },
            default_retry: config.default_http_retry_policy.as_ref().map_or_else(RetryPolicy::default, RetryPolicy::of),
            outbound: config.outbound_traffic_policy.mode,
            appends_shadow_suffix: config.appends_shadow_suffix(),
            provider_kinds: providers.iter().map(|(name, provider)| (name.clone(), provider.kind())).collect(),
            providers,
            signals: SignalProviders::of(config),
            document: document.cloned(),
        }
    }

    /// The known settings if they are of the same document.
    pub(crate) fn read(
        trust_domain: &TrustDomain,
        document: Option<&Arc<Document>>,
        known: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let address = |document: Option<&Arc<Document>>| document.map(Arc::as_ptr);
        match known.filter(|known| address(known.document.as_ref()) == address(document)) {
            Some(known) => known.clone(),
            None => Arc::new(Self::new(trust_domain, document)),
        }
    }
}

/// The mesh's own MeshConfig; another one has no effect.
pub(crate) fn config_of(document: &Document) -> Option<&MeshConfig> {
    let Spec::MeshConfig(config) = &document.spec else { return None };
    let is_the_one = document.namespace().as_str() == ROOT_NAMESPACE && document.key.name == MESH_CONFIG_NAME;
    is_the_one.then_some(config)
}
