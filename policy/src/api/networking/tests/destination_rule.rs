use super::*;
use crate::api::tests::pending;

const KIND: &str = "DestinationRule";

/// Specs with this traffic policy on each of its levels: top, subset, and port where it may be.
fn with_policy(policy: &str) -> [String; 2] {
    [
        format!("{{host: a, trafficPolicy: {policy}}}"),
        format!("{{host: a, subsets: [{{name: v1, trafficPolicy: {policy}}}]}}"),
    ]
}

fn with_block(block: &str) -> [String; 3] {
    let [top, subset] = with_policy(&format!("{{{block}}}"));
    [top, subset, format!("{{host: a, trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, {block}}}]}}}}")]
}

fn assert_blocks_refused(cases: &[(&str, &str)]) {
    for (block, wanted) in cases {
        for spec in with_block(block) {
            assert_refused(KIND, &[(&spec, wanted)]);
        }
    }
}

fn assert_blocks_accepted(blocks: &[&str]) {
    for block in blocks {
        assert_accepted(KIND, &with_block(block).each_ref().map(String::as_str));
    }
}

#[test]
fn subset_names_are_given_once() {
    assert_refused(
        KIND,
        &[
            ("{host: a, subsets: [{name: v1}, {name: v1}]}", "spec.subsets[1]: the name v1 is given twice"),
            ("{host: a, subsets: [{name: 'a.b'}]}", "spec.subsets[0].name: must be 1 to 63"),
            ("{host: a, subsets: [{labels: {}}]}", "spec.subsets[0].name is missing"),
        ],
    );
    assert_accepted(
        KIND,
        &["{host: a, subsets: [{name: V1}, {name: v-2, labels: {version: v2}}]}", "{host: '*.a.com'}"],
    );
}

#[test]
fn a_host_is_a_name() {
    assert_refused(
        KIND,
        &[
            ("{}", "spec.host is missing"),
            ("{host: 1.2.3.4}", "must be a host name"),
            ("{host: 'a*'}", "is not a host"),
        ],
    );
    assert_noticed(KIND, &[("{host: reviews.prod}", "host reviews.prod is taken as it stands and names no service")]);
}

#[test]
fn a_traffic_policy_has_at_least_one_field() {
    for spec in with_policy("{}") {
        assert_refused(KIND, &[(&spec, "must have at least one field")]);
    }
    let port = "{host: a, trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}}";
    assert_refused(KIND, &[(port, "portLevelSettings[0]: must have at least one field beside port")]);
    for more in
        ["tunnel: {targetHost: a.b, targetPort: 1}", "proxyProtocol: {version: V2}", "retryBudget: {percent: 5}"]
    {
        assert_accepted(KIND, &with_policy(&format!("{{{more}}}")).each_ref().map(String::as_str));
    }
}

#[test]
fn port_level_settings_name_their_port() {
    let of = |port: &str| {
        format!("{{host: a, trafficPolicy: {{portLevelSettings: [{{{port}loadBalancer: {{simple: RANDOM}}}}]}}}}")
    };
    assert_refused(KIND, &[(&of(""), "portLevelSettings[0].port is missing")]);
    assert_refused(KIND, &[(&of("port: {number: 70000}, "), "port.number: is the number 70000")]);
}

#[test]
fn tunnel_and_proxy_protocol_exclude_each_other() {
    for spec in with_policy("{tunnel: {targetHost: a.b, targetPort: 1}, proxyProtocol: {}}") {
        assert_refused(KIND, &[(&spec, "only one of tunnel, proxyProtocol")]);
    }
}

#[test]
fn a_tunnel_has_a_target() {
    for (tunnel, wanted) in [
        ("{targetPort: 1}", "tunnel.targetHost is missing"),
        ("{targetHost: a.b}", "tunnel.targetPort is missing"),
        ("{targetHost: a.b, targetPort: 0}", "is the number 0"),
        ("{targetHost: '*.b', targetPort: 1}", "is neither a host name nor an address"),
        ("{targetHost: a.b, targetPort: 1, protocol: connect}", "it must be CONNECT or POST"),
    ] {
        for spec in with_policy(&format!("{{tunnel: {tunnel}}}")) {
            assert_refused(KIND, &[(&spec, wanted)]);
        }
    }
    assert_accepted(KIND, &["{host: a, trafficPolicy: {tunnel: {targetHost: '::1', targetPort: 1, protocol: POST}}}"]);
}

