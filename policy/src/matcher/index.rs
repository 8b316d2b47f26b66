//! Which of many conditions could hold for a request, found without asking each of them.
//!
//! Of what a condition asks for, the index knows one thing that must be so, its [`Key`]: the one that the fewest others
//! have too. A request asks only those conditions whose key it has. So the index never decides: it leaves out what
//! cannot hold.

pub(super) mod outlines;
mod texts;

use foldhash::{HashMap, HashMapExt};
use http::HeaderName;

use self::texts::{ByText, Seen, TextIndex};
use super::{ClientMatch, Field, Fields, RequestMatch, UriMatch, Value};
use crate::{
    api::values::StringMatch,
    pattern::outline::Outline,
    route::{Client, RequestHead},
};

/// Places of conditions, ascending.
type Places = Box<[u32]>;

/// Conditions by what they ask for.
#[derive(Debug)]
pub(crate) struct MatchIndex {
    path: ByText,
    /// By the path in lower case.
    folded_path: TextIndex,
    /// Method, authority and scheme, which all requests have.
    fixed: Vec<(Field, ByText)>,
    headers: HashMap<HeaderName, ByText>,
    /// Parameters of the query, each with a number below [`Seen::MOST`].
    parameters: HashMap<Box<str>, (usize, ByText)>,
    namespaces: TextIndex,
    labels: HashMap<Box<str>, TextIndex>,
    /// Those that must always be asked.
    others: Places,
}

/// Something that a request must have for a condition to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key<'c> {
    of: Subject<'c>,
    form: Form,
    text: &'c [u8],
    /// Of the form [`Form::Like`].
    outline: Option<&'c Outline>,
}

/// What a key is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject<'c> {
    Path,
    /// In any case.
    FoldedPath,
    /// By its place.
    Field(usize),
    Namespace,
    Label(&'c str),
}

/// How a text is looked for; what is cheaper or says more comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Form {
    Whole,
    Start,
    /// In any case.
    Anywhere,
    /// What an expression's outline says; costs each request about a nanosecond for each byte of the value and each ten
    /// outlines.
    Like,
    /// Any value at all.
    Present,
}

/// A text that so many conditions need is rare enough; where it is not, the outline of an expression says more.
const RARE: usize = 16;

impl MatchIndex {
    /// Of conditions that read these fields; a condition's place is the one that it has here.
    pub(crate) fn new<'c>(conditions: impl Iterator<Item = &'c RequestMatch> + Clone, fields: &Fields) -> Self {
        let mut counts: HashMap<Key<'_>, usize> = HashMap::new();
        for key in conditions.clone().flat_map(|condition| keys(condition, fields)) {
            *counts.entry(key).or_default() += 1;
        }
        let mut building = Building::default();
        let mut others = Vec::new();
        for (place, condition) in (0..).zip(conditions) {
            let rarest = keys(condition, fields).into_iter().min_by_key(|key| {
                let count = counts.get(key).copied().unwrap_or_default();
                // That a value is there may be true of every request.
                (key.form == Form::Present, key.form == Form::Like || count > RARE, count, key.form)
            });
            match rarest {
                Some(key) => building.entry(key.of).add(&key, place),
                None => others.push(place),
            }
        }
        building.finish(fields, others)
    }

    /// The first condition for which `holds` says something, which is asked for those alone that could hold; with its
    /// place, and what `holds` says.
    pub(crate) fn first<T>(
        &self,
        client: &Client<'_>,
        head: &RequestHead<'_>,
        mut holds: impl FnMut(usize) -> Option<T>,
    ) -> Option<(usize, T)> {
        let mut first: Option<(u32, T)> = None;
        self.candidates(client, head, &mut |places| {
            for place in places {
                if first.as_ref().is_some_and(|(known, _)| known <= place) {
                    break;
                }
                if let Some(said) = holds(*place as usize) {
                    first = Some((*place, said));
                    break;
                }
            }
        });
        first.map(|(place, said)| (place as usize, said))
    }

    /// Calls `found` with all conditions that could hold.
    fn candidates(&self, client: &Client<'_>, head: &RequestHead<'_>, found: &mut impl FnMut(&[u32])) {
        self.path.visit(&Value::One(head.path().as_bytes()), found);
        self.folded_path.visit(head.path().as_bytes(), found);
        for (field, by_text) in &self.fixed {
            by_text.visit(&field.value(head), found);
        }
        self.by_header(head, found);
        self.by_parameter(head, found);
        self.namespaces.visit(client.namespace.as_str().as_bytes(), found);
        for (name, by_value) in &self.labels {
            if let Some(value) = client.label(name) {
                by_value.visit(value.as_bytes(), found);
            }
        }
        found(&self.others);
    }

    /// Looks at those headers that are fewer: the request's, or the conditions'.
    fn by_header(&self, head: &RequestHead<'_>, found: &mut impl FnMut(&[u32])) {
        if self.headers.len() <= head.headers.keys_len() {
            for (name, by_text) in &self.headers {
                by_text.visit(&Value::of_header(head, name), found);
            }
        } else {
            for name in head.headers.keys() {
                if let Some(by_text) = self.headers.get(name) {
                    by_text.visit(&Value::of_header(head, name), found);
                }
            }
        }
    }

    fn by_parameter(&self, head: &RequestHead<'_>, found: &mut impl FnMut(&[u32])) {
        if self.parameters.is_empty() {
            return;
        }
        let mut seen = Seen::default();
        for (name, value) in head.parameters() {
            // The first of a name counts.
            if let Some((number, by_text)) = self.parameters.get(name)
                && seen.is_new(*number)
            {
                by_text.visit(&Value::One(value.as_bytes()), found);
            }
        }
    }
}

