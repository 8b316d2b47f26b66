//! `weft get`.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::sleep;
use weft_policy::api::gateway::GROUP;
use weft_wire::document::DocumentKey;

use super::{
    Common, GetArgs,
    client::Client,
    jsonpath::{Path, compare},
    output::{self, Format, age, data, line},
    select::Selection,
};
use crate::{
    admin::api::{Document, DocumentStatus},
    drafts::reference,
    identity::wall_ms,
};

/// How long a watch waits before it looks again.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn get(common: &Common, args: GetArgs) -> anyhow::Result<()> {
    let selection = Selection::new(&args.what, args.scope.namespace(), args.selector)?;
    let mut client = Client::connect(&common.dir).await?;
    let documents: Vec<Document> = client.get(DOCUMENTS).await?;
    let (mut found, missing) = selection.find(&documents);
    if let Some(path) = &args.sort_by {
        sort(&mut found, path);
    }
    let shown = Shown {
        format: &common.output,
        has_header: !args.no_headers,
        has_labels: args.show_labels,
        // Whoever watches gets each by itself.
        alone: selection.is_one() || args.watch,
    };
    if found.is_empty() && missing.is_empty() && common.output.is_for_people() {
        eprintln!("weft: no documents found{}", selection.place());
    } else if !found.is_empty() || (missing.is_empty() && !args.watch) {
        shown.print(&found)?;
    }
    anyhow::ensure!(
        missing.is_empty(),
        "{} not found{}: `weft get {} -A` lists what there is",
        missing.join(", "),
        selection.place(),
        args.what[0].split('/').next().unwrap_or("all"),
    );
    if args.watch {
        watch(&mut client, &selection, found, Shown { has_header: false, ..shown }).await?;
    }
    Ok(())
}

const DOCUMENTS: &str = "/api/v1/documents";

/// Prints what changes, without end. A document that is deleted is printed as it was last.
async fn watch(
    client: &mut Client,
    selection: &Selection,
    mut known: Vec<Document>,
    shown: Shown<'_>,
) -> anyhow::Result<()> {
    loop {
        sleep(WATCH_INTERVAL).await;
        let documents: Vec<Document> = client.get(DOCUMENTS).await?;
        let (now, _) = selection.find(&documents);
        let changed = changed(&known, &now);
        if !changed.is_empty() {
            shown.print(&changed)?;
        }
        known = now;
    }
}

/// Those that are new, otherwise than before, or gone.
fn changed(before: &[Document], now: &[Document]) -> Vec<Document> {
    let known: HashMap<&DocumentKey, &Document> = before.iter().map(|document| (&document.key, document)).collect();
    let is_same =
        |document: &Document| known.get(&document.key).is_some_and(|known| known.printed() == document.printed());
    let held: HashSet<&DocumentKey> = now.iter().map(|document| &document.key).collect();
    let others = now.iter().filter(|document| !is_same(document));
    let gone = before.iter().filter(|document| !held.contains(&document.key));
    others.chain(gone).cloned().collect()
}

fn sort(documents: &mut [Document], path: &Path) {
    documents.sort_by_cached_key(|document| {
        let value = document.printed();
        SortKey(path.find(&value, &value).first().copied().cloned())
    });
}

/// Nothing comes last, and what cannot be compared keeps its place.
struct SortKey(Option<Value>);

impl Ord for SortKey {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => compare(a, b).unwrap_or_else(|| rank(a).cmp(&rank(b))),
            (a, b) => b.is_some().cmp(&a.is_some()),
        }
    }
}

/// Of values of different types, which stand together.
fn rank(value: &Value) -> u8 {
    match value {
        Value::Bool(_) => 0,
        Value::Number(_) => 1,
        Value::String(_) => 2,
        Value::Array(_) | Value::Object(_) | Value::Null => 3,
    }
}

impl PartialOrd for SortKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SortKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for SortKey {}

const HEADER: [&str; 9] = ["KIND", "NAMESPACE", "NAME", "STATUS", "AUTHOR", "UPDATED", "AGE", "NODES", "MESSAGE"];
/// Digits of a Secret's digest that are shown.
/// Columns that are always shown.
const NARROW: usize = 7;

/// How documents are printed.
#[derive(Clone, Copy)]
struct Shown<'a> {
    format: &'a Format,
    has_header: bool,
    has_labels: bool,
    /// Each by itself, and not as a list.
    alone: bool,
}

