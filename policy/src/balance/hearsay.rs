//! What the mesh says of an endpoint, as far as this node's callers act on it. It sits beside the view, where a request
//! that chooses an endpoint finds it with one load, and lapses by itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::endpoint::Standing;

/// What other nodes' words, and this node's own, make of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshVerdict {
    pub standing: Standing,
    /// So many failures in a row are too many while it holds; 0 leaves it at what documents say.
    pub patience: u8,
    /// On the callers' clock.
    pub until_ms: u64,
}

impl MeshVerdict {
    /// How many failures in a row are too many where documents say `limit`.
    pub(super) fn limit(self, limit: u32) -> u32 {
        match u32::from(self.patience) {
            0 => limit,
            patience => patience.min(limit),
        }
    }
}

/// The verdict in one word: until when, standing, patience.
#[derive(Debug, Default)]
pub(super) struct Heard(AtomicU64);

const STANDINGS: [Standing; 3] = [Standing::Preferred, Standing::Demoted, Standing::Excluded];

impl Heard {
    pub(super) fn verdict(&self, now_ms: u64) -> MeshVerdict {
        let word = self.0.load(Relaxed);
        let until_ms = word >> 16;
        if until_ms <= now_ms {
            return MeshVerdict::default();
        }
        let [patience, standing, ..] = word.to_le_bytes();
        let standing = STANDINGS.get(usize::from(standing)).copied().unwrap_or_default();
        MeshVerdict { standing, patience, until_ms }
    }

    pub(super) fn set(&self, verdict: MeshVerdict) {
        let standing = STANDINGS.iter().position(|standing| *standing == verdict.standing).unwrap_or_default() as u64;
        let word = (verdict.until_ms.min(u64::MAX >> 16) << 16) | (standing << 8) | u64::from(verdict.patience);
        if self.0.load(Relaxed) != word {
            self.0.store(word, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_read_as_it_was_set_until_it_lapses() {
        let heard = Heard::default();
        assert_eq!(heard.verdict(0), MeshVerdict::default());
        for standing in STANDINGS {
            for (patience, until_ms) in [(0, 1_000), (2, 5), (255, u64::MAX >> 16)] {
                let verdict = MeshVerdict { standing, patience, until_ms };
                heard.set(verdict);
                assert_eq!(heard.verdict(until_ms - 1), verdict);
                assert_eq!(heard.verdict(until_ms), MeshVerdict::default());
            }
        }
    }

    #[test]
    fn patience_only_lowers_a_limit() {
        let limit = |patience, limit| MeshVerdict { patience, ..MeshVerdict::default() }.limit(limit);
        assert_eq!([limit(0, 5), limit(2, 5), limit(9, 5), limit(1, 0)], [5, 2, 5, 0]);
    }
}
