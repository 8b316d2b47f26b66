//! Rate limits: who has had how many requests.
//!
//! A bucket is one number, the time at which it will be full again (the generic cell rate algorithm): a request moves
//! it on by the time in which one token comes, and is limited if that goes beyond the burst. So counting is one atomic
//! exchange, and a bucket that has rested is as good as none.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::HeaderName;
use weft_wire::document::DocumentKey;

use crate::{
    api::mesh::{self, CallerKey, LimitKey, OnPartition, RateLimitScope},
    authenticate::Claims,
    condition::{Conditions, Request},
};

/// Buckets of a limit with keys. Where more are in use, some share one.
const KEYED_BUCKETS: usize = 4096;
/// Places where a key's bucket may stand.
const WAYS: usize = 8;
/// The whole of a limit.
const MILLION: u32 = 1_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How much of a limit this node may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// So many millionths.
    Millionths(u32),
    /// None: refuse what the limit counts.
    Nothing,
    /// It does not count.
    Unlimited,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self::Millionths(MILLION);
}

/// What this node knows of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshShare {
    /// This node's part of the mesh's traffic as last agreed, in millionths.
    pub own_millionths: u32,
    /// Nodes of the mesh, those out of reach too.
    pub nodes: u32,
    /// Whether some of them are out of reach.
    pub is_partitioned: bool,
}

/// What becomes of a request, by the limit that has the least left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'l> {
    pub is_limited: bool,
    /// The limit's name; may be empty.
    pub name: &'l str,
    /// For `x-ratelimit-limit`.
    pub limit: u64,
    /// For `x-ratelimit-remaining`.
    pub remaining: u64,
    /// For `x-ratelimit-reset`: seconds until the whole burst is there again.
    pub reset_s: u64,
    /// For `retry-after`: seconds until a request passes; 0 if this one does.
    pub retry_after_s: u64,
}

/// All limits that are about some requests.
#[derive(Debug, Default)]
pub struct Limits(Vec<Arc<RateLimiter>>);

impl Limits {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The documents, the oldest first.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &DocumentKey> {
        self.0.iter().map(|limiter| &limiter.key)
    }

    /// A policy that attaches in two ways counts once.
    pub(crate) fn add(&mut self, limiter: &Arc<RateLimiter>) {
        if !self.0.iter().any(|known| Arc::ptr_eq(known, limiter)) {
            self.0.push(limiter.clone());
        }
    }

    /// Counts a request, each node for itself. `None`: no limit is about it. `now_ns` is the caller's monotonic clock
    /// in nanoseconds.
    pub fn check(&self, request: &Request<'_>, claims: Option<&Claims>, now_ns: u64) -> Option<Verdict<'_>> {
        let mut tightest: Option<Verdict<'_>> = None;
        for limiter in &self.0 {
            let Some(verdict) = limiter.check(request, claims, Part::WHOLE, now_ns) else { continue };
            if verdict.is_limited {
                return Some(verdict);
            }
            tightest = tightest.filter(|other| other.remaining <= verdict.remaining).or(Some(verdict));
        }
        tightest
    }
}

/// The limits of a RateLimit.
#[derive(Debug)]
pub struct RateLimiter {
    /// Its document.
    pub key: DocumentKey,
    scope: RateLimitScope,
    on_partition: OnPartition,
    limits: Vec<Limit>,
}

#[derive(Debug)]
struct Limit {
    /// What it was made from.
    source: mesh::Limit,
    conditions: Conditions,
    keys: Vec<Key>,
    rate: Rate,
    counts: Arc<Counts>,
}

/// What a limit has counted. It outlasts the view, and the document's other changes.
#[derive(Debug)]
struct Counts {
    buckets: Buckets,
    /// Keeps those who choose their own keys from choosing whose bucket they take.
    hashes: RandomState,
    passed: AtomicU64,
    limited: AtomicU64,
}

/// How many requests a limit has counted since it came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted<'l> {
    /// The limit's name; may be empty.
    pub limit: &'l str,
    pub passed: u64,
    pub limited: u64,
}

/// So many tokens per period; at most `burst` lie in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    requests: u64,
    period_ns: u64,
    burst: u64,
}

#[derive(Debug)]
enum Key {
    CallerIdentity,
    CallerNamespace,
    Header(HeaderName),
    Claim(String),
    PathSegments(usize),
}