impl Shown<'_> {
    fn print(&self, documents: &[Document]) -> anyhow::Result<()> {
        match self.format {
            Format::Table | Format::Wide => Ok(output::print(&self.table(documents, wall_ms()))?),
            Format::Name => {
                Ok(documents.iter().try_for_each(|document| line(format_args!("{}", reference(&document.key))))?)
            }
            _ => {
                let mut items: Vec<Value> = documents.iter().map(Document::printed).collect();
                if self.alone {
                    return items.iter_mut().try_for_each(|item| data(self.format, &item.take(), &[], |_| vec![]));
                }
                // As kubectl: ready to be applied again.
                let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
                data(self.format, &list, &[], |_| vec![])
            }
        }
    }

    fn table(&self, documents: &[Document], now: u64) -> String {
        let columns = if *self.format == Format::Wide { HEADER.len() } else { NARROW };
        let own = own_columns(documents);
        let rows = documents.iter().map(|document| {
            let mut row = row(document, now)[..columns].to_vec();
            row.splice(NAMED..NAMED, own.iter().map(|(_, value)| value(document)));
            row.extend(self.has_labels.then(|| labels(document)));
            row
        });
        let rows: Vec<Vec<String>> = rows.collect();
        if !self.has_header {
            return output::aligned(&rows);
        }
        let mut header = HEADER[..columns].to_vec();
        header.splice(NAMED..NAMED, own.iter().map(|(name, _)| *name));
        header.extend(self.has_labels.then_some("LABELS"));
        output::table(&header, &rows)
    }
}

/// As kubectl prints them.
fn labels(document: &Document) -> String {
    let labels = document.body["metadata"]["labels"].as_object();
    let labels = labels.into_iter().flatten();
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or(""))).collect();
    if labels.is_empty() { "<none>".to_owned() } else { labels.join(",") }
}

/// Columns before those of a kind's own.
const NAMED: usize = 3;

type Column = (&'static str, fn(&Document) -> String);

/// What kubectl shows of a kind, if all documents are of one.
fn own_columns(documents: &[Document]) -> &'static [Column] {
    const HOSTNAMES: Column = ("HOSTNAMES", |document| match document.body["spec"].get("hostnames") {
        Some(hostnames) => hostnames.to_string(),
        None => String::new(),
    });
    const ACCEPTED: Column = ("ACCEPTED", |document| condition_of(document, "Accepted"));
    const PROGRAMMED: Column = ("PROGRAMMED", |document| condition_of(document, "Programmed"));
    const CLASS: Column = ("CLASS", |document| text_of(document, "gatewayClassName"));
    // No gateway is served yet, so none has an address.
    const ADDRESS: Column = ("ADDRESS", |_| String::new());
    const CONTROLLER: Column = ("CONTROLLER", |document| text_of(document, "controllerName"));
    let Some(first) = documents.first().map(|document| &document.key) else { return &[] };
    let is_one_kind =
        documents.iter().all(|document| (&document.key.group, &document.key.kind) == (&first.group, &first.kind));
    match (first.group.as_str(), first.kind.as_str()) {
        _ if !is_one_kind => &[],
        (GROUP, "HTTPRoute" | "GRPCRoute" | "TLSRoute") => &[HOSTNAMES],
        (GROUP, "Gateway") => &[CLASS, ADDRESS, PROGRAMMED],
        (GROUP, "ListenerSet") => &[ACCEPTED, PROGRAMMED],
        (GROUP, "GatewayClass") => &[CONTROLLER, ACCEPTED],
        _ => &[],
    }
}

fn text_of(document: &Document, field: &str) -> String {
    document.body["spec"][field].as_str().unwrap_or_default().to_owned()
}

fn condition_of(document: &Document, kind: &str) -> String {
    let found = document.status.conditions.iter().find(|condition| condition.kind == kind);
    found.map(|condition| condition.status.clone()).unwrap_or_default()
}

fn row(document: &Document, now: u64) -> [String; HEADER.len()] {
    let Document { key, author, created_millis, updated_millis, status, .. } = document;
    let messages = status.conditions.iter().map(|condition| condition.message.as_str());
    [
        key.kind.clone(),
        key.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
        key.name.clone(),
        summary(status).to_owned(),
        author.clone(),
        age(now.saturating_sub(*updated_millis) / 1_000),
        age(now.saturating_sub(*created_millis) / 1_000),
        format!("{}/{}", status.nodes.current, status.nodes.total),
        messages.filter(|message| !message.is_empty()).collect::<Vec<_>>().join("; "),
    ]
}

