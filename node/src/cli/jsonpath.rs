//! kubectl's JSONPath templates, as far as weft knows them: `{.a.b}`, `{.items[*]['x','y']}`, `{..name}`,
//! `{.conditions[?(@.type=="Ready")].status}`, `{range .items[*]}{.metadata.name}{"\n"}{end}`.

mod path;
mod reader;

use std::str::FromStr;

use serde_json::Value;

pub(super) use self::path::{Path, compare};
use self::reader::Reader;

/// A template that was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Path(Path),
    /// What is between `range` and `end`, for each value.
    Range(Path, Vec<Self>),
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut reader = Reader::new(text);
        let parts = parts(&mut reader, false)?;
        match parts.iter().all(|part| matches!(part, Part::Text(_))) {
            true => Err(format!("{text:?} has no {{…}}: write a path in braces, such as {{.metadata.name}}")),
            false => Ok(Self(parts)),
        }
    }
}

fn parts(reader: &mut Reader<'_>, in_range: bool) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    loop {
        let text = reader.until(&['{']);
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        if !reader.eats("{") {
            return if in_range { Err("{range …} has no {end}".to_owned()) } else { Ok(parts) };
        }
        reader.skip_spaces();
        if reader.eats("end}") {
            return if in_range { Ok(parts) } else { Err("{end} has no {range …} before it".to_owned()) };
        }
        if reader.eats("range ") {
            let each = Path::read(reader)?;
            reader.expect("}")?;
            parts.push(Part::Range(each, self::parts(reader, true)?));
            continue;
        }
        parts.push(match reader.quoted()? {
            Some(text) => Part::Text(text),
            None => Part::Path(Path::read(reader)?),
        });
        reader.skip_spaces();
        reader.expect("}")?;
    }
}

impl Template {
    /// What it makes of a value. A field that is not there is nothing, as in kubectl.
    pub(super) fn render(&self, value: &Value) -> String {
        let mut text = String::new();
        render(&self.0, value, value, &mut text);
        text
    }
}

fn render(parts: &[Part], root: &Value, here: &Value, text: &mut String) {
    for part in parts {
        match part {
            Part::Text(own) => text.push_str(own),
            Part::Path(path) => {
                let found: Vec<String> = path.find(root, here).into_iter().map(shown).collect();
                text.push_str(&found.join(" "));
            }
            Part::Range(each, inner) => {
                each.find(root, here).into_iter().for_each(|one| render(inner, root, one, text))
            }
        }
    }
}

/// Text as it is, everything else as JSON.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> String {
        let value = json!({
            "kind": "List",
            "items": [
                { "metadata": { "name": "a", "labels": { "app.kubernetes.io/name": "x", "my-app": "y" } }, "n": 1,
                  "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Other", "status": "False" }] },
                { "metadata": { "name": "b" }, "n": 2.5, "conditions": [{ "type": "Ready", "status": "False" }] },
                { "metadata": { "name": "c" }, "none": null, "conditions": [] },
            ],
        });
        template.parse::<Template>().unwrap().render(&value)
    }

    #[test]
    fn paths_find_what_kubectl_finds() {
        for (template, expected) in [
            ("{.kind}", "List"),
            ("{$.kind}{@.kind}{ .kind }", "ListListList"),
            ("kind: {.kind}!", "kind: List!"),
            ("{.items[*].metadata.name}", "a b c"),
            ("{.items.*.metadata.name}", "a b c"),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1].metadata.name}", "c"),
            ("{.items[9].metadata.name}", ""),
            ("{.items[1:].metadata.name}", "b c"),
            ("{.items[:2].metadata.name}", "a b"),
            ("{.items[-2:-1].metadata.name}", "b"),
            ("{.items[0,2].metadata.name}", "a c"),
            ("{.items[0]['n','kind']}", "1"),
            ("{.items[0].metadata['name']}", "a"),
            ("{['kind']}", "List"),
            (r"{.items[0].metadata.labels.app\.kubernetes\.io/name}", "x"),
            ("{.items[0].metadata.labels.my-app}", "y"),
            ("{..name}", "a b c"),
            ("{.items[*].n}", "1 2.5"),
            ("{.items[1].metadata}", "{\"name\":\"b\"}"),
            ("{.items[0].conditions[?(@.type==\"Ready\")].status}", "True"),
            ("{.items[*].conditions[?(@.type == 'Ready')].status}", "True False"),
            ("{.items[?(@.n>1)].metadata.name}", "b"),
            ("{.items[?(@.n<=1)].metadata.name}", "a"),
            ("{.items[?(@.n)].metadata.name}", "a b"),
            ("{.items[?(@.metadata.name!=\"b\")].metadata.name}", "a c"),
            ("{.missing.field[0]}", ""),
            ("{range .items[*]}{.metadata.name}={.n}{\"\\n\"}{end}", "a=1\nb=2.5\nc=\n"),
            ("{range .items[*]}{range .conditions[*]}{.type} {end};{end}{$.kind}", "Ready Other ;Ready ;;List"),
            ("{\"{}\\t\"}{.kind}", "{}\tList"),
        ] {
            assert_eq!(rendered(template), expected, "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (template, words) in [
            ("", "has no {…}"),
            (".metadata.name", "has no {…}: write a path in braces"),
            ("{.a", "expected \"}\""),
            ("{.a}}{range .b}", "has no {end}"),
            ("{.a}{end}", "has no {range"),
            ("{.a[}", "is no index, name, slice or filter"),
            ("{.a[1}", "expected \"]\""),
            ("{.a[1:2:3]}", "expected \"]\""),
            ("{.a[?(@.b=~\"c\")]}", "is no comparison"),
            ("{.a[?(@.b==c)]}", "is neither text in quotes nor a number"),
            ("{.a[?(@.b==1 && @.c==2)]}", "expected \")]\""),
            ("{'a}", "no end"),
            ("{a.b}", "a path begins with"),
            ("{..}", "a name"),
        ] {
            let error = template.parse::<Template>().unwrap_err();
            assert!(error.contains(words), "{template}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_template_makes_it_panic(template in "[{}\\[\\]().*?@$=<>'\"\\\\a-c0-9,: -]{0,24}") {
            if let Ok(template) = template.parse::<Template>() {
                template.render(&json!({"a": [{"b": 1}, "c"], "b": {"a": null}}));
            }
        }
    }
}
