mod signing;

use std::{collections::BTreeMap, sync::LazyLock};

use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};
use weft_wire::id::Namespace;

use self::signing::{Signer, base64url};
use super::*;
use crate::api::testing::documents;

/// 2001-09-09.
const NOW: u64 = 1_000_000_000;

/// The keys of issuers `one` and `two`.
static ONE: LazyLock<Signer> = LazyLock::new(Signer::p256);
static TWO: LazyLock<Signer> = LazyLock::new(Signer::ed25519);

fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A rule for issuer `one` with further fields.
fn rule_one(fields: Value) -> Value {
    rule("one", &ONE, fields)
}

fn rule_two(fields: Value) -> Value {
    rule("two", &TWO, fields)
}

fn rule(issuer: &str, signer: &Signer, fields: Value) -> Value {
    let mut rule = json!({ "issuer": issuer, "jwks": key_set(&[signer.key(json!({}))]) });
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    rule.as_object_mut().unwrap().extend(fields);
    rule
}

fn policy(metadata: &Value, rules: &[Value]) -> String {
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": metadata,
        "spec": { "jwtRules": rules },
    });
    format!("---\n{policy}\n")
}

fn compile_text(text: &str) -> Authenticator {
    let namespace: Namespace = "foo".parse().unwrap();
    let workload = Workload { namespace: &namespace, labels: &BTreeMap::new(), attached: &[] };
    Authenticator::compile(&documents(text), &workload)
}

fn compile(rules: &[Value]) -> Authenticator {
    compile_text(&policy(&json!({ "name": "a", "namespace": "foo" }), rules))
}

fn token_one(claims: Value) -> String {
    token("one", &ONE, "ES256", claims)
}

fn token_two(claims: Value) -> String {
    token("two", &TWO, "EdDSA", claims)
}

fn token(issuer: &str, signer: &Signer, algorithm: &str, claims: Value) -> String {
    let mut all = json!({ "iss": issuer, "sub": "me", "exp": NOW + 1000 });
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    all.as_object_mut().unwrap().extend(claims);
    signer.token(&json!({ "alg": algorithm }), &all)
}

/// A request, as its method, path and headers.
#[derive(Clone, Debug)]
struct Sent {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
}

