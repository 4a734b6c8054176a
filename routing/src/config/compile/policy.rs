//! `timeout`, `retry`, `outlier`, `breaker`: policies.

use std::time::Duration;

use toml::Spanned;

use crate::config::{Diagnostics, Period, raw};
use crate::policy::{Backoff, BreakerSettings, OutlierSettings, Retry, RetryBudget, RetryOn, Timeouts};

impl Diagnostics {
    /// A timeout from [`Timeouts::MIN`] to [`Timeouts::MAX`].
    pub fn timeout(&mut self, what: &str, value: &Spanned<Period>) -> Option<Duration> {
        self.duration(what, value, Timeouts::MIN..=Timeouts::MAX)
    }

    /// The timeouts of a route from its `timeout` and its compiled `retry`.
    pub fn timeouts(&mut self, timeout: Option<&Spanned<Period>>, retry: Option<&Retry>) -> Option<Timeouts> {
        let request = match timeout {
            Some(timeout) => self.timeout("`timeout`", timeout)?,
            None => Timeouts::REQUEST,
        };
        Some(Timeouts {
            request,
            per_try: retry.and_then(|retry| retry.per_try_timeout),
        })
    }

    /// A fraction from 0 to `max`.
    pub fn fraction(&mut self, what: &str, value: &Spanned<f64>, max: f64) -> Option<f64> {
        self.number(what, value, 0.0..=max)
    }
}

impl raw::Retry {
    /// The retry policy. None where it has a mistake.
    pub fn compile(&self, diagnostics: &mut Diagnostics) -> Option<Retry> {
        let attempts = self
            .attempts
            .as_ref()
            .map(|attempts| diagnostics.number("`attempts`", attempts, 1..=Retry::MAX_ATTEMPTS));
        let on = self.on.as_ref().map(|on| compile_on(on, diagnostics));
        let per_try = self
            .per_try_timeout
            .as_ref()
            .map(|timeout| diagnostics.timeout("`per_try_timeout`", timeout));
        let budget = self
            .budget
            .as_ref()
            .map(|budget| diagnostics.fraction("`budget`", budget, 10.0));
        let backoff = self.backoff.as_ref().map(|backoff| {
            let range = backoff.get_ref();
            let max = Duration::from_secs(60);
            if range.max > max {
                diagnostics.error(backoff.span(), "`backoff` is longer than 1m");
            }
            (range.max <= max).then_some(Backoff {
                min: range.min,
                max: range.max,
            })
        });
        Some(Retry {
            attempts: attempts.unwrap_or(Some(Retry::ATTEMPTS))?,
            on: on.unwrap_or(Some(RetryOn::usual()))?,
            per_try_timeout: match per_try {
                Some(per_try) => Some(per_try?),
                None => None,
            },
            backoff: backoff.unwrap_or(Some(Backoff::default()))?,
            budget: budget.unwrap_or(Some(RetryBudget::RATIO))?,
        })
    }
}

fn compile_on(list: &Spanned<Vec<Spanned<String>>>, diagnostics: &mut Diagnostics) -> Option<RetryOn> {
    const KNOWN: [&str; 4] = ["connect-failure", "reset", "timeout", "5xx"];
    let mut on = RetryOn::default();
    let mut whole = true;
    for condition in list.get_ref() {
        match condition.get_ref().as_str() {
            "connect-failure" => on.connect_failure = true,
            "reset" => on.reset = true,
            "timeout" => on.timeout = true,
            "5xx" => on.statuses.extend(500..600),
            text => match text.parse::<u16>() {
                Ok(status @ 400..=599) => on.statuses.push(status),
                _ => {
                    let error = diagnostics.error(condition.span(), format!("`{text}` is not a condition to retry on"));
                    error.hint(match crate::config::nearest(text, KNOWN) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "expected connect-failure, reset, timeout, 5xx or a status code from 400 to 599".to_owned(),
                    });
                    whole = false;
                }
            },
        }
    }
    if list.get_ref().is_empty() {
        diagnostics
            .error(list.span(), "`on` is empty")
            .hint("leave `on` out for connect-failure, reset and 503");
        return None;
    }
    on.statuses.sort_unstable();
    on.statuses.dedup();
    whole.then_some(on)
}

impl raw::Outlier {
    /// The settings. None where they have a mistake.
    pub fn compile(&self, diagnostics: &mut Diagnostics) -> Option<OutlierSettings> {
        let usual = OutlierSettings::default();
        let failures = self.consecutive_failures.as_ref();
        let failures = failures.map(|failures| diagnostics.number("`consecutive_failures`", failures, 1..=1_000));
        let range = Duration::from_millis(1)..=Duration::from_secs(3600);
        let ejection = self
            .ejection
            .as_ref()
            .map(|ejection| diagnostics.duration("`ejection`", ejection, range));
        let max_ejected = self
            .max_ejected
            .as_ref()
            .map(|max| diagnostics.fraction("`max_ejected`", max, 1.0));
        Some(OutlierSettings {
            consecutive_failures: failures.unwrap_or(Some(usual.consecutive_failures))?,
            ejection: ejection.unwrap_or(Some(usual.ejection))?,
            max_ejected: max_ejected.unwrap_or(Some(usual.max_ejected))?,
        })
    }
}

impl raw::Breaker {
    /// The settings. None where they have a mistake.
    pub fn compile(&self, diagnostics: &mut Diagnostics) -> Option<BreakerSettings> {
        let usual = BreakerSettings::default();
        let requests = self
            .max_requests
            .as_ref()
            .map(|max| diagnostics.number("`max_requests`", max, 1..=1_000_000));
        let pending = self
            .max_pending
            .as_ref()
            .map(|max| diagnostics.number("`max_pending`", max, 0..=1_000_000));
        Some(BreakerSettings {
            max_requests: requests.unwrap_or(Some(usual.max_requests))?,
            max_pending: pending.unwrap_or(Some(usual.max_pending))?,
        })
    }
}
