//! Places by outlines of expressions, many of which are compared with a value in one pass: by an [`Automaton`] where that
//! knows the value's states, and else by a bit for each of their steps, set while what was read may end there ("Shift-And"
//! with classes, optional and repeated bytes; Navarro and Raffinot, Flexible Pattern Matching in Strings, section 4.2).
//! What this costs depends on the value's length and on the number of steps alone: there are no states that a value which
//! nobody sent before would have to make.

use std::{array, borrow::Cow, iter};

use super::Places;
use crate::pattern::{
    automaton::Automaton,
    outline::{Bytes, Outline},
};

/// Words that are moved on together: a line of the processor's cache.
const WORDS: usize = 8;

type Bits = [u64; WORDS];

/// Below so many bytes times blocks the bits are as fast as the automaton.
const FEW: usize = 64;

#[derive(Debug)]
pub(in crate::matcher) struct Outlines {
    blocks: Box<[Block]>,
    automaton: Option<Automaton>,
    /// Of each outline, by its number.
    places: Box<[Places]>,
}

/// As many outlines as have room in some words. An outline's bits are in one word: one for what comes before its first
/// step, and one for each step.
#[derive(Debug)]
struct Block {
    /// Values are read from their end.
    is_backward: bool,
    /// For each byte its place in `moves`: many bytes are alike.
    alike: [u8; 256],
    moves: Box<[Moves]>,
    starts: Bits,
    gaps: Option<Box<Gaps>>,
    ends: Bits,
    /// The number of the outline of the first end; the others follow.
    first: usize,
}

/// What bytes that are alike do.
#[derive(Clone, Debug, Default)]
struct Moves {
    /// Steps to which they lead from the step before.
    enter: Bits,
    /// Steps that they do not leave.
    stay: Bits,
}

/// Runs of steps that may be missing.
#[derive(Clone, Debug, Default)]
struct Gaps {
    /// The step before each run.
    before: Bits,
    /// The last of each run.
    last: Bits,
    /// All of them.
    all: Bits,
}

impl Outlines {
    /// Of some with the places of each; `None` of none.
    pub(in crate::matcher) fn new(outlines: Vec<(&Outline, Vec<u32>)>) -> Option<Self> {
        let mut directed: Vec<_> =
            outlines.into_iter().map(|(outline, places)| (reads_backward(outline), outline, places)).collect();
        // Alike ones together, then all bits of a block may be lost early; and in the order in which they are asked.
        directed.sort_by_cached_key(|(is_backward, outline, places)| {
            let read = read(outline, *is_backward);
            let has_gaps = read.steps.iter().any(|step| step.is_optional);
            (*is_backward, has_gaps, !read.before.is_empty(), places.first().copied())
        });
        let automaton = Automaton::new(directed.iter().map(|(_, outline, _)| outline.parsed()));
        let mut blocks = Vec::new();
        for alike in directed.chunk_by(|(one, ..), (other, ..)| one == other) {
            let is_backward = alike.first().is_some_and(|(is_backward, ..)| *is_backward);
            let mut outlines = alike.iter().map(|(_, outline, _)| read(outline, is_backward)).peekable();
            while outlines.peek().is_some() {
                let first = blocks.last().map_or(0, Block::next);
                blocks.push(Block::new(is_backward, first, &mut outlines));
            }
        }
        let places = directed.into_iter().map(|(.., places)| places.into()).collect();
        (!blocks.is_empty()).then(|| Self { blocks: blocks.into(), automaton, places })
    }

    /// Calls `found` with the places of all outlines that the value has and for whose number `is_new` is true.
    pub(in crate::matcher) fn visit(
        &self,
        value: &[u8],
        mut is_new: impl FnMut(usize) -> bool,
        found: &mut impl FnMut(&[u32]),
    ) {
        let mut found = |number: usize| {
            if is_new(number)
                && let Some(places) = self.places.get(number)
            {
                found(places);
            }
        };
        let steps = value.len() * self.blocks.len();
        if steps >= FEW
            && let Some(automaton) = &self.automaton
            && automaton.visit(value, steps, &mut found)
        {
            return;
        }
        self.by_bits(value, &mut found);
    }

