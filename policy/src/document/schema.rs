//! JSON Schemas of the documents, for editors.

use schemars::Schema;
use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Place};

/// The JSON Schema (draft 2020-12) of a kind's documents.
pub fn schema_of(kind: &Kind) -> Schema {
    let mut inner = (kind.schema)();
    let definitions = inner.remove("$defs");
    inner.remove("$schema");
    inner.remove("title");
    let description = inner.remove("description");

    let versions: Vec<String> = kind.api_versions().collect();
    let mut metadata = Map::from_iter([
        ("name".to_owned(), json!({ "type": "string" })),
        ("labels".to_owned(), text_map()),
        ("annotations".to_owned(), text_map()),
    ]);
    if kind.namespaced {
        metadata.insert("namespace".to_owned(), json!({ "type": "string" }));
    }
    let mut properties = match (kind.place, inner.remove("properties")) {
        (Place::Root, Some(Value::Object(properties))) => properties,
        (Place::Root, _) => Map::new(),
        (Place::Spec, fields) => {
            if let Some(fields) = fields {
                inner.insert("properties".to_owned(), fields);
            }
            Map::from_iter([("spec".to_owned(), inner.as_value().clone())])
        }
    };
    properties.insert("apiVersion".to_owned(), json!({ "enum": versions }));
    properties.insert("kind".to_owned(), json!({ "const": kind.kind }));
    properties.insert("metadata".to_owned(), json!({ "type": "object", "properties": metadata, "required": ["name"] }));
    properties.insert("status".to_owned(), json!({ "type": "object" }));

    let mut schema = Map::from_iter([
        ("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema")),
        ("title".to_owned(), json!(kind.kind)),
        ("type".to_owned(), json!("object")),
        ("properties".to_owned(), properties.into()),
        ("required".to_owned(), json!(["apiVersion", "kind", "metadata"])),
        ("additionalProperties".to_owned(), json!(false)),
    ]);
    schema.extend(description.map(|description| ("description".to_owned(), description)));
    schema.extend(definitions.map(|definitions| ("$defs".to_owned(), definitions)));
    schema.into()
}

fn text_map() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" } })
}

#[cfg(test)]
pub(crate) mod tests {
    use weft_wire::id::Namespace;

    use super::*;
    use crate::{
        document::{ParsedDocument, parse_yaml},
        kinds::kinds,
    };

    /// Asserts that a document that was accepted is what the schema of its kind says.
    pub(crate) fn assert_fits_its_schema(document: &ParsedDocument) {
        let key = &document.key;
        let kind = kinds().iter().find(|kind| *kind.kind == *key.kind && *kind.group == *key.group).unwrap();
        let schema = schema_of(kind).to_value();
        let json: Value = serde_json::from_str(&document.json).unwrap();
        assert_eq!(violation(&schema, &schema, &json), None, "{key}");
    }

    /// Calls `visit` with every schema in a schema.
    fn each_schema(value: &Value, visit: &mut impl FnMut(&Map<String, Value>)) {
        match value {
            Value::Object(schema) => {
                visit(schema);
                schema.values().for_each(|inner| each_schema(inner, visit));
            }
            Value::Array(items) => items.iter().for_each(|inner| each_schema(inner, visit)),
            _ => {}
        }
    }