impl RateLimiter {
    /// Makes it ready to count. What `before` counted goes on for the limits that did not change.
    pub fn new(key: DocumentKey, policy: &mesh::RateLimit, before: Option<&RateLimiter>) -> Self {
        let limit_of = |source: &mesh::Limit| {
            let same = before.and_then(|before| before.limits.iter().find(|limit| limit.source == *source));
            Limit::new(source, same.map(|limit| limit.counts.clone()))
        };
        Self {
            key,
            scope: policy.scope,
            on_partition: policy.on_partition.unwrap_or_default(),
            limits: policy.limits.iter().map(limit_of).collect(),
        }
    }

    /// How much of the limits this node may use.
    pub fn part(&self, mesh: MeshShare) -> Part {
        match (self.scope, mesh.is_partitioned, self.on_partition) {
            (RateLimitScope::Local, ..) => Part::WHOLE,
            (RateLimitScope::Mesh, false, _) => Part::Millionths(mesh.own_millionths.min(MILLION)),
            (RateLimitScope::Mesh, true, OnPartition::Share) => Part::Millionths(MILLION / mesh.nodes.max(1)),
            (RateLimitScope::Mesh, true, OnPartition::Deny) => Part::Nothing,
            (RateLimitScope::Mesh, true, OnPartition::Allow) => Part::Unlimited,
        }
    }

    /// What its limits have counted, in their order.
    pub fn counted(&self) -> impl Iterator<Item = Counted<'_>> {
        self.limits.iter().map(|limit| Counted {
            limit: limit.name(),
            passed: limit.counts.passed.load(Ordering::Relaxed),
            limited: limit.counts.limited.load(Ordering::Relaxed),
        })
    }

    /// Counts a request. `None`: no limit is about it. `now_ns` is the caller's monotonic clock in nanoseconds.
    pub fn check(
        &self,
        request: &Request<'_>,
        claims: Option<&Claims>,
        part: Part,
        now_ns: u64,
    ) -> Option<Verdict<'_>> {
        if part == Part::Unlimited {
            return None;
        }
        let mut tightest: Option<Verdict<'_>> = None;
        for limit in self.limits.iter().filter(|limit| limit.conditions.hold(request)) {
            let verdict = limit.count(request, claims, part, now_ns);
            if verdict.is_limited {
                return Some(verdict);
            }
            if tightest.is_none_or(|other| verdict.remaining < other.remaining) {
                tightest = Some(verdict);
            }
        }
        tightest
    }
}

impl Limit {
    fn new(source: &mesh::Limit, counts: Option<Arc<Counts>>) -> Self {
        let requests = source.requests.get().unsigned_abs();
        let keys: Vec<Key> = source.keys.iter().filter_map(Key::new).collect();
        let count = if keys.is_empty() { 1 } else { KEYED_BUCKETS };
        Self {
            conditions: Conditions::new(&source.matches),
            rate: Rate {
                requests,
                period_ns: source.unit.seconds() * NANOS_PER_SECOND,
                burst: source.burst.map_or(requests, |burst| burst.get().unsigned_abs()),
            },
            counts: counts.unwrap_or_else(|| {
                Arc::new(Counts {
                    buckets: Buckets::new(count),
                    hashes: RandomState::new(),
                    passed: AtomicU64::default(),
                    limited: AtomicU64::default(),
                })
            }),
            source: source.clone(),
            keys,
        }
    }

    fn name(&self) -> &str {
        self.source.name.as_deref().unwrap_or_default()
    }