    /// Calls `found` with the numbers of all outlines that the value has.
    fn by_bits(&self, value: &[u8], found: &mut impl FnMut(usize)) {
        for block in &self.blocks {
            let mut before = block.first;
            for (reached, ends) in iter::zip(block.run(value), block.ends) {
                let mut reached = reached & ends;
                while reached != 0 {
                    let end = reached & reached.wrapping_neg();
                    reached ^= end;
                    found(before + (ends & (end - 1)).count_ones() as usize);
                }
                before += ends.count_ones() as usize;
            }
        }
    }
}

/// An outline in the direction in which it is read.
fn read(outline: &Outline, is_backward: bool) -> Cow<'_, Outline> {
    if is_backward { Cow::Owned(outline.reversed()) } else { Cow::Borrowed(outline) }
}

/// Whether a value that is not alike is sooner told from its end: where more steps come before what many bytes go on
/// with.
fn reads_backward(outline: &Outline) -> bool {
    const MANY: u32 = 64;
    let then = outline.steps.iter().map(|step| step.then);
    let mut wide = iter::once(outline.before).chain(then).enumerate().filter(|(_, bytes)| bytes.len() >= MANY);
    let first = wide.next();
    let last = wide.last().or(first);
    matches!((first, last), (Some((first, _)), Some((last, _))) if outline.steps.len() - last > first)
}

/// Where an outline's bits are.
struct Room<'o> {
    outline: Cow<'o, Outline>,
    word: usize,
    /// The bit for what comes before the first step.
    first: u32,
}

impl Block {
    /// Of as many as have room.
    fn new<'o>(
        is_backward: bool,
        first: usize,
        outlines: &mut iter::Peekable<impl Iterator<Item = Cow<'o, Outline>>>,
    ) -> Self {
        let mut rooms = Vec::new();
        let (mut word, mut used) = (0, 0);
        while let Some(outline) = outlines.peek() {
            let bits = outline.steps.len() as u32 + 1;
            if used + bits > u64::BITS {
                (word, used) = (word + 1, 0);
            }
            if word == WORDS {
                break;
            }
            if let Some(outline) = outlines.next() {
                rooms.push(Room { outline, word, first: used });
            }
            used += bits;
        }
        let (alike, examples) = alike(&rooms);
        let moves = examples.into_iter().map(|byte| Moves::of(byte, &rooms));
        let mut block = Self {
            is_backward,
            alike,
            moves: moves.collect(),
            starts: Bits::default(),
            gaps: Gaps::of(&rooms),
            ends: Bits::default(),
            first,
        };
        for room in &rooms {
            block.starts[room.word] |= 1 << room.first;
            block.ends[room.word] |= 1 << (room.first + room.outline.steps.len() as u32);
        }
        if let Some(gaps) = &block.gaps {
            gaps.close(&mut block.starts);
        }
        block
    }

    /// The number after that of its last outline.
    fn next(&self) -> usize {
        self.first + self.ends.iter().map(|ends| ends.count_ones() as usize).sum::<usize>()
    }

    /// The bits after the whole value.
    fn run(&self, value: &[u8]) -> Bits {
        match self.is_backward {
            false => self.after(value.chunks(8).map(|some| some.iter())),
            true => self.after(value.rchunks(8).map(|some| some.iter().rev())),
        }
    }

    fn after<'v>(&self, value: impl Iterator<Item = impl Iterator<Item = &'v u8>>) -> Bits {
        let mut at = self.starts;
        for some in value {
            for byte in some {
                let alike = self.alike[usize::from(*byte)];
                let Some(moves) = self.moves.get(usize::from(alike)) else { return Bits::default() };
                at = array::from_fn(|word| ((at[word] << 1) & moves.enter[word]) | (at[word] & moves.stay[word]));
                if let Some(gaps) = &self.gaps {
                    gaps.close(&mut at);
                }
            }
            if at == Bits::default() {
                break;
            }
        }
        at
    }
}

