//! `cors`.

use std::time::Duration;

use http::{HeaderValue, Method};
use toml::Spanned;

use super::rule::header_name;
use crate::config::{Diagnostics, raw};
use crate::filter::{Allowed, Cors, Origin};
use crate::matching::Rule;

/// What a page may do where neither `cors` nor the route names methods.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";

impl raw::Cors {
    /// The filter of a route with these rules. None where it has a mistake.
    pub fn compile(&self, rules: &[Rule], diagnostics: &mut Diagnostics) -> Option<Cors> {
        let origins: Vec<_> = self
            .origins
            .get_ref()
            .iter()
            .map(|origin| compile_origin(origin, diagnostics))
            .collect();
        if origins.is_empty() {
            let error = diagnostics.error(self.origins.span(), "`origins` is empty");
            error.hint("name the pages that may use the route, as in \"https://app.bank.example\"");
        }
        let day = Duration::from_secs(24 * 3600);
        let max_age = self
            .max_age
            .as_ref()
            .map(|age| diagnostics.duration("`max_age`", age, Duration::ZERO..=day));
        let methods = list(self.methods.as_deref(), diagnostics, method);
        let headers = list(self.headers.as_deref(), diagnostics, header_name);
        let expose = list(self.expose.as_deref(), diagnostics, header_name);
        let origins: Vec<Origin> = origins.into_iter().collect::<Option<_>>()?;
        if let (Some(credentials), true) = (
            self.credentials.as_ref().filter(|on| *on.get_ref()),
            origins.contains(&Origin::Any),
        ) {
            // The Fetch Standard (§3.2.5) refuses `*` with credentials, and to name whoever asks is the same hole (CWE-942).
            let error = diagnostics.error(
                credentials.span(),
                "`credentials` for every origin lets any page act as its visitor",
            );
            error.hint("name the origins, or leave `credentials` out");
            return None;
        }
        let age = max_age.map_or(Some(Cors::MAX_AGE), |age| age.map(|age| age.as_secs()));
        Some(Cors {
            methods: match (methods?, &self.methods) {
                (Allowed::These(list), None) if list.is_empty() => Allowed::These(of_rules(rules)?),
                (methods, _) => methods,
            },
            headers: headers?,
            expose: match expose? {
                // A browser takes `*` for itself where no credentials are sent.
                Allowed::Any => Some(HeaderValue::from_static("*")),
                Allowed::These(list) => Some(list).filter(|list| !list.is_empty()),
            },
            credentials: self.credentials.as_ref().is_some_and(|on| *on.get_ref()),
            max_age: HeaderValue::from(age?),
            origins: (!origins.is_empty()).then_some(origins)?,
        })
    }
}

fn compile_origin(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<Origin> {
    let origin = Origin::parse(text.get_ref());
    if origin.is_none() {
        let error = diagnostics.error(text.span(), format!("`{}` is not an origin", text.get_ref()));
        error.hint(
            "an origin is a scheme, a host and maybe a port, as in \"https://app.bank.example\" or \"https://*.bank.example\"",
        );
    }
    origin
}

/// A list as the value of a field; `*` for whatever is asked for.
fn list<T: AsRef<str>>(
    raw: Option<&[Spanned<String>]>,
    diagnostics: &mut Diagnostics,
    compile: impl Fn(&Spanned<String>, &mut Diagnostics) -> Option<T>,
) -> Option<Allowed> {
    let raw = raw.unwrap_or_default();
    if raw.iter().any(|one| one.get_ref() == "*") {
        return Some(Allowed::Any);
    }
    let all: Vec<_> = raw.iter().map(|one| compile(one, diagnostics)).collect();
    let all: Vec<T> = all.into_iter().collect::<Option<_>>()?;
    let texts: Vec<&str> = all.iter().map(AsRef::as_ref).collect();
    HeaderValue::from_str(&texts.join(", ")).ok().map(Allowed::These)
}

fn method(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<Method> {
    let method = Method::from_bytes(text.get_ref().as_bytes()).ok();
    if method.is_none() {
        diagnostics.error(text.span(), format!("`{}` is not a method", text.get_ref()));
    }
    method
}

/// The methods that the route takes.
fn of_rules(rules: &[Rule]) -> Option<HeaderValue> {
    let mut methods: Vec<&str> = rules
        .iter()
        .flat_map(|rule| rule.methods.list())
        .map(Method::as_str)
        .collect();
    methods.sort_unstable();
    methods.dedup();
    if rules.iter().any(|rule| rule.methods.is_any()) {
        return Some(HeaderValue::from_static(METHODS));
    }
    HeaderValue::from_str(&methods.join(", ")).ok()
}
