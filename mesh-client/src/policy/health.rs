//! `health = { … }` of a service: the check that its members make of it.

use std::time::Duration;

use routing::config::{Diagnostics, Period, Spanned};
use serde::Deserialize;

use crate::health::{Check, CheckError, Probe};

const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const IN_A_ROW: std::ops::RangeInclusive<u32> = 1..=100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    http: Option<Spanned<String>>,
    grpc: Option<Spanned<String>>,
    tcp: Option<Spanned<bool>>,
    interval: Option<Spanned<Period>>,
    timeout: Option<Spanned<Period>>,
    failures: Option<Spanned<u32>>,
    passes: Option<Spanned<u32>>,
}

impl RawHealth {
    pub(super) fn compile(raw: &Spanned<Self>, diagnostics: &mut Diagnostics) -> Option<Check> {
        let mut check = Check::new(Self::probe(raw, diagnostics)?);
        let raw = raw.get_ref();
        let mut period = |what, value: Option<&Spanned<Period>>, range, place: &mut Duration| {
            let Some(value) = value else { return Some(()) };
            *place = diagnostics.duration(what, value, range)?;
            Some(())
        };
        let interval = period("an interval", raw.interval.as_ref(), INTERVAL, &mut check.interval);
        let timeout = period("a timeout", raw.timeout.as_ref(), TIMEOUT, &mut check.timeout);
        let mut number = |what, value: Option<&Spanned<u32>>, place: &mut u32| {
            let Some(value) = value else { return Some(()) };
            *place = diagnostics.number(what, value, IN_A_ROW)?;
            Some(())
        };
        let failures = number("failures", raw.failures.as_ref(), &mut check.failures);
        let passes = number("passes", raw.passes.as_ref(), &mut check.passes);
        interval.and(timeout).and(failures).and(passes)?;
        Some(check)
    }

    fn probe(raw: &Spanned<Self>, diagnostics: &mut Diagnostics) -> Option<Probe> {
        let mut refuse = |text: &Spanned<String>, refused: CheckError| {
            diagnostics.error(text.span(), refused.to_string());
            None
        };
        match (&raw.get_ref().http, &raw.get_ref().grpc, &raw.get_ref().tcp) {
            (Some(path), None, None) => Probe::http(path.get_ref()).map_or_else(|error| refuse(path, error), Some),
            (None, Some(service), None) => Probe::grpc(service.get_ref()).map_or_else(|error| refuse(service, error), Some),
            (None, None, Some(tcp)) if *tcp.get_ref() => Some(Probe::Tcp),
            _ => {
                diagnostics
                    .error(raw.span(), "a check asks one thing")
                    .hint("write http = \"/healthz\", or grpc = \"\" (or a service's name), or tcp = true");
                None
            }
        }
    }
}
