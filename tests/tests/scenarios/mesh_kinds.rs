//! weft's own kinds, and what the mesh tells of a request's way.

use weft_tests::lab::{Lab, PATIENCE, wait_for};

const LIMIT: &str = "
apiVersion: weft.mesh/v1alpha1
kind: RateLimit
metadata: { name: echo }
spec:
  targetRefs: [{ group: '', kind: Service, name: echo }]
  limits: [{ name: few, requests: 3, unit: Hour }]
";

#[test]
fn a_limit_counts_all_callers_and_its_status_and_metrics_say_so() {
    let mut lab = Lab::new(3);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_client();
    lab.host_mut(2).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    lab.wait_healthy(1, "echo", 1);
    let file = lab.file("limit.yaml", LIMIT);
    let applied = lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    assert!(!applied.contains("not enforced"), "{applied}");
    wait_for("the limit is known where the workload is", PATIENCE, || {
        let got = lab.host(2).try_json(&["get", "ratelimit", "echo"])?;
        let conditions = got["status"]["conditions"].as_array()?.clone();
        let holds = |kind: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
        (holds("Programmed") && holds("ResolvedRefs")).then_some(())
    });

    let statuses: Vec<u16> = (0..6).map(|i| lab.host(i % 2).call("echo", "/", &[]).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429, 429]);
    let counted = |outcome: &str| {
        let outcome = format!("outcome=\"{outcome}\"");
        lab.host(2).metric("weft_rate_limit_requests_total", &["policy=\"echo\"", "limit=\"few\"", &outcome])
    };
    assert_eq!((counted("passed"), counted("limited")), (3.0, 3.0));
}

const EXPERIMENT: &str = "
apiVersion: weft.mesh/v1alpha1
kind: FaultExperiment
metadata: { name: hurt }
spec:
  targetRefs: [{ group: '', kind: Service, name: echo }]
  percentage: { value: 100 }
  end: '2100-01-01T00:00:00Z'
  match: [{ path: { prefix: /hurt } }]
  fault: { abort: { httpStatus: 555 } }
  stopWhen: { errorPercentage: { value: 50 }, window: 600s, minRequests: 3 }
";

#[test]
fn an_experiment_runs_until_it_does_harm_and_its_status_and_metrics_say_so() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    wait_for("the caller has a certificate", PATIENCE, || {
        (lab.host(0).json(&["status"])["ready"] == true).then_some(())
    });
    let file = lab.file("experiment.yaml", EXPERIMENT);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    let running = || lab.host(0).metric("weft_experiment_running", &["experiment=\"hurt\"", "namespace=\"default\""]);
    wait_for("it runs", PATIENCE, || (running() == 1.0).then_some(()));
    let call = |path: &str, options: &[&str]| lab.host(0).call("echo", path, options).status;
    assert_eq!([call("/hurt", &[]), call("/hurt/more", &[]), call("/", &[])], [555, 555, 200]);
    assert_eq!(lab.host(0).metric("weft_experiment_faults_total", &["experiment=\"hurt\""]), 2.0);
    // Requests that are not hit fail, and the experiment may be why.
    let fails = ["-H", "x-status: 500"];
    assert_eq!([call("/", &fails), call("/", &fails)], [500, 500]);
    let active = wait_for("it has stopped", PATIENCE, || {
        let got = lab.host(0).try_json(&["get", "faultexperiment", "hurt"])?;
        let conditions = got["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|one| one["type"] == "Active" && one["status"] == "False")
    });
    assert_eq!(active["reason"], "Stopped", "{active}");
    assert_eq!((running(), call("/hurt", &[])), (0.0, 200));
}

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: echo }
spec:
  hosts: [echo]
  http:
  - match: [{ headers: { end-user: { exact: jason } } }]
    timeout: 3s
    route: [{ destination: { host: echo } }]
  - directResponse: { status: 418 }
";

