//! What documents name that others must have.

use std::collections::BTreeSet;

use crate::{
    api::{
        gateway::PolicyTargetReference,
        networking::{Destination, VirtualService},
        security::Action,
        telemetry::{ProviderRef, Telemetry},
    },
    document::{Document, Spec},
    route::{Client, TargetHost},
    sidecar::Sight,
    telemetry::{Selected, selected},
    view::MeshView,
};

/// The hosts to which a document sends requests and that no service of the view has, fully qualified and sorted;
/// `None` for documents that send nothing anywhere.
pub fn missing_backends(document: &Document, view: &MeshView) -> Option<BTreeSet<String>> {
    let Spec::VirtualService(service) = &document.spec else { return None };
    let namespace = document.namespace();
    let hosts = destinations(service).map(|destination| destination.fqdn(&namespace));
    // A host that only VirtualServices know has nobody to answer.
    let is_service = |name: &str| view.service_named(name).is_some();
    let is_external = |name: &str| view.externals.named(name).is_some();
    let everything = Sight::of_all(&namespace);
    let is_known = |host: &str| {
        let target = TargetHost::read(host.to_owned());
        let alias = view.aliases.get(target.name());
        let is_there =
            |name: &str| is_external(name) || is_service(name) || view.externals.by_end(name, everything).is_some();
        is_external(target.name())
            || matches!(target, TargetHost::Service(_))
                && (is_service(target.name()) || alias.is_some_and(|target| is_there(target)))
    };
    Some(hosts.filter(|host| !is_known(host)).collect())
}

/// What a policy attaches to and the view does not have, as `KIND NAME`, sorted; `None` for documents that attach to
/// nothing.
pub fn missing_targets(document: &Document, view: &MeshView) -> Option<BTreeSet<String>> {
    let targets: &[PolicyTargetReference] = match &document.spec {
        Spec::RateLimit(policy) => &policy.target_refs,
        Spec::FaultExperiment(policy) => &policy.target_refs,
        Spec::CircuitPolicy(policy) => &policy.target_refs,
        Spec::BackendTrafficPolicy(policy) => &policy.target_refs,
        _ => return None,
    };
    let missing = targets.iter().filter(|target| !view.parts.is_target(&document.key, target, &view.services));
    let name = |target: &PolicyTargetReference| match &target.section_name {
        Some(section) => format!("{} {} with {section}", target.kind, target.name),
        None => format!("{} {}", target.kind, target.name),
    };
    Some(missing.map(name).collect())
}

/// Whether the provider that a policy of action `CUSTOM` asks is there, and so is its service; an error says what is not.
/// `None` for other documents.
pub fn provider(document: &Document, view: &MeshView) -> Option<Result<(), Missing>> {
    let policy = match &document.spec {
        Spec::AuthorizationPolicy(policy) => policy,
        Spec::Telemetry(telemetry) => return signal_providers(telemetry, view),
        _ => return None,
    };
    let name = policy.provider.as_ref().filter(|_| policy.action == Action::Custom).map(|provider| &provider.name)?;
    Some(match view.settings.providers.get(name) {
        None => Err(Missing::provider(format!("the MeshConfig has no extensionProviders {name}"))),
        Some(provider) => match provider.cluster(view, Client { namespace: &document.namespace(), workload: None }) {
            None => {
                let what = format!("the mesh has no service {} with port {}", provider.host, provider.port);
                Err(Missing::provider(what))
            }
            Some(_) => Ok(()),
        },
    })
}

/// What a document names in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Of the condition `ResolvedRefs`.
    pub reason: &'static str,
    pub message: String,
}

impl Missing {
    fn provider(message: String) -> Self {
        Self { reason: "ProviderNotFound", message }
    }
}

/// Whether the providers and metrics that a Telemetry names are there; `None` if it names none.
fn signal_providers(telemetry: &Telemetry, view: &MeshView) -> Option<Result<(), Missing>> {
    let names = |providers: &'_ [ProviderRef]| providers.iter().map(|one| one.name.to_string()).collect::<Vec<_>>();
    let logs: Vec<String> = telemetry.access_logging.iter().flat_map(|one| names(&one.providers)).collect();
    let traces: Vec<String> = telemetry.tracing.iter().flat_map(|one| names(&one.providers)).collect();
    let metrics: Vec<String> = telemetry.metrics.iter().flat_map(|one| names(&one.providers)).collect();
    let overrides = telemetry.metrics.iter().flat_map(|one| &one.overrides);
    let mut unknown = overrides.filter_map(|one| match selected(one.matches.as_ref()) {
        Selected::Custom(name) => Some(name),
        Selected::All | Selected::One(_) => None,
    });
    let unknown = unknown.next();
    if logs.is_empty() && traces.is_empty() && metrics.is_empty() && unknown.is_none() {
        return None;
    }
    let signals = &view.settings.signals;
    let no_logs = signals.missing_logs(logs.iter().map(String::as_str));
    let no_traces = signals.missing_collectors(traces.iter().map(String::as_str));
    let tell = |missing: BTreeSet<String>, what: &str| {
        let names = missing.into_iter().collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| format!("the MeshConfig has no extensionProviders for {what}: {names}"))
    };
    let no_metrics = signals.missing_metrics(metrics.iter().map(String::as_str));
    let all = [(no_logs, "access logs"), (no_traces, "traces"), (no_metrics, "metrics")];
    let told: Vec<String> = all.into_iter().filter_map(|(missing, what)| tell(missing, what)).collect();
    Some(match unknown {
        _ if !told.is_empty() => Err(Missing::provider(told.join("; "))),
        Some(name) => Err(Missing { reason: "MetricNotFound", message: format!("there is no metric istio_{name}") }),
        None => Ok(()),
    })
}