#[test]
fn local_failures_count_only_where_they_are_split() {
    assert_blocks_refused(&[(
        "outlierDetection: {consecutiveLocalOriginFailures: 5}",
        "consecutiveLocalOriginFailures: needs splitExternalLocalOriginErrors: true",
    )]);
    assert_blocks_accepted(&[
        "outlierDetection: {consecutiveLocalOriginFailures: 5, splitExternalLocalOriginErrors: true}",
        "outlierDetection: {consecutiveLocalOriginFailures: 0}",
        "outlierDetection: {}",
        "outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: null, interval: 1ms, baseEjectionTime: 3m}",
        "outlierDetection: {outlierDetectionHttpErrorCodes: [500, 429], failurePercentageThreshold: 50}",
    ]);
}

#[test]
fn shares_of_outlier_detection_are_percent() {
    assert_blocks_refused(&[
        ("outlierDetection: {maxEjectionPercent: 101}", "from 0 to 100"),
        ("outlierDetection: {maxEjectionPercent: -1}", "from 0 to 100"),
        ("outlierDetection: {minHealthPercent: 101}", "from 0 to 100"),
        ("outlierDetection: {interval: 0s}", "is below 1ms"),
        ("outlierDetection: {baseEjectionTime: 1us}", "is below 1ms"),
        ("outlierDetection: {baseEjectionTime: 1500us}", "is not a whole number of milliseconds"),
        ("outlierDetection: {consecutive5xxErrors: -1}", "from 0 to 4294967295"),
    ]);
}

#[test]
fn deprecated_fields_are_told() {
    assert_noticed(
        KIND,
        &[
            ("{host: a, trafficPolicy: {outlierDetection: {consecutiveErrors: 7}}}", "consecutiveErrors is deprecated"),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 5}}}}",
                "minimumRingSize is deprecated",
            ),
        ],
    );
}

#[test]
fn a_consistent_hash_has_one_key_and_one_algorithm() {
    assert_blocks_refused(&[
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: x}}",
            "only one of httpHeaderName, useSource",
        ),
        ("loadBalancer: {consistentHash: {ringHash: {}, maglev: {tableSize: 5}}}", "only one of ringHash, maglev"),
        ("loadBalancer: {consistentHash: {minimumRingSize: 5, ringHash: {}}}", "only one of minimumRingSize, ringHash"),
        ("loadBalancer: {simple: RANDOM, consistentHash: {}}", "only one of simple, consistentHash"),
        ("loadBalancer: {simple: FASTEST}", "it must be one of"),
    ]);
    assert_blocks_accepted(&[
        "loadBalancer: {consistentHash: {}}",
        "loadBalancer: {consistentHash: {httpQueryParameterName: q, ringHash: {minimumRingSize: 2048}}}",
        "loadBalancer: {consistentHash: {httpCookie: {name: c, path: /, ttl: 0s, attributes: [{name: SameSite, value: Strict}]}}}",
    ]);
}

#[test]
fn a_cookie_has_a_name() {
    assert_blocks_refused(&[
        ("loadBalancer: {consistentHash: {httpCookie: {ttl: 0s}}}", "httpCookie.name is missing"),
        ("loadBalancer: {consistentHash: {httpCookie: {name: ''}}}", "httpCookie.name is missing"),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: c, attributes: [{value: x}]}}}",
            "attributes[0].name is missing",
        ),
    ]);
}

#[test]
fn maglevs_table_is_a_prime_below_5000011() {
    for size in ["2", "3", "65537", "4999999"] {
        assert_blocks_accepted(&[&format!("loadBalancer: {{consistentHash: {{maglev: {{tableSize: {size}}}}}}}")]);
    }
    for size in ["1", "4", "9", "65536", "5000011", "9223372036854775807"] {
        let block = format!("loadBalancer: {{consistentHash: {{maglev: {{tableSize: {size}}}}}}}");
        assert_blocks_refused(&[(&block, "it must be a prime below 5000011")]);
    }
    assert_blocks_refused(&[("loadBalancer: {consistentHash: {maglev: {}}}", "tableSize is missing")]);
}

