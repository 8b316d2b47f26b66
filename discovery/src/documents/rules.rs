//! Who may write which document.

use weft_wire::{
    document::{MAX_DOCUMENT_LEN, SignedDocument},
    id::{Role, Subject},
};

use crate::authority::{Authority, Refusal, Signer, at_most, check_proof};

/// API group of weft's own kinds.
pub const WEFT_GROUP: &str = "weft.mesh";
/// Kind of the documents that record issued join tokens, in [`WEFT_GROUP`].
pub const JOIN_TOKEN_KIND: &str = "JoinToken";

const MAX_GROUP_LEN: usize = 253;
const MAX_KIND_LEN: usize = 63;
const MAX_NAME_LEN: usize = 253;

/// Checks what needs no key: bounds, and that the parts fit each other.
pub(super) fn check_form(document: &SignedDocument) -> Result<(), Refusal> {
    let key = &document.key;
    check_name("the group", &key.group, MAX_GROUP_LEN)?;
    check_name("the kind", &key.kind, MAX_KIND_LEN)?;
    check_name("the name", &key.name, MAX_NAME_LEN)?;
    if key.kind.is_empty() || key.name.is_empty() {
        return Err(Refusal::Malformed("a document needs a kind and a name".into()));
    }
    if document.created > document.stamp {
        return Err(Refusal::Malformed(format!("{key} was created after it was written")));
    }
    at_most("the document's length", document.body.as_ref().map_or(0, String::len), MAX_DOCUMENT_LEN)?;
    check_proof(&document.chain, &document.signature)
}

/// Names end in logs and terminals.
fn check_name(what: &'static str, name: &str, limit: usize) -> Result<(), Refusal> {
    at_most(what, name.len(), limit)?;
    if name.chars().any(char::is_control) {
        return Err(Refusal::Malformed(format!("{what} with control characters: {name:?}")));
    }
    Ok(())
}

/// Checks that the author signed the document and might, when it was stamped: documents outlive certificates.
///
/// # Errors
/// [`Refusal`]
pub fn verify(document: &SignedDocument, authority: &impl Authority) -> Result<(), Refusal> {
    let signer = authority
        .signer(&document.chain, &document.signed_bytes(), &document.signature, document.stamp.millis)
        .map_err(Refusal::NotTrusted)?;
    if signer.id != document.author {
        return Err(Refusal::ForeignSigner { signer: signer.id, claimed: document.author.to_string() });
    }
    let is_token = document.key.group == WEFT_GROUP && document.key.kind == JOIN_TOKEN_KIND;
    let (allowed, needs) = if is_token {
        (is_node_of_role(&signer, Role::Ca), "a node with role ca")
    } else {
        let is_operator = matches!(signer.id.subject, Subject::Operator(_));
        (is_operator || is_node_of_role(&signer, Role::Admin), "an operator, or a node with role admin or ca")
    };
    if allowed { Ok(()) } else { Err(Refusal::RoleTooLow { signer: signer.id, needs }) }
}

fn is_node_of_role(signer: &Signer, role: Role) -> bool {
    signer.id.as_node().is_some() && signer.grant.as_ref().is_some_and(|grant| grant.role >= role)
}
