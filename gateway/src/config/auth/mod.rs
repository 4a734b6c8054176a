//! `[auth.NAME]`: who may be believed, and `auth` of a route: whom it believes.

mod api_key;
mod jwt;

use routing::config::{Diagnostics, Section, Spanned, nearest};

use super::compile::Files;
use super::policy::{AuthRule, Method};
use super::route::Known;
use super::{Auth, raw};
use crate::auth::jwt::keys::Key;
use crate::keys::Published;

/// The name that stands for no authentication.
const NONE: &str = "none";

const KINDS: [&str; 2] = ["jwt", "api-key"];

/// Keys of all `[auth]` together.
#[derive(Default)]
pub(super) struct Keys {
    pub(super) known: Vec<Key>,
    pub(super) published: Vec<Published>,
}

/// Compiles one; its keys are added to the gateway's.
pub(super) fn compile(
    id: u32,
    name: &Spanned<String>,
    section: Section<'_>,
    keys: &mut Keys,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Auth> {
    if name.get_ref() == NONE {
        let error = diagnostics.error(name.span(), "an [auth] cannot be called `none`");
        error.hint("auth = \"none\" is a route without authentication");
    }
    let method = match section.text("kind") {
        Some(kind) if kind.get_ref() == "jwt" => {
            let raw = section.read::<raw::Jwt>(diagnostics)?;
            Method::Jwt(jwt::compile(id, name, &raw.value, raw.whole, keys, files, diagnostics)?)
        }
        Some(kind) if kind.get_ref() == "api-key" => {
            let raw = section.read::<raw::ApiKeys>(diagnostics)?;
            Method::ApiKey(api_key::compile(name, &raw.value, raw.whole, diagnostics)?)
        }
        Some(kind) => {
            let text = kind.get_ref();
            let error = diagnostics.error(kind.span(), format!("`{text}` is not a kind of authentication"));
            error.hint(match nearest(text, KINDS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", KINDS.join(", ")),
            });
            return None;
        }
        None => {
            diagnostics
                .error(section.span(), format!("[auth.{}] has no `kind`", name.get_ref()))
                .hint("add kind = \"jwt\" or kind = \"api-key\"");
            return None;
        }
    };
    Some(Auth {
        name: name.get_ref().clone(),
        method,
    })
}

/// What a section is by its word, mistakes in the rest of it or not: routes refer to it all the same.
pub(super) fn is_api_key(section: &Section<'_>) -> bool {
    section.text("kind").is_some_and(|kind| kind.get_ref() == "api-key")
}

/// Whom a route believes. The inner None is `auth = "none"`, the outer one a mistake.
pub(super) fn rule(methods: &Spanned<raw::Methods>, known: &Known, diagnostics: &mut Diagnostics) -> Option<Option<AuthRule>> {
    let (names, all) = match methods.get_ref() {
        raw::Methods::One(name) if name == NONE => return Some(None),
        raw::Methods::One(name) => (&vec![Spanned::new(methods.span(), name.clone())], false),
        raw::Methods::Any(names) => (names, false),
        raw::Methods::All(names) => (names, true),
    };
    if names.is_empty() {
        let error = diagnostics.error(methods.span(), "`auth` names nobody");
        error.hint("name an [auth], or write auth = \"none\" for a route that anybody may use");
        return None;
    }
    let mut places = Some(Vec::new());
    for name in names {
        let place = find(name, known, diagnostics);
        let is_new = place.is_none_or(|place| !places.as_ref().is_some_and(|places: &Vec<usize>| places.contains(&place)));
        if !is_new {
            diagnostics.error(name.span(), format!("`{}` comes twice", name.get_ref()));
        }
        places = places.zip(place.filter(|_| is_new)).map(|(mut places, place)| {
            places.push(place);
            places
        });
    }
    Some(Some(AuthRule { methods: places?, all }))
}

fn find(name: &Spanned<String>, known: &Known, diagnostics: &mut Diagnostics) -> Option<usize> {
    let text = name.get_ref();
    let place = known.auths.iter().position(|known| known.name == *text);
    if place.is_none() {
        let (message, hint) = match nearest(text, known.auths.iter().map(|known| known.name.as_str())) {
            _ if text == NONE => (
                "`none` stands alone".to_owned(),
                "write auth = \"none\", or take it out of the list".to_owned(),
            ),
            Some(near) => (format!("there is no auth `{text}`"), format!("did you mean `{near}`?")),
            None => (format!("there is no auth `{text}`"), format!("add [auth.{text}]")),
        };
        diagnostics.error(name.span(), message).hint(hint);
    }
    place
}
