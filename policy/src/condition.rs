//! Which requests a policy is about, ready to be asked.

use http::HeaderName;

use crate::{
    api::mesh::RequestCondition,
    matcher::{ClientMatch, Field, Fields, RequestMatch, UriMatch, ValueMatch, Values},
    route::RequestHead,
};

/// What policies read of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub head: &'a RequestHead<'a>,
    /// The caller as AuthorizationPolicy writes it, `cluster.local/ns/default/sa/web`; `None` if it has no identity.
    pub principal: Option<&'a str>,
}

/// All must hold.
#[derive(Debug)]
struct Condition {
    head: RequestMatch,
    /// One of these; any caller, known or not, if there are none.
    principals: Vec<PrincipalPattern>,
}

#[derive(Debug)]
enum PrincipalPattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
}

/// Any must hold; without any, all requests are meant.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    any_of: Vec<Condition>,
    fields: Fields,
}

impl Conditions {
    pub(crate) fn new(conditions: &[RequestCondition]) -> Self {
        let mut fields = Fields::default();
        let any_of = conditions.iter().map(|condition| Condition::new(condition, &mut fields)).collect();
        Self { any_of, fields }
    }

    pub(crate) fn hold(&self, request: &Request<'_>) -> bool {
        let mut values = Values::new(request.head, &self.fields, None);
        self.any_of.is_empty() || self.any_of.iter().any(|condition| condition.holds(request, &mut values))
    }
}

impl Condition {
    fn new(condition: &RequestCondition, fields: &mut Fields) -> Self {
        let header = |name: &String| HeaderName::from_bytes(name.as_bytes()).ok().map(Field::Header);
        let headers = condition.headers.iter().filter_map(|(name, wanted)| Some((header(name)?, wanted.clone())));
        let method = condition.method.iter().map(|wanted| (Field::Method, wanted.clone()));
        let values = method.chain(headers).map(|(field, wanted)| ValueMatch {
            field: fields.place_of(field),
            wanted,
            inverted: false,
            question: None,
        });
        let uri = condition.path.clone().map(|value| UriMatch {
            value,
            ignore_case: false,
            whole_segments: false,
            question: None,
        });
        Self {
            head: RequestMatch { client: ClientMatch::default(), uri, values: values.collect() },
            principals: condition.principals.iter().map(|principal| PrincipalPattern::new(principal)).collect(),
        }
    }

    fn holds(&self, request: &Request<'_>, values: &mut Values<'_>) -> bool {
        let is_principal = self.principals.is_empty()
            || request.principal.is_some_and(|caller| self.principals.iter().any(|pattern| pattern.matches(caller)));
        is_principal && self.head.matches(request.head.path(), values).is_some()
    }
}

impl PrincipalPattern {
    fn new(text: &str) -> Self {
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(end), _) => Self::Suffix(end.to_owned()),
            (None, Some(start)) => Self::Prefix(start.to_owned()),
            (None, None) => Self::Exact(text.to_owned()),
        }
    }

    fn matches(&self, caller: &str) -> bool {
        match self {
            Self::Exact(wanted) => caller == wanted,
            Self::Prefix(start) => caller.starts_with(start.as_str()),
            Self::Suffix(end) => caller.ends_with(end.as_str()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    /// Asks with a request of this path, header `x-user` and caller.
    pub(crate) fn with_request<T>(
        path: &str,
        user: Option<&str>,
        principal: Option<&str>,
        ask: impl FnOnce(&Request<'_>) -> T,
    ) -> T {
        let mut headers = HeaderMap::new();
        if let Some(user) = user {
            headers.insert("x-user", user.parse().unwrap());
        }
        let head = RequestHead {
            method: &Method::GET,
            path_and_query: path,
            authority: "reviews",
            scheme: "http",
            headers: &headers,
        };
        ask(&Request { head: &head, principal })
    }

    fn holds(condition: &str, path: &str, user: Option<&str>, principal: Option<&str>) -> bool {
        let condition: RequestCondition = serde_json::from_str(condition).unwrap();
        with_request(path, user, principal, |request| Conditions::new(&[condition]).hold(request))
    }

    #[test]
    fn all_of_a_condition_must_hold_and_any_condition() {
        let path = r#"{"path": {"prefix": "/a"}}"#;
        assert!(holds(path, "/ab?c", None, None) && !holds(path, "/b", None, None));
        let both = r#"{"path": {"prefix": "/a"}, "headers": {"x-user": {"exact": "jason"}}}"#;
        assert!(holds(both, "/a", Some("jason"), None));
        assert!(!holds(both, "/a", Some("other"), None) && !holds(both, "/a", None, None));
        assert!(!holds(r#"{"method": {"exact": "POST"}}"#, "/a", None, None));
        with_request("/", None, None, |request| assert!(Conditions::default().hold(request), "no condition means all"));
    }

    #[test]
    fn principals_match_whole_or_by_start_or_end() {
        let caller = Some("cluster.local/ns/default/sa/web");
        for (pattern, expected) in [
            ("cluster.local/ns/default/sa/web", true),
            ("cluster.local/ns/default/*", true),
            ("*/sa/web", true),
            ("*", true),
            ("cluster.local/ns/default/sa/we", false),
            ("cluster.local/ns/prod/*", false),
            ("*/sa/db", false),
        ] {
            let condition = format!(r#"{{"principals": ["{pattern}"]}}"#);
            assert_eq!(holds(&condition, "/", None, caller), expected, "{pattern}");
            assert!(!holds(&condition, "/", None, None), "a caller without identity is nobody");
        }
    }
}
