//! Keeps a mesh from revoking all nodes that issue certificates.

use std::collections::BTreeSet;

use anyhow::ensure;
use weft_discovery::{documents::REVOCATION_KIND, liveness::Status};
use weft_policy::{api::mesh::revocations, document::parse_stored};
use weft_wire::{
    document::{DocumentKey, Stamp},
    id::{Revoked, Role},
};

use super::api::{Draft, Prepare, Prepared, Write};
use crate::actors::Handles;

impl Handles {
    /// What there is to sign.
    ///
    /// # Errors
    /// The mesh would refuse it.
    pub async fn prepare(&self, prepare: Prepare) -> anyhow::Result<Vec<Prepared>> {
        self.check_issuers(bodies(&prepare.drafts))?;
        self.documents.prepare(prepare).await
    }

    /// # Errors
    /// With these documents no CA node would be left: nobody would get a certificate any more.
    pub(crate) fn check_issuers_after(&self, write: &Write) -> anyhow::Result<()> {
        match write {
            Write::Drafts(drafts) => self.check_issuers(bodies(drafts)),
            Write::Signed { documents, .. } => {
                self.check_issuers(documents.iter().filter_map(|one| Some((&one.key, one.body.as_deref()?))))
            }
        }
    }

    fn check_issuers<'d>(&self, documents: impl Iterator<Item = (&'d DocumentKey, &'d str)>) -> anyhow::Result<()> {
        let revoked = revoked(documents);
        if revoked.is_empty() {
            return Ok(());
        }
        let members = self.members().into_iter().filter(|member| member.state != Status::Left.as_str());
        let issuers = members.filter(|member| member.role == Role::Ca).map(|member| member.name).collect();
        check(&issuers, &revoked)
    }
}

fn bodies(drafts: &[Draft]) -> impl Iterator<Item = (&DocumentKey, &str)> {
    drafts.iter().filter_map(|draft| Some((&draft.key, draft.body.as_deref()?)))
}

/// The nodes that documents revoke. What cannot be read is refused elsewhere.
fn revoked<'d>(documents: impl Iterator<Item = (&'d DocumentKey, &'d str)>) -> BTreeSet<String> {
    let of_kind = documents.filter(|(key, _)| key.kind == REVOCATION_KIND);
    let read: Vec<_> = of_kind.filter_map(|(key, body)| parse_stored(key, body, Stamp::default()).ok()).collect();
    let nodes = revocations(&read).filter_map(|(revoked, _)| match revoked {
        Revoked::Node(name) => Some(name.to_string()),
        Revoked::Account(_) => None,
    });
    nodes.collect()
}

fn check(issuers: &BTreeSet<String>, revoked: &BTreeSet<String>) -> anyhow::Result<()> {
    let none_left = !issuers.is_empty() && issuers.is_subset(revoked);
    let names: Vec<&str> = issuers.iter().map(String::as_str).collect();
    ensure!(
        !none_left,
        "{} {}: without one no certificate is renewed. Join another with a token of `weft token create --role ca` first",
        names.join(", "),
        if names.len() == 1 { "is the only CA node" } else { "are all CA nodes" }
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ca_node_is_left() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let refused = |issuers: &[&str], revoked: &[&str]| check(&set(issuers), &set(revoked)).is_err();
        assert!(refused(&["a"], &["a"]) && refused(&["a", "b"], &["a", "b", "c"]));
        assert!(!refused(&["a", "b"], &["a", "c"]) && !refused(&["a"], &[]));
        // None is known: it is no matter of this document.
        assert!(!refused(&[], &["a"]));
    }

    #[test]
    fn nodes_are_read_from_documents_of_the_kind() {
        let key = |kind: &str, name: &str| DocumentKey {
            group: "weft.mesh".into(),
            kind: kind.into(),
            namespace: None,
            name: name.into(),
        };
        let body = |spec: &str| {
            format!(
                r#"{{"apiVersion":"weft.mesh/v1alpha1","kind":"Revocation","metadata":{{"name":"r"}},"spec":{spec}}}"#
            )
        };
        let (node, account) = (body(r#"{"node":"a"}"#), body(r#"{"serviceAccount":"default/web"}"#));
        let (one, two, other) = (key("Revocation", "r"), key("Revocation", "s"), key("MeshConfig", "t"));
        let found = revoked([(&one, &*node), (&two, &*account), (&other, &*node), (&one, "{")].into_iter());
        assert_eq!(found, BTreeSet::from(["a".to_owned()]));
    }
}
