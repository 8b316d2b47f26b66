//! What the servers of a port speak whose protocol nobody declared, by what they were heard to say. A client's word
//! alone teaches nothing: one that is wrong about a port would be believed for all others.

use std::sync::atomic::{AtomicU64, Ordering};

/// How long it is believed after it was last heard, in milliseconds: the servers may be replaced by others.
const BELIEVED_FOR_MS: u64 = 600_000;

/// What a port's servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// They answered a request as HTTP says.
    Http,
    /// They spoke before their client did, as no server of HTTP or TLS does.
    ServerFirst,
}

/// Shared by all views that know the port. Written by whoever hears a server.
#[derive(Debug, Default)]
pub struct Learned {
    /// When it was last heard, in milliseconds, times 4, and what; 0 is nothing.
    heard: AtomicU64,
}

impl Learned {
    /// `now_ms` is the callers' monotonic clock.
    pub fn hear(&self, spoken: Spoken, now_ms: u64) {
        let heard = (now_ms << 2) | code(spoken);
        // Not for each response: a store would take the cache line from every other core.
        let before = self.heard.load(Ordering::Relaxed);
        if before & 3 != code(spoken) || heard.saturating_sub(before) >> 2 > BELIEVED_FOR_MS / 4 {
            self.heard.store(heard, Ordering::Relaxed);
        }
    }

    /// `None` where nothing was heard for 10 min.
    pub fn known(&self, now_ms: u64) -> Option<Spoken> {
        let heard = self.heard.load(Ordering::Relaxed);
        let is_believed = now_ms.saturating_sub(heard >> 2) < BELIEVED_FOR_MS;
        let all = [Spoken::Http, Spoken::ServerFirst];
        all.into_iter().find(|spoken| is_believed && heard & 3 == code(*spoken))
    }
}

fn code(spoken: Spoken) -> u64 {
    match spoken {
        Spoken::Http => 1,
        Spoken::ServerFirst => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_last_is_believed_for_ten_minutes() {
        let learned = Learned::default();
        assert_eq!(learned.known(0), None);
        learned.hear(Spoken::ServerFirst, 5_000);
        assert_eq!(learned.known(5_000), Some(Spoken::ServerFirst));
        learned.hear(Spoken::Http, 6_000);
        assert_eq!(learned.known(605_999), Some(Spoken::Http));
        assert_eq!(learned.known(606_000), None);
        for now_ms in [6_001, 400_000] {
            learned.hear(Spoken::Http, now_ms);
        }
        assert_eq!(learned.known(999_999), Some(Spoken::Http), "heard again");
        assert_eq!(learned.known(1_000_000), None);
    }
}
