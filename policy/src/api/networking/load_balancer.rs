//! How a DestinationRule spreads requests over endpoints. Rules: Istio's `pkg/config/validation`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    api::values::{Count, Int, Share, Span, Timeout},
    document::Checker,
};

/// Maglev's tables must be smaller, as in Envoy.
const MAGLEV_TABLE_END: i64 = 5_000_011;

/// Most localities of one list: each is compared with those before it.
const MAX_LOCALITIES: usize = 256;

/// Which endpoint a request goes to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoadBalancerSettings {
    pub simple: Option<SimpleLb>,
    pub consistent_hash: Option<ConsistentHashLb>,
    pub backend_utilization: Option<BackendUtilizationLb>,
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
    /// Old form of `warmup`.
    pub warmup_duration_secs: Option<Timeout>,
    pub warmup: Option<WarmupConfiguration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    /// Leaves it to weft: as `LEAST_REQUEST`.
    Unspecified,
    /// Old name of `LEAST_REQUEST`.
    LeastConn,
    Random,
    /// To the address that the client dialled.
    Passthrough,
    RoundRobin,
    LeastRequest,
}

/// Requests with the same key go to the same endpoint as long as it is there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConsistentHashLb {
    pub http_header_name: Option<String>,
    pub http_cookie: Option<HttpCookie>,
    pub use_source_ip: Option<bool>,
    pub http_query_parameter_name: Option<String>,
    pub ring_hash: Option<RingHash>,
    pub maglev: Option<MagLev>,
    /// Old form of `ringHash.minimumRingSize`.
    pub minimum_ring_size: Option<Int<0, { i64::MAX }>>,
}

/// A cookie that is the key. One that a client does not send is made if there is a `ttl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCookie {
    pub name: String,
    #[serde(default)]
    pub path: String,
    /// Zero makes a session cookie.
    #[serde(default)]
    pub ttl: Option<Span<0>>,
    #[serde(default)]
    pub attributes: Vec<CookieAttribute>,
}

/// An attribute of a cookie that is made, such as `SameSite`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieAttribute {
    pub name: String,
    #[serde(default)]
    pub value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RingHash {
    /// 1,024 if absent.
    pub minimum_ring_size: Option<Int<0, { i64::MAX }>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MagLev {
    /// A prime below 5,000,011.
    pub table_size: Option<Int<0, { i64::MAX }>>,
}

/// Weighs endpoints by the load that they report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BackendUtilizationLb {
    pub weight_stabilization_period: Option<Span<0>>,
    pub weight_expiration_period: Option<Span<0>>,
    pub weight_update_period: Option<Span<0>>,
    pub error_utilization_penalty_percent: Option<Count>,
    pub metric_names_for_computing_utilization: Vec<String>,
}

/// Which localities requests go to: one of `distribute`, `failover` and `failoverPriority`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LocalityLoadBalancerSetting {
    pub distribute: Vec<Distribute>,
    pub failover: Vec<Failover>,
    /// Labels, most important first: endpoints that have them as the client does, or with the given values, come first.
    pub failover_priority: Vec<String>,
    pub enabled: Option<bool>,
}

/// Where the requests of one locality go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Distribute {
    /// `REGION/ZONE/SUBZONE`, or its start; `*` may end it.
    pub from: String,
    /// Shares in percent, by locality. They sum up to 100.
    pub to: BTreeMap<String, Int<1, 100>>,
}

/// Which region takes over for another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Failover {
    pub from: String,
    pub to: String,
}

/// Prefers the client's zone as far as its endpoints suffice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ZoneAwareLoadBalancerSetting {
    pub enabled: Option<bool>,
    pub failover: Vec<Failover>,
    pub failover_priority: Vec<String>,
    /// Below this number of endpoints in the region zones are not looked at; 6 if absent.
    pub min_cluster_size: Option<Int<1, { u32::MAX as i64 }>>,
}

/// New endpoints get their full share only after a while.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WarmupConfiguration {
    pub duration: Timeout,
    /// The share that a new endpoint starts with, in percent; 10 if absent.
    #[serde(default)]
    pub minimum_percent: Option<Share>,
    /// 1, which is linear, or more.
    #[serde(default)]
    pub aggression: Option<f64>,
}

impl LoadBalancerSettings {
    /// `zoneAwareLbSetting`, unless it is switched off.
    pub(crate) fn zone_awareness(&self) -> Option<&ZoneAwareLoadBalancerSetting> {
        self.zone_aware_lb_setting.as_ref().filter(|setting| setting.enabled != Some(false))
    }

    pub(super) fn check(&self, detects_outliers: bool, checker: &mut Checker<'_>) {
        checker.at_most_one(&[
            ("simple", self.simple.is_some()),
            ("consistentHash", self.consistent_hash.is_some()),
            ("backendUtilization", self.backend_utilization.is_some()),
        ]);
        checker.at_most_one(&[
            ("localityLbSetting", self.locality_lb_setting.is_some()),
            ("zoneAwareLbSetting", self.zone_aware_lb_setting.is_some()),
        ]);
        checker.at_most_one(&[
            ("warmupDurationSecs", self.warmup_duration_secs.is_some()),
            ("warmup", self.warmup.is_some()),
        ]);
        checker.given("consistentHash", &self.consistent_hash, |checker, hash| hash.check(checker));
        checker.given("localityLbSetting", &self.locality_lb_setting, |checker, setting| {
            setting.check(detects_outliers, checker);
        });
        checker.given("zoneAwareLbSetting", &self.zone_aware_lb_setting, |checker, setting| {
            check_failover(&setting.failover, checker);
            checker.each("failoverPriority", &setting.failover_priority, |checker, label| {
                if TOPOLOGY_LABELS.contains(&label.as_str()) {
                    checker.error(format!("{label} is looked at by itself: leave it out"));
                }
            });
        });
        checker.given("warmup", &self.warmup, |checker, warmup| {
            if warmup.aggression.is_some_and(|aggression| aggression.is_nan() || aggression < 1.0) {
                checker.error_in("aggression", "must be 1 or more");
            }
        });
        for (key, given) in [
            ("simple", self.simple == Some(SimpleLb::Passthrough)),
            ("backendUtilization", self.backend_utilization.is_some()),
        ] {
            checker.pending(key, given);
        }
    }
}

