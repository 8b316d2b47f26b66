//! What a VirtualService may do to requests: each once, on real nodes. What Envoy does likewise is compared in
//! `tests/differential`, corners are in the proxy's own tests.

use weft_tests::lab::{Lab, PATIENCE, wait_for};

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: echo }
spec:
  hosts: [echo]
  http:
  - match: [{ uri: { exact: /answer } }]
    directResponse: { status: 418, body: { string: short and stout } }
  - match: [{ uri: { prefix: /old } }]
    redirect: { uri: /new, redirectCode: 308 }
  - match: [{ uri: { prefix: /shop/ } }]
    rewrite: { uri: /, authority: shop.example }
    headers:
      request: { set: { x-node: '%HOSTNAME%' }, remove: [x-secret] }
      response: { add: { x-mesh: weft }, remove: [x-origin] }
    route: [{ destination: { host: echo } }]
  - match: [{ uri: { exact: /slow } }]
    timeout: 300ms
    route: [{ destination: { host: echo } }]
  - match: [{ uri: { exact: /again } }]
    retries: { attempts: 2, retryOn: '503' }
    route: [{ destination: { host: echo } }]
  - match: [{ uri: { exact: /page } }]
    corsPolicy: { allowOrigins: [{ exact: 'https://a.example' }], allowMethods: [PUT], maxAge: 1h }
    route: [{ destination: { host: echo } }]
  - match: [{ uri: { exact: /broken } }]
    fault:
      delay: { fixedDelay: 50ms, percentage: { value: 100 } }
      abort: { httpStatus: 555, percentage: { value: 100 } }
    route: [{ destination: { host: echo } }]
  - match: [{ uri: { exact: /copied } }]
    mirror: { host: shadow }
    route: [{ destination: { host: echo } }]
  - route: [{ destination: { host: echo } }]
";

#[test]
fn rules_answer_redirect_rewrite_limit_repeat_spoil_and_copy_requests() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    for (service, port) in [("echo", 8080), ("shadow", 8081)] {
        lab.host_mut(1).host_service(service, "v1", port, 0);
        lab.wait_healthy(0, service, 1);
    }
    wait_for("the caller has a certificate", PATIENCE, || {
        (lab.host(0).json(&["status"])["ready"] == true).then_some(())
    });
    let file = lab.file("rules.yaml", RULES);
    let applied = lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    assert!(!applied.contains("not enforced"), "{applied}");
    let call = |path: &str, options: &[&str]| lab.host(0).call("echo", path, options);
    let answer = wait_for("the rules are in force", PATIENCE, || {
        Some(call("/answer", &[])).filter(|answer| answer.status == 418)
    });
    assert_eq!(answer.body, "short and stout");

    let moved = call("/old/a", &[]);
    assert_eq!((moved.status, moved.header("location")), (308, Some("http://echo/new")), "{moved:?}");

    let shop = call("/shop/cart?x=1", &["-H", "x-secret: s"]);
    assert_eq!((shop.header("x-mesh"), shop.header("x-origin")), (Some("weft"), None));
    let seen = shop.json();
    assert_eq!(seen["target"], "/cart?x=1");
    let headers = &seen["headers"];
    assert_eq!(
        (&headers["host"][0], &headers["x-node"][0]),
        (&"shop.example".into(), &lab.host(0).name.clone().into())
    );
    assert!(headers["x-secret"].is_null(), "{seen}");

    let late = call("/slow", &["-H", "x-delay-ms: 20000"]);
    assert_eq!((late.status, late.header("x-weft-reason")), (504, Some("timeout")));

    let failed = call("/again", &["-H", "x-status: 503", "-H", "x-probe: a"]);
    assert!(failed.status == 503 && failed.body.contains("\"tries\":3"), "{failed:?}");
    assert_eq!(lab.host(0).metric("weft_retries_total", &[]), 2.0);

    let preflight = |origin: &str| {
        let origin = format!("origin: {origin}");
        call("/page", &["-X", "OPTIONS", "-H", &origin, "-H", "access-control-request-method: PUT"])
    };
    let allowed = preflight("https://a.example");
    let told = |name: &str| allowed.header(name);
    assert_eq!((told("access-control-allow-origin"), told("x-served-by")), (Some("https://a.example"), None));
    assert_eq!((told("access-control-allow-methods"), told("access-control-max-age")), (Some("PUT"), Some("3600")));
    assert_eq!(preflight("https://b.example").header("access-control-allow-origin"), None);

    let broken = call("/broken", &[]);
    assert_eq!((broken.status, broken.body.as_str()), (555, "fault filter abort"));

    assert_eq!(call("/copied", &[]).header("x-served-by"), Some("echo-v1@host-2"));
    let copies = ["destination_service_name=\"shadow\"", "reporter=\"destination\"", "response_code=\"200\""];
    wait_for("the copy arrives", PATIENCE, || {
        (lab.host(1).metric("istio_requests_total", &copies) == 1.0).then_some(())
    });
}
