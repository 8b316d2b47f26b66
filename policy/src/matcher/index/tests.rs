use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use http::{HeaderMap, Method};
use proptest::{prelude::*, sample::select};

use super::{super::*, *};
use crate::{api::values::Regex, endpoint::Workload, pattern::Pattern};

fn regex(source: &str) -> StringMatch {
    StringMatch::Regex(Regex(Arc::new(Pattern::new(source).unwrap())))
}

/// Few enough that many conditions are about the same, and hold.
const TEXTS: [&str; 9] = ["/", "/a", "/A", "/a/b", "/a/bb", "/ab", "/b/a", "a", "b"];

/// Expressions about a text X.
const FORMS: [&str; 11] = [
    "X.*",
    ".*X",
    ".*X.*",
    "(X|/b)",
    "^X$",
    "(X)+.*",
    "(?i)X.*",
    "[a-z/]+",
    "X/?b*.*",
    ".*[ab]{2}/?[^b]?",
    "([a-z/]|X)*b",
];

fn string_match() -> impl Strategy<Value = StringMatch> {
    let text = || select(&TEXTS[..]);
    prop_oneof![
        Just(StringMatch::Any),
        text().prop_map(|text| StringMatch::Exact(text.into())),
        text().prop_map(|text| StringMatch::Prefix(text.into())),
        Just(StringMatch::Prefix(String::new())),
        select(&["", "/b", "b", "bb"][..]).prop_map(|text| StringMatch::Suffix(text.into())),
        (select(&FORMS[..]), text()).prop_map(|(form, text)| regex(&form.replace('X', text))),
    ]
}

fn client_match() -> impl Strategy<Value = ClientMatch> {
    let port = prop::option::weighted(0.2, select(&[80_u16, 81][..]));
    let namespace = prop::option::weighted(0.2, select(&["n", "m"][..]));
    let labels = prop::collection::btree_map(select(&["app", "version"][..]), select(&["a", "b"][..]), 0..2);
    (port, namespace, labels).prop_map(|(port, namespace, labels)| ClientMatch {
        port,
        namespace: namespace.map(|name| name.parse().unwrap()),
        labels: labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    })
}

fn fields() -> Fields {
    let header = |name: &'static str| Field::Header(HeaderName::from_static(name));
    let query = |name: &str| Field::Query(name.to_owned());
    let [x, y, q, r] = [header("x"), header("y"), query("q"), query("r")];
    Fields(vec![Field::Method, x, q, Field::Authority, y, r, Field::Claim("claim".into()), Field::Scheme])
}

fn condition() -> impl Strategy<Value = RequestMatch> {
    let uri = (string_match(), any::<bool>(), any::<bool>());
    let uri = uri.prop_map(|(value, ignore_case, whole_segments)| UriMatch {
        value,
        ignore_case,
        whole_segments,
        question: None,
    });
    let value = (0..fields().0.len(), string_match(), prop::bool::weighted(0.2));
    let value = value.prop_map(|(field, wanted, inverted)| ValueMatch { field, wanted, inverted, question: None });
    let values = prop::collection::vec(value, 0..3);
    (client_match(), prop::option::weighted(0.7, uri), values).prop_map(|(client, uri, values)| RequestMatch {
        client,
        uri,
        values,
    })
}

fn workload(labels: BTreeMap<String, String>) -> Workload {
    Workload {
        namespace: "n".parse().unwrap(),
        name: "w".parse().unwrap(),
        account: "n/w".parse().unwrap(),
        principal: String::new(),
        app: String::new(),
        version: String::new(),
        canonical_service: String::new(),
        canonical_revision: String::new(),
        service: "w.n".parse().unwrap(),
        node: "h".parse().unwrap(),
        labels,
    }
}

/// A request, and who sends it.
#[derive(Clone, Debug)]
struct Sent {
    path_and_query: String,
    authority: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    namespace: &'static str,
    labels: BTreeMap<String, String>,
    port: u16,
}

fn sent() -> impl Strategy<Value = Sent> {
    let text = || select(&TEXTS[..]);
    let path = prop::collection::vec(text(), 0..4).prop_map(|texts| format!("/{}", texts.concat()));
    let path = prop_oneof![path, text().prop_map(str::to_owned)];
    let parameter = (select(&["q", "r", "s"][..]), text()).prop_map(|(name, value)| format!("{name}={value}"));
    let query = prop::collection::vec(parameter, 0..4).prop_map(|all| all.join("&"));
    let headers = prop::collection::vec((select(&["x", "y", "z", "w"][..]), text()), 0..5);
    let labels = prop::collection::btree_map("app|version", "a|b", 0..3);
    (path, query, text(), headers, select(&["n", "m", "o"][..]), labels, select(&[80, 81, 82][..])).prop_map(
        |(path, query, authority, headers, namespace, labels, port)| Sent {
            path_and_query: format!("{path}?{query}"),
            authority,
            headers,
            namespace,
            labels,
            port,
        },
    )
}

