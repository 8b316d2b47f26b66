//! Many expressions compared with a value in one pass that takes about a nanosecond for each of its bytes, however many
//! they are: a deterministic automaton, whose states are made when a value first leads to them.
//!
//! Making a state takes as long as the expressions are large, and a caller may send values that need new ones each time.
//! So one value makes a few at most, and all of them together no more than the work that is saved pays for; a value that
//! needs more is not answered here, and the caller has to ask in another way. So the worst case is that other way, and
//! little more.

use std::sync::Mutex;

use regex_automata::{
    Anchored, MatchKind,
    hybrid::{
        LazyStateID,
        dfa::{Cache, Config, DFA},
    },
    nfa::thompson::{Compiler, Config as NfaConfig, WhichCaptures},
    util::start,
};
use regex_syntax::hir::{Hir, Look};

/// Most memory that the expressions of one automaton may take, in bytes; more have none.
const MOST_NFA_BYTES: usize = 4 * 1024 * 1024;
/// Memory for states beyond the least that a search needs, in bytes; when it is full all are forgotten.
const STATE_BYTES: usize = 1024 * 1024;
/// So many threads can ask at once; others are told to ask in another way.
const SLOTS: usize = 8;
/// Most states that one value makes.
const MOST_NEW: u64 = 4;
/// So many states may be made before any work was saved.
const ADVANCE: u64 = 64;
/// Of work that was not saved this part is paid back, so that values which need few states are known again some time
/// after others have used up what there was.
const PAID_BACK: u64 = 8;

#[derive(Debug)]
pub(crate) struct Automaton {
    dfa: DFA,
    /// What making a state costs, with its transition at the end of a value, in steps (see [`Automaton::visit`]).
    price: u64,
    /// Nobody waits for one that another thread has.
    slots: [Mutex<Option<Learnt>>; SLOTS],
}

#[derive(Debug)]
struct Learnt {
    cache: Cache,
    /// Steps for which states may be made.
    credit: u64,
}

impl Automaton {
    /// Of expressions that are to match the whole of a value; `None` if they are too large, or look at what no automaton
    /// can.
    pub(crate) fn new(expressions: impl Iterator<Item = Hir>) -> Option<Self> {
        let whole: Vec<Hir> = expressions.map(|one| Hir::concat(vec![one, Hir::look(Look::End)])).collect();
        let compiled = NfaConfig::new().utf8(false).which_captures(WhichCaptures::None);
        let compiled = compiled.nfa_size_limit(Some(MOST_NFA_BYTES));
        let nfa = Compiler::new().configure(compiled).build_many_from_hir(&whole).ok()?;
        let config = Config::new().match_kind(MatchKind::All);
        let cache_bytes = config.get_minimum_cache_capacity(&nfa).ok()? + STATE_BYTES;
        // Measured: 1 to 2 ns for each of the expressions' own states; a step is 3 to 12 ns.
        let price = nfa.states().len() as u64;
        let dfa = DFA::builder().configure(config.cache_capacity(cache_bytes)).build_from_nfa(nfa).ok()?;
        Some(Self { dfa, price, slots: Default::default() })
    }

    /// Calls `found` with the numbers of all expressions that match the whole value, and is true; or calls nothing and
    /// is false. `steps` says how much work is saved: one is a byte compared with a
    /// [block](crate::matcher) of outlines, or the like.
    pub(crate) fn visit(&self, value: &[u8], steps: usize, found: &mut impl FnMut(usize)) -> bool {
        let Some(mut slot) = self.slots.iter().find_map(|slot| slot.try_lock().ok()) else { return false };
        let most = ADVANCE * self.price;
        let learnt = slot.get_or_insert_with(|| Learnt { cache: self.dfa.create_cache(), credit: most });
        let end = self.end(value, learnt);
        let saved = if end.is_some() { steps as u64 } else { steps as u64 / PAID_BACK };
        learnt.credit = (learnt.credit + saved).min(most);
        let Some(end) = end else { return false };
        if end.is_match() {
            for at in 0..self.dfa.match_len(&learnt.cache, end) {
                found(self.dfa.match_pattern(&learnt.cache, end, at).as_usize());
            }
        }
        true
    }

