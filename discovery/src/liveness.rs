//! Whether each member is alive, weighed from what gossip, links and owners say.
//!
//! * A link that is up proves life. Whatever gossip says, the node is `Alive`.
//! * A link that broke, a dial that failed, or gossip's death verdict raise doubt: the node is `Suspect`, and `Failed`
//!   when a dial fails or [`DOUBT`] passes without proof of life. Links notice silence within 2 s, so a killed
//!   neighbour is `Failed` within 3 s; gossip alone takes some 8 s.
//! * Doubt about a link is not dispelled by gossip: others may reach the node when this one cannot. The caller keeps
//!   dialling, and the next link clears it.
//! * `Left` is the owner's own signed word, that it has left or stopped. Only a later incarnation takes it back.
//! * Anybody can gossip about anybody, so once a node has said something itself, a later incarnation of it counts from
//!   its own next word on. A later one that gossip tells of is no life sign of the one that the node named: whoever
//!   makes one up would else keep a dead node alive here. What gossip says of an earlier one is ignored.
//!
//! A failed member is not removed: its state comes last in every choice until it is back or forgotten.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weft_wire::id::NodeId;

use crate::{
    change::{Change, What},
    membership::MemberSet,
};

/// How long a suspect has to prove that it is alive.
pub const DOUBT: Duration = Duration::from_millis(750);
/// A member that left or failed this long ago, and that gossip calls dead too, is forgotten.
pub const FORGET_AFTER: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Alive,
    /// Perhaps dead: dial it to find out.
    Suspect,
    Failed,
    Left,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
            Self::Left => "left",
        }
    }
}

/// One piece of news about one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Gossip hears this incarnation's heartbeats, or no longer does.
    Gossip { incarnation: u64, live: bool },
    /// At least one link to it is up.
    LinkUp,
    /// The last link to it broke: timeout, reset, anything but a wish to close it.
    LinkLost,
    /// The last link to it was closed on purpose, by either side.
    LinkClosed,
    /// A dial failed.
    DialFailed,
    /// Its own signed fact says that this incarnation is up (or draining), or has ended on purpose.
    Said { incarnation: u64, left: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    None,
    Up,
    Lost,
}

#[derive(Debug)]
struct Member {
    incarnation: u64,
    /// It said itself that it is in this incarnation, or in an earlier one.
    signed: bool,
    left: bool,
    gossip_live: bool,
    link: Link,
    dial_failed: bool,
    /// Since when there is no proof of life.
    doubt_since: Option<Instant>,
    status: Status,
    status_since: Instant,
    /// It was alive once, so others were told of it.
    joined: bool,
}

impl Member {
    fn new(incarnation: u64, now: Instant) -> Self {
        Self {
            incarnation,
            signed: false,
            left: false,
            gossip_live: false,
            link: Link::None,
            dial_failed: false,
            doubt_since: None,
            status: Status::Suspect,
            status_since: now,
            joined: false,
        }
    }

    /// It is another incarnation than was thought, so what was held against it is void; a link that is up stays up.
    fn restarted(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
        // Who had left joins again.
        self.joined &= !self.left;
        self.left = false;
        self.gossip_live = false;
        self.dial_failed = false;
        self.doubt_since = None;
        if self.link == Link::Lost {
            self.link = Link::None;
        }
    }

    fn judge(&mut self, now: Instant) -> Status {
        if self.left {
            return Status::Left;
        }
        let alive = match self.link {
            Link::Up => true,
            Link::None => self.gossip_live && !self.dial_failed,
            Link::Lost => false,
        };
        if alive {
            self.doubt_since = None;
            return Status::Alive;
        }
        let doubted = now.saturating_duration_since(*self.doubt_since.get_or_insert(now));
        if self.dial_failed || doubted >= DOUBT { Status::Failed } else { Status::Suspect }
    }
}

/// The standing of every other member. Feed it evidence, and [`Liveness::tick`] now and then.
#[derive(Debug, Default)]
pub struct Liveness {
    members: BTreeMap<NodeId, Member>,
}

