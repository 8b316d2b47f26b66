use super::{networking, pod, service, told};

fn rule(spec: &str) -> String {
    networking("DestinationRule", "a", spec)
}

#[test]
fn a_host_must_be_there() {
    assert_eq!(told("IST0174", &[rule("{host: nobody}")]), ["DestinationRule default/a"]);
    assert!(told("IST0174", &[service("reviews"), rule("{host: reviews}")]).is_empty());
}

#[test]
fn a_subset_must_select_endpoints() {
    let v1 = rule("{host: reviews, subsets: [{name: v1, labels: {version: v1}}]}");
    let with = |more: String| told("IST0173", &[service("reviews"), v1.clone(), more]);
    assert_eq!(with(String::new()), ["DestinationRule default/a"]);
    assert!(with(pod("p", "{app: reviews, version: v1}")).is_empty());
    assert_eq!(with(pod("p", "{app: reviews, version: v2}")).len(), 1);
    assert_eq!(with(pod("p", "{app: other, version: v1}")).len(), 1);
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {metadata: {labels: \
                      {app: reviews, version: v1}}}}\n";
    assert!(with(deployment.to_owned()).is_empty());
}

#[test]
fn a_subset_may_select_by_the_topology_of_hosts() {
    let by_zone = rule("{host: reviews, subsets: [{name: a, labels: {topology.kubernetes.io/zone: a}}]}");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: reviews}}\nspec: {nodeName: n}\n---\n";
    let node = |zone: &str| {
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n")
    };
    let with = |zone: &str| told("IST0173", &[service("reviews"), by_zone.clone(), pod.to_owned(), node(zone)]);
    assert!(with("a").is_empty());
    assert_eq!(with("b").len(), 1);
}

#[test]
fn a_subset_may_select_endpoints_of_a_service_entry() {
    let entry = "{hosts: [ext.org], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: \
                 [{address: 10.0.0.1, labels: {version: v1}}]}";
    let of = |version: &str| {
        let rule = rule(&format!("{{host: ext.org, subsets: [{{name: s, labels: {{version: {version}}}}}]}}"));
        told("IST0173", &[networking("ServiceEntry", "e", entry), rule])
    };
    assert!(of("v1").is_empty());
    assert_eq!(of("v2").len(), 1);
}

#[test]
fn tls_must_verify_the_server() {
    let cases = [
        ("{mode: SIMPLE}", "", true),
        ("{mode: MUTUAL, clientCertificate: /c, privateKey: /k}", "", true),
        ("{mode: SIMPLE, caCertificates: /ca}", "", false),
        ("{mode: SIMPLE, credentialName: c}", "", true),
        ("{mode: SIMPLE, credentialName: c}", ", workloadSelector: {matchLabels: {app: a}}, exportTo: ['.']", false),
        ("{mode: ISTIO_MUTUAL}", "", false),
        ("{mode: DISABLE}", "", false),
    ];
    for (tls, rest, is_told) in cases {
        let spec = format!("{{host: reviews, trafficPolicy: {{tls: {tls}}}{rest}}}");
        assert_eq!(!told("IST0128", &[service("reviews"), rule(&spec)]).is_empty(), is_told, "{spec}");
        let port = format!("{{portLevelSettings: [{{port: {{number: 9080}}, tls: {tls}}}]}}");
        let spec = format!("{{host: reviews, trafficPolicy: {port}{rest}}}");
        assert_eq!(!told("IST0129", &[service("reviews"), rule(&spec)]).is_empty(), is_told, "{spec}");
    }
}
