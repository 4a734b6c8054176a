//! `validate`.

use std::sync::Arc;

use routing::config::{Diagnostics, Spanned};

use super::compile::Files;
use super::route::{Known, transpose};
use super::{Settings, raw};
use crate::validate::{AnswerRules, BodyRules, Description, load_description, load_schema};

/// What a request's body has to be.
pub(super) fn body_rules(
    route: &str,
    raw: &raw::Validate,
    at_most: Option<u64>,
    known: &Known,
    settings: &Settings,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<BodyRules> {
    let schema = raw.body.as_ref().map(|path| schema(route, path, files, diagnostics));
    let description = raw
        .openapi
        .as_ref()
        .map(|path| description(route, path, raw, known, files, diagnostics));
    if let Some(base) = raw.openapi_base.as_ref().filter(|_| raw.openapi.is_none()) {
        let error = diagnostics.error(base.span(), "`openapi_base` has no effect without `openapi`");
        error.hint("take it out");
    }
    let mut content_types = Some(Vec::new());
    for text in raw.content_types.iter().flat_map(|list| list.get_ref()) {
        let text_type = text.get_ref().to_ascii_lowercase();
        let is_type = text_type
            .split_once('/')
            .is_some_and(|(kind, sub)| !kind.is_empty() && !sub.is_empty())
            && text_type
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b';' | b',' | b'*' | b'"'));
        if !is_type {
            let error = diagnostics.error(text.span(), format!("`{}` is not a media type", text.get_ref()));
            error.hint("write it without parameters, as in \"application/json\"");
        }
        content_types = content_types.filter(|_| is_type).map(|mut all: Vec<String>| {
            all.push(text_type);
            all
        });
    }
    if let Some(empty) = raw.content_types.as_ref().filter(|list| list.get_ref().is_empty()) {
        diagnostics
            .error(empty.span(), "`content_types` is empty")
            .hint("leave it out");
    }
    let max_body = raw
        .max_body
        .as_ref()
        .map_or(Some(at_most.unwrap_or(settings.max_body)), |max| {
            diagnostics.size("`max_body`", max, 1..=1 << 30)
        });
    let mut content_types = content_types?;
    if content_types.is_empty() && raw.body.is_some() {
        // A body that is judged as JSON has to be JSON to whoever reads it next.
        content_types.push("application/json".to_owned());
    }
    Some(BodyRules {
        schema: transpose(schema)?,
        description: transpose(description)?,
        content_types,
        max_body: max_body?.min(at_most.unwrap_or(u64::MAX)),
    })
}

/// A schema.
fn schema(
    route: &str,
    path: &Spanned<String>,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<jsonschema::Validator> {
    load_schema(path.get_ref(), files)
        .map_err(|message| {
            let message = format!("the schema `{}` of route `{route}`: {message}", path.get_ref());
            diagnostics
                .error(path.span(), message)
                .hint("paths are relative to the config; the schema is JSON Schema 2020-12");
        })
        .ok()
}

/// What answers should be: nothing where nobody asks for that, and none within where it has a mistake.
pub(super) fn answer_rules(
    route: &str,
    raw: &raw::Validate,
    settings: &Settings,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Option<AnswerRules>> {
    let described = raw.openapi_responses.as_ref().is_some_and(|wanted| *wanted.get_ref());
    if let Some(idle) = raw.openapi_responses.as_ref().filter(|_| raw.openapi.is_none()) {
        let error = diagnostics.error(idle.span(), "`openapi_responses` has no effect without `openapi`");
        error.hint("take it out");
    }
    let schema = raw.response_body.as_ref().map(|path| schema(route, path, files, diagnostics));
    if schema.is_none() && !described {
        return None;
    }
    Some(transpose(schema).map(|schema| AnswerRules {
        schema,
        described,
        max_body: settings.max_body,
    }))
}

/// An API's description. Routes that name the same one share it.
fn description(
    route: &str,
    path: &Spanned<String>,
    raw: &raw::Validate,
    known: &Known,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<Description>> {
    if let Some(body) = &raw.body {
        let error = diagnostics.error(body.span(), "`body` and `openapi` both say what the body has to be");
        error.hint("keep one of them");
        return None;
    }
    let base = raw.openapi_base.as_ref();
    if let Some(base) = base.filter(|base| !base.get_ref().starts_with('/')) {
        let error = diagnostics.error(base.span(), format!("`{}` is not what a path begins with", base.get_ref()));
        error.hint("as in openapi_base = \"/v1\", or \"/\" where paths are as the description has them");
        return None;
    }
    let base = base.map(|base| base.get_ref().clone());
    let judged = raw.openapi_responses.as_ref().is_some_and(|wanted| *wanted.get_ref());
    let key = (path.get_ref().clone(), base, judged);
    if let Some(loaded) = known.descriptions.borrow().get(&key) {
        return loaded.clone();
    }
    let loaded = files(path.get_ref()).and_then(|text| load_description(&text, key.1.as_deref(), judged));
    let loaded = match loaded {
        Ok(loaded) => Some(Arc::new(loaded)),
        Err(message) => {
            let message = format!("the description `{}` of route `{route}`: {message}", path.get_ref());
            diagnostics
                .error(path.span(), message)
                .hint("paths are relative to the config; the description is OpenAPI 3.1 in YAML or JSON");
            None
        }
    };
    known.descriptions.borrow_mut().insert(key, loaded.clone());
    loaded
}