    fn count(&self, request: &Request<'_>, claims: Option<&Claims>, part: Part, now_ns: u64) -> Verdict<'_> {
        let verdict = self.take(request, claims, part, now_ns);
        let counter = if verdict.is_limited { &self.counts.limited } else { &self.counts.passed };
        counter.fetch_add(1, Ordering::Relaxed);
        verdict
    }

    fn take(&self, request: &Request<'_>, claims: Option<&Claims>, part: Part, now_ns: u64) -> Verdict<'_> {
        let name = self.name();
        let rate = match part {
            Part::Millionths(millionths) if millionths > 0 => self.rate.part(millionths),
            Part::Unlimited => self.rate,
            Part::Millionths(_) | Part::Nothing => {
                return Verdict { is_limited: true, name, limit: 0, remaining: 0, reset_s: 1, retry_after_s: 1 };
            }
        };
        let bucket = self.counts.buckets.bucket(self.key_of(request, claims), now_ns);
        let (is_limited, full_at_ns) = rate.take(bucket, now_ns);
        let rest_ns = full_at_ns.saturating_sub(now_ns);
        let wait_ns =
            if is_limited { rest_ns.saturating_add(rate.interval_ns()).saturating_sub(rate.capacity_ns()) } else { 0 };
        Verdict {
            is_limited,
            name,
            limit: rate.burst,
            remaining: rate.capacity_ns().saturating_sub(rest_ns) / rate.interval_ns(),
            reset_s: rest_ns.div_ceil(NANOS_PER_SECOND),
            retry_after_s: wait_ns.div_ceil(NANOS_PER_SECOND),
        }
    }

    /// A number for the values of the keys.
    fn key_of(&self, request: &Request<'_>, claims: Option<&Claims>) -> u64 {
        if self.keys.is_empty() {
            return 0;
        }
        let mut hasher = self.counts.hashes.build_hasher();
        let mut add = |value: Option<&[u8]>| {
            // With its length, so that `ab`, `c` and `a`, `bc` differ; an absent value differs from an empty one.
            hasher.write_usize(value.map_or(0, |value| value.len() + 1));
            hasher.write(value.unwrap_or_default());
        };
        for key in &self.keys {
            match key {
                Key::CallerIdentity => add(request.principal.map(str::as_bytes)),
                Key::CallerNamespace => add(request.principal.and_then(namespace_of).map(str::as_bytes)),
                Key::Header(name) => add(request.head.headers.get(name).map(|value| value.as_bytes())),
                Key::Claim(name) => {
                    let value = claims.and_then(|claims| claims.scalar(name));
                    add(value.as_deref().map(str::as_bytes));
                }
                Key::PathSegments(count) => add(Some(first_segments(request.head.path(), *count).as_bytes())),
            }
        }
        hasher.finish()
    }
}

impl Key {
    fn new(key: &LimitKey) -> Option<Self> {
        match key.caller {
            Some(CallerKey::Identity) => return Some(Self::CallerIdentity),
            Some(CallerKey::Namespace) => return Some(Self::CallerNamespace),
            None => {}
        }
        let header =
            key.header.as_ref().and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok()).map(Self::Header);
        let claim = key.claim.as_ref().map(|name| Self::Claim(name.to_string()));
        let segments = key.path_segments.map(|count| Self::PathSegments(usize::try_from(count.get()).unwrap_or(1)));
        header.or(claim).or(segments)
    }
}

/// Of `cluster.local/ns/default/sa/web`: `default`.
fn namespace_of(principal: &str) -> Option<&str> {
    principal.split_once("/ns/")?.1.split('/').next()
}

/// Of `/a/b/c` the first two segments are `/a/b`.
fn first_segments(path: &str, count: usize) -> &str {
    let end = path.match_indices('/').nth(count).map_or(path.len(), |(at, _)| at);
    &path[..end]
}

impl Rate {
    /// A part of it; at least one request at a time passes.
    fn part(self, millionths: u32) -> Self {
        if millionths >= MILLION {
            return self;
        }
        let of = |whole: u64| u128::from(whole) * u128::from(millionths) / u128::from(MILLION);
        let period_ns = u128::from(self.period_ns) * u128::from(MILLION) / u128::from(millionths.max(1));
        Self {
            requests: self.requests,
            period_ns: u64::try_from(period_ns).unwrap_or(u64::MAX),
            burst: u64::try_from(of(self.burst)).unwrap_or(u64::MAX).max(1),
        }
    }

    /// The time in which one token comes.
    fn interval_ns(self) -> u64 {
        (self.period_ns / self.requests.max(1)).max(1)
    }

    /// The time in which an empty bucket becomes full.
    fn capacity_ns(self) -> u64 {
        self.interval_ns().saturating_mul(self.burst)
    }

    /// Takes a token if there is one. Returns whether there was none, and when the bucket will be full.
    fn take(self, full_at_ns: &AtomicU64, now_ns: u64) -> (bool, u64) {
        let taken = full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now_ns).saturating_add(self.interval_ns());
            (next - now_ns <= self.capacity_ns()).then_some(next)
        });
        match taken {
            Ok(before) => (false, before.max(now_ns).saturating_add(self.interval_ns())),
            Err(full_at) => (true, full_at),
        }
    }
}