fn at(path: &str, headers: &[(&'static str, &str)]) -> Sent {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Sent { method: Method::GET, path: path.into(), headers }
}

fn bearing(token: &str) -> Sent {
    at("/", &[("authorization", &format!("Bearer {token}"))])
}

impl Sent {
    fn ask<R>(
        &self,
        authenticator: &Authenticator,
        keys: &dyn Fn(&KeysAt) -> KnownKeys,
        answer: impl FnOnce(Outcome<'_>) -> R,
    ) -> R {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(*name, value.parse().unwrap());
        }
        let request = TokenRequest { method: &self.method, path: &self.path, headers: &headers };
        answer(authenticator.authenticate(&request, keys, NOW))
    }

    /// What the tokens say.
    #[track_caller]
    fn taken<R>(&self, authenticator: &Authenticator, look: impl FnOnce(&Authenticated<'_>) -> R) -> R {
        self.ask(authenticator, &no_keys, |outcome| match outcome {
            Outcome::Authenticated(authenticated) => look(&authenticated),
            other => panic!("{self:?}: {other:?}"),
        })
    }

    #[track_caller]
    fn check_refused(&self, authenticator: &Authenticator, expected: Refusal) {
        self.ask(authenticator, &no_keys, |outcome| match outcome {
            Outcome::Refused(refusal) => assert_eq!(refusal, expected, "{self:?}"),
            other => panic!("{self:?}: {other:?}"),
        });
    }

    #[track_caller]
    fn check_anonymous(&self, authenticator: &Authenticator) {
        self.ask(authenticator, &no_keys, |outcome| assert!(matches!(outcome, Outcome::Anonymous), "{outcome:?}"));
    }
}

fn no_keys(_: &KeysAt) -> KnownKeys {
    KnownKeys::NotFetched
}

#[test]
fn d_jwt_without_a_token_requests_pass_and_have_no_identity() {
    at("/", &[]).check_anonymous(&compile(&[rule_one(json!({}))]));
    at("/", &[("authorization", "Basic abc")]).check_anonymous(&compile(&[rule_one(json!({}))]));
    bearing("nonsense").check_anonymous(&compile(&[]));
}

#[test]
fn d_jwt_a_good_token_gives_its_claims_and_principal() {
    let authenticator = compile(&[rule_one(json!({ "audiences": ["https://app/", "x"] }))]);
    bearing(&token_one(json!({ "aud": ["app"], "scope": "a b" }))).taken(&authenticator, |taken| {
        assert_eq!(taken.claims.principal().as_deref(), Some("one/me"));
        assert_eq!((taken.policy.name.as_str(), taken.rule), ("a", 0));
    });
}

#[test]
fn d_jwt_every_algorithm_verifies() {
    let rsa = Signer::rsa();
    let secret = Signer::Hmac(vec![7; 64]);
    let (p256, p384, ed25519) = (Signer::p256(), Signer::p384(), Signer::ed25519());
    for (algorithm, signer) in [
        ("RS256", &rsa),
        ("RS384", &rsa),
        ("RS512", &rsa),
        ("PS256", &rsa),
        ("PS384", &rsa),
        ("PS512", &rsa),
        ("ES256", &p256),
        ("ES384", &p384),
        ("EdDSA", &ed25519),
        ("HS256", &secret),
        ("HS384", &secret),
        ("HS512", &secret),
    ] {
        let authenticator = compile(&[rule("one", signer, json!({}))]);
        let good = token("one", signer, algorithm, json!({}));
        bearing(&good).taken(&authenticator, |taken| assert_eq!(taken.claims.text("sub"), Some("me"), "{algorithm}"));
        let (signed, _) = good.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", base64url([1; 64]));
        bearing(&forged).check_refused(&authenticator, Refusal::WrongSignature);
    }
}

#[test]
fn d_jwt_a_key_is_chosen_by_id_and_algorithm() {
    let (a, b) = (Signer::p256(), Signer::p256());
    let keys = key_set(&[a.key(json!({ "kid": "a", "alg": "ES256" })), b.key(json!({ "kid": "b" }))]);
    let authenticator = compile(&[json!({ "issuer": "one", "jwks": keys })]);
    let claims = json!({ "iss": "one" });
    bearing(&b.token(&json!({ "alg": "ES256", "kid": "b" }), &claims)).taken(&authenticator, |_| ());
    bearing(&b.token(&json!({ "alg": "ES256" }), &claims)).taken(&authenticator, |_| ());
    let wrong = b.token(&json!({ "alg": "ES256", "kid": "a" }), &claims);
    bearing(&wrong).check_refused(&authenticator, Refusal::WrongSignature);
    let unknown = b.token(&json!({ "alg": "ES256", "kid": "c" }), &claims);
    bearing(&unknown).check_refused(&authenticator, Refusal::NoSuchKey);
}

#[test]
fn d_jwt_a_public_key_is_no_secret_to_sign_with() {
    let rsa = Signer::rsa();
    let authenticator = compile(&[rule("one", &rsa, json!({}))]);
    let public = rsa.key(json!({}));
    for secret in [public.to_string(), public["n"].as_str().unwrap().to_owned()] {
        let forged = token("one", &Signer::Hmac(secret.into_bytes()), "HS256", json!({}));
        bearing(&forged).check_refused(&authenticator, Refusal::WrongSignature);
    }
    let unsigned = format!("{}.{}.", base64url(r#"{"alg":"none"}"#), base64url(r#"{"iss":"one"}"#));
    bearing(&unsigned).check_refused(&authenticator, Refusal::AlgorithmNotSupported);
}

#[test]
fn d_jwt_a_bad_token_is_refused_with_401() {
    let authenticator = compile(&[rule_one(json!({}))]);
    let signed = |header: &str, payload: &str| format!("{}.{}.", base64url(header), base64url(payload));
    let header = r#"{"alg":"ES256"}"#;
    for (token, refusal) in [
        ("abc".to_owned(), Refusal::BadForm),
        ("a.b".to_owned(), Refusal::BadForm),
        ("a.b.c.d".to_owned(), Refusal::BadForm),
        ("a$.b.c".to_owned(), Refusal::HeaderNotBase64),
        (signed("[]", "{}"), Refusal::HeaderNotJson),
        (signed("{}", "{}"), Refusal::AlgorithmMissing),
        (signed(r#"{"alg":1}"#, "{}"), Refusal::AlgorithmMissing),
        (signed(r#"{"alg":"ES999"}"#, "{}"), Refusal::AlgorithmNotSupported),
        (signed(r#"{"alg":"ES256","kid":1}"#, "{}"), Refusal::KeyIdNotText),
        (format!("{}.a$.c", base64url(header)), Refusal::PayloadNotBase64),
        (signed(header, "x"), Refusal::PayloadNotJson),
        (signed(header, r#"{"iss":1}"#), Refusal::IssuerNotText),
        (signed(header, r#"{"sub":1}"#), Refusal::SubjectNotText),
        (signed(header, r#"{"iat":"x"}"#), Refusal::IssuedAtNotNumber),
        (signed(header, r#"{"nbf":-1}"#), Refusal::NotBeforeNotNumber),
        (signed(header, r#"{"exp":"x"}"#), Refusal::ExpiryNotNumber),
        (signed(header, r#"{"aud":1}"#), Refusal::AudienceNotText),
        (format!("{}$", signed(header, "{}")), Refusal::SignatureNotBase64),
        (token("other", &ONE, "ES256", json!({})), Refusal::UnknownIssuer),
        (token_one(json!({ "exp": NOW - 61 })), Refusal::Expired),
        (token_one(json!({ "nbf": NOW + 61 })), Refusal::NotYetValid),
        (token("one", &TWO, "EdDSA", json!({})), Refusal::WrongSignature),
    ] {
        bearing(&token).check_refused(&authenticator, refusal);
        assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(Refusal::Expired.to_string(), "Jwt is expired");
    assert_eq!(Refusal::Expired.challenge("http://a/b"), "Bearer realm=\"http://a/b\", error=\"invalid_token\"");
    assert_eq!(Refusal::Missing.challenge("http://a/b"), "Bearer realm=\"http://a/b\"");
}

#[test]
fn d_jwt_clocks_may_differ_by_a_minute() {
    let authenticator = compile(&[rule_one(json!({}))]);
    bearing(&token_one(json!({ "exp": NOW - 60 }))).taken(&authenticator, |_| ());
    bearing(&token_one(json!({ "nbf": NOW + 60 }))).taken(&authenticator, |_| ());
    bearing(&token_one(json!({ "exp": NOW as f64 + 0.5 }))).taken(&authenticator, |_| ());
}

#[test]
fn d_jwt_a_wrong_audience_is_refused_with_403() {
    let authenticator = compile(&[rule_one(json!({ "audiences": ["app"] }))]);
    for claims in [json!({ "aud": "other" }), json!({ "aud": ["x", "y"] }), json!({})] {
        bearing(&token_one(claims)).check_refused(&authenticator, Refusal::WrongAudience);
    }
    assert_eq!(Refusal::WrongAudience.status(), StatusCode::FORBIDDEN);
    // A rule of another issuer that looks at the same place does not hide it.
    let authenticator = compile(&[rule_two(json!({})), rule_one(json!({ "audiences": ["app"] }))]);
    bearing(&token_one(json!({}))).check_refused(&authenticator, Refusal::WrongAudience);
}

#[test]
fn d_jwt_keys_are_fetched_by_the_caller_and_their_lack_refuses() {
    for (fields, expected) in [
        (json!({ "jwksUri": "http://keys/" }), KeysAt::Url("http://keys/".into())),
        (json!({}), KeysAt::Issuer("one".into())),
    ] {
        let mut rule = json!({ "issuer": "one", "timeout": "10ms" });
        rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let authenticator = compile(&[rule]);
        let sent = bearing(&token_one(json!({})));
        sent.ask(&authenticator, &no_keys, |outcome| match outcome {
            Outcome::NeedsKeys { at, timeout } => {
                assert_eq!((at, timeout), (&expected, Duration::from_millis(10)));
            }
            other => panic!("{other:?}"),
        });
        let known = Arc::new(Jwks::read(&key_set(&[ONE.key(json!({}))])).unwrap());
        let keys = |at: &KeysAt| {
            assert_eq!(*at, expected);
            KnownKeys::Known(known.clone())
        };
        sent.ask(&authenticator, &keys, |outcome| assert!(matches!(outcome, Outcome::Authenticated(_)), "{outcome:?}"));
        sent.ask(&authenticator, &|_| KnownKeys::Failed, |outcome| {
            assert!(matches!(outcome, Outcome::Refused(Refusal::KeysNotFetched)), "{outcome:?}");
        });
        // Without a token that could be good, nothing is fetched.
        at("/", &[]).check_anonymous(&authenticator);
        bearing(&token_two(json!({}))).check_refused(&authenticator, Refusal::UnknownIssuer);
    }
}

#[test]
fn d_jwt_a_preflight_has_no_token_to_check() {
    let authenticator = compile(&[rule_one(json!({ "presence": "REQUIRED" }))]);
    let preflight = [("origin", "http://a"), ("access-control-request-method", "PUT"), ("authorization", "Bearer bad")];
    let options = |headers: &[(&'static str, &str)]| Sent { method: Method::OPTIONS, ..at("/", headers) };
    options(&preflight).check_anonymous(&authenticator);
    options(&preflight[1..]).check_refused(&authenticator, Refusal::BadForm);
    options(&[]).check_refused(&authenticator, Refusal::Missing);
    at("/", &preflight).check_refused(&authenticator, Refusal::BadForm);
}

#[test]
fn d_jwt_several_policies_merge_and_rules_of_one_issuer_are_alternatives() {
    let text = policy(&json!({ "name": "a", "namespace": "foo" }), &[rule_one(json!({}))])
        + &policy(&json!({ "name": "b", "namespace": "istio-system" }), &[rule_two(json!({}))])
        + &policy(&json!({ "name": "c", "namespace": "bar" }), &[rule("three", &ONE, json!({}))]);
    let authenticator = compile_text(&text);
    bearing(&token_one(json!({}))).taken(&authenticator, |taken| assert_eq!(taken.policy.name, "a"));
    bearing(&token_two(json!({}))).taken(&authenticator, |taken| assert_eq!(taken.policy.name, "b"));
    bearing(&token("three", &ONE, "ES256", json!({}))).check_refused(&authenticator, Refusal::UnknownIssuer);
    let authenticator = compile(&[rule("one", &TWO, json!({})), rule_one(json!({}))]);
    bearing(&token_one(json!({}))).taken(&authenticator, |taken| assert_eq!(taken.rule, 1));
    bearing(&token("one", &TWO, "EdDSA", json!({}))).taken(&authenticator, |taken| assert_eq!(taken.rule, 0));
}

#[test]
fn d_jwt_one_bad_token_among_several_of_a_rule_is_refused() {
    let authenticator = compile(&[rule_one(json!({}))]);
    let (good, bad) = (token_one(json!({})), token_one(json!({ "exp": NOW - 1000 })));
    let both = |header: &str, parameter: &str| {
        at(&format!("/?access_token={parameter}"), &[("authorization", &format!("Bearer {header}"))])
    };
    both(&good, &good).taken(&authenticator, |_| ());
    both(&good, &bad).check_refused(&authenticator, Refusal::Expired);
    both(&bad, &good).check_refused(&authenticator, Refusal::Expired);
    let lines = at("/", &[("authorization", &format!("Bearer {good}")), ("authorization", &format!("Bearer {bad}"))]);
    lines.check_refused(&authenticator, Refusal::Expired);
}

#[test]
fn d_jwt_required_tokens_must_all_be_there() {
    let places = |header: &str, presence: &str| json!({ "fromHeaders": [{ "name": header }], "presence": presence });
    let (one, two) = (token_one(json!({ "a": 1 })), token_two(json!({ "b": 2 })));
    let both = at("/", &[("x-one", &one), ("x-two", &two)]);
    let (only_one, only_two) = (at("/", &[("x-one", &one)]), at("/", &[("x-two", &two)]));
    let required = compile(&[rule_one(places("x-one", "REQUIRED")), rule_two(places("x-two", "REQUIRED"))]);
    both.taken(&required, |taken| {
        assert_eq!(taken.claims.text("iss"), Some("one"));
        assert_eq!(taken.remove, ["x-one", "x-two"]);
    });
    only_one.check_refused(&required, Refusal::Missing);
    only_two.check_refused(&required, Refusal::Missing);
    let mixed = compile(&[rule_one(places("x-one", "REQUIRED")), rule_two(places("x-two", "OPTIONAL"))]);
    only_one.taken(&mixed, |_| ());
    only_two.check_refused(&mixed, Refusal::Missing);
    at("/", &[("x-one", &one), ("x-two", "bad")]).check_refused(&mixed, Refusal::BadForm);
    let optional = compile(&[rule_one(places("x-one", "OPTIONAL")), rule_two(places("x-two", "OPTIONAL"))]);
    only_two.taken(&optional, |_| ());
    at("/", &[]).check_anonymous(&optional);
}

#[test]
fn d_jwt_default_places_are_the_authorization_header_and_access_token() {
    let authenticator = compile(&[rule_one(json!({}))]);
    let good = token_one(json!({}));
    for sent in [
        bearing(&good),
        at(&format!("/a?x=1&access_token={good}"), &[]),
        at("/", &[("authorization", &format!("x Bearer  {good}"))]),
        at(&format!("/?access%5Ftoken={}", good.replace('.', "%2E")), &[]),
    ] {
        sent.taken(&authenticator, |_| ());
    }
    at("/", &[("authorization", &good)]).check_anonymous(&authenticator);
    at("/", &[("x-token", &good), ("cookie", &format!("access_token={good}"))]).check_anonymous(&authenticator);
    at("/", &[("authorization", "Bearer ")]).check_refused(&authenticator, Refusal::BadForm);
}

#[test]
fn d_jwt_given_places_replace_the_default_ones() {
    let good = token_one(json!({}));
    let header =
        compile(&[rule_one(json!({ "fromHeaders": [{ "name": "X-Token", "prefix": "Tok " }, { "name": "x-raw" }] }))]);
    at("/", &[("x-token", &format!("Tok {good}"))]).taken(&header, |_| ());
    at("/", &[("x-raw", &good)]).taken(&header, |_| ());
    at("/", &[("x-token", &good)]).check_anonymous(&header);
    bearing(&good).check_anonymous(&header);
    at(&format!("/?access_token={good}"), &[]).check_anonymous(&header);
    let parameter = compile(&[rule_one(json!({ "fromParams": ["tok"] }))]);
    at(&format!("/?tok={good}"), &[]).taken(&parameter, |_| ());
    bearing(&good).check_anonymous(&parameter);
    let cookie = compile(&[rule_one(json!({ "fromCookies": ["tok"] }))]);
    at("/", &[("cookie", &format!("a=b; tok={good}"))]).taken(&cookie, |_| ());
    at("/", &[("cookie", "a=b"), ("cookie", &format!("tok=\"{good}\""))]).taken(&cookie, |_| ());
    bearing(&good).check_anonymous(&cookie);
}

#[test]
fn d_jwt_the_token_is_taken_off_unless_it_is_forwarded() {
    let good = token_one(json!({}));
    let strip = compile(&[rule_one(json!({}))]);
    bearing(&good).taken(&strip, |taken| {
        assert_eq!((taken.remove.as_slice(), &taken.path), (&[header::AUTHORIZATION][..], &None))
    });
    for (path, left) in [
        (format!("/a?access_token={good}"), "/a"),
        (format!("/a?x=1&access_token={good}&y"), "/a?x=1&y"),
        (format!("/a?access_token={good}&access_token=other"), "/a"),
    ] {
        at(&path, &[]).taken(&strip, |taken| assert_eq!(taken.path.as_deref(), Some(left)));
    }
    let forward = compile(&[rule_one(json!({ "forwardOriginalToken": true }))]);
    bearing(&good).taken(&forward, |taken| assert!(taken.remove.is_empty()));
    at(&format!("/?access_token={good}"), &[]).taken(&forward, |taken| assert_eq!(taken.path, None));
}

#[test]
fn d_jwt_the_payload_and_claims_go_to_headers_that_clients_cannot_set() {
    let authenticator = compile(&[rule_one(json!({
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [
            { "header": "x-user", "claim": "sub" }, { "header": "x-nested", "claim": "a.b" },
            { "header": "x-scope", "claim": "scope" }, { "header": "x-none", "claim": "none" },
            { "header": "x-bad", "claim": "bad" },
        ],
    }))]);
    let good = token_one(json!({ "a": { "b": true }, "scope": "r w", "bad": "x\r\ny: z" }));
    bearing(&good).taken(&authenticator, |taken| {
        let set: BTreeMap<&str, &str> =
            taken.set.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let payload = good.split('.').nth(1).unwrap();
        assert!(!payload.contains('='));
        let expected = [("x-payload", payload), ("x-user", "me"), ("x-nested", "true"), ("x-scope", "r w")];
        assert_eq!(set, BTreeMap::from(expected));
    });
    let claimed: Vec<&str> = authenticator.claimed_headers().iter().map(HeaderName::as_str).collect();
    assert_eq!(claimed, ["x-bad", "x-nested", "x-none", "x-payload", "x-scope", "x-user"]);
}

#[test]
fn d_jwt_named_claims_are_split_at_spaces() {
    let authenticator = compile(&[rule_one(json!({ "spaceDelimitedClaims": ["groups"] }))]);
    bearing(&token_one(json!({ "groups": "a b", "scope": "c d" }))).taken(&authenticator, |taken| {
        assert_eq!(taken.claims.texts(&["groups".to_owned()]).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(taken.claims.texts(&["scope".to_owned()]).collect::<Vec<_>>(), ["c", "d"]);
    });
}

#[test]
fn keys_that_are_not_known_are_left_out_of_a_fetched_set() {
    let set = Jwks::read(&key_set(&[json!({ "kty": "EC", "crv": "P-521" }), ONE.key(json!({}))])).unwrap();
    assert!(!set.is_empty() && !set.has_secrets);
    assert_eq!(set.problems, ["keys[0] has curve P-521; P-256, P-384 and Ed25519 are known"]);
    assert!(Jwks::read(&key_set(&vec![json!({}); MAX_KEYS + 1])).is_err());
    assert!(Jwks::read(&" ".repeat(MAX_JWKS_LEN + 1)).is_err());
    assert!(Jwks::read(&Signer::Hmac(vec![1]).key(json!({})).to_string()).unwrap().has_secrets);
}

proptest! {
    #[test]
    fn no_token_makes_authenticating_panic(
        token in prop_oneof![".{0,40}", "[A-Za-z0-9_-]{0,12}\\.[A-Za-z0-9_-]{0,12}\\.[A-Za-z0-9_-]{0,12}"],
        header in "[ -~]{0,30}", payload in "(\\{(\"(iss|aud|exp|nbf)\":(1|-1|1e99|\"one\"|\\[\\]|null),?){0,4}\\})?",
    ) {
        let authenticator = compile(&[rule_one(json!({})), rule_two(json!({ "fromCookies": ["c"], "fromParams": ["p"] }))]);
        let made = format!("{}.{}.{}", base64url(r#"{"alg":"ES256"}"#), base64url(payload), base64url("x"));
        for token in [&token, &made] {
            let printable: String = token.chars().filter(|c| c.is_ascii_graphic()).collect();
            at(&format!("/?p={token}&access_token={token}"), &[
                ("authorization", &format!("Bearer {printable}")), ("authorization", &header), ("cookie", &format!("c={printable}")),
            ])
            .ask(&authenticator, &no_keys, |_| ());
        }
    }

    #[test]
    fn no_text_makes_reading_keys_panic(text in "[ -~]{0,60}", kty in "(RSA|EC|OKP|oct)", value in "[A-Za-z0-9_=-]{0,9}") {
        let _ = Jwks::read(&text);
        let key = json!({ "kty": kty, "crv": "P-256", "n": value, "e": value, "x": value, "y": value, "k": value });
        let set = Jwks::read(&key.to_string()).unwrap();
        for algorithm in ["RS256", "ES256", "EdDSA", "HS256"] {
            let _ = set.verify(None, (algorithm, algorithm.parse().unwrap()), &text, &value);
        }
    }
}
