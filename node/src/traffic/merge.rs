//! One picture of what all nodes tell.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::{Call, Rates, Side, UNKNOWN};

type Pair = (String, String, String, String);

fn pair(call: &Call) -> Pair {
    (
        call.source_namespace.clone(),
        call.source_workload.clone(),
        call.destination_namespace.clone(),
        call.destination_workload.clone(),
    )
}

/// Adds up the rows of several nodes. Both ends of a call count it: the caller's side is believed, which has also waited
/// for the network and seen what never arrived; the other one counts only where no caller's node tells of the two
/// workloads, because the caller is outside of the mesh or its node does not answer.
pub fn merge<T: Sum>(told: impl IntoIterator<Item = (Call, Side, T)>) -> impl Iterator<Item = (Call, Side, T)> {
    let mut sums: BTreeMap<(Call, Side), T> = BTreeMap::new();
    for (call, side, numbers) in told {
        match sums.entry((call, side)) {
            Entry::Vacant(new) => drop(new.insert(numbers)),
            Entry::Occupied(mut sum) => sum.get_mut().add(&numbers),
        }
    }
    let by_source = sums.keys().filter(|(_, side)| *side == Side::Source);
    let by_source: BTreeSet<Pair> = by_source.map(|(call, _)| pair(call)).collect();
    let is_told_by_source = move |call: &Call| call.source_workload != UNKNOWN && by_source.contains(&pair(call));
    let sums = sums.into_iter().map(|((call, side), sum)| (call, side, sum));
    sums.filter(move |(call, side, _)| *side == Side::Source || !is_told_by_source(call))
}

/// Numbers of an edge that add up.
pub trait Sum {
    fn add(&mut self, other: &Self);
}

impl Sum for Rates {
    fn add(&mut self, other: &Self) {
        Self::add(self, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{Row, tests::row};

    fn merged(rows: Vec<Row>) -> Vec<(String, Side, f64)> {
        let told = rows.into_iter().map(|row| (row.call, row.reporter, row.rates));
        merge(told).map(|(call, side, rates)| (call.source_workload, side, rates.requests)).collect()
    }

    #[test]
    fn what_nodes_tell_of_one_call_adds_up_and_counts_once() {
        let rows = vec![
            row("web>db@db-v1", Side::Source, 3.0),
            row("web>db@db-v1", Side::Source, 4.0),
            row("web>db@db-v1", Side::Destination, 6.5),
        ];
        assert_eq!(merged(rows), [("web".to_owned(), Side::Source, 7.0)]);
    }

    #[test]
    fn the_called_side_is_believed_where_no_caller_tells() {
        let rows = vec![
            row("unknown>db@db-v1", Side::Destination, 5.0),
            row("silent>db@db-v1", Side::Destination, 2.0),
            row("web>db@db-v1", Side::Source, 1.0),
            row("web>db@db-v2", Side::Destination, 4.0),
        ];
        let expected = [("silent", 2.0), ("web", 4.0), ("unknown", 5.0)];
        let told = merged(rows);
        let by_destination = told.iter().filter(|(_, side, _)| *side == Side::Destination);
        let by_destination: Vec<_> = by_destination.map(|(name, _, rate)| (name.as_str(), *rate)).collect();
        assert_eq!(by_destination, expected);
        assert_eq!(told.len(), 4);
    }
}