impl Liveness {
    /// The member's status, `None` if it is not known or was never seen alive.
    pub fn status(&self, node: NodeId) -> Option<Status> {
        self.members.get(&node).filter(|member| member.joined).map(|member| member.status)
    }

    /// Nothing more is to be known of this node.
    pub fn forget(&mut self, node: NodeId) {
        self.members.remove(&node);
    }

    pub fn is_linked(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(|member| member.link == Link::Up)
    }

    /// All members that were ever seen alive, by id.
    pub fn statuses(&self) -> impl Iterator<Item = (NodeId, Status)> {
        self.members.iter().filter(|(_, member)| member.joined).map(|(&node, member)| (node, member.status))
    }

    /// Takes in what gossip says of all members but `me`. Those that it no longer lists count as silent.
    pub fn observe_members(&mut self, set: &MemberSet, me: NodeId, now: Instant) -> Vec<Change> {
        let silent = |node: &NodeId| !set.members.contains_key(node);
        let gone: Vec<_> =
            self.members.iter().filter(|(node, _)| silent(node)).map(|(&n, m)| (n, m.incarnation)).collect();
        let gone = gone.into_iter().map(|(node, incarnation)| (node, Evidence::Gossip { incarnation, live: false }));
        let listed = set
            .members
            .iter()
            .filter(|(node, _)| **node != me)
            .map(|(&node, member)| (node, Evidence::Gossip { incarnation: member.incarnation, live: member.live }));
        listed.chain(gone).filter_map(|(node, evidence)| self.observe(node, evidence, now)).collect()
    }

    /// Takes in one piece of news.
    pub fn observe(&mut self, node: NodeId, evidence: Evidence, now: Instant) -> Option<Change> {
        let known = self.members.get(&node).map(|member| member.incarnation);
        let signed = self.members.get(&node).is_some_and(|member| member.signed);
        let evidence = match (evidence, known) {
            (Evidence::Gossip { incarnation, .. }, Some(known)) if signed && known < incarnation => {
                Evidence::Gossip { incarnation: known, live: false }
            }
            (evidence, _) => evidence,
        };
        match evidence {
            // Only what proves life makes a member. Its own word, which may be old, is noted for when it is one.
            Evidence::Gossip { live: false, .. } if known.is_none() => return None,
            Evidence::LinkLost | Evidence::LinkClosed | Evidence::DialFailed if known.is_none() => return None,
            Evidence::Gossip { incarnation, .. } if known > Some(incarnation) => return None,
            // But a node's first word outweighs all that was rumoured.
            Evidence::Said { incarnation, .. } if signed && known > Some(incarnation) => return None,
            // A dead verdict on a later incarnation is worth nothing: anybody can invent one.
            Evidence::Gossip { incarnation, live: false } if known < Some(incarnation) => return None,
            _ => {}
        }
        let incarnation = match evidence {
            Evidence::Gossip { incarnation, .. } | Evidence::Said { incarnation, .. } => incarnation,
            _ => known.unwrap_or_default(),
        };
        let member = self.members.entry(node).or_insert_with(|| Member::new(incarnation, now));
        let restarted = member.incarnation != incarnation;
        if restarted {
            member.restarted(incarnation);
        }
        match evidence {
            Evidence::Gossip { live, .. } => {
                // Dead and back again: what was known from dialling is out of date.
                if live && !member.gossip_live {
                    member.dial_failed = member.dial_failed && member.link == Link::Lost;
                }
                member.gossip_live = live;
            }
            Evidence::LinkUp => (member.link, member.dial_failed) = (Link::Up, false),
            Evidence::LinkLost => member.link = Link::Lost,
            Evidence::LinkClosed => member.link = Link::None,
            Evidence::DialFailed => member.dial_failed = member.link != Link::Up,
            Evidence::Said { left, .. } => {
                member.left |= left;
                member.signed = true;
            }
        }
        Self::settle(node, member, restarted, now)
    }

