//! Join tokens: one line, `weft1.PAYLOAD.SIGNATURE`, both parts base64url without padding (RFC 4648, section 5).
//!
//! The payload is in the clear: a joining host needs the mesh id to check its seed before it sends anything. The
//! signature is by the node key of the CA node that made the token; a node keeps that key when it renews its
//! certificate, so other CA nodes can check the token with the certificate that the issuer's facts carry.

use std::{fmt, str::FromStr, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use weft_wire::{
    codec,
    id::{Grant, IdError, MeshId, NodeName, Role, read_hex, write_hex},
};

use crate::{
    grant::{self, GrantError},
    key::PrivateKey,
    trust::PeerIdentity,
};

const PREFIX: &str = "weft1";
/// Longest token, in bytes: a grant of the largest size and the rest. Usual ones are below 400.
pub const MAX_TOKEN_LEN: usize = 6 * 1024;
/// Domain of the signature: a signature made for another purpose is none for a token.
const DOMAIN: &str = "weft/token/1";

/// Why a token does not let a host in. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("this is not a whole weft token ({0}): copy the one line that `weft token create` printed")]
    Malformed(&'static str),
    #[error("the token was changed after it was made, its signature does not match: ask for a new one")]
    Tampered,
    #[error("the token is for mesh {token}, this node is of mesh {ours}: join a node of the token's mesh")]
    WrongMesh { token: MeshId, ours: MeshId },
    #[error("the token expired {} ago: ask for a new one", Ago(*since))]
    Expired { since: Duration },
    #[error("the token was already used {uses} of {uses} times: ask for a new one, with --uses N for N hosts")]
    UsedUp { uses: u32 },
    #[error("the token was revoked: ask for a new one")]
    Revoked,
    #[error("the token was made by node {issuer}, which this node does not know as a CA: join through {issuer} itself")]
    UnknownIssuer { issuer: NodeName },
    #[error("the token cannot be made: {0}")]
    Grant(#[from] GrantError),
    #[error("the token cannot be made: a token must have one use or more")]
    NoUses,
}

struct Ago(Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            secs @ 0..120 => write!(f, "{secs} s"),
            secs @ 120..7200 => write!(f, "{} min", secs / 60),
            secs @ 7200..172_800 => write!(f, "{} h", secs / 3600),
            secs => write!(f, "{} days", secs / 86_400),
        }
    }
}

/// A token's random id, by which uses are counted and tokens revoked; printed as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl FromStr for TokenId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let form = "16 lower-case hex digits";
        read_hex(s).map(Self).ok_or_else(|| IdError::BadForm { what: "token id", value: s.into(), form })
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClaims {
    pub mesh: MeshId,
    pub id: TokenId,
    /// The CA node that made it.
    pub issuer: NodeName,
    /// First second at which it no longer works, since 1970.
    pub expires: u64,
    /// How many hosts may join with it.
    pub uses: u32,
    /// What the joining node may do.
    pub grant: Grant,
}

impl TokenClaims {
    /// Claims for a new token with a random id.
    pub fn new(mesh: MeshId, issuer: NodeName, grant: Grant, uses: u32, ttl: Duration, now: UnixTime) -> Self {
        let expires = now.as_secs().saturating_add(ttl.as_secs());
        Self { mesh, id: TokenId(rand::random()), issuer, expires, uses, grant }
    }
}

/// A token as it was made or read. Reading proves nothing: see [`JoinToken::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    claims: TokenClaims,
    /// The claims' encoding as it was signed, so that no second encoding of the same claims passes.
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// What a CA node knows when it is shown a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenContext<'a> {
    /// This node's mesh.
    pub mesh: MeshId,
    /// The node named by the claims' `issuer`, from its verified certificate; `None` if it is not known.
    pub issuer: Option<&'a PeerIdentity>,
    /// Uses so far, summed over all CA nodes.
    pub spent: u64,
    pub revoked: bool,
    pub now: UnixTime,
}

impl JoinToken {
    /// Makes a token, signed with the issuer's node key.
    ///
    /// # Errors
    /// [`TokenError::NoUses`], or [`TokenError::Grant`] for more accounts than a certificate can carry.
    pub fn create(claims: TokenClaims, node_key: &PrivateKey) -> Result<Self, TokenError> {
        if claims.uses == 0 {
            return Err(TokenError::NoUses);
        }
        grant::to_text(&claims.grant)?;
        let payload = codec::encode(&claims, MAX_TOKEN_LEN).map_err(|_| GrantError::TooLarge)?;
        let signature = node_key.sign(&codec::signing_bytes(DOMAIN, &payload));
        Ok(Self { claims, payload, signature })
    }

    /// What the token says. Only a CA node can tell whether it is true; for a joining host it is what its own operator
    /// gave it.
    pub fn claims(&self) -> &TokenClaims {
        &self.claims
    }

