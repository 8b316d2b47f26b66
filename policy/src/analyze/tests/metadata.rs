use super::{networking, telemetry, told};

fn annotated(kind: &str, annotation: &str) -> [String; 1] {
    let api = if kind == "Deployment" { "apps/v1" } else { "v1" };
    let spec = if kind == "Service" { "spec: {ports: [{port: 80, name: http}]}\n" } else { "" };
    [format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: a, annotations: {{{annotation}}}}}\n{spec}")]
}

#[test]
fn annotations_of_istio_must_be_known_and_placed_and_right() {
    let cases = [
        ("IST0108", "Service", "networking.istio.io/exportThree: bar", true),
        ("IST0108", "Service", "networking.istio.io/exportTo: bar", false),
        ("IST0108", "Service", "kubernetes.io/psp: x", false),
        ("IST0107", "Pod", "kubernetes.io/ingress.class: istio", true),
        ("IST0107", "Namespace", "kubernetes.io/ingress.class: istio", true),
        ("IST0107", "Deployment", "sidecar.istio.io/statsInclusionPrefixes: x", true),
        ("IST0107", "Pod", "sidecar.istio.io/statsInclusionPrefixes: x", false),
        ("IST0125", "Pod", "readiness.status.sidecar.istio.io/periodSeconds: bar", true),
        ("IST0125", "Pod", "readiness.status.sidecar.istio.io/periodSeconds: '10'", false),
        ("IST0125", "Pod", "traffic.sidecar.istio.io/excludeInboundPorts: '80,x'", true),
        ("IST0125", "Pod", "traffic.sidecar.istio.io/excludeInboundPorts: '80,81'", false),
    ];
    for (code, kind, annotation, is_told) in cases {
        assert_eq!(!told(code, &annotated(kind, annotation)).is_empty(), is_told, "{code} {kind} {annotation}");
    }
}

#[test]
fn a_negative_condition_is_told() {
    let with = |status: &str| {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, name: http}]}\nstatus: \
                    {conditions: [{type: t, status: 'S', reason: r, message: m}]}\n";
        told("IST0171", &[text.replace("'S'", status)])
    };
    assert_eq!(with("'False'"), ["Service default/a"]);
    assert!(with("'True'").is_empty());
}

#[test]
fn old_fields_are_told() {
    let delay = |percent: &str| {
        let fault = format!("{{delay: {{fixedDelay: 1s, {percent}}}}}");
        [networking("VirtualService", "a", &format!("{{hosts: [a.com], http: [{{fault: {fault}}}]}}"))]
    };
    assert_eq!(told("IST0002", &delay("percent: 50")), ["VirtualService default/a"]);
    assert!(told("IST0002", &delay("percentage: {value: 50}")).is_empty());
    let sidecar = |policy: &str| [networking("Sidecar", "a", &format!("{{outboundTrafficPolicy: {policy}}}"))];
    assert_eq!(told("IST0002", &sidecar("{mode: ALLOW_ANY, egressProxy: {host: a.com}}")), ["Sidecar default/a"]);
    assert!(told("IST0002", &sidecar("{mode: ALLOW_ANY}")).is_empty());
}

#[test]
fn access_logs_need_a_provider() {
    assert_eq!(told("IST0157", &[telemetry("a", "{accessLogging: [{}]}")]), ["Telemetry default/a"]);
    assert!(told("IST0157", &[telemetry("a", "{accessLogging: [{providers: [{name: envoy}]}]}")]).is_empty());
    assert!(told("IST0157", &[telemetry("a", "{accessLogging: [{disabled: true}]}")]).is_empty());
    let config = "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default, namespace: istio-system}\n\
                  spec: {accessLog: {encoding: TEXT}}\n---\n";
    assert!(told("IST0157", &[config.to_owned(), telemetry("a", "{accessLogging: [{}]}")]).is_empty());
}
