//! Certificates and signatures that cost next to nothing. They stand for real ones: whoever has no key of a node cannot
//! sign for it, and only the issuer makes certificates.

use std::hash::{DefaultHasher, Hash, Hasher};

use weft_discovery::authority::{Authority, Signer};
use weft_wire::id::{AccountPattern, Grant, NodeName, Role, SpiffeId};

const ISSUER: u64 = 0x0069_7373_7565_7221;

/// A certificate with its key.
#[derive(Clone)]
pub struct Credential {
    pub id: SpiffeId,
    pub chain: Vec<Vec<u8>>,
    key: u64,
}

impl Credential {
    /// A node's, good until `not_after_ms` (Unix milliseconds).
    pub fn of_node(name: &NodeName, role: Role, accounts: &str, not_after_ms: u64) -> Self {
        let domain = "cluster.local".parse().expect("a trust domain");
        let id = SpiffeId::node(domain, name.clone());
        let leaf = format!("{id}|{}|{accounts}|{not_after_ms}", role.as_str()).into_bytes();
        let key = private_key(&leaf);
        let issued = mac(ISSUER, &leaf);
        Self { id, chain: vec![leaf, issued], key }
    }

    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        mac(self.key, bytes)
    }
}

/// The role that a chain's leaf names.
pub fn role(chain: &[Vec<u8>]) -> Option<Role> {
    std::str::from_utf8(chain.first()?).ok()?.split('|').nth(1)?.parse().ok()
}

/// Believes what [`Credential`]s sign.
pub struct SimAuthority;

impl Authority for SimAuthority {
    fn signer(&self, chain: &[Vec<u8>], signed: &[u8], signature: &[u8], at_ms: u64) -> Result<Signer, String> {
        let [leaf, issued] = chain else { return Err("a chain of another length".into()) };
        if *issued != mac(ISSUER, leaf) {
            return Err("the certificate is nobody's".into());
        }
        if signature != mac(private_key(leaf), signed) {
            return Err("the signature does not match".into());
        }
        let text = std::str::from_utf8(leaf).map_err(|error| error.to_string())?;
        let parts: Vec<&str> = text.split('|').collect();
        let [id, role, accounts, not_after] = parts[..] else { return Err("no certificate".into()) };
        if not_after.parse::<u64>().map_err(|error| error.to_string())? < at_ms {
            return Err("the certificate has ended".into());
        }
        let accounts = accounts.split(',').filter(|account| !account.is_empty());
        let accounts = accounts.map(|account| account.parse::<AccountPattern>().map_err(|error| error.to_string()));
        Ok(Signer {
            id: id.parse::<SpiffeId>().map_err(|error| error.to_string())?,
            grant: Some(Grant {
                role: role.parse::<Role>().map_err(|error| error.to_string())?,
                accounts: accounts.collect::<Result<_, String>>()?,
            }),
        })
    }
}

fn private_key(leaf: &[u8]) -> u64 {
    hash(!ISSUER, leaf)
}

fn mac(key: u64, bytes: &[u8]) -> Vec<u8> {
    hash(key, bytes).to_be_bytes().to_vec()
}

fn hash(key: u64, bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, bytes).hash(&mut hasher);
    hasher.finish()
}
