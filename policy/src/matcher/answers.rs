//! What the expressions of many rules say of one request's values.
//!
//! Rules of one host often ask the same, or ask many things that all hold but for one; then each rule is asked. What an
//! expression said is remembered for the request, so that it is run once, and after some were run, all those of the
//! value are answered together, in one pass over it: those whose outlines say all that they do by these (see
//! [`outlines`](super::index::outlines)), the others by an [`Automaton`] where that knows the value's states. Else they
//! are run one by one.

use std::{collections::BTreeMap, iter, ops::Range, str, sync::Arc};

use super::{RequestMatch, StringMatch, UriMatch, Value, index::outlines::Outlines};
use crate::pattern::{Pattern, automaton::Automaton};

/// So many expressions of a host are remembered; others are run each time that they are asked.
const MOST: usize = 2048;
/// After so many were run for a request, others are answered together. As many or fewer take about as long.
const RUN_FIRST: u32 = 16;
/// How much work running one is, for [`Automaton::visit`].
const STEPS: usize = 32;

/// The expressions of all rules of a host, each once for each value that it is asked of.
#[derive(Debug)]
pub(crate) struct Questions(Box<[Together]>);

/// Those that one pass over a value answers.
#[derive(Debug)]
struct Together {
    numbers: Range<usize>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// These say all that the expressions do.
    Outlines(Outlines),
    Automaton(Automaton),
}

/// Of what an expression is asked: the path, or one of the fields.
type Subject = Option<usize>;

impl Questions {
    /// Numbers the expressions of some conditions. `None` if there are fewer than it is worth to.
    pub(crate) fn number<'c>(conditions: impl Iterator<Item = &'c mut RequestMatch>) -> Option<Self> {
        let mut places: Vec<(Subject, Arc<Pattern>, &'c mut Option<u16>)> = Vec::new();
        for condition in conditions {
            if let Some(UriMatch { value: StringMatch::Regex(regex), question, .. }) = &mut condition.uri {
                places.push((None, regex.0.clone(), question));
            }
            for value in &mut condition.values {
                if let StringMatch::Regex(regex) = &value.wanted {
                    places.push((Some(value.field), regex.0.clone(), &mut value.question));
                }
            }
        }
        if places.len() <= RUN_FIRST as usize {
            return None;
        }
        // Those that can be answered together have numbers that follow each other.
        let key =
            |subject: Subject, pattern: &Pattern| (pattern.exact().is_none(), subject, pattern.source().to_owned());
        let mut patterns: BTreeMap<_, Arc<Pattern>> = BTreeMap::new();
        for (subject, pattern, _) in &places {
            patterns.entry(key(*subject, pattern)).or_insert_with(|| pattern.clone());
        }
        let numbered: Vec<_> = patterns.into_iter().take(MOST).collect();
        for (subject, pattern, question) in places {
            let wanted = key(subject, &pattern);
            let number = numbered.binary_search_by(|(known, _)| known.cmp(&wanted)).ok();
            *question = number.and_then(|number| u16::try_from(number).ok());
        }
        let mut next = 0;
        let groups = numbered.chunk_by(|((_, one, _), _), ((_, other, _), _)| one == other).filter_map(|group| {
            let numbers = next..next + group.len();
            next = numbers.end;
            let outlines: Option<Vec<_>> = (numbers.start as u32..)
                .zip(group)
                .map(|(number, (_, pattern))| Some((number, pattern.exact()?)))
                .collect();
            let way = match outlines {
                Some(exact) => {
                    let each = exact
                        .into_iter()
                        .flat_map(|(number, outlines)| iter::zip(outlines, iter::repeat(vec![number])));
                    Way::Outlines(Outlines::new(each.collect())?)
                }
                None => {
                    let parsed: Option<Vec<_>> = group.iter().map(|(_, pattern)| pattern.parsed()).collect();
                    Way::Automaton(Automaton::new(parsed?.into_iter())?)
                }
            };
            Some(Together { numbers, way })
        });
        Some(Self(groups.collect()))
    }
}

/// What is known of one request.
pub(crate) struct Answers<'q> {
    questions: &'q Questions,
    known: Bits,
    yes: Bits,
    /// How many were run.
    run: u32,
    /// Groups that could not be answered together.
    apart: u64,
}

type Bits = [u64; MOST / 64];

fn has(bits: &Bits, number: usize) -> bool {
    bits.get(number / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
}

fn set(bits: &mut Bits, number: usize) {
    if let Some(word) = bits.get_mut(number / 64) {
        *word |= 1 << (number % 64);
    }
}

/// The bit of a group; the last is that of all further groups.
fn apart(group: u32) -> u64 {
    1 << group.min(u64::BITS - 1)
}

impl<'q> Answers<'q> {
    pub(crate) fn new(questions: &'q Questions) -> Self {
        Self { questions, known: [0; MOST / 64], yes: [0; MOST / 64], run: 0, apart: 0 }
    }

    /// Whether an expression with this number matches its value; of several lines any, and one that is missing is empty.
    pub(super) fn holds(&mut self, number: u16, pattern: &Pattern, value: &Value<'_>) -> bool {
        let number = usize::from(number);
        if !has(&self.known, number) {
            self.find(number, pattern, value);
        }
        has(&self.yes, number)
    }

    fn find(&mut self, number: usize, pattern: &Pattern, value: &Value<'_>) {
        if self.run >= RUN_FIRST
            && let Some((group, together)) =
                (0..).zip(&self.questions.0).find(|(_, group)| group.numbers.contains(&number))
            && self.apart & apart(group) == 0
        {
            if self.find_all(together, value) {
                together.numbers.clone().for_each(|number| set(&mut self.known, number));
                return;
            }
            self.apart |= apart(group);
        }
        self.run += 1;
        set(&mut self.known, number);
        if value.any(|line| pattern.is_whole(line)) {
            set(&mut self.yes, number);
        }
    }
    /// Finds which expressions of a group match the value, if they can be answered together.
    fn find_all(&mut self, together: &Together, value: &Value<'_>) -> bool {
        let Together { numbers, way } = together;
        let yes = &mut self.yes;
        let mut is_known = true;
        value.any(|line| {
            // No expression matches what is not UTF-8.
            if str::from_utf8(line).is_ok() {
                match way {
                    Way::Outlines(outlines) => {
                        let mut found = |numbers: &[u32]| numbers.iter().for_each(|number| set(yes, *number as usize));
                        outlines.visit(line, |_| true, &mut found);
                    }
                    Way::Automaton(automaton) => {
                        let mut found = |number| set(yes, numbers.start + number);
                        is_known = automaton.visit(line, STEPS * numbers.len(), &mut found);
                    }
                }
            }
            // Other lines cannot change what is so of one.
            !is_known || numbers.clone().all(|number| has(yes, number))
        });
        is_known
    }
}
