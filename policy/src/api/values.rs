//! Values that many documents have: numbers in a range, durations, labels, regular expressions, string matches.

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Deref, sync::Arc, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use weft_wire::id::is_dns_name;

use crate::pattern::{MAX_PATTERN_CHARS, Pattern};

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Int<const MIN: i64, const MAX: i64>(i64);

/// A port number.
pub type Port = Int<1, 65535>;
/// A port number, or 0 where there is none.
pub type PortOrZero = Int<0, 65535>;
/// A number that protobuf has as `uint32`.
pub type Count = Int<0, { u32::MAX as i64 }>;
/// A number that protobuf has as `int32`, and that must not be negative.
pub type Limit = Int<0, { i32::MAX as i64 }>;

impl<const MIN: i64, const MAX: i64> Int<MIN, MAX> {
    /// A number that the compiler sees to be in range.
    pub const fn constant<const VALUE: i64>() -> Self {
        const { assert!(MIN <= VALUE && VALUE <= MAX) };
        Self(VALUE)
    }

    pub fn get(self) -> i64 {
        self.0
    }
}

impl Port {
    pub fn number(self) -> u16 {
        self.0 as u16 // in range, by its type
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Int<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InRange<const MIN: i64, const MAX: i64>;
        impl<const MIN: i64, const MAX: i64> Visitor<'_> for InRange<MIN, MAX> {
            type Value = i64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
                let range = MIN..=MAX;
                let wrong = || E::invalid_value(de::Unexpected::Signed(value), &self);
                range.contains(&value).then_some(value).ok_or_else(wrong)
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
                self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
            }
        }
        deserializer.deserialize_i64(InRange::<MIN, MAX>).map(Self)
    }
}

impl<const MIN: i64, const MAX: i64> JsonSchema for Int<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Int{MIN}To{MAX}").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// A share in percent: 0, or 0.0001 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Share(f64);

impl Share {
    pub const ALL: Self = Self(100.0);

    /// `numerator` of `denominator`, at most all.
    pub fn of_parts(numerator: i64, denominator: i64) -> Self {
        Self((numerator as f64 / denominator as f64 * 100.0).clamp(0.0, 100.0))
    }

    pub fn of_percent(percent: Int<0, 100>) -> Self {
        Self(percent.get() as f64)
    }

    /// `percent` of all, from none to all.
    pub fn of_number(percent: f64) -> Self {
        Self(percent.clamp(0.0, 100.0))
    }

    pub fn percent(self) -> f64 {
        self.0
    }

    /// Whether one thing is of the share. `random` is a fresh, uniform number.
    pub fn includes(self, random: u64) -> bool {
        // Whole numbers up to 100 are exact, so 0 includes nothing and 100 everything.
        (random as f64) < self.0 / 100.0 * 2f64.powi(64) || self.0 >= 100.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(percent: f64) -> Result<Self, String> {
        match percent == 0.0 || (0.0001..=100.0).contains(&percent) {
            true => Ok(Self(percent)),
            false => Err(format!("is {percent}; it must be 0, or from 0.0001 to 100")),
        }
    }
}

impl JsonSchema for Share {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 100 })
    }
}

/// A list of `MIN` to `MAX` items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T, const MIN: usize, const MAX: usize>(Vec<T>);

impl<T, const MIN: usize, const MAX: usize> Default for List<T, MIN, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MIN: usize, const MAX: usize> List<T, MIN, MAX> {
    pub(crate) fn of_one(item: T) -> Self {
        const { assert!(MIN <= 1 && MAX >= 1) };
        Self(vec![item])
    }
}

impl<T, const MIN: usize, const MAX: usize> Deref for List<T, MIN, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize> Deserialize<'de> for List<T, MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = Vec::deserialize(deserializer)?;
        match items.len() {
            len if len < MIN => Err(de::Error::custom(format!("has {len} items; {MIN} are the least"))),
            len if len > MAX => Err(de::Error::custom(format!("has {len} items; {MAX} are the most"))),
            _ => Ok(Self(items)),
        }
    }
}

impl<T: JsonSchema, const MIN: usize, const MAX: usize> JsonSchema for List<T, MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("List{MIN}To{MAX}Of{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Vec::<T>::json_schema(generator);
        if MIN > 0 {
            schema.insert("minItems".into(), MIN.into());
        }
        schema.insert("maxItems".into(), MAX.into());
        schema
    }
}

