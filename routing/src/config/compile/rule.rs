//! `match`: rules.

use std::ops::Range;

use http::{HeaderName, Method};
use toml::Spanned;

use crate::config::{Diagnostics, OneOrMany, raw};
use crate::matching::{
    HeaderMatch, HostError, HostPattern, MethodMatch, PathPattern, PathPatternError, QueryMatch, Rule, ValueMatch,
};
use crate::table::{RuleId, Unreachable};

impl OneOrMany<raw::Match> {
    /// The rules of a route. None where one of them has a mistake.
    pub fn compile(&self, diagnostics: &mut Diagnostics) -> Option<Vec<Rule>> {
        let rules: Vec<_> = self.0.iter().map(|one| one.get_ref().compile(diagnostics)).collect();
        rules.into_iter().collect()
    }

    /// Where each rule is in the source; for [`Diagnostics::unreachable`].
    #[must_use]
    pub fn spans(&self) -> Vec<Range<usize>> {
        self.0.iter().map(Spanned::span).collect()
    }
}

impl raw::Match {
    /// The rule. None where it has a mistake. Without `path` and `path_prefix` it is for every path.
    pub fn compile(&self, diagnostics: &mut Diagnostics) -> Option<Rule> {
        let path = self.compile_path(diagnostics);
        let hosts = diagnostics.elements("hosts", self.hosts.as_ref(), compile_host);
        let methods = diagnostics.elements("methods", self.methods.as_ref(), |text, diagnostics| diagnostics.method(text));
        let mut headers = Some(Vec::new());
        for (name, value) in &self.headers {
            let header = header_name(name, diagnostics);
            let value = compile_value(value, diagnostics);
            let header = header.zip(value).map(|(name, value)| HeaderMatch { name, value });
            headers = headers.zip(header).map(|(mut headers, header)| {
                headers.push(header);
                headers
            });
        }
        let mut query = Some(Vec::new());
        for (name, value) in &self.query {
            let value = compile_value(value, diagnostics);
            query = query.zip(value).map(|(mut query, value)| {
                query.push(QueryMatch {
                    name: name.get_ref().as_str().into(),
                    value,
                });
                query
            });
        }
        Some(Rule {
            hosts: hosts?,
            path: path?,
            methods: MethodMatch::any_of(methods?),
            headers: headers?,
            query: query?,
        })
    }

    fn compile_path(&self, diagnostics: &mut Diagnostics) -> Option<PathPattern> {
        let (text, parsed) = match (&self.path, &self.path_prefix) {
            (Some(path), None) => (path, PathPattern::full(path.get_ref())),
            (None, Some(prefix)) => (prefix, PathPattern::prefix(prefix.get_ref())),
            (None, None) => return PathPattern::prefix("/").ok(),
            (Some(_), Some(prefix)) => {
                let error = diagnostics.error(prefix.span(), "a match has `path` or `path_prefix`, not both");
                error.hint("write two matches: match = [{ path = … }, { path_prefix = … }]");
                return None;
            }
        };
        match parsed {
            Ok(pattern) => Some(pattern),
            Err(refused) => {
                let error = diagnostics.error(text.span(), refused.to_string());
                match refused {
                    PathPatternError::NotAbsolute => error.hint(format!("write \"/{}\"", text.get_ref())),
                    PathPatternError::TailInside(_) if self.path_prefix.is_some() => {
                        error.hint("a prefix is open at its end by itself; to capture the rest, write `path`");
                    }
                    _ => {}
                }
                None
            }
        }
    }
}

impl Diagnostics {
    /// Reports rules that can never be reached, at their places and with the place of the one that comes first.
    pub fn unreachable(
        &mut self,
        found: &[Unreachable],
        name: impl Fn(RuleId) -> String,
        span: impl Fn(RuleId) -> Range<usize>,
    ) {
        for Unreachable { rule, by } in found {
            let first = format!("line {}", self.line_of(span(*by).start));
            let message = if rule.route == by.route {
                format!(
                    "this match of route `{}` can never be reached: the one in {first} takes the same requests",
                    name(*rule)
                )
            } else {
                let (route, by) = (name(*rule), name(*by));
                format!("route `{route}` can never be reached: route `{by}` in {first} takes the same requests and comes first")
            };
            self.error(span(*rule), message)
                .hint("remove one of them, or tell them apart by host, method, headers or query");
        }
    }

    /// The method; a mistake where it is none.
    pub fn method(&mut self, text: &Spanned<String>) -> Option<Method> {
        let upper = text.get_ref().to_ascii_uppercase();
        let method = Method::from_bytes(text.get_ref().as_bytes());
        let is_standard =
            ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"].contains(&upper.as_str());
        match method {
            Ok(method) if !is_standard || upper == *text.get_ref() => Some(method),
            _ => {
                let error = self.error(text.span(), format!("`{}` is not a method", text.get_ref()));
                if is_standard {
                    error.hint(format!("methods are case-sensitive: write \"{upper}\""));
                }
                None
            }
        }
    }

    /// Every element of the list `what`, compiled. An empty list is a mistake, since it reads as "none" and would mean "any".
    pub fn elements<R, T>(
        &mut self,
        what: &str,
        list: Option<&Spanned<Vec<Spanned<R>>>>,
        compile: impl Fn(&Spanned<R>, &mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(list) = list else { return Some(Vec::new()) };
        if list.get_ref().is_empty() {
            self.error(list.span(), format!("`{what}` is empty"))
                .hint(format!("leave `{what}` out to match any"));
            return None;
        }
        let compiled: Vec<_> = list.get_ref().iter().map(|one| compile(one, self)).collect();
        compiled.into_iter().collect()
    }
}

fn compile_host(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<HostPattern> {
    match HostPattern::parse(text.get_ref()) {
        Ok(host) => Some(host),
        Err(refused) => {
            let error = diagnostics.error(text.span(), format!("host `{}`: {refused}", text.get_ref()));
            if refused == HostError::Port
                && let Some((host, _)) = text.get_ref().rsplit_once(':')
            {
                error.hint(format!("write \"{host}\"; it matches every port"));
            }
            None
        }
    }
}

fn compile_value(value: &raw::Value, diagnostics: &mut Diagnostics) -> Option<ValueMatch> {
    match value {
        raw::Value::Text(text) => Some(ValueMatch::Text(text.as_str().into())),
        raw::Value::Present(present) => Some(ValueMatch::Present(*present)),
        raw::Value::Regex(regex) => match ValueMatch::regex(regex.get_ref()) {
            Ok(value) => Some(value),
            Err(error) => {
                diagnostics.error(regex.span(), format!("not a regular expression: {error}"));
                None
            }
        },
    }
}

/// A header field's name.
pub(super) fn header_name(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.get_ref().as_bytes()).ok();
    if name.is_none() {
        diagnostics.error(text.span(), format!("`{}` is not the name of a header field", text.get_ref()));
    }
    name
}
