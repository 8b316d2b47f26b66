//! External authorizers, over HTTP and over gRPC, on another node than the workload's and on the same one.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_proxy::config::ListenerProtocol;
use weft_wire::fact::Protocol;

use support::*;

/// A mesh configuration with this provider, and a policy that asks it about `/asked` and `/asked/…`.
fn documents(provider: &str) -> String {
    format!(
        "{{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {{name: default, namespace: istio-system}}, spec: \
         {{extensionProviders: [{{name: authz, {provider}}}]}}}}\n---\n\
         {{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: ask}}, spec: {{selector: \
         {{matchLabels: {{app: reviews}}}}, action: CUSTOM, provider: {{name: authz}}, rules: [{{to: [{{operation: \
         {{paths: ['/asked*']}}}}]}}]}}}}\n"
    )
}

fn http(options: &str) -> String {
    documents(&format!("envoyExtAuthzHttp: {{service: authz.default.svc.cluster.local, port: 9000{options}}}"))
}

fn grpc(options: &str) -> String {
    documents(&format!("envoyExtAuthzGrpc: {{service: default/authz.default.svc.cluster.local, port: 9000{options}}}"))
}

/// What an authorizer was asked.
type Asked = Arc<Mutex<Vec<(http::request::Parts, Bytes)>>>;

/// An authorizer that answers as the header `x-answer` of what it is asked says.
async fn authorizer() -> (std::net::SocketAddr, Asked) {
    let asked = Asked::default();
    let kept = asked.clone();
    let address = serve(false, move |request: Request<Incoming>| {
        let kept = kept.clone();
        async move {
            let (head, body) = request.into_parts();
            let status = head.headers.get("x-answer").map_or("200", |status| status.to_str().unwrap()).to_owned();
            let body = body.collect().await.unwrap().to_bytes();
            kept.lock().push((head, body));
            if status == "never" {
                std::future::pending::<()>().await;
            }
            Response::builder()
                .status(status.as_str())
                .header("x-user", "ann")
                .header("x-note", "n")
                .header("x-weft-reason", "forged")
                .header("location", "/login")
                .body(text("because"))
                .unwrap()
        }
    })
    .await;
    (address, asked)
}

/// The caller, the workload and the authorizer: on a node each, then all on one.
async fn both_ways(documents: &str, protocol: Protocol, authorizer: std::net::SocketAddr) -> [Mesh; 2] {
    let reviews = hosted("reviews", "reviews-v1", Protocol::Http, echo().await);
    let mut authz = hosted("authz", "authz-v1", protocol, authorizer);
    authz.row.port = 9000;
    let plan = |hosted| Plan { hosted, ..Plan::default() };
    let apart = vec![caller().await, plan(vec![reviews.clone()]), plan(vec![authz.clone()])];
    let mut together = caller().await;
    together.hosted.extend([reviews, authz]);
    [Mesh::start_with(documents, apart), Mesh::start_with(documents, vec![together])]
}

/// The node of the workload.
fn gate(mesh: &Mesh) -> &Node {
    mesh.nodes.get(1).unwrap_or(&mesh.nodes[0])
}

fn ask(headers: &[(&str, &str)]) -> Request<Body> {
    let request = Request::get("/asked/x?q=1").header("host", "reviews");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(text("")).unwrap()
}