impl Moves {
    fn of(byte: u8, rooms: &[Room<'_>]) -> Self {
        let mut moves = Self::default();
        for Room { outline, word, first } in rooms {
            moves.stay[*word] |= u64::from(outline.before.has(byte)) << first;
            for (bit, step) in iter::zip(first + 1.., &outline.steps) {
                moves.enter[*word] |= u64::from(step.bytes.has(byte)) << bit;
                moves.stay[*word] |= u64::from(step.then.has(byte)) << bit;
            }
        }
        moves
    }
}

impl Gaps {
    fn of(rooms: &[Room<'_>]) -> Option<Box<Self>> {
        let mut gaps = Self::default();
        for Room { outline, word, first } in rooms {
            let mut bit = *first;
            for run in outline.steps.chunk_by(|a, b| a.is_optional == b.is_optional) {
                let last = bit + run.len() as u32;
                if run.iter().all(|step| step.is_optional) {
                    gaps.before[*word] |= 1 << bit;
                    gaps.last[*word] |= 1 << last;
                    (bit + 1..=last).for_each(|bit| gaps.all[*word] |= 1 << bit);
                }
                bit = last;
            }
        }
        (gaps.all != Bits::default()).then(|| Box::new(gaps))
    }

    /// Adds those steps that can be reached by leaving out some.
    fn close(&self, at: &mut Bits) {
        for (word, at) in at.iter_mut().enumerate() {
            // In each run the subtraction changes the bits up to the lowest that is set, which the last bounds: all that
            // stay are above it.
            let bounded = *at | self.last[word];
            *at |= self.all[word] & !(bounded.wrapping_sub(self.before[word]) ^ bounded);
        }
    }
}

/// For each byte which of the examples does the same in all outlines.
fn alike(rooms: &[Room<'_>]) -> ([u8; 256], Vec<u8>) {
    let steps = |outline: &'_ Outline| -> Vec<Bytes> {
        outline.steps.iter().flat_map(|step| [step.bytes, step.then]).chain([outline.before]).collect()
    };
    let mut sets: Vec<Bytes> = rooms.iter().flat_map(|room| steps(&room.outline)).collect();
    sets.sort_unstable();
    sets.dedup();
    let mut kinds = [0; 256];
    for set in sets {
        let (mut known, mut count) = ([None; 512], 0);
        for (byte, kind) in (0..=u8::MAX).zip(&mut kinds) {
            let split = &mut known[2 * usize::from(*kind) + usize::from(set.has(byte))];
            *kind = *split.get_or_insert_with(|| {
                count += 1;
                (count - 1) as u8
            });
        }
    }
    let mut examples = Vec::new();
    for (byte, kind) in (0..=u8::MAX).zip(kinds) {
        if usize::from(kind) == examples.len() {
            examples.push(byte);
        }
    }
    (kinds, examples)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pattern::Pattern;

    fn expression() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(
            &[
                "a", "b", "/", "ab", ".", "[ab]", "[^b]", r"\d", "é", "[à-ü]", "(?i:k)", "^", "$", r"\b", "a*", "b+",
                "a?", ".*",
            ][..],
        );
        leaf.prop_map(str::to_owned).prop_recursive(4, 24, 4, |inner| {
            let some = prop::collection::vec(inner.clone(), 1..4);
            let times = prop::sample::select(&["*", "+", "?", "{2}", "{0,3}", "{2,}", "{1,30}", "{25}", "{30,}"][..]);
            prop_oneof![
                3 => some.clone().prop_map(|parts| parts.concat()),
                1 => some.prop_map(|parts| format!("({})", parts.join("|"))),
                2 => (inner, times).prop_map(|(one, times)| format!("({one}){times}")),
            ]
        })
    }

    fn places_of(outlines: &Outlines, value: &str) -> Vec<u32> {
        let mut places = Vec::new();
        outlines.visit(value.as_bytes(), |_| true, &mut |found| places.extend_from_slice(found));
        places.sort_unstable();
        places
    }

    /// Without the automaton.
    fn by_bits(outlines: &Outlines, value: &str) -> Vec<u32> {
        let mut places = Vec::new();
        outlines.by_bits(value.as_bytes(), &mut |number| places.extend_from_slice(&outlines.places[number]));
        places.sort_unstable();
        places
    }

