//! What the upstream sees instead of what the request brought.

use http::HeaderValue;

use super::Template;
use crate::matching::{Params, PathKind};

/// Another path, another host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The path. Under a `path_prefix` it replaces the prefix and what follows is kept, else it replaces the whole path.
    pub path: Option<Template>,
    /// The host, which may have a port.
    pub host: Option<HeaderValue>,
}

impl Rewrite {
    /// The target to send, where it is another: the rewritten path, with the query as it came.
    #[must_use]
    pub fn target(&self, params: &Params<'_, '_>, query: Option<&str>) -> Option<String> {
        let mut target = replace_path(self.path.as_ref()?, params);
        push_query(&mut target, query);
        Some(target)
    }
}

/// The path by a template that refers only to parameters that every rule of the route captures.
pub(super) fn replace_path(template: &Template, params: &Params<'_, '_>) -> String {
    let mut path = template.render_target(params).unwrap_or_default().into_owned();
    if *params.pattern().kind() == PathKind::Prefix && !params.remainder().is_empty() {
        if path.ends_with('/') {
            path.pop();
        }
        path.push_str(params.remainder());
    }
    if path.is_empty() {
        path.push('/');
    }
    path
}

pub(super) fn push_query(target: &mut String, query: Option<&str>) {
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::PathPattern;

    fn rewrite(pattern: &PathPattern, to: &str, path: &str) -> Option<String> {
        assert!(pattern.matches(path), "{path}");
        Rewrite {
            path: Some(Template::parse(to).unwrap()),
            host: None,
        }
        .target(&pattern.params(path), Some("a=1"))
    }

    #[test]
    fn a_template_replaces_the_whole_path_and_the_query_stays() {
        let pattern = PathPattern::full("/accounts/{id}").unwrap();
        assert_eq!(
            rewrite(&pattern, "/v2/accounts/{id}", "/accounts/4%2F2").as_deref(),
            Some("/v2/accounts/4%2F2?a=1")
        );
        let pattern = PathPattern::full("/old/{*rest}").unwrap();
        assert_eq!(
            rewrite(&pattern, "/new/{rest}", "/old/a/b/").as_deref(),
            Some("/new/a/b/?a=1")
        );
        assert_eq!(Rewrite::default().target(&pattern.params("/old/a"), None), None);
    }

    #[test]
    fn under_a_prefix_the_prefix_is_replaced_as_the_gateway_api_has_it() {
        let pattern = PathPattern::prefix("/foo").unwrap();
        for (to, path, target) in [
            ("/xyz", "/foo/bar", "/xyz/bar?a=1"),
            ("/xyz/", "/foo/bar", "/xyz/bar?a=1"),
            ("/xyz", "/foo/", "/xyz/?a=1"),
            ("/xyz", "/foo", "/xyz?a=1"),
            ("/", "/foo/bar", "/bar?a=1"),
            ("/", "/foo", "/?a=1"),
        ] {
            assert_eq!(rewrite(&pattern, to, path).as_deref(), Some(target), "{to} {path}");
        }
        assert_eq!(
            rewrite(&PathPattern::prefix("/").unwrap(), "/api", "/x").as_deref(),
            Some("/api/x?a=1")
        );
    }
}