#[tokio::test]
async fn d_authz_an_http_provider_is_asked_by_a_request_like_the_one_that_it_judges() {
    let (address, asked) = authorizer().await;
    let config = http(
        ", pathPrefix: /check, includeRequestHeadersInCheck: [x-answer, 'x-in-*'], includeAdditionalHeadersInCheck: \
         {x-fixed: '1'}, headersToUpstreamOnAllow: [x-user, x-weft-reason], headersToDownstreamOnAllow: [x-note], \
         headersToDownstreamOnDeny: [x-user]",
    );
    for mesh in both_ways(&config, Protocol::Http, address).await {
        let client = mesh.client().outbound;
        assert_eq!(send(client, get("reviews", "/other")).await.status(), StatusCode::OK);
        assert!(asked.lock().is_empty(), "nobody is asked about what no rule matches");

        let forged = [("x-in-a", "a"), ("x-out", "o"), ("x-fixed", "forged"), ("x-user", "forged")];
        let allowed = send(client, ask(&forged)).await;
        assert_eq!(allowed.status(), StatusCode::OK);
        assert_eq!(allowed.headers()["x-note"], "n");
        assert!(!allowed.headers().contains_key("x-user"));
        let seen = read(allowed).await;
        assert!(seen.contains("\nx-user: ann\n") && !seen.contains("x-user: forged"), "{seen}");
        let (head, body) = asked.lock().pop().unwrap();
        assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("GET", "/check/asked/x?q=1"));
        assert_eq!(head.headers["host"], "reviews");
        assert_eq!((&head.headers["x-in-a"], &head.headers["x-fixed"]), (&"a".parse().unwrap(), &"1".parse().unwrap()));
        assert!(!head.headers.contains_key("x-out") && !head.headers.contains_key("x-user"));
        assert!(body.is_empty());

        let denied = send(client, ask(&[("x-answer", "302")])).await;
        assert_eq!(denied.status(), StatusCode::FOUND);
        assert_eq!(
            (&denied.headers()["location"], &denied.headers()["x-user"]),
            (&"/login".parse().unwrap(), &"ann".parse().unwrap())
        );
        assert!(!denied.headers().contains_key("x-note"));
        assert_eq!(denied.headers()["x-weft-reason"], "authorizer_denied");
        let id = denied.headers()["x-weft-decision"].to_str().unwrap().parse().unwrap();
        assert!(gate(&mesh).decisions.find(id).is_some());
        assert_eq!(read(denied).await, "because");
        asked.lock().clear();
        eventually("it is logged", || gate(&mesh).log.text().contains(" 302 UAEX ext_authz_denied ")).await;
    }
}

#[tokio::test]
async fn d_authz_where_a_provider_gives_no_answer_the_request_is_refused_or_passes() {
    let (address, _) = authorizer().await;
    let options = ", timeout: 50ms, includeRequestHeadersInCheck: [x-answer]";
    for (more, status) in [
        ("", StatusCode::FORBIDDEN),
        (", statusOnError: '503'", StatusCode::SERVICE_UNAVAILABLE),
        (", failOpen: true", StatusCode::OK),
    ] {
        for mesh in both_ways(&http(&format!("{options}{more}")), Protocol::Http, address).await {
            for answer in ["500", "never"] {
                let got = send(mesh.client().outbound, ask(&[("x-answer", answer)])).await;
                assert_eq!(got.status(), status, "{answer} {more}");
            }
            assert_eq!(gate(&mesh).metric("weft_access_provider_failures_total", &[]), 2.0);
        }
    }
    // One that is no service, and one that does not listen.
    let nobody = documents("envoyExtAuthzHttp: {service: nobody.default.svc.cluster.local, port: 9000}");
    for (config, address) in [(nobody, address), (http(""), nowhere().await)] {
        for mesh in both_ways(&config, Protocol::Http, address).await {
            assert_eq!(send(mesh.client().outbound, ask(&[])).await.status(), StatusCode::FORBIDDEN);
        }
    }
}

#[tokio::test]
async fn d_authz_after_a_provider_tokens_and_rules_decide() {
    let (address, asked) = authorizer().await;
    let deny = "---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: deny}, spec: {action: \
                DENY, rules: [{when: [{key: 'request.headers[x-user]', values: [ann]}], to: [{operation: {paths: \
                ['/asked/x']}}]}]}}\n";
    let tokens = "---\n{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: t}, spec: \
                  {selector: {matchLabels: {app: reviews}}, jwtRules: [{issuer: i, jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}]}'}]}}\n";
    let config = http(", headersToUpstreamOnAllow: [x-user], includeRequestHeadersInCheck: [authorization]");
    for mesh in both_ways(&format!("{config}{deny}{tokens}"), Protocol::Http, address).await {
        let denied = send(mesh.client().outbound, ask(&[])).await;
        assert_eq!((denied.status(), read(denied).await.as_str()), (StatusCode::FORBIDDEN, "RBAC: access denied"));
        // The provider has seen the token that is refused after it.
        let refused = send(mesh.client().outbound, ask(&[("authorization", "Bearer x")])).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(asked.lock().pop().unwrap().0.headers["authorization"], "Bearer x");
    }
}

