//! How long a request may take, as the callers of workloads say and hear it: `grpc-timeout`, and Envoy's
//! `x-envoy-expected-rq-timeout-ms`. Envoy's rules (`router.cc`, `common/grpc/common.cc`) as Istio configures it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// How long this try may take, in milliseconds.
pub const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// The longest `grpc-timeout` has 8 digits.
const MAX_DIGITS: usize = 8;
const MAX_VALUE: u64 = 99_999_999;

/// How long a request may take: what its rule says, `of_rule`; of a gRPC call what its caller says, up to that. `None`
/// is no limit; so is a time of 0, as in Envoy.
pub fn limit(of_rule: Option<Duration>, is_grpc: bool, headers: &HeaderMap) -> Option<Duration> {
    let of_rule = of_rule.filter(|limit| !limit.is_zero());
    let of_caller = if is_grpc { headers.get(GRPC_TIMEOUT).and_then(read) } else { None };
    match (of_rule, of_caller.filter(|limit| !limit.is_zero())) {
        (Some(rule), Some(caller)) => Some(rule.min(caller)),
        (rule, caller) => rule.or(caller),
    }
}

/// Tells the next hop how much time is left for it: `left` for all tries, `per_try` for this one. Nothing, where neither
/// has a limit.
pub fn pass_on(left: Option<Duration>, per_try: Option<Duration>, is_grpc: bool, headers: &mut HeaderMap) {
    let Some(left) = left.into_iter().chain(per_try).min() else { return };
    headers.insert(EXPECTED_TIMEOUT, millis(left).into());
    if is_grpc {
        headers.insert(GRPC_TIMEOUT, grpc_timeout(left));
    }
}

/// At least 1: 0 would be no limit.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Digits and a unit; `None` for anything else. Parts of a millisecond count as a whole one.
fn read(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_millis(number.div_ceil(1_000)),
        b'n' => Duration::from_millis(number.div_ceil(1_000_000)),
        _ => return None,
    })
}

/// A time as `grpc-timeout` has it, in the finest unit that has room for it.
pub fn grpc_timeout(time: Duration) -> HeaderValue {
    let ms = millis(time);
    let (seconds, minutes) = (ms / 1_000, ms / 60_000);
    let (number, unit) = match () {
        () if ms <= MAX_VALUE => (ms, 'm'),
        () if seconds <= MAX_VALUE => (seconds, 'S'),
        () if minutes <= MAX_VALUE => (minutes, 'M'),
        () => ((minutes / 60).min(MAX_VALUE), 'H'),
    };
    let text = format!("{number}{unit}");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grpc_timeout(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(GRPC_TIMEOUT, value.parse().unwrap())])
    }

    fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    #[test]
    fn a_grpc_caller_may_have_less_time_than_the_rule_gives_and_never_more() {
        for (of_rule, of_caller, expected) in [
            (None, "1S", ms(1_000)),
            (ms(500), "1S", ms(500)),
            (ms(5_000), "1S", ms(1_000)),
            (ms(500), "0m", ms(500)),
            (None, "0m", None),
            (Some(Duration::ZERO), "1S", ms(1_000)),
            (ms(500), "soon", ms(500)),
        ] {
            assert_eq!(limit(of_rule, true, &grpc_timeout(of_caller)), expected, "{of_rule:?} {of_caller}");
        }
        assert_eq!(limit(ms(500), true, &HeaderMap::new()), ms(500), "gRPC's default is no limit");
        assert_eq!(limit(None, false, &grpc_timeout("1S")), None, "only gRPC calls have it");
    }

    #[test]
    fn all_units_are_read_and_nothing_else() {
        for (text, expected) in [
            ("2H", ms(7_200_000)),
            ("2M", ms(120_000)),
            ("2S", ms(2_000)),
            ("2m", ms(2)),
            ("1500u", ms(2)),
            ("1n", ms(1)),
            ("99999999H", Some(Duration::from_secs(359_999_996_400))),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("+1S", None),
            ("-1S", None),
            ("1.5S", None),
            ("123456789m", None),
        ] {
            assert_eq!(read(&HeaderValue::from_str(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_left_is_passed_on_and_never_as_0() {
        let passed = |left: u64, per_try: Option<Duration>| {
            let mut headers = HeaderMap::new();
            pass_on(ms(left), per_try, true, &mut headers);
            [EXPECTED_TIMEOUT, GRPC_TIMEOUT].map(|name| headers[name].to_str().unwrap().to_owned())
        };
        assert_eq!(passed(250, None), ["250", "250m"]);
        assert_eq!(passed(250, ms(100)), ["100", "100m"]);
        assert_eq!(passed(50, ms(100)), ["50", "50m"]);
        assert_eq!(passed(0, None), ["1", "1m"]);
        assert_eq!(passed(100_000_000, None), ["100000000", "100000S"]);
        let mut headers = HeaderMap::new();
        pass_on(ms(1_000), None, false, &mut headers);
        assert!(!headers.contains_key(GRPC_TIMEOUT));
        let mut unlimited = HeaderMap::new();
        pass_on(None, None, true, &mut unlimited);
        assert!(unlimited.is_empty());
    }

    #[test]
    fn the_longest_times_are_written_in_larger_units() {
        for (ms, expected) in [
            (MAX_VALUE, "99999999m"),
            (MAX_VALUE * 1_000, "99999999S"),
            (MAX_VALUE * 60_000, "99999999M"),
            (u64::MAX, "99999999H"),
        ] {
            assert_eq!(super::grpc_timeout(Duration::from_millis(ms)), expected);
        }
    }
}
