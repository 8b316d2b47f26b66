//! What a VirtualService's `match` asks of a request. Rules of section "D-ROUTE" of Istio's routing.

use http::HeaderName;

use crate::{api::values::StringMatch, route::RequestHead};

/// One entry of `match`: all of its conditions must hold.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RequestMatch {
    pub(crate) uri: Option<UriMatch>,
    pub(crate) method: Option<StringMatch>,
    pub(crate) headers: Vec<(HeaderField, StringMatch)>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct UriMatch {
    pub(crate) value: StringMatch,
    /// Only for exact and prefix, as in Istio.
    pub(crate) ignore_case: bool,
}

/// What a header condition reads.
#[derive(Debug, PartialEq)]
pub(crate) enum HeaderField {
    Method,
    Authority,
    Scheme,
    Header(HeaderName),
}

/// How many bytes of the path a rule's condition matched: what a `rewrite.uri` replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatchedPath(pub(crate) usize);

impl MatchedPath {
    /// A rule without a condition on the path is one on the prefix `/`.
    pub(crate) const ANY: Self = Self(1);
}

impl RequestMatch {
    /// How much of the path matched, if all conditions hold.
    pub(crate) fn matches(&self, head: &RequestHead<'_>) -> Option<MatchedPath> {
        let matched = match &self.uri {
            Some(uri) => uri.matches(head.path())?,
            None => MatchedPath::ANY,
        };
        let rest = self.method.as_ref().is_none_or(|method| method.matches(head.method.as_str().as_bytes()))
            && self.headers.iter().all(|(field, wanted)| field.matches(head, wanted));
        rest.then_some(matched)
    }
}

impl UriMatch {
    fn matches(&self, path: &str) -> Option<MatchedPath> {
        let bytes = path.as_bytes();
        let starts_with = |prefix: &str| {
            let start = bytes.get(..prefix.len())?;
            let same = if self.ignore_case {
                start.eq_ignore_ascii_case(prefix.as_bytes())
            } else {
                start == prefix.as_bytes()
            };
            same.then_some(MatchedPath(prefix.len()))
        };
        match &self.value {
            StringMatch::Any => Some(MatchedPath::ANY),
            StringMatch::Exact(wanted) => starts_with(wanted).filter(|matched| matched.0 == bytes.len()),
            StringMatch::Prefix(wanted) => starts_with(wanted),
            StringMatch::Suffix(wanted) => path.ends_with(wanted.as_str()).then_some(MatchedPath(bytes.len())),
            StringMatch::Regex(pattern) => pattern.0.is_whole(bytes).then_some(MatchedPath(bytes.len())),
        }
    }
}

impl StringMatch {
    /// Whether a value that is there matches.
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => value == wanted.as_bytes(),
            Self::Prefix(wanted) => value.starts_with(wanted.as_bytes()),
            Self::Suffix(wanted) => value.ends_with(wanted.as_bytes()),
            Self::Regex(pattern) => pattern.0.is_whole(value),
        }
    }
}

impl HeaderField {
    fn matches(&self, head: &RequestHead<'_>, wanted: &StringMatch) -> bool {
        match self {
            Self::Method => wanted.matches(head.method.as_str().as_bytes()),
            Self::Authority => wanted.matches(head.authority.as_bytes()),
            Self::Scheme => wanted.matches(head.scheme.as_bytes()),
            Self::Header(name) => {
                let mut values = head.headers.get_all(name).iter();
                let Some(first) = values.next() else { return false };
                if values.next().is_none() {
                    return wanted.matches(first.as_bytes());
                }
                // As Envoy: several lines of one header are one value, joined by commas.
                let all: Vec<&[u8]> = head.headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
                wanted.matches(&all.join(&b","[..]))
            }
        }
    }
}
