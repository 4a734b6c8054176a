//! Which other sites' pages may use a route (CORS, Fetch Standard §3.2).
//!
//! A browser asks before it sends what a plain form could not send: the *preflight*, an `OPTIONS` with `origin` and
//! `access-control-request-method`. What it may do then, and whether the page may read the answer, is said in header fields. CORS
//! protects a browser's user from other sites; it keeps nobody else out, so a request of a wrong origin is served like any other, only
//! without the fields.

use std::fmt;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN, VARY,
};
use http::{HeaderName, HeaderValue};

use super::HeaderEdit;
use crate::Fields;
use crate::matching::HostPattern;

/// Which other sites' pages may use a route, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Where the pages come from.
    pub origins: Vec<Origin>,
    /// The methods that they may use.
    pub methods: Allowed,
    /// The header fields that they may send, besides those that any page may.
    pub headers: Allowed,
    /// The header fields of answers that they may read, besides those that any page may; none where there is none.
    pub expose: Option<HeaderValue>,
    /// Whether their requests may carry cookies and the like.
    pub credentials: bool,
    /// For how many seconds a browser need not ask again.
    pub max_age: HeaderValue,
}

/// Where a page comes from: a scheme, a host and a port (RFC 6454 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `*`: from anywhere.
    Any,
    /// `https://app.bank.example` or `https://*.bank.example:8443`.
    From {
        /// The scheme, with `://`.
        scheme: Box<str>,
        /// The host.
        host: HostPattern,
        /// The port, with `:`; empty where it is the scheme's own.
        port: Box<str>,
    },
}

/// A list of what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// Whatever is asked for.
    Any,
    /// These, as the field's value.
    These(HeaderValue),
}

/// The fields that are this filter's word alone: whatever an upstream says in them.
const SPOKEN: [HeaderName; 3] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
];

impl Cors {
    /// How long a browser need not ask again where a config does not say: as long as browsers take it to be themselves.
    pub const MAX_AGE: u64 = 5;

    /// The method for which a request is the preflight; none where it is another request.
    #[must_use]
    pub fn preflight<'f>(method: &str, fields: &'f dyn Fields) -> Option<&'f str> {
        let is_one = method == "OPTIONS" && fields.first(ORIGIN.as_str()).is_some();
        is_one.then(|| fields.text(ACCESS_CONTROL_REQUEST_METHOD.as_str())).flatten()
    }

    /// The fields of the answer to a preflight. To a wrong origin it says nothing, which is a no.
    #[must_use]
    pub fn answer(&self, fields: &dyn Fields) -> Vec<(HeaderName, HeaderValue)> {
        let mut answer = vec![(
            VARY,
            HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers"),
        )];
        let Some(origin) = self.allowed(fields) else { return answer };
        answer.push((ACCESS_CONTROL_ALLOW_ORIGIN, origin));
        if self.credentials {
            answer.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        let methods = self.methods.answer(fields, &ACCESS_CONTROL_REQUEST_METHOD);
        answer.extend(methods.map(|methods| (ACCESS_CONTROL_ALLOW_METHODS, methods)));
        let headers = self.headers.answer(fields, &ACCESS_CONTROL_REQUEST_HEADERS);
        answer.extend(headers.map(|headers| (ACCESS_CONTROL_ALLOW_HEADERS, headers)));
        answer.push((ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        answer
    }

    /// The edits of the answer to any other request.
    #[must_use]
    pub fn edits(&self, fields: &dyn Fields) -> Vec<HeaderEdit> {
        let mut edits: Vec<HeaderEdit> = SPOKEN.into_iter().map(HeaderEdit::Remove).collect();
        if let Some(origin) = self.allowed(fields) {
            edits.push(HeaderEdit::Set(ACCESS_CONTROL_ALLOW_ORIGIN, origin));
            if self.credentials {
                edits.push(HeaderEdit::Set(
                    ACCESS_CONTROL_ALLOW_CREDENTIALS,
                    HeaderValue::from_static("true"),
                ));
            }
            let expose = self.expose.clone();
            edits.extend(expose.map(|expose| HeaderEdit::Set(ACCESS_CONTROL_EXPOSE_HEADERS, expose)));
        }
        if !self.is_open() {
            // A cache must not give one origin what was meant for another, nor what was meant for none.
            edits.push(HeaderEdit::Add(VARY, HeaderValue::from_static("origin")));
        }
        edits
    }

    /// The value of `access-control-allow-origin`, where the request's origin is one of those that are allowed.
    fn allowed(&self, fields: &dyn Fields) -> Option<HeaderValue> {
        let origin = fields.text(ORIGIN.as_str())?;
        if fields.nth(ORIGIN.as_str(), 1).is_some() || !self.origins.iter().any(|allowed| allowed.matches(origin)) {
            return None;
        }
        if self.is_open() {
            return Some(HeaderValue::from_static("*"));
        }
        HeaderValue::from_str(origin).ok()
    }

    fn is_open(&self) -> bool {
        self.origins.contains(&Origin::Any)
    }
}

impl Origin {
    /// Reads `*`, `https://app.bank.example`, `https://*.bank.example` or `http://localhost:3000`. None where it is none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let text = text.to_ascii_lowercase();
        let (scheme, rest) = text.split_once("://")?;
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse::<u16>().ok().filter(|port| *port > 0)?)),
            _ => (rest, None),
        };
        let host = HostPattern::parse(host).ok().filter(|host| *host != HostPattern::Any)?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.'));
        // An origin leaves out its scheme's own port (RFC 6454 §6.2).
        let port = port.filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
        is_scheme.then(|| Self::From {
            scheme: format!("{scheme}://").into(),
            host,
            port: port.map(|port| format!(":{port}")).unwrap_or_default().into(),
        })
    }

    fn matches(&self, origin: &str) -> bool {
        let Self::From { scheme, host, port } = self else {
            return true;
        };
        let Some(rest) = origin.strip_prefix(&**scheme) else {
            return false;
        };
        let Some(name) = rest.strip_suffix(&**port) else {
            return false;
        };
        // What is no host, such as one with a port of its own, is below no suffix either.
        let is_host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._[]:".contains(&byte);
        let has_port = name.rsplit_once(':').is_some_and(|(_, end)| !end.ends_with(']'));
        !has_port && name.bytes().all(is_host) && host.matches(name)
    }
}

