//! One picture of what all nodes tell.

use std::collections::{BTreeMap, BTreeSet};

use super::{Call, Rates, Row, Side, UNKNOWN};

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
pub fn merge(rows: impl IntoIterator<Item = Row>) -> Vec<Row> {
    let mut sums: BTreeMap<(Call, Side), Rates> = BTreeMap::new();
    for row in rows {
        sums.entry((row.call, row.reporter)).or_default().add(&row.rates);
    }
    let by_source = sums.keys().filter(|(_, side)| *side == Side::Source);
    let by_source: BTreeSet<Pair> = by_source.map(|(call, _)| pair(call)).collect();
    let is_told_by_source = |call: &Call| call.source_workload != UNKNOWN && by_source.contains(&pair(call));
    let sums = sums.into_iter().filter(|((call, side), _)| *side == Side::Source || !is_told_by_source(call));
    sums.map(|((call, reporter), rates)| Row { call, reporter, rates, circuit: None }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::tests::row;

    fn merged(rows: Vec<Row>) -> Vec<(String, Side, f64)> {
        let rows = merge(rows).into_iter();
        rows.map(|row| (row.call.source_workload, row.reporter, row.rates.requests)).collect()
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
