//! `weft get`.

use serde_json::{Value, json};
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
            let rows: Vec<_> = documents.iter().map(|document| row(document, now)[..columns].to_vec()).collect();
            Ok(output::print(&output::table(&HEADER[..columns], &rows))?)
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
            status: DocumentStatus { observed_generation: 2_000, conditions, nodes },
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
    fn names_are_those_that_kubectl_prints() {
        let key = document(Vec::new()).key;
        assert_eq!(reference(&key), "virtualservice.networking.istio.io/reviews");
        assert_eq!(reference(&DocumentKey { group: String::new(), kind: "Service".into(), ..key }), "service/reviews");
    }
}
