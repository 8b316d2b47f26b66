//! What a token says.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The claims of a verified token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

/// Claims that are lists of words in one text (RFC 8693, section 4.2, and what OAuth servers do alike).
const WORD_LISTS: [&str; 2] = ["scope", "permission"];

impl Claims {
    /// `word_lists` names further claims that are lists of words in one text.
    pub(crate) fn new<'n>(mut claims: Map<String, Value>, word_lists: impl Iterator<Item = &'n str>) -> Self {
        for name in WORD_LISTS.into_iter().chain(word_lists) {
            if let Some(claim) = claims.get_mut(name)
                && let Value::String(words) = claim
            {
                *claim = words.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
            }
        }
        Self(claims)
    }

    /// Claims that count as verified, though no token has them: for questions that nobody sends.
    pub fn assumed(claims: Map<String, Value>) -> Self {
        Self::new(claims, std::iter::empty())
    }

    /// A claim that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A claim as text, `a.b` being one inside of another; `None` for what is not text, whole number or boolean.
    pub fn scalar(&self, name: &str) -> Option<Cow<'_, str>> {
        scalar(&self.0, name)
    }

    /// The texts of a claim, itself one or a list of them, by the names that lead to it.
    pub fn texts(&self, names: &[String]) -> impl Iterator<Item = &str> {
        let found = names.split_first().and_then(|(first, rest)| inside(self.0.get(first)?, rest));
        let items = match found {
            Some(Value::Array(items)) => items.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        items.iter().filter_map(Value::as_str)
    }

    /// `ISSUER/SUBJECT`, if it has both.
    pub fn principal(&self) -> Option<String> {
        Some(format!("{}/{}", self.text("iss")?, self.text("sub")?))
    }
}

/// A claim as text, `a.b` being one inside of another; `None` for what is not text, whole number or boolean.
pub(super) fn scalar<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<Cow<'c, str>> {
    let nested = || {
        let (first, rest) = name.split_once('.')?;
        let rest: Vec<String> = rest.split('.').map(str::to_owned).collect();
        inside(claims.get(first)?, &rest)
    };
    match claims.get(name).or_else(nested)? {
        Value::String(text) => Some(text.into()),
        Value::Bool(value) => Some(value.to_string().into()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string().into()),
        _ => None,
    }
}

fn inside<'v>(value: &'v Value, names: &[String]) -> Option<&'v Value> {
    names.iter().try_fold(value, |value, name| value.as_object()?.get(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        let Ok(Value::Object(claims)) = serde_json::from_str(json) else { panic!("{json}") };
        Claims::new(claims, ["groups"].into_iter())
    }

    fn texts<'c>(claims: &'c Claims, names: &[&str]) -> Vec<&'c str> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        claims.texts(&names).collect()
    }

    #[test]
    fn d_jwt_a_claim_is_a_text_or_any_of_a_list_and_may_be_nested() {
        let claims = claims(r#"{"a": "x", "b": ["y", 1, "z"], "c": {"d": ["w"]}, "n": 5, "a.b": "dotted"}"#);
        assert_eq!(texts(&claims, &["a"]), ["x"]);
        assert_eq!(texts(&claims, &["b"]), ["y", "z"]);
        assert_eq!(texts(&claims, &["c", "d"]), ["w"]);
        assert_eq!(texts(&claims, &["a.b"]), ["dotted"]);
        for names in [&["n"][..], &["c"], &["a", "d"], &["x"], &[]] {
            assert!(texts(&claims, names).is_empty(), "{names:?}");
        }
    }

    #[test]
    fn d_jwt_scope_permission_and_named_claims_are_split_at_spaces() {
        let claims = claims(r#"{"scope": "a b", "permission": "c  d", "groups": "e f", "other": "g h"}"#);
        assert_eq!(texts(&claims, &["scope"]), ["a", "b"]);
        assert_eq!(texts(&claims, &["permission"]), ["c", "d"]);
        assert_eq!(texts(&claims, &["groups"]), ["e", "f"]);
        assert_eq!(texts(&claims, &["other"]), ["g h"]);
    }

    #[test]
    fn d_jwt_claims_become_headers_if_they_are_text_number_or_boolean() {
        let claims = claims(r#"{"s": "x", "n": 7, "b": true, "o": {"i": {"k": "y"}}, "l": ["z"], "f": 1.5}"#);
        for (name, value) in [("s", Some("x")), ("n", Some("7")), ("b", Some("true")), ("o.i.k", Some("y"))] {
            assert_eq!(claims.scalar(name).as_deref(), value, "{name}");
        }
        for name in ["o", "l", "f", "o.x", "none"] {
            assert_eq!(claims.scalar(name), None, "{name}");
        }
    }
}