    /// What a value lacks of a schema. Knows the keywords that our schemas use and panics at any other.
    fn violation(root: &Value, schema: &Value, value: &Value) -> Option<String> {
        let Value::Object(keywords) = schema else {
            return (*schema != json!(true)).then(|| format!("{value} is not allowed"));
        };
        let fails = |schema: &Value, value: &Value| violation(root, schema, value);
        let each = |keyword: &Value| keyword.as_array().unwrap().clone();
        keywords.iter().find_map(|(keyword, wanted)| {
            let number = || wanted.as_f64().unwrap();
            let chars = || value.as_str().map(|text| text.chars().count() as f64);
            let items = || value.as_array().map(|items| items.len() as f64);
            let found = match keyword.as_str() {
                "$schema" | "title" | "description" | "$defs" | "format" | "default" => None,
                "$ref" => fails(root.pointer(wanted.as_str().unwrap().strip_prefix('#').unwrap()).unwrap(), value),
                "type" => {
                    let types = if wanted.is_array() { each(wanted) } else { vec![wanted.clone()] };
                    (!types.iter().any(|name| is_of_type(value, name.as_str().unwrap())))
                        .then(|| format!("no {wanted}"))
                }
                "const" => (value != wanted).then(|| format!("not {wanted}")),
                "enum" => (!each(wanted).contains(value)).then(|| format!("not in {wanted}")),
                "anyOf" | "oneOf" => {
                    let held = each(wanted).iter().filter(|schema| fails(schema, value).is_none()).count();
                    (held == 0 || (held > 1 && keyword == "oneOf")).then(|| format!("{held} alternatives hold"))
                }
                "allOf" => each(wanted).iter().find_map(|schema| fails(schema, value)),
                "required" => {
                    let is_missing = |name: &Value| value.is_object() && value.get(name.as_str().unwrap()).is_none();
                    each(wanted).into_iter().find(is_missing).map(|name| format!("{name} is missing"))
                }
                "properties" => {
                    wanted.as_object().unwrap().iter().find_map(|(name, schema)| {
                        fails(schema, value.get(name)?).map(|what| format!("{name}: {what}"))
                    })
                }
                "additionalProperties" => {
                    let known = keywords.get("properties").and_then(Value::as_object);
                    let fields = value.as_object().into_iter().flatten();
                    let mut others = fields.filter(|(name, _)| known.is_none_or(|known| !known.contains_key(*name)));
                    others.find_map(|(name, value)| fails(wanted, value).map(|what| format!("{name}: {what}")))
                }
                "items" => value.as_array().into_iter().flatten().find_map(|item| fails(wanted, item)),
                "minItems" => items().is_some_and(|count| count < number()).then(|| "too few".into()),
                "maxItems" => items().is_some_and(|count| count > number()).then(|| "too many".into()),
                "minLength" => chars().is_some_and(|count| count < number()).then(|| "too short".into()),
                "maxLength" => chars().is_some_and(|count| count > number()).then(|| "too long".into()),
                "minimum" => value.as_f64().is_some_and(|value| value < number()).then(|| "too small".into()),
                "maximum" => value.as_f64().is_some_and(|value| value > number()).then(|| "too large".into()),
                "pattern" => {
                    let pattern = regex::Regex::new(wanted.as_str().unwrap()).unwrap();
                    value.as_str().is_some_and(|text| !pattern.is_match(text)).then(|| format!("no match of {wanted}"))
                }
                other => panic!("a keyword that this test does not know: {other}"),
            };
            found.map(|what| if value.is_object() { what } else { format!("{value}: {what}") })
        })
    }

    fn is_of_type(value: &Value, name: &str) -> bool {
        match name {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("no type of JSON Schema: {other}"),
        }
    }

    #[test]
    fn each_schema_refuses_unknown_fields_and_holds_what_it_refers_to() {
        for kind in kinds() {
            let schema = schema_of(kind).to_value();
            each_schema(&schema, &mut |inner| {
                // `metadata` and `status` may hold what a Kubernetes server writes.
                let is_open = inner
                    .get("properties")
                    .is_some_and(|fields| fields.get("name").is_some() && fields.get("labels").is_some());
                if inner.get("type") == Some(&json!("object"))
                    && inner.get("properties").is_some_and(Value::is_object)
                    && !is_open
                {
                    assert_eq!(inner.get("additionalProperties"), Some(&json!(false)), "{}: {inner:?}", kind.kind);
                }
                if let Some(Value::String(reference)) = inner.get("$ref") {
                    let found = reference.strip_prefix('#').and_then(|pointer| schema.pointer(pointer));
                    assert!(found.is_some(), "{}: {reference}", kind.kind);
                }
            });
        }
    }

    #[test]
    fn a_kind_and_its_fields_are_described() {
        for kind in kinds() {
            let schema = schema_of(kind);
            assert!(schema.get("description").is_some(), "{} has no description", kind.kind);
        }
    }

    #[test]
    fn the_demos_documents_are_what_their_schemas_say() {
        let demo = [
            include_str!("../../../deploy/demo/bookinfo.yaml"),
            include_str!("../../../deploy/demo/destination-rules.yaml"),
            include_str!("../../../deploy/demo/virtual-service-reviews.yaml"),
        ];
        let parse = |text: &str| parse_yaml(text, &Namespace::default_namespace()).unwrap().documents;
        let documents: Vec<ParsedDocument> = demo.into_iter().flat_map(parse).collect();
        assert!(documents.len() > 10);
        documents.iter().for_each(assert_fits_its_schema);
    }

    #[test]
    fn a_schema_refuses_what_reading_refuses() {
        let kind = kinds().iter().find(|kind| kind.kind == "HTTPRoute").unwrap();
        let schema = schema_of(kind).to_value();
        let is_valid = |document: &Value| violation(&schema, &schema, document).is_none();
        let document = |spec: Value| json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": "a" }, "spec": spec });
        assert!(is_valid(&document(
            json!({ "hostnames": ["*.example.com"], "rules": [{ "timeouts": { "request": "1s" } }] })
        )));
        for spec in [
            json!({ "hostname": "a" }),
            json!({ "hostnames": ["a.*"] }),
            json!({ "rules": [] }),
            json!({ "rules": [{ "timeouts": { "request": "1.5s" } }] }),
            json!({ "rules": [{ "backendRefs": [{ "name": "a", "port": 0 }] }] }),
        ] {
            assert!(!is_valid(&document(spec.clone())), "{spec}");
        }
    }
}
