//! What the values of an expression look like: a row of bytes, of which some may be missing and some may come again.
//! All that the expression matches whole looks like that; not all that looks like that is matched. So an outline rules
//! values out, and many are compared with one value at once.

use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir, HirKind, Look, Repetition};

/// Most steps of one outline. What is longer is told roughly in its middle.
pub(crate) const MOST_STEPS: usize = 20;
/// Most steps of an outline that says all that an expression does; with what comes before it fits a word of bits.
const MOST_EXACT_STEPS: usize = 60;
/// Most outlines that together say what one expression does.
const MOST_EXACT: usize = 8;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Outline {
    /// Any number of these come first.
    pub(crate) before: Bytes,
    pub(crate) steps: Vec<Step>,
}

/// One byte, and what may follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    /// The byte is one of these.
    pub(crate) bytes: Bytes,
    /// It may be missing.
    pub(crate) is_optional: bool,
    /// Any number of these follow, even if the byte is missing.
    pub(crate) then: Bytes,
}

/// Some of the 256 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Bytes([u64; 4]);

impl Bytes {
    /// Those of which UTF-8 makes what is not ASCII.
    const WIDE: Self = Self([0, 0, u64::MAX, u64::MAX]);

    /// Those that a character which is not ASCII begins with, and those that go on with it.
    const LEADS: Self = Self([0, 0, 0, u64::MAX]);
    const CONTINUED: Self = Self([0, 0, u64::MAX, 0]);

    pub(crate) fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] & (1 << (byte % 64)) != 0
    }

    /// How many they are.
    pub(crate) fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
    }

    fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] | other.0[at]))
    }

    fn includes(self, other: Self) -> bool {
        self.and(other) == self
    }

    /// An expression for one of these.
    fn parsed(self) -> Hir {
        let bytes = (0..=u8::MAX).filter(|byte| self.has(*byte));
        Hir::class(Class::Bytes(ClassBytes::new(bytes.map(|byte| ClassBytesRange::new(byte, byte)))))
    }

    fn of(class: &Class) -> Self {
        let mut bytes = Self::default();
        match class {
            Class::Bytes(class) => class.ranges().iter().for_each(|range| {
                (range.start()..=range.end()).for_each(|byte| bytes.add(byte));
            }),
            Class::Unicode(class) => class.ranges().iter().for_each(|range| {
                let ascii = u32::from(range.start())..=u32::from(range.end()).min(0x7f);
                ascii.filter_map(|byte| u8::try_from(byte).ok()).for_each(|byte| bytes.add(byte));
                if !range.end().is_ascii() {
                    bytes = bytes.and(Self::WIDE);
                }
            }),
        }
        bytes
    }
}

/// Outlines of which a value, if it is UTF-8, has one if and only if the expression matches the whole of it; `None` where
/// a few do not say all of that. What is not UTF-8 no expression matches.
pub(super) fn exact(hir: &Hir) -> Option<Vec<Outline>> {
    // Of the whole, these are always so at its ends.
    let parts = match hir.kind() {
        HirKind::Concat(parts) => parts.as_slice(),
        _ => std::slice::from_ref(hir),
    };
    let is = |part: &Hir, look| matches!(part.kind(), HirKind::Look(is) if *is == look);
    let parts = parts.split_first().filter(|(first, _)| is(first, Look::Start)).map_or(parts, |(_, rest)| rest);
    let parts = parts.split_last().filter(|(last, _)| is(last, Look::End)).map_or(parts, |(_, rest)| rest);
    forms_of_all(parts)
}

fn forms_of_all(parts: &[Hir]) -> Option<Vec<Outline>> {
    parts.iter().try_fold(vec![Outline::default()], |all, part| product(&all, &forms(part)?))
}

