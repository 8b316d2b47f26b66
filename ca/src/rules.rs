//! Who may ask for which name. Pure functions over what was verified: a CA asks them before it signs, a node before it
//! hosts.

use weft_wire::id::{Grant, NodeName, Role, ServiceAccount, SpiffeId, Subject};

use crate::{key::PublicKey, token::TokenClaims, trust::PeerIdentity};

/// Why somebody may not have what it asks for, and what would help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error(
        "this node may not host {account}: its grant allows {allowed}; \
         ask for a token with --allow {account} and join again"
    )]
    AccountNotAllowed { account: ServiceAccount, allowed: String },
    #[error("{id} is not a node, and only nodes ask for certificates")]
    NotANode { id: SpiffeId },
    #[error(
        "the name {name} belongs to a node with another key: choose another --name, or run `weft leave` on that node"
    )]
    NameTaken { name: NodeName },
    #[error("the token is for a CA node, and the host sent no key for its issuer: run the same weft on both hosts")]
    NoIssuerRequest,
    #[error("the token is for role {role}, which issues nothing: ask for a token with --role ca")]
    MayNotIssue { role: Role },
    #[error("{name} has role {role}, and only nodes of role ca have an intermediate: join again with such a token")]
    HasNoIssuer { name: NodeName, role: Role },
}

/// Whether a node with this grant may host this service account.
///
/// # Errors
/// [`RuleError::AccountNotAllowed`].
pub fn may_host(grant: &Grant, account: &ServiceAccount) -> Result<(), RuleError> {
    if grant.allows(account) {
        return Ok(());
    }
    let patterns: Vec<String> = grant.accounts.iter().map(ToString::to_string).collect();
    let allowed = if patterns.is_empty() { "no service account".into() } else { patterns.join(", ") };
    Err(RuleError::AccountNotAllowed { account: account.clone(), allowed })
}

/// Whether this peer may have a certificate for this service account.
///
/// # Errors
/// [`RuleError::NotANode`] or [`RuleError::AccountNotAllowed`].
pub fn may_certify(peer: &PeerIdentity, account: &ServiceAccount) -> Result<(), RuleError> {
    may_host(may_renew(peer)?.1, account)
}

/// The name and the grant that a node's next certificate has: those of its present one, whatever it asks for.
///
/// # Errors
/// [`RuleError::NotANode`].
pub fn may_renew(peer: &PeerIdentity) -> Result<(&NodeName, &Grant), RuleError> {
    match (&peer.id.subject, &peer.grant) {
        (Subject::Node(name), Some(grant)) => Ok((name, grant)),
        _ => Err(RuleError::NotANode { id: peer.id.clone() }),
    }
}

/// The name for which a node's next intermediate is made: its own, if its role is ca.
///
/// # Errors
/// [`RuleError::NotANode`] or [`RuleError::HasNoIssuer`].
pub fn may_renew_issuer(peer: &PeerIdentity) -> Result<&NodeName, RuleError> {
    match may_renew(peer)? {
        (name, Grant { role: Role::Ca, .. }) => Ok(name),
        (name, grant) => Err(RuleError::HasNoIssuer { name: name.clone(), role: grant.role }),
    }
}

