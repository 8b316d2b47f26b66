//! How one node asks another for what it lacks: in rounds, since an answer is bounded.

use weft_wire::frame::MAX_FRAME_LEN;

/// Bytes of facts or documents in one answer; the puller asks again for the rest.
pub const MAX_ANSWER: usize = MAX_FRAME_LEN / 2;
/// So often, as long as each answer has news. The rest comes with the next pull.
pub const MAX_ROUNDS: u32 = 16;

/// One pull under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pull {
    answers: u32,
}

impl Pull {
    /// Whether to ask again, after an answer that had news or had none.
    pub fn again(&mut self, news: bool) -> bool {
        self.answers += 1;
        news && self.answers < MAX_ROUNDS
    }
}
