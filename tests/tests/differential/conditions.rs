//! What a rule's `match` asks for, and requests that meet it or just miss it.

use serde_json::{Map, Value, json};

use crate::{
    generator::{Probe, Source},
    words::{self, Examples},
};

/// One entry of `match`: which fields, each with its condition.
pub(crate) struct Match {
    uri: Option<Condition>,
    ignore_uri_case: bool,
    /// By the field's name, and for those that are maps the name in it.
    fields: Vec<(&'static str, &'static str, Condition)>,
}

/// Fields that hold one condition, with the header that it is on.
const SINGLE: &[(&str, &str)] = &[("method", ":method"), ("authority", ":authority"), ("scheme", ":scheme")];

impl Match {
    pub(crate) fn new(source: &mut Source<'_>) -> Self {
        let uri = source.chance(0.75).then(|| Condition::on_path(source));
        let mut fields: Vec<(&str, &str, Condition)> = Vec::new();
        for (field, header) in SINGLE {
            if source.gives(field, 0.15) {
                fields.push((field, header, Condition::on(source, header)));
            }
        }
        for (field, probability) in [("headers", 0.4), ("headers", 0.2), ("withoutHeaders", 0.3)] {
            // The operations of a rule have the same name as its conditions, which are long in force.
            if if field == "headers" { source.chance(probability) } else { source.gives(field, probability) } {
                let name = source.pick(words::HEADERS);
                if fields.iter().all(|(_, other, _)| !other.eq_ignore_ascii_case(name)) {
                    fields.push((field, name, Condition::on(source, name)));
                }
            }
        }
        if source.gives("queryParams", 0.3) {
            let name = source.pick(words::PARAMETERS);
            fields.push(("queryParams", name, Condition::on_text(source, words::PARAMETER_VALUES)));
        }
        Self { uri, ignore_uri_case: source.chance(0.25), fields }
    }

    pub(crate) fn document(&self) -> Value {
        let mut document = Map::new();
        if let Some(uri) = &self.uri {
            document.insert("uri".into(), uri.wanted.clone());
        }
        if self.ignore_uri_case {
            document.insert("ignoreUriCase".into(), true.into());
        }
        for (field, name, condition) in &self.fields {
            let wanted = condition.wanted.clone();
            if SINGLE.iter().any(|(single, _)| single == field) {
                document.insert((*field).into(), wanted);
            } else {
                document.entry(*field).or_insert_with(|| json!({}))[*name] = wanted;
            }
        }
        document.into()
    }

    /// One request that meets all conditions, and for each condition one that misses it alone.
    pub(crate) fn probes(&self, source: &mut Source<'_>) -> Vec<Probe> {
        let mut good = Probe::any(source);
        if let Some(uri) = &self.uri {
            good.set_path(&source.pick(&uri.met_by));
        }
        for (field, name, condition) in &self.fields {
            condition.put(source, &mut good, field, name, true);
        }
        let mut probes = vec![good.clone()];
        if let Some(uri) = self.uri.as_ref().filter(|uri| !uri.missed_by.is_empty()) {
            let mut bad = good.clone();
            bad.set_path(&source.pick(&uri.missed_by));
            probes.push(bad);
        }
        for (field, name, condition) in &self.fields {
            let mut bad = good.clone();
            condition.put(source, &mut bad, field, name, false);
            probes.push(bad);
        }
        if self.ignore_uri_case || source.chance(0.2) {
            good.set_path(&swap_case(good.path()));
            probes.push(good);
        }
        probes
    }
}

/// A `StringMatch`, with values that meet it and values that do not.
struct Condition {
    wanted: Value,
    met_by: Vec<String>,
    missed_by: Vec<String>,
}

impl Condition {
    fn on_path(source: &mut Source<'_>) -> Self {
        match source.pick(&["exact", "prefix", "prefix", "regex", "any"]) {
            "exact" => {
                let path = source.pick(words::PATHS);
                let missed = [format!("{path}x"), format!("{path}/"), swap_case(path), format!("/x{path}")];
                Self::new(json!({ "exact": path }), [path.to_owned()], missed)
            }
            "prefix" => {
                let prefix = source.pick(words::PREFIXES);
                let met = [prefix.to_owned(), format!("{prefix}b"), format!("{prefix}/c"), format!("{prefix}{prefix}")];
                let missed = [swap_case(prefix), prefix[..prefix.len() - 1].to_owned(), format!("/x{prefix}")];
                let missed = missed.into_iter().filter(|path| path.starts_with('/'));
                Self::new(json!({ "prefix": prefix }), met, missed)
            }
            "regex" => Self::regex(source, words::PATH_REGEXES),
            _ => Self::new(json!({}), ["/anything".to_owned()], []),
        }
    }

