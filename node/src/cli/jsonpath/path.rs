//! Paths to values.

use std::cmp::Ordering;

use serde_json::Value;

use super::reader::Reader;

/// A path from the root (`$`) or from where one is (`@`, or nothing).
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Path {
    from_root: bool,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Of a list, from its end if negative.
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    /// All elements or fields.
    All,
    /// The value itself, and all that is in it.
    Descend,
    /// One after the other.
    Each(Vec<Self>),
    Filter(Filter),
}

/// Keeps the elements for which the path finds a value that compares so.
#[derive(Clone, Debug, PartialEq)]
struct Filter {
    path: Path,
    /// `None`: it finds any.
    compared: Option<(Comparison, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The longer ones first.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

/// What ends a name.
const NAME_ENDS: [char; 13] = ['.', '[', ']', '{', '}', '(', ')', ' ', ',', '=', '!', '<', '>'];

impl Path {
    /// One that stands alone, with or without braces and a leading dot, as `--sort-by` takes it.
    pub(in crate::cli) fn relaxed(text: &str) -> Result<Self, String> {
        let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text).trim();
        let whole = if inner.starts_with(['.', '[', '$', '@']) { inner.to_owned() } else { format!(".{inner}") };
        let mut reader = Reader::new(&whole);
        let path = Self::read(&mut reader)?;
        match reader.rest() {
            "" if path.steps.is_empty() => Err("names no field: write one such as .metadata.name".to_owned()),
            "" => Ok(path),
            rest => Err(format!("{rest:?} is no part of a path")),
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, String> {
        let from_root = reader.eats("$");
        let from_here = !from_root && reader.eats("@");
        let mut steps = Vec::new();
        loop {
            if reader.eats("..") {
                steps.push(Step::Descend);
                if reader.rest().starts_with('[') {
                    continue;
                }
                steps.push(name(reader)?);
            } else if reader.eats(".") {
                // A dot alone is where one is.
                let is_alone = steps.is_empty() && reader.rest().starts_with(['}', '[', ' ', ')']);
                if !is_alone {
                    steps.push(name(reader)?);
                }
            } else if reader.eats("[") {
                steps.push(in_brackets(reader)?);
                reader.expect("]")?;
            } else if steps.is_empty() && !(from_root || from_here) && !reader.rest().starts_with(['}', ' ']) {
                return Err(format!("a path begins with '.', '[', '$' or '@', and not as {:?}", reader.rest()));
            } else {
                return Ok(Self { from_root, steps });
            }
        }
    }

    /// The values that it leads to.
    pub(in crate::cli) fn find<'v>(&self, root: &'v Value, here: &'v Value) -> Vec<&'v Value> {
        let start = vec![if self.from_root { root } else { here }];
        self.steps
            .iter()
            .fold(start, |found, step| found.into_iter().flat_map(|value| step.find(root, value)).collect())
    }
}

/// A name after a dot, in which `\` keeps the next character; or `*`.
fn name(reader: &mut Reader<'_>) -> Result<Step, String> {
    if reader.eats("*") {
        return Ok(Step::All);
    }
    let mut name = String::new();
    loop {
        let ends: Vec<char> = NAME_ENDS.into_iter().chain(['\\']).collect();
        name.push_str(reader.until(&ends));
        if !reader.eats("\\") {
            break;
        }
        let Some(kept) = reader.rest().chars().next() else { break };
        reader.eats(kept.encode_utf8(&mut [0; 4]));
        name.push(kept);
    }
    match name.is_empty() {
        true => Err(format!("a name is missing before {:?}", reader.rest())),
        false => Ok(Step::Field(name)),
    }
}

fn in_brackets(reader: &mut Reader<'_>) -> Result<Step, String> {
    if reader.eats("*") {
        return Ok(Step::All);
    }
    if reader.eats("?(") {
        let filter = filter(reader)?;
        return match reader.rest().starts_with(")]") {
            true => {
                reader.eats(")");
                Ok(Step::Filter(filter))
            }
            false => {
                Err(format!("expected \")]\" before {:?}: one comparison is all that a filter may have", reader.rest()))
            }
        };
    }
    let mut steps = Vec::new();
    loop {
        reader.skip_spaces();
        steps.push(match (reader.quoted()?, reader.number::<i64>()) {
            (Some(name), _) => Step::Field(name),
            (None, from) if reader.eats(":") => Step::Slice(from, reader.number()),
            (None, Some(index)) => Step::Index(index),
            (None, None) => return Err(format!("{:?} is no index, name, slice or filter", reader.rest())),
        });
        reader.skip_spaces();
        if !reader.eats(",") {
            break;
        }
    }
    Ok(match (steps.pop(), steps.is_empty()) {
        (Some(only), true) => only,
        (last, _) => Step::Each(steps.into_iter().chain(last).collect()),
    })
}

fn filter(reader: &mut Reader<'_>) -> Result<Filter, String> {
    reader.skip_spaces();
    let path = Path::read(reader)?;
    reader.skip_spaces();
    if reader.rest().starts_with(')') {
        return Ok(Filter { path, compared: None });
    }
    let comparison = COMPARISONS.into_iter().find(|(sign, _)| reader.eats(sign));
    let Some((_, comparison)) = comparison else {
        return Err(format!("{:?} is no comparison: there are == != < <= > >=", reader.rest()));
    };
    reader.skip_spaces();
    let value = match (reader.quoted()?, reader.number::<f64>()) {
        (Some(text), _) => Value::String(text),
        (None, Some(number)) => number.into(),
        (None, None) if reader.eats("true") => true.into(),
        (None, None) if reader.eats("false") => false.into(),
        (None, None) => return Err(format!("{:?} is neither text in quotes nor a number", reader.rest())),
    };
    reader.skip_spaces();
    Ok(Filter { path, compared: Some((comparison, value)) })
}

impl Step {
    fn find<'v>(&self, root: &'v Value, value: &'v Value) -> Vec<&'v Value> {
        let place = |index: i64, len: usize| match usize::try_from(index) {
            Ok(index) => Some(index),
            Err(_) => len.checked_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX)),
        };
        match (self, value) {
            (Self::Field(name), Value::Object(fields)) => fields.get(name).into_iter().collect(),
            (Self::Index(index), Value::Array(list)) => {
                place(*index, list.len()).and_then(|at| list.get(at)).into_iter().collect()
            }
            (Self::Slice(from, to), Value::Array(list)) => {
                let bound = |index: i64| place(index, list.len()).unwrap_or(0).min(list.len());
                let (from, to) = (from.map_or(0, bound), to.map_or(list.len(), bound));
                list.get(from..to).into_iter().flatten().collect()
            }
            (Self::All, Value::Array(list)) => list.iter().collect(),
            (Self::All, Value::Object(fields)) => fields.values().collect(),
            (Self::Descend, value) => {
                let mut all = vec![value];
                all.extend(Self::All.find(root, value).into_iter().flat_map(|inner| self.find(root, inner)));
                all
            }
            (Self::Each(steps), value) => steps.iter().flat_map(|step| step.find(root, value)).collect(),
            (Self::Filter(filter), Value::Array(list)) => list.iter().filter(|one| filter.keeps(root, one)).collect(),
            _ => Vec::new(),
        }
    }
}

impl Filter {
    fn keeps(&self, root: &Value, element: &Value) -> bool {
        let found = self.path.find(root, element);
        match &self.compared {
            None => !found.is_empty(),
            // As in kubectl, what is not there compares as nothing does.
            Some((comparison, wanted)) => found.iter().any(|value| comparison.holds(value, wanted)),
        }
    }
}

impl Comparison {
    fn holds(self, value: &Value, wanted: &Value) -> bool {
        let order = compare(value, wanted);
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::NotEqual => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => order.is_some_and(Ordering::is_le),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }
}

/// The order of two values of one type; `None` of others.
pub(in crate::cli) fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}
