//! Durations and sizes as a config writes them: `500ms`, `25ms..250ms`, `64KiB`.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use toml::Spanned;

use super::Diagnostics;

/// A length of time: a whole number with `ms`, `s`, `m` or `h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// Two lengths of time, `25ms..250ms`; one alone is both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeriodRange {
    /// The shorter.
    pub min: Duration,
    /// The longer.
    pub max: Duration,
}

/// A number of bytes: a whole number with `B`, `KiB`, `MiB` or `GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A duration's number and unit, in the largest unit that keeps it whole.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0ms".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

/// A size's number and unit, in the largest unit that keeps it whole.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0B".to_owned(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

impl Diagnostics {
    /// The duration, where it lies in `range`; else a mistake that calls it `what`.
    pub fn duration(&mut self, what: &str, value: &Spanned<Period>, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = value.get_ref().0;
        if range.contains(&duration) {
            return Some(duration);
        }
        let (min, max) = (show_duration(*range.start()), show_duration(*range.end()));
        self.error(
            value.span(),
            format!("{what} is {}, expected {min} to {max}", show_duration(duration)),
        );
        None
    }

    /// The size, where it lies in `range`; else a mistake that calls it `what`.
    pub fn size(&mut self, what: &str, value: &Spanned<ByteSize>, range: RangeInclusive<u64>) -> Option<u64> {
        let bytes = value.get_ref().0;
        if range.contains(&bytes) {
            return Some(bytes);
        }
        let (min, max) = (show_size(*range.start()), show_size(*range.end()));
        self.error(
            value.span(),
            format!("{what} is {}, expected {min} to {max}", show_size(bytes)),
        );
        None
    }

    /// The number, where it lies in `range`; else a mistake that calls it `what`.
    pub fn number<N: Copy + PartialOrd + fmt::Display>(
        &mut self,
        what: &str,
        value: &Spanned<N>,
        range: RangeInclusive<N>,
    ) -> Option<N> {
        if range.contains(value.get_ref()) {
            return Some(*value.get_ref());
        }
        let (min, max) = (range.start(), range.end());
        self.error(
            value.span(),
            format!("{what} is {}, expected {min} to {max}", value.get_ref()),
        );
        None
    }
}

/// Splits `500ms` into its number and its unit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

fn parse_period(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

fn parse_period_range(text: &str) -> Option<PeriodRange> {
    let (min, max) = match text.split_once("..") {
        Some((min, max)) => (parse_period(min.trim())?, parse_period(max.trim())?),
        None => (parse_period(text)?, parse_period(text)?),
    };
    (min <= max).then_some(PeriodRange { min, max })
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(bytes)
}

/// Reads a text by `parse`; what is refused is told as `expected`, which is the hint as well.
struct Text<T> {
    parse: fn(&str) -> Option<T>,
    expected: &'static str,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected = "a duration: a whole number with ms, s, m or h, as in \"500ms\" or \"2s\"";
        from.deserialize_str(Text {
            parse: parse_period,
            expected,
        })
        .map(Self)
    }
}

impl<'de> Deserialize<'de> for PeriodRange {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected = "two durations, the shorter first, as in \"25ms..250ms\"";
        from.deserialize_str(Text {
            parse: parse_period_range,
            expected,
        })
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected = "a size: a whole number with B, KiB, MiB or GiB, as in \"64KiB\"";
        from.deserialize_str(Text {
            parse: parse_size,
            expected,
        })
        .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("1m", 60_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_period(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "2",
            "s",
            "2 s",
            "-1s",
            "1.5s",
            "2sec",
            "99999999999999999999s",
            "18446744073709551615h",
            "+2s",
        ] {
            assert_eq!(parse_period(text), None, "{text}");
        }
    }

    #[test]
    fn a_range_has_the_shorter_first() {
        let range = |min, max| {
            Some(PeriodRange {
                min: Duration::from_millis(min),
                max: Duration::from_millis(max),
            })
        };
        assert_eq!(parse_period_range("25ms..250ms"), range(25, 250));
        assert_eq!(parse_period_range("25ms"), range(25, 25));
        assert_eq!(parse_period_range("250ms..25ms"), None);
        assert_eq!(parse_period_range("25ms.."), None);
    }

    #[test]
    fn sizes_are_in_powers_of_two() {
        for (text, bytes) in [("64KiB", 65_536), ("1MiB", 1 << 20), ("512B", 512), ("2GiB", 2 << 30)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        for text in ["64KB", "64k", "1", "18446744073709551615GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
