//! Checks that several kinds share. The rules are Istio's (`pkg/config/validation`) and Kubernetes'.

use std::{collections::BTreeMap, time::Duration};

use weft_wire::id::is_dns_name;

use super::{DocumentError, read::Field};

/// A DNS name in lower case.
pub(super) fn dns_name(field: &Field<'_>) -> Result<(), DocumentError> {
    if is_dns_name(field.text()?) {
        Ok(())
    } else {
        Err(field.error("must be a DNS name: a-z, 0-9 and '-' in labels joined by dots, 253 characters at most"))
    }
}

/// Longest value or name part of a label.
const MAX_LABEL_PART: usize = 63;

/// Kubernetes' rule: 63 characters of letters, digits, `-`, `_` and `.`, starting and ending with a letter or digit.
fn is_label_part(s: &str) -> bool {
    s.len() <= MAX_LABEL_PART
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && s.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// Labels, or a selector of them.
pub(super) fn labels(field: &Field<'_>, labels: &BTreeMap<String, String>) -> Result<(), DocumentError> {
    for (key, value) in labels {
        let name = key.split_once('/').map_or(key.as_str(), |(_, name)| name);
        let prefix_is_good = key.split_once('/').is_none_or(|(prefix, _)| is_dns_name(prefix));
        if !prefix_is_good || !is_label_part(name) {
            return Err(
                field.error(format!("{key:?} is not a label's name: [DNS name/]letters, digits, '-', '_', '.'"))
            );
        }
        if !value.is_empty() && !is_label_part(value) {
            return Err(field.error(format!("{value:?} is not a label's value: 63 letters, digits, '-', '_', '.'")));
        }
    }
    Ok(())
}

/// A duration such as `1.5s`, `10ms` or `1h30m`; 1 ms or more, in whole milliseconds.
pub(super) fn duration(field: &Field<'_>) -> Result<Duration, DocumentError> {
    let text = field.text()?;
    let duration = go_duration(text)
        .ok_or_else(|| field.error(format!("{text:?} is not a duration such as 1.5s, 10ms or 1h30m")))?;
    if duration < Duration::from_millis(1) {
        return Err(field.error(format!("{text:?} is below 1ms, the least; leave the field out for no limit")));
    }
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err(field.error(format!("{text:?} must be whole milliseconds")));
    }
    Ok(duration)
}

/// Reads Go's syntax: numbers with units h, m, s, ms, us and ns, one after the other.
fn go_duration(text: &str) -> Option<Duration> {
    if text.is_empty() || text.len() > 32 {
        return None;
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_nanos: u128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 9 {
            return None;
        }
        let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
        nanos = nanos.checked_add(parse(whole)?.checked_mul(unit_nanos)?)?;
        nanos = nanos.checked_add(parse(fraction)? * unit_nanos / 10u128.pow(fraction.len() as u32))?;
        rest = after;
    }
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("1.5s", Some(1_500)),
            ("10ms", Some(10)),
            ("1h30m", Some(5_400_000)),
            ("0.001s", Some(1)),
            (".5s", Some(500)),
            ("5", None),
            ("", None),
            ("-1s", None),
            ("1.2.3s", None),
            (".s", None),
            ("1d", None),
            ("s", None),
            ("999999999999999999999999h", None),
        ] {
            assert_eq!(go_duration(text).map(|d| d.as_millis()), millis, "{text}");
        }
    }
}
