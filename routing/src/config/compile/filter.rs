//! `rewrite`, `headers`, `redirect`, `respond`: filters.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use toml::Spanned;

use super::rule::header_name;
use crate::Scheme;
use crate::config::{Diagnostics, nearest, raw};
use crate::filter::{FixedAnswer, HeaderEdits, HeaderTemplate, Redirect, Reference, Rewrite, Template, TemplateError};
use crate::matching::{HostPattern, Rule, normalise};

impl Diagnostics {
    /// The template, where it is one and every `{name}` in it is captured by every rule.
    pub fn template(&mut self, text: &Spanned<String>, rules: &[Rule]) -> Option<Template> {
        let template = match Template::parse(text.get_ref()) {
            Ok(template) => template,
            Err(refused) => {
                let error = self.error(text.span(), refused.to_string());
                if let TemplateError::Star(name) = &refused {
                    error.hint(format!("write {{{}}}", name.trim_start_matches('*')));
                }
                return None;
            }
        };
        for reference in template.references() {
            if let Reference::Param(name) = reference
                && let Some(rule) = rules.iter().find(|rule| !rule.path.names().any(|own| *own == **name))
            {
                let names: Vec<&str> = rule.path.names().collect();
                let error = self.error(
                    text.span(),
                    format!("{reference} is not a parameter of the path `{}`", rule.path),
                );
                error.hint(crate::config::document::hint_for(name, &names).replace("no key is known here", "it has none"));
                return None;
            }
        }
        Some(template)
    }

    /// The same for a path that replaces the request's: it starts with `/`, refers to nothing but `{name}`, and has no query.
    pub fn path_template(&mut self, text: &Spanned<String>, rules: &[Rule]) -> Option<Template> {
        let template = self.template(text, rules)?;
        if let Some(other) = template
            .references()
            .find(|reference| !matches!(reference, Reference::Param(_)))
        {
            let error = self.error(text.span(), format!("{other} cannot be part of a path"));
            error.hint("a path is made of the parameters of the path that was matched");
            return None;
        }
        let stand_in = |_: &Reference, into: &mut String| {
            into.push('x');
            true
        };
        let path = template.render(&stand_in).unwrap_or_default();
        if path.contains(['?', '#']) {
            self.error(text.span(), "a path has neither query nor fragment")
                .hint("the query is kept as it came");
            return None;
        }
        match normalise(&path) {
            Ok(normal) if *normal == *path => Some(template),
            Ok(normal) => {
                self.error(text.span(), "the path is not normalised")
                    .hint(format!("the normal form is like \"{normal}\""));
                None
            }
            Err(error) => {
                self.error(text.span(), error.to_string());
                None
            }
        }
    }
}

impl raw::Rewrite {
    /// The rewrite of a route with these rules. None where it has a mistake.
    pub fn compile(&self, rules: &[Rule], diagnostics: &mut Diagnostics) -> Option<Rewrite> {
        let path = self.path.as_ref().map(|path| diagnostics.path_template(path, rules));
        let host = self.host.as_ref().map(|host| {
            let is_host = !host.get_ref().is_empty()
                && !host.get_ref().contains('{')
                && crate::matching::split_authority(host.get_ref()).is_some_and(|name| HostPattern::parse(&name).is_ok());
            if !is_host {
                diagnostics.error(
                    host.span(),
                    format!("`{}` is not a host, with or without a port", host.get_ref()),
                );
            }
            HeaderValue::from_str(host.get_ref()).ok().filter(|_| is_host)
        });
        Some(Rewrite {
            path: transpose(path)?,
            host: transpose(host)?,
        })
    }
}

impl raw::HeaderEdits {
    /// The edits of a route with these rules. None where they have a mistake.
    pub fn compile(&self, rules: &[Rule], diagnostics: &mut Diagnostics) -> Option<HeaderEdits> {
        let remove: Vec<_> = self.remove.iter().map(|name| editable(name, diagnostics)).collect();
        let set = templates(&self.set, rules, diagnostics);
        let add = templates(&self.add, rules, diagnostics);
        Some(HeaderEdits {
            remove: remove.into_iter().collect::<Option<_>>()?,
            set: set?,
            add: add?,
        })
    }
}

