//! Where the mesh's nodes are.

use std::{collections::BTreeMap, sync::Arc};

use weft_wire::id::{Locality, NodeName};

use super::nodes::NodeRows;

/// How many nodes there are by region and zone. Nodes without a zone are not counted.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Localities(BTreeMap<(String, String), u64>);

impl Localities {
    /// Those of these nodes; the known ones if they are the same.
    pub(super) fn of(nodes: &BTreeMap<NodeName, Arc<NodeRows>>, known: &Arc<Self>) -> Arc<Self> {
        let mut counts = BTreeMap::new();
        for Locality { region, zone, .. } in nodes.values().map(|node| &node.place.locality) {
            if !zone.is_empty() {
                *counts.entry((region.clone(), zone.clone())).or_default() += 1;
            }
        }
        let made = Self(counts);
        if **known == made { known.clone() } else { Arc::new(made) }
    }

    /// The region of a zone, if its nodes agree.
    pub(super) fn region_of(&self, zone: &str) -> Option<&str> {
        let mut regions = self.0.keys().filter(|(_, known)| known == zone).map(|(region, _)| region.as_str());
        regions.next().filter(|_| regions.next().is_none())
    }

    /// How many nodes each zone of a region has.
    pub(super) fn zones_of(&self, region: &str) -> BTreeMap<String, u64> {
        let zones = self.0.iter().filter(|((known, _), _)| known == region);
        zones.map(|((_, zone), count)| (zone.clone(), *count)).collect()
    }
}
