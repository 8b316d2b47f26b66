//! Places by texts that a value is, begins with or has in it, and by outlines that it has.

use std::collections::BTreeMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use foldhash::HashMap;

use super::{Form, Key, Places, Value, outlines::Outlines};
use crate::pattern::outline::Outline;

/// Places by what is asked of one value.
#[derive(Debug, Default)]
pub(super) struct ByText {
    texts: TextIndex,
    needles: Option<Needles>,
    outlines: Option<Outlines>,
    /// Those for any value.
    present: Places,
}

impl ByText {
    /// Calls `found` with the places that a value could be for.
    pub(super) fn visit(&self, value: &Value<'_>, found: &mut impl FnMut(&[u32])) {
        match value {
            Value::Missing => return,
            Value::One(value) => {
                self.texts.visit(value, found);
                self.visit_needles(value, &mut Seen::default(), found);
                self.visit_outlines(value, |_| true, found);
            }
            Value::Lines(lines) => {
                // What several lines are, begin with or have in them is one thing: conditions are about all lines.
                let [mut texts, mut needles, mut outlines] = [Seen::default(), Seen::default(), Seen::default()];
                for line in lines {
                    self.texts.visit_new(line.as_bytes(), &mut texts, found);
                    self.visit_needles(line.as_bytes(), &mut needles, found);
                    self.visit_outlines(line.as_bytes(), |number| outlines.is_new(number), found);
                }
            }
        }
        if !self.present.is_empty() {
            found(&self.present);
        }
    }

    fn visit_needles(&self, value: &[u8], seen: &mut Seen, found: &mut impl FnMut(&[u32])) {
        if let Some(needles) = &self.needles {
            needles.visit_new(value, seen, found);
        }
    }

    fn visit_outlines(&self, value: &[u8], is_new: impl FnMut(usize) -> bool, found: &mut impl FnMut(&[u32])) {
        if let Some(outlines) = &self.outlines {
            outlines.visit(value, is_new, found);
        }
    }
}

/// Places by the whole of a value, or by its start.
#[derive(Debug, Default)]
pub(super) struct TextIndex {
    /// Sorted by text, as it is compared.
    texts: Box<[Text]>,
    /// Letters are compared in lower case.
    is_folded: bool,
}

#[derive(Debug)]
struct Text {
    text: Box<[u8]>,
    /// The longest of the others that this one begins with.
    parent: Option<u32>,
    whole: Places,
    start: Places,
}

impl TextIndex {
    /// Calls `found` with the places of all texts that the value is or begins with.
    pub(super) fn visit(&self, value: &[u8], found: &mut impl FnMut(&[u32])) {
        self.walk(value, |_| true, found);
    }

    /// Of several values each text is seen once.
    fn visit_new(&self, value: &[u8], seen: &mut Seen, found: &mut impl FnMut(&[u32])) {
        self.walk(value, |number| seen.is_new(number), found);
    }

    /// `is_new` hears of a text's places for the whole by twice its number, and of those for the start by one more.
    fn walk(&self, value: &[u8], mut is_new: impl FnMut(usize) -> bool, found: &mut impl FnMut(&[u32])) {
        // What a value begins with is the last text that is not greater, or what that begins with: whatever is between
        // a start and the value has the same start.
        let mut next = self.texts.partition_point(|one| self.is_not_greater(&one.text, value)).checked_sub(1);
        while let Some((at, one)) = next.and_then(|at| Some((at, self.texts.get(at)?))) {
            if self.starts_with(value, &one.text) {
                if value.len() == one.text.len() && !one.whole.is_empty() && is_new(2 * at) {
                    found(&one.whole);
                }
                if !is_new(2 * at + 1) {
                    // Nor are those that it begins with.
                    return;
                }
                if !one.start.is_empty() {
                    found(&one.start);
                }
            }
            next = one.parent.map(|parent| parent as usize);
        }
    }

    fn is_not_greater(&self, text: &[u8], value: &[u8]) -> bool {
        match self.is_folded {
            true => text.iter().copied().le(value.iter().map(u8::to_ascii_lowercase)),
            false => text <= value,
        }
    }

    fn starts_with(&self, value: &[u8], text: &[u8]) -> bool {
        match self.is_folded {
            true => value.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text)),
            false => value.starts_with(text),
        }
    }
}

/// Places by a text that is somewhere in a value, in any case.
#[derive(Debug)]
struct Needles {
    /// Finds all of them in one pass.
    finder: AhoCorasick,
    places: Box<[Places]>,
}

