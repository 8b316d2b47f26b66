//! Who may write which document.

use weft_wire::{
    document::{MAX_DOCUMENT_LEN, SignedDocument},
    id::{Role, Subject},
    tap::SignedTap,
};

use crate::authority::{Authority, Refusal, Signer, at_most, check_proof};

/// API group of weft's own kinds.
pub const WEFT_GROUP: &str = "weft.mesh";
/// Kind of the documents that record issued join tokens, in [`WEFT_GROUP`].
pub const JOIN_TOKEN_KIND: &str = "JoinToken";

/// Kind of the documents by which certificates hold no more, in [`WEFT_GROUP`].
pub const REVOCATION_KIND: &str = "Revocation";

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
    let own_kind = Some(&*document.key.kind).filter(|_| document.key.group == WEFT_GROUP);
    let is_ca = is_node_of_role(&signer, Role::Ca);
    let (allowed, needs) = match own_kind {
        Some(JOIN_TOKEN_KIND) => (is_ca, "a node with role ca"),
        // A stolen node of role admin must not be able to shut the others out.
        Some(REVOCATION_KIND) => (is_ca || is_operator(&signer), "an operator, or a node with role ca"),
        _ => (is_writer(&signer), WRITERS),
    };
    if allowed { Ok(()) } else { Err(Refusal::RoleTooLow { signer: signer.id, needs }) }
}

/// Checks that whoever signed a tap may: who may write documents may see what goes by.
///
/// # Errors
/// [`Refusal`]
pub fn verify_tap(tap: &SignedTap, authority: &impl Authority) -> Result<(), Refusal> {
    check_proof(&tap.chain, &tap.signature)?;
    let signer =
        authority.signer(&tap.chain, &tap.signed_bytes(), &tap.signature, tap.at_ms).map_err(Refusal::NotTrusted)?;
    if signer.id != tap.author {
        return Err(Refusal::ForeignSigner { signer: signer.id, claimed: tap.author.to_string() });
    }
    if is_writer(&signer) { Ok(()) } else { Err(Refusal::RoleTooLow { signer: signer.id, needs: WRITERS }) }
}

const WRITERS: &str = "an operator, or a node with role admin or ca";

fn is_writer(signer: &Signer) -> bool {
    is_operator(signer) || is_node_of_role(signer, Role::Admin)
}

fn is_operator(signer: &Signer) -> bool {
    matches!(signer.id.subject, Subject::Operator(_))
}

fn is_node_of_role(signer: &Signer, role: Role) -> bool {
    signer.id.as_node().is_some() && signer.grant.as_ref().is_some_and(|grant| grant.role >= role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::fake::{FakeAuthority, chain, sign};

    fn tap(author: &str, role: &str) -> SignedTap {
        let mut tap = SignedTap {
            id: 1,
            reader: "host-1".parse().unwrap(),
            author: author.parse().unwrap(),
            at_ms: 1_000,
            for_ms: 1_000,
            query: "{}".into(),
            chain: chain(author, role, ""),
            signature: Vec::new(),
        };
        tap.signature = sign(&tap.chain, &tap.signed_bytes());
        tap
    }

    #[test]
    fn who_may_write_documents_may_tap_and_nobody_else() {
        let (operator, node) = ("spiffe://cluster.local/operator/admin", "spiffe://cluster.local/node/host-1");
        assert_eq!(verify_tap(&tap(operator, "member"), &FakeAuthority), Ok(()));
        assert_eq!(verify_tap(&tap(node, "admin"), &FakeAuthority), Ok(()));
        let refused = |tap: &SignedTap| verify_tap(tap, &FakeAuthority).unwrap_err().label();
        assert_eq!(refused(&tap(node, "member")), "role_too_low");
        assert_eq!(refused(&tap("spiffe://cluster.local/ns/default/sa/web", "ca")), "role_too_low");
        let changed: [fn(&mut SignedTap); 4] = [
            |tap| tap.reader = "host-2".parse().unwrap(),
            |tap| tap.for_ms = 2_000,
            |tap| tap.at_ms = 2_000,
            |tap| tap.query = "{\"body\":1}".into(),
        ];
        for change in changed {
            let mut tap = tap(operator, "member");
            change(&mut tap);
            assert_eq!(refused(&tap), "not_trusted");
        }
        let mut foreign = tap(node, "admin");
        foreign.author = operator.parse().unwrap();
        foreign.signature = sign(&foreign.chain, &foreign.signed_bytes());
        assert_eq!(refused(&foreign), "foreign_signer");
    }
}