    /// When the first doubt is over, if nothing is heard until then: time for [`Liveness::tick`].
    pub fn doubt_ends(&self) -> Option<Instant> {
        let suspects = self.members.values().filter(|member| member.status == Status::Suspect);
        suspects.filter_map(|member| Some(member.doubt_since? + DOUBT)).min()
    }

    /// Lets doubts grow old, and forgets who has long been gone. Call it when a doubt ends, and now and then.
    pub fn tick(&mut self, now: Instant) -> Vec<Change> {
        let mut changes: Vec<_> =
            self.members.iter_mut().filter_map(|(&node, member)| Self::settle(node, member, false, now)).collect();
        self.members.retain(|&node, member| {
            let gone = matches!(member.status, Status::Left | Status::Failed) && !member.gossip_live;
            let forget = gone && now.saturating_duration_since(member.status_since) >= FORGET_AFTER;
            if forget && member.joined {
                changes.push(Change { node, what: What::Forgotten });
            }
            !forget
        });
        changes
    }

    fn settle(node: NodeId, member: &mut Member, restarted: bool, now: Instant) -> Option<Change> {
        let (before, after) = (member.status, member.judge(now));
        if before != after {
            (member.status, member.status_since) = (after, now);
        }
        let what = match (before, after) {
            _ if !member.joined => {
                member.joined = after == Status::Alive;
                member.joined.then_some(What::Joined)
            }
            (Status::Failed, Status::Alive) => Some(What::Recovered),
            (before, after) if before == after => restarted.then_some(What::Changed),
            (_, Status::Left) => Some(What::Left),
            (_, Status::Failed) => Some(What::Failed),
            _ => Some(What::Changed),
        };
        what.map(|what| Change { node, what })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NODE: NodeId = NodeId([1; 8]);

    struct Story {
        liveness: Liveness,
        now: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self { liveness: Liveness::default(), now: Instant::now() }
        }
        /// A story that begins with a live member in incarnation 1.
        fn of_a_member() -> Self {
            let mut story = Self::new();
            assert_eq!(story.tell(gossip(1, true)), Some(What::Joined));
            story
        }
        fn tell(&mut self, evidence: Evidence) -> Option<What> {
            self.liveness.observe(NODE, evidence, self.now).map(|change| change.what)
        }
        fn wait(&mut self, time: Duration) -> Vec<What> {
            self.now += time;
            self.liveness.tick(self.now).into_iter().map(|change| change.what).collect()
        }
        fn status(&self) -> Option<Status> {
            self.liveness.status(NODE)
        }
    }

    fn gossip(incarnation: u64, live: bool) -> Evidence {
        Evidence::Gossip { incarnation, live }
    }
    fn said(incarnation: u64, left: bool) -> Evidence {
        Evidence::Said { incarnation, left }
    }

    #[test]
    fn a_killed_neighbour_fails_within_three_seconds_though_gossip_still_calls_it_live() {
        let mut story = Story::of_a_member();
        story.tell(Evidence::LinkUp);
        let idle_timeout = Duration::from_secs(2);
        story.wait(idle_timeout);
        assert_eq!(story.tell(Evidence::LinkLost), Some(What::Changed));
        assert_eq!(story.status(), Some(Status::Suspect));
        assert_eq!(story.wait(DOUBT), [What::Failed]);
        assert!(idle_timeout + DOUBT < Duration::from_secs(3));
        assert_eq!(story.tell(gossip(1, true)), None, "gossip does not dispel doubt about a link");
        assert_eq!(story.tell(Evidence::LinkUp), Some(What::Recovered));
    }

    #[test]
    fn a_failed_redial_settles_the_doubt_at_once() {
        let mut story = Story::of_a_member();
        story.tell(Evidence::LinkUp);
        story.tell(Evidence::LinkLost);
        assert_eq!(story.tell(Evidence::DialFailed), Some(What::Failed));
    }

