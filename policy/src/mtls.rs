//! Whether a workload asks its clients for mutual TLS: the PeerAuthentications that are for it, composed. Rules of
//! section "D-MTLS".

use std::collections::BTreeMap;

use weft_wire::id::Namespace;

use crate::{
    api::{
        security::{MutualTls, MutualTlsMode, PeerAuthentication},
        target::{ROOT_NAMESPACE, Workload},
    },
    document::{Document, Spec},
};

/// What a port takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// Plain text only.
    Disable,
    /// Mutual TLS and plain text.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// What the ports of one workload take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectiveMtls {
    workload: MtlsMode,
    ports: BTreeMap<u16, MtlsMode>,
}

/// The mode that a level sets, if it does not leave it to the one above.
fn set_mode(mtls: Option<MutualTls>) -> Option<MtlsMode> {
    match mtls?.mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(MtlsMode::Disable),
        MutualTlsMode::Permissive => Some(MtlsMode::Permissive),
        MutualTlsMode::Strict => Some(MtlsMode::Strict),
    }
}

impl EffectiveMtls {
    /// Composes the policies among the documents that are for the workload: of the mesh, of the namespace, with its
    /// selector. Of several at one level the oldest holds.
    pub fn compose<'d>(documents: impl IntoIterator<Item = &'d Document>, workload: &Workload<'_>) -> Self {
        let (mut mesh, mut namespace, mut own) = (None, None, None);
        for document in documents {
            let Spec::PeerAuthentication(policy) = &document.spec else { continue };
            let level = match Level::of(&document.namespace(), policy, workload) {
                Some(Level::Mesh) => &mut mesh,
                Some(Level::Namespace) => &mut namespace,
                Some(Level::Workload) => &mut own,
                None => continue,
            };
            if level.is_none_or(|(other, _): (&Document, _)| is_older(document, other)) {
                *level = Some((document, &**policy));
            }
        }
        let of = |level: Option<(&Document, &'d PeerAuthentication)>| set_mode(level?.1.mtls);
        let mode = of(own).or(of(namespace)).or(of(mesh)).unwrap_or_default();
        let ports = own.iter().flat_map(|(_, policy)| policy.port_level_mtls.iter().flatten());
        let ports = ports.map(|(port, mtls)| (port.0, set_mode(Some(*mtls)).unwrap_or(mode))).collect();
        Self { workload: mode, ports }
    }

    /// What a port takes, by the workload's own number.
    pub fn mode(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.workload)
    }
}

/// For whom a policy is; what a narrower one says holds over what a wider one says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Mesh,
    Namespace,
    Workload,
}

impl Level {
    /// Of a policy in this namespace for the workload; `None` if it is not for it.
    pub(crate) fn of(namespace: &Namespace, policy: &PeerAuthentication, workload: &Workload<'_>) -> Option<Self> {
        let in_root = namespace.as_str() == ROOT_NAMESPACE;
        if policy.is_for_all() && in_root {
            return Some(Self::Mesh);
        }
        if namespace != workload.namespace {
            return None;
        }
        if policy.is_for_all() {
            return Some(Self::Namespace);
        }
        let selects = policy.selector.as_ref().is_some_and(|selector| selector.selects(workload.labels));
        (!in_root && selects).then_some(Self::Workload)
    }
}

