//! Cells: who gossips with whom. A large mesh is several cells, whose relays pass documents whole and facts in summary.
//!
//! A node says in labels of its record in which cell it is, and whether it is a relay: so its word is there with its
//! address, and builds that know no cells pass it on. What crosses to other cells is decided in `weft_discovery::cells`.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{
    fact::{FactBody, FactKind, NodeRecord, Protocol},
    id::{CellName, NodeId, ServiceName},
};

/// Labels that begin so are weft's own.
pub const OWN_LABELS: &str = "weft.mesh/";
/// Of a node's record: its cell. Without it, the node is in [`CellName::default_cell`].
pub const CELL_LABEL: &str = "weft.mesh/cell";
/// Of a node's record: `true` if it is a relay.
pub const RELAY_LABEL: &str = "weft.mesh/relay";

/// Most services of other cells that one node wants.
pub const MAX_WANTS: usize = 400;
/// Most services that all nodes of a cell want, and most that a relay tells of its cell.
pub const MAX_CELL_WANTS: usize = 1_000;
pub const MAX_INDEX: usize = 1_000;
/// Most ports of one service in an index.
pub const MAX_INDEX_PORTS: usize = 16;
/// Most nodes of its cell that a relay names, and most relays as linked.
pub const MAX_CELL_NODES: usize = 4_096;
pub const MAX_LINKED: usize = 512;

impl NodeRecord {
    /// The node's cell, by its own word.
    pub fn cell(&self) -> CellName {
        let named = self.labels.get(CELL_LABEL).and_then(|name| CellName::from_str(name).ok());
        named.unwrap_or_else(CellName::default_cell)
    }

    pub fn is_relay(&self) -> bool {
        self.labels.get(RELAY_LABEL).is_some_and(|value| value == "true")
    }

    /// Says of a node in which cell it is, and whether as a relay.
    pub fn in_cell(mut self, cell: &CellName, is_relay: bool) -> Self {
        if *cell != CellName::default_cell() {
            self.labels.insert(CELL_LABEL.into(), cell.to_string());
        }
        if is_relay {
            self.labels.insert(RELAY_LABEL.into(), "true".into());
        }
        self
    }
}

/// The services of other cells of which a node needs the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wants {
    pub services: BTreeSet<ServiceName>,
}

/// A cell, as one of its relays tells the others of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellSummary {
    /// Nodes that have said something and not left.
    pub nodes: u32,
    /// Its services; not all of them if there are more than [`MAX_INDEX`].
    pub services: BTreeMap<ServiceName, Vec<IndexedPort>>,
    /// The services of other cells that its nodes want.
    pub wants: BTreeSet<ServiceName>,
}

/// A port of a service, and how many endpoints it has in the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedPort {
    pub port: u16,
    pub protocol: Protocol,
    pub endpoints: u32,
}

/// What a relay sees of its own cell and of the way to the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayWord {
    /// Relays of other cells with which it has a link.
    pub linked: BTreeSet<NodeId>,
    /// Nodes of its own cell that live.
    pub alive: BTreeSet<NodeId>,
    /// The digest of its documents.
    pub documents: [u8; 16],
    /// Whether all nodes of its cell hold the same.
    pub agreed: bool,
}

impl FactBody for Wants {
    const KIND: FactKind = FactKind::WANTS;
}
impl FactBody for CellSummary {
    const KIND: FactKind = FactKind::CELL;
}
impl FactBody for RelayWord {
    const KIND: FactKind = FactKind::RELAY;
}