fn destinations(service: &VirtualService) -> impl Iterator<Item = &Destination> {
    let http = service.http.iter().flat_map(|rule| {
        let mirrors = rule.mirrors.iter().map(|mirror| &mirror.destination);
        rule.route.iter().map(|share| &share.destination).chain(&rule.mirror).chain(mirrors)
    });
    let tls = service.tls.iter().flat_map(|rule| &rule.route);
    let tcp = service.tcp.iter().flat_map(|rule| &rule.route);
    http.chain(tls.chain(tcp).map(|share| &share.destination))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use weft_wire::{document::Stamp, id::Namespace};

    use super::*;
    use crate::{
        compile::{Inputs, compile},
        document::{parse_stored, parse_yaml},
    };

    fn documents(yaml: &str) -> Vec<Arc<Document>> {
        let parsed = parse_yaml(yaml, &Namespace::default_namespace()).unwrap().documents;
        let read = |one: &crate::document::ParsedDocument| parse_stored(&one.key, &one.json, Stamp::default()).unwrap();
        parsed.iter().map(|one| Arc::new(read(one))).collect()
    }

    #[test]
    fn a_provider_is_missing_until_the_mesh_config_names_it_and_its_service_is_there() {
        let config = "{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default, namespace: istio-system}, \
                      spec: {extensionProviders: [{name: authz, envoyExtAuthzGrpc: {service: \
                      authz.default.svc.cluster.local, port: 80}}]}}\n---\n";
        let service = "{apiVersion: v1, kind: Service, metadata: {name: authz}, spec: {ports: [{port: 80}]}}\n---\n";
        let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: ask}, spec: {action: \
                      CUSTOM, provider: {name: authz}, rules: [{}]}}";
        let judged = |yaml: String| provider(documents(policy).first().unwrap(), &view_of(&documents(&yaml)));
        assert_eq!(
            judged(policy.into()),
            Some(Err(Missing::provider("the MeshConfig has no extensionProviders authz".into())))
        );
        let no_service = "the mesh has no service authz.default.svc.cluster.local with port 80";
        assert_eq!(judged(format!("{config}{policy}")), Some(Err(Missing::provider(no_service.into()))));
        assert_eq!(judged(format!("{config}{service}{policy}")), Some(Ok(())));
        let allow = documents(&policy.replace("CUSTOM, provider: {name: authz}", "DENY"));
        assert_eq!(provider(&allow[0], &view_of(&[])), None);
    }

    fn view_of(documents: &[Arc<Document>]) -> MeshView {
        let inputs = Inputs {
            trust_domain: &"cluster.local".parse().unwrap(),
            this_node: &"here".parse().unwrap(),
            nodes: &[],
            documents,
            local: &BTreeMap::new(),
            secrets: &Arc::default(),
            names: &Default::default(),
        };
        compile(&inputs, None)
    }

    #[test]
    fn a_backend_is_missing_until_a_service_has_its_name() {
        let services = documents(
            "{apiVersion: v1, kind: Service, metadata: {name: reviews}, spec: {ports: [{port: 80}]}}\n---\n\
             {apiVersion: v1, kind: Service, metadata: {name: ratings, namespace: prod}, spec: {ports: [{port: 80}]}}",
        );
        let view = view_of(&services);
        let rules = documents(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  \
             hosts: [reviews]\n  http:\n  - mirror: {host: gone}\n    route:\n    \
             - {destination: {host: reviews}, weight: 1}\n    \
             - {destination: {host: ratings.prod.svc.cluster.local}, weight: 1}\n    \
             - {destination: {host: ratings}, weight: 1}\n",
        );
        let missing = missing_backends(&rules[0], &view).unwrap();
        assert_eq!(
            missing.iter().collect::<Vec<_>>(),
            ["gone.default.svc.cluster.local", "ratings.default.svc.cluster.local"]
        );
        assert_eq!(missing_backends(&services[0], &view), None);
    }
}
