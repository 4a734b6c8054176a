//! From the file to the snapshot: every section is read and compiled, whatever is wrong with the others.

use std::cell::RefCell;
use std::collections::HashSet;

use http::HeaderName;
use routing::config::raw::Upstream as RawUpstream;
use routing::config::{Diagnostics, Document, Source};
use routing::filter::Reference;
use routing::table::RouteTable;

use super::policy::references_of;
use super::route::{Known, KnownAuth};
use super::{Gateway, Settings, auth, raw, route, settings};

/// Reads the files that a config names.
pub(super) type Files<'f> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'f;

pub(super) fn compile(
    source: &Source,
    files: &mut Files<'_>,
    variables: &dyn Fn(&str) -> Option<String>,
    host: &mut dyn FnMut(&Settings, &mut Diagnostics),
) -> (Option<Gateway>, Diagnostics) {
    let print = RefCell::new(blake3::Hasher::new());
    print.borrow_mut().update(source.text.as_bytes());
    let variables = |name: &str| {
        let value = variables(name);
        note(&print, name, value.as_deref().unwrap_or_default().as_bytes());
        value
    };
    let mut files = |path: &str| {
        let content = files(path)?;
        note(&print, path, &content);
        Ok(content)
    };
    let mut diagnostics = Diagnostics::new(source);
    let gateway = Document::parse(source, &variables, &mut diagnostics)
        .and_then(|document| compile_document(document, &mut files, host, &mut diagnostics));
    let fingerprint = print.take().finalize().into();
    let gateway = gateway.filter(|_| !diagnostics.has_errors());
    (gateway.map(|gateway| Gateway { fingerprint, ..gateway }), diagnostics)
}

/// Notes something that the config is made of, with its length, so that no two lists of such things look alike.
fn note(print: &RefCell<blake3::Hasher>, name: &str, content: &[u8]) {
    let mut print = print.borrow_mut();
    for part in [name.as_bytes(), content] {
        print.update(&part.len().to_le_bytes());
        print.update(part);
    }
}

fn compile_document(
    mut document: Document<'_>,
    files: &mut Files<'_>,
    host: &mut dyn FnMut(&Settings, &mut Diagnostics),
    diagnostics: &mut Diagnostics,
) -> Option<Gateway> {
    let gateway = document
        .section("gateway", diagnostics)
        .and_then(|section| section.read::<raw::Gateway>(diagnostics));
    let mesh = document
        .section("mesh", diagnostics)
        .and_then(|section| section.read::<raw::Mesh>(diagnostics));
    let mut gateway = gateway.map(|read| read.value).unwrap_or_default();
    let default_auth = gateway.default_auth.take();
    let settings = settings::compile(gateway, mesh.map(|read| read.value), diagnostics);
    host(&settings, diagnostics);

    let mut known = Known::default();
    let mut upstreams = Vec::new();
    for (name, section) in document.named("upstreams", diagnostics) {
        known.upstreams.push(name.get_ref().clone());
        let read = section.read::<RawUpstream>(diagnostics);
        let upstream = read.and_then(|read| read.value.compile(&name, read.whole, diagnostics));
        known
            .hashes
            .extend(upstream.as_ref().and_then(|upstream| upstream.connection.hash.clone()));
        upstreams.push(upstream);
    }
    let mut keys = auth::Keys::default();
    let mut auths = Vec::new();
    for (name, section) in document.named("auth", diagnostics) {
        known.auths.push(KnownAuth {
            name: name.get_ref().clone(),
            is_api_key: auth::is_api_key(&section),
        });
        let id = u32::try_from(auths.len()).unwrap_or(u32::MAX);
        auths.push(auth::compile(id, &name, section, &mut keys, files, diagnostics));
    }
    known.default_auth = default_auth
        .and_then(|methods| auth::rule(&methods, &known, diagnostics))
        .flatten();
    let routes = document.list("routes", diagnostics);
    document.finish(diagnostics);
    let table = compile_routes(routes, &known, &settings, files, diagnostics);
    let table = table?;
    Some(Gateway {
        settings,
        identity_fields: identity_fields(&table),
        table,
        upstreams: upstreams.into_iter().collect::<Option<_>>()?,
        auths: auths.into_iter().collect::<Option<_>>()?,
        keys: keys.known,
        published: keys.published,
        fingerprint: [0; 32],
    })
}

/// The request's fields that some route fills in from who the caller is.
fn identity_fields(table: &RouteTable<super::Policy>) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for route in table.routes() {
        let edits = &route.policy.request_edits;
        for (name, value) in edits.set.iter().chain(&edits.add) {
            let is_identity = references_of(value).any(|of| matches!(of, Reference::Claim(_) | Reference::ApiKeyName));
            if is_identity && !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}

/// Compiles the routes. The table is built of those without a mistake even where others have some, so that routes which can never
/// be reached are told in the same run.
fn compile_routes(
    sections: Vec<routing::config::Section<'_>>,
    known: &Known,
    settings: &Settings,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<RouteTable<super::Policy>> {
    // Routes are large, and a list that grows moves all of them at each doubling.
    let mut routes = Vec::with_capacity(sections.len());
    let mut spans = Vec::with_capacity(sections.len());
    let mut names = HashSet::with_capacity(sections.len());
    for (at, section) in sections.into_iter().enumerate() {
        let place = section.span();
        let Some(read) = section.read::<raw::Route>(diagnostics) else {
            continue;
        };
        let name = route::name(at, &read.value, &mut names, diagnostics);
        let of = read.value.matches.spans();
        if let Some(route) = route::compile(name, place, read, known, settings, files, diagnostics) {
            routes.push(route);
            spans.push(of);
        }
    }
    let (table, unreachable) = RouteTable::compile(routes);
    diagnostics.unreachable(
        &unreachable,
        |id| table.routes()[id.route as usize].name.to_string(),
        |id| spans[id.route as usize][id.rule as usize].clone(),
    );
    unreachable.is_empty().then_some(table)
}
