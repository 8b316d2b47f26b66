use serde_json::json;

use super::*;

pub(crate) fn entry() -> Entry {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("reviews:9080"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("a\"b"));
    headers.insert("x-a", HeaderValue::from_static("one"));
    headers.append("x-a", HeaderValue::from_static("two"));
    let mut response = HeaderMap::new();
    response.insert("server", HeaderValue::from_static("it"));
    let uri = Uri::from_static("/reviews/0?user=j%20d&x=1");
    Entry {
        start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_210_096_007),
        duration: Duration::from_millis(3),
        request: Some(RequestLine::of(&Method::GET, &uri, Version::HTTP_11, &headers, true)),
        status: 200,
        bytes_received: 1,
        bytes_sent: 2,
        until_response: Some(Duration::from_millis(2)),
        response: Some(Box::new(response)),
        upstream: Upstream {
            cluster: Some("outbound|9080||reviews.default.svc.cluster.local".into()),
            attempts: 1,
            ..Upstream::default()
        },
        route_name: Some("default".into()),
        trace: Some(TraceIds { trace: 0xabc, span: 0xd }),
        ..Entry::new(([127, 0, 0, 1], 15001).into(), ([127, 0, 0, 1], 40000).into())
    }
}

fn connection() -> Entry {
    Entry {
        request: None,
        status: 0,
        flag: "UF",
        failure: Some("could not connect\nto a".into()),
        until_response: None,
        response: None,
        trace: None,
        ..entry()
    }
}

fn text(format: &str, entry: &Entry) -> String {
    let mut line = String::new();
    LogFormat::text(format).unwrap().write(entry, "n1", &mut line);
    line
}

fn labels(format: serde_json::Value, entry: &Entry) -> serde_json::Value {
    let format = LogFormat::json(format.as_object().unwrap()).unwrap();
    serde_json::Value::Object(format.labels(entry, "n1"))
}

#[test]
fn a_line_has_istios_default_format() {
    let mut line = String::new();
    LogFormat::default_text().write(&entry(), "n1", &mut line);
    assert_eq!(
        line,
        "[2024-02-29T12:34:56.007Z] \"GET /reviews/0?user=j%20d&x=1 HTTP/1.1\" 200 - via_upstream - \"-\" 1 2 3 2 \"-\" \
         \"a_b\" \"-\" \"reviews:9080\" \"-\" outbound|9080||reviews.default.svc.cluster.local - 127.0.0.1:15001 \
         127.0.0.1:40000 - default"
    );
    assert!(!LogFormat::default_text().needs_heads() && !LogFormat::default_json().needs_heads());
}

#[test]
fn a_json_line_has_istios_keys_and_numbers_are_numbers() {
    let mut line = String::new();
    LogFormat::default_json().write(&entry(), "n1", &mut line);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line.as_object().unwrap().len(), 24);
    assert_eq!(line["path"], "/reviews/0?user=j%20d&x=1");
    assert_eq!(line["authority"], "reviews:9080");
    assert_eq!((&line["duration"], &line["bytes_sent"]), (&json!(3), &json!(2)));
    assert_eq!(line["upstream_host"], json!(null));
    assert_eq!(line["upstream_service_time"], "2");
}

