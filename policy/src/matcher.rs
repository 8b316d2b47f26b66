//! What a rule's `match` asks of a request and of who sends it. Section "D-ROUTE" of Istio's rules.

mod answers;
mod index;

use std::fmt;

use http::{HeaderName, HeaderValue, header::GetAll};
use weft_wire::id::Namespace;

use self::answers::Answers;
pub(crate) use self::{answers::Questions, index::MatchIndex};
use crate::{
    api::values::StringMatch,
    route::{Client, RequestHead},
};

/// One entry of `match`: all of its conditions must hold.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RequestMatch {
    pub(crate) client: ClientMatch,
    pub(crate) uri: Option<UriMatch>,
    /// Conditions on the values of the rules' [`Fields`].
    pub(crate) values: Vec<ValueMatch>,
}

/// What is asked of the client before its request is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ClientMatch {
    /// The port that it dialled.
    pub(crate) port: Option<u16>,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) labels: Vec<(String, String)>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct UriMatch {
    pub(crate) value: StringMatch,
    /// Only for exact and prefix, as in Istio.
    pub(crate) ignore_case: bool,
    /// A prefix ends where a segment of the path does, as in the Gateway API.
    pub(crate) whole_segments: bool,
    /// The number of its expression, of [`Questions`].
    pub(crate) question: Option<u16>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct ValueMatch {
    /// Which of the [`Fields`].
    pub(crate) field: usize,
    pub(crate) wanted: StringMatch,
    /// The condition must not hold (`withoutHeaders`).
    pub(crate) inverted: bool,
    /// The number of its expression, of [`Questions`].
    pub(crate) question: Option<u16>,
}

/// What a condition may read of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Field {
    Method,
    Authority,
    Scheme,
    Header(HeaderName),
    /// A parameter of the query, as it is written there.
    Query(String),
    /// A claim of the caller's token. No token is verified yet, so no request has any.
    Claim(String),
}

/// The fields that some rules read, each once.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Fields(Vec<Field>);

impl Fields {
    /// The field's place, for [`ValueMatch::field`].
    pub(crate) fn place_of(&mut self, field: Field) -> usize {
        self.0.iter().position(|known| *known == field).unwrap_or_else(|| {
            self.0.push(field);
            self.0.len() - 1
        })
    }
}

/// How many bytes of the path a rule's condition matched: what a `rewrite.uri` replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatchedPath(pub(crate) usize);

impl MatchedPath {
    /// A rule without a condition on the path is one on the prefix `/`.
    pub(crate) const ANY: Self = Self(1);
}

/// Values that are looked up once for all rules of a host.
const KEPT: usize = 16;

/// The values of one request, each found when it is first asked for: rules often ask for the same few, and finding
/// one costs more than comparing it.
pub(crate) struct Values<'r> {
    head: &'r RequestHead<'r>,
    fields: &'r Fields,
    kept: [Option<Value<'r>>; KEPT],
    answers: Option<Answers<'r>>,
}

/// What a request has of a field.
enum Value<'r> {
    Missing,
    One(&'r [u8]),
    /// Several lines of one header.
    Lines(GetAll<'r, HeaderValue>),
}

impl<'r> Value<'r> {
    fn of_header(head: &RequestHead<'r>, name: &HeaderName) -> Self {
        let lines = head.headers.get_all(name);
        let mut values = lines.iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Missing,
            (Some(value), None) => Self::One(value.as_bytes()),
            _ => Self::Lines(lines),
        }
    }

    /// Whether it is so of any line, of which a missing value has an empty one.
    fn any(&self, mut is_so: impl FnMut(&[u8]) -> bool) -> bool {
        match self {
            Self::Missing => is_so(b""),
            Self::One(value) => is_so(value),
            Self::Lines(lines) => lines.iter().any(|line| is_so(line.as_bytes())),
        }
    }
}

impl<'r> Values<'r> {
    pub(crate) fn new(head: &'r RequestHead<'r>, fields: &'r Fields, questions: Option<&'r Questions>) -> Self {
        Self { head, fields, kept: [const { None }; KEPT], answers: questions.map(Answers::new) }
    }

    fn matches(&mut self, condition: &ValueMatch) -> bool {
        let Some(field) = self.fields.0.get(condition.field) else { return false };
        match self.kept.get_mut(condition.field) {
            Some(kept) => {
                let value = kept.get_or_insert_with(|| field.value(self.head));
                condition.matches(value, self.answers.as_mut())
            }
            None => condition.matches(&field.value(self.head), self.answers.as_mut()),
        }
    }

    /// How much of the path matches.
    fn matched_path(&mut self, uri: &UriMatch, path: &str) -> Option<MatchedPath> {
        match (&uri.value, uri.question, &mut self.answers) {
            (StringMatch::Regex(regex), Some(question), Some(answers)) => {
                answers.holds(question, &regex.0, &Value::One(path.as_bytes())).then_some(MatchedPath(path.len()))
            }
            _ => uri.matches(path),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("the method"),
            Self::Authority => f.write_str("the host"),
            Self::Scheme => f.write_str("the scheme"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Query(name) => write!(f, "parameter {name}"),
            Self::Claim(name) => f.write_str(name),
        }
    }
}

impl Field {
    fn value<'r>(&self, head: &RequestHead<'r>) -> Value<'r> {
        match self {
            Self::Method => Value::One(head.method.as_str().as_bytes()),
            Self::Authority => Value::One(head.authority.as_bytes()),
            Self::Scheme => Value::One(head.scheme.as_bytes()),
            Self::Header(name) => Value::of_header(head, name),
            Self::Query(name) => {
                let found = head.parameters().find(|(known, _)| known == name);
                found.map_or(Value::Missing, |(_, value)| Value::One(value.as_bytes()))
            }
            Self::Claim(_) => Value::Missing,
        }
    }
}