impl ConsistentHashLb {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.at_most_one(&[
            ("httpHeaderName", self.http_header_name.is_some()),
            ("httpCookie", self.http_cookie.is_some()),
            ("useSourceIp", self.use_source_ip.is_some()),
            ("httpQueryParameterName", self.http_query_parameter_name.is_some()),
        ]);
        let old_size = self.minimum_ring_size.is_some_and(|size| size.get() != 0);
        checker.at_most_one(&[
            ("minimumRingSize", old_size),
            ("ringHash", self.ring_hash.is_some()),
            ("maglev", self.maglev.is_some()),
        ]);
        if old_size {
            checker.warn_in("minimumRingSize", "is deprecated: use ringHash.minimumRingSize");
        }
        checker.given("httpCookie", &self.http_cookie, |checker, cookie| {
            checker.require("name", !cookie.name.is_empty());
            checker.each("attributes", &cookie.attributes, |checker, attribute| {
                checker.require("name", !attribute.name.is_empty());
            });
        });
        checker.given("maglev", &self.maglev, |checker, maglev| match maglev.table_size.map(Int::get) {
            None | Some(0) => checker.require("tableSize", false),
            Some(size) if size >= MAGLEV_TABLE_END || !is_prime(size) => {
                checker.error_in("tableSize", format!("is {size}; it must be a prime below {MAGLEV_TABLE_END}"));
            }
            Some(_) => {}
        });
    }
}

/// For numbers below [`MAGLEV_TABLE_END`], so some thousand divisions at most.
fn is_prime(number: i64) -> bool {
    number > 1 && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| number % divisor != 0)
}

/// Labels that are levels of a locality.
const TOPOLOGY_LABELS: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

impl LocalityLoadBalancerSetting {
    fn check(&self, detects_outliers: bool, checker: &mut Checker<'_>) {
        checker.at_most_one(&[("distribute", !self.distribute.is_empty()), ("failover", !self.failover.is_empty())]);
        if !self.failover.is_empty() {
            checker.each("failoverPriority", &self.failover_priority, |checker, label| {
                if TOPOLOGY_LABELS.contains(&label.as_str()) {
                    checker.error(format!("{label} must not be given beside failover"));
                }
            });
        }
        checker.limit("distribute", self.distribute.len(), MAX_LOCALITIES);
        let mut origins = Vec::new();
        checker.each("distribute", &self.distribute, |checker, distribute| {
            checker.field("from", |checker| check_locality(&distribute.from, &mut origins, checker));
            checker.limit("to", distribute.to.len(), MAX_LOCALITIES);
            let sum: i64 = distribute.to.values().map(|weight| weight.get()).sum();
            if sum != 100 {
                checker.error_in("to", format!("has weights that sum up to {sum}; they must sum up to 100"));
            }
            let mut targets = Vec::new();
            checker.field("to", |checker| {
                for locality in distribute.to.keys() {
                    check_locality(locality, &mut targets, checker);
                }
            });
        });
        check_failover(&self.failover, checker);
        if (!self.failover.is_empty() || !self.failover_priority.is_empty()) && !detects_outliers {
            checker.warn("has no effect without outlierDetection, which tells when to fail over");
        }
    }
}

fn check_failover(failover: &[Failover], checker: &mut Checker<'_>) {
    checker.each("failover", failover, |checker, failover| {
        if failover.from == failover.to {
            checker.error("from and to must be different regions");
        }
        for (key, region) in [("from", &failover.from), ("to", &failover.to)] {
            if region.contains(['/', '*']) {
                checker.error_in(key, format!("{region:?} must be a region alone, without zone or *"));
            }
        }
    });
}

/// Checks a locality against those before it: each endpoint belongs to the first that covers it.
fn check_locality(text: &str, before: &mut Vec<(Vec<String>, String)>, checker: &mut Checker<'_>) {
    if before.len() >= MAX_LOCALITIES {
        return;
    }
    let (name, is_open) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
    let name = if is_open { name.strip_suffix('/').unwrap_or(name) } else { name };
    let parts: Vec<String> = match name {
        "" => Vec::new(),
        name => name.splitn(3, '/').map(str::to_owned).collect(),
    };
    if name.contains('*') {
        return checker.error(format!("{text:?} may have only one *, at its end"));
    }
    if parts.iter().any(String::is_empty) || (parts.is_empty() && !is_open) {
        return checker.error(format!("{text:?} must be REGION/ZONE/SUBZONE, or its start, without empty parts"));
    }
    let overlapping =
        before.iter().find(|(other, _)| parts.starts_with(other) || (!is_open && other.starts_with(&parts)));
    if let Some((_, other)) = overlapping {
        return checker.error(format!("{text} overlaps with {other}, which comes before it"));
    }
    before.push((parts, text.to_owned()));
}