/// Each as Envoy 1.40 writes it, which was asked.
#[test]
fn operators_have_envoys_values() {
    let entry = entry();
    for (operator, expected) in [
        ("%REQ(:METHOD)%", "GET"),
        ("%REQ(:PATH):4%", "/rev"),
        ("%REQ(X-NONE)%", "-"),
        ("%REQ(X-NONE?X-A)%", "one"),
        ("%RESP(SERVER)%", "it"),
        ("%RESP(:STATUS)%", "200"),
        ("%TRAILER(X)%", "-"),
        ("%PATH(NQ)%", "/reviews/0"),
        ("%QUERY_PARAM(user)%", "j d"),
        ("%QUERY_PARAMS(ORIG)%", "user=j%20d&x=1"),
        ("%PROTOCOL%", "HTTP/1.1"),
        ("%RESPONSE_FLAGS_LONG%", "-"),
        ("%GRPC_STATUS%", "-"),
        ("%START_TIME(%Y/%m/%d %3f)%", "2024/02/29 007"),
        ("%RESPONSE_DURATION%", "2"),
        ("%RESPONSE_TX_DURATION%", "1"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "1"),
        ("%DOWNSTREAM_REMOTE_PORT%", "40000"),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "127.0.0.1"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "-"),
        ("%UPSTREAM_LOCAL_ADDRESS%", "-"),
        ("%TRACE_ID%", "00000000000000000000000000000abc"),
        ("%SPAN_ID%", "000000000000000d"),
        ("%HOSTNAME%", "n1"),
        ("%ACCESS_LOG_TYPE%", "DownstreamEnd"),
        ("100%% of %RESPONSE_CODE%", "100% of 200"),
    ] {
        assert_eq!(text(operator, &entry), expected, "{operator}");
    }
    let grpc = Entry { grpc_status: Some(14), flag: "UC", ..self::entry() };
    assert_eq!(
        text("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%", &grpc),
        "Unavailable UNAVAILABLE 14"
    );
    assert_eq!(text("%RESPONSE_FLAGS_LONG%", &grpc), "UpstreamConnectionTermination");
    let connection = connection();
    assert_eq!(
        text("%RESPONSE_CODE% %PROTOCOL% %REQ(:METHOD)% %ACCESS_LOG_TYPE%", &connection),
        "0 - - TcpConnectionEnd"
    );
    assert_eq!(text("%UPSTREAM_TRANSPORT_FAILURE_REASON%", &connection), "could_not_connect_to_a");
}

#[test]
fn a_json_format_keeps_the_type_of_one_operator_and_what_is_fixed() {
    let format = json!({"code": "%RESPONSE_CODE%", "none": "%REQ(X-NONE)%", "mix": "a%RESPONSE_CODE%b%REQ(X-NONE)%",
                        "nested": {"ms": "%DURATION%"}, "fixed": 7});
    let expected = json!({"code": 200, "none": null, "mix": "a200b-", "nested": {"ms": 3}, "fixed": 7});
    assert_eq!(labels(format, &entry()), expected);
}

#[test]
fn what_envoy_does_not_know_or_weft_does_not_have_is_refused_by_name() {
    for (format, expected) in [
        ("%BOGUS_OP%", "%BOGUS_OP% is not a variable of Envoy's"),
        ("%DYNAMIC_METADATA(a:b)%", "%DYNAMIC_METADATA(a:b)% is of Envoy's and nothing that weft knows"),
        ("%DOWNSTREAM_TLS_CIPHER%", "%DOWNSTREAM_TLS_CIPHER% is of Envoy's"),
        ("50% off", "% off has no end"),
        ("%REQ%", "%REQ% needs a name"),
        ("%DURATION:3%", "%DURATION% takes no length"),
    ] {
        let error = LogFormat::text(format).unwrap_err();
        assert!(error.contains(expected), "{format}: {error}");
    }
    let error = LogFormat::json(json!({"a": {"b": "%NO%"}}).as_object().unwrap()).unwrap_err();
    assert!(error.contains("b: %NO% is not"), "{error}");
}

#[test]
fn formats_say_whether_they_read_more_of_heads() {
    for (format, expected) in [
        ("%REQ(X-REQUEST-ID)% %REQ(:PATH)% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", false),
        ("%REQ(X-A)%", true),
        ("%REQ(USER-AGENT?X-A)%", true),
        ("%RESP(SERVER)%", true),
        ("%TRAILER(X)%", true),
    ] {
        assert_eq!(LogFormat::text(format).unwrap().needs_heads(), expected, "{format}");
    }
}

#[test]
fn filters_choose_by_envoys_attributes() {
    let context = ExpressionContext::default();
    let (request, failed, mtls) = (
        entry(),
        Entry { status: 503, flag: "UF", ..entry() },
        Entry { peer: Some("spiffe://cluster.local/ns/default/sa/web".into()), is_server: true, ..entry() },
    );
    for (expression, takes) in [
        ("response.code >= 400", [false, true, false]),
        ("response.flags > 0", [false, true, false]),
        ("response.code == 200 && request.method == 'GET'", [true, false, true]),
        ("request.url_path.startsWith('/reviews') && !request.path.endsWith('0')", [true, true, true]),
        ("request.headers['x-a'] == 'one,two'", [true, true, true]),
        ("request.headers['x-b'] == ''", [false, false, false]),
        ("has(request.headers) && 'x-a' in request.headers", [true, true, true]),
        ("has(request.referer)", [false, false, false]),
        ("connection.mtls", [false, false, true]),
        ("connection.uri_san_peer_certificate.contains('/sa/web')", [false, false, true]),
        ("request.url_path.matches('^/rev.*0$')", [true, true, true]),
        ("xds.cluster_name.startsWith('outbound|9080|')", [true, true, true]),
        ("response.headers['server'] == 'it'", [true, true, true]),
        ("response.code", [false, false, false]),
        ("['GET', 'POST'].exists(m, m == request.method)", [true, true, true]),
    ] {
        let filter = Expression::read(expression).unwrap();
        let taken = [&request, &failed, &mtls].map(|entry| filter.holds(entry, &context));
        assert_eq!(taken, takes, "{expression}");
    }
    // A connection has no request, and no code.
    assert!(!Expression::read("response.code < 400").unwrap().holds(&connection(), &context));
}

