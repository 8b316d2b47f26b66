mod core;
mod discovery;

mod properties {
    use proptest::prelude::*;
    use weft_wire::id::Namespace;

    use crate::document::parse_yaml;

    /// Documents of many kinds, as starting points.
    const DOCUMENTS: [(&str, &str, &str); 8] = [
        (
            "networking.istio.io/v1",
            "DestinationRule",
            "spec: {host: a, exportTo: [., b], trafficPolicy: {loadBalancer: {consistentHash: {maglev: {tableSize: 65537}}, \
             localityLbSetting: {distribute: [{from: 'a/*', to: {a/b/c: 80, '*': 20}}]}}, tunnel: {targetHost: a, targetPort: 1}, \
             tls: {mode: MUTUAL, credentialName: a}, connectionPool: {tcp: {connectTimeout: 1h30m}}}}",
        ),
        (
            "networking.istio.io/v1",
            "Gateway",
            "spec: {servers: [{port: {number: 80, name: a, protocol: HTTP}, bind: 'unix://@a', hosts: ['ns/*.a.com', '*']}]}",
        ),
        (
            "networking.istio.io/v1",
            "ServiceEntry",
            "spec: {hosts: ['*.a.com'], addresses: [1.2.3.4/5], resolution: STATIC, ports: [{number: 80, name: a}], \
             endpoints: [{address: 'unix:///a', ports: {a: 1}}]}",
        ),
        (
            "networking.istio.io/v1",
            "Sidecar",
            "spec: {egress: [{hosts: ['./*', a/b.com]}], ingress: [{port: {number: 80}, defaultEndpoint: '[::1]:80'}]}",
        ),
        (
            "networking.istio.io/v1",
            "WorkloadGroup",
            "spec: {template: {address: 'unix://a'}, probe: {exec: {command: [a]}}}",
        ),
        ("v1", "Service", "spec: {ports: [{port: 80, targetPort: http}], clusterIP: 1.2.3.4, externalIPs: ['::2']}"),
        ("v1", "Secret", "type: kubernetes.io/tls\ndata: {tls.crt: YQ==}\nstringData: {tls.key: a}"),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "addressType: IPv6\nendpoints: [{addresses: ['fd00::1'], hints: {forZones: [{name: z}]}}]",
        ),
    ];

    proptest! {
        #[test]
        fn no_change_of_a_document_makes_reading_panic(
            document in 0..DOCUMENTS.len(), changes in prop::collection::vec((any::<prop::sample::Index>(), ".{0,3}"), 1..4),
        ) {
            let (api_version, kind, body) = DOCUMENTS[document];
            let mut body: Vec<char> = body.chars().collect();
            for (at, text) in changes {
                let at = at.index(body.len());
                body.splice(at..=at, text.chars());
                body.push(' ');
            }
            let text = crate::api::testing::text(api_version, kind, &body.into_iter().collect::<String>());
            let _ = parse_yaml(&text, &Namespace::default_namespace());
        }
    }
}
