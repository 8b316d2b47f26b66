//! What weft's policies attach to.

use super::{MESH_CONFIG_NAME, ROOT_NAMESPACE};
use crate::{
    api::{gateway, networking, values::List},
    document::Checker,
};

/// Documents of the policy's own namespace, or sections of them: a port of a Service, a rule of a route, by name.
pub type Targets = List<gateway::PolicyTargetReference, 1, 16>;

/// A group and kind that a policy may attach to.
pub(super) type TargetKind = (&'static str, &'static str);

pub(super) const SERVICE: TargetKind = ("", "Service");
pub(super) const ROUTES: [TargetKind; 3] =
    [(gateway::GROUP, "HTTPRoute"), (gateway::GROUP, "GRPCRoute"), (networking::GROUP, "VirtualService")];

/// Each target is of a kind that the policy may attach to, and stands once.
pub(super) fn check_targets(
    targets: &[gateway::PolicyTargetReference],
    allowed: &[TargetKind],
    checker: &mut Checker<'_>,
) {
    checker.unique("targetRefs", targets, |target| {
        let section = target.section_name.as_ref().map_or(String::new(), |section| format!(" section {section}"));
        Some(format!("{} {}{section}", target.kind, target.name))
    });
    checker.each("targetRefs", targets, |checker, target| {
        if !allowed.contains(&(&*target.group, &*target.kind)) {
            let names: Vec<String> = allowed
                .iter()
                .map(
                    |(group, kind)| {
                        if group.is_empty() { format!("{kind} (group \"\")") } else { format!("{kind} ({group})") }
                    },
                )
                .collect();
            checker.error(format!(
                "{} (group {:?}) cannot be a target; one of these can: {}",
                target.kind,
                &*target.group,
                names.join(", ")
            ));
        }
    });
}

/// Services, or ports of them; none in the policy that holds for a namespace or the mesh.
pub(super) fn check_targets_or_default(targets: &[gateway::PolicyTargetReference], checker: &mut Checker<'_>) {
    check_targets(targets, &[SERVICE], checker);
    if targets.is_empty() && checker.header.key.name != MESH_CONFIG_NAME {
        checker.error_in(
            "targetRefs",
            format!(
                "may be absent in the policy {MESH_CONFIG_NAME} only, which holds for its namespace, or for the mesh in \
                 {ROOT_NAMESPACE}"
            ),
        );
    }
}