#[test]
fn a_warmup_has_a_duration() {
    assert_blocks_refused(&[
        ("loadBalancer: {warmup: {minimumPercent: 5.0}}", "warmup.duration is missing"),
        ("loadBalancer: {warmup: {duration: 300s, minimumPercent: 150.0}}", "minimumPercent: is 150"),
        ("loadBalancer: {warmup: {duration: 300s, aggression: 0.3}}", "aggression: must be 1 or more"),
        ("loadBalancer: {warmup: {duration: 0s}}", "is below 1ms"),
        ("loadBalancer: {warmup: {duration: 1s}, warmupDurationSecs: 1s}", "only one of warmupDurationSecs, warmup"),
    ]);
    assert_blocks_accepted(&[
        "loadBalancer: {warmup: {duration: 300s, minimumPercent: 5.0, aggression: 5.0}}",
        "loadBalancer: {warmupDurationSecs: 60s}",
    ]);
}

#[test]
fn a_connection_pool_is_not_empty() {
    assert_blocks_refused(&[
        ("connectionPool: {}", "connectionPool: must have tcp or http"),
        ("connectionPool: {http: {maxRetries: -1}}", "from 0 to"),
        ("connectionPool: {tcp: {maxConnections: -1}}", "from 0 to"),
        ("connectionPool: {tcp: {connectTimeout: 0s}}", "is below 1ms"),
        ("connectionPool: {http: {idleTimeout: 0s}}", "is below 1ms"),
        ("connectionPool: {http: {http2KeepAlive: {interval: 1s}}}", "timeout is missing"),
    ]);
    assert_blocks_accepted(&[
        "connectionPool: {tcp: {idleTimeout: 0s, maxConnections: 1, tcpKeepalive: {probes: 3, time: 7200s, interval: 75s}}}",
        "connectionPool: {http: {http2KeepAlive: {interval: 15s, timeout: 5s}, maxConcurrentStreams: 7}}",
    ]);
}

#[test]
fn upgrading_to_http2_contradicts_the_clients_protocol() {
    assert_blocks_refused(&[(
        "connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}",
        "useClientProtocol: contradicts h2UpgradePolicy",
    )]);
    assert_blocks_accepted(&["connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE, useClientProtocol: true}}"]);
}

#[test]
fn tls_has_what_its_mode_needs() {
    assert_blocks_refused(&[
        ("tls: {mode: MUTUAL, privateKey: k}", "tls.clientCertificate is missing"),
        ("tls: {mode: MUTUAL, clientCertificate: c}", "tls.privateKey is missing"),
        (
            "tls: {mode: ISTIO_MUTUAL, clientCertificate: c}",
            "tls.clientCertificate: must not be given with ISTIO_MUTUAL",
        ),
        ("tls: {mode: ISTIO_MUTUAL, caCertificates: c}", "tls.caCertificates: must not be given"),
        ("tls: {mode: ISTIO_MUTUAL, credentialName: c}", "tls.credentialName: must not be given"),
        (
            "tls: {mode: SIMPLE, credentialName: c, caCertificates: c}",
            "tls.caCertificates: must not be given beside cred",
        ),
        ("tls: {mode: MUTUAL, credentialName: c, caCrl: c}", "tls.caCrl: must not be given beside credentialName"),
        (
            "tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}",
            "tls.subjectAltNames: must not be given",
        ),
        ("tls: {mode: SIMPLE, insecureSkipVerify: true, credentialName: a}", "tls.credentialName: must not be given"),
        ("tls: {mode: SIMPLE, caCertificates: a, caCertCredentialName: b}", "only one of caCertificates"),
        ("tls: {mode: SECURE}", "it must be one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL"),
    ]);
    assert_blocks_accepted(&[
        "tls: {}",
        "tls: {mode: DISABLE}",
        "tls: {mode: SIMPLE, sni: a.b, caCertificates: /c, caCrl: /r}",
        "tls: {mode: SIMPLE, insecureSkipVerify: true}",
        "tls: {mode: MUTUAL, clientCertificate: c, privateKey: k, subjectAltNames: [a]}",
        "tls: {mode: MUTUAL, credentialName: c, insecureSkipVerify: true}",
        "tls: {mode: ISTIO_MUTUAL, sni: a, subjectAltNames: [b]}",
    ]);
}

