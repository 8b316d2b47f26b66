//! Checks of single fields. Each notes what is wrong and goes on, so that one run reports all that it can.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use weft_wire::{fact::MAX_LABELS, id::is_dns_name};

/// Longest duration that a setting may have.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Its path, such as `services[0].port`; empty for the whole.
    pub field: String,
    pub problem: String,
}

impl Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.problem) } else { write!(f, "{}: {}", self.field, self.problem) }
    }
}

/// Collects what is wrong. Checks give `None` for a value that they refuse.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// The path around the fields that are checked now.
    path: String,
    pub(super) errors: Vec<FieldError>,
}

impl Checker {
    /// The value if nothing was wrong.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(self.errors),
        }
    }

    /// Checks fields inside of `field`.
    pub(super) fn within<T>(&mut self, field: &str, check: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::take(&mut self.path);
        self.path = join(&outer, field);
        let result = check(self);
        self.path = outer;
        result
    }

    pub(super) fn problem<T>(&mut self, field: &str, problem: impl Display) -> Option<T> {
        self.errors.push(FieldError { field: join(&self.path, field), problem: problem.to_string() });
        None
    }

    pub(super) fn require(&mut self, field: &str, result: Result<(), String>) {
        if let Err(problem) = result {
            self.problem::<()>(field, problem);
        }
    }

    pub(super) fn parse<T: FromStr<Err: Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        text.parse().map_or_else(|error| self.problem(field, error), Some)
    }

    pub(super) fn choice<T: Copy, const N: usize>(
        &mut self,
        field: &str,
        text: &str,
        choices: [(&str, T); N],
    ) -> Option<T> {
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Some(*value),
            None => {
                let names = choices.map(|(name, _)| name).join(", ");
                self.problem(field, format_args!("{text:?} is not one of {names}"))
            }
        }
    }

    pub(super) fn port(&mut self, field: &str, port: u64) -> Option<u16> {
        match u16::try_from(port) {
            Ok(port) if port > 0 => Some(port),
            _ => self.problem(field, format_args!("{port} is not a port; write a number from 1 to 65535")),
        }
    }

    pub(super) fn between(&mut self, field: &str, number: u64, range: RangeInclusive<u64>) -> Option<u64> {
        match range.contains(&number) {
            true => Some(number),
            false => {
                self.problem(field, format_args!("{number} is not a number from {} to {}", range.start(), range.end()))
            }
        }
    }

    pub(super) fn count(&mut self, field: &str, count: u64) -> Option<u32> {
        match u32::try_from(count) {
            Ok(count @ 1..=1000) => Some(count),
            _ => self.problem(field, format_args!("{count} is not a number from 1 to 1000")),
        }
    }

    /// An address that one host has: neither a wildcard nor a group.
    pub(super) fn address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                self.problem(field, format_args!("{ip} is not the address of one host"))
            }
            Ok(ip) => Some(ip),
            Err(_) => self.problem(field, format_args!("{text:?} is not an IP address; write one such as 10.0.0.1")),
        }
    }

    pub(super) fn socket(&mut self, field: &str, text: &str) -> Option<SocketAddr> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 => Some(address),
            Ok(_) => self.problem(field, "0 is not a port; write a number from 1 to 65535"),
            Err(_) => self.problem(field, format_args!("{text:?} is not IP:PORT; write one such as 127.0.0.1:9080")),
        }
    }

    pub(super) fn duration(&mut self, field: &str, text: Option<&str>, default: Duration) -> Option<Duration> {
        let Some(text) = text else { return Some(default) };
        match duration(text) {
            Some(duration) if duration.is_zero() || duration > MAX_DURATION => {
                self.problem(field, format_args!("{text} is out of range; write at least 1ms and at most 24h"))
            }
            Some(duration) => Some(duration),
            None => self.problem(field, format_args!("{text:?} is not a duration; write 500ms, 2s or 1m")),
        }
    }

    pub(super) fn labels(&mut self, field: &str, labels: &BTreeMap<String, String>) {
        if labels.len() > MAX_LABELS {
            self.problem::<()>(field, format_args!("{} labels are more than {MAX_LABELS}", labels.len()));
        }
        self.within(field, |checker| {
            for (key, value) in labels {
                checker.require(key, label_key(key).and_then(|()| label_value(value)));
            }
        });
    }
}

fn join(path: &str, field: &str) -> String {
    match (path.is_empty(), field.is_empty()) {
        (false, false) if !field.starts_with('[') => format!("{path}.{field}"),
        _ => format!("{path}{field}"),
    }
}

/// A number and `ms`, `s`, `m` or `h`, as `weft` takes durations everywhere.
pub fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(millis_per_unit).map(Duration::from_millis)
}

/// Kubernetes' rule for a label's value: empty, or 63 characters of which the outer ones are letters or digits.
pub fn label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_label_name(value) {
        return Ok(());
    }
    Err(format!(
        "{value:?} must be 63 letters, digits, '-', '_' or '.' at most, and begin and end with a letter or digit"
    ))
}

/// Kubernetes' rule for a label's key: a name, or a DNS name, `/` and a name.
pub fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if prefix.is_none_or(is_dns_name) && is_label_name(name) {
        return Ok(());
    }
    Err(format!("{key:?} is not a label's key; write one such as app or example.com/app"))
}

fn is_label_name(name: &str) -> bool {
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && outer(bytes.first())
        && outer(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, millis) in
            [("500ms", Some(500)), ("2s", Some(2000)), ("1m", Some(60_000)), ("24h", Some(86_400_000))]
        {
            assert_eq!(duration(text).map(|duration| duration.as_millis()), millis, "{text}");
        }
        for text in ["", "2", "s", "5x", "-1s", "1.5s", "1s ", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn labels_follow_kubernetes() {
        for key in ["app", "app.kubernetes.io/name", "a", "A_b-c.D"] {
            assert_eq!(label_key(key), Ok(()), "{key}");
        }
        for key in ["", "/app", "example.com/", "-a", "a b", "UPPER.com/a", "a/b/c"] {
            assert!(label_key(key).is_err(), "{key}");
        }
        for value in ["", "v1", "1.2.3"] {
            assert_eq!(label_value(value), Ok(()), "{value}");
        }
        for value in ["-", "a b", &"a".repeat(64)] {
            assert!(label_value(value).is_err(), "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_check_panic(text in ".*") {
            let _ = (duration(&text), label_key(&text), label_value(&text));
            let mut checker = Checker::default();
            let _ = (checker.socket("a", &text), checker.address("b", &text));
        }
    }
}
