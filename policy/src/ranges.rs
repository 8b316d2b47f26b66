//! Ranges of addresses, as documents write them, and what is for those that an address lies in.

use std::{cmp::Reverse, net::IpAddr};

use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;

/// Reads an address, or a range such as `10.0.0.0/8`.
pub(crate) fn read(text: &str) -> Option<IpNet> {
    match text.contains('/') {
        true => text.parse().ok(),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// Things by ranges, found in a time that depends on how many lengths of prefix there are, at most 33 and 129, and not
/// on how many ranges.
#[derive(Debug)]
pub(crate) struct RangeIndex<T> {
    by_range: HashMap<IpNet, Vec<T>>,
    /// The lengths of the prefixes, the longest first, each once.
    v4: Vec<Reverse<u8>>,
    v6: Vec<Reverse<u8>>,
}

impl<T> Default for RangeIndex<T> {
    fn default() -> Self {
        Self { by_range: HashMap::new(), v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T> RangeIndex<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_range.is_empty()
    }

    pub(crate) fn insert(&mut self, range: IpNet, value: T) {
        let range = range.trunc();
        let lengths = match range {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        };
        let length = Reverse(range.prefix_len());
        if let Err(place) = lengths.binary_search(&length) {
            lengths.insert(place, length);
        }
        self.by_range.entry(range).or_default().push(value);
    }

    /// What was inserted for ranges that have the address: the narrowest range first, for each in the order of
    /// insertion.
    pub(crate) fn matching(&self, address: IpAddr) -> impl Iterator<Item = &T> {
        let lengths = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let ranges = lengths.iter().filter_map(move |length| IpNet::new(address, length.0).ok());
        ranges.filter_map(|range| self.by_range.get(&range.trunc())).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_by_the_narrowest_range_first() {
        let mut index = RangeIndex::default();
        for text in ["0.0.0.0/0", "10.0.0.0/8", "10.9.9.9/16", "10.9.0.1", "2001:db8::/32", "::/0"] {
            index.insert(read(text).unwrap(), text);
        }
        index.insert(read("10.9.0.0/16").unwrap(), "the same again");
        let found = |address: &str| index.matching(address.parse().unwrap()).copied().collect::<Vec<_>>();
        assert_eq!(found("10.9.0.1"), ["10.9.0.1", "10.9.9.9/16", "the same again", "10.0.0.0/8", "0.0.0.0/0"]);
        assert_eq!(found("10.8.0.1"), ["10.0.0.0/8", "0.0.0.0/0"]);
        assert_eq!(found("11.0.0.1"), ["0.0.0.0/0"]);
        assert_eq!(found("2001:db8::1"), ["2001:db8::/32", "::/0"]);
        assert_eq!(found("2001:db9::1"), ["::/0"]);
        assert!(RangeIndex::<()>::default().matching([10, 9, 0, 1].into()).next().is_none());
    }

    #[test]
    fn what_is_no_range_is_not_read() {
        for text in ["", "a", "10.0.0.0/33", "10.0.0", "10.0.0.1/", "/8", "::1/129"] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