fn is_older(document: &Document, other: &Document) -> bool {
    (document.created, &document.key) < (other.created, &other.key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{MtlsMode::*, *};
    use crate::api::testing::documents;

    /// Policies from the oldest to the youngest, each as `namespace`, whether it selects the workload, and `spec`.
    fn compose(policies: &[(&str, Option<&str>, &str)]) -> EffectiveMtls {
        let documents = documents_of(policies);
        compose_for(&documents.iter().collect::<Vec<_>>())
    }

    fn documents_of(policies: &[(&str, Option<&str>, &str)]) -> Vec<Document> {
        let text: String = policies
            .iter()
            .enumerate()
            .map(|(index, (namespace, app, spec))| {
                let selector = app.map_or(String::new(), |app| format!("selector: {{matchLabels: {{app: {app}}}}}, "));
                format!(
                    "---\n{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: p{index}, \
                     namespace: {namespace}}}, spec: {{{selector}{spec}}}}}\n"
                )
            })
            .collect();
        documents(&text)
    }

    fn compose_for(documents: &[&Document]) -> EffectiveMtls {
        let namespace: Namespace = "foo".parse().unwrap();
        let labels = [("app".to_owned(), "a".to_owned())].into();
        let workload = Workload { namespace: &namespace, labels: &labels, attached: &[] };
        EffectiveMtls::compose(documents.iter().copied(), &workload)
    }

    const STRICT: &str = "mtls: {mode: STRICT}";
    const DISABLE: &str = "mtls: {mode: DISABLE}";
    const PERMISSIVE: &str = "mtls: {mode: PERMISSIVE}";
    const UNSET: &str = "mtls: {mode: UNSET}";

    #[test]
    fn d_mtls_port_beats_workload_beats_namespace_beats_mesh_beats_permissive() {
        assert_eq!(compose(&[]).mode(80), Permissive);
        let mesh = ("istio-system", None, STRICT);
        assert_eq!(compose(&[mesh]).mode(80), Strict);
        let namespace = ("foo", None, DISABLE);
        assert_eq!(compose(&[mesh, namespace]).mode(80), Disable);
        let workload = ("foo", Some("a"), PERMISSIVE);
        assert_eq!(compose(&[mesh, namespace, workload]).mode(80), Permissive);
        let port = ("foo", Some("a"), "mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: STRICT}}");
        let composed = compose(&[mesh, namespace, port]);
        assert_eq!((composed.mode(80), composed.mode(81)), (Strict, Permissive));
    }

    #[test]
    fn d_mtls_unset_inherits() {
        let mesh = ("istio-system", None, STRICT);
        for unset in [UNSET, "mtls: {}", ""] {
            assert_eq!(compose(&[mesh, ("foo", None, unset)]).mode(80), Strict, "{unset}");
            assert_eq!(
                compose(&[mesh, ("foo", None, DISABLE), ("foo", Some("a"), unset)]).mode(80),
                Disable,
                "{unset}"
            );
            assert_eq!(compose(&[("istio-system", None, unset)]).mode(80), Permissive, "{unset}");
        }
        let ports = compose(&[mesh, ("foo", Some("a"), "portLevelMtls: {80: {mode: UNSET}, 81: {mode: DISABLE}}")]);
        assert_eq!((ports.mode(80), ports.mode(81), ports.mode(82)), (Strict, Disable, Strict));
    }

    #[test]
    fn d_mtls_of_several_at_one_level_the_oldest_holds() {
        for (namespace, app) in [("istio-system", None), ("foo", None), ("foo", Some("a"))] {
            let policies = [(namespace, app, STRICT), (namespace, app, DISABLE)];
            assert_eq!(compose(&policies).mode(80), Strict, "{namespace} {app:?}");
            // The younger one does not stand in where the oldest leaves it to the level above.
            let policies = [(namespace, app, UNSET), (namespace, app, DISABLE)];
            assert_eq!(compose(&policies).mode(80), Permissive, "{namespace} {app:?}");
        }
        let ports = [("foo", Some("a"), UNSET), ("foo", Some("a"), "portLevelMtls: {80: {mode: STRICT}}")];
        assert_eq!(compose(&ports).mode(80), Permissive);
    }

    #[test]
    fn d_mtls_selector_policies_in_the_root_namespace_are_ignored() {
        assert_eq!(compose(&[("istio-system", Some("a"), STRICT)]).mode(80), Permissive);
    }

    #[test]
    fn d_mtls_policies_of_others_do_not_count() {
        let others = [("bar", None, STRICT), ("bar", Some("a"), STRICT), ("foo", Some("b"), STRICT)];
        assert_eq!(compose(&others).mode(80), Permissive);
    }

    #[test]
    fn d_mtls_a_selector_without_labels_is_for_the_namespace() {
        assert_eq!(compose(&[("foo", None, "selector: {}, mtls: {mode: STRICT}")]).mode(80), Strict);
        assert_eq!(compose(&[("istio-system", None, "selector: {}, mtls: {mode: STRICT}")]).mode(80), Strict);
    }

    proptest! {
        #[test]
        fn the_order_of_the_documents_does_not_matter(
            order in Just((0..8_usize).collect::<Vec<_>>()).prop_shuffle(), kept in 1..8_usize,
        ) {
            let all = documents_of(&[
                ("istio-system", None, UNSET),
                ("istio-system", None, STRICT),
                ("foo", None, UNSET),
                ("foo", None, DISABLE),
                ("foo", Some("a"), "portLevelMtls: {80: {mode: STRICT}}"),
                ("foo", Some("a"), STRICT),
                ("istio-system", Some("a"), DISABLE),
                ("bar", None, DISABLE),
            ]);
            let mut chosen: Vec<usize> = order[..kept].to_vec();
            let shuffled = compose_for(&chosen.iter().map(|index| &all[*index]).collect::<Vec<_>>());
            chosen.sort();
            prop_assert_eq!(shuffled, compose_for(&chosen.iter().map(|index| &all[*index]).collect::<Vec<_>>()));
        }
    }
}
