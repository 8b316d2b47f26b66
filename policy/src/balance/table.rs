//! Tables of consistent hashing: which endpoint a key belongs to, so that few keys move when endpoints come or go.
//!
//! Both are built as Envoy builds them (`ring_hash_lb.cc`, `maglev_lb.cc`), of XXH64 with seed 0. They know endpoints by
//! their names alone: health does not change a table, it only makes a key walk on.

use twox_hash::XxHash64;

/// How many points a ring has at most, as in Envoy.
const MAX_RING_SIZE: u64 = 8 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableKind {
    /// Points on a ring, this many or more.
    Ring { min_size: u64 },
    /// A table of this size, which is a prime.
    Maglev { size: u32 },
}

impl TableKind {
    /// Istio's default.
    pub(crate) const DEFAULT: Self = Self::Ring { min_size: 1_024 };
}

/// Its owners are places in the list of names that it was made of.
#[derive(Debug)]
pub(super) struct Table {
    kind: TableKind,
    /// With their weights, which are never 0.
    names: Vec<(String, u32)>,
    /// The points' hashes, sorted; empty for Maglev.
    hashes: Vec<u64>,
    owners: Vec<u32>,
}

impl Table {
    /// `names` are different, and in an order on which all nodes agree.
    pub(super) fn new(kind: TableKind, names: Vec<(String, u32)>) -> Self {
        let (hashes, owners) = match kind {
            _ if names.is_empty() => (Vec::new(), Vec::new()),
            TableKind::Ring { min_size } => ring(&names, min_size),
            TableKind::Maglev { size } => (Vec::new(), maglev(&names, size)),
        };
        Self { kind, names, hashes, owners }
    }

    pub(super) fn is_of(&self, kind: TableKind, names: &[(String, u32)]) -> bool {
        self.kind == kind && self.names == names
    }

    /// The owners of a key, the best first; each comes again and again, and none is left out.
    pub(super) fn owners_of(&self, hash: u64) -> impl Iterator<Item = usize> {
        let start = match self.kind {
            TableKind::Ring { .. } => self.hashes.partition_point(|point| *point < hash),
            TableKind::Maglev { .. } => (hash % self.owners.len().max(1) as u64) as usize,
        };
        let (before, after) = self.owners.split_at_checked(start).unwrap_or((&self.owners, &[]));
        after.iter().chain(before).map(|owner| *owner as usize)
    }
}

/// Each weight as a part of all.
fn parts(names: &[(String, u32)]) -> Vec<f64> {
    let total: u64 = names.iter().map(|(_, weight)| u64::from(*weight)).sum();
    names.iter().map(|(_, weight)| f64::from(*weight) / total as f64).collect()
}

fn ring(names: &[(String, u32)], min_size: u64) -> (Vec<u64>, Vec<u32>) {
    let parts = parts(names);
    let least = parts.iter().copied().fold(1.0, f64::min);
    // The lightest has a whole number of points.
    let size = ((least * min_size.min(MAX_RING_SIZE) as f64).ceil().max(1.0) / least).min(MAX_RING_SIZE as f64);
    let mut points = Vec::with_capacity(size.ceil() as usize);
    let (mut key, mut target) = (String::new(), 0.0);
    for ((owner, (name, _)), part) in (0..).zip(names).zip(parts) {
        target += size * part;
        // What was rounded on the way is no point.
        for i in 0..(target - points.len() as f64 - 1e-6).ceil().max(0.0) as u64 {
            key.clear();
            key.push_str(name);
            key.push('_');
            key.push_str(&i.to_string());
            points.push((XxHash64::oneshot(0, key.as_bytes()), owner));
        }
    }
    points.sort_unstable();
    points.into_iter().unzip()
}