#[tokio::test]
async fn d_authz_a_provider_is_told_as_much_of_the_body_as_is_configured() {
    let (address, asked) = authorizer().await;
    let post = |body: String| Request::post("/asked").header("host", "reviews").body(text(body)).unwrap();
    for (options, len, status, told, partial) in [
        ("{maxRequestBytes: 10}", 10, 200, 10, None),
        ("{maxRequestBytes: 10}", 11, 413, 0, None),
        ("{maxRequestBytes: 10, allowPartialMessage: true}", 10, 200, 10, Some("false")),
        ("{maxRequestBytes: 10, allowPartialMessage: true}", 300_000, 200, 10, Some("true")),
        ("{maxRequestBytes: 400000}", 300_000, 200, 300_000, None),
        ("{maxRequestBytes: 10}", 0, 200, 0, None),
    ] {
        let config = http(&format!(", includeRequestBodyInCheck: {options}"));
        for mesh in both_ways(&config, Protocol::Http, address).await {
            let sent: String = (0..len).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
            let answer = send(mesh.client().outbound, post(sent.clone())).await;
            assert_eq!(answer.status().as_u16(), status, "{options} {len}");
            let heard = read(answer).await;
            if status == 413 {
                assert_eq!(heard, "Payload Too Large");
                assert!(asked.lock().is_empty());
                continue;
            }
            assert!(heard.ends_with(&format!("\n\n{sent}")), "the workload gets the whole body");
            let (head, body) = asked.lock().pop().unwrap();
            assert_eq!(body, sent[..told], "{options} {len}");
            let said = head.headers.get("x-envoy-auth-partial-body").map(|said| said.to_str().unwrap().to_owned());
            assert_eq!(said.as_deref(), partial);
        }
    }
}

/// A field of a protobuf message that has a length.
fn field(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut message = vec![number << 3 | 2];
    let mut len = content.len();
    while len >= 0x80 {
        message.push(len as u8 | 0x80);
        len >>= 7;
    }
    message.push(len as u8);
    message.extend(content);
    message
}

/// A `HeaderValueOption`.
fn header(name: &str, value: &str, append: bool) -> Vec<u8> {
    let mut option = field(1, [field(1, name), field(2, value)].concat());
    if append {
        option.extend(field(2, [1 << 3, 1]));
    }
    option
}

/// An authorizer that speaks gRPC: says yes to what has a header `x-answer: yes`, `no` with a status and a body, and
/// else fails.
async fn grpc_authorizer(count: Arc<AtomicUsize>, asked: Arc<Mutex<Bytes>>) -> std::net::SocketAddr {
    serve(true, move |request: Request<Incoming>| {
        let (count, asked) = (count.clone(), asked.clone());
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            *asked.lock() = body.clone();
            let has = |text: &[u8]| body.windows(text.len()).any(|found| found == text);
            let ok = [
                field(2, header("x-user", "ann", false)),
                field(2, header("x-more", "2", true)),
                field(2, header("x-weft-source", "forged", false)),
                field(5, "x-gone"),
                field(6, header("x-note", "n", false)),
            ];
            // Code 7 of google.rpc.Status.
            let no = [
                field(1, [1 << 3, 7]),
                field(
                    2,
                    [field(1, [1 << 3, 0x92, 3]), field(2, header("location", "/login", false)), field(3, "because")]
                        .concat(),
                ),
            ];
            let (message, status) = match () {
                () if has(b"x-answer\x12\x03yes") => (field(3, ok.concat()), "0"),
                () if has(b"x-answer\x12\x02no") => (no.concat(), "0"),
                // A connection, of which no request is known.
                () if !has(b"x-request-id") => (Vec::new(), "0"),
                () => (Vec::new(), "13"),
            };
            let mut framed = vec![0];
            framed.extend((message.len() as u32).to_be_bytes());
            framed.extend(message);
            let trailers =
                HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_str(status).unwrap())]);
            let frames = [Ok(Frame::data(Bytes::from(framed))), Ok(Frame::trailers(trailers))];
            let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
            Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        }
    })
    .await
}