impl Sent {
    /// Asks with the request, its sender and the port.
    fn ask<T>(&self, ask: impl FnOnce(&RequestHead<'_>, &Client<'_>, u16) -> T) -> T {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(*name, value.parse().unwrap());
        }
        let head = RequestHead {
            method: &Method::GET,
            path_and_query: &self.path_and_query,
            authority: self.authority,
            scheme: "http",
            headers: &headers,
        };
        let namespace = self.namespace.parse().unwrap();
        let workload = workload(self.labels.clone());
        let client = Client { namespace: &namespace, workload: Some(&workload).filter(|_| !self.labels.is_empty()) };
        ask(&head, &client, self.port)
    }
}

/// What the index finds first, and how many conditions it asks.
fn by_index(
    conditions: &[RequestMatch],
    questions: Option<&Questions>,
    fields: &Fields,
    sent: &Sent,
) -> (Option<(usize, MatchedPath)>, usize) {
    let index = MatchIndex::new(conditions.iter(), fields);
    sent.ask(|head, client, port| {
        let asked = Cell::new(0);
        let mut values = Values::new(head, fields, questions);
        let found = index.first(client, head, |place| {
            asked.set(asked.get() + 1);
            let condition = &conditions[place];
            condition.client.matches(client, port).then(|| condition.matches(head.path(), &mut values)).flatten()
        });
        (found, asked.get())
    })
}