/// Makes a type of text that must match an expression, which also stands in the type's JSON Schema.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $lengths:expr, $pattern:expr, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl std::ops::Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                static PATTERN: std::sync::LazyLock<Option<regex::Regex>> =
                    std::sync::LazyLock::new(|| regex::Regex::new($pattern).ok());
                let lengths: std::ops::RangeInclusive<usize> = $lengths;
                // Length first: a hostile text is not searched.
                let is_right = text.len() <= 4 * lengths.end()
                    && lengths.contains(&text.chars().count())
                    && PATTERN.as_ref().is_some_and(|pattern| pattern.is_match(&text));
                match is_right {
                    true => Ok(Self(text)),
                    false => Err(format!(
                        "{:?} is not {}, of {} to {} characters",
                        $crate::api::values::shortened(&text),
                        $what,
                        lengths.start(),
                        lengths.end()
                    )),
                }
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let lengths: std::ops::RangeInclusive<usize> = $lengths;
                schemars::json_schema!({
                    "type": "string",
                    "pattern": $pattern,
                    "minLength": lengths.start(),
                    "maxLength": lengths.end()
                })
            }
        }
    };
}
pub(crate) use checked_text;

/// The start of a text, for an error message.
pub(crate) fn shortened(text: &str) -> &str {
    let end = text.char_indices().nth(80).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

/// Istio's `Percent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Percent {
    #[serde(default)]
    pub value: Share,
}

/// A duration as Go writes it, such as `1.5s`, `10ms` or `1h30m`: whole milliseconds, `MIN_MS` or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span<const MIN_MS: u64>(Duration);

/// A duration of 1 ms or more: Istio's rule for most.
pub type Timeout = Span<1>;

impl<const MIN_MS: u64> Span<MIN_MS> {
    pub fn get(self) -> Duration {
        self.0
    }
}

impl<'de, const MIN_MS: u64> Deserialize<'de> for Span<MIN_MS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?.0;
        let duration = go_duration(&text)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is not a duration such as 1.5s, 10ms or 1h30m")))?;
        if duration < Duration::from_millis(MIN_MS) {
            return Err(de::Error::custom(format!(
                "{text:?} is below {MIN_MS}ms, the least; leave the field out for none"
            )));
        }
        if duration.subsec_nanos() % 1_000_000 != 0 {
            return Err(de::Error::custom(format!("{text:?} is not a whole number of milliseconds")));
        }
        Ok(Self(duration))
    }
}

impl<const MIN_MS: u64> JsonSchema for Span<MIN_MS> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("SpanFrom{MIN_MS}Ms").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^(([0-9]+(\.[0-9]*)?|\.[0-9]+)(h|m|s|ms|us|ns))+$" })
    }
}

/// Reads Go's syntax: numbers with units h, m, s, ms, us and ns, one after the other.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    if text.is_empty() || text.len() > 32 {
        return None;
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_nanos: u128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 9 {
            return None;
        }
        let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
        nanos = nanos.checked_add(parse(whole)?.checked_mul(unit_nanos)?)?;
        nanos = nanos.checked_add(parse(fraction)? * unit_nanos / 10u128.pow(fraction.len() as u32))?;
        rest = after;
    }
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// Text, whose error says how to make it such.
pub(crate) struct Text(pub(crate) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;
        impl Visitor<'_> for AnyText {
            type Value = String;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text (quote it)")
            }
            fn visit_str<E>(self, text: &str) -> Result<String, E> {
                Ok(text.to_owned())
            }
        }
        deserializer.deserialize_str(AnyText).map(Self)
    }
}

/// Labels, or a selector of them, as Kubernetes allows: `[DNS name/]name: value`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(transparent)]
pub struct Labels(pub BTreeMap<String, String>);

