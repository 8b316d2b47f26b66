//! The kinds of documents that weft knows.

/// One kind of document.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// Such as `VirtualService`.
    pub kind: &'static str,
    /// Such as `virtualservices`.
    pub plural: &'static str,
    /// Such as `vs`.
    pub short: &'static [&'static str],
    pub namespaced: bool,
    /// The versions that are read; they mean the same.
    pub versions: &'static [&'static str],
}

impl Kind {
    /// Such as `networking.istio.io/v1`; the core group's have no group.
    pub fn api_versions(&self) -> impl Iterator<Item = String> {
        self.versions.iter().map(|version| match self.group {
            "" => (*version).to_owned(),
            group => format!("{group}/{version}"),
        })
    }
}

const NETWORKING: &str = "networking.istio.io";
const NETWORKING_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];

static KINDS: [Kind; 5] = [
    Kind { group: "", kind: "Namespace", plural: "namespaces", short: &["ns"], namespaced: false, versions: &["v1"] },
    Kind { group: "", kind: "Service", plural: "services", short: &["svc"], namespaced: true, versions: &["v1"] },
    Kind {
        group: "",
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        short: &["sa"],
        namespaced: true,
        versions: &["v1"],
    },
    Kind {
        group: NETWORKING,
        kind: "DestinationRule",
        plural: "destinationrules",
        short: &["dr"],
        namespaced: true,
        versions: NETWORKING_VERSIONS,
    },
    Kind {
        group: NETWORKING,
        kind: "VirtualService",
        plural: "virtualservices",
        short: &["vs"],
        namespaced: true,
        versions: NETWORKING_VERSIONS,
    },
];

/// All kinds.
pub fn kinds() -> &'static [Kind] {
    &KINDS
}

/// Kinds of Kubernetes that describe processes, which is the hosts' business here, by API group.
const WORKLOAD_KINDS: [(&str, &[&str]); 3] = [
    ("", &["Pod", "ReplicationController"]),
    ("apps", &["DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"]),
    ("batch", &["CronJob", "Job"]),
];

/// Whether a kind describes workloads, so that a file may hold it and weft skips it.
pub(crate) fn is_workload(group: &str, kind: &str) -> bool {
    WORKLOAD_KINDS.iter().any(|(known, kinds)| *known == group && kinds.contains(&kind))
}

/// The kind that a user means by a word, in any case: `virtualservice`, `virtualservices` or `vs`.
pub fn find_kind(word: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| {
        kind.kind.eq_ignore_ascii_case(word)
            || kind.plural.eq_ignore_ascii_case(word)
            || kind.short.iter().any(|short| short.eq_ignore_ascii_case(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_each_of_their_names_in_any_case() {
        for word in ["VirtualService", "virtualservice", "virtualservices", "vs"] {
            assert_eq!(find_kind(word).map(|kind| kind.kind), Some("VirtualService"), "{word}");
        }
        assert_eq!(find_kind("gateway"), None);
    }

    #[test]
    fn no_two_kinds_share_a_name() {
        let mut names: Vec<String> = kinds()
            .iter()
            .flat_map(|kind| [kind.kind, kind.plural].into_iter().chain(kind.short.iter().copied()))
            .map(str::to_ascii_lowercase)
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
