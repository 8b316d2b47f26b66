use crate::api::testing::{check_refused, check_taken, documents, warnings};

const KIND: &str = "RequestAuthentication";

fn check_rules(taken: &[&str], refused: &[(&str, &str)]) {
    let wrap = |rule: &str| format!("{{jwtRules: [{rule}]}}");
    taken.iter().for_each(|rule| check_taken(KIND, &[&wrap(rule)]));
    refused.iter().for_each(|(rule, words)| check_refused(KIND, &[(&wrap(rule), words)]));
}

const PUBLIC_KEY: &str = r#"{"keys":[{"kty":"RSA","e":"AQAB","n":"xAE7eB6q","kid":"a","alg":"RS256"},{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"AQAB"}]}"#;

#[test]
fn all_served_versions_are_read_and_the_spec_may_be_absent() {
    for version in ["v1", "v1beta1"] {
        documents(&format!("{{apiVersion: security.istio.io/{version}, kind: {KIND}, metadata: {{name: a}}}}"));
    }
    check_taken(KIND, &["{}", "{jwtRules: []}", "{selector: {matchLabels: {app: a}}}"]);
}

#[test]
fn every_field_is_read() {
    check_rules(
        &[
            r#"{issuer: example.com, audiences: [a, b], jwksUri: "https://example.com:8443/jwks.json", forwardOriginalToken: true,
                fromHeaders: [{name: x-a, prefix: "Bearer "}, {name: x-b}], fromParams: [p], fromCookies: [c],
                outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x_Y-1, claim: a.b}], timeout: 5s,
                spaceDelimitedClaims: [custom_scope, provider.login.scope], presence: REQUIRED}"#,
            "{issuer: a}",
            "{jwksUri: 'http://a'}",
            "{issuer: a, jwks_uri: 'http://a/b', presence: OPTIONAL}",
            "{issuer: a, jwksUri: 'http://[::1]/k'}",
            &format!("{{issuer: a, jwks: '{PUBLIC_KEY}'}}"),
        ],
        &[],
    );
}

#[test]
fn d_valid_issuer_or_jwks_uri_is_needed() {
    check_rules(
        &[],
        &[
            ("{}", "issuer or jwksUri must be given"),
            ("{issuer: ''}", "issuer: must not be empty"),
            ("{jwks: '{\"keys\":[]}'}", "issuer or jwksUri must be given"),
            ("null", "spec.jwtRules[0]: is nothing"),
        ],
    );
}

#[test]
fn d_valid_empty_names_are_refused() {
    check_rules(
        &[],
        &[
            ("{issuer: a, audiences: ['']}", "audiences[0]: must not be empty"),
            ("{issuer: a, fromParams: ['']}", "fromParams[0]: must not be empty"),
            ("{issuer: a, fromCookies: ['']}", "fromCookies[0]: must not be empty"),
            ("{issuer: a, fromHeaders: [{prefix: b}]}", "fromHeaders[0].name is missing"),
            ("{issuer: a, fromHeaders: [{name: '', prefix: b}]}", "fromHeaders[0].name: must not be empty"),
            ("{issuer: a, fromHeaders: [{name: ':path'}]}", "is not a header's name"),
            ("{issuer: a, outputClaimToHeaders: [null]}", "outputClaimToHeaders[0]: is nothing"),
            ("{issuer: a, outputClaimToHeaders: [{claim: '', header: h}]}", "claim: must not be empty"),
            ("{issuer: a, outputClaimToHeaders: [{claim: x, header: ''}]}", "header: must not be empty"),
            ("{issuer: a, outputClaimToHeaders: [{claim: x}]}", "header is missing"),
            ("{issuer: a, outputClaimToHeaders: [{claim: x, header: ':authority'}]}", "must be letters, digits"),
            ("{issuer: a, outputClaimToHeaders: [{claim: x, header: a.b}]}", "must be letters, digits"),
            ("{issuer: a, outputPayloadToHeader: 'a b'}", "is not a header's name"),
            ("{issuer: a, spaceDelimitedClaims: ['']}", "spaceDelimitedClaims[0]: must not be empty"),
        ],
    );
}

