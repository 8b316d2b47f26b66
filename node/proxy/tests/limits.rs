//! RateLimits, on real sockets.

mod support;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{Request, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use weft_wire::fact::Protocol;

use support::*;

/// A RateLimit for `target` of one request an hour, with further fields of its limit.
fn once(target: &str, fields: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: RateLimit\nmetadata: {{name: once}}\n\
         spec: {{targetRefs: [{target}], limits: [{{requests: 1, unit: Hour{fields}}}]}}\n"
    )
}

const REVIEWS: &str = "{group: '', kind: Service, name: reviews}";

async fn reviews() -> Hosted {
    hosted("reviews", "reviews-v1", Protocol::Http, echo().await)
}

/// A mesh of two callers, `productpage` and `details`, and of `reviews`.
async fn two_callers(documents: &str) -> Mesh {
    let details = hosted("details", "details-v1", Protocol::Http, nowhere().await);
    let plan = |hosted| Plan { hosted: vec![hosted], ..Plan::default() };
    Mesh::start_with(documents, vec![caller().await, plan(details), plan(reviews().await)])
}

#[tokio::test]
async fn a_services_limit_counts_whoever_calls() {
    let mesh = two_callers(&once(REVIEWS, "")).await;
    let first = send(mesh.nodes[0].outbound, get("reviews", "/")).await;
    assert_eq!(first.status(), StatusCode::OK);
    let told = |name: &str| first.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((told("x-ratelimit-limit"), told("x-ratelimit-remaining")), ("1".into(), "0".into()));
    assert_eq!(told("x-ratelimit-reset"), "3600");

    let second = send(mesh.nodes[1].outbound, get("reviews", "/")).await;
    assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(second.headers()["x-ratelimit-remaining"], "0");
    assert_eq!(second.headers()["x-envoy-ratelimited"], "true");
    assert_eq!(second.headers()["x-weft-reason"], "rate_limited");
    let wait: u64 = second.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((3_500..=3_600).contains(&wait), "{wait}");
    assert!(read(second).await.starts_with("local_rate_limited"));
    let labels = ["reporter=\"destination\"", "response_code=\"429\"", "response_flags=\"RL\""];
    eventually("it is counted once", || mesh.nodes[2].metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn a_grpc_caller_is_told_that_a_resource_is_exhausted() {
    let mesh = two_callers(&once(REVIEWS, "")).await;
    let call = || {
        let request = Request::post("/a.B/C").header("host", "reviews").header("content-type", "application/grpc");
        request.body(text("")).unwrap()
    };
    send(mesh.client().outbound, call()).await;
    let refused = send(mesh.client().outbound, call()).await;
    assert_eq!((refused.status(), &refused.headers()["grpc-status"]), (StatusCode::OK, &"8".parse().unwrap()));
    assert!(refused.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn a_limit_by_caller_counts_each_by_its_proven_identity() {
    let mesh = two_callers(&once(REVIEWS, ", keys: [{caller: Identity}]")).await;
    for node in [0, 1] {
        assert_eq!(send(mesh.nodes[node].outbound, get("reviews", "/")).await.status(), StatusCode::OK);
        let again = send(mesh.nodes[node].outbound, get("reviews", "/")).await;
        assert_eq!(again.status(), StatusCode::TOO_MANY_REQUESTS);
    }
}

#[tokio::test]
async fn a_limit_by_claim_counts_each_subject_of_verified_tokens() {
    const SECRET: &[u8] = b"a secret that only this test has";
    let keys = json!({"keys": [{"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode(SECRET)}]}).to_string();
    let tokens = format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: t}}, spec: {{jwtRules: \
         [{{issuer: i, jwks: '{keys}'}}]}}}}\n"
    );
    let documents = once(REVIEWS, ", keys: [{claim: sub}]") + &tokens;
    let mut together = caller().await;
    together.hosted.push(reviews().await);
    for mesh in [two_callers(&documents).await, Mesh::start_with(&documents, vec![together])] {
        let status = async |subject: Option<&str>| {
            let mut request = get("reviews", "/");
            if let Some(subject) = subject {
                let claims = json!({"iss": "i", "sub": subject});
                let key = EncodingKey::from_secret(SECRET);
                let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
                request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
            send(mesh.client().outbound, request).await.status().as_u16()
        };
        for (subject, expected) in
            [(Some("a"), 200), (Some("b"), 200), (Some("a"), 429), (None, 200), (None, 429), (Some("b"), 429)]
        {
            assert_eq!(status(subject).await, expected, "{subject:?}");
        }
    }
}

#[tokio::test]
async fn callers_on_the_same_host_are_counted_with_the_others() {
    let here = Plan { hosted: vec![caller().await.hosted.remove(0), reviews().await], ..Plan::default() };
    let keys = ", keys: [{header: x-user}], match: [{principals: ['*/sa/productpage']}]";
    let mesh = Mesh::start_with(&once(REVIEWS, keys), vec![here, caller().await]);
    let by = |user: &str| Request::get("/").header("host", "reviews").header("x-user", user).body(text("")).unwrap();
    for (node, user, status) in [(0, "a", 200), (1, "a", 429), (0, "a", 429), (1, "b", 200), (0, "b", 429)] {
        let answer = send(mesh.nodes[node].outbound, by(user)).await;
        assert_eq!(answer.status().as_u16(), status, "{user} from node {node}");
    }
}

#[tokio::test]
async fn a_routes_limit_counts_at_the_caller_before_anything_is_done() {
    let route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\n\
                 spec: {hosts: [reviews], http: [\
                   {name: a, match: [{uri: {prefix: /a}}], directResponse: {status: 299}}, \
                   {route: [{destination: {host: reviews}}]}]}\n---\n";
    let target = "{group: networking.istio.io, kind: VirtualService, name: r, sectionName: a}";
    let mesh = two_callers(&format!("{route}{}", once(target, ""))).await;
    for (node, path, status) in [(0, "/a", 299), (0, "/a", 429), (0, "/b", 200), (1, "/a", 299)] {
        let answer = send(mesh.nodes[node].outbound, get("reviews", path)).await;
        assert_eq!(answer.status().as_u16(), status, "{path} from node {node}");
    }
}

#[tokio::test]
async fn what_a_limit_refused_is_tried_again_only_if_a_rule_asks_for_it() {
    let rule = |retry_on: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r}}\nspec: {{hosts: [reviews], \
             http: [{{retries: {{attempts: 2, retryOn: '{retry_on}'}}, route: [{{destination: {{host: reviews}}}}]}}]}}\n---\n"
        )
    };
    for (retry_on, refused) in [("5xx,429,unavailable", 1.0), ("envoy-ratelimited", 3.0)] {
        let mesh = two_callers(&format!("{}{}", rule(retry_on), once(REVIEWS, ""))).await;
        send(mesh.client().outbound, get("reviews", "/")).await;
        assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status().as_u16(), 429);
        let labels = ["reporter=\"destination\"", "response_flags=\"RL\""];
        eventually(retry_on, || mesh.nodes[2].metric("istio_requests_total", &labels) == refused).await;
    }
}