#[test]
fn any_node_explains_a_route_as_it_would_be_taken() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    let file = lab.file("routes.yaml", ROUTES);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    for host in [0, 1] {
        wait_for("the rule holds", PATIENCE, || {
            let options = ["explain", "route", "--from", "echo", "--to", "echo:8080"];
            let explained = lab.host(host).try_json(&options)?;
            (explained["outcome"] == "answer" && explained["status"] == 418).then_some(())
        });
        let jason = ["explain", "route", "--from", "echo", "--to", "echo", "--path", "/x", "-H", "end-user: jason"];
        let text = lab.host(host).weft(&jason).ok();
        for words in [
            "echo is service echo.default, port 8080",
            "[VirtualService default/echo spec.http[0].match[0], line ",
            "3s for the whole exchange",
            "100% to outbound|8080||echo.default.svc.cluster.local",
            "healthy, preferred",
        ] {
            assert!(text.contains(words), "{words} in {text}");
        }
        // The lines are those of the document as anybody can print it.
        let printed = lab.host(host).weft(&["get", "vs", "echo", "-o", "yaml"]).ok();
        let steps = lab.host(host).try_json(&jason).unwrap()["steps"].as_array().unwrap().clone();
        for (field, begins) in [("spec.http[0].match[0]", "- headers:"), ("spec.http[0].timeout", "timeout: 3s")] {
            let step = steps.iter().find(|step| step["field"] == field).unwrap_or_else(|| panic!("{field} in {text}"));
            let line = step["line"].as_u64().unwrap() as usize;
            let found = printed.lines().nth(line - 1).unwrap_or_default();
            assert!(
                found.trim_start_matches([' ', '-']).starts_with(begins.trim_start_matches("- ")),
                "{line}: {printed}"
            );
            assert!(text.contains(&format!("[VirtualService default/echo {field}, line {line}]")), "{line} in {text}");
        }
        assert!(text.contains("weft get KIND NAME -n NAMESPACE -o yaml"), "{text}");
        // What it says is what happens.
        assert_eq!(lab.host(0).call("echo", "/x", &["-H", "end-user: jason"]).status, 200);
        assert_eq!(lab.host(0).call("echo", "/x", &[]).status, 418);
    }
    let nobody = ["explain", "route", "--from", "nobody", "--to", "echo"];
    lab.host(0).weft(&nobody).refused(&["no workload or service nobody in namespace default"]);
}

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: front }
spec:
  selector: { istio: ingressgateway }
  servers: [{ port: { number: 80, name: http, protocol: HTTP }, hosts: [shop.example.com] }]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: shop }
spec:
  hosts: [shop.example.com]
  gateways: [front]
  http:
  - match: [{ uri: { exact: /cart } }]
    route: [{ destination: { host: echo } }]
";

#[test]
fn any_node_explains_what_a_gateway_would_do_and_that_nothing_listens_yet() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(1).host_service("echo", "v1", 80, 0);
    lab.wait_healthy(0, "echo", 1);
    let file = lab.file("gateway.yaml", GATEWAY);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    for host in [0, 1] {
        let ask = |path| ["explain", "route", "--gateway", "front", "--to", "shop.example.com", "--path", path];
        let text = wait_for("the gateway is known", PATIENCE, || {
            let told = lab.host(host).weft(&ask("/cart"));
            (told.code == Some(0)).then_some(told.stdout)
        });
        for words in [
            "[Gateway default/front",
            "no gateway listeners yet",
            "port 80 is http (HTTP)",
            "[VirtualService default/shop spec.http[0].match[0], line ",
            "100% to outbound|80||echo.default.svc.cluster.local",
        ] {
            assert!(text.contains(words), "{words} in {text}");
        }
        let other = lab.host(host).weft(&ask("/other"));
        assert!(other.stdout.contains("404 no_route"), "{}", other.stdout);
    }
    let nobody = ["explain", "route", "--gateway", "back", "--to", "shop.example.com"];
    lab.host(0).weft(&nobody).refused(&["no Gateway back in namespace default"]);
}
