//! When a node tells the mesh of its circuits.

use super::CircuitTable;

/// Changes of what a node says within so many milliseconds go out as one: half as often as others bear.
const COALESCE_MS: u64 = 100;
/// A lease is renewed so often while it lasts: two messages may be lost.
const RENEWALS: u64 = 3;

/// What a node has told last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Telling {
    /// When, on the callers' clock, and the table's revision.
    told: Option<(u64, u64)>,
}

impl Telling {
    /// When to tell again, on the callers' clock: what has changed, or what has to be renewed. `None` while there is
    /// nothing to tell.
    pub fn due_ms(&self, table: &CircuitTable) -> Option<u64> {
        let Some((told_ms, revision)) = self.told else { return (table.revision() > 0).then_some(0) };
        let wait_ms = match revision == table.revision() {
            true => table.shortest_lease_ms()? / RENEWALS,
            false => COALESCE_MS,
        };
        Some(told_ms.saturating_add(wait_ms))
    }

    /// All that the table has to tell has just been told.
    pub fn told(&mut self, table: &CircuitTable, now_ms: u64) {
        self.told = Some((now_ms, table.revision()));
    }
}
