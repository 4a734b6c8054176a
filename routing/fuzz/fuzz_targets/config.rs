//! Any text at all as a config: never a panic, and every mistake at a place that the text has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use routing::config::{Diagnostics, Document, OneOrMany, Period, Source, Spanned, raw};
use routing::table::{Route, RouteTable};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    #[serde(default)]
    name: String,
    r#match: OneOrMany<raw::Match>,
    upstream: Option<Spanned<String>>,
    split: Option<Spanned<Vec<Spanned<raw::Share>>>>,
    rewrite: Option<raw::Rewrite>,
    #[serde(default)]
    headers: raw::Headers,
    timeout: Option<Spanned<Period>>,
    retry: Option<raw::Retry>,
    redirect: Option<raw::Redirect>,
    respond: Option<raw::Respond>,
}

fuzz_target!(|text: &str| {
    let source = Source::new("fuzz.toml", text);
    let mut diagnostics = Diagnostics::new(&source);
    let variable = |name: &str| (name.len() % 2 == 0).then(|| name.to_lowercase());
    let Some(mut document) = Document::parse(&source, &variable, &mut diagnostics) else {
        assert!(!diagnostics.is_empty());
        return;
    };
    let mut upstreams = Vec::new();
    for (name, section) in document.named("upstreams", &mut diagnostics) {
        if let Some(read) = section.read::<raw::Upstream>(&mut diagnostics) {
            read.value.compile(&name, read.whole, &mut diagnostics);
        }
        upstreams.push(name.into_inner());
    }
    let (mut routes, mut spans) = (Vec::new(), Vec::new());
    for section in document.list("routes", &mut diagnostics) {
        let Some(read) = section.read::<RawRoute>(&mut diagnostics) else {
            continue;
        };
        let (route, d) = (read.value, &mut diagnostics);
        let retry = route.retry.as_ref().and_then(|retry| retry.compile(d));
        d.timeouts(route.timeout.as_ref(), retry.as_ref());
        route
            .upstream
            .as_ref()
            .map(|upstream| d.upstream(upstream, upstreams.iter().map(String::as_str)));
        route
            .split
            .as_ref()
            .map(|split| d.split(split, upstreams.iter().map(String::as_str)));
        route.respond.as_ref().map(|respond| respond.compile(d));
        let Some(rules) = route.r#match.compile(d) else { continue };
        route.rewrite.as_ref().map(|rewrite| rewrite.compile(&rules, d));
        route.redirect.as_ref().map(|redirect| redirect.compile(&rules, d));
        route.headers.request.compile(&rules, d);
        route.headers.response.compile(&rules, d);
        spans.push(route.r#match.spans());
        routes.push(Route {
            name: route.name.into(),
            rules,
            policy: (),
        });
    }
    document.finish(&mut diagnostics);
    if let Err(found) = RouteTable::build(routes) {
        diagnostics.unreachable(
            &found,
            |id| id.route.to_string(),
            |id| spans[id.route as usize][id.rule as usize].clone(),
        );
    }
    let lines = text.matches('\n').count() + 1;
    assert!(
        diagnostics
            .list()
            .iter()
            .all(|found| (1..=lines).contains(&found.line) && found.column > 0)
    );
});
