//! Text to a tree of values that remember their lines: what the readers of each kind walk.

use std::{collections::BTreeMap, fmt};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, Spanned};

use super::{DocumentError, Problem};

/// Deepest nesting that is read. The deepest field of a workload document, which a file may hold, lies at about 20.
const MAX_DEPTH: usize = 64;
/// Most values of one file: a file of the largest size has about 400,000.
const MAX_NODES: usize = 1_000_000;
/// Most values that aliases may add: real files repeat a block some times, bombs multiply.
const MAX_ALIAS_EVENTS: usize = 20_000;

/// Where something stands in a file, both counted from 1; zeros where the text had no lines (stored JSON).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl From<serde_saphyr::Location> for Position {
    fn from(location: serde_saphyr::Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// Also for whole numbers that are too large.
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Where the key stands: the value may stand in a later line.
    pub(crate) at: Position,
    pub(crate) node: Node,
}

/// A step down a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Item(usize),
}

/// Reads a YAML file: its documents in order, empty ones left out.
pub(crate) fn read_yaml(text: &str) -> Result<Vec<Node>, DocumentError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_documents: MAX_NODES,
            max_events: 3 * MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIAS_EVENTS,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Merge,
        // As YAML 1.2 has it: yes, no, on and off are text.
        strict_booleans: true,
        with_snippet: false,
    };
    let roots = serde_saphyr::from_multiple_with_options::<Spanned<Value>>(text, options).map_err(|error| {
        let at = error.location().map(Position::from).unwrap_or_default();
        DocumentError::new(Problem::Syntax(error.without_snippet().to_string())).located(at)
    })?;
    Ok(roots.into_iter().map(Node::from).collect())
}

/// Reads a stored document.
pub(crate) fn read_json(text: &str) -> Result<Node, DocumentError> {
    let value = serde_json::from_str::<serde_json::Value>(text)
        .map_err(|error| DocumentError::new(Problem::Syntax(error.to_string())))?;
    Ok(Node::from(value))
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { at: spanned.referenced.into(), value: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Float(value as f64))
    }
    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Float(value as f64))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            list.push(Node::from(item));
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let node = Node::from(map.next_value::<Spanned<Value>>()?);
            entries.push(Entry { at: key.referenced.into(), key: key.value, node });
        }
        Ok(Value::Map(entries))
    }
}

impl From<serde_json::Value> for Node {
    fn from(json: serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => {
                number.as_i64().map_or(Value::Float(number.as_f64().unwrap_or(f64::NAN)), Value::Integer)
            }
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Array(items) => Value::List(items.into_iter().map(Node::from).collect()),
            serde_json::Value::Object(fields) => Value::Map(
                fields
                    .into_iter()
                    .map(|(key, value)| Entry { key, at: Position::default(), node: Node::from(value) })
                    .collect(),
            ),
        };
        Self { at: Position::default(), value }
    }
}

impl Node {
    /// The value of a map's key; `None` if it is absent or null, or this is no map.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        let entry = entries.iter().find(|entry| entry.key == key)?;
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    /// Where the end of a path stands, or what there is of it.
    pub(crate) fn position(&self, path: &[Step]) -> Position {
        self.walk(path).last().map_or(self.at, |(at, _)| at)
    }

    /// How many steps of a path there are.
    pub(crate) fn reach(&self, path: &[Step]) -> usize {
        self.walk(path).count()
    }

    /// Each step of a path that there is: where it stands, and what.
    fn walk<'n>(&'n self, path: &[Step]) -> impl Iterator<Item = (Position, &'n Node)> {
        let mut node = self;
        path.iter().map_while(move |step| {
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Map(entries)) => {
                    entries.iter().find(|entry| entry.key == *key).map(|entry| (entry.at, &entry.node))
                }
                (Step::Item(index), Value::List(items)) => items.get(*index).map(|item| (item.at, item)),
                _ => None,
            };
            node = next?.1;
            next
        })
    }

    /// Takes away what stands at a path, or else the innermost field or item on the way to it. False where there is
    /// none.
    pub(crate) fn remove(&mut self, path: &[Step]) -> bool {
        let Some((step, rest)) = path.split_first() else { return false };
        match (step, &mut self.value) {
            (Step::Key(key), Value::Map(entries)) => {
                let Some(index) = entries.iter().position(|entry| entry.key == *key) else { return false };
                if !entries[index].node.remove(rest) {
                    entries.remove(index);
                }
                true
            }
            (Step::Item(index), Value::List(items)) if *index < items.len() => {
                if !items[*index].remove(rest) {
                    items.remove(*index);
                }
                true
            }
            _ => false,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as JSON. Maps come out with sorted keys, and without the fields that have no value.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Float(value) => (*value).into(),
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .filter(|entry| entry.node.value != Value::Null)
                .map(|entry| (entry.key.clone(), entry.node.to_json()))
                // Sorted here, as serde_json's own map may or may not be, by a feature that any crate can switch on.
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}