impl Allowed {
    /// What to answer with, where `asked` names what is asked for.
    fn answer(&self, fields: &dyn Fields, asked: &HeaderName) -> Option<HeaderValue> {
        match self {
            Self::These(list) => Some(list.clone()).filter(|list| !list.is_empty()),
            // What was asked for and not `*`, which means nothing where credentials are sent, and never `authorization`.
            Self::Any => fields
                .text(asked.as_str())
                .and_then(|asked| HeaderValue::from_str(asked).ok()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::From { scheme, host, port } => write!(f, "{scheme}{host}{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        Cors {
            origins: origins.iter().map(|origin| Origin::parse(origin).unwrap()).collect(),
            methods: Allowed::These(HeaderValue::from_static("GET, POST")),
            headers: Allowed::Any,
            expose: Some(HeaderValue::from_static("x-total")),
            credentials,
            max_age: HeaderValue::from(600),
        }
    }

    fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn applied(edits: Vec<HeaderEdit>, upstream: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut map = fields(upstream);
        for edit in edits {
            match edit {
                HeaderEdit::Set(name, value) => drop(map.insert(name, value)),
                HeaderEdit::Add(name, value) => drop(map.append(name, value)),
                HeaderEdit::Remove(name) => drop(map.remove(name)),
            }
        }
        let mut list: Vec<_> = map
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        list.sort();
        list
    }

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        let matches = |allowed: &str, origin: &str| Origin::parse(allowed).unwrap().matches(origin);
        for (allowed, origin) in [
            ("https://app.bank.example", "https://app.bank.example"),
            ("https://app.bank.example:443", "https://app.bank.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("https://*.bank.example", "https://a.b.bank.example"),
            ("https://*.bank.example:8443", "https://a.bank.example:8443"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("*", "https://anywhere.example"),
            ("*", "null"),
        ] {
            assert!(matches(allowed, origin), "{allowed} {origin}");
        }
        for (allowed, origin) in [
            ("https://app.bank.example", "http://app.bank.example"),
            ("https://app.bank.example", "https://app.bank.example:8443"),
            ("https://app.bank.example", "https://app.bank.example.evil.example"),
            ("https://*.bank.example", "https://bank.example"),
            ("https://*.bank.example", "https://evilbank.example"),
            ("https://*.bank.example", "https://evil.example/.bank.example"),
            ("https://*.bank.example", "https://evil.example:1.bank.example"),
            ("https://*.bank.example", "https://a.bank.example:8443"),
            ("https://*.bank.example", "null"),
        ] {
            assert!(!matches(allowed, origin), "{allowed} {origin}");
        }
        for text in [
            "",
            "app.bank.example",
            "https://",
            "https://a/b",
            "https://a:0",
            "https://a:b",
            "https://*",
            "://a",
            "https://a b",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_preflight_is_answered_with_what_is_allowed() {
        let asked = fields(&[
            ("origin", "https://app.bank.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type,x-a"),
        ]);
        assert_eq!(Cors::preflight("OPTIONS", &asked), Some("POST"));
        assert_eq!(Cors::preflight("GET", &asked), None);
        assert_eq!(Cors::preflight("OPTIONS", &fields(&[("origin", "https://a")])), None);
        let answer = |cors: &Cors| -> HeaderMap { cors.answer(&asked).into_iter().collect() };
        let yes = answer(&cors(&["https://app.bank.example"], true));
        assert_eq!(yes["access-control-allow-origin"], "https://app.bank.example");
        assert_eq!(yes["access-control-allow-credentials"], "true");
        assert_eq!(yes["access-control-allow-methods"], "GET, POST");
        assert_eq!(yes["access-control-allow-headers"], "content-type,x-a");
        assert_eq!(yes["access-control-max-age"], "600");
        let no = answer(&cors(&["https://other.example"], true));
        assert_eq!(no.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["vary"]);
    }

    #[test]
    fn answers_say_who_may_read_them_and_no_upstream_says_otherwise() {
        let upstream = [
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "x-secret"),
        ];
        let ours = fields(&[("origin", "https://app.bank.example")]);
        let theirs = fields(&[("origin", "https://evil.example")]);
        let strict = cors(&["https://app.bank.example"], false);
        assert_eq!(
            applied(strict.edits(&ours), &upstream),
            [
                "access-control-allow-origin: https://app.bank.example",
                "access-control-expose-headers: x-total",
                "vary: origin"
            ]
        );
        assert_eq!(applied(strict.edits(&theirs), &upstream), ["vary: origin"]);
        assert_eq!(applied(strict.edits(&fields(&[])), &upstream), ["vary: origin"]);
        let open = cors(&["*"], false);
        assert_eq!(
            applied(open.edits(&theirs), &upstream),
            ["access-control-allow-origin: *", "access-control-expose-headers: x-total"]
        );
    }
}