impl Deref for Labels {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Longest value or name part of a label, in characters.
const MAX_LABEL_PART: usize = 63;

/// Letters, digits, `-`, `_` and `.`, starting and ending with a letter or digit.
fn is_label_part(s: &str) -> bool {
    s.len() <= MAX_LABEL_PART
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && s.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// `[DNS name/]name`, as Kubernetes calls labels and protocols.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_dns_name) && is_label_part(name)
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let labels: BTreeMap<String, Text> = BTreeMap::deserialize(deserializer)?;
        for (key, Text(value)) in &labels {
            if !is_qualified_name(key) {
                let what = format!("{key:?} is not a label's name: [DNS name/]letters, digits, '-', '_', '.'");
                return Err(de::Error::custom(what));
            }
            if !value.is_empty() && !is_label_part(value) {
                let what = format!("{value:?} is not a label's value: 63 letters, digits, '-', '_', '.'");
                return Err(de::Error::custom(what));
            }
        }
        Ok(Self(labels.into_iter().map(|(key, Text(value))| (key, value)).collect()))
    }
}

/// A regular expression in RE2's syntax, of 1 to 1,024 characters, that must match the whole of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Regex(pub(crate) Arc<Pattern>);

impl<'de> Deserialize<'de> for Regex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = Text::deserialize(deserializer)?.0;
        Pattern::new(&source).map(|pattern| Self(Arc::new(pattern))).map_err(de::Error::custom)
    }
}

impl JsonSchema for Regex {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Regex".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX_PATTERN_CHARS })
    }
}

/// Istio's `StringMatch`: one of exact, prefix, suffix and regex, or nothing, which asks only that there be a value.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "StringMatchFields")]
pub enum StringMatch {
    #[default]
    Any,
    Exact(String),
    Prefix(String),
    Suffix(String),
    Regex(Regex),
}

/// Text that must be matched by one of these; an empty map asks only that there be a value.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "StringMatch")]
struct StringMatchFields {
    exact: Option<String>,
    prefix: Option<NonEmpty>,
    suffix: Option<NonEmpty>,
    regex: Option<AnyOrRegex>,
}

/// Text of at least one character.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct NonEmpty(String);

impl Deref for NonEmpty {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NonEmpty {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() { Err("must not be empty") } else { Ok(Self(text)) }
    }
}

impl JsonSchema for NonEmpty {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "NonEmpty".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

/// `*` stands for any value: it is no expression of its own, and Istio takes it so for headers.
struct AnyOrRegex(Option<Regex>);

impl<'de> Deserialize<'de> for AnyOrRegex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = Text::deserialize(deserializer)?.0;
        if source == "*" {
            return Ok(Self(None));
        }
        let pattern = Pattern::new(&source).map_err(de::Error::custom)?;
        Ok(Self(Some(Regex(Arc::new(pattern)))))
    }
}

impl JsonSchema for AnyOrRegex {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        Regex::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Regex::json_schema(generator)
    }
}

impl TryFrom<StringMatchFields> for StringMatch {
    type Error = &'static str;

    fn try_from(fields: StringMatchFields) -> Result<Self, Self::Error> {
        match (fields.exact, fields.prefix, fields.suffix, fields.regex) {
            (None, None, None, None) => Ok(Self::Any),
            (Some(exact), None, None, None) => Ok(Self::Exact(exact)),
            (None, Some(prefix), None, None) => Ok(Self::Prefix(prefix.0)),
            (None, None, Some(suffix), None) => Ok(Self::Suffix(suffix.0)),
            (None, None, None, Some(AnyOrRegex(regex))) => Ok(regex.map_or(Self::Any, Self::Regex)),
            _ => Err("only one of exact, prefix, suffix and regex may be given"),
        }
    }
}

impl JsonSchema for StringMatch {
    fn schema_name() -> Cow<'static, str> {
        "StringMatch".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        StringMatchFields::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_nothing_includes_nothing_and_of_all_everything() {
        for random in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!Share(0.0).includes(random) && Share::ALL.includes(random));
        }
        assert!(Share(50.0).includes(u64::MAX / 4) && !Share(50.0).includes(u64::MAX / 4 * 3));
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("1.5s", Some(1_500)),
            ("10ms", Some(10)),
            ("1h30m", Some(5_400_000)),
            ("0.001s", Some(1)),
            (".5s", Some(500)),
            ("5", None),
            ("", None),
            ("-1s", None),
            ("1.2.3s", None),
            (".s", None),
            ("1d", None),
            ("s", None),
            ("999999999999999999999999h", None),
        ] {
            assert_eq!(go_duration(text).map(|d| d.as_millis()), millis, "{text}");
        }
    }
}
