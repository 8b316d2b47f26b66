use std::{
    sync::LazyLock,
    time::{Duration, UNIX_EPOCH},
};

use super::*;

fn headers(all: &[(&str, &str)]) -> HeaderMap {
    all.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

/// `GET reviews/a/b?x=1&y=2%21` on its way to be sent, 1.5 s after it came.
pub(crate) fn context() -> HeaderContext<'static> {
    let started = UNIX_EPOCH + Duration::from_millis(1_709_210_096_007);
    HeaderContext {
        method: &Method::GET,
        path_and_query: "/a/b?x=1&y=2%21",
        authority: "reviews:9080",
        protocol: Version::HTTP_11,
        remote: "10.0.0.1:4711".parse().unwrap(),
        local: "127.0.0.1:15001".parse().unwrap(),
        started,
        now: started + Duration::from_millis(1_500),
        node: "host-a",
        route: "reviews.v2",
        cluster: Some("outbound|9080|v2|reviews.default.svc.cluster.local"),
        received: 3,
        response: None,
    }
}

/// The same, when it was answered with 201 at the second try.
fn answered() -> HeaderContext<'static> {
    static REQUEST: LazyLock<HeaderMap> =
        LazyLock::new(|| headers(&[("end-user", "jason"), ("x-envoy-original-path", "/first?z=1")]));
    let response = ResponseContext {
        request: &REQUEST,
        status: StatusCode::CREATED,
        protocol: Some(Version::HTTP_2),
        endpoint: Some("10.0.0.2:15008".parse().unwrap()),
        attempts: 2,
        flags: "URX",
        details: "via_upstream",
        failure: None,
    };
    HeaderContext { response: Some(response), ..context() }
}

fn put(name: &'static str, text: &str, put: Put) -> (HeaderName, Template, Put) {
    (HeaderName::from_static(name), Template::read(text).unwrap(), put)
}

/// What `text` comes to in a head with these headers; `None` if the header is left out.
fn value(text: &str, head: &[(&str, &str)], context: HeaderContext<'static>) -> Option<String> {
    let mut headers = headers(head);
    let operations = HeaderOperations::new(Vec::new(), vec![put("result", text, Put::Set)]);
    operations.apply(&mut headers, || context);
    Some(headers.get("result")?.to_str().unwrap().to_owned())
}

#[test]
fn a_header_that_is_removed_and_added_has_the_new_value_only() {
    let operations = HeaderOperations::new(vec!["x".parse().unwrap()], vec![put("x", "new", Put::Add)]);
    let mut all = headers(&[("x", "old")]);
    operations.apply(&mut all, context);
    assert_eq!(lines(&all), ["x: new"]);
}

#[test]
fn set_replaces_and_add_stands_beside() {
    let operations = HeaderOperations::new(Vec::new(), vec![put("a", "1", Put::Set), put("b", "1", Put::Add)]);
    let mut all = headers(&[("a", "0"), ("a", "00"), ("b", "0")]);
    operations.apply(&mut all, || unreachable!("nothing has to be worked out"));
    assert_eq!(lines(&all), ["a: 1", "b: 0", "b: 1"]);
}

#[test]
fn values_see_the_headers_after_the_removals_and_before_all_else() {
    let operations = HeaderOperations::new(
        vec!["gone".parse().unwrap()],
        vec![put("a", "%REQ(gone)%", Put::Set), put("b", "%REQ(c)%", Put::Set), put("c", "new", Put::Set)],
    );
    let mut all = headers(&[("gone", "1"), ("c", "old")]);
    operations.apply(&mut all, context);
    assert_eq!((all.get("a"), all["b"].to_str().unwrap(), all["c"].to_str().unwrap()), (None, "old", "new"));
}