fn one_by_one(conditions: &[RequestMatch], fields: &Fields, sent: &Sent) -> Option<(usize, MatchedPath)> {
    sent.ask(|head, client, port| {
        let mut values = Values::new(head, fields, None);
        conditions.iter().enumerate().find_map(|(place, condition)| {
            let found = condition.client.matches(client, port).then(|| condition.matches(head.path(), &mut values));
            Some((place, found.flatten()?))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_index_finds_what_is_found_by_asking_one_after_the_other(
        conditions in prop::collection::vec(condition(), 0..80),
        requests in prop::collection::vec(sent(), 1..16),
    ) {
        let mut conditions = conditions;
        let questions = Questions::number(conditions.iter_mut());
        for sent in &requests {
            let expected = one_by_one(&conditions, &fields(), sent);
            let (found, asked) = by_index(&conditions, questions.as_ref(), &fields(), sent);
            prop_assert_eq!(found, expected, "{:?}", sent);
            prop_assert!(asked <= conditions.len(), "no condition is asked twice");
        }
    }
}

const MANY: usize = 1_000;

/// A number in letters that have two cases each and no more.
fn letters(number: usize) -> String {
    format!("{number:03}").bytes().map(|digit| char::from(digit - b'0' + b'a')).collect()
}

/// How many of many conditions are asked for a request that none matches but one, by what they are about.
fn asked_of_many(field: Option<Field>, wanted: impl Fn(usize) -> (StringMatch, bool)) -> usize {
    let mut fields = Fields::default();
    let condition = |i: usize| {
        let (value, ignore_case) = wanted(i);
        match field.clone() {
            None => {
                let uri = UriMatch { value, ignore_case, whole_segments: false, question: None };
                RequestMatch { uri: Some(uri), ..RequestMatch::default() }
            }
            Some(field) => {
                let field = match field {
                    Field::Header(name) if name == "each" => Field::Header(format!("x-{i}").parse().unwrap()),
                    field => field,
                };
                let field = fields.place_of(field);
                let values = vec![ValueMatch { field, wanted: value, inverted: false, question: None }];
                RequestMatch { values, ..RequestMatch::default() }
            }
        }
    };
    let conditions: Vec<RequestMatch> = (0..MANY).map(condition).collect();
    let sent = Sent {
        path_and_query: "/of/rule/700/abc?q=/of/rule/700/abc".into(),
        authority: "a",
        headers: vec![("x", "/of/rule/700/abc"), ("x-700", "/of/rule/700/abc"), ("y", "a")],
        namespace: "n",
        labels: BTreeMap::new(),
        port: 80,
    };
    let (found, asked) = by_index(&conditions, None, &fields, &sent);
    assert_eq!(found.map(|(place, _)| place), Some(700));
    asked
}

#[test]
fn of_many_conditions_only_those_are_asked_that_could_hold() {
    let header = |name: &'static str| Some(Field::Header(HeaderName::from_static(name)));
    for field in [None, header("x"), Some(Field::Query("q".into())), header("each")] {
        let exact = |i| (StringMatch::Exact(format!("/of/rule/{i}/abc")), false);
        let prefix = |i| (StringMatch::Prefix(format!("/of/rule/{i}/")), false);
        let suffix = |i| (StringMatch::Suffix(format!("/{i}/abc")), false);
        let starting = |i| (regex(&format!("/of/rule/{i}/[a-z]+")), false);
        let without_start = |i| (regex(&format!(".*/{i}/[a-z]+")), false);
        let with_the_same_start = |i| (regex(&format!("/of/[a-z]+/{i}/[a-z]+")), false);
        let all: [&dyn Fn(usize) -> (StringMatch, bool); 6] =
            [&exact, &prefix, &suffix, &starting, &without_start, &with_the_same_start];
        for (form, wanted) in all.into_iter().enumerate() {
            assert_eq!(asked_of_many(field.clone(), wanted), 1, "{field:?}, form {form}");
        }
    }
    assert_eq!(asked_of_many(None, |i| (StringMatch::Prefix(format!("/Of/Rule/{i}/")), true)), 1);
}

#[test]
fn expressions_in_any_case_are_found_by_their_letters() {
    let condition = |i| {
        let value = regex(&format!("(?i)/{}/[a-z]+", letters(i)));
        let uri = UriMatch { value, ignore_case: false, whole_segments: false, question: None };
        RequestMatch { uri: Some(uri), ..RequestMatch::default() }
    };
    let conditions: Vec<RequestMatch> = (0..MANY).map(condition).collect();
    let sent = Sent {
        path_and_query: format!("/{}/x", letters(700).to_uppercase()),
        authority: "a",
        headers: Vec::new(),
        namespace: "n",
        labels: BTreeMap::new(),
        port: 80,
    };
    let (found, asked) = by_index(&conditions, None, &Fields::default(), &sent);
    assert_eq!((found.map(|(place, _)| place), asked), (Some(700), 1));
}

#[test]
fn expressions_without_fixed_text_are_found_by_what_they_look_like() {
    let field = |name: &'static str| Some(Field::Header(HeaderName::from_static(name)));
    for field in [None, field("x")] {
        let digits = |i: usize| -> String { format!("{i:03}").chars().map(|digit| format!("[{digit}x]")).collect() };
        let without_text = |i| (regex(&format!("[a-z/]+/?{}.*[a-z]+", digits(i))), false);
        let with_the_same_text = |i| (regex(&format!("/of/rule/{}.*[a-z]+", digits(i))), false);
        assert_eq!(asked_of_many(field.clone(), without_text), 1, "{field:?}");
        assert_eq!(asked_of_many(field.clone(), with_the_same_text), 1, "{field:?}");
    }
}

#[test]
fn what_is_named_often_in_a_request_is_asked_for_once() {
    let fields = Fields(vec![Field::Query("q".into())]);
    let values = |_| vec![ValueMatch { field: 0, wanted: regex(".*/a[0-9]"), inverted: false, question: None }];
    let conditions: Vec<RequestMatch> =
        (0..20).map(|i| RequestMatch { values: values(i), ..RequestMatch::default() }).collect();
    let sent = Sent {
        path_and_query: format!("/?{}", "q=/a/a/a/a&".repeat(100)),
        authority: "a",
        headers: Vec::new(),
        namespace: "n",
        labels: BTreeMap::new(),
        port: 80,
    };
    assert_eq!(by_index(&conditions, None, &fields, &sent), (None, 20));
}

#[test]
fn several_lines_of_a_header_are_asked_for_once() {
    let fields = Fields(vec![Field::Header(HeaderName::from_static("y"))]);
    let about = |wanted| {
        let values = vec![ValueMatch { field: 0, wanted, inverted: false, question: None }];
        // One more that no request has, so that the header's condition holds for none.
        RequestMatch { uri: None, client: ClientMatch { port: Some(1), ..ClientMatch::default() }, values }
    };
    let exact = |i: usize| about(StringMatch::Exact(format!("/a/{i}")));
    let prefix = |i: usize| about(StringMatch::Prefix("/a/7".repeat(i)));
    let needle = regex(".*/a/[0-9]");
    // More texts than are remembered without memory of their own.
    let conditions: Vec<_> = (0..600).flat_map(|i| [exact(i), prefix(i % 20), about(needle.clone())]).collect();
    for line in ["/a/599", "/a/7/a/7/a/7"] {
        let sent = |lines| Sent {
            path_and_query: "/".into(),
            authority: "a",
            headers: vec![("y", line); lines],
            namespace: "n",
            labels: BTreeMap::new(),
            port: 80,
        };
        let asked = |lines| by_index(&conditions, None, &fields, &sent(lines)).1;
        assert_eq!(asked(100), asked(1), "{line}");
    }
}