/// Whether a host with a valid token may join under this name.
///
/// `holder` is the key of the member that has the name now. The same key may join again (a host that lost the answer
/// to its first try); another key would take over the other node's identity.
///
/// # Errors
/// [`RuleError::NoIssuerRequest`], [`RuleError::MayNotIssue`] or [`RuleError::NameTaken`].
pub fn may_join(
    token: &TokenClaims,
    name: &NodeName,
    key: &PublicKey,
    brings_issuer_request: bool,
    holder: Option<&PublicKey>,
) -> Result<(), RuleError> {
    match (token.grant.role, brings_issuer_request) {
        (Role::Ca, false) => return Err(RuleError::NoIssuerRequest),
        (role @ (Role::Member | Role::Admin), true) => return Err(RuleError::MayNotIssue { role }),
        (Role::Ca, true) | (Role::Member | Role::Admin, false) => {}
    }
    match holder {
        Some(holder) if holder != key => Err(RuleError::NameTaken { name: name.clone() }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::UnixTime;
    use weft_wire::id::MeshId;

    use super::*;
    use crate::{grant, key::PrivateKey, revocation::Provenance, token::TokenId};

    fn peer(id: &str, grant: Option<&str>) -> PeerIdentity {
        PeerIdentity {
            id: id.parse().unwrap(),
            grant: grant.map(|text| grant::from_text(text).unwrap()),
            public_key: PrivateKey::generate().unwrap().public_key(),
            not_before: UnixTime::since_unix_epoch(Duration::ZERO),
            not_after: UnixTime::since_unix_epoch(Duration::ZERO),
            serial: vec![1],
            provenance: Provenance { issued: UnixTime::since_unix_epoch(Duration::ZERO), host: None, issuer: None },
        }
    }

    fn token(grant: &str) -> TokenClaims {
        TokenClaims {
            mesh: MeshId([0; 32]),
            id: TokenId([0; 8]),
            issuer: "seed".parse().unwrap(),
            expires: 0,
            uses: 1,
            grant: grant::from_text(grant).unwrap(),
        }
    }

    #[test]
    fn a_node_gets_certificates_within_its_grant_only() {
        let node = peer("spiffe://td/node/a", Some("role=member;accounts=default/*"));
        assert_eq!(may_certify(&node, &"default/web".parse().unwrap()), Ok(()));
        let error = may_certify(&node, &"prod/web".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("allows default/*") && error.contains("--allow prod/web"), "{error}");
        let none = peer("spiffe://td/node/a", Some("role=ca;accounts="));
        let error = may_certify(&none, &"prod/web".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("allows no service account"), "{error}");
    }

    #[test]
    fn only_nodes_get_certificates() {
        for id in ["spiffe://td/operator/admin", "spiffe://td/ns/default/sa/web"] {
            let asker = peer(id, Some("role=ca;accounts=*/*"));
            assert!(matches!(may_certify(&asker, &"a/b".parse().unwrap()), Err(RuleError::NotANode { .. })));
            assert!(matches!(may_renew(&asker), Err(RuleError::NotANode { .. })));
        }
    }

    #[test]
    fn a_renewal_keeps_name_and_grant() {
        let node = peer("spiffe://td/node/a", Some("role=admin;accounts=x/y"));
        let (name, grant) = may_renew(&node).unwrap();
        assert_eq!((name.as_str(), Some(grant)), ("a", node.grant.as_ref()));
    }

    #[test]
    fn only_ca_nodes_have_their_intermediate_renewed_and_only_their_own() {
        for (id, role, allowed) in [
            ("spiffe://td/node/a", "ca", true),
            ("spiffe://td/node/a", "admin", false),
            ("spiffe://td/node/a", "member", false),
            ("spiffe://td/operator/admin", "ca", false),
        ] {
            let asker = peer(id, Some(&format!("role={role};accounts=*/*")));
            assert_eq!(may_renew_issuer(&asker).ok().map(NodeName::as_str), allowed.then_some("a"), "{id} {role}");
        }
    }

    #[test]
    fn a_name_in_use_is_kept_by_its_key() {
        let name: NodeName = "a".parse().unwrap();
        let (own, other) = (peer("spiffe://td/node/a", None).public_key, peer("spiffe://td/node/a", None).public_key);
        let token = token("role=member;accounts=");
        assert_eq!(may_join(&token, &name, &own, false, None), Ok(()));
        assert_eq!(may_join(&token, &name, &own, false, Some(&own)), Ok(()));
        assert_eq!(may_join(&token, &name, &other, false, Some(&own)), Err(RuleError::NameTaken { name }));
    }

    #[test]
    fn only_a_ca_brings_a_request_for_an_issuer() {
        let name: NodeName = "a".parse().unwrap();
        let key = peer("spiffe://td/node/a", None).public_key;
        for (role, brings, allowed) in [
            ("member", false, true),
            ("admin", false, true),
            ("ca", true, true),
            ("member", true, false),
            ("ca", false, false),
        ] {
            let token = token(&format!("role={role};accounts="));
            assert_eq!(may_join(&token, &name, &key, brings, None).is_ok(), allowed, "{role} {brings}");
        }
    }
}