/// A fixed number of buckets: what strangers send makes no more of them.
#[derive(Debug)]
struct Buckets(Box<[Bucket]>);

#[derive(Debug, Default)]
struct Bucket {
    /// Of whom it is.
    key: AtomicU64,
    full_at_ns: AtomicU64,
}

impl Buckets {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| Bucket::default()).collect())
    }

    /// The bucket of a key. A new key gets one that is full, or else the one that is full soonest, as it is: a flood of
    /// keys then finds used buckets, and takes nobody's count away for long.
    fn bucket(&self, key: u64, now_ns: u64) -> &AtomicU64 {
        let [only] = &*self.0 else { return self.keyed_bucket(key, now_ns) };
        &only.full_at_ns
    }

    fn keyed_bucket(&self, key: u64, now_ns: u64) -> &AtomicU64 {
        let start = (key % self.0.len() as u64) as usize;
        let places = || (0..WAYS).map(|step| &self.0[(start + step) % self.0.len()]);
        if let Some(own) = places().find(|bucket| bucket.key.load(Ordering::Relaxed) == key) {
            return &own.full_at_ns;
        }
        // Full buckets are alike: the first of them, so that two threads with one key choose one bucket.
        let full_at = |bucket: &&Bucket| bucket.full_at_ns.load(Ordering::Relaxed).max(now_ns);
        let chosen = places().min_by_key(full_at).unwrap_or(&self.0[start]);
        chosen.key.store(key, Ordering::Relaxed);
        &chosen.full_at_ns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use serde_json::json;

    use super::*;
    use crate::condition::tests::with_request;

    const SECOND: u64 = NANOS_PER_SECOND;
    const WHOLE: Part = Part::WHOLE;

    fn key() -> DocumentKey {
        DocumentKey {
            group: "weft.mesh".into(),
            kind: "RateLimit".into(),
            namespace: Some(weft_wire::id::Namespace::default_namespace()),
            name: "a".into(),
        }
    }

    fn policy(limits: &str) -> mesh::RateLimit {
        let text = format!(r#"{{"targetRefs": [{{"group": "", "kind": "Service", "name": "a"}}], {limits}}}"#);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn limiter(limits: &str) -> RateLimiter {
        RateLimiter::new(key(), &policy(&format!(r#""limits": [{limits}]"#)), None)
    }

    fn ask(
        limiter: &RateLimiter,
        path: &str,
        user: Option<&str>,
        principal: Option<&str>,
        now_ns: u64,
    ) -> Option<bool> {
        with_request(path, user, principal, |request| {
            limiter.check(request, None, WHOLE, now_ns).map(|verdict| verdict.is_limited)
        })
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limiter = limiter(r#"{"requests": 10, "unit": "Second", "burst": 3}"#);
        let limited = |now| ask(&limiter, "/", None, None, now).unwrap();
        assert_eq!([limited(0), limited(0), limited(0), limited(0)], [false, false, false, true]);
        assert!(limited(SECOND / 10 - 1), "the next token comes after a tenth of a second");
        assert!(!limited(SECOND / 10) && limited(SECOND / 10));
        assert_eq!(
            [0; 4].map(|_| limited(10 * SECOND)),
            [false, false, false, true],
            "a rest fills the bucket, no more"
        );
    }

    #[test]
    fn the_headers_tell_limit_rest_and_waits() {
        let limiter = limiter(r#"{"name": "slow", "requests": 2, "unit": "Minute"}"#);
        let verdict = |now| with_request("/", None, None, |request| limiter.check(request, None, WHOLE, now).unwrap());
        let expected =
            Verdict { is_limited: false, name: "slow", limit: 2, remaining: 1, reset_s: 30, retry_after_s: 0 };
        assert_eq!(verdict(0), expected);
        assert_eq!(verdict(0), Verdict { remaining: 0, reset_s: 60, ..expected });
        let limited = Verdict { is_limited: true, remaining: 0, reset_s: 60, retry_after_s: 30, ..expected };
        assert_eq!(verdict(0), limited);
        assert_eq!(verdict(29 * SECOND), Verdict { reset_s: 31, retry_after_s: 1, ..limited });
    }

    #[test]
    fn each_value_of_the_keys_has_its_own_count() {
        let one = |keys: &str| limiter(&format!(r#"{{"requests": 1, "unit": "Hour", "keys": [{keys}]}}"#));
        let by_user = one(r#"{"header": "x-user"}"#);
        for (user, limited) in [(Some("a"), false), (Some("b"), false), (Some("a"), true), (None, false), (None, true)]
        {
            assert_eq!(ask(&by_user, "/", user, None, 0), Some(limited), "{user:?}");
        }
        let by_caller = one(r#"{"caller": "Identity"}"#);
        let by_namespace = one(r#"{"caller": "Namespace"}"#);
        for (caller, own, shared) in
            [("td/ns/x/sa/a", false, false), ("td/ns/x/sa/b", false, true), ("td/ns/y/sa/b", false, false)]
        {
            assert_eq!(ask(&by_caller, "/", None, Some(caller), 0), Some(own), "{caller}");
            assert_eq!(ask(&by_namespace, "/", None, Some(caller), 0), Some(shared), "{caller}");
        }
        let by_path = one(r#"{"pathSegments": 1}"#);
        for (path, limited) in [("/a", false), ("/a/b?c=/d", true), ("/ab", false), ("/", false), ("/?a", true)] {
            assert_eq!(ask(&by_path, path, None, None, 0), Some(limited), "{path}");
        }
    }

    #[test]
    fn claims_tell_requests_apart() {
        let limiter = limiter(r#"{"requests": 1, "unit": "Hour", "keys": [{"claim": "sub"}, {"claim": "org.id"}]}"#);
        let limited = |claims: serde_json::Value| {
            let claims = claims.as_object().cloned().map(Claims::assumed);
            with_request("/", None, None, |request| {
                limiter.check(request, claims.as_ref(), WHOLE, 0).unwrap().is_limited
            })
        };
        for (claims, expected) in [
            (json!({"sub": "a"}), false),
            (json!({"sub": "b"}), false),
            (json!({"sub": "a"}), true),
            (json!({"sub": "a", "org": {"id": 7}}), false),
            (json!({"sub": "a", "org": {"id": 8}}), false),
            (json!({"sub": "a", "org": {"id": 7}}), true),
            // All without a token, or without the claim, are counted together.
            (json!(null), false),
            (json!({"aud": "x"}), true),
        ] {
            assert_eq!(limited(claims.clone()), expected, "{claims}");
        }
    }

    #[test]
    fn a_request_passes_all_limits_that_are_about_it_or_none() {
        let limiter = limiter(
            r#"{"name": "all", "requests": 3, "unit": "Hour"},
               {"name": "a", "requests": 1, "unit": "Hour", "match": [{"path": {"prefix": "/a"}}]}"#,
        );
        assert_eq!(ask(&limiter, "/a", None, None, 0), Some(false));
        assert_eq!(ask(&limiter, "/a", None, None, 0), Some(true), "the second limit is spent");
        assert_eq!(ask(&limiter, "/b", None, None, 0), Some(false));
        assert_eq!(ask(&limiter, "/b", None, None, 0), Some(true), "the first limit is spent");
    }

    #[test]
    fn a_request_that_no_limit_is_about_is_not_counted() {
        let limiter = limiter(r#"{"requests": 1, "unit": "Hour", "match": [{"path": {"exact": "/a"}}]}"#);
        assert_eq!(ask(&limiter, "/b", None, None, 0), None);
    }

    #[test]
    fn the_part_of_a_node_is_what_the_scope_and_a_partition_say() {
        let limits = r#""limits": [{"requests": 100, "unit": "Second"}]"#;
        let part = |fields: &str, is_partitioned| {
            let limiter = RateLimiter::new(key(), &policy(&format!("{fields}{limits}")), None);
            limiter.part(MeshShare { own_millionths: 300_000, nodes: 4, is_partitioned })
        };
        let mesh = r#""scope": "Mesh", "#;
        assert_eq!(part("", true), WHOLE);
        assert_eq!(part(mesh, false), Part::Millionths(300_000));
        assert_eq!(part(mesh, true), Part::Millionths(250_000));
        assert_eq!(part(&format!(r#"{mesh}"onPartition": "Deny", "#), true), Part::Nothing);
        assert_eq!(part(&format!(r#"{mesh}"onPartition": "Allow", "#), true), Part::Unlimited);
        assert_eq!(part(&format!(r#"{mesh}"onPartition": "Deny", "#), false), Part::Millionths(300_000));
    }

    #[test]
    fn a_part_of_a_limit_counts_as_much_less() {
        let limiter = limiter(r#"{"requests": 100, "unit": "Second"}"#);
        let passed = |part, now| {
            let pass = |request: &Request<'_>| {
                limiter.check(request, None, part, now).is_none_or(|verdict| !verdict.is_limited)
            };
            (0..200).filter(|_| with_request("/", None, None, pass)).count()
        };
        assert_eq!(passed(Part::Millionths(250_000), 0), 25);
        assert_eq!(passed(Part::Nothing, 100 * SECOND), 0);
        assert_eq!(passed(Part::Millionths(0), 100 * SECOND), 0);
        assert_eq!(passed(Part::Unlimited, 100 * SECOND), 200);
        assert_eq!(passed(Part::Millionths(1), 100_000_000 * SECOND), 1, "never less than one at a time");
    }

    #[test]
    fn counts_go_on_when_the_policy_is_read_again_and_end_when_the_limit_changes() {
        let spent = r#""limits": [{"requests": 1, "unit": "Hour"}]"#;
        let first = RateLimiter::new(key(), &policy(spent), None);
        assert_eq!(ask(&first, "/", None, None, 0), Some(false));
        let again = RateLimiter::new(key(), &policy(&format!(r#"{spent}, "scope": "Mesh""#)), Some(&first));
        assert_eq!(ask(&again, "/", None, None, 0), Some(true));
        let counted = again.counted().next().map(|counted| (counted.passed, counted.limited));
        assert_eq!(counted, Some((1, 1)), "and so does what is told of them");
        let changed = RateLimiter::new(key(), &policy(&spent.replace("Hour", "Day")), Some(&again));
        assert_eq!(ask(&changed, "/", None, None, 0), Some(false));
    }

    #[test]
    fn a_flood_of_keys_frees_nobody_for_long() {
        let limiter = limiter(r#"{"requests": 1, "unit": "Hour", "keys": [{"header": "x-user"}]}"#);
        let passed = (0..10 * KEYED_BUCKETS)
            .filter(|i| ask(&limiter, "/", Some(&i.to_string()), None, 0) == Some(false))
            .count();
        assert!(passed <= KEYED_BUCKETS, "{passed} passed; there are {KEYED_BUCKETS} buckets with a token each");
    }

    #[test]
    fn threads_together_get_no_more_than_the_burst() {
        let limiter = limiter(r#"{"requests": 1000, "unit": "Hour"}"#);
        let passed = || (0..1_000).filter(|_| ask(&limiter, "/", None, None, 0) == Some(false)).count();
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(passed)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 1_000);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_pass(
            requests in 1_u64..1_000, burst in 1_u64..100, steps in prop::collection::vec(0_u64..50_000_000, 1..300),
        ) {
            let limiter = limiter(&format!(r#"{{"requests": {requests}, "unit": "Second", "burst": {burst}}}"#));
            let (mut now, mut passed) = (0, 0);
            for step in steps {
                now += step;
                passed += u64::from(ask(&limiter, "/", None, None, now) == Some(false));
            }
            let most = burst + now / (SECOND / requests);
            prop_assert!(passed <= most, "{passed} of at most {most}");
        }

        #[test]
        fn who_keeps_to_the_rate_is_never_limited(
            requests in 1_u64..1_000, burst in 1_u64..10, extra in prop::collection::vec(0_u64..1_000_000, 1..100),
        ) {
            let limiter = limiter(&format!(r#"{{"requests": {requests}, "unit": "Second", "burst": {burst}}}"#));
            let mut now = 0;
            for extra in extra {
                prop_assert_eq!(ask(&limiter, "/", None, None, now), Some(false));
                now += SECOND / requests + extra;
            }
        }

        #[test]
        fn no_clock_or_rate_makes_counting_panic(
            requests in 1_i64..1_000_000_000, burst in 1_i64..1_000_000_000, millionths: u32, times: [u64; 4],
        ) {
            let limiter = limiter(&format!(
                r#"{{"requests": {requests}, "unit": "Day", "burst": {burst}, "keys": [{{"header": "x-user"}}]}}"#
            ));
            for now in times {
                with_request("/", Some("a"), None, |request| {
                    let _ = limiter.check(request, None, Part::Millionths(millionths), now);
                });
            }
        }
    }
}