impl raw::Redirect {
    /// The redirect of a route with these rules. None where it has a mistake.
    pub fn compile(&self, rules: &[Rule], diagnostics: &mut Diagnostics) -> Option<Redirect> {
        let path = self.path.as_ref().map(|path| diagnostics.path_template(path, rules));
        let status = self.status.as_ref().map(|status| {
            let allowed = [301, 302, 303, 307, 308].contains(status.get_ref());
            if !allowed {
                let message = format!("{} is not a redirect, expected 301, 302, 303, 307 or 308", status.get_ref());
                diagnostics.error(status.span(), message);
            }
            allowed.then_some(*status.get_ref())
        });
        let scheme = self.scheme.as_ref().map(|scheme| match scheme.get_ref().as_str() {
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            other => {
                diagnostics.error(scheme.span(), format!("`{other}` is not a scheme, expected http or https"));
                None
            }
        });
        let host = self.host.as_ref().map(|host| match HostPattern::parse(host.get_ref()) {
            Ok(HostPattern::Exact(name)) => Some(name),
            _ => {
                let error = diagnostics.error(host.span(), format!("`{}` is not a host", host.get_ref()));
                error.hint("a port is written as `port`");
                None
            }
        });
        let port = self
            .port
            .as_ref()
            .map(|port| diagnostics.number("`port`", port, 1..=u16::MAX));
        Some(Redirect {
            status: transpose(status)?.unwrap_or(Redirect::STATUS),
            scheme: transpose(scheme)?,
            host: transpose(host)?,
            port: transpose(port)?,
            path: transpose(path)?,
        })
    }
}

impl raw::Respond {
    /// The answer; a body without `content-type` is plain text. None where it has a mistake.
    pub fn compile(&self, diagnostics: &mut Diagnostics) -> Option<FixedAnswer> {
        let status = diagnostics.number("`status`", &self.status, 200..=599);
        let body = Bytes::from(self.body.clone().unwrap_or_default());
        // RFC 9110 §6.4.1.
        if matches!(status, Some(204 | 205 | 304)) && !body.is_empty() {
            diagnostics.error(
                self.status.span(),
                format!("an answer with {} has no body", self.status.get_ref()),
            );
            return None;
        }
        let mut fields = Vec::new();
        let mut whole = true;
        for (name, value) in &self.headers {
            let name = editable(name, diagnostics);
            let value = header_value(value, diagnostics);
            whole &= name.is_some() && value.is_some();
            fields.extend(name.zip(value));
        }
        if !body.is_empty() && !fields.iter().any(|(name, _)| *name == CONTENT_TYPE) {
            fields.push((CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
        }
        status.filter(|_| whole).map(|status| FixedAnswer { status, fields, body })
    }
}

fn templates(
    raw: &BTreeMap<Spanned<String>, Spanned<String>>,
    rules: &[Rule],
    diagnostics: &mut Diagnostics,
) -> Option<Vec<(HeaderName, HeaderTemplate)>> {
    let mut compiled = Vec::with_capacity(raw.len());
    for (name, text) in raw {
        let name = editable(name, diagnostics);
        let template = diagnostics
            .template(text, rules)
            .filter(|template| refers_to_the_request(template, text, diagnostics));
        let value = template.and_then(|template| match template.as_static() {
            Some(literal) => {
                header_value(&Spanned::new(text.span(), literal.to_owned()), diagnostics).map(HeaderTemplate::Static)
            }
            None => Some(HeaderTemplate::Filled(template)),
        });
        compiled.push(name.zip(value));
    }
    compiled.into_iter().collect()
}

/// A field of something named has a meaning where something is named, as in an aggregate, and none here.
fn refers_to_the_request(template: &Template, text: &Spanned<String>, diagnostics: &mut Diagnostics) -> bool {
    let field = template.references().find_map(|reference| match reference {
        Reference::Field { of, path } => Some((of, path)),
        _ => None,
    });
    let Some((of, path)) = field else { return true };
    let path = path.join(".");
    let error = diagnostics.error(text.span(), TemplateError::Reference(format!("{of}.{path}")).to_string());
    if let Some(near) = nearest(of, ["claim", "header", "cookie", "client", "request"]) {
        error.hint(format!("did you mean `{{{near}.{path}}}`?"));
    }
    false
}

fn header_value(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(text.get_ref()).ok();
    if value.is_none() {
        diagnostics.error(text.span(), "a header field's value has no control characters");
    }
    value
}

/// A header field that a route may edit: not one that frames or belongs to a connection (RFC 9110 §7.6.1).
fn editable(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<HeaderName> {
    const FRAMING: [&str; 9] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let name = header_name(text, diagnostics)?;
    if !FRAMING.contains(&name.as_str()) {
        return Some(name);
    }
    let error = diagnostics.error(
        text.span(),
        format!("`{name}` cannot be edited: it belongs to the connection, not to the message"),
    );
    if name == "host" {
        error.hint("write rewrite = { host = … }");
    }
    None
}

/// None where there was something and it had a mistake.
fn transpose<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(None) => None,
        Some(some) => Some(some),
        None => Some(None),
    }
}