fn forms(part: &Hir) -> Option<Vec<Outline>> {
    match part.kind() {
        HirKind::Empty => Some(vec![Outline::default()]),
        HirKind::Look(_) => None,
        HirKind::Literal(literal) if literal.0.len() > MOST_EXACT_STEPS => None,
        HirKind::Literal(literal) => Some(vec![Outline::of_literal(&literal.0)]),
        HirKind::Class(class) => Some(vec![Outline { before: Bytes::default(), steps: vec![character(class)?] }]),
        HirKind::Capture(capture) => forms(&capture.sub),
        HirKind::Concat(parts) => forms_of_all(parts),
        HirKind::Alternation(parts) => parts.iter().try_fold(Vec::new(), |all, part| union(all, forms(part)?)),
        HirKind::Repetition(repeated) => {
            let (least, most) = (repeated.min as usize, repeated.max.map(|most| most as usize));
            if least.max(most.unwrap_or_default()) > MOST_EXACT_STEPS {
                return None;
            }
            let one = forms(&repeated.sub)?;
            let times = |count: usize, all: Vec<Outline>, one: &[Outline]| {
                (0..count).try_fold(all, |all, _| product(&all, one))
            };
            let all = times(least, vec![Outline::default()], &one)?;
            let single =
                || Some(one.as_slice()).filter(|one| one.len() == 1)?.first().filter(|one| one.is_of_any_length());
            match most {
                // Any number of what is any number of some bytes.
                None => product(&all, &[Outline { before: single()?.all(), steps: Vec::new() }]),
                Some(most) if most == least => Some(all),
                Some(most) => match single() {
                    Some(one) => times(most - least, all, &[one.clone().optional()]),
                    None => {
                        let counts = (0..=most - least).map(|count| times(count, vec![Outline::default()], &one));
                        let tails = counts.into_iter().try_fold(Vec::new(), |tails, forms| union(tails, forms?))?;
                        product(&all, &tails)
                    }
                },
            }
        }
    }
}

/// A character of a class that has none but ASCII, or all else.
fn character(class: &Class) -> Option<Step> {
    let (mut bytes, mut then) = (Bytes::default(), Bytes::default());
    let Class::Unicode(class) = class else { return None };
    for range in class.ranges() {
        let ascii = u32::from(range.start())..=u32::from(range.end()).min(0x7f);
        ascii.filter_map(|byte| u8::try_from(byte).ok()).for_each(|byte| bytes.add(byte));
        if !range.end().is_ascii() {
            if range.start() > '\u{80}' || range.end() != char::MAX {
                return None;
            }
            (bytes, then) = (bytes.and(Bytes::LEADS), Bytes::CONTINUED);
        }
    }
    Some(Step { bytes, is_optional: false, then })
}

/// Each followed by each; `None` if that is too much.
fn product(all: &[Outline], next: &[Outline]) -> Option<Vec<Outline>> {
    if all.len() * next.len() > MOST_EXACT {
        return None;
    }
    let both = all.iter().flat_map(|one| next.iter().map(|next| one.clone().joined(next))).collect::<Vec<_>>();
    both.iter().all(|both| both.steps.len() <= MOST_EXACT_STEPS).then_some(both)
}

fn union(mut all: Vec<Outline>, more: Vec<Outline>) -> Option<Vec<Outline>> {
    all.extend(more);
    (all.len() <= MOST_EXACT).then_some(all)
}

impl Outline {
    /// Whether as often as one likes is the same as any number of its bytes, and once or not at all as its steps left out.
    fn is_of_any_length(&self) -> bool {
        match self.steps.as_slice() {
            [] => true,
            [step] => self.before.is_empty() && (step.then == Bytes::CONTINUED || step.bytes.includes(step.then)),
            _ => false,
        }
    }

    fn of_literal(literal: &[u8]) -> Self {
        let step = |byte: &u8| {
            let mut bytes = Bytes::default();
            bytes.add(*byte);
            Step { bytes, is_optional: false, then: Bytes::default() }
        };
        Self { before: Bytes::default(), steps: literal.iter().map(step).collect() }
    }

