//! Revocation: certificates that nobody is to believe any more.

use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::{NodeName, Revoked, ServiceAccount};

use crate::{
    api::values::NonEmpty,
    document::{Checker, Document, Spec},
    kinds::Resource,
};

/// Longest `reason`, in characters.
const MAX_REASON: usize = 256;

/// Certificates that were issued until this document was created hold no more, and connections that were made with them
/// are cut. Certificates that are issued later do: a node gets one when it joins again with a new token, a workload at
/// once. To delete the document makes those that are not over hold again: keep it for 31 days.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Revocation {
    /// A node, by name: its own certificate and those of its workloads; of a CA node also all that it signed, which other
    /// CA nodes then sign anew. Set this or `serviceAccount`.
    pub node: Option<NonEmpty>,
    /// A service account on all nodes, as `NAMESPACE/NAME`.
    pub service_account: Option<NonEmpty>,
    /// Why, for whoever reads it later.
    pub reason: Option<String>,
}

impl Revocation {
    fn revoked(&self) -> Option<Revoked> {
        match (&self.node, &self.service_account) {
            (Some(node), None) => node.parse().ok().map(Revoked::Node),
            (None, Some(account)) => account.parse().ok().map(Revoked::Account),
            _ => None,
        }
    }
}

/// What these documents revoke, each with its time in seconds since 1970: that of the document's creation.
pub fn revocations<'d>(documents: impl IntoIterator<Item = &'d Document>) -> impl Iterator<Item = (Revoked, u64)> {
    documents.into_iter().filter_map(|document| {
        let Spec::Revocation(revocation) = &document.spec else { return None };
        Some((revocation.revoked()?, document.created.millis / 1_000))
    })
}

impl Resource for Revocation {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.exactly_one(&[("node", self.node.is_some()), ("serviceAccount", self.service_account.is_some())]);
        checker.given("node", &self.node, |checker, name| {
            if let Err(error) = name.parse::<NodeName>() {
                checker.error(error.to_string());
            }
        });
        checker.given("serviceAccount", &self.service_account, |checker, account| {
            if let Err(error) = account.parse::<ServiceAccount>() {
                checker.error(error.to_string());
            }
        });
        checker.given("reason", &self.reason, |checker, reason| {
            let chars = reason.chars().count();
            if chars > MAX_REASON {
                checker.error(format!("has {chars} characters; {MAX_REASON} are the most"));
            }
        });
    }
}
