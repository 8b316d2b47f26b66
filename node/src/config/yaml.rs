//! YAML to serde types, with the line of every field, so that an error can say where it is even when it is found
//! after parsing.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Error, Location, MessageFormatter, Spanned, UserMessageFormatter};

use super::FieldError;

/// Where the fields of one file are. Keys are paths such as `services[0].healthCheck.interval`.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<String, Place>);

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Where the field's name is, or the element of a list.
    key: Location,
    value: Location,
}

impl Places {
    /// The line of a field, or of the closest thing around it that the file has; 0 if it has nothing.
    pub(super) fn line(&self, field: &str) -> u64 {
        let mut path = field;
        loop {
            if let Some(place) = self.0.get(path) {
                return place.key.line();
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return 0,
            }
        }
    }

    /// The field whose name or value is at this place, or the one that begins there and is deepest.
    fn field_at(&self, location: Location) -> Option<&str> {
        let at = |place: Location| (place.line(), place.column()) == (location.line(), location.column());
        let hits = self.0.iter().filter(|(_, place)| at(place.key) || at(place.value));
        hits.map(|(path, _)| path.as_str()).max_by_key(|path| path.len())
    }

    fn add(&mut self, path: String, key: Location, value: Spanned<Node>) {
        self.0.insert(path.clone(), Place { key, value: value.referenced });
        self.walk(&path, value.value);
    }

    fn walk(&mut self, path: &str, node: Node) {
        match node {
            Node::Scalar => {}
            Node::List(elements) => {
                for (i, element) in elements.into_iter().enumerate() {
                    self.add(format!("{path}[{i}]"), element.referenced, element);
                }
            }
            Node::Map(entries) => {
                let dot = if path.is_empty() { "" } else { "." };
                for (key, value) in entries {
                    self.add(format!("{path}{dot}{}", key.value), key.referenced, value);
                }
            }
        }
    }
}

/// Parses a file. The error names the line (0 if unknown), the field and what is wrong with it.
pub(super) fn parse<T: DeserializeOwned + Default>(text: &str) -> Result<(T, Places), (u64, FieldError)> {
    let options = || serde_saphyr::options! { with_snippet: false };
    let mut places = Places::default();
    // A file of comments only is a document without fields.
    let root: Option<Node> =
        serde_saphyr::from_str_with_options(text, options()).map_err(|error| explain(&error, &places))?;
    if let Some(root) = root {
        places.walk("", root);
    }
    let value: Option<T> =
        serde_saphyr::from_str_with_options(text, options()).map_err(|error| explain(&error, &places))?;
    Ok((value.unwrap_or_default(), places))
}

fn explain(error: &Error, places: &Places) -> (u64, FieldError) {
    let location = error.location();
    let found = location.and_then(|location| places.field_at(location)).unwrap_or_default().to_owned();
    let (field, problem) = match error.without_snippet() {
        Error::SerdeUnknownField { field, expected, .. } => (found, unknown_field(field, expected)),
        Error::SerdeMissingField { field, .. } => (found, format!("{field} is missing")),
        Error::DuplicateMappingKey { key: Some(key), .. } => (found, format!("{key} is given twice")),
        other => (found, UserMessageFormatter.format_message(other).into_owned()),
    };
    (location.map_or(0, |location| location.line()), FieldError { field, problem })
}

fn unknown_field(field: &str, expected: &[&'static str]) -> String {
    let distance = |known: &&&str| strsim::damerau_levenshtein(&field.to_lowercase(), &known.to_lowercase());
    match expected.iter().min_by_key(distance) {
        Some(close) if distance(&close) <= field.len().div_ceil(3) => {
            format!("there is no field {field:?}; did you mean {close:?}?")
        }
        _ => format!("there is no field {field:?}; the fields here are {}", expected.join(", ")),
    }
}

/// The shape of a file, with places instead of values.
enum Node {
    Scalar,
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;

        impl<'de> Visitor<'de> for Shape {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }
            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Scalar)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }
            fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
                Ok(Node::Scalar)
            }
            fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
                Ok(Node::Scalar)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }
            fn visit_str<E>(self, _: &str) -> Result<Node, E> {
                Ok(Node::Scalar)
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(Node::List(elements))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }

        deserializer.deserialize_any(Shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Outer {
        #[serde(default)]
        inner_list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code, reason = "only its type matters here")]
        port: u64,
    }

    fn error(text: &str) -> (u64, String) {
        let (line, error) = parse::<Outer>(text).unwrap_err();
        (line, error.to_string())
    }

    #[test]
    fn every_field_has_its_line() {
        let (_, places) = parse::<Outer>("# first\ninnerList:\n  - port: 1\n  - {\n    port: 2}\n").unwrap();
        assert_eq!(places.line("innerList"), 2);
        assert_eq!(places.line("innerList[0].port"), 3);
        assert_eq!(places.line("innerList[1].port"), 5);
        assert_eq!(places.line("innerList[0].missing"), 3);
        assert_eq!(places.line("elsewhere"), 0);
    }

    #[test]
    fn errors_of_the_parser_name_line_and_field() {
        for (text, line, expected) in [
            ("\ninerList: []", 2, r#"inerList: there is no field "inerList"; did you mean "innerList"?"#),
            (
                "innerList:\n  - {port: 1, colour: red}",
                2,
                r#"innerList[0].colour: there is no field "colour"; the fields here are port"#,
            ),
            ("innerList:\n- {port: 1}\n- {}", 3, "innerList[1]: port is missing"),
            ("innerList:\n- {port: 1, port: 2}", 2, "port is given twice"),
        ] {
            let (at, message) = error(text);
            assert_eq!((at, message.as_str()), (line, expected));
        }
        let (line, message) = error("innerList:\n- port: many");
        assert!(line == 2 && message.starts_with("innerList[0].port: "), "{line} {message}");
        assert_eq!(error("\ninnerList: [\n").0, 2);
    }

    #[test]
    fn a_file_without_fields_is_all_defaults() {
        for text in ["", "# only a comment\n", "---\n"] {
            assert!(parse::<Outer>(text).unwrap().0.inner_list.is_empty(), "{text:?}");
        }
    }
}