/// A load balancer's block with this setting of localities, and outlier detection.
fn localities(setting: &str) -> String {
    format!("loadBalancer: {{localityLbSetting: {setting}}}, outlierDetection: {{}}")
}

#[test]
fn weights_of_localities_sum_up_to_100() {
    for (to, wanted) in [
        ("{'a/*': 60, 'b/*': 30}", "sum up to 90; they must sum up to 100"),
        ("{}", "sum up to 0"),
        ("{'a/*': 0, 'b/*': 100}", "from 1 to 100"),
        ("{'a/*': 101}", "from 1 to 100"),
    ] {
        let block = localities(&format!("{{distribute: [{{from: 'a/*', to: {to}}}]}}"));
        assert_blocks_refused(&[(&block, wanted)]);
    }
    assert_blocks_accepted(&[&localities(
        "{distribute: [{from: 'a/*', to: {'a/*': 80, b/z1/s1: 20}}], enabled: true}",
    )]);
}

#[test]
fn localities_do_not_overlap() {
    for (from, wanted) in [
        (["a/*", "a/z1"], "a/z1 overlaps with a/*"),
        (["*", "a"], "a overlaps with *"),
        (["a", "a"], "a overlaps with a"),
        (["a/z1/s1", "a/z1"], "a/z1 overlaps with a/z1/s1"),
        (["a/*/s", "b"], "may have only one *"),
        (["a//s", "b"], "without empty parts"),
        (["", "b"], "without empty parts"),
    ] {
        let [first, second] = from.map(|from| format!("{{from: '{from}', to: {{'*': 100}}}}"));
        assert_blocks_refused(&[(&localities(&format!("{{distribute: [{first}, {second}]}}")), wanted)]);
    }
    for from in [["a/z1", "a/*"], ["a", "*"], ["a/z1/s1", "a/z1/s2"]] {
        let [first, second] = from.map(|from| format!("{{from: '{from}', to: {{'*': 100}}}}"));
        assert_blocks_accepted(&[&localities(&format!("{{distribute: [{first}, {second}]}}"))]);
    }
}

#[test]
fn failover_is_between_different_regions() {
    for (failover, wanted) in [
        ("{from: a, to: a}", "from and to must be different regions"),
        ("{from: a/z1, to: b}", "must be a region alone"),
        ("{from: a, to: 'b*'}", "must be a region alone"),
    ] {
        assert_blocks_refused(&[(&localities(&format!("{{failover: [{failover}]}}")), wanted)]);
    }
    assert_blocks_accepted(&[&localities("{failover: [{from: a, to: b}], failoverPriority: [version=v1]}")]);
}

#[test]
fn distribute_and_failover_exclude_each_other() {
    assert_blocks_refused(&[
        (
            &localities("{distribute: [{from: a, to: {'*': 100}}], failover: [{from: a, to: b}]}"),
            "only one of distribute, failover",
        ),
        (
            &localities("{failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/zone]}"),
            "must not be given beside failover",
        ),
        ("loadBalancer: {localityLbSetting: {}, zoneAwareLbSetting: {}}", "only one of localityLbSetting, zoneAware"),
        (
            "loadBalancer: {zoneAwareLbSetting: {failoverPriority: [topology.kubernetes.io/zone]}}",
            "is looked at by itself",
        ),
        ("loadBalancer: {zoneAwareLbSetting: {minClusterSize: 0}}", "from 1 to"),
    ]);
}

