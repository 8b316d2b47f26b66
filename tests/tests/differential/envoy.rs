//! The same documents as Envoy's static configuration: what Istio's control plane makes of VirtualServices and
//! DestinationRules for a proxy beside the caller. It reads the documents as they were written, not with weft's code.

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use weft_tests::lab::{Lab, PATIENCE, wait_for};

use crate::generator::{BACKENDS, Backend, PORT};

/// Where Envoy listens.
pub(crate) const LISTEN_PORT: u16 = 10_000;
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DOMAIN: &str = "default.svc.cluster.local";
const CORS: &str = "envoy.filters.http.cors";
/// gRPC's number for `UNAVAILABLE`, the one status of that kind that cases have.
const GRPC_UNAVAILABLE: u32 = 14;
const FAULT: &str = "envoy.filters.http.fault";
/// What Istio retries where a VirtualService says nothing.
const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// Envoy's program.
///
/// # Panics
/// If there is none: a comparison that cannot run has failed.
fn program() -> PathBuf {
    let named = env::var_os("ENVOY_BIN").map(PathBuf::from);
    let in_path = || {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|folder| folder.join("envoy")).find(|file| file.is_file())
    };
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/envoy/bin/envoy");
    named
        .or_else(in_path)
        .or_else(|| tools.is_file().then_some(tools))
        .expect("this test compares with a real Envoy, and there is none: run make tools-envoy, or set ENVOY_BIN")
}

/// The bootstrap for these documents, without an admin interface.
pub(crate) fn bootstrap(documents: &[&Value]) -> Value {
    let of_kind = |kind: &'static str| documents.iter().copied().filter(move |document| document["kind"] == kind);
    let virtual_hosts: Vec<Value> = of_kind("VirtualService").map(virtual_host).collect();
    let mut clusters: Vec<Value> = services().iter().map(|service| cluster(service, "", |_| true)).collect();
    clusters.extend(of_kind("DestinationRule").flat_map(subsets));
    let manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "outbound",
            "normalize_path": true,
            "use_remote_address": false,
            "http_filters": [
                filter(CORS, "extensions.filters.http.cors.v3.Cors"),
                filter(FAULT, "extensions.filters.http.fault.v3.HTTPFault"),
                filter("envoy.filters.http.router", "extensions.filters.http.router.v3.Router"),
            ],
            "route_config": {
                "name": "outbound",
                "validate_clusters": false,
                "ignore_port_in_host_matching": true,
                "virtual_hosts": virtual_hosts,
            },
        }),
    );
    with_listener(&manager, clusters)
}

/// The bootstrap of one listener with this filter.
pub(crate) fn with_listener(manager: &Value, clusters: Vec<Value>) -> Value {
    json!({
        "static_resources": {
            "listeners": [{
                "name": "outbound",
                "address": address(LOOPBACK, LISTEN_PORT),
                "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
            }],
            "clusters": clusters,
        },
    })
}

/// Starts Envoy on the first host, and waits until it answers hosts that it does not know.
pub(crate) fn run(lab: &mut Lab, bootstrap: &Value) {
    let config = lab.file("envoy.json", &bootstrap.to_string());
    // Without its time stamps: the lab takes lines that begin with `[` for the access log.
    let options = ["--concurrency", "1", "--disable-hot-restart", "-l", "error", "--log-format", "%v"];
    let config = config.to_string_lossy();
    let arguments = [&["-c", &*config], &options[..]].concat();
    lab.host_mut(0).run_beside(&program(), &arguments);
    let url = format!("http://127.0.0.1:{LISTEN_PORT}/");
    wait_for("envoy listens", PATIENCE, || (lab.host(0).curl(&[], &url).status == 404).then_some(()));
}

fn virtual_host(virtual_service: &Value) -> Value {
    let spec = &virtual_service["spec"];
    let domains: Vec<String> = list(&spec["hosts"]).iter().flat_map(|host| domains(text(host))).collect();
    let rules = list(&spec["http"]);
    json!({
        "name": virtual_service["metadata"]["name"],
        "domains": domains,
        "routes": rules.iter().flat_map(routes).collect::<Vec<_>>(),
    })
}

/// The names of a service for a caller of its own namespace. Ports are ignored when a host is looked up.
fn domains(host: &str) -> Vec<String> {
    let name = host.split('.').next().unwrap_or(host);
    let absolute = format!("{}.", fqdn(name));
    [name.to_owned(), format!("{name}.default"), format!("{name}.default.svc"), fqdn(name), absolute].into()
}

