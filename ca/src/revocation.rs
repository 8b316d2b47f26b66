//! Certificates that hold no more, although their time is not over: those of a node or of a service account that were
//! issued until it was revoked. Whoever gets a new one after that is believed again.

use std::{collections::BTreeMap, time::Duration};

use rustls_pki_types::UnixTime;
use weft_wire::id::{NodeName, Revoked, ServiceAccount, SpiffeId, Subject};

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    pub issued: UnixTime,
    /// The node that asked for it, if it is a workload's.
    pub host: Option<NodeName>,
    /// The CA node that signed it, and since when that one may; `None` if it was the root.
    pub issuer: Option<(NodeName, UnixTime)>,
}

/// Why a certificate does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Itself(Revoked),
    /// Its owner did nothing wrong, and may get another one from another CA node.
    Issuer(NodeName),
}

/// What is revoked, and when it was. Times are whole seconds, as in certificates: what was issued in the same second is
/// revoked too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    nodes: BTreeMap<NodeName, UnixTime>,
    accounts: BTreeMap<ServiceAccount, UnixTime>,
}

impl Revocations {
    pub fn add(&mut self, what: Revoked, at: UnixTime) {
        let last = match what {
            Revoked::Node(name) => self.nodes.entry(name).or_insert(at),
            Revoked::Account(account) => self.accounts.entry(account).or_insert(at),
        };
        *last = at.max(*last);
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.accounts.is_empty()
    }

    /// When the first of all was revoked, as far as none of its name was later.
    pub fn first(&self) -> Option<UnixTime> {
        self.nodes.values().chain(self.accounts.values()).min().copied()
    }

    /// Why a certificate does not hold at this time; `None` if it does.
    pub fn refuse(&self, id: &SpiffeId, from: &Provenance, at: UnixTime) -> Option<Reason> {
        if self.is_empty() {
            return None;
        }
        let is_revoked = |revoked: Option<&UnixTime>, issued: UnixTime| {
            revoked.is_some_and(|revoked| issued <= *revoked && *revoked <= at)
        };
        let node = match &id.subject {
            Subject::Node(name) => Some(name),
            Subject::Workload(_) => from.host.as_ref(),
            Subject::Operator(_) => None,
        };
        if let Some(name) = node.filter(|name| is_revoked(self.nodes.get(*name), from.issued)) {
            return Some(Reason::Itself(Revoked::Node(name.clone())));
        }
        if let Some(account) = id.as_workload().filter(|account| is_revoked(self.accounts.get(*account), from.issued)) {
            return Some(Reason::Itself(Revoked::Account(account.clone())));
        }
        let (issuer, since) = from.issuer.as_ref()?;
        is_revoked(self.nodes.get(issuer), *since).then(|| Reason::Issuer(issuer.clone()))
    }

    /// When a certificate of this node for this name must have been issued at the earliest, to hold: for a CA node whose
    /// clock is a little late.
    pub fn not_before(&self, host: &NodeName, account: Option<&ServiceAccount>) -> Option<UnixTime> {
        let last = self.nodes.get(host).max(account.and_then(|account| self.accounts.get(account)))?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(last.as_secs().saturating_add(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(secs))
    }

    fn from(issued: u64, host: Option<&str>, issuer: Option<(&str, u64)>) -> Provenance {
        let host = host.map(|name| name.parse().unwrap());
        let issuer = issuer.map(|(name, since)| (name.parse().unwrap(), at(since)));
        Provenance { issued: at(issued), host, issuer }
    }

    fn id(text: &str) -> SpiffeId {
        format!("spiffe://cluster.local/{text}").parse().unwrap()
    }

    fn revoked(what: impl IntoIterator<Item = (Revoked, u64)>) -> Revocations {
        let mut all = Revocations::default();
        what.into_iter().for_each(|(what, when)| all.add(what, at(when)));
        all
    }

    fn node(name: &str) -> Revoked {
        Revoked::Node(name.parse().unwrap())
    }

    #[test]
    fn a_revoked_nodes_certificates_hold_no_more_and_its_next_ones_do() {
        let all = revoked([(node("b"), 100)]);
        let itself = Some(Reason::Itself(node("b")));
        for (who, host) in [("node/b", None), ("ns/default/sa/web", Some("b"))] {
            assert_eq!(all.refuse(&id(who), &from(100, host, Some(("ca", 1))), at(100)), itself, "{who}");
            assert_eq!(all.refuse(&id(who), &from(101, host, Some(("ca", 1))), at(200)), None, "{who}: issued later");
            assert_eq!(
                all.refuse(&id(who), &from(50, host, None), at(99)),
                None,
                "{who}: what it signed before counts"
            );
        }
        assert_eq!(all.refuse(&id("node/a"), &from(50, None, None), at(200)), None);
        assert_eq!(all.refuse(&id("ns/default/sa/web"), &from(50, Some("a"), None), at(200)), None, "on another node");
        assert_eq!(all.refuse(&id("operator/b"), &from(50, None, None), at(200)), None, "no node");
    }

    #[test]
    fn a_revoked_account_is_so_on_all_nodes() {
        let account: ServiceAccount = "default/web".parse().unwrap();
        let all = revoked([(Revoked::Account(account.clone()), 100)]);
        let refuse = |who: &str, host: &str| all.refuse(&id(who), &from(99, Some(host), None), at(100));
        let itself = Some(Reason::Itself(Revoked::Account(account)));
        assert_eq!([refuse("ns/default/sa/web", "a"), refuse("ns/default/sa/web", "b")], [itself.clone(), itself]);
        assert_eq!([refuse("ns/default/sa/api", "a"), refuse("node/web", "a")], [None, None]);
    }

    #[test]
    fn what_a_revoked_ca_node_signed_is_to_be_had_anew() {
        let all = revoked([(node("ca"), 100)]);
        let of =
            |since: u64, at_secs: u64| all.refuse(&id("node/a"), &from(150, None, Some(("ca", since))), at(at_secs));
        assert_eq!(of(100, 150), Some(Reason::Issuer("ca".parse().unwrap())), "also what it signed after that");
        assert_eq!(of(101, 150), None, "its next intermediate");
        assert_eq!(of(100, 99), None);
        // Who is revoked itself is not told that another certificate will do.
        assert_eq!(
            all.refuse(&id("node/ca"), &from(1, None, Some(("ca", 1))), at(100)),
            Some(Reason::Itself(node("ca")))
        );
    }

    #[test]
    fn the_last_time_counts_and_a_late_clock_issues_after_it() {
        let (one, other) = (revoked([(node("b"), 100), (node("b"), 50)]), revoked([(node("b"), 50), (node("b"), 100)]));
        assert_eq!(one, other);
        let (name, account) = ("b".parse().unwrap(), "default/web".parse().unwrap());
        assert_eq!(one.not_before(&name, None), Some(at(101)));
        assert_eq!(one.not_before(&"a".parse().unwrap(), Some(&account)), None);
        let mut both = one.clone();
        both.add(Revoked::Account(account.clone()), at(120));
        assert_eq!(both.not_before(&name, Some(&account)), Some(at(121)));
        assert_eq!(both.not_before(&"a".parse().unwrap(), Some(&account)), Some(at(121)));
        assert!(!both.is_empty() && Revocations::default().is_empty());
    }
}
