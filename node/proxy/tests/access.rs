//! What workloads' policies let in: between nodes, and within one.

mod support;

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{Method, Request, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_policy::authenticate::{Jwks, KeysAt, KnownKeys};
use weft_proxy::{config::ListenerProtocol, ports::KeyTable};
use weft_wire::fact::Protocol;

use support::*;

const SECRET: &[u8] = b"a secret that only this test has";

fn key_set() -> String {
    let key = BASE64_URL_SAFE_NO_PAD.encode(SECRET);
    json!({"keys": [{"kty": "oct", "alg": "HS256", "k": key}]}).to_string()
}

fn token(claims: serde_json::Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

/// productpage and reviews on one node each; then both on the first one.
async fn both_ways(documents: &str) -> [Mesh; 2] {
    let reviews = hosted("reviews", "reviews-v1", Protocol::Http, echo().await);
    let apart = vec![caller().await, Plan { hosted: vec![reviews.clone()], ..Plan::default() }];
    let mut together = caller().await;
    together.hosted.push(reviews);
    [Mesh::start_with(documents, apart), Mesh::start_with(documents, vec![together])]
}

fn policy(spec: &str) -> String {
    format!("{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, spec: {spec}}}\n")
}

async fn status(mesh: &Mesh, request: Request<Body>) -> StatusCode {
    send(mesh.client().outbound, request).await.status()
}

#[tokio::test]
async fn d_authz_what_no_policy_allows_is_denied_with_envoys_words_and_an_id() {
    let spec = "{rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/productpage]}}], \
                to: [{operation: {methods: [GET], paths: ['/allowed/*']}}]}]}";
    for mesh in both_ways(&policy(spec)).await {
        assert_eq!(status(&mesh, get("reviews", "/allowed/1?x=y")).await, StatusCode::OK);
        let denied = send(mesh.client().outbound, get("reviews", "/other")).await;
        assert_eq!(denied.status(), StatusCode::FORBIDDEN);
        assert_eq!(denied.headers()["x-weft-reason"], "access_denied");
        let id = denied.headers()["x-weft-decision"].to_str().unwrap().to_owned();
        assert_eq!(read(denied).await, "RBAC: access denied");
        let post = Request::post("/allowed/1").header("host", "reviews").body(text("x")).unwrap();
        assert_eq!(status(&mesh, post).await, StatusCode::FORBIDDEN);

        let node = mesh.nodes.last().unwrap();
        let finding = node.decisions.find(id.parse().unwrap()).unwrap();
        assert_eq!(finding.asked.workload, "default/reviews-v1");
        assert_eq!(finding.asked.principal.as_deref(), Some("cluster.local/ns/default/sa/productpage"));
        assert_eq!(finding.asked.http.unwrap().path, "/other");
        assert_eq!(node.metric("weft_access_denied_total", &[]), 2.0);
        eventually("it is logged", || node.log.text().contains(" 403 - rbac_access_denied_matched_policy[none] - "))
            .await;
    }
}

#[tokio::test]
async fn d_authz_a_caller_is_who_its_certificate_says() {
    let spec = "{rules: [{from: [{source: {principals: ['*/sa/other']}}]}]}";
    for mesh in both_ways(&policy(spec)).await {
        let request = Request::get("/").header("host", "reviews").header("x-weft-source", "default/other");
        let request = request.header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/other");
        assert_eq!(status(&mesh, request.body(text("")).unwrap()).await, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn d_authz_a_grpc_caller_gets_a_grpc_status() {
    for mesh in both_ways(&policy("{action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}")).await {
        let call = |path| {
            let request = Request::post(path).header("host", "reviews").header("content-type", "application/grpc");
            send(mesh.client().outbound, request.body(text("")).unwrap())
        };
        let denied = call("/denied").await;
        assert_eq!(denied.status(), StatusCode::OK);
        assert_eq!(denied.headers()["grpc-status"], "7");
        assert_eq!(denied.headers()["grpc-message"], "RBAC: access denied");
        assert!(call("/other").await.headers().get("grpc-status").is_none());
    }
}

#[tokio::test]
async fn d_authz_dry_run_and_audit_decide_nothing_and_are_counted() {
    let documents = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: tried, \
                     annotations: {istio.io/dry-run: 'true'}}, spec: {action: DENY, rules: [{}]}}\n---\n\
                     {apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: audited}, \
                     spec: {action: AUDIT, rules: [{to: [{operation: {paths: [/a]}}]}]}}\n";
    for mesh in both_ways(documents).await {
        assert_eq!(status(&mesh, get("reviews", "/a")).await, StatusCode::OK);
        assert_eq!(status(&mesh, get("reviews", "/b")).await, StatusCode::OK);
        let node = mesh.nodes.last().unwrap();
        assert_eq!(node.metric("weft_access_dry_run_denied_total", &[]), 2.0);
        assert_eq!(node.metric("weft_access_audited_total", &[]), 1.0);
        assert_eq!(node.metric("weft_access_denied_total", &[]), 0.0);
        assert_eq!(node.decisions.latest(10).len(), 3);
    }
}

#[tokio::test]
async fn d_path_policy_and_workload_see_one_path() {
    for mesh in both_ways(&policy("{action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}")).await {
        for path in ["/x/../admin", "/./admin", "/x/%2e%2E/admin", r"/x\..\admin", "/%61dmin"] {
            assert_eq!(status(&mesh, get("reviews", path)).await, StatusCode::FORBIDDEN, "{path}");
        }
        let seen = read(send(mesh.client().outbound, get("reviews", r"/a/./b\..\c%2Fd?q=/../e")).await).await;
        assert!(seen.starts_with("GET /a/c%2Fd?q=/../e\n"), "{seen}");
        assert_eq!(status(&mesh, get("reviews", "/a%00b")).await, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn d_path_a_peers_proxy_is_not_trusted_with_it() {
    let documents = policy("{action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}");
    let reviews = Plan { hosted: vec![hosted("reviews", "r-1", Protocol::Http, echo().await)], ..Plan::default() };
    let mesh = Mesh::start_with(&documents, vec![reviews]);
    let certificate = mesh.ca.issue(&"spiffe://cluster.local/ns/default/sa/x".parse().unwrap());
    for (path, expected) in [("/ok", "200"), ("/x/../admin", "403"), ("/a%00", "400")] {
        let answer = mesh.client().ask(certificate.clone(), path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn d_path_the_mesh_config_sets_how_much_is_made_uniform() {
    let config = |level: &str| {
        format!(
            "{{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {{name: default, namespace: istio-system}}, \
             spec: {{pathNormalization: {{normalization: {level}}}}}}}\n"
        )
    };
    for (level, path) in [("NONE", "/a/..//%2e%2fb"), ("BASE", "//.%2fb"), ("MERGE_SLASHES", "/.%2fb")] {
        for mesh in both_ways(&config(level)).await {
            let seen = read(send(mesh.client().outbound, get("reviews", "/a/..//%2e%2fb")).await).await;
            assert!(seen.starts_with(&format!("GET {path}\n")), "{level}: {seen}");
        }
    }
}

fn takes_tokens(more: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: r, namespace: default}}, \
         spec: {{jwtRules: [{{issuer: me, {more}}}]}}}}\n"
    )
}

fn with_token(token: &str, path: &str) -> Request<Body> {
    let request = Request::get(path).header("host", "reviews").header("authorization", format!("Bearer {token}"));
    request.body(text("")).unwrap()
}

#[tokio::test]
async fn d_jwt_a_bad_token_is_refused_and_none_passes() {
    let documents = takes_tokens(&format!("audiences: [here], jwks: '{}'", key_set()));
    for mesh in both_ways(&documents).await {
        assert_eq!(status(&mesh, get("reviews", "/")).await, StatusCode::OK);
        let good = token(json!({"iss": "me", "sub": "you", "aud": "here"}));
        assert_eq!(status(&mesh, with_token(&good, "/")).await, StatusCode::OK);

        let refused = send(mesh.client().outbound, with_token("nonsense", "/a?b=c")).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let challenge = "Bearer realm=\"http://reviews/a\", error=\"invalid_token\"";
        assert_eq!(refused.headers()["www-authenticate"], challenge);
        assert!(refused.headers().contains_key("x-weft-decision"));
        let body = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
        assert_eq!(read(refused).await, body);

        let foreign = token(json!({"iss": "me", "sub": "you", "aud": "elsewhere"}));
        assert_eq!(status(&mesh, with_token(&foreign, "/")).await, StatusCode::FORBIDDEN);
        let node = mesh.nodes.last().unwrap();
        assert_eq!(node.metric("weft_access_tokens_refused_total", &[]), 2.0);
        eventually("it is logged", || node.log.text().contains(" 401 UAEX jwt_authn_access_denied{Jwt_is_not_in_"))
            .await;
        let preflight = Request::builder().method(Method::OPTIONS).uri("/").header("host", "reviews");
        let preflight = preflight.header("authorization", "Bearer nonsense");
        let without_origin = preflight.body(text("")).unwrap();
        assert_eq!(status(&mesh, without_origin).await, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn d_jwt_the_workload_gets_claims_and_not_the_token_and_nobody_else_sets_them() {
    let more = "outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-sub, claim: sub}]";
    let documents = takes_tokens(&format!("jwks: '{}', {more}", key_set()));
    for mesh in both_ways(&documents).await {
        let good = token(json!({"iss": "me", "sub": "you"}));
        let mut request = with_token(&good, "/p?access_token=&b=c");
        request.headers_mut().insert("x-sub", "somebody".parse().unwrap());
        let request_without = Request::get("/").header("host", "reviews").header("x-sub", "somebody");
        let seen = read(send(mesh.client().outbound, request_without.body(text("")).unwrap()).await).await;
        assert!(!seen.contains("x-sub"), "{seen}");
        request.headers_mut().insert("x-payload", "{}".parse().unwrap());
        *request.uri_mut() = "/p?b=c".parse().unwrap();
        let seen = read(send(mesh.client().outbound, request).await).await;
        assert!(seen.contains("x-sub: you\n") && !seen.contains("somebody"), "{seen}");
        let payload = BASE64_URL_SAFE_NO_PAD.encode(json!({"iss": "me", "sub": "you"}).to_string());
        assert!(seen.contains(&format!("x-payload: {payload}\n")), "{seen}");
        assert!(!seen.contains("authorization"), "{seen}");

        let request = get("reviews", &format!("/p?a=b&access_token={good}"));
        let seen = read(send(mesh.client().outbound, request).await).await;
        assert!(seen.starts_with("GET /p?a=b\n"), "{seen}");
    }
}

#[tokio::test]
async fn d_jwt_policies_read_the_claims() {
    let rules = "{rules: [{from: [{source: {requestPrincipals: [me/you]}}], \
                 when: [{key: 'request.auth.claims[groups]', values: [admins]}]}]}";
    let documents = format!("{}---\n{}", takes_tokens(&format!("jwks: '{}'", key_set())), policy(rules));
    for mesh in both_ways(&documents).await {
        let admin = token(json!({"iss": "me", "sub": "you", "groups": ["users", "admins"]}));
        let user = token(json!({"iss": "me", "sub": "you", "groups": ["users"]}));
        assert_eq!(status(&mesh, with_token(&admin, "/")).await, StatusCode::OK);
        assert_eq!(status(&mesh, with_token(&user, "/")).await, StatusCode::FORBIDDEN);
        assert_eq!(status(&mesh, get("reviews", "/")).await, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn d_jwt_a_request_waits_for_keys_as_long_as_the_rule_says() {
    let url = "http://keys.example/jwks";
    let good = token(json!({"iss": "me", "sub": "you"}));
    // They come in time.
    let patient = takes_tokens(&format!("jwksUri: {url}, timeout: 20s"));
    for mut mesh in both_ways(&patient).await {
        let asked = tokio::spawn(send(mesh.client().outbound, with_token(&good, "/")));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!asked.is_finished());
        let keys = KnownKeys::Known(Arc::new(Jwks::read(&key_set()).unwrap()));
        let node = mesh.nodes.last_mut().unwrap();
        node.keys.publish(KeyTable::from_iter([(KeysAt::Url(url.into()), keys)]));
        assert_eq!(within(asked).await.unwrap().status(), StatusCode::OK);
        node.keys.publish(KeyTable::from_iter([(KeysAt::Url(url.into()), KnownKeys::Failed)]));
        let refused = send(mesh.client().outbound, with_token(&good, "/")).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(read(refused).await, "Jwks remote fetch is failed");
    }
    // They do not.
    for mesh in both_ways(&takes_tokens(&format!("jwksUri: {url}, timeout: 0.01s"))).await {
        assert_eq!(status(&mesh, with_token(&good, "/")).await, StatusCode::UNAUTHORIZED);
        assert_eq!(status(&mesh, get("reviews", "/")).await, StatusCode::OK);
    }
}

#[tokio::test]
async fn d_authz_a_tcp_connection_that_is_denied_is_closed() {
    let db = || async { hosted("db", "db-v1", Protocol::Tcp, greeter().await) };
    let listeners = vec![("db", ListenerProtocol::Tcp)];
    for (spec, is_let_in) in [
        ("{rules: [{from: [{source: {namespaces: [default]}}]}]}", true),
        ("{rules: [{from: [{source: {namespaces: [other]}}]}]}", false),
        // Of an HTTP rule nothing is left that could allow.
        ("{rules: [{to: [{operation: {methods: [GET]}}]}]}", false),
    ] {
        let mut client = Plan { listeners: listeners.clone(), ..caller().await };
        let apart = vec![client, Plan { hosted: vec![db().await], ..Plan::default() }];
        client = Plan { listeners: listeners.clone(), ..caller().await };
        client.hosted.push(db().await);
        for plans in [apart, vec![client]] {
            let mesh = Mesh::start_with(&policy(spec), plans);
            let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
            let _ = stream.write_all(b"x").await;
            let mut answer = Vec::new();
            let _ = within(stream.read_to_end(&mut answer)).await;
            assert_eq!(answer == b"hello", is_let_in, "{spec}");
        }
    }
}

/// An application that says one word and hangs up.
async fn greeter() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = [0];
            let _ = stream.read_exact(&mut heard).await;
            let _ = stream.write_all(b"hello").await;
        }
    });
    address
}

#[tokio::test]
async fn d_mtls_a_peer_of_an_alias_of_the_trust_domain_gets_in() {
    let alias = "{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default, namespace: istio-system}, \
                 spec: {trustDomainAliases: [old.example]}}\n";
    let allow = policy("{rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/x]}}]}]}");
    for (documents, gets_in) in [(format!("{alias}---\n{allow}"), true), (allow.clone(), false)] {
        let reviews = Plan { hosted: vec![hosted("reviews", "r-1", Protocol::Http, echo().await)], ..Plan::default() };
        let mesh = Mesh::start_with(&documents, vec![reviews]);
        let certificate = mesh.ca.issue(&"spiffe://old.example/ns/default/sa/x".parse().unwrap());
        let answer = mesh.client().ask(certificate, "/").await;
        assert_eq!(answer.starts_with("HTTP/1.1 200"), gets_in, "{answer}");
    }
}
