//! What happened to a member, for logs, `weft members` and whoever reacts.

use weft_wire::id::NodeId;

/// One change in one member's standing, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub node: NodeId,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Seen alive for the first time, or back after it had left.
    Joined,
    /// Stopped on purpose, by its own word.
    Left,
    /// Not reachable from here. Its state is kept, but comes last in every choice.
    Failed,
    /// Alive after it had failed.
    Recovered,
    /// Still a member, but under suspicion, cleared of it, or restarted.
    Changed,
    /// Left or failed so long ago that nothing of it is remembered.
    Forgotten,
}

impl What {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Failed => "failed",
            Self::Recovered => "recovered",
            Self::Changed => "changed",
            Self::Forgotten => "forgotten",
        }
    }
}