fn summary(status: &DocumentStatus) -> &'static str {
    match status {
        status if status.lacks("Accepted") => "Invalid",
        status if status.lacks("Programmed") => "NotProgrammed",
        _ => "Programmed",
    }
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy;
    use weft_policy::document::{ParsedDocument, parse_yaml};
    use weft_wire::id::Namespace;

    use super::*;
    use crate::admin::api::{Condition, Nodes};

    const RULE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\n\
                        spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}\n";

    const VERSION: &str = "2000.0-00c0ffee";

    fn condition(kind: &str, status: &str, message: &str) -> Condition {
        Condition {
            kind: kind.into(),
            status: status.into(),
            reason: "Reason".into(),
            message: message.into(),
            observed_generation: 2_000,
            last_transition_time: None,
        }
    }

    fn document(conditions: Vec<Condition>) -> Document {
        let parsed = parse_yaml(RULE, &Namespace::default_namespace()).unwrap().documents.remove(0);
        let nodes = Nodes { current: 1, total: 2, lagging: vec!["b".into()] };
        Document {
            key: parsed.key,
            author: "spiffe://cluster.local/operator/admin".into(),
            created_millis: 1_000,
            updated_millis: 2_000,
            version: VERSION.parse().unwrap(),
            body: serde_json::from_str(&parsed.json).unwrap(),
            status: DocumentStatus {
                observed_generation: 2_000,
                conditions,
                parents: vec![],
                ancestors: vec![],
                listeners: vec![],
                addresses: vec![],
                nodes,
            },
        }
    }

    #[test]
    fn what_is_read_back_is_the_same_document() {
        let document = document(vec![condition("Accepted", "True", "")]);
        let value = document.printed();
        assert_eq!(value["metadata"]["creationTimestamp"], "1970-01-01T00:00:01.000Z");
        assert_eq!(value["metadata"]["resourceVersion"], VERSION);
        assert_eq!(
            (&value["metadata"]["generation"], &value["status"]["observedGeneration"]),
            (&json!(2000), &json!(2000))
        );
        assert_eq!(value["status"]["conditions"][0]["type"], "Accepted");
        assert_eq!(value["status"]["nodes"], json!({ "current": 1, "total": 2, "lagging": ["b"] }));
        let yaml = output::yaml(&value).unwrap();
        let again = parse_yaml(&yaml, &Namespace::default_namespace()).unwrap().documents.remove(0);
        let first = parse_yaml(RULE, &Namespace::default_namespace()).unwrap().documents.remove(0);
        assert_eq!(again, ParsedDocument { version: Some(document.version), ..first });
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_document_says_reads_the_same_as_yaml(text in proptest::prop_oneof![
            ".*",
            "[ \\n\\t:#'\"\\-|>&*!%@`{}\\[\\],?a~0-9]{0,12}",
            proptest::sample::select(vec!["yes", "null", "~", "1e3", "0x1f", "0o17", ".inf", "<<", "=", "2024-02-29", "true", "1_000"]).prop_map(str::to_owned),
        ]) {
            let mut body = document(Vec::new()).body;
            body["metadata"]["annotations"] = json!({ "a": text });
            let yaml = output::yaml(&body).unwrap();
            let parsed = parse_yaml(&yaml, &Namespace::default_namespace()).unwrap();
            proptest::prop_assert_eq!(parsed.documents.first().map(|one| &one.json), Some(&body.to_string()), "{}", yaml);
        }
    }

    #[test]
    fn a_row_says_whether_it_is_in_force_and_why_not() {
        for (conditions, status, message) in [
            (vec![condition("Accepted", "True", ""), condition("Programmed", "True", "")], "Programmed", ""),
            (
                vec![condition("Programmed", "False", "a"), condition("ResolvedRefs", "False", "b")],
                "NotProgrammed",
                "a; b",
            ),
            (vec![condition("Accepted", "False", "a"), condition("Programmed", "False", "b")], "Invalid", "a; b"),
        ] {
            let author = "spiffe://cluster.local/operator/admin";
            let expected =
                ["VirtualService", "default", "reviews", status, author, "3s", "4s", "1/2", message].map(str::to_owned);
            assert_eq!(row(&document(conditions), 5_000), expected);
        }
    }

    #[test]
    fn one_kind_alone_has_the_columns_that_kubectl_shows() {
        let routes = |kind: &str, spec: Value| {
            let mut document = document(vec![condition("Accepted", "True", ""), condition("Programmed", "False", "")]);
            document.key.group = GROUP.into();
            document.key.kind = kind.into();
            document.body["spec"] = spec;
            document
        };
        for (kind, spec, expected) in [
            ("HTTPRoute", json!({ "hostnames": ["a.b"] }), &[("HOSTNAMES", "[\"a.b\"]")][..]),
            ("HTTPRoute", json!({}), &[("HOSTNAMES", "")]),
            (
                "Gateway",
                json!({ "gatewayClassName": "istio" }),
                &[("CLASS", "istio"), ("ADDRESS", ""), ("PROGRAMMED", "False")],
            ),
            ("GatewayClass", json!({ "controllerName": "a/b" }), &[("CONTROLLER", "a/b"), ("ACCEPTED", "True")]),
            ("TCPRoute", json!({}), &[]),
        ] {
            let one = [routes(kind, spec)];
            let columns = own_columns(&one).iter().map(|(name, value)| (*name, value(&one[0]))).collect::<Vec<_>>();
            let columns: Vec<(&str, &str)> = columns.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(columns, expected, "{kind}");
        }
        let mixed = [routes("HTTPRoute", json!({})), document(vec![])];
        assert!(own_columns(&mixed).is_empty());
    }

    fn named(name: &str, labels: Value) -> Document {
        let mut document = document(vec![condition("Programmed", "True", "")]);
        document.key.name = name.into();
        document.body["metadata"]["name"] = name.into();
        document.body["metadata"]["labels"] = labels;
        document
    }

    #[test]
    fn tables_have_labels_and_no_header_as_asked() {
        let documents = [named("a", json!({ "app": "x", "v": "1" })), named("b", json!({}))];
        let table = |has_header, has_labels| {
            let shown = Shown { format: &Format::Table, has_header, has_labels, alone: false };
            let lines = shown.table(&documents, 5_000);
            lines.lines().map(|line| line.split_whitespace().next_back().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(table(true, true), ["LABELS", "app=x,v=1", "<none>"]);
        assert_eq!(table(true, false), ["AGE", "4s", "4s"]);
        assert_eq!(table(false, false), ["4s", "4s"]);
    }

    #[test]
    fn documents_are_sorted_by_what_a_path_leads_to() {
        let sorted = |path: &str| {
            let mut documents = [
                named("b", json!({ "rank": "2" })),
                named("a", json!({})),
                named("c", json!({ "rank": "10", "only": "x" })),
            ];
            sort(&mut documents, &Path::relaxed(path).unwrap());
            documents.map(|document| document.key.name).join(" ")
        };
        assert_eq!(sorted(".metadata.name"), "a b c");
        assert_eq!(sorted("{.metadata.labels.rank}"), "c b a", "as text, and those without come last");
        assert_eq!(sorted("metadata.labels.only"), "c b a");
        assert!(Path::relaxed("").is_err() && Path::relaxed(".a}").is_err());
    }

    #[test]
    fn a_watch_tells_of_what_is_new_other_or_gone() {
        let (a, b) = (named("a", json!({})), named("b", json!({})));
        let mut other = b.clone();
        other.status.nodes.current = 2;
        let told = |before: &[&Document], now: &[&Document]| {
            let owned = |all: &[&Document]| all.iter().map(|one| (*one).clone()).collect::<Vec<_>>();
            let changed = changed(&owned(before), &owned(now));
            changed.iter().map(|one| format!("{} {}", one.key.name, one.status.nodes.current)).collect::<Vec<_>>()
        };
        assert!(told(&[&a, &b], &[&b, &a]).is_empty());
        assert_eq!(told(&[&a], &[&a, &b]), ["b 1"]);
        assert_eq!(told(&[&a, &b], &[&a, &other]), ["b 2"]);
        assert_eq!(told(&[&a, &b], &[&b]), ["a 1"]);
    }

    #[test]
    fn names_are_those_that_kubectl_prints() {
        let key = document(Vec::new()).key;
        assert_eq!(reference(&key), "virtualservice.networking.istio.io/reviews");
        assert_eq!(reference(&DocumentKey { group: String::new(), kind: "Service".into(), ..key }), "service/reviews");
    }
}