    /// Checks a shown token, in an order that tells nothing about other meshes' or forged tokens.
    ///
    /// # Errors
    /// The [`TokenError`] that says why the token does not let a host in.
    pub fn verify(&self, context: &TokenContext<'_>) -> Result<&TokenClaims, TokenError> {
        let claims = &self.claims;
        if claims.mesh != context.mesh {
            return Err(TokenError::WrongMesh { token: claims.mesh, ours: context.mesh });
        }
        let issuer = context
            .issuer
            .filter(|issuer| issuer.id.as_node() == Some(&claims.issuer))
            .filter(|issuer| issuer.grant.as_ref().is_some_and(|grant| grant.role == Role::Ca))
            .ok_or_else(|| TokenError::UnknownIssuer { issuer: claims.issuer.clone() })?;
        issuer
            .verify_signature(&codec::signing_bytes(DOMAIN, &self.payload), &self.signature)
            .map_err(|_| TokenError::Tampered)?;
        if context.revoked {
            return Err(TokenError::Revoked);
        }
        if context.now.as_secs() >= claims.expires {
            return Err(TokenError::Expired { since: Duration::from_secs(context.now.as_secs() - claims.expires) });
        }
        if context.spent >= u64::from(claims.uses) {
            return Err(TokenError::UsedUp { uses: claims.uses });
        }
        Ok(claims)
    }
}