    pub(super) fn of(part: &Hir) -> Self {
        match part.kind() {
            // What is looked at beside the bytes is left to the expression.
            HirKind::Empty | HirKind::Look(_) => Self::default(),
            HirKind::Literal(literal) => {
                let mut outline = Self::of_literal(&literal.0);
                outline.shorten();
                outline
            }
            HirKind::Class(class) => {
                let bytes = Bytes::of(class);
                // One character may be several bytes.
                let is_wide = bytes.includes(Bytes::WIDE);
                let then = if is_wide { Bytes::WIDE } else { Bytes::default() };
                Self { before: Bytes::default(), steps: vec![Step { bytes, is_optional: false, then }] }
            }
            HirKind::Capture(capture) => Self::of(&capture.sub),
            HirKind::Concat(parts) => parts.iter().fold(Self::default(), |all, part| all.followed_by(&Self::of(part))),
            HirKind::Alternation(parts) => {
                let mut outlines = parts.iter().map(Self::of);
                let first = outlines.next().unwrap_or_default();
                outlines.fold(first, Self::or)
            }
            HirKind::Repetition(repeated) => {
                let one = Self::of(&repeated.sub);
                let least = repeated.min as usize;
                let times = |count: usize, all: Self, one: &Self| (0..count).fold(all, |all, _| all.followed_by(one));
                let all = times(least.min(MOST_STEPS), Self::default(), &one);
                match repeated.max.map(|most| most as usize) {
                    Some(most) if most <= MOST_STEPS => times(most - least, all, &one.optional()),
                    _ => all.followed_by(&Self { before: one.all(), steps: Vec::new() }),
                }
            }
        }
    }

    /// An expression that matches whole what has this outline.
    pub(crate) fn parsed(&self) -> Hir {
        let times = |bytes: Bytes, max| {
            let sub = Box::new(bytes.parsed());
            Hir::repetition(Repetition { min: 0, max, greedy: true, sub })
        };
        let steps = self.steps.iter().flat_map(|step| {
            let one = if step.is_optional { times(step.bytes, Some(1)) } else { step.bytes.parsed() };
            [one, times(step.then, None)]
        });
        Hir::concat([times(self.before, None)].into_iter().chain(steps).collect())
    }

    fn followed_by(self, next: &Self) -> Self {
        let mut both = self.joined(next);
        both.shorten();
        both
    }

    /// As many steps as both have.
    fn joined(mut self, next: &Self) -> Self {
        let last = self.steps.last_mut().map_or(&mut self.before, |step| &mut step.then);
        if next.before.includes(*last) {
            *last = next.before;
        } else if !last.includes(next.before) {
            // Any number of those, then any number of these.
            self.steps.push(Step { bytes: next.before, is_optional: true, then: next.before });
        }
        self.steps.extend(&next.steps);
        self
    }

    /// What looks like this one or like the other.
    fn or(mut self, other: Self) -> Self {
        self.before = self.before.and(other.before);
        let most = self.steps.len().max(other.steps.len());
        let at = |steps: &[Step], at: usize| match steps.get(at) {
            Some(step) => *step,
            None => Step { bytes: Bytes::default(), is_optional: true, then: Bytes::default() },
        };
        let both = |place| {
            let (one, other) = (at(&self.steps, place), at(&other.steps, place));
            Step {
                bytes: one.bytes.and(other.bytes),
                is_optional: one.is_optional || other.is_optional,
                then: one.then.and(other.then),
            }
        };
        self.steps = (0..most).map(both).collect();
        self
    }

    fn optional(mut self) -> Self {
        self.steps.iter_mut().for_each(|step| step.is_optional = true);
        self
    }

    /// All bytes that it speaks of.
    fn all(&self) -> Bytes {
        self.steps.iter().fold(self.before, |all, step| all.and(step.bytes).and(step.then))
    }

    /// From its end to its start: what the reversed value looks like.
    pub(crate) fn reversed(&self) -> Self {
        let follow: Vec<Bytes> = std::iter::once(self.before).chain(self.steps.iter().map(|step| step.then)).collect();
        let steps = self.steps.iter().zip(follow.iter()).rev().map(|(step, then)| Step { then: *then, ..*step });
        Self { before: follow.last().copied().unwrap_or_default(), steps: steps.collect() }
    }

    /// Makes one step of those in the middle that are too many.
    fn shorten(&mut self) {
        const ENDS: usize = MOST_STEPS / 2;
        if self.steps.len() > MOST_STEPS {
            let middle: Vec<Step> = self.steps.drain(ENDS..self.steps.len() - ENDS + 1).collect();
            let is_optional = middle.iter().all(|step| step.is_optional);
            let bytes = Self { before: Bytes::default(), steps: middle }.all();
            self.steps.insert(ENDS, Step { bytes, is_optional, then: bytes });
        }
    }
}
