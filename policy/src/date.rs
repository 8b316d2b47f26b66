//! Times as dates, in UTC.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A time as people write it. What is before 1970 counts as its first second.
#[derive(Clone, Copy, Debug)]
pub struct Date {
    since_1970: Duration,
    year: u64,
    /// From 1 on.
    month: u64,
    day: u64,
}

impl Date {
    pub fn of(time: SystemTime) -> Self {
        let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Days to a civil date, in eras of 400 years that begin on 1 March.
        let shifted = since_1970.as_secs() / 86_400 + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Self { since_1970, year, month, day }
    }

    /// RFC 3339 in UTC with milliseconds, such as `2026-11-24T04:12:16.123Z`.
    pub fn rfc3339(&self) -> String {
        let mut text = String::new();
        self.push_rfc3339(&mut text);
        text
    }

    /// Likewise. By hand: each line of a log has one.
    pub(crate) fn push_rfc3339(&self, text: &mut String) {
        let (hour, minute, second) = self.time_of_day();
        let mut shown = *b"0000-00-00T00:00:00.000Z";
        let millis = self.since_1970.subsec_millis().into();
        let ends =
            [(4, self.year), (7, self.month), (10, self.day), (13, hour), (16, minute), (19, second), (23, millis)];
        for (end, mut number) in ends {
            let mut at = end;
            while number > 0 && at > 0 && shown[at - 1].is_ascii_digit() {
                at -= 1;
                shown[at] = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        text.push_str(std::str::from_utf8(&shown).unwrap_or_default());
    }

    fn time_of_day(&self) -> (u64, u64, u64) {
        let second = self.since_1970.as_secs() % 86_400;
        (second / 3_600, second / 60 % 60, second % 60)
    }

    fn day_of_year(&self) -> u64 {
        let is_leap = self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let days_before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let before = self.month.checked_sub(1).and_then(|month| days_before.get(month as usize)).unwrap_or(&0);
        before + self.day + u64::from(is_leap && self.month > 2)
    }

    fn day_of_week(&self) -> u64 {
        (self.since_1970.as_secs() / 86_400 + 4) % 7 // 1970 began on a Thursday
    }
}

/// A format of `strftime`, with Envoy's `%1f` to `%9f` for so many digits of a second's fraction.
#[derive(Debug, PartialEq, Eq)]
pub struct DateFormat(Vec<Piece>);

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(char),
    Fraction(usize),
}

impl DateFormat {
    /// `None` if it asks for what there is no way to write here.
    pub fn read(format: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut chars = format.chars();
        let mut text = String::new();
        while let Some(one) = chars.next() {
            if one != '%' {
                text.push(one);
                continue;
            }
            let piece = match chars.next()? {
                '%' => {
                    text.push('%');
                    continue;
                }
                'f' => Piece::Fraction(9),
                digits @ '1'..='9' if chars.next() == Some('f') => Piece::Fraction(digits.to_digit(10)? as usize),
                field if "aAbBCdDeFhHIjklmMpPRsSTuwyYzZ".contains(field) => Piece::Field(field),
                _ => return None,
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(piece);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Some(Self(pieces))
    }

    pub fn write(&self, date: &Date, out: &mut String) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Field(field) => write_field(*field, date, out),
                Piece::Fraction(digits) => {
                    let nanos = format!("{:09}", date.since_1970.subsec_nanos());
                    out.push_str(nanos.get(..*digits).unwrap_or(&nanos));
                }
            }
        }
    }
}

fn write_field(field: char, date: &Date, out: &mut String) {
    let name = |names: &[&'static str], number: u64| names.get(number as usize).copied().unwrap_or_default();
    let short = |name: &'static str| name.get(..3).unwrap_or(name);
    let (hour, minute, second) = date.time_of_day();
    let hour_of_12 = (hour + 11) % 12 + 1;
    let (month, weekday) = (name(&MONTHS, date.month.saturating_sub(1)), name(&DAYS, date.day_of_week()));
    let Date { year, day, .. } = date;
    let done = match field {
        'a' => write!(out, "{}", short(weekday)),
        'A' => write!(out, "{weekday}"),
        'b' | 'h' => write!(out, "{}", short(month)),
        'B' => write!(out, "{month}"),
        'C' => write!(out, "{:02}", year / 100),
        'd' => write!(out, "{day:02}"),
        'D' => write!(out, "{:02}/{day:02}/{:02}", date.month, year % 100),
        'e' => write!(out, "{day:2}"),
        'F' => write!(out, "{year}-{:02}-{day:02}", date.month),
        'H' => write!(out, "{hour:02}"),
        'I' => write!(out, "{hour_of_12:02}"),
        'j' => write!(out, "{:03}", date.day_of_year()),
        'k' => write!(out, "{hour:2}"),
        'l' => write!(out, "{hour_of_12:2}"),
        'm' => write!(out, "{:02}", date.month),
        'M' => write!(out, "{minute:02}"),
        'p' => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
        'P' => write!(out, "{}", if hour < 12 { "am" } else { "pm" }),
        'R' => write!(out, "{hour:02}:{minute:02}"),
        's' => write!(out, "{}", date.since_1970.as_secs()),
        'S' => write!(out, "{second:02}"),
        'T' => write!(out, "{hour:02}:{minute:02}:{second:02}"),
        'u' => write!(out, "{}", (date.day_of_week() + 6) % 7 + 1),
        'w' => write!(out, "{}", date.day_of_week()),
        'y' => write!(out, "{:02}", year % 100),
        'Y' => write!(out, "{year}"),
        'z' => write!(out, "+0000"),
        'Z' => write!(out, "UTC"),
        _ => Ok(()),
    };
    debug_assert!(done.is_ok(), "a String takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Date {
        Date::of(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }

    #[test]
    fn dates_are_civil() {
        for (seconds, date) in [(0, "1970-01-01"), (951_782_400, "2000-02-29"), (4_102_444_799, "2099-12-31")] {
            let text = at(seconds * 1_000).rfc3339();
            assert!(text.starts_with(date), "{text}");
        }
        assert_eq!(at(1_709_210_096_007).rfc3339(), "2024-02-29T12:34:56.007Z");
    }

    #[test]
    fn formats_are_those_of_strftime_with_fractions() {
        for (format, expected) in [
            ("%Y/%m/%dT%H:%M:%S%z_%3f", "2024/02/29T12:34:56+0000_007"),
            ("%s.%9f %f %1f", "1709210096.007000000 007000000 0"),
            ("%a %A %b %B %u %w", "Thu Thursday Feb February 4 4"),
            ("%D %F %R %T %j %y %C", "02/29/24 2024-02-29 12:34 12:34:56 060 24 20"),
            ("%I%p %l%P %e %k %Z %%", "12PM 12pm 29 12 UTC %"),
        ] {
            let mut text = String::new();
            DateFormat::read(format).unwrap().write(&at(1_709_210_096_007), &mut text);
            assert_eq!(text, expected, "{format}");
        }
        for format in ["%", "%Q", "%3", "%3s", "%U"] {
            assert_eq!(DateFormat::read(format), None, "{format}");
        }
    }
}