/// Whoever has the text can join: a log shows the id alone.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.claims.id)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [payload, signature] = [&self.payload, &self.signature].map(|part| URL_SAFE_NO_PAD.encode(part));
        write!(f, "{PREFIX}.{payload}.{signature}")
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Reads a token's text; white space around it is forgiven.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > MAX_TOKEN_LEN {
            return Err(TokenError::Malformed("it is longer than any token"));
        }
        let Some(rest) = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.')) else {
            return Err(TokenError::Malformed("it does not begin with weft1."));
        };
        let (payload, signature) = rest.split_once('.').ok_or(TokenError::Malformed("its end is missing"))?;
        let decode = |part: &str| {
            URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed("it is cut off or has a wrong character"))
        };
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        if signature.is_empty() {
            return Err(TokenError::Malformed("its end is missing"));
        }
        let claims: TokenClaims =
            codec::decode(&payload, MAX_TOKEN_LEN).map_err(|_| TokenError::Malformed("its content is damaged"))?;
        // What no certificate can carry was never in a token.
        grant::to_text(&claims.grant).map_err(|_| TokenError::Malformed("its grant is too large"))?;
        Ok(Self { claims, payload, signature })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        grant::from_text,
        init::{self, NewMesh},
        trust::TrustBundle,
    };

    const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    const HOUR: Duration = Duration::from_secs(3600);

    struct Fixture {
        mesh: NewMesh,
        issuer: PeerIdentity,
    }

    impl Fixture {
        fn new() -> Self {
            let mesh = init::create_mesh(&"cluster.local".parse().unwrap(), &"seed".parse().unwrap(), NOW).unwrap();
            let bundle = TrustBundle::new(vec![mesh.root.certificate().clone()]).unwrap();
            let issuer = bundle.verify_chain(&mesh.node.chain, NOW).unwrap();
            Self { mesh, issuer }
        }

        fn token(&self, grant: &str, uses: u32) -> JoinToken {
            let issuer = "seed".parse().unwrap();
            let claims = TokenClaims::new(self.mesh.root.mesh_id(), issuer, from_text(grant).unwrap(), uses, HOUR, NOW);
            JoinToken::create(claims, &self.mesh.node.key).unwrap()
        }

        fn context(&self) -> TokenContext<'_> {
            TokenContext {
                mesh: self.mesh.root.mesh_id(),
                issuer: Some(&self.issuer),
                spent: 0,
                revoked: false,
                now: NOW,
            }
        }
    }

    #[test]
    fn a_token_is_one_short_line_that_lets_a_host_in() {
        let fixture = Fixture::new();
        let made = fixture.token("role=member;accounts=default/bookinfo-reviews,default/bookinfo-ratings,prod/*", 3);
        let text = made.to_string();
        assert!(text.len() < 600 && !text.contains(char::is_whitespace), "{} bytes: {text}", text.len());
        let read: JoinToken = format!(" {text}\n").parse().unwrap();
        assert_eq!(read, made);
        let claims = read.verify(&TokenContext { spent: 2, ..fixture.context() }).unwrap();
        assert_eq!((claims.uses, claims.grant.role), (3, Role::Member));
    }

    #[test]
    fn a_token_id_is_read_as_it_is_printed() {
        let id = TokenId([0, 1, 2, 3, 4, 5, 0xfe, 0xff]);
        assert_eq!(id.to_string().parse::<TokenId>().unwrap(), id);
        for bad in ["", "0001020304050", "000102030405FEFF", "../etc/passwd"] {
            assert!(bad.parse::<TokenId>().unwrap_err().to_string().contains("16 lower-case hex digits"), "{bad}");
        }
    }

    #[test]
    fn a_token_is_not_printed_by_debug() {
        let token = Fixture::new().token("role=member;accounts=default/web", 1);
        assert_eq!(format!("{token:?}"), format!("JoinToken({})", token.claims().id));
    }

    #[test]
    fn a_refusal_says_which() {
        let fixture = Fixture::new();
        let token = fixture.token("role=member;accounts=", 1);
        let at = |secs| UnixTime::since_unix_epoch(Duration::from_secs(NOW.as_secs()) + Duration::from_secs(secs));
        let context = fixture.context();

        assert_eq!(token.verify(&TokenContext { revoked: true, ..context }), Err(TokenError::Revoked));
        assert_eq!(token.verify(&TokenContext { spent: 1, ..context }), Err(TokenError::UsedUp { uses: 1 }));
        assert!(token.verify(&TokenContext { now: at(3599), ..context }).is_ok());
        assert_eq!(
            token.verify(&TokenContext { now: at(3600 + 300), ..context }),
            Err(TokenError::Expired { since: Duration::from_secs(300) })
        );
        assert_eq!(
            TokenError::Expired { since: Duration::from_secs(300) }.to_string(),
            "the token expired 5 min ago: ask for a new one"
        );
        let ours = MeshId([1; 32]);
        let wrong_mesh = TokenError::WrongMesh { token: fixture.mesh.root.mesh_id(), ours };
        assert_eq!(token.verify(&TokenContext { mesh: ours, ..context }), Err(wrong_mesh));
        let unknown = TokenError::UnknownIssuer { issuer: "seed".parse().unwrap() };
        assert_eq!(token.verify(&TokenContext { issuer: None, ..context }), Err(unknown));
    }

    #[test]
    fn only_the_ca_node_that_it_names_can_have_made_it() {
        let fixture = Fixture::new();
        let token = fixture.token("role=ca;accounts=*/*", 1);
        let mut member = fixture.issuer.clone();
        member.grant = Some(from_text("role=admin;accounts=*/*").unwrap());
        let mut other = fixture.issuer.clone();
        other.id = "spiffe://cluster.local/node/other".parse().unwrap();
        for issuer in [&member, &other] {
            let refused = token.verify(&TokenContext { issuer: Some(issuer), ..fixture.context() });
            assert!(matches!(refused, Err(TokenError::UnknownIssuer { .. })));
        }
        // Right claims, somebody else's key.
        let forged = JoinToken::create(token.claims().clone(), &PrivateKey::generate().unwrap()).unwrap();
        assert_eq!(forged.verify(&fixture.context()), Err(TokenError::Tampered));
    }

    #[test]
    fn texts_that_are_no_token_are_refused() {
        let text = Fixture::new().token("role=member;accounts=", 1).to_string();
        let payload_end = text.rfind('.').unwrap();
        let long = format!("weft1.{}", "A".repeat(MAX_TOKEN_LEN));
        for (bad, why) in [
            ("", "begin with"),
            ("hello", "begin with"),
            ("weft2.a.b", "begin with"),
            (&text[..payload_end], "end is missing"),
            (&text[..=payload_end], "end is missing"),
            (&text.replace('.', ". "), "wrong character"),
            ("weft1.AQ.AQ", "damaged"),
            (&long, "longer than"),
        ] {
            let error = bad.parse::<JoinToken>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("weft token create"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_truncated_token_is_refused() {
        let fixture = Fixture::new();
        let text = fixture.token("role=member;accounts=default/*", 1).to_string();
        for end in 0..text.len() {
            let refused = text[..end].parse::<JoinToken>().and_then(|token| {
                token.verify(&fixture.context())?;
                Ok(())
            });
            assert!(refused.is_err(), "{end} of {}", text.len());
        }
    }

    #[test]
    fn tokens_without_uses_or_past_the_bounds_are_not_made() {
        let fixture = Fixture::new();
        let mut claims = fixture.token("role=member;accounts=", 1).claims().clone();
        claims.uses = 0;
        assert_eq!(JoinToken::create(claims.clone(), &fixture.mesh.node.key), Err(TokenError::NoUses));
        claims.uses = 1;
        claims.grant.accounts = vec!["*/*".parse().unwrap(); 65];
        let refused = JoinToken::create(claims, &fixture.mesh.node.key);
        assert_eq!(refused, Err(TokenError::Grant(GrantError::TooLarge)));
    }

    #[test]
    fn the_largest_grant_fits_a_token() {
        let fixture = Fixture::new();
        let account = format!("{}/{}", "n".repeat(31), "s".repeat(31));
        let token = fixture.token(&format!("role=member;accounts={}", vec![account; 63].join(",")), u32::MAX);
        assert_eq!(token.to_string().parse::<JoinToken>(), Ok(token));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in ".{0,200}") {
            let _ = text.parse::<JoinToken>();
        }

        #[test]
        fn reading_a_damaged_payload_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let text = format!("weft1.{}.AAAA", URL_SAFE_NO_PAD.encode([&[codec::VERSION][..], &bytes].concat()));
            let _ = text.parse::<JoinToken>();
        }
    }

    #[test]
    fn a_token_with_any_bit_flipped_is_refused() {
        let fixture = Fixture::new();
        let text = fixture.token("role=member;accounts=default/web", 1).to_string().into_bytes();
        for bit in 0..text.len() * 8 {
            let mut changed = text.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(token) = String::from_utf8_lossy(&changed).parse::<JoinToken>() {
                assert!(token.verify(&fixture.context()).is_err(), "bit {bit}");
            }
        }
    }
}
