//! `corsPolicy`: cross-origin requests, as Envoy's filter answers them.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::api::values::StringMatch;

#[derive(Debug, Default, PartialEq)]
pub struct Cors {
    pub(crate) origins: Vec<StringMatch>,
    /// Each ready to be sent; `None` sends none.
    pub(crate) methods: Option<HeaderValue>,
    pub(crate) headers: Option<HeaderValue>,
    pub(crate) exposed: Option<HeaderValue>,
    /// Seconds.
    pub(crate) max_age: Option<HeaderValue>,
    pub(crate) credentials: bool,
    /// A preflight of another origin is answered too, instead of being forwarded.
    pub(crate) answers_unmatched: bool,
    /// A star for headers is answered with those that are asked for, as a star for methods is.
    pub(crate) echoes_headers: bool,
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
pub enum CorsOutcome {
    /// Not a matter of this policy.
    Forward,
    /// Its origin is allowed: forwarded, and these are set in the response.
    Allow(HeaderMap),
    /// A preflight: answered with 200 and these.
    Answer(HeaderMap),
}

impl Cors {
    pub fn decide(&self, method: &Method, headers: &HeaderMap) -> CorsOutcome {
        let Some(origin) = headers.get(header::ORIGIN).filter(|origin| !origin.is_empty()) else {
            return CorsOutcome::Forward;
        };
        let asks_for_method = |method: &HeaderValue| !method.is_empty();
        let is_preflight = *method == Method::OPTIONS
            && headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).is_some_and(asks_for_method);
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        // As Envoy: a star is answered with what is asked for.
        let is_star = self.methods.as_ref().is_some_and(|methods| methods == "*");
        let methods = if is_star { asked } else { self.methods.as_ref() };
        // A matcher that takes `*` allows all origins.
        if !self.origins.iter().any(|allowed| allowed.matches(b"*") || allowed.matches(origin.as_bytes())) {
            if !is_preflight || !self.answers_unmatched {
                return CorsOutcome::Forward;
            }
            // As Envoy, which says the methods of a star here too. Without an origin they allow nothing.
            let methods =
                methods.filter(|_| is_star).map(|methods| (header::ACCESS_CONTROL_ALLOW_METHODS, methods.clone()));
            return CorsOutcome::Answer(methods.into_iter().collect());
        }
        let mut answer = HeaderMap::new();
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        let mut put = |name: HeaderName, value: Option<&HeaderValue>| {
            if let Some(value) = value {
                answer.insert(name, value.clone());
            }
        };
        put(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.exposed.as_ref());
        if !is_preflight {
            return CorsOutcome::Allow(answer);
        }
        put(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let echoes = self.echoes_headers && self.headers.as_ref().is_some_and(|allowed| allowed == "*");
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        put(header::ACCESS_CONTROL_ALLOW_HEADERS, if echoes { asked } else { self.headers.as_ref() });
        put(header::ACCESS_CONTROL_MAX_AGE, self.max_age.as_ref());
        CorsOutcome::Answer(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Cors {
        Cors {
            origins: vec![
                StringMatch::Exact("https://a.example".into()),
                StringMatch::Exact("https://b.example".into()),
            ],
            methods: Some(HeaderValue::from_static("POST,GET")),
            max_age: Some(HeaderValue::from_static("86400")),
            credentials: true,
            ..Cors::default()
        }
    }

    fn decide(policy: &Cors, method: Method, headers: &[(&'static str, &str)]) -> CorsOutcome {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        policy.decide(&method, &headers)
    }

    const FROM_A: (&str, &str) = ("origin", "https://a.example");
    const FROM_C: (&str, &str) = ("origin", "https://c.example");
    const DELETE: (&str, &str) = ("access-control-request-method", "DELETE");

    #[test]
    fn a_preflight_of_an_allowed_origin_is_answered_whatever_method_it_asks_for() {
        let CorsOutcome::Answer(headers) = decide(&policy(), Method::OPTIONS, &[FROM_A, DELETE]) else { panic!() };
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert_eq!(headers["access-control-allow-methods"], "POST,GET");
        assert_eq!(headers["access-control-max-age"], "86400");
        assert_eq!(headers["access-control-allow-credentials"], "true");
    }

    #[test]
    fn a_simple_request_is_forwarded_and_marked_only_if_its_origin_is_allowed() {
        let CorsOutcome::Allow(headers) = decide(&policy(), Method::GET, &[FROM_A]) else { panic!() };
        assert!(!headers.contains_key("access-control-allow-methods"));
        assert_eq!(decide(&policy(), Method::GET, &[FROM_C]), CorsOutcome::Forward);
        assert_eq!(decide(&policy(), Method::GET, &[]), CorsOutcome::Forward);
        assert!(matches!(decide(&policy(), Method::OPTIONS, &[FROM_A]), CorsOutcome::Allow(_)), "no preflight");
    }

    #[test]
    fn an_unmatched_preflight_is_forwarded_unless_the_policy_ignores_it() {
        assert_eq!(decide(&policy(), Method::OPTIONS, &[FROM_C, DELETE]), CorsOutcome::Forward);
        let ignoring = Cors { answers_unmatched: true, ..policy() };
        assert_eq!(decide(&ignoring, Method::OPTIONS, &[FROM_C, DELETE]), CorsOutcome::Answer(HeaderMap::new()));
        assert_eq!(decide(&ignoring, Method::GET, &[FROM_C]), CorsOutcome::Forward);
    }

    #[test]
    fn a_star_for_methods_is_answered_with_the_one_that_is_asked_for() {
        let any = Cors { methods: Some(HeaderValue::from_static("*")), ..policy() };
        let CorsOutcome::Answer(headers) = decide(&any, Method::OPTIONS, &[FROM_A, DELETE]) else { panic!() };
        assert_eq!(headers["access-control-allow-methods"], "DELETE");
    }

    #[test]
    fn a_star_allows_every_origin() {
        let all = Cors { origins: vec![StringMatch::Exact("*".into())], ..Cors::default() };
        assert!(matches!(decide(&all, Method::GET, &[FROM_C]), CorsOutcome::Allow(_)));
    }
}
