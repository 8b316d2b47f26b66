use std::time::Duration;

use http::HeaderMap;
use weft_wire::fact::Protocol;

use super::*;
use crate::health::{HealthCheck, HttpProbe, Probe, Statuses};

/// A directory with this `node.yaml`.
fn dir(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE_NAME), text).unwrap();
    dir
}

fn load(text: &str) -> Result<Config, ConfigError> {
    Config::load(None, dir(text).path())
}

/// The complaints about a file, as `line: field: problem`.
fn complaints(text: &str) -> Vec<String> {
    match load(text).unwrap_err() {
        ConfigError::Invalid(complaints) => {
            complaints.iter().map(|complaint| format!("{}: {}", complaint.line, complaint.error)).collect()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_full_file_is_read_as_written() {
    let config = load(
        r#"
name: host-1
advertise: 10.0.0.1
seeds: [10.0.0.2:15008, 10.0.0.3, "seed.example:1", ::1, "[::1]"]
locality: {region: eu, zone: a, subzone: ""}
labels: {env: prod}
logs: {format: json, level: debug}
accessLog: off
accessLogTo: /var/log/weft/access.log
admin: 127.0.0.1:15000
metricsPush: {endpoint: "otel.shop:4318", protocol: http, interval: 30s, headers: {X-Key: k}}
workers: 2
services:
  - {name: reviews, namespace: shop, serviceAccount: bookinfo-reviews, workload: reviews-one, version: v1,
     labels: {app: reviews}, address: 10.0.0.1, port: 80, targetPort: 9080, protocol: grpc,
     healthCheck: {http: {path: /health, port: 9081, host: "shop.example:80", headers: {x-probe: yes}, statuses: "200-299,404"},
                   interval: 500ms, timeout: 2s, unhealthyAfter: 4, healthyAfter: 2}}
outbound: {address: 127.0.0.1:15001, as: default/bookinfo-productpage}
listeners:
  - {listen: 127.0.0.1:9080, service: reviews.shop, port: 80, protocol: http}
  - {listen: 127.0.0.1:27017, service: mongo, port: 27017, protocol: tcp, as: db/client}
"#,
    )
    .unwrap();
    assert_eq!(config.name, Some("host-1".parse().unwrap()));
    assert_eq!(config.advertise.to_string(), "10.0.0.1");
    let seeds: Vec<_> = config.seeds.iter().map(Seed::to_string).collect();
    assert_eq!(seeds, ["10.0.0.2:15008", "10.0.0.3:15008", "seed.example:1", "[::1]:15008", "[::1]:15008"]);
    assert_eq!(config.locality.to_string(), "eu/a");
    assert_eq!(config.logs, Logs { format: LogFormat::Json, level: LogLevel::Debug });
    assert_eq!((config.access_log, config.workers), (AccessLog::Off, 2));
    assert_eq!(config.access_log_to, AccessLogTo::File("/var/log/weft/access.log".into()));
    let MetricsPush { collector, interval } = config.metrics_push.unwrap();
    assert_eq!((collector.host.as_str(), collector.port, interval.as_secs()), ("otel.shop", 4318, 30));
    assert_eq!((collector.http_path.as_deref(), &*collector.headers["x-key"]), (Some("/v1/metrics"), "k"));
    assert_eq!(
        config.services,
        [ServiceConfig {
            service: "reviews.shop".parse().unwrap(),
            service_account: "bookinfo-reviews".parse().unwrap(),
            workload: "reviews-one".parse().unwrap(),
            version: "v1".into(),
            labels: BTreeMap::from([("app".into(), "reviews".into())]),
            address: "10.0.0.1".parse().unwrap(),
            port: 80,
            target_port: 9080,
            protocol: Protocol::Grpc,
            health_check: Some(HealthCheck {
                probe: Probe::Http(Box::new(HttpProbe {
                    path: "/health".into(),
                    port: 9081,
                    host: Some("shop.example:80".parse().unwrap()),
                    headers: HeaderMap::from_iter([("x-probe".parse().unwrap(), "yes".parse().unwrap())]),
                    statuses: Statuses::read("200-299,404").unwrap(),
                })),
                interval: Duration::from_millis(500),
                timeout: Duration::from_secs(2),
                unhealthy_after: 4,
                healthy_after: 2,
            }),
        }]
    );
    let account = |text: &str| Some(text.parse().unwrap());
    assert_eq!(config.outbound.account, account("default/bookinfo-productpage"));
    assert_eq!(config.listeners[0].account, config.outbound.account);
    assert_eq!(config.listeners[1].account, account("db/client"));
    assert_eq!(config.listeners[1].service.to_string(), "mongo.default");
    assert_eq!(config.listeners[1].protocol, ListenerProtocol::Tcp);
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = load(
        "advertise: 127.0.0.3\nservices: [{name: ratings, port: 9080, version: V1.2, healthCheck: {tcp: {}}}, \
         {name: details, port: 1, healthCheck: {grpc: {}}}, \
         {name: web, port: 1, healthCheck: {http: {statuses: 204}}}]",
    )
    .unwrap();
    let service = &config.services[0];
    assert_eq!(
        (service.service.to_string().as_str(), service.service_account.as_str()),
        ("ratings.default", "default")
    );
    assert_eq!((service.workload.as_str(), config.services[1].workload.as_str()), ("ratings-v1-2", "details"));
    assert_eq!((service.address.to_string().as_str(), service.target_port), ("127.0.0.3", 9080));
    assert_eq!(service.protocol, Protocol::Auto);
    let check = service.health_check.as_ref().unwrap();
    assert_eq!(check.probe, Probe::Tcp { port: 9080 });
    assert_eq!((check.interval.as_secs(), check.timeout.as_secs()), (2, 1));
    assert_eq!((check.unhealthy_after, check.healthy_after), (3, 1));
    let probe = |i: usize| &config.services[i].health_check.as_ref().unwrap().probe;
    assert_eq!(*probe(1), Probe::Grpc { service: String::new(), port: 1 });
    let Probe::Http(http) = probe(2) else { panic!("{:?}", probe(2)) };
    assert_eq!((http.path.as_str(), &http.host, http.headers.len()), ("/", &None, 0));
    assert_eq!(http.statuses, Statuses::read("204").unwrap());
    assert_eq!(config.admin.to_string(), "127.0.0.3:15000");
    assert_eq!(config.outbound, Outbound { address: "127.0.0.3:15001".parse().unwrap(), account: None });
    assert_eq!(config.access_log, AccessLog::Text);
    assert_eq!(config.access_log_to, AccessLogTo::Stdout);
    assert!(config.workers > 0 && config.name.is_none());
    assert_eq!(load("advertise: 10.0.0.1").unwrap().outbound.address.to_string(), "127.0.0.1:15001");
}

#[test]
fn every_error_names_its_line_and_field_and_all_are_reported() {
    let found = complaints(
        r#"
name: Host
seeds: ["a:b"]
admin: 10.0.0.1:15000
services:
  - name: reviews
    port: 70000
    healthCheck:
      tcp: {}
      command: [x]
      interval: 5x
  - {name: a b, port: 1, labels: {"-": x}, protocol: udp, address: 0.0.0.0}
  - name: web
    port: 1
    healthCheck: {http: {path: x, host: a@b, headers: {host: a, connection: close, " ": a}, statuses: 2xx}}
listeners:
  - {listen: "127.0.0.1:15001", service: reviews, port: 1, as: nobody}
"#,
    );
    assert_eq!(
        found,
        [
            r#"2: name: node name "Host" must be 1 to 63 of a-z, 0-9 and '-', and neither start nor end with '-'"#,
            r#"3: seeds[0]: "a:b" is not a seed; write IP, HOST or HOST:PORT (port 15008 if none)"#,
            "4: admin: 10.0.0.1:15000 is not a loopback address; who reaches it rules the node",
            "7: services[0].port: 70000 is not a port; write a number from 1 to 65535",
            "8: services[0].healthCheck: needs exactly one of http, grpc, tcp and command",
            r#"11: services[0].healthCheck.interval: "5x" is not a duration; write 500ms, 2s or 1m"#,
            "12: services[1].name: service name \"a b\" must be 1 to 63 of a-z, 0-9 and '-', \
             and neither start nor end with '-'",
            r#"12: services[1].labels.-: "-" is not a label's key; write one such as app or example.com/app"#,
            "12: services[1].address: 0.0.0.0 is not the address of one host",
            r#"12: services[1].protocol: "udp" is not one of auto, http, http2, grpc, tcp"#,
            r#"15: services[2].healthCheck.http.path: "x" is not a path; write one such as /health"#,
            r#"15: services[2].healthCheck.http.host: "a@b" is not HOST or HOST:PORT"#,
            r#"15: services[2].healthCheck.http.headers. : not a name and a value of a header"#,
            "15: services[2].healthCheck.http.headers.connection: is not for you to set",
            "15: services[2].healthCheck.http.headers.host: has a field of its own, http.host",
            r#"15: services[2].healthCheck.http.statuses: "2xx" is not a status or a range of them; write one such as 200-299,404"#,
            "17: listeners[0].listen: port 15001 is one of weft's own; choose another",
            r#"17: listeners[0].as: service account "nobody" must look like NAMESPACE/NAME"#,
            "0: advertise: is missing; write the address at which other nodes reach this one",
        ]
    );
}

#[test]
fn an_error_is_one_line_however_much_is_wrong() {
    let error = load("\nadvertise: nowhere\nworkers: 0\nadmin: x\n").unwrap_err().to_string();
    assert!(error.contains("node.yaml:2: advertise: ") && error.ends_with(" (and 2 more)"), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn what_is_there_twice_is_refused() {
    let found = complaints(
        r#"
advertise: 10.0.0.1
admin: 127.0.0.1:9000
metrics: 0.0.0.0:9080
outbound: {address: "0.0.0.0:9000"}
services:
  - {name: reviews, port: 1}
  - {name: reviews, port: 2}
  - {name: reviews, port: 2, namespace: other}
listeners:
  - {listen: "127.0.0.1:9080", service: reviews, port: 1}
  - {listen: "127.0.0.2:9080", service: reviews, port: 1}
  - {listen: "127.0.0.1:9080", service: ratings, port: 1}
"#,
    );
    assert_eq!(
        found,
        [
            "8: services[1].workload: reviews is services[0] already; give each its own `workload`",
            "5: outbound.address: 0.0.0.0:9000 is taken by admin",
            "11: listeners[0].listen: 127.0.0.1:9080 is taken by metrics",
            "12: listeners[1].listen: 127.0.0.2:9080 is taken by metrics",
            "13: listeners[2].listen: 127.0.0.1:9080 is taken by metrics",
        ]
    );
}

#[test]
fn an_unknown_field_is_refused_with_a_suggestion_and_the_file() {
    let dir = dir("advertise: 10.0.0.1\nservices:\n  - {name: a, port: 1, healthcheck: {}}\n");
    let error = Config::load(None, dir.path()).unwrap_err().to_string();
    let expected = r#"services[0].healthcheck: there is no field "healthcheck"; did you mean "healthCheck"?"#;
    assert_eq!(error, format!("{}:3: {expected}", dir.path().join(FILE_NAME).display()));
}

#[test]
fn a_named_file_takes_name_address_and_seeds_from_the_directory() {
    let dir = dir("name: host-1\nadvertise: 10.0.0.1\nseeds: [10.0.0.2]\nworkers: 7\n");
    let file = dir.path().join("other.yaml");
    fs::write(&file, "workers: 3\nadvertise: 10.0.0.9\n").unwrap();
    let config = Config::load(Some(&file), dir.path()).unwrap();
    assert_eq!((config.workers, config.advertise.to_string().as_str()), (3, "10.0.0.9"));
    assert_eq!((config.name, config.seeds.len()), (Some("host-1".parse().unwrap()), 1));
    fs::write(dir.path().join(FILE_NAME), "name: NO\n").unwrap();
    let error = Config::load(Some(&file), dir.path()).unwrap_err().to_string();
    assert!(error.contains("node.yaml:1: name: "), "{error}");
}

#[test]
fn a_missing_file_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = Config::load(None, dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("node.yaml; run `weft init` or `weft join` first, or name a file with -c"), "{error}");
    let error = Config::load(Some(&dir.path().join("x")), dir.path()).unwrap_err();
    assert!(matches!(error, ConfigError::Missing(_)));
    let error = Config::load(Some(dir.path()), dir.path()).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }));
}

#[test]
fn the_name_must_be_the_identitys() {
    let config = load("\nname: host-1\nadvertise: 10.0.0.1").unwrap();
    config.confirm_name(&"host-1".parse().unwrap()).unwrap();
    let error = config.confirm_name(&"host-2".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("node.yaml:2: name: host-1 is not this node"), "{error}");
    load("advertise: 10.0.0.1").unwrap().confirm_name(&"host-2".parse().unwrap()).unwrap();
}

#[test]
fn the_starter_is_read_as_what_it_was_made_of_even_with_its_comments_opened() {
    let name = "host-1".parse().unwrap();
    let seeds: [Seed; 2] = ["10.0.0.2".parse().unwrap(), "::1".parse().unwrap()];
    let starter = Config::starter(&name, "10.0.0.1".parse().unwrap(), &seeds, None, false);
    let config = load(&starter).unwrap();
    assert_eq!((config.name, config.seeds), (Some(name), seeds.to_vec()));
    assert!(config.services.is_empty());
    let is_prose =
        |line: &&str| line.starts_with("# ") && line.contains(|c: char| c.is_uppercase()) && !line.contains('{');
    let opened: Vec<_> =
        starter.lines().filter(|line| !is_prose(line)).map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
    let config = load(&opened.join("\n")).unwrap_or_else(|error| panic!("{error}\n{}", opened.join("\n")));
    assert_eq!((config.services.len(), config.listeners.len(), config.locality.to_string().as_str()), (1, 1, "eu/a"));
}

#[test]
fn a_service_from_flags_is_checked_like_one_from_the_file() {
    let spec = ServiceSpec { name: "reviews".into(), port: 9080, version: Some("v1".into()), ..ServiceSpec::default() };
    let service = spec.check("127.0.0.2".parse().unwrap()).unwrap();
    assert_eq!((service.workload.as_str(), service.address.to_string().as_str()), ("reviews-v1", "127.0.0.2"));
    let errors = ServiceSpec { port: 0, ..spec }.check("127.0.0.2".parse().unwrap()).unwrap_err();
    assert_eq!(errors[0].to_string(), "port: 0 is not a port; write a number from 1 to 65535");
}

#[test]
fn where_metrics_are_sent_is_checked_field_by_field() {
    for (push, complaint) in [
        ("{}", "metricsPush.endpoint: \"\" is not HOST:PORT"),
        ("{endpoint: otel}", "metricsPush.endpoint: \"otel\" is not HOST:PORT"),
        ("{endpoint: 'http://otel:4317'}", "is not HOST:PORT"),
        ("{endpoint: 'otel:4317', protocol: udp}", "metricsPush.protocol: "),
        ("{endpoint: 'otel:4317', path: /v1/metrics}", "metricsPush.path: is only for protocol http"),
        ("{endpoint: 'otel:4317', protocol: http, path: v1}", "metricsPush.path: \"v1\" is not a path"),
        ("{endpoint: 'otel:4317', interval: 10ms}", "metricsPush.interval: is below 1s"),
        ("{endpoint: 'otel:4317', headers: {'a b': c}}", "metricsPush.headers: "),
    ] {
        let found = complaints(&format!("name: a\nadvertise: 10.0.0.1\nmetricsPush: {push}\n"));
        assert!(found.len() == 1 && found[0].contains(complaint), "{push}: {found:?}");
    }
}
