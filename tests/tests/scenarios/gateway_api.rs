//! Routes of the Gateway API with Services as parents, as its conformance tests of meshes use them.

use weft_tests::lab::{Http, Lab, PATIENCE, origin, wait_for};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: { name: echo-v1 }
spec:
  selector: { app: echo, version: v1 }
  ports: [{ name: http, port: 8080, appProtocol: http }, { name: alt, port: 8090, appProtocol: http }]
---
apiVersion: v1
kind: Service
metadata: { name: echo-v2 }
spec:
  selector: { app: echo, version: v2 }
  ports: [{ name: http, port: 8080, appProtocol: http }, { name: alt, port: 8090, appProtocol: http }]
";

const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: by-rule }
spec:
  parentRefs: [{ group: '', kind: Service, name: echo, port: 8080 }]
  rules:
  - name: first
    matches: [{ path: { type: PathPrefix, value: /v1 } }]
    backendRefs: [{ name: echo-v1, port: 8090 }]
  - matches: [{ headers: [{ name: version, value: two }] }]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: { set: [{ name: x-set, value: by-route }], remove: [x-removed] }
    backendRefs: [{ name: echo-v2, port: 8080 }]
  - matches: [{ path: { type: PathPrefix, value: /old } }]
    filters:
    - type: RequestRedirect
      requestRedirect: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /new }, statusCode: 301 }
  - matches: [{ path: { type: PathPrefix, value: /gone } }]
    filters:
    - type: DirectResponse
      directResponse: { statusCode: 410, body: { string: it is gone } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: of-one-port }
spec:
  parentRefs: [{ group: '', kind: Service, name: echo-v1, port: 8080 }]
  rules:
  - filters: [{ type: ResponseHeaderModifier, responseHeaderModifier: { set: [{ name: x-route, value: port }] } }]
    backendRefs: [{ name: echo-v1, port: 8080 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: of-the-consumer, namespace: consumer }
spec:
  parentRefs: [{ group: '', kind: Service, name: echo-v2, namespace: default }]
  rules:
  - filters: [{ type: ResponseHeaderModifier, responseHeaderModifier: { set: [{ name: x-route, value: consumer }] } }]
    backendRefs: [{ name: echo-v2, namespace: default, port: 8080 }]
";

/// Two hosts: a caller of namespace `default` on the first, one of `consumer` on the second; `echo` on both, in a
/// version each, with two ports each.
fn lab() -> Lab {
    let mut lab = Lab::new(2);
    let namespaces = ["default", "consumer"];
    let calls_as = |lab: &Lab, i: usize| {
        lab.host(i).configure(&format!("outbound: {{ as: {}/default }}\n", namespaces[i]));
    };
    lab.host(0).init().ok();
    calls_as(&lab, 0);
    lab.host_mut(0).start();
    let token = lab.token(&["--allow", "*/*"]);
    lab.join(1, &token).ok();
    calls_as(&lab, 1);
    lab.host_mut(1).start();
    for (i, namespace) in namespaces.into_iter().enumerate() {
        let command = [&*origin(), "--listen", "127.0.0.1:7000", "--name", namespace];
        let options = ["--service", "client", "--namespace", namespace, "--port", "7000"];
        lab.host_mut(i).host_command(&options, &command);
        lab.wait_healthy(i, &format!("client.{namespace}"), 1);
    }
    for (i, version) in [(0, "v1"), (1, "v2")] {
        for port in ["8080", "8090"] {
            let command =
                [&*origin(), "--listen", &format!("127.0.0.1:{port}"), "--name", &format!("{version}:{port}")];
            let workload = format!("echo-{version}-{port}");
            let options = ["--service", "echo", "--version", version, "--port", port, "--workload", &workload];
            lab.host_mut(i).host_command(&options, &command);
        }
    }
    let file = lab.file("documents.yaml", &format!("{SERVICES}---{ROUTES}"));
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    for i in 0..2 {
        lab.wait_healthy(i, "echo.default", 4);
        // Whoever calls has its certificate.
        let ready = || (lab.host(i).try_json(&["status"])?["ready"] == true).then_some(());
        wait_for("the node is ready", PATIENCE, ready);
        wait_for("the routes are in force everywhere", PATIENCE, || {
            let routes = lab.host(i).try_json(&["get", "httproute", "-A"])?;
            let is_current = |route: &serde_json::Value| {
                let nodes = &route["status"]["nodes"];
                nodes["current"] == 2 && nodes["total"] == 2
            };
            let routes = routes["items"].as_array()?;
            (routes.len() == 3 && routes.iter().all(is_current)).then_some(())
        });
    }
    lab
}

#[test]
fn routes_of_services_hold_on_every_node_for_whom_they_are() {
    let lab = lab();
    let served_by = |answer: &Http| answer.header("x-served-by").map(str::to_owned);
    let call = |i: usize, host: &str, path: &str, options: &[&str]| lab.host(i).call(host, path, options);

    for i in 0..2 {
        let answer = call(i, "echo.default:8080", "/v1/x", &[]);
        assert_eq!(served_by(&answer).as_deref(), Some("v1:8090"), "the rule names another port");
        let answer = call(i, "echo.default:8080", "/", &["-H", "version: two", "-H", "x-removed: 1"]);
        assert_eq!(served_by(&answer).as_deref(), Some("v2:8080"));
        let told = answer.json()["headers"].clone();
        assert_eq!((&told["x-set"][0], &told["x-removed"]), (&"by-route".into(), &serde_json::Value::Null));
        let answer = call(i, "echo.default:8080", "/old/page?q=1", &[]);
        assert_eq!((answer.status, answer.header("location")), (301, Some("http://echo.default:8080/new/page?q=1")));
        let answer = call(i, "echo.default:8080", "/gone", &[]);
        assert_eq!((answer.status, &*answer.body), (410, "it is gone"));
        assert_eq!(call(i, "echo.default:8080", "/none", &[]).status, 404, "no rule matches");
        assert_eq!(call(i, "echo.default:8090", "/none", &[]).status, 200, "the route is for the other port");

        assert_eq!(call(i, "echo-v1.default:8080", "/", &[]).header("x-route"), Some("port"));
        assert_eq!(call(i, "echo-v1.default:8090", "/", &[]).header("x-route"), None);
    }
    let answer = call(1, "echo-v2.default:8080", "/", &[]);
    assert_eq!((answer.status, answer.header("x-route")), (200, Some("consumer")), "no ReferenceGrant is needed");
    assert_eq!(call(0, "echo-v2.default:8080", "/", &[]).header("x-route"), None, "it is the consumers' alone");
}