    fn index(patterns: &[Pattern]) -> Outlines {
        let outlines = (0..).zip(patterns).filter_map(|(place, pattern)| Some((pattern.outline()?, vec![place])));
        Outlines::new(outlines.collect()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_an_expression_matches_looks_like_it(
            expressions in prop::collection::vec(expression(), 1..50),
            values in prop::collection::vec("[ab/ék1]{0,8}|[ab]{15,60}|a{24,31}", 1..20),
        ) {
            // Some compile too large.
            let patterns: Vec<_> = expressions.iter().filter_map(|source| Pattern::new(source).ok()).collect();
            prop_assume!(!patterns.is_empty());
            let outlines = index(&patterns);
            for value in &values {
                let exact = patterns.iter().filter_map(|pattern| Some((pattern, pattern.exact()?)));
                for (pattern, outlines) in exact {
                    let outlines: Vec<_> = outlines.iter().map(|outline| (outline, vec![0])).collect();
                    let is_found = Outlines::new(outlines).is_some_and(|outlines| !places_of(&outlines, value).is_empty());
                    prop_assert_eq!(is_found, pattern.is_whole(value.as_bytes()), "{} on {}", pattern.source(), value);
                }
                let found = places_of(&outlines, value);
                if let Some(automaton) = &outlines.automaton {
                    // It answers when it has made the states, some at a time.
                    let mut by_automaton = Vec::new();
                    let mut place = |number: usize| by_automaton.extend_from_slice(&outlines.places[number]);
                    let answers = (0..100).any(|_| automaton.visit(value.as_bytes(), 1 << 20, &mut place));
                    by_automaton.sort_unstable();
                    prop_assert!(answers, "{value}");
                    prop_assert_eq!(&by_automaton, &by_bits(&outlines, value), "{}", value);
                }
                prop_assert!(found.windows(2).all(|two| two[0] < two[1]), "each at most once: {found:?}");
                for (place, pattern) in (0..).zip(&patterns) {
                    let is_found = found.binary_search(&place).is_ok();
                    prop_assert!(is_found || !pattern.is_whole(value.as_bytes()), "{} on {value}", pattern.source());
                }
            }
        }
    }

    #[test]
    fn of_most_expressions_outlines_say_all() {
        for (expression, is_exact) in [
            ("^/api/(v1|v2)/[^/]+/items(/.*)?$", true),
            (".*[0-9]{10}[a-z]?[a-z]+", true),
            ("/a/very/long/path/with/more/than/forty/characters/.*", true),
            ("([a-z/]|17)+", false),
            ("(ab)*", false),
            (r"a\b.*", false),
            ("[à-ü]+", false),
        ] {
            assert_eq!(Pattern::new(expression).unwrap().exact().is_some(), is_exact, "{expression}");
        }
        assert!(!Pattern::new(".*").unwrap().is_whole(b"\xff"), "what is not UTF-8 no expression matches");
    }

    #[test]
    fn most_of_what_an_expression_does_not_match_does_not_look_like_it() {
        for (expression, value, expected) in [
            ("a", "a", true),
            ("a", "", false),
            ("a", "aa", false),
            (".*[0-9]{3}x?[a-z]+", "/a/123x", true),
            (".*[0-9]{3}x?[a-z]+", "/a/123", false),
            (".*[0-9]{3}x?[a-z]+", "/a/12/abc", false),
            ("[a-z]+[0-9]*", "abc", true),
            ("[a-z]+[0-9]*", "abc12", true),
            ("[a-z]+[0-9]*", "12", false),
            ("[a-z]+[0-9]*", "a1b", false),
            ("a?b?c?", "", true),
            ("a?b?c?", "ac", true),
            ("a?b?c?", "ca", false),
            ("a?b?", "abc", false),
            ("(a|bc)d", "bcd", true),
            ("(a|bc)d", "xd", false),
            ("([a-z/]|17)+", "/a/17/1", true),
            ("([a-z/]|17)+", "/a/2", false),
            (".", "é", true),
            ("[^/]*", "é", true),
            ("[a-z]", "é", false),
            ("[0-9]{40}[a-z]", "0123456789", false),
            ("(?i)ab", "Ab", true),
            ("(?i)ab", "Ac", false),
        ] {
            let outlines = index(&[Pattern::new(expression).unwrap()]);
            assert_eq!(!places_of(&outlines, value).is_empty(), expected, "{expression} on {value}");
        }
    }
}
