//! Points in time as documents write them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::api::values::{Text, shortened};

/// A point in time (RFC 3339), such as `2026-01-31T09:00:00Z`, not before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    unix_ms: u64,
}

impl Timestamp {
    /// Milliseconds since 1970.
    pub fn unix_ms(self) -> u64 {
        self.unix_ms
    }

    fn read(text: &str) -> Option<Self> {
        let (date, time) = (text.get(..10)?, text.get(11..)?);
        if !matches!(text.as_bytes().get(10), Some(b'T' | b't')) {
            return None;
        }
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let zone_at = time.find(['Z', 'z', '+', '-'])?;
        let (clock, zone) = time.split_at(zone_at);
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
        let offset_minutes = match zone {
            "Z" | "z" => 0,
            zone => {
                let [hours, minutes] = numbers(zone.get(1..)?, ':', [2, 2])?;
                let offset = (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)?;
                if zone.starts_with('-') { -offset } else { offset }
            }
        };
        let is_fraction = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|b| b.is_ascii_digit());
        let is_date = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
        if !is_fraction || !is_date || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
        let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
        u64::try_from((minutes * 60 + second) * 1_000 + millis).ok().map(|unix_ms| Self { unix_ms })
    }
}

/// Numbers of so many digits each, between separators.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Of the Gregorian calendar; the year has four digits.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    let of_years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let of_months: i64 = (1..month).map(|month| days_in_month(year, month)).sum();
    of_years + of_months + day - 1
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?.0;
        Self::read(&text).ok_or_else(|| {
            let text = shortened(&text);
            de::Error::custom(format!("{text:?} is not a point in time such as 2026-01-31T09:00:00Z"))
        })
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod reading {
    use super::*;

    #[test]
    fn points_in_time_are_read_as_rfc_3339_writes_them() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600_000)),
            ("2026-11-25T02:30:00.25+01:30", Some(1_795_568_400_250)),
            ("2023-11-14t22:13:20z", Some(1_700_000_000_000)),
            ("2023-11-14T17:13:20-05:00", Some(1_700_000_000_000)),
            ("2023-11-14T22:13:20.999999Z", Some(1_700_000_000_999)),
            ("2001-02-29T00:00:00Z", None),
            ("2100-02-29T00:00:00Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("2023-11-14 22:13:20Z", None),
            ("2023-11-14T22:13:20", None),
            ("2023-11-14T24:00:00Z", None),
            ("2023-13-14T22:00:00Z", None),
            ("2023-11-14T22:13:20.Z", None),
            ("2023-11-14T22:13:20+25:00", None),
            ("2023-11-14", None),
            ("ä023-11-14T22:13:20Z", None),
            ("", None),
        ] {
            assert_eq!(Timestamp::read(text).map(Timestamp::unix_ms), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in ".{0,40}") {
            let _ = Timestamp::read(&text);
        }
    }
}
