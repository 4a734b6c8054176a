//! Redirects.

use super::Template;
use super::rewrite::{push_query, replace_path};
use crate::matching::{Params, View};
use crate::{RequestHead, Scheme};

/// An answer that sends the client elsewhere. What it does not name stays as the request has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// The scheme there.
    pub scheme: Option<Scheme>,
    /// The host there.
    pub host: Option<Box<str>>,
    /// The port there; where none is named, that of the scheme that is named, else the request's.
    pub port: Option<u16>,
    /// The path there, as in [`Rewrite`](super::Rewrite).
    pub path: Option<Template>,
}

impl Redirect {
    /// What it answers with where a config does not say: it can be taken back.
    pub const STATUS: u16 = 302;

    /// The `location`: a path where only that changes (RFC 9110 §10.2.2 allows it), else a whole URL. The query is kept.
    #[must_use]
    pub fn location(&self, view: &View<'_>, head: &RequestHead<'_>, params: &Params<'_, '_>) -> String {
        let mut location = String::new();
        if self.scheme.is_some() || self.host.is_some() || self.port.is_some() {
            let (scheme, usual) = match self.scheme.unwrap_or(head.scheme) {
                Scheme::Http => ("http://", 80),
                Scheme::Https => ("https://", 443),
            };
            location.push_str(scheme);
            location.push_str(self.host.as_deref().unwrap_or(&view.host));
            if let Some(port) = self.port(head).filter(|port| *port != usual) {
                location.push_str(&format!(":{port}"));
            }
        }
        match &self.path {
            Some(path) => location.push_str(&replace_path(path, params)),
            None => location.push_str(&view.path),
        }
        push_query(&mut location, view.query);
        location
    }

    /// > If redirect scheme is not-empty, the redirect port MUST be the well-known port associated with the redirect scheme. […] If redirect
    /// > scheme is empty, the redirect port MUST be the Gateway Listener port. (Gateway API, `HTTPRequestRedirectFilter`)
    ///
    /// The listener's port as the client knows it is the one that it asked for: behind a proxy the other would lead past it.
    fn port(&self, head: &RequestHead<'_>) -> Option<u16> {
        let asked = || {
            let (_, port) = head.authority.rsplit_once(':')?;
            port.parse().ok()
        };
        self.port.or_else(|| self.scheme.is_none().then(asked).flatten())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::matching::PathPattern;

    #[test]
    fn what_is_not_named_stays() {
        let fields = HeaderMap::new();
        let head = RequestHead {
            method: "GET",
            scheme: Scheme::Http,
            authority: "bank.example:8080",
            target: "/old/a%20b/?c=d",
            fields: &fields,
            peer: None,
        };
        let view = View::of(&head).unwrap();
        let pattern = PathPattern::full("/old/{*rest}").unwrap();
        let location = |redirect: Redirect| redirect.location(&view, &head, &pattern.params(&view.path));
        let same = Redirect {
            status: 308,
            scheme: None,
            host: None,
            port: None,
            path: None,
        };
        let path = Some(Template::parse("/new/{rest}").unwrap());
        assert_eq!(location(Redirect { path, ..same.clone() }), "/new/a%20b/?c=d");
        assert_eq!(
            location(Redirect {
                scheme: Some(Scheme::Https),
                ..same.clone()
            }),
            "https://bank.example/old/a%20b/?c=d"
        );
        let elsewhere = |port| Redirect {
            host: Some("b.example".into()),
            port,
            ..same.clone()
        };
        assert_eq!(location(elsewhere(Some(81))), "http://b.example:81/old/a%20b/?c=d");
        assert_eq!(
            location(elsewhere(None)),
            "http://b.example:8080/old/a%20b/?c=d",
            "the client's own port"
        );
        assert_eq!(
            location(elsewhere(Some(80))),
            "http://b.example/old/a%20b/?c=d",
            "a scheme's own port is left out"
        );
        assert_eq!(
            location(Redirect {
                scheme: Some(Scheme::Https),
                port: Some(8443),
                ..same
            }),
            "https://bank.example:8443/old/a%20b/?c=d"
        );
    }
}
