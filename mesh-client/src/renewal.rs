//! When an SVID is renewed. Pure: the random part is an argument.

use std::time::Duration;

/// The second at which to renew an SVID that is valid from `not_before` to `not_after` (seconds since 1970): at half of its life,
/// a twentieth of it earlier or later by `random` in 0.0..1.0. That leaves the other half for a control plane that is away, and keeps
/// members that were started together from renewing together.
pub(crate) fn due(not_before: u64, not_after: u64, random: f64) -> u64 {
    let life = not_after.saturating_sub(not_before) as f64;
    not_before.saturating_add((life * (0.45 + random.clamp(0.0, 1.0) / 10.0)) as u64)
}

/// How long to sleep until `due`, at most a minute at a time: the wall clock may be set, and the machine may sleep.
pub(crate) fn nap(due: u64, now: Duration) -> Option<Duration> {
    let left = Duration::from_secs(due).checked_sub(now).filter(|left| !left.is_zero())?;
    Some(left.min(Duration::from_secs(60)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_life_is_the_middle_of_the_window() {
        assert_eq!(
            [0.0, 0.5, 1.0].map(|random| due(10_000, 13_600, random)),
            [11_620, 11_800, 11_980]
        );
    }

    #[test]
    fn an_svid_whose_end_is_before_its_beginning_is_due_at_once() {
        assert_eq!(due(100, 50, 0.5), 100);
        assert_eq!(due(u64::MAX, u64::MAX, 1.0), u64::MAX);
    }

    #[test]
    fn naps_are_short_and_end_at_the_due_second() {
        let second = Duration::from_secs;
        assert_eq!(nap(1_000, second(100)), Some(second(60)));
        assert_eq!(nap(1_000, second(990)), Some(second(10)));
        assert_eq!(nap(1_000, second(1_000)), None);
        assert_eq!(nap(1_000, second(5_000)), None, "the clock was set forward");
    }
}