    #[test]
    fn a_link_that_is_up_outweighs_gossips_death_verdict() {
        let mut story = Story::of_a_member();
        story.tell(Evidence::LinkUp);
        assert_eq!(story.tell(gossip(1, false)), None);
        assert_eq!(story.status(), Some(Status::Alive));
        assert_eq!(story.tell(Evidence::LinkClosed), Some(What::Changed));
        assert_eq!(story.wait(DOUBT), [What::Failed]);
    }

    #[test]
    fn a_link_closed_on_purpose_says_nothing() {
        let mut story = Story::of_a_member();
        story.tell(Evidence::LinkUp);
        assert_eq!(story.tell(Evidence::LinkClosed), None);
        assert_eq!(story.status(), Some(Status::Alive));
    }

    #[test]
    fn a_member_without_link_fails_and_recovers_by_gossip() {
        let mut story = Story::of_a_member();
        assert_eq!(story.tell(gossip(1, false)), Some(What::Changed));
        assert_eq!(story.wait(DOUBT), [What::Failed]);
        assert_eq!(story.tell(gossip(1, true)), Some(What::Recovered));
    }

    #[test]
    fn a_member_that_left_stays_so_until_a_later_incarnation_is_heard() {
        let mut story = Story::of_a_member();
        story.tell(Evidence::LinkUp);
        assert_eq!(story.tell(said(1, true)), Some(What::Left));
        for evidence in [gossip(1, true), gossip(1, false), Evidence::LinkLost, Evidence::DialFailed, said(1, false)] {
            assert_eq!(story.tell(evidence), None, "{evidence:?}");
            assert_eq!(story.status(), Some(Status::Left), "{evidence:?}");
        }
        assert_eq!(story.tell(gossip(2, true)), None, "anybody can say that");
        assert_eq!(story.tell(said(2, false)), None);
        assert_eq!(story.tell(gossip(2, true)), Some(What::Joined));
    }

    #[test]
    fn only_a_node_that_has_spoken_itself_can_say_that_it_was_started_anew() {
        let mut story = Story::of_a_member();
        assert_eq!(story.tell(gossip(2, true)), Some(What::Changed), "nothing better is known yet");
        story.tell(said(2, false));
        assert_eq!(story.tell(gossip(9, true)), Some(What::Changed), "that is no life sign of incarnation 2");
        assert_eq!(story.tell(said(2, true)), Some(What::Left), "which still has the say");
        story.tell(Evidence::LinkUp);
        assert_eq!(story.tell(said(3, false)), Some(What::Joined));
    }

    #[test]
    fn an_old_incarnations_word_does_not_touch_a_restarted_node() {
        let mut story = Story::of_a_member();
        assert_eq!(story.tell(gossip(2, true)), Some(What::Changed));
        assert_eq!(story.tell(gossip(1, false)), None);
        story.tell(said(2, false));
        story.tell(gossip(2, true));
        assert_eq!(story.tell(said(1, true)), None);
        assert_eq!(story.tell(gossip(1, false)), None);
        assert_eq!(story.status(), Some(Status::Alive));
    }

    #[test]
    fn a_nodes_first_word_outweighs_an_incarnation_that_was_invented() {
        let mut story = Story::new();
        assert_eq!(story.tell(gossip(u64::MAX, true)), Some(What::Joined));
        story.tell(said(1, false));
        assert_eq!(story.tell(said(1, true)), Some(What::Left));
    }

    #[test]
    fn a_rumoured_death_of_a_later_incarnation_is_ignored() {
        let mut story = Story::of_a_member();
        assert_eq!(story.tell(gossip(9, false)), None);
        assert_eq!(story.tell(said(1, true)), Some(What::Left), "incarnation 1 still has the say");
    }

    #[test]
    fn a_node_that_was_never_alive_here_is_no_member() {
        let mut story = Story::new();
        for evidence in [gossip(1, false), Evidence::LinkLost, Evidence::DialFailed, said(1, false), said(1, true)] {
            assert_eq!(story.tell(evidence), None, "{evidence:?}");
            assert_eq!(story.status(), None, "{evidence:?}");
        }
        assert_eq!(story.tell(gossip(1, true)), None, "it had left before it was seen");
        assert_eq!(story.tell(said(2, false)), None);
        assert_eq!(story.tell(gossip(2, true)), Some(What::Joined));
    }