    /// On what this header, or pseudo-header, has.
    fn on(source: &mut Source<'_>, name: &str) -> Self {
        match name {
            ":method" => Self::on_method(source),
            ":authority" | "Host" => Self::on_authority(source),
            ":scheme" => {
                let wanted = [json!({ "exact": "http" }), json!({ "exact": "https" }), json!({ "prefix": "h" })];
                Self::new(source.pick(&wanted), ["http".into()], [])
            }
            _ => Self::on_text(source, words::VALUES),
        }
    }

    fn on_method(source: &mut Source<'_>) -> Self {
        match source.pick(&["exact", "prefix", "regex"]) {
            "exact" => {
                let method = source.pick(words::METHODS);
                let others = words::METHODS.iter().map(|other| (*other).to_owned());
                Self::new(json!({ "exact": method }), [method.to_owned()], others)
            }
            "prefix" => Self::new(json!({ "prefix": "P" }), ["PUT".into(), "PATCH".into()], ["GET".into()]),
            _ => Self::new(json!({ "regex": "GET|PO.*" }), ["GET".into(), "POST".into()], ["PUT".into()]),
        }
    }

    /// The host stays one of the service's, so that it is this VirtualService that does not match.
    fn on_authority(source: &mut Source<'_>) -> Self {
        let service = source.service.clone();
        let (with_port, with_dot) = (format!("{service}:80"), format!("{service}."));
        let (wanted, is_met): (Value, &dyn Fn(&str) -> bool) = match source.pick(&[0, 1, 2, 3]) {
            0 => (json!({ "exact": service }), &|host| host == service),
            1 => (json!({ "exact": with_port }), &|host| host == with_port),
            2 => (json!({ "prefix": with_dot }), &|host| host.starts_with(&with_dot)),
            _ => (json!({ "regex": ".*:80" }), &|host| host.ends_with(":80")),
        };
        let (met, missed): (Vec<String>, Vec<String>) = source.hosts().into_iter().partition(|host| is_met(host));
        Self::new(wanted, met, missed)
    }

    fn on_text(source: &mut Source<'_>, (values, regexes): (&[&str], &[Examples])) -> Self {
        let anything = ["x".to_owned(), String::new()];
        match source.pick(&["exact", "exact", "prefix", "regex", "regex", "star", "any"]) {
            "exact" => {
                let value = source.pick(values);
                let missed = [format!("{value}x"), swap_case(value), format!("{value},{value}"), String::new()];
                Self::new(json!({ "exact": value }), [value.to_owned()], missed)
            }
            "prefix" => {
                let value = source.pick(values);
                let met = [value.to_owned(), format!("{value},b"), format!("{value}{value}")];
                Self::new(json!({ "prefix": value }), met, [format!("x{value}"), swap_case(value), String::new()])
            }
            "regex" => Self::regex(source, regexes),
            "star" => Self::new(json!({ "regex": "*" }), anything, []),
            _ => Self::new(json!({}), anything, []),
        }
    }

    fn regex(source: &mut Source<'_>, table: &[Examples]) -> Self {
        let (pattern, met, missed) = source.pick(table);
        let owned = |values: &[&str]| -> Vec<String> { values.iter().map(|value| (*value).to_owned()).collect() };
        Self::new(json!({ "regex": pattern }), owned(met), owned(missed))
    }

    /// What meets the condition is only meant to: the answer is what both proxies say of it.
    fn new(
        wanted: Value,
        met_by: impl IntoIterator<Item = String>,
        missed_by: impl IntoIterator<Item = String>,
    ) -> Self {
        let met_by: Vec<String> = met_by.into_iter().collect();
        let missed_by = missed_by.into_iter().filter(|value| !met_by.contains(value)).collect();
        Self { wanted, met_by, missed_by }
    }

    /// Makes a request meet this condition of a field, or miss it.
    fn put(&self, source: &mut Source<'_>, probe: &mut Probe, field: &str, name: &str, meet: bool) {
        // A condition that must not hold is missed by what meets it.
        let values = if meet == (field != "withoutHeaders") { &self.met_by } else { &self.missed_by };
        let mut values: Vec<Option<&str>> = values.iter().map(|value| Some(value.as_str())).collect();
        if !meet || values.is_empty() {
            values.push(None);
        }
        let value = source.pick(&values);
        match (field, value) {
            ("queryParams", Some(value)) => probe.add_parameter(&format!("{name}={value}")),
            ("queryParams", None) => {
                let without = probe.query().and_then(|query| query.strip_prefix(&format!("{name}=")));
                if let Some((_, rest)) = without.and_then(|rest| rest.split_once('&')) {
                    probe.target = format!("{}?{rest}", probe.path());
                }
            }
            _ => {
                probe.set_header(name, value);
                // Cookies are no list: what joins them is a semicolon. Envoy itself joins the lines of a few headers that
                // it keeps in a place of their own, and so matches them as one.
                if !["cookie", "user-agent"].contains(&name) && source.gives("several lines of a header", 0.5) {
                    probe.split_header(name);
                }
            }
        }
    }
}

fn swap_case(text: &str) -> String {
    let swap = |c: char| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
    text.chars().map(swap).collect()
}
