//! Texts with references: `{id}`, `{claim.sub}`, `{header.x-tenant}`, `{cookie.session}`, `{client.ip}`, `{request.id}`, `{api-key.name}`,
//! `{customer.account_id}`.

use std::borrow::Cow;
use std::fmt;

use http::HeaderName;

use crate::matching::{Params, normalise};

/// A text, some of which is filled in for each request. `{{` and `}}` stand for single braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Reference(Reference),
}

/// What a template refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reference {
    /// `{name}`: a parameter of the path.
    Param(Box<str>),
    /// `{claim.NAME}`: a claim of the verified caller. The name may have dots of its own.
    Claim(Box<str>),
    /// `{header.NAME}`: a header field of the request.
    Header(HeaderName),
    /// `{cookie.NAME}`: a cookie of the request.
    Cookie(Box<str>),
    /// `{client.ip}`.
    ClientIp,
    /// `{request.id}`.
    RequestId,
    /// `{api-key.name}`: the name of the caller's API key.
    ApiKeyName,
    /// `{name.field.…}`: a field of something named, such as an aggregate's branch.
    Field {
        /// Its name.
        of: Box<str>,
        /// The way into it, at least one step.
        path: Box<[Box<str>]>,
    },
}

/// Says what references stand for.
pub trait Resolve {
    /// Appends the value; false, and nothing appended, where there is none.
    fn resolve(&self, reference: &Reference, into: &mut String) -> bool;
}

impl<F: Fn(&Reference, &mut String) -> bool> Resolve for F {
    fn resolve(&self, reference: &Reference, into: &mut String) -> bool {
        self(reference, into)
    }
}

impl Resolve for Params<'_, '_> {
    fn resolve(&self, reference: &Reference, into: &mut String) -> bool {
        let Reference::Param(name) = reference else { return false };
        self.get(name).is_some_and(|value| {
            into.push_str(value);
            true
        })
    }
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A brace without its other one.
    #[error("a brace without its other one; write {{{{ or }}}} for the character itself")]
    Brace,
    /// A reference that is none.
    #[error(
        "`{{{0}}}` refers to nothing; there are {{NAME}} of the path, {{claim.NAME}}, {{header.NAME}}, {{cookie.NAME}}, {{client.ip}}, {{request.id}}, {{api-key.name}}"
    )]
    Reference(String),
    /// The star belongs into the path that is matched.
    #[error("`{{{0}}}`: write the name without the star where the value is used")]
    Star(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// See [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            let (inner, after) = after.split_once('}').filter(|_| brace == "{").ok_or(TemplateError::Brace)?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Reference(Reference::parse(inner)?));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Self { parts: parts.into() })
    }

    /// The text, where it refers to nothing.
    #[must_use]
    pub fn as_static(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// What it refers to.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.parts.iter().filter_map(|part| match part {
            Part::Reference(reference) => Some(reference),
            Part::Literal(_) => None,
        })
    }

    /// The text with its references filled in as they are. None where one of them has no value.
    #[must_use]
    pub fn render(&self, values: &dyn Resolve) -> Option<Cow<'_, str>> {
        self.render_with(values, |_, _, _| {})
    }

    /// The same for a request's target: what is filled in can neither end a segment nor begin a query, and the path stays
    /// normalised. None where a reference has no value, or one (such as `..`) that would lead elsewhere.
    ///
    /// A parameter of the path is kept as it stood there, a tail with its slashes.
    #[must_use]
    pub fn render_target(&self, values: &dyn Resolve) -> Option<Cow<'_, str>> {
        let target = self.render_with(values, |reference, text, start| {
            if !matches!(reference, Reference::Param(_)) {
                let encoded = encode(&text[start..]);
                text.truncate(start);
                text.push_str(&encoded);
            }
        })?;
        let path = target.split_once('?').map_or(&*target, |(path, _)| path);
        match normalise(path) {
            Ok(Cow::Borrowed(_)) => Some(target),
            Ok(Cow::Owned(normal)) if *normal == *path => Some(target),
            _ => None,
        }
    }

    fn render_with(&self, values: &dyn Resolve, filled: impl Fn(&Reference, &mut String, usize)) -> Option<Cow<'_, str>> {
        if let Some(text) = self.as_static() {
            return Some(Cow::Borrowed(text));
        }
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Reference(reference) => {
                    let start = text.len();
                    if !values.resolve(reference, &mut text) {
                        return None;
                    }
                    filled(reference, &mut text, start);
                }
            }
        }
        Some(Cow::Owned(text))
    }
}

