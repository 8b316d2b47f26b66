//! Whether a workload asks its clients for mutual TLS: the PeerAuthentications that are for it, composed. Rules of
//! section "D-MTLS".

use std::collections::BTreeMap;

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
            let at_home = document.namespace();
            let in_root = at_home.as_str() == ROOT_NAMESPACE;
            let level = if policy.is_for_all() && in_root {
                &mut mesh
            } else if at_home != *workload.namespace {
                continue;
            } else if policy.is_for_all() {
                &mut namespace
            } else if !in_root && selects(policy, workload) {
                &mut own
            } else {
                continue;
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

fn selects(policy: &PeerAuthentication, workload: &Workload<'_>) -> bool {
    policy.selector.as_ref().is_some_and(|selector| selector.selects(workload.labels))
}

fn is_older(document: &Document, other: &Document) -> bool {
    (document.created, &document.key) < (other.created, &other.key)
}
