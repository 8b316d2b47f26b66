//! Headers that an application in a mesh must hand on from the request it got to the requests it makes: without them
//! no trace joins up, and no rule on a user's header holds beyond the first hop.

use http::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

/// The user who is signed in at the productpage; the header that canary rules for a tester match on.
pub(super) const END_USER: HeaderName = HeaderName::from_static("end-user");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const HANDED_ON: [&str; 21] = [
    "x-request-id",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "traceparent",
    "tracestate",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "sw8",
    "user-agent",
    "cookie",
    "authorization",
    "jwt",
    "end-user",
];

/// Headers of `incoming` that go on with a call made for it.
///
/// A header that came several times is handed on so, but for the request id: of that the first is taken, so that one
/// request has one id everywhere.
pub(super) fn handed_on(incoming: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in HANDED_ON.map(HeaderName::from_static) {
        let most = if name == X_REQUEST_ID { 1 } else { usize::MAX };
        for value in incoming.get_all(&name).iter().take(most) {
            headers.append(&name, value.clone());
        }
    }
    headers
}

/// What productpage hands on: `end-user` is never taken from the request, only from the session, and a request
/// that has no id yet (it did not come through the mesh) gets one, so that the calls made for one page share it.
pub(super) fn handed_on_for_user(incoming: &HeaderMap, user: Option<&HeaderValue>) -> HeaderMap {
    let mut headers = handed_on(incoming);
    headers.remove(END_USER);
    if let Some(user) = user {
        headers.insert(END_USER, user.clone());
    }
    if !headers.contains_key(X_REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&format!("{:032x}", rand::random::<u128>()))
    {
        headers.insert(X_REQUEST_ID, id);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect::<HeaderMap>()
    }

    #[test]
    fn the_listed_headers_are_handed_on_and_no_others() {
        let mut incoming: HeaderMap =
            HANDED_ON.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("value"))).collect();
        let expected = incoming.clone();
        incoming.extend(headers(&[("accept", "text/html"), ("x-forwarded-for", "10.0.0.1"), ("host", "here")]));
        assert_eq!(handed_on(&incoming), expected);
    }

    #[test]
    fn only_the_first_request_id_is_handed_on() {
        let mut incoming = HeaderMap::new();
        incoming.append(X_REQUEST_ID, HeaderValue::from_static("first"));
        incoming.append(X_REQUEST_ID, HeaderValue::from_static("second"));
        let headers = handed_on(&incoming);
        assert_eq!(headers.get_all(X_REQUEST_ID).iter().collect::<Vec<_>>(), ["first"]);
    }

    #[test]
    fn end_user_comes_from_the_session_and_never_from_the_request() {
        let incoming = headers(&[("end-user", "jason"), ("x-request-id", "7")]);
        assert_eq!(handed_on_for_user(&incoming, None), headers(&[("x-request-id", "7")]));
        let user = HeaderValue::from_static("ann");
        assert_eq!(handed_on_for_user(&incoming, Some(&user))[END_USER], "ann");
    }

    #[test]
    fn a_request_without_an_id_gets_one() {
        let (one, two) = (handed_on_for_user(&HeaderMap::new(), None), handed_on_for_user(&HeaderMap::new(), None));
        assert_eq!(one[X_REQUEST_ID].len(), 32);
        assert_ne!(one[X_REQUEST_ID], two[X_REQUEST_ID]);
    }
}
