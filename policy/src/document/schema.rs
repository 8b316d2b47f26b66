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