/// A rule is one route for each of its matches.
fn routes(rule: &Value) -> Vec<Value> {
    let matches = match list(&rule["match"]) {
        [] => vec![json!({ "prefix": "/" })],
        several => several.iter().map(route_match).collect(),
    };
    let mut route = json!({});
    if let Some(redirect) = rule.get("redirect") {
        route["redirect"] = redirect_action(redirect);
    } else if let Some(response) = rule.get("directResponse") {
        route["direct_response"] = direct_response(response);
    } else {
        route["route"] = route_action(rule);
    }
    merge(&mut route, header_operations(&rule["headers"]));
    if let [only] = list(&rule["route"]) {
        merge(&mut route, header_operations(&only["headers"]));
    }
    if let Some(policy) = rule.get("corsPolicy") {
        route["typed_per_filter_config"][CORS] = cors_policy(policy);
    }
    if let Some(fault) = rule.get("fault") {
        route["typed_per_filter_config"][FAULT] = http_fault(fault);
    }
    let of = |one: Value| {
        let mut route = route.clone();
        route["match"] = one;
        route
    };
    matches.into_iter().map(of).collect()
}

fn route_match(one: &Value) -> Value {
    let mut route_match = match &one["uri"] {
        Value::Object(uri) if uri.contains_key("exact") => json!({ "path": uri["exact"] }),
        Value::Object(uri) if uri.contains_key("prefix") => json!({ "prefix": uri["prefix"] }),
        Value::Object(uri) if uri.contains_key("regex") => json!({ "safe_regex": { "regex": uri["regex"] } }),
        _ => json!({ "prefix": "/" }),
    };
    route_match["case_sensitive"] = (one["ignoreUriCase"] != true).into();
    let mut headers: Vec<Value> = fields(&one["headers"]).map(|(name, wanted)| header_match(name, wanted)).collect();
    for field in ["method", "authority", "scheme"] {
        headers.extend(one.get(field).map(|wanted| header_match(&format!(":{field}"), wanted)));
    }
    headers.extend(fields(&one["withoutHeaders"]).map(|(name, unwanted)| {
        let mut header = header_match(name, unwanted);
        header["invert_match"] = true.into();
        if header.get("present_match").is_none() {
            header["treat_missing_header_as_empty"] = true.into();
        }
        header
    }));
    route_match["headers"] = headers.into();
    let parameters = fields(&one["queryParams"]).map(|(name, wanted)| header_match(name, wanted));
    route_match["query_parameters"] = parameters.collect();
    route_match
}

/// Of a header, or of a parameter of the query.
fn header_match(name: &str, wanted: &Value) -> Value {
    match string_match(wanted) {
        Some(string_match) => json!({ "name": name, "string_match": string_match }),
        None => json!({ "name": name, "present_match": true }),
    }
}

/// `None` asks only that there be a value.
fn string_match(wanted: &Value) -> Option<Value> {
    if let Some(regex) = wanted.get("regex") {
        return (regex != "*").then(|| json!({ "safe_regex": { "regex": regex } }));
    }
    fields(wanted).next().is_some().then(|| wanted.clone())
}

fn route_action(rule: &Value) -> Value {
    let mut action = json!({ "timeout": rule.get("timeout").map_or("0s", text) });
    if let Some(policy) = retry_policy(rule.get("retries")) {
        action["retry_policy"] = policy;
    }
    let destinations = list(&rule["route"]);
    match destinations {
        [only] => action["cluster"] = cluster_of(&only["destination"]).into(),
        several => {
            let weighted = several.iter().filter(|share| share["weight"].as_u64().unwrap_or(0) > 0);
            let weighted = weighted.map(|share| {
                let mut one = json!({ "name": cluster_of(&share["destination"]), "weight": share["weight"] });
                merge(&mut one, header_operations(&share["headers"]));
                one
            });
            action["weighted_clusters"] = json!({ "clusters": weighted.collect::<Vec<_>>() });
        }
    }
    let rewrite = &rule["rewrite"];
    if let Some(regex) = rewrite.get("uriRegexRewrite") {
        action["regex_rewrite"] = json!({ "pattern": { "regex": regex["match"] }, "substitution": regex["rewrite"] });
    } else if let Some(uri) = rewrite.get("uri") {
        action["prefix_rewrite"] = uri.clone();
    }
    if let Some(authority) = rewrite.get("authority") {
        action["host_rewrite_literal"] = authority.clone();
    }
    action
}

