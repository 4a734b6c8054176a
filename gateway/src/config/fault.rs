//! `fault` and `mirror`: what is done to a share of the requests.

use std::time::Duration;

use routing::config::{Diagnostics, OneOrMany, Period, Spanned};
use routing::policy::Chance;
use serde::Deserialize;

use super::policy::{Abort, Delay, Fault, Mirror};
use super::route::Known;

/// `fault`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFault {
    delay: Option<RawDelay>,
    abort: Option<RawAbort>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDelay {
    duration: Spanned<Period>,
    percent: Option<Spanned<f64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAbort {
    status: Spanned<u16>,
    percent: Option<Spanned<f64>>,
}

/// One `mirror`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMirror {
    upstream: Spanned<String>,
    percent: Option<Spanned<f64>>,
}

/// The most mirrors of one route: each is another request.
const MAX_MIRRORS: usize = 4;

/// Compiles the faults of a route. None where they have a mistake.
pub(super) fn compile(raw: &Spanned<RawFault>, diagnostics: &mut Diagnostics) -> Option<Fault> {
    let RawFault { delay, abort } = raw.get_ref();
    if delay.is_none() && abort.is_none() {
        let error = diagnostics.error(raw.span(), "`fault` does nothing");
        error.hint("add delay = { duration = \"2s\", percent = 10 } or abort = { status = 503, percent = 1 }");
        return None;
    }
    let delay = delay.as_ref().map(|delay| {
        let range = Duration::from_millis(1)..=Duration::from_secs(3600);
        let duration = diagnostics.duration("`duration`", &delay.duration, range);
        let chance = chance(delay.percent.as_ref(), diagnostics);
        duration.zip(chance).map(|(duration, chance)| Delay { duration, chance })
    });
    let abort = abort.as_ref().map(|abort| {
        let status = diagnostics.number("`status`", &abort.status, 400..=599);
        let chance = chance(abort.percent.as_ref(), diagnostics);
        status.zip(chance).map(|(status, chance)| Abort { status, chance })
    });
    let whole = !matches!(delay, Some(None)) && !matches!(abort, Some(None));
    whole.then_some(Fault {
        delay: delay.flatten(),
        abort: abort.flatten(),
    })
}

/// Compiles the mirrors of a route. None where one of them has a mistake.
pub(super) fn mirrors(raw: &OneOrMany<RawMirror>, known: &Known, diagnostics: &mut Diagnostics) -> Option<Vec<Mirror>> {
    if let Some(surplus) = raw.0.get(MAX_MIRRORS) {
        diagnostics.error(surplus.span(), format!("a route has at most {MAX_MIRRORS} mirrors"));
        return None;
    }
    let one = |mirror: &Spanned<RawMirror>, diagnostics: &mut Diagnostics| {
        let upstream = known.upstream(&mirror.get_ref().upstream, diagnostics);
        let chance = chance(mirror.get_ref().percent.as_ref(), diagnostics);
        upstream.zip(chance).map(|(upstream, chance)| Mirror { upstream, chance })
    };
    let mirrors: Vec<_> = raw.0.iter().map(|mirror| one(mirror, diagnostics)).collect();
    mirrors.into_iter().collect()
}

/// Every request where there is none.
fn chance(percent: Option<&Spanned<f64>>, diagnostics: &mut Diagnostics) -> Option<Chance> {
    let percent = percent.map_or(Some(100.0), |percent| diagnostics.number("`percent`", percent, 0.0..=100.0));
    percent.and_then(Chance::percent)
}