// The expectations were seen of an Envoy 1.40.
#[test]
fn variables_of_requests_have_envoys_values() {
    let head = [("end-user", "jason")];
    for (text, expected) in [
        ("a%%b", "a%b"),
        ("%PROTOCOL%", "HTTP/1.1"),
        ("from %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "from 10.0.0.1"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.0.0.1:4711"),
        ("%DOWNSTREAM_DIRECT_REMOTE_PORT%", "4711"),
        ("%DOWNSTREAM_LOCAL_PORT%", "15001"),
        ("%REQ(end-user)%!", "jason!"),
        ("%REQ(End-User):3%", "jas"),
        ("%REQ(None?End-User):9%", "jason"),
        ("%REQ(:METHOD)% %REQ(:path)% %REQ(:authority)% %REQ(:scheme)%", "GET /a/b?x=1&y=2%21 reviews:9080 http"),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/a/b?x=1&y=2%21"),
        ("%PATH(NQ)% %PATH% %QUERY_PARAM(y)%", "/a/b /a/b?x=1&y=2%21 2!"),
        ("%START_TIME%", "2024-02-29T12:34:56.007Z"),
        ("%START_TIME(%s.%3f)% %EMIT_TIME(%S)%", "1709210096.007 57"),
        ("%DURATION% %BYTES_RECEIVED% %BYTES_SENT%", "1500 3 0"),
        ("%RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "0 - 1"),
        ("%ROUTE_NAME% %UPSTREAM_CLUSTER%", "reviews.v2 outbound|9080|v2|reviews.default.svc.cluster.local"),
        ("%HOSTNAME%", "host-a"),
    ] {
        assert_eq!(value(text, &head, context()).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn variables_of_responses_speak_of_both_sides() {
    let head = [("content-type", "text/x")];
    for (text, expected) in [
        ("%REQ(end-user)% %RESP(content-type)% %RESP(:status)%", "jason text/x 201"),
        ("%REQ(content-type?end-user)%", "jason"),
        ("%PATH% %PATH(NQ:ORIG)% %PATH(NQ:PATH)%", "/first?z=1 /first /a/b"),
        ("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%", "201 URX via_upstream"),
        ("%UPSTREAM_HOST% %UPSTREAM_REMOTE_PORT% %UPSTREAM_PROTOCOL%", "10.0.0.2:15008 15008 HTTP/2"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %RESPONSE_DURATION%", "2 1500"),
    ] {
        assert_eq!(value(text, &head, answered()).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn an_empty_value_is_left_out() {
    for text in [
        "%REQ(none)%",
        "%RESP(end-user)%",
        "%UPSTREAM_HOST%",
        "%QUERY_PARAM(z)%",
        "%PATH(NQ:ORIG)%",
        "%DOWNSTREAM_PEER_URI_SAN%",
        "%DOWNSTREAM_LOCAL_DNS_SAN%",
        "%DOWNSTREAM_TLS_VERSION%",
        "%REQUESTED_SERVER_NAME%",
        "%TRAILER(x)%",
        "",
    ] {
        assert_eq!(value(text, &[("end-user", "jason")], context()), None, "{text}");
    }
    let operations = HeaderOperations::new(Vec::new(), vec![put("x", "%REQ(none)%", Put::Set)]);
    let mut all = headers(&[("x", "old")]);
    operations.apply(&mut all, context);
    assert_eq!(lines(&all), ["x: old"]);
}

#[test]
fn a_single_percent_and_an_unknown_variable_are_refused() {
    for text in [
        "abc%123",
        "%",
        "%%%",
        "%NOPE%",
        "%REQ(a b)%",
        "%REQ%",
        "%REQ(a",
        "%REQ(a)x%",
        "%REQ(a):x%",
        "%req(a)%",
        "%PROTOCOL(x)%",
        "%PROTOCOL:3%",
        "%PATH(XX)%",
        "a\nb",
    ] {
        assert!(matches!(Template::read(text), Err(TemplateError::Malformed(_))), "{text}");
    }
}

#[test]
fn variables_for_what_weft_does_not_have_are_told_from_unknown_ones() {
    for text in [
        "%ENVIRONMENT(HOME)%",
        "%DYNAMIC_METADATA(a:b):3%",
        "%FILTER_STATE(a)%",
        "%START_TIME(%Q)%",
        "%UPSTREAM_LOCAL_ADDRESS%",
        "%UPSTREAM_PEER_URI_SAN%",
        "%GRPC_STATUS(NUMBER)%",
        "%CEL(request.path)%",
        "%COALESCE({\"operators\":[\"PROTOCOL\"]})%",
    ] {
        assert_eq!(Template::read(text), Err(TemplateError::NotHere), "{text}");
    }
}
