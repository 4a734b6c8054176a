//! `mirror`: copies of a share of the requests.

use routing::config::{Diagnostics, OneOrMany, Spanned};
use serde::Deserialize;

use super::policy::Mirror;
use super::route::Known;

/// One `mirror`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMirror {
    upstream: Spanned<String>,
    percent: Option<Spanned<f64>>,
}

/// The most mirrors of one route: each is another request.
const MAX_MIRRORS: usize = 4;

/// Compiles the mirrors of a route. None where one of them has a mistake.
pub(super) fn compile(raw: &OneOrMany<RawMirror>, known: &Known, diagnostics: &mut Diagnostics) -> Option<Vec<Mirror>> {
    if let Some(surplus) = raw.0.get(MAX_MIRRORS) {
        diagnostics.error(surplus.span(), format!("a route has at most {MAX_MIRRORS} mirrors"));
        return None;
    }
    let one = |mirror: &Spanned<RawMirror>, diagnostics: &mut Diagnostics| {
        let upstream = known.upstream(&mirror.get_ref().upstream, diagnostics);
        let chance = diagnostics.chance(mirror.get_ref().percent.as_ref());
        upstream.zip(chance).map(|(upstream, chance)| Mirror { upstream, chance })
    };
    let mirrors: Vec<_> = raw.0.iter().map(|mirror| one(mirror, diagnostics)).collect();
    mirrors.into_iter().collect()
}