#[test]
fn d_valid_urls_timeouts_and_presence() {
    let long = format!("{{issuer: a, jwksUri: 'https://a/{}'}}", "b".repeat(2048));
    check_rules(
        &[],
        &[
            ("{issuer: a, jwksUri: ''}", "jwksUri: must not be empty"),
            (r"{issuer: a, jwksUri: 'hTPp\\blah'}", "is not a URL that starts with http:// or https://"),
            ("{issuer: a, jwksUri: 'file:///etc/keys'}", "is not a URL"),
            ("{issuer: a, jwksUri: 'a.com/keys'}", "is not a URL"),
            ("{issuer: a, jwksUri: 'http://a:port/'}", "is not a URL"),
            ("{issuer: a, jwksUri: 'http://a:70000/'}", "is not a URL"),
            (&long, "2048 are the most"),
            ("{issuer: a, jwksUri: 'http://a', jwks: '{\"keys\":[]}'}", "only one of jwksUri, jwks may be given"),
            ("{issuer: a, timeout: apple}", "is not a duration"),
            ("{issuer: a, timeout: 0s}", "is below 1ms"),
            ("{issuer: a, presence: MANDATORY}", "it must be one of OPTIONAL, REQUIRED"),
        ],
    );
}

#[test]
fn d_valid_bad_key_sets_are_refused_and_private_keys_warned_of() {
    check_rules(
        &[],
        &[
            ("{issuer: a, jwks: ''}", "jwks: is not JSON"),
            ("{issuer: a, jwks: '{'}", "jwks: is not JSON"),
            ("{issuer: a, jwks: '[]'}", "is no key set"),
            ("{issuer: a, jwks: '{\"keys\":1}'}", "is no key set"),
            (r#"{issuer: a, jwks: '{"keys":[{}]}'}"#, "keys[0] needs the field kty"),
            (r#"{issuer: a, jwks: '{"keys":[{"kty":"RSA"}]}'}"#, "keys[0] needs the field n"),
            (r#"{issuer: a, jwks: '{"keys":[{"kty":"RSA","n":"$","e":"AQAB"}]}'}"#, "keys[0] cannot be read"),
            (r#"{issuer: a, jwks: '{"keys":[{"kty":"RSA","n":1,"e":"AQAB"}]}'}"#, "has a field n that is no text"),
            (r#"{issuer: a, jwks: '{"keys":[{"kty":"EC","crv":"P-1","x":"","y":""}]}'}"#, "has curve P-1"),
            (r#"{issuer: a, jwks: '{"keys":[{"kty":"X"}]}'}"#, "has type \"X\""),
        ],
    );
    let private = r#"{jwtRules: [{issuer: a, jwks: '{"keys":[{"kty":"RSA","e":"AQAB","n":"xAE7eB6q","d":"AQAB"}]}'}]}"#;
    assert!(warnings(KIND, private)[0].contains("has a private key"), "{:?}", warnings(KIND, private));
    assert!(warnings(KIND, &format!("{{jwtRules: [{{issuer: a, jwks: '{PUBLIC_KEY}'}}]}}")).is_empty());
}

#[test]
fn d_valid_targets() {
    check_refused(
        KIND,
        &[
            (
                "{targetRef: {kind: Service, name: foo}, targetRefs: [{kind: Service, name: foo}]}",
                "only one of targetRef, targetRefs may be given",
            ),
            (
                "{selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: foo}}",
                "only one of selector, targetRef",
            ),
            ("{targetRef: {kind: Service}}", "name is missing"),
            ("{targetRef: {kind: Service, name: foo, namespace: bar}}", "namespace: must be left out"),
            ("{targetRef: {group: '__', kind: Service, name: foo}}", "is not a kind to attach a policy to"),
        ],
    );
}
