//! Who may call: policies on real nodes, and what commands tell of them.

use weft_tests::lab::{Lab, PATIENCE, wait_for};

/// The public key of the issuer below; nobody has the private one any more.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","x":"_b_1ynDXuVtnXP1lNFAVKXs3PkHzsZrGBCnQuKZCLqg","y":"RI4bDU8hOlQfPqS56yYhNPIHqsWew01bu1PTSDRN3ew"}]}"#;
/// `{"iss": "https://issuer.example", "sub": "ann", "groups": ["staff"], "exp": 4102444800}`, good until 2100.
const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYW5uIiwiZ3JvdXBzIjpbInN0YWZ\
    mIl0sImV4cCI6NDEwMjQ0NDgwMH0.nc9Rs43E-O97e1BNca_3Y5E9Ex4e3PAa4HLkvq-2OVs9C4Cjws6uy3Mefl1CJDZbZ-97koE\
    01J0fRlmSaB9Nfg";
/// The same, until 1970.
const LATE_TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYW5uIiwiZ3JvdXBzIjpbInN0YWZ\
    mIl0sImV4cCI6MX0.laqjL4eUD7OZ8CUsQPFovLhKdkIqWbB1LuzBcVgNDdOquBeIuvKdG_hBGgNmEodJenbBaZQskF-Vjnlj3qq\
    5Aw";

/// Only the client of the second host reads, with a token of somebody in `staff`; nobody sees `/secret`.
const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: tokens }
spec:
  selector: { matchLabels: { app: echo } }
  jwtRules:
  - issuer: https://issuer.example
    jwks: 'KEYS'
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: staff }
spec:
  selector: { matchLabels: { app: echo } }
  rules:
  - from: [{ source: { principals: [cluster.local/ns/default/sa/reader] } }]
    to: [{ operation: { methods: [GET] } }]
    when: [{ key: 'request.auth.claims[groups]', values: [staff] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: secret }
spec:
  selector: { matchLabels: { app: echo } }
  action: DENY
  rules: [{ to: [{ operation: { paths: [/secret] } }] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: tried, annotations: { istio.io/dry-run: 'true' } }
spec:
  selector: { matchLabels: { app: echo } }
  action: DENY
  rules: [{ to: [{ operation: { paths: [/old] } }] }]
";

/// Three hosts: an echo, a reader, and a stranger; under the policies.
fn lab() -> Lab {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(0).host_service("echo", "v1", 8080, 0);
    for (i, name, port) in [(1, "reader", "7001"), (2, "stranger", "7002")] {
        let command = [&*weft_tests::lab::origin(), "--listen", &format!("127.0.0.1:{port}"), "--name", name];
        let options = ["--service", name, "--port", port, "--service-account", name];
        lab.host_mut(i).host_command(&options, &command);
    }
    for i in 0..3 {
        for service in ["echo", "reader", "stranger"] {
            lab.wait_healthy(i, service, 1);
        }
    }
    let file = lab.file("access.yaml", &POLICIES.replace("KEYS", KEYS));
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    wait_for("policies are in force", PATIENCE, || (lab.host(2).call("echo", "/", &[]).status == 403).then_some(()));
    wait_for("all nodes have them", PATIENCE, || {
        let digest = |i: usize| lab.host(i).json(&["status"])["documents_digest"].clone();
        (digest(0) == digest(1) && digest(1) == digest(2)).then_some(())
    });
    lab
}

#[test]
fn policies_decide_by_certificate_token_and_path_and_commands_tell_why() {
    let lab = lab();
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    let (good, late) = (bearer(TOKEN), bearer(LATE_TOKEN));
    for (host, path, options, status) in [
        (1, "/", &["-H", &*good][..], 200),
        (1, "/old", &["-H", &good], 200),
        (1, "/", &[], 403),
        (1, "/", &["-H", &late], 401),
        (1, "/", &["-H", &good, "-X", "POST"], 403),
        (1, "/x/../%73ecret", &["-H", &good, "--path-as-is"], 403),
        (2, "/", &["-H", &good], 403),
    ] {
        let answer = lab.host(host).call("echo", path, options);
        assert_eq!(answer.status, status, "host {host} {path} {options:?}: {answer:?}");
        // What would be is what is told, on the caller's node, on the workload's, and on one that is neither.
        let from = if host == 1 { "reader" } else { "stranger" };
        let options: Vec<&str> = options.iter().copied().filter(|option| *option != "--path-as-is").collect();
        let options: Vec<&str> =
            options.iter().map(|option| if *option == "-X" { "--method" } else { *option }).collect();
        for asked in 0..3 {
            let question = ["explain", "access", "--from", from, "--to", "echo:8080", "--path", path];
            let told = lab.host(asked).weft(&[&question[..], &options].concat());
            assert_eq!(told.code, Some(i32::from(status != 200)), "{told:?}");
        }
    }
    let tried = lab.host(0).metric("weft_access_dry_run_denied_total", &[]);
    assert_eq!(tried, 1.0, "what is in dry run decides nothing, and is counted");

    let question = ["explain", "access", "--from", "reader", "--to", "echo", "--path", "/secret", "--claim"];
    let claims = ["iss=https://issuer.example", "-o", "json"];
    let told = lab.host(2).weft(&[&question[..], &claims].concat());
    let told: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON also where the exit code is 1");
    let workload = &told["workloads"][0];
    assert_eq!(
        (&workload["workloads"][0], &workload["outcome"]),
        (&"echo-v1 on host-1, port 8080".into(), &"denied".into())
    );
    let steps = workload["steps"].as_array().expect("steps");
    let deny = steps.iter().find(|step| step["document"] == "AuthorizationPolicy default/secret").expect("its step");
    assert_eq!((&deny["field"], &deny["says"]), (&"spec.rules[0]".into(), &"DENY: matches".into()));
    let nonsense = lab.host(0).weft(&["explain", "access", "--from", "nobody", "--to", "echo"]);
    assert_eq!(nonsense.code, Some(2), "{nonsense:?}");

    // Who was refused has an id, which any node can look up.
    let denied = lab.host(1).call("echo", "/secret?key=1", &["-H", &good]);
    let id = denied.header("x-weft-decision").expect("an id").to_owned();
    for asked in 0..3 {
        let why = lab.host(asked).json(&["why", &id]);
        assert_eq!(why["node"], "host-1");
        assert_eq!(why["principal"], "cluster.local/ns/default/sa/reader");
        assert_eq!(
            (&why["document"], &why["field"]),
            (&"AuthorizationPolicy default/secret".into(), &"spec.rules[0]".into())
        );
        assert_eq!(
            (&why["request"]["path"], &why["request"]["token"]),
            (&"/secret".into(), &"https://issuer.example/ann".into())
        );
    }
    assert!(lab.host(0).weft(&["why"]).ok().contains(&id), "the node that decided lists it");
    assert!(!lab.host(1).weft(&["why"]).ok().contains(&id), "another one lists its own");
    lab.host(1).weft(&["why", "0123456789abcdef"]).refused(&["no node knows", "0123456789abcdef"]);
    lab.host(1).weft(&["why", "nonsense"]).refused(&["16 hex digits"]);
    assert_eq!(lab.host(0).curl(&["-X", "POST", "-d", "{}"], "http://127.0.0.1:15000/api/v1/why").status, 401);
}