impl ValueMatch {
    /// A missing value never matches. Inverted, it counts as empty, except where only its presence is asked for.
    fn matches(&self, value: &Value<'_>, answers: Option<&mut Answers<'_>>) -> bool {
        if matches!(value, Value::Missing) && (!self.inverted || self.wanted == StringMatch::Any) {
            return self.inverted;
        }
        let matches = match (&self.wanted, self.question, answers) {
            (StringMatch::Regex(regex), Some(question), Some(answers)) => answers.holds(question, &regex.0, value),
            _ => value.any(|line| self.wanted.matches(line)),
        };
        matches != self.inverted
    }
}

impl ClientMatch {
    pub(crate) fn matches(&self, client: &Client<'_>, port: u16) -> bool {
        self.port.is_none_or(|wanted| wanted == port)
            && self.namespace.as_ref().is_none_or(|wanted| wanted == client.namespace)
            && self.labels.iter().all(|(name, value)| client.label(name) == Some(value))
    }
}

impl ClientMatch {
    /// Which condition does not hold, in words.
    pub(crate) fn mismatch(&self, client: &Client<'_>, port: u16) -> Option<String> {
        if let Some(wanted) = self.port.filter(|wanted| *wanted != port) {
            return Some(format!("port is {port}, not {wanted}"));
        }
        if let Some(wanted) = self.namespace.as_ref().filter(|wanted| *wanted != client.namespace) {
            return Some(format!("the caller's namespace is {}, not {wanted}", client.namespace));
        }
        let (name, wanted) = self.labels.iter().find(|(name, value)| client.label(name) != Some(value))?;
        Some(match client.label(name) {
            Some(value) => format!("the caller's label {name} is {value}, not {wanted}"),
            None => format!("the caller has no label {name}"),
        })
    }
}

impl RequestMatch {
    /// Which condition on the request does not hold, in words.
    pub(crate) fn mismatch(&self, path: &str, values: &mut Values<'_>) -> Option<String> {
        if let Some(uri) = self.uri.as_ref().filter(|uri| uri.matches(path).is_none()) {
            return Some(format!("the path is {path}, not {}", uri.value));
        }
        let failed = self.values.iter().find(|condition| !values.matches(condition))?;
        let field = values.fields.0.get(failed.field)?;
        let wanted = if failed.inverted { format!("must not be {}", failed.wanted) } else { failed.wanted.to_string() };
        Some(match field.value(values.head) {
            Value::Missing => format!("{field} is missing; wanted: {wanted}"),
            Value::One(value) => format!("{field} is {}; wanted: {wanted}", String::from_utf8_lossy(value)),
            Value::Lines(lines) => {
                let lines: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
                format!("{field} is {}; wanted: {wanted}", lines.join(" and "))
            }
        })
    }

    /// How much of the path matched, if all conditions on the request hold.
    pub(crate) fn matches(&self, path: &str, values: &mut Values<'_>) -> Option<MatchedPath> {
        let is_expression = |wanted: &StringMatch| matches!(wanted, StringMatch::Regex(_));
        let by_path = |values: &mut Values<'_>| match &self.uri {
            Some(uri) => values.matched_path(uri, path),
            None => Some(MatchedPath::ANY),
        };
        let by_values = |values: &mut Values<'_>, expressions: bool| {
            let mut conditions = self.values.iter().filter(|one| is_expression(&one.wanted) == expressions);
            conditions.all(|condition| values.matches(condition))
        };
        // The cheaper questions first.
        match &self.uri {
            Some(uri) if is_expression(&uri.value) => {
                (by_values(values, false) && by_values(values, true)).then(|| by_path(values)).flatten()
            }
            _ => by_path(values).filter(|_| by_values(values, false) && by_values(values, true)),
        }
    }
}

impl UriMatch {
    fn matches(&self, path: &str) -> Option<MatchedPath> {
        let bytes = path.as_bytes();
        let starts_with = |prefix: &str| {
            let start = bytes.get(..prefix.len())?;
            let same = if self.ignore_case {
                start.eq_ignore_ascii_case(prefix.as_bytes())
            } else {
                start == prefix.as_bytes()
            };
            let ends = !self.whole_segments || matches!(bytes.get(prefix.len()), None | Some(b'/'));
            (same && ends).then_some(MatchedPath(prefix.len()))
        };
        match &self.value {
            StringMatch::Any => Some(MatchedPath::ANY),
            StringMatch::Exact(wanted) => starts_with(wanted).filter(|matched| matched.0 == bytes.len()),
            StringMatch::Prefix(wanted) => starts_with(wanted),
            StringMatch::Suffix(wanted) => path.ends_with(wanted.as_str()).then_some(MatchedPath(bytes.len())),
            StringMatch::Regex(pattern) => pattern.0.is_whole(bytes).then_some(MatchedPath(bytes.len())),
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Exact(wanted) => write!(f, "exactly {wanted}"),
            Self::Prefix(wanted) => write!(f, "prefix {wanted}"),
            Self::Suffix(wanted) => write!(f, "suffix {wanted}"),
            Self::Regex(pattern) => write!(f, "regex {}", pattern.0.source()),
        }
    }
}

impl StringMatch {
    /// Whether a value that is there matches.
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => value == wanted.as_bytes(),
            Self::Prefix(wanted) => value.starts_with(wanted.as_bytes()),
            Self::Suffix(wanted) => value.ends_with(wanted.as_bytes()),
            Self::Regex(pattern) => pattern.0.is_whole(value),
        }
    }
}