/// All that a condition could be found by.
fn keys<'c>(condition: &'c RequestMatch, fields: &Fields) -> Vec<Key<'c>> {
    let mut keys = Vec::new();
    if let Some(UriMatch { value, ignore_case, .. }) = &condition.uri {
        match value {
            // All requests have a path.
            StringMatch::Any => {}
            StringMatch::Exact(_) | StringMatch::Prefix(_) if *ignore_case => {
                add_keys(Subject::FoldedPath, value, &mut keys);
            }
            _ => add_keys(Subject::Path, value, &mut keys),
        }
    }
    for one in condition.values.iter().filter(|one| !one.inverted) {
        match fields.0.get(one.field) {
            Some(Field::Claim(_)) | None => {}
            // Which of them are named more than once in a query is remembered for so many.
            Some(Field::Query(_)) if one.field >= Seen::MOST => {}
            Some(field) => {
                let of = Subject::Field(one.field);
                add_keys(of, &one.wanted, &mut keys);
                if matches!(field, Field::Header(_) | Field::Query(_)) {
                    keys.push(Key { of, form: Form::Present, text: b"", outline: None });
                }
            }
        }
    }
    let ClientMatch { port: _, namespace, labels } = &condition.client;
    let of_client = |of, text: &'c str| Key { of, form: Form::Whole, text: text.as_bytes(), outline: None };
    keys.extend(namespace.as_ref().map(|namespace| of_client(Subject::Namespace, namespace.as_str())));
    keys.extend(labels.iter().map(|(name, value)| of_client(Subject::Label(name), value)));
    keys
}

fn add_keys<'c>(of: Subject<'c>, wanted: &'c StringMatch, keys: &mut Vec<Key<'c>>) {
    let mut add = |form, text: &'c [u8]| keys.push(Key { of, form, text, outline: None });
    match wanted {
        StringMatch::Exact(text) => add(Form::Whole, text.as_bytes()),
        StringMatch::Prefix(text) => add(Form::Start, text.as_bytes()),
        StringMatch::Suffix(text) if !text.is_empty() => add(Form::Anywhere, text.as_bytes()),
        StringMatch::Any | StringMatch::Suffix(_) => {}
        StringMatch::Regex(regex) => {
            let needs = regex.0.needs();
            needs.start.iter().for_each(|text| add(Form::Start, text));
            needs.texts.iter().chain(&needs.in_any_case).for_each(|text| add(Form::Anywhere, text));
            let outline = regex.0.outline();
            keys.extend(outline.map(|_| Key { of, form: Form::Like, text: b"", outline }));
        }
    }
}

/// The parts of an index while conditions are added.
#[derive(Default)]
struct Building<'c>(HashMap<Subject<'c>, texts::Building<'c>>);

impl<'c> Building<'c> {
    fn entry(&mut self, of: Subject<'c>) -> &mut texts::Building<'c> {
        self.0.entry(of).or_insert_with(|| texts::Building::new(of == Subject::FoldedPath))
    }

    fn finish(mut self, fields: &Fields, others: Vec<u32>) -> MatchIndex {
        let mut take = |of| self.0.remove(&of).unwrap_or_default();
        let (path, folded_path, namespaces) =
            (take(Subject::Path), take(Subject::FoldedPath), take(Subject::Namespace));
        let mut index = MatchIndex {
            path: path.finish(),
            folded_path: folded_path.texts(),
            fixed: Vec::new(),
            headers: HashMap::new(),
            parameters: HashMap::new(),
            namespaces: namespaces.texts(),
            labels: HashMap::new(),
            others: others.into(),
        };
        for (of, building) in self.0 {
            match of {
                Subject::Label(name) => {
                    index.labels.insert(name.into(), building.texts());
                }
                Subject::Field(place) => match fields.0.get(place) {
                    Some(Field::Header(name)) => {
                        index.headers.insert(name.clone(), building.finish());
                    }
                    Some(Field::Query(name)) => {
                        index.parameters.insert(name.as_str().into(), (place, building.finish()));
                    }
                    Some(field) => index.fixed.push((field.clone(), building.finish())),
                    None => {}
                },
                Subject::Path | Subject::FoldedPath | Subject::Namespace => {}
            }
        }
        index
    }
}

#[cfg(test)]
mod tests;
