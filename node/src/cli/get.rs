//! `weft get`.

use serde_json::{Value, json};
use weft_policy::api::gateway::GROUP;
use weft_wire::document::DocumentKey;

use super::{
    Common, GetArgs,
    client::Client,
    output::{self, Format, age, data, line},
    select::Selection,
};
use crate::{
    admin::api::{Document, DocumentStatus, rfc3339},
    identity::wall_ms,
};

pub(super) async fn get(common: &Common, args: GetArgs) -> anyhow::Result<()> {
    let selection = Selection::new(&args.what, args.scope.namespace(), args.selector)?;
    let documents: Vec<Document> = Client::connect(&common.dir).await?.get("/api/v1/documents").await?;
    let (found, missing) = selection.find(&documents);
    if found.is_empty() && missing.is_empty() && common.output.is_for_people() {
        eprintln!("weft: no documents found{}", selection.place());
    } else if !found.is_empty() || missing.is_empty() {
        print(common.output, &found, selection.is_one())?;
    }
    anyhow::ensure!(
        missing.is_empty(),
        "{} not found{}: `weft get {} -A` lists what there is",
        missing.join(", "),
        selection.place(),
        args.what[0].split('/').next().unwrap_or("all"),
    );
    Ok(())
}

const HEADER: [&str; 9] = ["KIND", "NAMESPACE", "NAME", "STATUS", "AUTHOR", "UPDATED", "AGE", "NODES", "MESSAGE"];
/// Digits of a Secret's digest that are shown.
const DIGEST_SHOWN: usize = 12;
/// Columns that are always shown.
const NARROW: usize = 7;

fn print(format: Format, documents: &[Document], alone: bool) -> anyhow::Result<()> {
    match format {
        Format::Table | Format::Wide => {
            let (now, columns) = (wall_ms(), if format == Format::Wide { HEADER.len() } else { NARROW });
            let own = own_columns(documents);
            let mut header = HEADER[..columns].to_vec();
            header.splice(NAMED..NAMED, own.iter().map(|(name, _)| *name));
            let rows = documents.iter().map(|document| {
                let mut row = row(document, now)[..columns].to_vec();
                row.splice(NAMED..NAMED, own.iter().map(|(_, value)| value(document)));
                row
            });
            Ok(output::print(&output::table(&header, &rows.collect::<Vec<_>>()))?)
        }
        Format::Name => {
            Ok(documents.iter().try_for_each(|document| line(format_args!("{}", reference(&document.key))))?)
        }
        Format::Json | Format::Yaml | Format::Sarif => {
            // As kubectl: one alone or several as a List, ready to be applied again.
            let mut items: Vec<Value> = documents.iter().map(with_status).collect();
            let value = match items.as_mut_slice() {
                [only] if alone => only.take(),
                _ => json!({ "apiVersion": "v1", "kind": "List", "items": items }),
            };
            data(format, &value, &[], |_| vec![])
        }
    }
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

/// As kubectl names things: `virtualservice.networking.istio.io/reviews`, `service/reviews`.
pub(super) fn reference(key: &DocumentKey) -> String {
    let kind = key.kind.to_ascii_lowercase();
    match key.group.as_str() {
        "" => format!("{kind}/{}", key.name),
        group => format!("{kind}.{group}/{}", key.name),
    }
}

/// The document with what a server sets. Applying it changes nothing: those fields are dropped.
fn with_status(document: &Document) -> Value {
    let mut value = document.body.clone();
    value["metadata"]["creationTimestamp"] = rfc3339(document.created_millis).into();
    value["metadata"]["generation"] = document.updated_millis.into();
    value["status"] = json!(document.status);
    // Of a Secret's content, enough to tell versions apart.
    if let Some(Value::String(digest)) = value.pointer_mut("/content/digest") {
        digest.truncate(DIGEST_SHOWN);
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy;
    use weft_policy::document::parse_yaml;
    use weft_wire::id::Namespace;

    use super::*;
    use crate::admin::api::{Condition, Nodes};

    const RULE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\n\
                        spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}\n";

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
        let value = with_status(&document);
        assert_eq!(value["metadata"]["creationTimestamp"], "1970-01-01T00:00:01.000Z");
        assert_eq!(
            (&value["metadata"]["generation"], &value["status"]["observedGeneration"]),
            (&json!(2000), &json!(2000))
        );
        assert_eq!(value["status"]["conditions"][0]["type"], "Accepted");
        assert_eq!(value["status"]["nodes"], json!({ "current": 1, "total": 2, "lagging": ["b"] }));
        let yaml = output::yaml(&value).unwrap();
        let again = parse_yaml(&yaml, &Namespace::default_namespace()).unwrap().documents.remove(0);
        assert_eq!(again, parse_yaml(RULE, &Namespace::default_namespace()).unwrap().documents.remove(0));
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

    #[test]
    fn names_are_those_that_kubectl_prints() {
        let key = document(Vec::new()).key;
        assert_eq!(reference(&key), "virtualservice.networking.istio.io/reviews");
        assert_eq!(reference(&DocumentKey { group: String::new(), kind: "Service".into(), ..key }), "service/reviews");
    }
}