#[tokio::test]
async fn d_authz_a_grpc_provider_is_asked_and_may_change_headers() {
    let (count, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Bytes::new())));
    let address = grpc_authorizer(count.clone(), asked.clone()).await;
    for mesh in both_ways(&grpc(", includeRequestBodyInCheck: {maxRequestBytes: 100}"), Protocol::Grpc, address).await {
        let client = mesh.client().outbound;
        let allowed = ask(&[("x-answer", "yes"), ("x-user", "forged"), ("x-more", "1"), ("x-gone", "g")]);
        let allowed = send(client, allowed).await;
        assert_eq!((allowed.status(), &allowed.headers()["x-note"]), (StatusCode::OK, &"n".parse().unwrap()));
        let seen = read(allowed).await;
        assert!(seen.contains("\nx-user: ann\n") && seen.contains("\nx-more: 1\nx-more: 2\n"), "{seen}");
        assert!(!seen.contains("forged") && !seen.contains("x-gone"), "{seen}");
        let told = String::from_utf8_lossy(&asked.lock().clone()).into_owned();
        for part in [
            "spiffe://cluster.local/ns/default/sa/productpage",
            "spiffe://cluster.local/ns/default/sa/reviews",
            "/asked/x?q=1",
            ":authority",
        ] {
            assert!(told.contains(part), "{part}: {told:?}");
        }

        let denied = send(client, ask(&[("x-answer", "no")])).await;
        assert_eq!((denied.status().as_u16(), &denied.headers()["location"]), (402, &"/login".parse().unwrap()));
        assert_eq!(read(denied).await, "because");
        assert_eq!(send(client, ask(&[])).await.status(), StatusCode::FORBIDDEN, "it failed");
        assert_eq!(gate(&mesh).metric("weft_access_provider_failures_total", &[]), 1.0);
        // A gRPC caller is told in its own words.
        let call = Request::post("/asked").header("host", "reviews").header("content-type", "application/grpc");
        let denied = send(client, call.header("x-answer", "no").body(text("")).unwrap()).await;
        assert_eq!((denied.status(), &denied.headers()["grpc-message"]), (StatusCode::OK, &"because".parse().unwrap()));
    }
    assert_eq!(count.load(Ordering::Relaxed), 8);
}

#[tokio::test]
async fn d_authz_a_grpc_provider_is_asked_about_connections_and_an_http_provider_is_not() {
    let count = Arc::new(AtomicUsize::new(0));
    let address = grpc_authorizer(count.clone(), Arc::default()).await;
    let policy = |provider: &str| {
        let asks = documents(provider).replace("{app: reviews}", "{app: db}");
        asks.replace("[{to: [{operation: {paths: ['/asked*']}}]}]", "[{}]")
    };
    let db = serve(false, |_| async { Response::new(Full::new(Bytes::from("db")).boxed()) }).await;
    for (provider, authorizer, answers, asked) in [
        ("envoyExtAuthzGrpc: {service: authz.default.svc.cluster.local, port: 9000}", address, true, 1),
        ("envoyExtAuthzGrpc: {service: authz.default.svc.cluster.local, port: 9000}", nowhere().await, false, 0),
        (
            "envoyExtAuthzGrpc: {service: authz.default.svc.cluster.local, port: 9000, failOpen: true}",
            nowhere().await,
            true,
            0,
        ),
        ("envoyExtAuthzHttp: {service: authz.default.svc.cluster.local, port: 9000}", address, true, 0),
    ] {
        count.store(0, Ordering::Relaxed);
        let mut authz = hosted("authz", "authz-v1", Protocol::Grpc, authorizer);
        authz.row.port = 9000;
        let caller = Plan { listeners: vec![("db", ListenerProtocol::Tcp)], ..caller().await };
        let db = hosted("db", "db-v1", Protocol::Tcp, db);
        let mesh =
            Mesh::start_with(&policy(provider), vec![caller, Plan { hosted: vec![db, authz], ..Plan::default() }]);
        let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
        let mut heard = Vec::new();
        let _ = within(stream.read_to_end(&mut heard)).await;
        assert_eq!(heard.ends_with(b"db"), answers, "{provider}: {}", String::from_utf8_lossy(&heard));
        assert_eq!(count.load(Ordering::Relaxed), asked, "{provider}");
    }
}

/// A route to reviews whose requests for `/asked…` pass a filter.
fn route(auth: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{{group: \
         '', kind: Service, name: reviews}}], rules: [{{matches: [{{path: {{value: /asked}}}}], filters: [{{type: \
         ExternalAuth, externalAuth: {{backendRef: {{name: authz, port: 9000}}, {auth}}}}}], backendRefs: [{{name: \
         reviews, port: 9080}}]}}, {{backendRefs: [{{name: reviews, port: 9080}}]}}]}}}}\n"
    )
}

