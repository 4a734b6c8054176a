//! How long a caller still waits, told from hop to hop: work that nobody waits for any more is not worth doing.
//!
//! What travels is the time that is left and not the moment at which it is over, so that no two clocks have to agree; the time on the
//! wire is lost, which is little. `grpc-timeout` is gRPC's (its "HTTP2" specification, "Requests"); `x-heddle-timeout-ms` is the same for
//! requests of any kind.

use std::time::Duration;

use crate::Fields;

/// The field of gRPC.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Ours: whole milliseconds.
pub const TIMEOUT_MS: &str = "x-heddle-timeout-ms";

/// No number in either field has more digits (gRPC's rule for its own).
const DIGITS: usize = 8;

/// How long the sender of these fields still waits: the least that it says. A value that is none says nothing, as if it were not there.
#[must_use]
pub fn timeout_left(fields: &dyn Fields) -> Option<Duration> {
    let said = |name, read: fn(&str) -> Option<Duration>| {
        let values = (0..).map_while(move |nth| fields.nth(name, nth));
        values
            .filter_map(move |value| std::str::from_utf8(value).ok().and_then(read))
            .min()
    };
    let (ours, theirs) = (said(TIMEOUT_MS, read_ms), said(GRPC_TIMEOUT, read_grpc));
    ours.into_iter().chain(theirs).min()
}

/// The value of `x-heddle-timeout-ms`. What is less than one millisecond is none.
#[must_use]
pub fn timeout_ms(left: Duration) -> u64 {
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(99_999_999)
}

/// The value of `grpc-timeout`, in the finest unit that has a place for it.
#[must_use]
pub fn grpc_timeout(left: Duration) -> String {
    let units = [
        (left.as_nanos(), 'n'),
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (left.as_secs().into(), 'S'),
    ];
    let fitting = units.into_iter().find(|(amount, _)| *amount < 100_000_000);
    let (amount, unit) = fitting.unwrap_or((99_999_999, 'S'));
    format!("{amount}{unit}")
}

fn read_ms(text: &str) -> Option<Duration> {
    number(text).map(Duration::from_millis)
}

/// > Timeout → "grpc-timeout" TimeoutValue TimeoutUnit; TimeoutValue → {positive integer as ASCII string of at most 8 digits}
fn read_grpc(text: &str) -> Option<Duration> {
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount = number(amount)?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

fn number(text: &str) -> Option<u64> {
    let is_number = (1..=DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn left(pairs: &[(&'static str, &'static str)]) -> Option<Duration> {
        let mut fields = HeaderMap::new();
        for (name, value) in pairs {
            fields.append(*name, value.parse().unwrap());
        }
        timeout_left(&fields)
    }

    #[test]
    fn the_least_that_is_said_holds() {
        assert_eq!(left(&[]), None);
        assert_eq!(left(&[(TIMEOUT_MS, "1500")]), Some(Duration::from_millis(1500)));
        assert_eq!(
            left(&[(TIMEOUT_MS, "1500"), (GRPC_TIMEOUT, "1S")]),
            Some(Duration::from_secs(1))
        );
        assert_eq!(left(&[(TIMEOUT_MS, "20"), (TIMEOUT_MS, "0")]), Some(Duration::ZERO));
    }

    #[test]
    fn every_unit_of_grpc_is_known() {
        for (text, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("4m", 4_000_000),
            ("5u", 5_000),
            ("99999999n", 99_999_999),
        ] {
            assert_eq!(left(&[(GRPC_TIMEOUT, text)]), Some(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_none_says_nothing() {
        for text in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S", "1.5S"] {
            assert_eq!(left(&[(GRPC_TIMEOUT, text)]), None, "{text}");
        }
        for text in ["", "1s", "-1", "+1", "123456789", "1.5", " 1"] {
            assert_eq!(left(&[(TIMEOUT_MS, text)]), None, "{text}");
        }
        assert_eq!(
            left(&[(TIMEOUT_MS, "soon"), (GRPC_TIMEOUT, "1m")]),
            Some(Duration::from_millis(1))
        );
    }

    #[test]
    fn what_is_written_is_read_as_at_most_the_same() {
        for left in [
            Duration::ZERO,
            Duration::from_nanos(7),
            Duration::from_millis(250),
            Duration::from_micros(1_234_567),
            Duration::from_secs(86_400),
            Duration::MAX,
        ] {
            let read = read_grpc(&grpc_timeout(left)).unwrap();
            assert!(
                read <= left && read.as_secs_f64() >= (left.as_secs_f64() * 0.999).min(99_999_999.0),
                "{left:?} {read:?}"
            );
            assert!(read_ms(&timeout_ms(left).to_string()).is_some_and(|read| read <= left));
        }
    }
}
