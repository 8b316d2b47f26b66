//! Names and values of the keys that a node gossips about itself: how to tell that its state is newer than what one
//! has. Keys are ASCII (chitchat slices them by bytes), values short: every node carries all of them.

use weft_wire::{
    fact::FactVersion,
    id::{NodeId, NodeName},
};

/// The node's [`NodeName`], of which gossip otherwise carries only the short id.
pub const NAME: &str = "name";
/// How much the node has said of itself: its own entry of [`crate::facts::FactTable::progress`].
pub const FACTS: &str = "facts";
/// The digest of the node's documents ([`crate::documents::DocumentTable::root`]).
pub const DOCUMENTS: &str = "documents";

/// `INCARNATION.SEQ`, decimal.
pub fn encode_facts(version: FactVersion) -> String {
    format!("{}.{}", version.incarnation, version.seq)
}

pub fn decode_facts(value: &str) -> Option<FactVersion> {
    let (incarnation, seq) = value.split_once('.')?;
    Some(FactVersion { incarnation: incarnation.parse().ok()?, seq: seq.parse().ok()? })
}

/// 32 hex digits.
pub fn encode_root(root: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(root))
}

pub fn decode_root(value: &str) -> Option<[u8; 16]> {
    let hex = value.len() == 32 && value.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u128::from_str_radix(value, 16).ok().map(u128::to_be_bytes)).flatten()
}

/// A name counts only for the id that it hashes to, so that nobody appears under another's name.
pub fn decode_name(value: &str, id: NodeId) -> Option<NodeName> {
    value.parse().ok().filter(|name: &NodeName| name.id() == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_written() {
        let version = FactVersion { incarnation: 7, seq: u64::MAX };
        assert_eq!(decode_facts(&encode_facts(version)), Some(version));
        let mut root = [0; 16];
        root[15] = 0xab;
        assert_eq!(encode_root(root), "000000000000000000000000000000ab");
        assert_eq!(decode_root(&encode_root(root)), Some(root));
    }

    #[test]
    fn values_of_another_form_are_ignored() {
        for value in ["", ".", "1", "1.", "1.-2", "1.2.3", "1.99999999999999999999"] {
            assert_eq!(decode_facts(value), None, "{value:?}");
        }
        for value in ["", "ab", "+0000000000000000000000000000000", "zz000000000000000000000000000000"] {
            assert_eq!(decode_root(value), None, "{value:?}");
        }
    }

    #[test]
    fn a_name_that_is_not_the_ids_is_ignored() {
        let name: NodeName = "host-1".parse().unwrap();
        assert_eq!(decode_name("host-1", name.id()), Some(name.clone()));
        assert_eq!(decode_name("host-2", name.id()), None);
        assert_eq!(decode_name("HOST", name.id()), None);
    }
}
