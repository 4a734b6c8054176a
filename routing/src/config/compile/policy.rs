//! `timeout`, `retry`, `outlier`, `breaker`, `fault`: policies.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use crate::config::{Diagnostics, Period, raw};
use crate::policy::{
    Abort, Backoff, BreakerSettings, Chance, Delay, Fault, OutlierSettings, Retry, RetryBudget, RetryOn, SuccessRate, Timeouts,
};

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

    /// A share of the requests; every request where nothing is said.
    pub fn chance(&mut self, percent: Option<&Spanned<f64>>) -> Option<Chance> {
        let percent = percent.map_or(Some(100.0), |percent| self.number("`percent`", percent, 0.0..=100.0));
        percent.and_then(Chance::percent)
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
        let success_rate = self.success_rate.as_ref().map(|rate| rate.compile(diagnostics));
        Some(OutlierSettings {
            consecutive_failures: failures.unwrap_or(Some(usual.consecutive_failures))?,
            ejection: ejection.unwrap_or(Some(usual.ejection))?,
            max_ejected: max_ejected.unwrap_or(Some(usual.max_ejected))?,
            success_rate: match success_rate {
                Some(rate) => Some(rate?),
                None => None,
            },
        })
    }
}

impl raw::SuccessRate {
    /// The settings. None where they have a mistake.
    fn compile(&self, diagnostics: &mut Diagnostics) -> Option<SuccessRate> {
        let usual = SuccessRate::default();
        let range = Duration::from_secs(1)..=Duration::from_secs(3600);
        let interval = self.interval.as_ref();
        let interval = interval.map(|interval| diagnostics.duration("`interval`", interval, range));
        let requests = self.min_requests.as_ref();
        let requests = requests.map(|min| diagnostics.number("`min_requests`", min, 1..=1_000_000));
        let endpoints = self.min_endpoints.as_ref();
        let endpoints = endpoints.map(|min| diagnostics.number("`min_endpoints`", min, 2..=1_000));
        let deviations = self.deviations.as_ref();
        let deviations = deviations.map(|far| diagnostics.number("`deviations`", far, 0.0..=10.0));
        Some(SuccessRate {
            interval: interval.unwrap_or(Some(usual.interval))?,
            min_requests: requests.unwrap_or(Some(usual.min_requests))?,
            min_endpoints: endpoints.unwrap_or(Some(usual.min_endpoints))?,
            deviations: deviations.unwrap_or(Some(usual.deviations))?,
        })
    }
}

impl raw::Fault {
    /// The faults that stand at `place`. None where they have a mistake.
    pub fn compile(&self, place: Range<usize>, diagnostics: &mut Diagnostics) -> Option<Fault> {
        if self.delay.is_none() && self.abort.is_none() {
            let error = diagnostics.error(place, "`fault` does nothing");
            error.hint("add delay = { duration = \"2s\", percent = 10 } or abort = { status = 503, percent = 1 }");
            return None;
        }
        let delay = self.delay.as_ref().map(|delay| {
            let duration = diagnostics.timeout("`duration`", &delay.duration);
            let chance = diagnostics.chance(delay.percent.as_ref());
            duration.zip(chance).map(|(duration, chance)| Delay { duration, chance })
        });
        let abort = self.abort.as_ref().map(|abort| {
            let status = diagnostics.number("`status`", &abort.status, 400..=599);
            let chance = diagnostics.chance(abort.percent.as_ref());
            status.zip(chance).map(|(status, chance)| Abort { status, chance })
        });
        let whole = !matches!(delay, Some(None)) && !matches!(abort, Some(None));
        whole.then_some(Fault {
            delay: delay.flatten(),
            abort: abort.flatten(),
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
        let connections = self.max_connections.as_ref();
        let connections = connections.map(|max| diagnostics.number("`max_connections`", max, 1..=1_000_000));
        Some(BreakerSettings {
            max_connections: connections.unwrap_or(Some(usual.max_connections))?,
            max_requests: requests.unwrap_or(Some(usual.max_requests))?,
            max_pending: pending.unwrap_or(Some(usual.max_pending))?,
        })
    }
}