#[test]
fn failover_without_outlier_detection_is_told() {
    for setting in ["{failover: [{from: a, to: b}]}", "{failoverPriority: [a]}"] {
        let spec = format!("{{host: a, trafficPolicy: {{loadBalancer: {{localityLbSetting: {setting}}}}}}}");
        assert_noticed(KIND, &[(&spec, "has no effect without outlierDetection")]);
    }
}

#[test]
fn export_beside_a_workload_selector_is_to_its_own_namespace() {
    assert_refused(
        KIND,
        &[
            ("{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: ['*']}", "may only be '.'"),
            ("{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: [., other]}", "may only be '.'"),
            ("{host: a, workloadSelector: {matchLabels: {a: '*'}}}", "is not a label's value"),
        ],
    );
    assert_accepted(
        KIND,
        &[
            "{host: a, workloadSelector: {matchLabels: {a: b}}}",
            "{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: [.]}",
            "{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: [default]}",
        ],
    );
    assert_noticed(KIND, &[("{host: a, workloadSelector: {}}", "has no labels")]);
}

#[test]
fn exports_are_namespaces_each_once() {
    assert_refused(
        KIND,
        &[
            ("{host: a, exportTo: [a, a]}", "a is given twice"),
            ("{host: a, exportTo: [., default]}", "default is given twice"),
            ("{host: a, exportTo: ['*', a]}", "* must stand alone"),
            ("{host: a, exportTo: ['~']}", "~ (nobody) is only for a ServiceEntry"),
            ("{host: a, exportTo: [a.b]}", "must be a namespace"),
        ],
    );
    assert_accepted(KIND, &["{host: a, exportTo: [foo, .]}", "{host: a, exportTo: ['*']}"]);
}

#[test]
fn what_the_data_path_does_not_do_is_pending() {
    let spec = "{host: a, exportTo: [.], trafficPolicy: {proxyProtocol: {version: V1}, \
                tls: {mode: SIMPLE, credentialName: a}, compression: {response: {decompress: {enabled: true}}}}}";
    let expected =
        ["spec.trafficPolicy.tls.credentialName", "spec.trafficPolicy.compression", "spec.trafficPolicy.proxyProtocol"];
    assert_eq!(pending(&text(KIND, spec)), expected);
    let enforced = "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}, warmup: {duration: 1s}, \
                    localityLbSetting: {failover: [{from: eu, to: us}]}}, outlierDetection: {consecutive5xxErrors: 1, \
                    outlierDetectionHttpErrorCodes: [429], failurePercentageThreshold: 50}, \
                    connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s, idleTimeout: 1s, maxConnectionDuration: 1s, \
                    tcpKeepalive: {}}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1, maxRetries: 1, h2UpgradePolicy: UPGRADE, \
                    idleTimeout: 1s, maxRequestsPerConnection: 1, maxConcurrentStreams: 1, \
                    http2KeepAlive: {interval: 1s, timeout: 1s}}}, retryBudget: {percent: 5}, tls: {mode: ISTIO_MUTUAL}, \
                    compression: {response: {decompress: {}}}}, exportTo: ['*']}";
    assert_eq!(pending(&text(KIND, enforced)), [""; 0]);
    let selecting = "{host: a, exportTo: [.], workloadSelector: {matchLabels: {a: b}}, trafficPolicy: {tls: {mode: MUTUAL, \
                     credentialName: a}}}";
    assert_eq!(pending(&text(KIND, selecting)), [""; 0]);
    for (tls, expected) in [
        ("{mode: SIMPLE, sni: a, subjectAltNames: [b], caCertificates: /a, caCrl: /b}", &[][..]),
        ("{mode: MUTUAL, clientCertificate: /a, privateKey: /b}", &[]),
        ("{mode: SIMPLE, insecureSkipVerify: true}", &[]),
        ("{mode: SIMPLE, caCertCredentialName: a}", &["spec.trafficPolicy.tls.caCertCredentialName"]),
        ("{mode: ISTIO_MUTUAL, sni: a, subjectAltNames: [b]}", &["spec.trafficPolicy.tls.sni"]),
    ] {
        assert_eq!(pending(&text(KIND, &format!("{{host: a, trafficPolicy: {{tls: {tls}}}}}"))), expected, "{tls}");
    }
}