#[tokio::test]
async fn a_route_asks_an_http_authorizer_before_it_sends_a_request_on() {
    let (address, asked) = authorizer().await;
    let auth = "protocol: HTTP, http: {path: /check, allowedHeaders: [X-Answer, x-in], allowedResponseHeaders: [x-user]}, \
                forwardBody: {maxSize: 5}";
    for mesh in both_ways(&route(auth), Protocol::Http, address).await {
        let client = mesh.client().outbound;
        assert_eq!(send(client, get("reviews", "/other")).await.status(), StatusCode::OK);
        assert!(asked.lock().is_empty(), "nobody is asked for another rule");

        let post = |body: &'static str| {
            let request = Request::post("/asked/x?q=1").header("host", "reviews").header("x-user", "forged");
            request
                .header("authorization", "Basic a")
                .header("x-in", "i")
                .header("x-out", "o")
                .body(text(body))
                .unwrap()
        };
        let allowed = send(client, post("12345")).await;
        assert_eq!(allowed.status(), StatusCode::OK);
        assert!(!allowed.headers().contains_key("x-user"));
        let seen = read(allowed).await;
        assert!(seen.contains("\nx-user: ann\n") && !seen.contains("forged") && !seen.contains("x-note"), "{seen}");
        assert!(seen.contains("\nx-out: o\n") && seen.ends_with("12345"), "{seen}");
        let (head, body) = asked.lock().pop().unwrap();
        assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/check/asked/x?q=1"));
        let told = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let told = ["host", "authorization", "x-in", "content-length", "x-out"].map(told);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(told, [some("reviews"), some("Basic a"), some("i"), some("5"), None]);
        assert_eq!(body, "12345");

        let too_long = send(client, post("123456")).await;
        assert_eq!(too_long.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(asked.lock().is_empty());

        let denied = send(client, ask(&[("x-answer", "401")])).await;
        assert_eq!((denied.status(), &denied.headers()["x-note"]), (StatusCode::UNAUTHORIZED, &"n".parse().unwrap()));
        assert_eq!(denied.headers()["x-weft-reason"], "authorizer_denied");
        let id = denied.headers()["x-weft-decision"].to_str().unwrap().parse().unwrap();
        let kept = mesh.nodes[0].decisions.find(id).unwrap().asked;
        assert_eq!((kept.service.to_string().as_str(), kept.port), ("reviews.default", 9080));
        assert_eq!(kept.principal.as_deref(), Some("cluster.local/ns/default/sa/productpage"));
        assert_eq!(read(denied).await, "because");
        assert_eq!(send(client, ask(&[("x-answer", "503")])).await.status(), StatusCode::FORBIDDEN, "no answer is no");
        asked.lock().clear();
    }
}

#[tokio::test]
async fn a_route_asks_a_grpc_authorizer_and_tells_it_the_headers_that_are_listed() {
    let (count, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Bytes::new())));
    let address = grpc_authorizer(count.clone(), asked.clone()).await;
    let sent = [("x-answer", "yes"), ("x-user", "forged"), ("x-more", "1"), ("x-gone", "g")];
    for (listed, told_more) in [("", true), ("allowedHeaders: [x-answer, x-request-id]", false)] {
        let config = route(&format!("protocol: GRPC, grpc: {{{listed}}}"));
        for mesh in both_ways(&config, Protocol::Grpc, address).await {
            let client = mesh.client().outbound;
            let allowed = send(client, ask(&sent)).await;
            assert_eq!((allowed.status(), &allowed.headers()["x-note"]), (StatusCode::OK, &"n".parse().unwrap()));
            let seen = read(allowed).await;
            assert!(seen.contains("\nx-user: ann\n") && !seen.contains("x-gone"), "{seen}");
            let told = String::from_utf8_lossy(&asked.lock().clone()).into_owned();
            for part in ["spiffe://cluster.local/ns/default/sa/productpage", "/asked/x?q=1", ":authority"] {
                assert!(told.contains(part), "{part}: {told:?}");
            }
            assert_eq!(told.contains("x-gone"), told_more, "{told:?}");
            let denied = send(client, ask(&[("x-answer", "no")])).await;
            assert_eq!((denied.status().as_u16(), read(denied).await.as_str()), (402, "because"));
        }
    }
    assert_eq!(count.load(Ordering::Relaxed), 8);
    for mesh in both_ways(&route("protocol: GRPC, grpc: {}"), Protocol::Grpc, nowhere().await).await {
        let refused = send(mesh.client().outbound, ask(&sent)).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "who cannot be asked lets nothing pass");
    }
}