fn maglev(names: &[(String, u32)], size: u32) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    /// An endpoint's own order in which it wants the slots.
    struct Wants {
        next: u64,
        skip: u64,
        part: f64,
        /// It takes a slot when its parts of all rounds sum up to this.
        target: f64,
    }
    let size = u64::from(size.max(2));
    let parts = parts(names);
    let most = parts.iter().copied().fold(0.0, f64::max);
    let wants = names.iter().zip(parts).map(|((name, _), part)| {
        let (offset, skip) = (XxHash64::oneshot(0, name.as_bytes()), XxHash64::oneshot(1, name.as_bytes()));
        Wants { next: offset % size, skip: skip % (size - 1) + 1, part, target: 0.0 }
    });
    let mut wants: Vec<Wants> = wants.collect();
    let mut owners = vec![FREE; size as usize];
    let mut left = owners.len();
    // They take turns; who weighs less than the heaviest is passed over in some rounds.
    for round in 1_u64.. {
        for (owner, wants) in (0..).zip(&mut wants) {
            if left == 0 {
                return owners;
            }
            if (round as f64) * wants.part < wants.target {
                continue;
            }
            wants.target += most;
            // The size is a prime, so steps of any length come to every slot.
            while let Some(slot) = owners.get_mut(wants.next as usize) {
                wants.next = (wants.next + wants.skip) % size;
                if *slot == FREE {
                    *slot = owner;
                    left -= 1;
                    break;
                }
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: TableKind = TableKind::Ring { min_size: 1_024 };
    const MAGLEV: TableKind = TableKind::Maglev { size: 65_537 };

    fn names(count: usize) -> Vec<(String, u32)> {
        (0..count).map(|i| (format!("10.0.0.{i}:80"), 1)).collect()
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..20_000_u64).map(|key| XxHash64::oneshot(0, &key.to_le_bytes()))
    }

    fn owner(table: &Table, key: u64) -> usize {
        table.owners_of(key).next().unwrap()
    }

    #[test]
    fn each_endpoint_owns_its_share_of_the_keys() {
        for (kind, tolerance) in [(RING, 0.35), (MAGLEV, 0.05)] {
            let table = Table::new(kind, names(10));
            let mut counts = [0_u32; 10];
            keys().for_each(|key| counts[owner(&table, key)] += 1);
            let off = |count: u32| (f64::from(count) / 2_000.0 - 1.0).abs();
            assert!(counts.iter().all(|count| off(*count) < tolerance), "{kind:?} {counts:?}");
        }
    }

    #[test]
    fn who_weighs_more_owns_more_keys() {
        for (kind, tolerance) in [(RING, 0.35), (MAGLEV, 0.05)] {
            let mut names = names(10);
            names.iter_mut().step_by(2).for_each(|(_, weight)| *weight = 3);
            let table = Table::new(kind, names);
            let mut counts = [0_u32; 10];
            keys().for_each(|key| counts[owner(&table, key)] += 1);
            for (place, count) in counts.iter().enumerate() {
                let expected = if place % 2 == 0 { 3_000.0 } else { 1_000.0 };
                assert!((f64::from(*count) / expected - 1.0).abs() < tolerance, "{kind:?} {counts:?}");
            }
        }
        let heavy = Table::new(RING, vec![("a".into(), 3), ("b".into(), 1)]);
        assert_eq!(heavy.owners.iter().filter(|owner| **owner == 0).count(), 768, "of 1,024 points");
    }

    #[test]
    fn when_an_endpoint_leaves_few_keys_move_but_its_own() {
        // Those that stay get more points of the ring, or other slots: some keys of others move too.
        for (kind, most) in [(RING, 0.1), (MAGLEV, 0.1)] {
            let (all, without_last) = (Table::new(kind, names(10)), Table::new(kind, names(9)));
            let moved = keys().filter(|key| owner(&all, *key) != 9 && owner(&all, *key) != owner(&without_last, *key));
            let moved = moved.count() as f64 / 20_000.0;
            assert!(moved <= most, "{kind:?}: {moved}");
        }
    }

    #[test]
    fn the_owners_of_a_key_leave_none_out() {
        for kind in [RING, MAGLEV, TableKind::Ring { min_size: 0 }, TableKind::Maglev { size: 7 }] {
            let table = Table::new(kind, names(5));
            for key in [0, 1, u64::MAX / 2, u64::MAX] {
                let found: std::collections::BTreeSet<usize> = table.owners_of(key).collect();
                assert_eq!(found.len(), 5, "{kind:?}");
            }
        }
        for kind in [RING, MAGLEV] {
            assert_eq!(Table::new(kind, Vec::new()).owners_of(7).next(), None);
        }
    }

    #[test]
    fn a_ring_has_as_many_points_as_asked_for_and_no_more_than_envoys_limit() {
        assert_eq!(Table::new(TableKind::Ring { min_size: 1_024 }, names(3)).owners.len(), 1_026);
        assert_eq!(Table::new(TableKind::Ring { min_size: 2 }, names(3)).owners.len(), 3);
        assert_eq!(MAX_RING_SIZE, 8_388_608);
    }

    #[test]
    fn the_hash_is_xxh64() {
        assert_eq!(XxHash64::oneshot(0, b""), 0xef46_db37_51d8_e999);
        assert_eq!(XxHash64::oneshot(0, b"foo"), 0x33bf_00a8_59c4_ba3f);
    }
}
