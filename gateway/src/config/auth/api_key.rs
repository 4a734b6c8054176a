//! `[auth.NAME]` with `kind = "api-key"`.

use std::sync::Arc;

use http::HeaderName;
use routing::config::{Diagnostics, Spanned};
use serde_json::{Map, Value};

use super::raw;
use crate::auth::Claims;
use crate::auth::api_key::{ApiKey, ApiKeys, MAX_KEYS, Place};

/// Where a key is looked for where a config does not say.
const HEADER: HeaderName = HeaderName::from_static("x-api-key");

const MAKE_ONE: &str = "make a key: openssl rand -hex 32; its hash: printf %s KEY | sha256sum";

pub(super) fn compile(
    name: &Spanned<String>,
    raw: &raw::ApiKeys,
    whole: bool,
    diagnostics: &mut Diagnostics,
) -> Option<ApiKeys> {
    let place = place(raw, diagnostics);
    let list = raw.keys.get_ref();
    if list.is_empty() || list.len() > MAX_KEYS {
        if whole || list.len() > MAX_KEYS {
            let error = diagnostics.error(
                raw.keys.span(),
                format!("[auth.{}] needs 1 to {MAX_KEYS} keys", name.get_ref()),
            );
            error.hint(MAKE_ONE);
        }
        return None;
    }
    let mut keys: Vec<Option<ApiKey>> = Vec::with_capacity(list.len());
    for key in list {
        let compiled = compile_key(key.get_ref(), diagnostics);
        let comes_twice = compiled
            .as_ref()
            .is_some_and(|new| keys.iter().flatten().any(|old| old.hash == new.hash));
        if comes_twice {
            let error = diagnostics.error(key.get_ref().sha256.span(), "a key comes twice");
            error.hint("each key has one name");
        }
        keys.push(compiled.filter(|_| !comes_twice));
    }
    Some(ApiKeys {
        place: place?,
        keys: keys.into_iter().collect::<Option<_>>()?,
    })
}

fn place(raw: &raw::ApiKeys, diagnostics: &mut Diagnostics) -> Option<Place> {
    match (&raw.header, &raw.query) {
        (None, None) => Some(Place::Header(HEADER)),
        (Some(header), None) => match header.get_ref().parse() {
            Ok(header) => Some(Place::Header(header)),
            Err(_) => {
                diagnostics
                    .error(
                        header.span(),
                        format!("`{}` is not the name of a header field", header.get_ref()),
                    )
                    .hint("as in header = \"x-api-key\"");
                None
            }
        },
        (None, Some(query)) if query.get_ref().is_empty() => {
            let error = diagnostics.error(query.span(), "a parameter of the query has a name");
            error.hint("as in query = \"api_key\"");
            None
        }
        (None, Some(query)) => Some(Place::Query(query.get_ref().as_str().into())),
        (Some(_), Some(query)) => {
            let error = diagnostics.error(query.span(), "a key is looked for in one place");
            error.hint("keep `header` or `query`; write two [auth] sections where both are in use, and auth = [\"A\", \"B\"]");
            None
        }
    }
}

fn compile_key(raw: &raw::ApiKey, diagnostics: &mut Diagnostics) -> Option<ApiKey> {
    let name = raw.name.get_ref();
    // It becomes a header field and a log's word.
    let is_name = !name.is_empty() && name.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_name {
        let error = diagnostics.error(raw.name.span(), "the name of a key is printable ASCII text");
        error.hint("as in name = \"acme\"");
    }
    let hash = hash(raw.sha256.get_ref());
    if hash.is_none() {
        // The text is not quoted: it may be the key itself.
        let error = diagnostics.error(
            raw.sha256.span(),
            "`sha256` is 64 hexadecimal digits: the hash of a key, not the key",
        );
        error.hint(MAKE_ONE);
    }
    let mut claims: Map<String, Value> = Map::new();
    for (name, value) in &raw.claims {
        claims.insert(name.clone(), value.clone());
    }
    if let Some(said) = ["sub", "scope", "scp"].into_iter().find(|name| claims.contains_key(*name)) {
        let error = diagnostics.error(
            raw.name.span(),
            format!("`claims` has `{said}`, which is said in another way"),
        );
        error.hint("`sub` is the key's `name`, and `scope` its `scopes`");
        return None;
    }
    claims.insert("sub".to_owned(), name.as_str().into());
    if !raw.scopes.is_empty() {
        claims.insert("scope".to_owned(), raw.scopes.join(" ").into());
    }
    Some(ApiKey {
        name: name.as_str().into(),
        hash: hash.filter(|_| is_name)?,
        claims: Arc::new(Claims::new(claims)),
    })
}

fn hash(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .filter_map(|pair| Some(pair.first()? << 4 | pair.get(1)?))
        .collect();
    <[u8; 32]>::try_from(bytes).ok().filter(|_| digits.len() == 64)
}