#[test]
fn labels_are_texts_numbers_or_truths_and_nothing_where_there_is_no_value() {
    let context = ExpressionContext::default();
    let peer = Workload {
        namespace: "shop".parse().unwrap(),
        name: "web-1".parse().unwrap(),
        account: "shop/web".parse().unwrap(),
        principal: "spiffe://cluster.local/ns/shop/sa/web".into(),
        app: "web".into(),
        version: "v1".into(),
        canonical_service: "web".into(),
        canonical_revision: "v1".into(),
        service: "web".parse().unwrap(),
        node: "n1".parse().unwrap(),
        labels: [("tier".to_owned(), "front".to_owned())].into(),
    };
    let called = Entry { is_server: true, source: Some(peer.into()), ..entry() };
    for (expression, worth) in [
        ("request.host", Some("reviews:9080")),
        ("string(destination.port)", Some("15001")),
        ("destination.port", Some("15001")),
        ("request.headers['x-b']", None),
        ("'x-b' in request.headers ? request.headers['x-b'] : 'none'", Some("none")),
        ("response.code >= 500 ? 'bad' : 'fine'", Some("fine")),
        ("connection.mtls", Some("false")),
        ("request.headers", None),
        ("downstream_peer.labels['tier']", Some("front")),
        ("filter_state.downstream_peer.namespace + '/' + filter_state['downstream_peer'].workload", Some("shop/web-1")),
        ("upstream_peer.app", None),
        ("'a' + 'b'", Some("ab")),
    ] {
        let read = Expression::read(expression).unwrap();
        assert_eq!(read.text(&Known::of(&called), &context).as_deref(), worth, "{expression}");
    }
    assert_eq!(Expression::read("'a' + 'b'").unwrap().constant(), Some(Some("ab")));
    assert_eq!(Expression::read("1 / 0").unwrap().constant(), Some(None));
    assert_eq!(Expression::read("downstream_peer.app").unwrap().constant(), None);
    let tag = |format: &str| LogFormat::text(format).unwrap().tag(&entry(), "n1");
    assert_eq!((tag("%REQ(X-A)% %REQ(X-NONE)%").as_str(), tag("%TRAILER(X)%").as_str()), ("one ", ""));
}

#[test]
fn what_is_no_filter_is_refused() {
    for text in ["", "a b", "response.code >=", "(response.code > 1", "'a", "respons.code >= 400", "@"] {
        assert!(Expression::read(text).is_err(), "{text}");
    }
    assert!(Expression::read("respons.code >= 400").unwrap_err().to_string().contains("respons is no attribute"));
    assert!(Expression::read(&"(".repeat(40)).is_err());
    assert!(Expression::read(&format!("{}1 == 1", "1 + ".repeat(300))).is_err());
    assert!(Expression::read(&"a".repeat(MAX_EXPRESSION + 1)).is_err());
}

const MAX_EXPRESSION: usize = 4096;

#[test]
fn the_deepest_filter_is_read_and_asked() {
    let text = format!("{}1 > 0 || true", "1 + ".repeat(76));
    let filter = Expression::read(&text).unwrap();
    let ask = move || filter.holds(&entry(), &ExpressionContext::default());
    let asked = std::thread::Builder::new().stack_size(EXPRESSION_STACK).spawn(ask).unwrap();
    assert!(asked.join().unwrap());
    let nested = format!("{}true{}", "(".repeat(16), ")".repeat(16));
    assert!(Expression::read(&nested).is_ok());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "[a-c\"'rb.0-9x?:()\\[\\]{},!-\\\\ é\n%A-E_]{0,40}") {
        let _ = Expression::read(&text);
        let _ = LogFormat::text(&text);
    }
}
