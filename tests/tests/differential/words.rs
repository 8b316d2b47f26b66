//! The words that cases are made of.

use serde_json::{Value, json};

/// An expression, what it matches whole, and what it does not.
pub(crate) type Examples = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Services, each with the subsets that have one backend; an empty name is no subset.
pub(crate) const DESTINATIONS: &[(&str, &[&str])] =
    &[("alpha", &["v1", "v2", "v3"]), ("beta", &["v1", "v2"]), ("solo", &["", "v1", "everybody"])];

/// Not HEAD: the answer's body says what came upstream. Left out: "methods in lower case".
pub(crate) const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"];

pub(crate) const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/ab",
    "/a/b",
    "/A/b",
    "/a/a/a",
    "/static/x.png",
    "/v1/users/42",
    "/v2/users/42/",
    "/a%20b",
    "/a%2Fb",
    "/a%5cb",
    "/a%b",
    "/a[b]'c",
    "/a//b",
    "/a;b=c",
    "/a:b@c",
    "/~a-b_c.d",
    "/a.b/..c",
    "/img+1",
];

/// Paths that are written otherwise than they are meant.
pub(crate) const UNCLEAN_PATHS: &[&str] = &[
    "/a/../b",
    "/a/./b",
    "/a//../b",
    "/..",
    "/a/%2e%2e/b",
    "/%41",
    "/%7Ea",
    r"/a\b",
    "/a|b",
    "/a^b",
    "/{a}",
    "/a\"b",
    "/a%00b",
];

pub(crate) const PREFIXES: &[&str] =
    &["/", "/a", "/a/", "/ab", "/A", "/static", "/static/", "/v1/", "/v", "/a%20", "/a/b/"];

pub(crate) const QUERIES: &[&str] = &["", "", "", "?", "?q=1", "?a=1&a=2&b", "?u=/a/b", "?x=%2F%20", "?q=a?b", "?/a"];

pub(crate) const HEADERS: &[&str] =
    &["end-user", "End-User", "x-group", "cookie", "user-agent", ":method", ":authority", "Host", ":scheme"];

/// What header operations set: text, and variables that mean the same in both proxies.
pub(crate) const HEADER_VALUES: &[&str] = &[
    "new",
    "a b",
    "1,2",
    "50%% of %REQ(:method)%",
    "%REQ(end-user)%",
    "%REQ(x-group?user-agent):4%.",
    "%PROTOCOL% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "%PATH(NQ)% %QUERY_PARAM(a)%",
    "%RESPONSE_FLAGS%%RESP(x-none)%",
];