/// `None` switches retries off.
fn retry_policy(retries: Option<&Value>) -> Option<Value> {
    let retries = retries.unwrap_or(&json!({ "attempts": 2 })).clone();
    let attempts = retries["attempts"].as_u64().filter(|attempts| *attempts > 0)?;
    let mut policy = json!({
        "retry_on": DEFAULT_RETRY_ON,
        "num_retries": attempts,
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [filter(
            "envoy.retry_host_predicates.previous_hosts",
            "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        )],
    });
    if let Some(retry_on) = retries.get("retryOn") {
        let (codes, mut words): (Vec<&str>, Vec<&str>) =
            text(retry_on).split(',').map(str::trim).partition(|word| word.parse::<u16>().is_ok());
        if !codes.is_empty() && !words.contains(&"retriable-status-codes") {
            words.push("retriable-status-codes");
        }
        policy["retry_on"] = words.join(",").into();
        policy["retriable_status_codes"] = codes.iter().filter_map(|code| code.parse::<u16>().ok()).collect();
    }
    if let Some(timeout) = retries.get("perTryTimeout") {
        policy["per_try_timeout"] = timeout.clone();
    }
    if let Some(backoff) = retries.get("backoff") {
        policy["retry_back_off"] = json!({ "base_interval": backoff });
    }
    Some(policy)
}

fn redirect_action(redirect: &Value) -> Value {
    let code = match redirect["redirectCode"].as_u64().unwrap_or(301) {
        302 => "FOUND",
        303 => "SEE_OTHER",
        307 => "TEMPORARY_REDIRECT",
        308 => "PERMANENT_REDIRECT",
        _ => "MOVED_PERMANENTLY",
    };
    let mut action = json!({ "response_code": code });
    for (field, ours) in [("authority", "host_redirect"), ("uri", "path_redirect"), ("scheme", "scheme_redirect")] {
        if let Some(value) = redirect.get(field) {
            action[ours] = value.clone();
        }
    }
    let derived = (redirect["derivePort"] == "FROM_REQUEST_PORT").then_some(u64::from(PORT));
    // The port that a scheme has anyway is not written.
    let implied = if redirect["scheme"] == "https" { 443 } else { 80 };
    if let Some(port) = redirect["port"].as_u64().or(derived).filter(|port| *port != implied) {
        action["port_redirect"] = port.into();
    }
    action
}

fn direct_response(response: &Value) -> Value {
    let mut made = json!({ "status": response["status"] });
    for (field, ours) in [("string", "inline_string"), ("bytes", "inline_bytes")] {
        if let Some(body) = response["body"].get(field) {
            made["body"] = json!({ ours: body });
        }
    }
    made
}

/// Of a rule or of a destination.
fn header_operations(headers: &Value) -> Value {
    let mut made = json!({});
    for side in ["request", "response"] {
        let operations = &headers[side];
        let added = |operation: &str, action: &str| -> Vec<Value> {
            let header = |(name, value): (&String, &Value)| json!({ "header": { "key": name, "value": value }, "append_action": action });
            fields(&operations[operation]).map(header).collect()
        };
        let all = [added("set", "OVERWRITE_IF_EXISTS_OR_ADD"), added("add", "APPEND_IF_EXISTS_OR_ADD")].concat();
        made[format!("{side}_headers_to_add")] = all.into();
        made[format!("{side}_headers_to_remove")] = list(&operations["remove"]).into();
    }
    made
}

fn cors_policy(policy: &Value) -> Value {
    let joined = |field: &str| list(&policy[field]).iter().map(text).collect::<Vec<_>>().join(",");
    let mut origins: Vec<Value> = list(&policy["allowOrigins"]).iter().filter_map(string_match).collect();
    origins.extend(list(&policy["allowOrigin"]).iter().map(|origin| json!({ "exact": origin })));
    let mut made = json!({
        "allow_origin_string_match": origins,
        "allow_methods": joined("allowMethods"),
        "allow_headers": joined("allowHeaders"),
        "expose_headers": joined("exposeHeaders"),
        "forward_not_matching_preflights": policy["unmatchedPreflights"] != "IGNORE",
        "filter_enabled": { "default_value": { "numerator": 100, "denominator": "HUNDRED" } },
    });
    if let Some(credentials) = policy.get("allowCredentials") {
        made["allow_credentials"] = credentials.clone();
    }
    if let Some(age) = policy.get("maxAge") {
        made["max_age"] = whole_seconds(text(age)).to_string().into();
    }
    typed("extensions.filters.http.cors.v3.CorsPolicy", made)
}

/// Of the durations that cases have here: one number, of hours or seconds.
fn whole_seconds(duration: &str) -> u64 {
    let (number, unit) = duration.split_at(duration.len() - 1);
    number.parse::<u64>().expect("a number") * if unit == "h" { 3_600 } else { 1 }
}

fn http_fault(fault: &Value) -> Value {
    let share = |percent: f64| json!({ "numerator": (percent * 10_000.0) as u32, "denominator": "MILLION" });
    let percentage = |of: &Value| of["percentage"]["value"].as_f64();
    let mut made = json!({});
    if let Some(delay) = fault.get("delay") {
        let percent = percentage(delay).or(delay["percent"].as_f64()).unwrap_or(0.0);
        made["delay"] = json!({ "fixed_delay": delay["fixedDelay"], "percentage": share(percent) });
    }
    if let Some(abort) = fault.get("abort") {
        made["abort"] = match abort.get("httpStatus") {
            Some(status) => json!({ "http_status": status }),
            None => json!({ "grpc_status": GRPC_UNAVAILABLE }),
        };
        if let Some(percent) = percentage(abort) {
            made["abort"]["percentage"] = share(percent);
        }
    }
    typed("extensions.filters.http.fault.v3.HTTPFault", made)
}

fn cluster_of(destination: &Value) -> String {
    let port = destination["port"]["number"].as_u64().unwrap_or(PORT.into());
    cluster_name(text(&destination["host"]), destination["subset"].as_str().unwrap_or_default(), port)
}

/// Istio's form. A name without a dot is a service of the document's namespace.
fn cluster_name(host: &str, subset: &str, port: u64) -> String {
    let host = if host.contains('.') { host.to_owned() } else { fqdn(host) };
    format!("outbound|{port}|{subset}|{host}")
}

fn subsets(destination_rule: &Value) -> Vec<Value> {
    let service = text(&destination_rule["spec"]["host"]);
    let subset = |subset: &Value| {
        let has_labels = |backend: &Backend| {
            fields(&subset["labels"]).all(|(label, value)| match label.as_str() {
                "app" => value == backend.service,
                "version" => value == backend.version,
                _ => false,
            })
        };
        cluster(service, text(&subset["name"]), has_labels)
    };
    list(&destination_rule["spec"]["subsets"]).iter().map(subset).collect()
}

fn cluster(service: &str, subset: &str, chosen: impl Fn(&Backend) -> bool) -> Value {
    let endpoints = BACKENDS.iter().filter(|backend| backend.service == service && chosen(backend));
    cluster_of_ports(&cluster_name(service, subset, PORT.into()), endpoints.map(|backend| backend.listens))
}

/// A cluster of one endpoint, on a port of the loopback.
pub(crate) fn cluster_at(name: &str, port: u16) -> Value {
    cluster_of_ports(name, [port])
}

fn cluster_of_ports(name: &str, ports: impl IntoIterator<Item = u16>) -> Value {
    cluster_of_addresses(name, ports.into_iter().map(|port| (LOOPBACK, port)))
}

pub(crate) fn cluster_of_addresses(name: &str, addresses: impl IntoIterator<Item = (IpAddr, u16)>) -> Value {
    let endpoint = |(ip, port)| json!({ "endpoint": { "address": address(ip, port) } });
    let endpoints: Vec<Value> = addresses.into_iter().map(endpoint).collect();
    json!({
        "name": name,
        "connect_timeout": "10s",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
    })
}

fn services() -> Vec<&'static str> {
    let mut services: Vec<&str> = BACKENDS.iter().map(|backend| backend.service).collect();
    services.dedup();
    services
}

fn fqdn(service: &str) -> String {
    format!("{service}.{DOMAIN}")
}

pub(crate) fn address(ip: IpAddr, port: u16) -> Value {
    json!({ "socket_address": { "address": ip, "port_value": port } })
}

fn filter(name: &str, kind: &str) -> Value {
    json!({ "name": name, "typed_config": typed(kind, json!({})) })
}

pub(crate) fn typed(kind: &str, mut message: Value) -> Value {
    message["@type"] = format!("type.googleapis.com/envoy.{kind}").into();
    message
}

/// Adds the fields of an object, and the items of its lists to those that there are.
fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else { return };
    for (field, value) in from {
        match (&mut into[&field], value) {
            (Value::Array(items), Value::Array(mut more)) => items.append(&mut more),
            (place, value) => *place = value,
        }
    }
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("the generator writes text here")
}

/// Absent is empty.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Absent is empty.
fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}
