//! What the values of an expression look like: a row of bytes, of which some may be missing and some may come again.
//! All that the expression matches whole looks like that; not all that looks like that is matched. So an outline rules
//! values out, and many are compared with one value at once.

use regex_syntax::hir::{Class, Hir, HirKind};

/// Most steps of one outline. What is longer is told roughly in its middle.
pub(crate) const MOST_STEPS: usize = 20;

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

    pub(crate) fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] & (1 << (byte % 64)) != 0
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

impl Outline {
    pub(super) fn of(part: &Hir) -> Self {
        match part.kind() {
            // What is looked at beside the bytes is left to the expression.
            HirKind::Empty | HirKind::Look(_) => Self::default(),
            HirKind::Literal(literal) => Self::of_steps(literal.0.iter().map(|byte| {
                let mut bytes = Bytes::default();
                bytes.add(*byte);
                Step { bytes, is_optional: false, then: Bytes::default() }
            })),
            HirKind::Class(class) => {
                let bytes = Bytes::of(class);
                // One character may be several bytes.
                let is_wide = bytes.includes(Bytes::WIDE);
                let then = if is_wide { Bytes::WIDE } else { Bytes::default() };
                Self::of_steps([Step { bytes, is_optional: false, then }].into_iter())
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

    fn of_steps(steps: impl Iterator<Item = Step>) -> Self {
        let mut outline = Self { before: Bytes::default(), steps: steps.collect() };
        outline.shorten();
        outline
    }

    fn followed_by(mut self, next: &Self) -> Self {
        let last = self.steps.last_mut().map_or(&mut self.before, |step| &mut step.then);
        if next.before.includes(*last) {
            *last = next.before;
        } else if !last.includes(next.before) {
            // Any number of those, then any number of these.
            self.steps.push(Step { bytes: next.before, is_optional: true, then: next.before });
        }
        self.steps.extend(&next.steps);
        self.shorten();
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