    /// The state after the whole value, if not too many have to be made for it.
    fn end(&self, value: &[u8], learnt: &mut Learnt) -> Option<LazyStateID> {
        let Learnt { cache, credit } = learnt;
        let mut new = 0;
        let mut at = self.dfa.start_state(cache, &start::Config::new().anchored(Anchored::Yes)).ok()?;
        for byte in value {
            let mut next = self.dfa.next_state_untagged(cache, at, *byte);
            if next.is_tagged() {
                if next.is_unknown() {
                    new += 1;
                    *credit = credit.checked_sub(self.price).filter(|_| new <= MOST_NEW)?;
                    next = self.dfa.next_state(cache, at, *byte).ok()?;
                }
                if next.is_dead() {
                    return Some(next);
                }
                // Matches are found at the end alone.
                if next.is_tagged() {
                    return None;
                }
            }
            at = next;
        }
        self.dfa.next_eoi_state(cache, at).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;

    fn automaton(expressions: &[&str]) -> Option<Automaton> {
        Automaton::new(expressions.iter().map(|source| Pattern::new(source).unwrap().parsed().unwrap()))
    }

    /// What it says of a value, if anything.
    fn answer(automaton: &Automaton, value: &str, steps: usize) -> Option<Vec<usize>> {
        let mut found = Vec::new();
        automaton.visit(value.as_bytes(), steps, &mut |number| found.push(number)).then_some(found)
    }

    /// A value of letters that nobody sent before.
    fn new_value(number: u64) -> String {
        (0..40).map(|bit| if number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> bit & 1 == 0 { 'a' } else { 'b' }).collect()
    }

    /// Each value leads to states of its own.
    const MANY_STATES: &str = ".*a[ab]{30}";

    #[test]
    fn all_that_match_the_whole_value_are_found() {
        let automaton = automaton(&["a.*", ".*b", "[ab]+", "a", r"a\b.+"]).unwrap();
        for (value, expected) in [("ab", &[0, 1, 2][..]), ("a", &[0, 2, 3]), ("", &[]), ("a-b", &[0, 1, 4]), ("c", &[])]
        {
            let answers = std::iter::repeat_with(|| answer(&automaton, value, 100));
            assert_eq!(answers.take(10).flatten().next().as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_needs_many_states_is_answered_when_they_were_made() {
        let automaton = automaton(&["abcdefgh.*"]).unwrap();
        assert_eq!(answer(&automaton, "abcdefghi", 0), None);
        assert_eq!(answer(&automaton, "abcdefghi", 0), None);
        assert_eq!(answer(&automaton, "abcdefghi", 0), Some(vec![0]));
        assert_eq!(answer(&automaton, "abx", 0), Some(vec![]));
    }

    #[test]
    fn values_that_nobody_sent_before_make_no_more_states_than_saved_work_pays_for() {
        let automaton = automaton(&[MANY_STATES]).unwrap();
        let states = |automaton: &Automaton| {
            let slot = automaton.slots[0].lock().unwrap();
            let learnt = slot.as_ref().unwrap();
            (learnt.cache.memory_usage(), learnt.credit)
        };
        (0..1000).for_each(|number| assert_eq!(answer(&automaton, &new_value(number), 0), None));
        let (memory, credit) = states(&automaton);
        assert!(credit < automaton.price, "{credit}");
        (0..1000).for_each(|number| assert_eq!(answer(&automaton, &new_value(number), 0), None));
        assert_eq!(states(&automaton).0, memory);
        // Work that is not saved pays a part.
        assert_eq!(answer(&automaton, &new_value(0), automaton.price as usize * PAID_BACK as usize), None);
        assert_eq!(answer(&automaton, &new_value(0), 0), None);
        assert!(states(&automaton).0 > memory);
    }

    #[test]
    fn memory_is_bounded() {
        let automaton = automaton(&[MANY_STATES]).unwrap();
        for number in 0..20_000 {
            answer(&automaton, &new_value(number), 1 << 20);
        }
        let slot = automaton.slots[0].lock().unwrap();
        let cache = &slot.as_ref().unwrap().cache;
        assert!(cache.clear_count() > 0 && cache.memory_usage() <= 2 * STATE_BYTES, "{}", cache.memory_usage());
    }

    #[test]
    fn expressions_that_are_too_large_have_none() {
        let large: Vec<String> = (0..400).map(|number| format!(r"\pL{{2}}{number}")).collect();
        assert!(automaton(&large.iter().map(String::as_str).collect::<Vec<_>>()).is_none());
    }

    #[test]
    fn nobody_waits_for_another_thread() {
        let automaton = automaton(&["a"]).unwrap();
        let held: Vec<_> = automaton.slots.iter().map(|slot| slot.lock().unwrap()).collect();
        assert_eq!(answer(&automaton, "a", 100), None);
        drop(held);
        assert_eq!(answer(&automaton, "a", 100), Some(vec![0]));
    }
}