impl Needles {
    /// Of several values each text is seen once.
    fn visit_new(&self, value: &[u8], seen: &mut Seen, found: &mut impl FnMut(&[u32])) {
        for one in self.finder.find_overlapping_iter(value) {
            let number = one.pattern().as_usize();
            if seen.is_new(number)
                && let Some(places) = self.places.get(number)
            {
                found(places);
            }
        }
    }
}

/// Which of many numbered things were seen.
#[derive(Default)]
pub(super) struct Seen {
    first: [u64; Seen::MOST / 64],
    /// Of the others, as far as any was seen.
    more: Vec<u64>,
}

impl Seen {
    /// So many, numbered from 0, take no memory of their own.
    pub(super) const MOST: usize = 1024;

    pub(super) fn is_new(&mut self, number: usize) -> bool {
        let word = number / 64;
        let word = match self.first.get_mut(word) {
            Some(word) => word,
            None => {
                let word = word - self.first.len();
                if word >= self.more.len() {
                    self.more.resize(word + 1, 0);
                }
                &mut self.more[word]
            }
        };
        let bit = 1 << (number % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// An index while places are added, in ascending order.
#[derive(Default)]
pub(super) struct Building<'c> {
    is_folded: bool,
    texts: BTreeMap<Box<[u8]>, OfText>,
    /// In lower case.
    needles: BTreeMap<Box<[u8]>, Vec<u32>>,
    outlines: HashMap<&'c Outline, Vec<u32>>,
    present: Vec<u32>,
}

/// The places for which a value is a text, and those for which it begins with it.
#[derive(Default)]
struct OfText {
    whole: Vec<u32>,
    start: Vec<u32>,
}

impl<'c> Building<'c> {
    pub(super) fn new(is_folded: bool) -> Self {
        Self { is_folded, ..Self::default() }
    }

    pub(super) fn add(&mut self, key: &Key<'c>, place: u32) {
        let Key { form, text, outline, .. } = *key;
        match form {
            Form::Whole | Form::Start => {
                let text = if self.is_folded { text.to_ascii_lowercase() } else { text.to_owned() };
                let of_text = self.texts.entry(text.into()).or_default();
                if form == Form::Whole { &mut of_text.whole } else { &mut of_text.start }.push(place);
            }
            Form::Anywhere => {
                let text = text.to_ascii_lowercase();
                if self.needles.len() < Seen::MOST || self.needles.contains_key(&*text) {
                    self.needles.entry(text.into()).or_default().push(place);
                } else {
                    self.present.push(place);
                }
            }
            Form::Like => {
                if let Some(outline) = outline {
                    self.outlines.entry(outline).or_default().push(place);
                }
            }
            Form::Present => self.present.push(place),
        }
    }

    /// Of one to which only whole texts and starts were added.
    pub(super) fn texts(self) -> TextIndex {
        let mut texts: Vec<Text> = Vec::with_capacity(self.texts.len());
        for (text, OfText { whole, start }) in self.texts {
            // What comes before it, or one of those that that begins with.
            let mut parent = texts.len().checked_sub(1);
            while let Some(one) = parent.and_then(|at| texts.get(at))
                && !text.starts_with(&one.text)
            {
                parent = one.parent.map(|at| at as usize);
            }
            let parent = parent.and_then(|at| u32::try_from(at).ok());
            texts.push(Text { text, parent, whole: whole.into(), start: start.into() });
        }
        TextIndex { texts: texts.into(), is_folded: self.is_folded }
    }

    pub(super) fn finish(mut self) -> ByText {
        let needles = std::mem::take(&mut self.needles);
        let mut present = std::mem::take(&mut self.present);
        let needles = match of_needles(needles) {
            Ok(needles) => needles,
            // Too much text for one automaton: then they are asked by every value.
            Err(places) => {
                present.extend(places);
                present.sort_unstable();
                None
            }
        };
        let outlines = std::mem::take(&mut self.outlines).into_iter().collect();
        ByText { texts: self.texts(), needles, outlines: Outlines::new(outlines), present: present.into() }
    }
}

/// # Errors
/// The automaton would be too large; all places.
fn of_needles(needles: BTreeMap<Box<[u8]>, Vec<u32>>) -> Result<Option<Needles>, Vec<u32>> {
    if needles.is_empty() {
        return Ok(None);
    }
    // The densest kind would be built of a few hundred needles, and take megabytes.
    let kind = AhoCorasickKind::ContiguousNFA;
    match AhoCorasick::builder().kind(Some(kind)).ascii_case_insensitive(true).build(needles.keys()) {
        Ok(finder) => Ok(Some(Needles { finder, places: needles.into_values().map(Into::into).collect() })),
        Err(_) => Err(needles.into_values().flatten().collect()),
    }
}
