//! One of an aggregate's `branches`.

use http::HeaderName;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use routing::config::{Diagnostics, Spanned, nearest};
use routing::filter::{Reference, Template};
use routing::matching::Rule;

use super::super::raw;
use super::super::route::Known;
use crate::aggregate::{Branch, ForEach, Meaning, Pick, StatusMatch};
use crate::exchange::ITEM;

/// What a template may refer to by these names is something else than a branch.
const RESERVED: [&str; 7] = ["api-key", "claim", "client", "cookie", "header", "item", "request"];

/// The most items of a `for_each` where a config does not say.
const MAX_ITEMS: u16 = 32;

/// Fields that are about one message and make no sense on another.
const OF_ONE_MESSAGE: [HeaderName; 8] = [
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HOST,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

pub(super) fn compile(
    at: usize,
    raw: &raw::Branch,
    names: &[&str],
    rules: &[Rule],
    known: &Known,
    diagnostics: &mut Diagnostics,
) -> Option<Branch> {
    let name = raw.name.get_ref();
    let named = check_name(&raw.name, &names[..at], diagnostics);
    let upstream = known.upstream(&raw.upstream, diagnostics);
    let mut needs = Vec::new();
    let for_each = match &raw.for_each {
        Some(path) => Some(for_each(path, raw, names, &mut needs, diagnostics)),
        None => {
            if let Some(max) = &raw.max_items {
                let error = diagnostics.error(max.span(), "`max_items` has no effect without `for_each`");
                error.hint("take it out");
            }
            None
        }
    };
    let path = path(&raw.path, raw.for_each.is_some(), rules, diagnostics);
    let referred = path.as_ref().map(|path| refers(path, raw, names, &mut needs, diagnostics));
    let timeout = raw.timeout.as_ref().map(|timeout| diagnostics.timeout("`timeout`", timeout));
    let statuses = statuses(raw, diagnostics);
    let pick = raw.pick.as_ref().map(|pick| compile_pick(pick, diagnostics));
    let request_headers = headers(&raw.request_headers, diagnostics);
    let response_headers = headers(&raw.response_headers, diagnostics);
    let may_be_missing = !raw.required || statuses.iter().flatten().any(|(_, meaning)| *meaning == Meaning::Missing);
    if let Some(fallback) = raw.fallback.as_ref().filter(|_| !may_be_missing) {
        let error = diagnostics.error(
            fallback.span(),
            format!("branch `{name}` is required, so that nothing can stand in for it"),
        );
        error.hint("take `required` or `fallback` out, or say when it may be missing: status = { 404 = \"fallback\" }");
        return None;
    }
    let referred = referred?;
    Some(Branch {
        member: serde_json::to_string(name).ok()?,
        name: named.then(|| name.as_str().into())?,
        upstream: upstream?,
        path: path.filter(|_| referred)?,
        for_each: transpose(for_each)?,
        needs,
        is_needed: false,
        required: raw.required,
        fallback: raw.fallback.as_ref().map(|fallback| fallback.get_ref().clone()),
        timeout: transpose(timeout)?,
        pick: transpose(pick)?,
        statuses: statuses?,
        request_headers: request_headers?,
        response_headers: response_headers?,
    })
}

fn check_name(name: &Spanned<String>, before: &[&str], diagnostics: &mut Diagnostics) -> bool {
    let text = name.get_ref().as_str();
    let is_name = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if !is_name {
        let error = diagnostics.error(name.span(), format!("`{text}` is not the name of a branch"));
        error.hint("a name is made of letters, digits, - and _");
        return false;
    }
    if RESERVED.contains(&text) {
        let error = diagnostics.error(
            name.span(),
            format!("a branch cannot be called `{text}`: {{{text}.…}} means something else"),
        );
        error.hint(format!(
            "known meanings: {}",
            RESERVED.map(|name| format!("{{{name}.…}}")).join(", ")
        ));
        return false;
    }
    if before.contains(&text) {
        diagnostics
            .error(name.span(), format!("a second branch is called `{text}`"))
            .hint("each is a member of the answer");
        return false;
    }
    true
}

/// Path and query of a branch.
fn path(text: &Spanned<String>, is_for_each: bool, rules: &[Rule], diagnostics: &mut Diagnostics) -> Option<Template> {
    // `{item}` reads like a parameter of the path that is matched, and is none.
    let with_item = Template::parse(text.get_ref()).ok().filter(|template| {
        is_for_each
            && template.references().all(|reference| match reference {
                Reference::Param(name) => {
                    **name == *ITEM || rules.iter().all(|rule| rule.path.names().any(|own| *own == **name))
                }
                _ => true,
            })
    });
    let template = match with_item {
        Some(template) => template,
        None => diagnostics.template(text, rules)?,
    };
    let stand_in = |_: &Reference, into: &mut String| {
        into.push('x');
        true
    };
    let is_target = template
        .render_target(&stand_in)
        .is_some_and(|target| target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
    if !is_target {
        let error = diagnostics.error(
            text.span(),
            format!("`{}` is not a path, with or without a query", text.get_ref()),
        );
        error.hint("a path starts with / and has no dot segments; other characters are escaped");
        return None;
    }
    Some(template)
}

/// Notes the branches that a path refers to. False where one of them is not there.
fn refers(path: &Template, raw: &raw::Branch, names: &[&str], needs: &mut Vec<usize>, diagnostics: &mut Diagnostics) -> bool {
    for reference in path.references() {
        let Reference::Field { of, .. } = reference else {
            continue;
        };
        if **of == *ITEM {
            if raw.for_each.is_none() {
                let error = diagnostics.error(raw.path.span(), format!("{reference} needs a list to go through"));
                error.hint("add for_each = \"BRANCH.FIELD\"");
                return false;
            }
            continue;
        }
        let Some(at) = find(of, &reference.to_string(), &raw.path, names, diagnostics) else {
            return false;
        };
        if !needs.contains(&at) {
            needs.push(at);
        }
    }
    true
}

fn find(of: &str, written: &str, place: &Spanned<String>, names: &[&str], diagnostics: &mut Diagnostics) -> Option<usize> {
    let at = names.iter().position(|name| **name == *of);
    if at.is_none() {
        let error = diagnostics.error(place.span(), format!("{written}: there is no branch `{of}`"));
        error.hint(match nearest(of, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("branches: {}", names.join(", ")),
        });
    }
    at
}

/// `for_each = "customer.accounts"`: a branch, and the way to the list in it.
fn for_each(
    path: &Spanned<String>,
    raw: &raw::Branch,
    names: &[&str],
    needs: &mut Vec<usize>,
    diagnostics: &mut Diagnostics,
) -> Option<ForEach> {
    let text = path.get_ref().as_str();
    let (of, rest) = text.split_once('.').unwrap_or((text, ""));
    let max_items = match &raw.max_items {
        Some(max) => diagnostics.number("`max_items`", max, 1..=256),
        None => Some(MAX_ITEMS),
    };
    let at = find(of, &format!("`{text}`"), path, names, diagnostics)?;
    needs.push(at);
    Some(ForEach {
        of: at,
        path: rest.into(),
        max_items: usize::from(max_items?),
    })
}

fn compile_pick(raw: &Spanned<raw::Pick>, diagnostics: &mut Diagnostics) -> Option<Pick> {
    let is_path = |path: &str| !path.is_empty() && path.split('.').all(|step| !step.is_empty());
    let mut whole = true;
    let mut check = |path: &str| {
        if !is_path(path) {
            let error = diagnostics.error(raw.span(), format!("`{path}` is not the path of a field"));
            error.hint("as in \"id\" or \"address.city\"");
            whole = false;
        }
    };
    let member = |name: &str, path: &str| Some((serde_json::to_string(name).ok()?.into(), path.into()));
    let pick = match raw.get_ref() {
        raw::Pick::At(path) => {
            check(path);
            Some(Pick::At(path.as_str().into()))
        }
        raw::Pick::List(paths) => {
            paths.iter().for_each(|path| check(path));
            let members = paths.iter().map(|path| member(path.rsplit('.').next().unwrap_or(path), path));
            members.collect::<Option<_>>().map(Pick::Members)
        }
        raw::Pick::Named(named) => {
            named.iter().for_each(|(_, path)| check(path));
            let members = named.iter().map(|(name, path)| member(name, path));
            members.collect::<Option<_>>().map(Pick::Members)
        }
    };
    pick.filter(|_| whole)
}

/// `status = { 404 = "fallback", 409 = 409, 5xx = 503 }`.
fn statuses(raw: &raw::Branch, diagnostics: &mut Diagnostics) -> Option<Vec<(StatusMatch, Meaning)>> {
    let mut statuses = Vec::new();
    let mut whole = true;
    for (on, meaning) in &raw.status {
        let text = on.get_ref().as_str();
        let code = text
            .parse::<u16>()
            .ok()
            .filter(|code| (200..600).contains(code))
            .map(StatusMatch::Code);
        let matched = code.or(match text {
            "3xx" => Some(StatusMatch::Class(3)),
            "4xx" => Some(StatusMatch::Class(4)),
            "5xx" => Some(StatusMatch::Class(5)),
            _ => None,
        });
        if matched.is_none() {
            let error = diagnostics.error(on.span(), format!("`{text}` is not a status of an upstream"));
            error.hint("write a code, as in 404, or 3xx, 4xx or 5xx");
        }
        let means = match meaning.get_ref() {
            raw::StatusMeaning::Status(code) if (400..600).contains(code) && raw.required => Some(Meaning::Status(*code)),
            raw::StatusMeaning::Status(code) if (400..600).contains(code) => {
                let error = diagnostics.error(
                    meaning.span(),
                    "a branch that may be missing does not decide the answer's status",
                );
                error.hint("add required = true, or write \"fallback\"");
                None
            }
            raw::StatusMeaning::Word(word) if word == "fallback" => Some(Meaning::Missing),
            _ => {
                let error = diagnostics.error(
                    meaning.span(),
                    "a status means a status of the answer, 400 to 599, or \"fallback\"",
                );
                error.hint("as in status = { 404 = \"fallback\", 409 = 409 }");
                None
            }
        };
        match matched.zip(means) {
            Some(status) => statuses.push(status),
            None => whole = false,
        }
    }
    whole.then_some(statuses)
}

fn headers(names: &[Spanned<String>], diagnostics: &mut Diagnostics) -> Option<Vec<HeaderName>> {
    let mut headers = Some(Vec::new());
    for name in names {
        let text = name.get_ref();
        let header = text
            .parse::<HeaderName>()
            .ok()
            .filter(|header| !OF_ONE_MESSAGE.contains(header));
        if header.is_none() {
            let error = diagnostics.error(name.span(), format!("`{text}` is not a header field that is passed on"));
            error.hint("fields that are about one message or one connection stay where they are");
        }
        headers = headers.zip(header).map(|(mut headers, header)| {
            headers.push(header);
            headers
        });
    }
    headers
}

/// None where there was something and it had a mistake.
fn transpose<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(None) => None,
        Some(some) => Some(some),
        None => Some(None),
    }
}