impl Reference {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        let refused = || TemplateError::Reference(text.to_owned());
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        let Some((scope, name)) = text.split_once('.') else {
            return match text {
                _ if text.starts_with('*') => Err(TemplateError::Star(text.to_owned())),
                _ if is_name(text) => Ok(Self::Param(text.into())),
                _ => Err(refused()),
            };
        };
        match (scope, name) {
            ("claim", name) if !name.is_empty() => Ok(Self::Claim(name.into())),
            ("header", name) => HeaderName::from_bytes(name.as_bytes())
                .map(Self::Header)
                .map_err(|_| refused()),
            ("cookie", name) if is_name(name) => Ok(Self::Cookie(name.into())),
            ("client", "ip") => Ok(Self::ClientIp),
            ("request", "id") => Ok(Self::RequestId),
            ("api-key", "name") => Ok(Self::ApiKeyName),
            ("claim" | "client" | "cookie" | "request" | "api-key", _) => Err(refused()),
            (scope, path) if is_name(scope) && path.split('.').all(is_name) => Ok(Self::Field {
                of: scope.into(),
                path: path.split('.').map(Into::into).collect(),
            }),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Param(name) => write!(f, "{{{name}}}"),
            Self::Claim(name) => write!(f, "{{claim.{name}}}"),
            Self::Header(name) => write!(f, "{{header.{name}}}"),
            Self::Cookie(name) => write!(f, "{{cookie.{name}}}"),
            Self::ClientIp => f.write_str("{client.ip}"),
            Self::RequestId => f.write_str("{request.id}"),
            Self::ApiKeyName => f.write_str("{api-key.name}"),
            Self::Field { of, path } => write!(f, "{{{of}.{}}}", path.join(".")),
        }
    }
}

/// Escapes everything but unreserved characters (RFC 3986 §2.3).
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(reference: &Reference, into: &mut String) -> bool {
        let value = match reference {
            Reference::Param(name) if **name == *"id" => "4%202",
            Reference::Param(name) if **name == *"rest" => "a/b/",
            Reference::Claim(name) if **name == *"sub" => "a/b?c",
            Reference::Claim(name) if **name == *"up" => "..",
            Reference::ClientIp => "::1",
            Reference::Field { of, path } if **of == *"customer" && *path[0] == *"account_id" => "7 7",
            _ => return false,
        };
        into.push_str(value);
        true
    }

    #[test]
    fn references_are_filled_in() {
        for (template, text) in [
            ("plain", Some("plain")),
            ("", Some("")),
            ("{{x}}", Some("{x}")),
            ("{claim.sub}", Some("a/b?c")),
            ("ip={client.ip};", Some("ip=::1;")),
            ("{id}-{id}", Some("4%202-4%202")),
            ("{claim.none}", None),
            ("{header.x}", None),
        ] {
            assert_eq!(
                Template::parse(template).unwrap().render(&values).as_deref(),
                text,
                "{template}"
            );
        }
    }

    #[test]
    fn a_target_cannot_be_steered_by_what_is_filled_in() {
        for (template, text) in [
            ("/v2/{id}", Some("/v2/4%202")),
            ("/new/{rest}", Some("/new/a/b/")),
            ("/u/{claim.sub}", Some("/u/a%2Fb%3Fc")),
            ("/u/{customer.account_id}?n={claim.sub}&m=5", Some("/u/7%207?n=a%2Fb%3Fc&m=5")),
            ("/u/{claim.up}", None),
            ("/u/{claim.up}/x", None),
        ] {
            assert_eq!(
                Template::parse(template).unwrap().render_target(&values).as_deref(),
                text,
                "{template}"
            );
        }
    }

    #[test]
    fn a_text_that_is_no_template_is_refused() {
        for text in [
            "{",
            "}",
            "{a",
            "a}",
            "{{a}",
            "{claim.}",
            "{client.name}",
            "{cookie.a b}",
            "{header.x y}",
            "{}",
            "{a b}",
            "{.a}",
            "{a.}",
            "{*rest}",
            "{a{b}",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        assert_eq!(Template::parse("{*rest}"), Err(TemplateError::Star("*rest".into())));
    }

    #[test]
    fn a_claim_may_have_dots() {
        let template = Template::parse("{claim.https://bank.example/tier}").unwrap();
        assert_eq!(
            template.references().next(),
            Some(&Reference::Claim("https://bank.example/tier".into()))
        );
    }
}