    #[test]
    fn a_member_long_gone_is_forgotten_once() {
        let mut story = Story::of_a_member();
        story.tell(said(1, true));
        assert_eq!(story.wait(FORGET_AFTER), [], "gossip still hears it");
        story.tell(gossip(1, false));
        assert_eq!(story.wait(Duration::ZERO), [What::Forgotten]);
        assert_eq!(story.status(), None);
        assert_eq!(story.wait(FORGET_AFTER), []);
    }

    #[test]
    fn a_member_that_gossip_no_longer_lists_counts_as_silent() {
        let mut story = Story::of_a_member();
        let changes = story.liveness.observe_members(&MemberSet::default(), NodeId([0; 8]), story.now);
        assert_eq!(changes, [Change { node: NODE, what: What::Changed }]);
        assert_eq!(story.status(), Some(Status::Suspect));
        assert_eq!(story.liveness.doubt_ends(), Some(story.now + DOUBT));
        assert_eq!(story.wait(DOUBT), [What::Failed]);
        assert_eq!(story.liveness.doubt_ends(), None);
    }

    fn evidence() -> impl Strategy<Value = Evidence> {
        prop_oneof![
            (0..4u64, any::<bool>()).prop_map(|(incarnation, live)| gossip(incarnation, live)),
            (0..4u64, any::<bool>()).prop_map(|(incarnation, left)| said(incarnation, left)),
            Just(Evidence::LinkUp),
            Just(Evidence::LinkLost),
            Just(Evidence::LinkClosed),
            Just(Evidence::DialFailed),
        ]
    }

    fn check_told(before: Option<Status>, told: Option<What>, after: Option<Status>) -> Result<(), TestCaseError> {
        use Status::{Alive, Failed, Left};
        let expected = match (before, after) {
            (before, after) if before == after => {
                prop_assert!(matches!(told, None | Some(What::Changed)), "{before:?} {told:?}");
                return Ok(());
            }
            (None, _) => Some(What::Joined),
            (Some(Left), Some(Alive)) => Some(What::Joined),
            // Back, but not yet seen alive: no member until it is.
            (Some(Left), None) => None,
            (Some(Failed), Some(Alive)) => Some(What::Recovered),
            (_, Some(Left)) => Some(What::Left),
            (_, Some(Failed)) => Some(What::Failed),
            (_, Some(_)) => Some(What::Changed),
            (_, None) => Some(What::Forgotten),
        };
        prop_assert_eq!(told, expected, "{:?} to {:?}", before, after);
        Ok(())
    }

    proptest! {
        /// Whoever only listens to the events misses no change and hears of none that was not.
        #[test]
        fn events_tell_every_change(steps in prop::collection::vec((evidence(), 0..1_000u64), 1..100)) {
            let mut story = Story::new();
            for (evidence, wait_ms) in steps {
                let before = story.status();
                let told = story.tell(evidence);
                let between = story.status();
                check_told(before, told, between)?;
                let told = story.wait(Duration::from_millis(wait_ms));
                prop_assert!(told.len() <= 1);
                check_told(between, told.first().copied(), story.status())?;
            }
        }

        /// However the story went, a link brings back everyone who has not left, and a later life even those.
        #[test]
        fn nobody_is_lost_for_ever(steps in prop::collection::vec((evidence(), 0..1_000u64), 0..50)) {
            let mut story = Story::new();
            for (evidence, wait_ms) in steps {
                story.tell(evidence);
                story.wait(Duration::from_millis(wait_ms));
            }
            story.tell(said(10, false));
            story.tell(Evidence::LinkUp);
            prop_assert_eq!(story.status(), Some(Status::Alive));
        }
    }
}