/// Headers that no condition asks for, and that proxies may be tempted to touch. Left out: "`x-envoy-` headers in
/// requests", "`x-forwarded-proto` in requests", "`te`, `expect` and `proxy-authorization`".
pub(crate) const OTHER_HEADERS: &[(&str, &str)] = &[
    ("x-request-id", "c0ffee00-0000-4000-8000-000000000000"),
    ("cookie", "a=1; b=2"),
    ("authorization", "Bearer x"),
    ("content-type", "text/plain"),
    ("accept-encoding", "gzip"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-host", "example.com"),
    ("x-forwarded-client-cert", "By=spiffe://cluster.local/x"),
    ("forwarded", "for=192.0.2.1"),
    ("via", "1.1 example.com"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
    ("x_underlined", "1"),
    ("x-envoy-original-path", "/elsewhere"),
];

/// Values of headers, and expressions on them.
pub(crate) const VALUES: (&[&str], &[Examples]) =
    (&["jason", "v1", "a=1", "text/html", "a b", "\"quoted\"", "1,2"], VALUE_REGEXES);

pub(crate) const PATH_REGEXES: &[Examples] = &[
    (".*", &["/", "/a/b"], &[]),
    ("/v[12]/.*", &["/v1/x", "/v2/"], &["/v3/x", "/v1", "/x/v1/x"]),
    (r"/users/\d+", &["/users/42"], &["/users/4x", "/users/"]),
    ("(?i)/IMG/.*", &["/img/a", "/Img/"], &["/imgs"]),
    ("/[^/]+/edit", &["/a/edit"], &["/a/b/edit", "//edit", "/a/Edit"]),
    ("/a|/ab", &["/a", "/ab"], &["/abc", "/b"]),
    ("^/whole$", &["/whole"], &["/whole/"]),
    (r"/\w+", &["/a_b"], &["/a-b", "/"]),
    (r".*\.(png|jpg)", &["/x.png", "/a/b.jpg"], &["/x.pngx", "/xpng"]),
    ("/x{2,3}", &["/xx", "/xxx"], &["/x", "/xxxx"]),
    (r"/\Qa.b\E", &["/a.b"], &["/axb"]),
    ("/[[:alpha:]]+", &["/ab"], &["/a1"]),
    ("(?P<part>/a)+", &["/a", "/a/a"], &["/a/b"]),
    ("/a.*?b", &["/ab", "/a/b"], &["/ba"]),
    (r"/a\b.*", &["/a", "/a/b", "/a-b"], &["/ab"]),
    ("/a%20.*", &["/a%20b"], &["/a+b"]),
    ("(/[a-c&&b]*)+", &["/b", "/a&b/c"], &["/d"]),
];

const VALUE_REGEXES: &[Examples] = &[
    (".*", &["", "jason"], &[]),
    (".+", &["jason"], &[""]),
    ("v.*", &["v1", "v"], &["xv", "V1"]),
    ("a|ab", &["a", "ab"], &["abc", "b"]),
    (r"\d{3}", &["123"], &["12", "1234", "12a"]),
    ("(?i)chrome.*", &["Chrome/1", "chrome"], &["a Chrome"]),
    ("^(.*?;)?(user=jason)(;.*)?$", &["user=jason", "a=b;user=jason;c=d"], &["user=jasonx"]),
    (r"[\w.-]+@[\w.-]+", &["a.b@c"], &["a b@c"]),
    ("1,2", &["1,2"], &["1, 2"]),
    ("[^a-z]*", &["", "AB"], &["aB"]),
    ("(a+)+", &["aaaa"], &["aaab"]),
];

/// Left out: "a rewritten path without a leading slash".
pub(crate) const REWRITES: &[&str] = &["/", "/new", "/new/", "/new/deep/er", "/%20", "//x", "/a;b"];

/// Left out: "a rewritten path without a leading slash".
pub(crate) const REGEX_REWRITES: &[(&str, &str)] = &[
    (r"^/v([12])/(.*)$", r"/\2/version/\1"),
    ("/a", "/b"),
    (r"\d+", "N"),
    ("^", "/prefix"),
    ("$", "/end"),
    ("b*", "/"),
    (r"^/([^/]*)/?", r"/\0\\1/"),
    ("(?i)/A(b)?", r"/[\1]"),
    ("^/.*$", "/const"),
    (r"(.)(.)$", r"/\2\1"),
];

pub(crate) const PARAMETERS: &[&str] = &["q", "a", "A", "user-id"];

/// Values of parameters, and expressions on them. They go into a URI as they stand.
pub(crate) const PARAMETER_VALUES: (&[&str], &[Examples]) = (
    &["1", "v1", "a%20b", "x,y", "a+b"],
    &[(r"\d+", &["1", "42"], &["", "4x"]), ("v.*", &["v1", "v"], &["V1", ""]), ("a%20b|c", &["a%20b", "c"], &["a+b"])],
);

/// What origins are asked to answer with.
pub(crate) const STATUSES: &[&str] = &["200", "404", "409", "500", "502", "503", "504"];

/// What a rule sets and adds, and what it removes.
pub(crate) const RULE_HEADERS: (&[&str], &[&str]) = (
    &["end-user", "x-group", "x-new", "X-Mixed", "x-origin"],
    &["cookie", "user-agent", "x-group", "x-origin", "x-nowhere"],
);
/// Likewise of a destination.
pub(crate) const SHARE_HEADERS: (&[&str], &[&str]) = (&["x-share", "via"], &["x-share", "authorization"]);

pub(crate) const ORIGINS: &[&str] = &["https://a.example", "https://b.example", "http://a.example:8080", "null"];

pub(crate) fn redirects() -> Vec<Value> {
    vec![
        json!({ "uri": "/to" }),
        json!({ "uri": "/to?x=1" }),
        json!({ "authority": "to.example" }),
        json!({ "authority": "to.example:8443", "uri": "/to", "redirectCode": 302 }),
        json!({ "scheme": "https" }),
        json!({ "scheme": "https", "redirectCode": 308 }),
        json!({ "scheme": "https", "port": 443 }),
        json!({ "scheme": "https", "derivePort": "FROM_REQUEST_PORT" }),
        json!({ "scheme": "https", "derivePort": "FROM_PROTOCOL_DEFAULT" }),
        json!({ "port": 80, "redirectCode": 303 }),
        json!({ "port": 8080, "redirectCode": 307 }),
        json!({ "authority": "to.example", "derivePort": "FROM_REQUEST_PORT", "uri": "/" }),
    ]
}

pub(crate) fn direct_responses() -> Vec<Value> {
    vec![
        json!({ "status": 200 }),
        json!({ "status": 418, "body": { "string": "a teapot" } }),
        json!({ "status": 503, "body": { "string": "closed" } }),
        json!({ "status": 200, "body": { "bytes": "aGVsbG8=" } }),
    ]
}

/// Shares are all or nothing, so that both proxies choose alike.
pub(crate) fn faults() -> Vec<Value> {
    let (all, none) = (json!({ "value": 100 }), json!({ "value": 0 }));
    vec![
        json!({ "abort": { "httpStatus": 418, "percentage": all } }),
        json!({ "abort": { "httpStatus": 503, "percentage": none } }),
        json!({ "abort": { "httpStatus": 503 } }),
        json!({ "abort": { "grpcStatus": "UNAVAILABLE", "percentage": all } }),
        json!({ "delay": { "fixedDelay": "0.01s", "percentage": all } }),
        json!({ "delay": { "fixedDelay": "60s" } }),
        json!({ "delay": { "fixedDelay": "0.01s", "percent": 100 }, "abort": { "httpStatus": 555, "percentage": all } }),
    ]
}

pub(crate) fn retries() -> Vec<Value> {
    vec![
        json!({}),
        json!({ "attempts": 0 }),
        json!({ "attempts": 1 }),
        json!({ "attempts": 3, "retryOn": "5xx" }),
        json!({ "attempts": 1, "retryOn": "gateway-error" }),
        json!({ "attempts": 2, "retryOn": "500, 404" }),
        json!({ "attempts": 2, "retryOn": "retriable-4xx,connect-failure" }),
        json!({ "attempts": 2, "retryOn": "reset,retriable-status-codes,502" }),
        json!({ "attempts": 1, "retryOn": "5xx", "perTryTimeout": "20s", "backoff": "0.005s" }),
    ]
}

pub(crate) fn cors_policies() -> Vec<Value> {
    let (exact, prefix) = (json!({ "exact": "https://a.example" }), json!({ "prefix": "http://a.example" }));
    vec![
        json!({ "allowOrigins": [exact] }),
        json!({ "allowOrigins": [exact], "allowMethods": ["POST", "GET"], "allowHeaders": ["x-a", "x-b"] }),
        json!({ "allowOrigins": [prefix, exact], "allowCredentials": true, "maxAge": "24h" }),
        json!({ "allowOrigins": [{ "regex": "https://[ab]\\.example" }], "exposeHeaders": ["x-a"], "maxAge": "90s" }),
        json!({ "allowOrigins": [exact], "unmatchedPreflights": "IGNORE" }),
        json!({ "allowOrigins": [exact], "unmatchedPreflights": "FORWARD", "allowCredentials": false }),
        json!({ "allowOrigins": [{ "exact": "*" }], "allowMethods": ["POST"] }),
        json!({ "allowOrigin": ["https://b.example"] }),
    ]
}
