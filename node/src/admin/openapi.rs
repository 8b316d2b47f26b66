//! The admin API described for programs, by OpenAPI 3.1: what [`OPERATIONS`] has, and the schemas of its types.

use std::collections::BTreeMap;

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    api::Refusal,
    operations::{Answer, Asker, Description, OPERATIONS, names},
    sessions::{COOKIE, HEADER},
};

/// Where schemas stand in the description.
const SCHEMAS: &str = "/components/schemas";

/// The description.
pub(super) fn describe() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = SCHEMAS.into());
    // Of answers too it is said what they have to hold to be read: a node of an earlier version leaves out the rest.
    let mut generator = settings.for_deserialize().into_generator();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for description in OPERATIONS {
        let operation = operation(description, &mut generator);
        let method = description.method.as_str().to_ascii_lowercase();
        paths.entry(description.path).or_default().insert(method, operation);
    }
    generator.subschema_for::<Refusal>();
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "weft",
            "description": "The admin API of a node. On the unix socket in the node's data directory all of it is \
                            answered; on the loopback address what each operation's `x-weft-asker` says.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": { "Refused": {
                "description": "Why it was not done: 401 (sign in), 403, 404, or 422 with what is wrong with the \
                                request",
                "content": { "application/json": { "schema": { "$ref": format!("#{SCHEMAS}/Refusal") } } },
            } },
            "securitySchemes": {
                "cookie": { "type": "apiKey", "in": "cookie", "name": COOKIE },
                "token": { "type": "apiKey", "in": "header", "name": HEADER },
            },
        },
    })
}

fn operation(description: &Description, generator: &mut SchemaGenerator) -> Value {
    let Description { operation, asker, about, body, path, query, .. } = description;
    let in_path =
        names(path).map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = query.iter().map(|parameter| {
        json!({
            "name": parameter.name, "in": "query", "description": parameter.about, "schema": { "type": "string" }
        })
    });
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
    let mut told = json!({
        "operationId": format!("{operation:?}"),
        "summary": about,
        "x-weft-asker": match asker {
            Asker::Scraper => "anybody who reaches the address of `metrics`",
            Asker::Process => "every process of the host",
            Asker::Console => "who is signed in to the console",
            Asker::Owner => "the unix socket only",
        },
        "security": match asker {
            Asker::Console => json!([{ "cookie": [], "token": [] }]),
            _ => json!([]),
        },
        "responses": {
            "200": { "description": "Done", "content": content(description.answer, generator) },
            "default": { "$ref": "#/components/responses/Refused" },
        },
    });
    if !parameters.is_empty() {
        told["parameters"] = parameters.into();
    }
    if let Some(schema) = body {
        told["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema(generator) } } });
    }
    told
}

fn content(answer: Answer, generator: &mut SchemaGenerator) -> Value {
    let json_of = |schema: Schema| json!({ "application/json": { "schema": schema } });
    let text = |media: &str, about: &str| {
        let schema = json!({ "type": "string", "description": about });
        json!({ media: { "schema": schema } })
    };
    // OpenAPI 3.1 has no words for the type of an event.
    let events = |event: &Schema| {
        let each = event.get("$ref").and_then(Value::as_str).and_then(|name| name.rsplit('/').next());
        text("text/event-stream", &format!("Server-sent events; the data of each is a {}", each.unwrap_or("value")))
    };
    match answer {
        Answer::Nothing => json!({ "application/json": { "schema": { "type": "null" } } }),
        Answer::Text => text("text/plain", "Text"),
        Answer::Json(schema) => json_of(schema(generator)),
        Answer::Object => json!({ "application/json": { "schema": { "type": "object" } } }),
        Answer::Events(event) => events(&event(generator)),
        Answer::Lines => text("application/jsonl", "A line of JSON each"),
        Answer::JsonOrEvents(schema, event) => {
            let mut content = json_of(schema(generator));
            content["text/event-stream"] = events(&event(generator))["text/event-stream"].take();
            content
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::Method;

    use super::*;

    /// Calls `visit` with each object in a value.
    fn each_object(value: &Value, visit: &mut impl FnMut(&Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                visit(object);
                object.values().for_each(|value| each_object(value, visit));
            }
            Value::Array(values) => values.iter().for_each(|value| each_object(value, visit)),
            _ => {}
        }
    }

    #[test]
    fn all_that_is_referred_to_is_there_and_nothing_else() {
        let told = describe();
        let mut referred = BTreeSet::new();
        each_object(&told, &mut |object| {
            if let Some(Value::String(reference)) = object.get("$ref") {
                let pointer = reference.strip_prefix('#').expect("within the description");
                assert!(told.pointer(pointer).is_some(), "{reference} is not there");
                referred.insert(pointer.to_owned());
            }
        });
        // Events are named in words.
        let events = ["Told", "TapEvent"].map(|name| format!("{SCHEMAS}/{name}"));
        let schemas = told.pointer(SCHEMAS).and_then(Value::as_object).expect("schemas");
        for name in schemas.keys() {
            let pointer = format!("{SCHEMAS}/{name}");
            assert!(referred.contains(&pointer) || events.contains(&pointer), "nothing refers to {name}");
            assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name}: two types have that name");
        }
    }

    #[test]
    fn methods_of_operations_are_those_that_openapi_knows() {
        assert!(OPERATIONS.iter().all(|one| matches!(one.method, Method::GET | Method::POST)));
    }
}
