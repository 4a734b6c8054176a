//! A request that is only thought of: what `explain` and `diff` ask the gateway about.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use routing::{RequestHead, Scheme};

/// The head of a request.
#[derive(Debug)]
pub(super) struct Request {
    method: Method,
    uri: Uri,
    /// The URL's own authority, else `Host`.
    authority: String,
    fields: HeaderMap,
}

impl Request {
    pub(super) fn new(method: &str, url: &str, fields: HeaderMap) -> anyhow::Result<Self> {
        let method: Method = method.parse().with_context(|| format!("{method:?} is no method"))?;
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        let host = fields.get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = uri
            .authority()
            .map_or(host.unwrap_or_default(), |authority| authority.as_str());
        Ok(Self {
            authority: authority.to_owned(),
            method,
            uri,
            fields,
        })
    }

    pub(super) fn fields(&self) -> &HeaderMap {
        &self.fields
    }

    /// As the gateway sees it, from this machine.
    pub(super) fn head(&self) -> RequestHead<'_> {
        let https = self.uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        RequestHead {
            method: self.method.as_str(),
            scheme: if https { Scheme::Https } else { Scheme::Http },
            authority: &self.authority,
            target: self.uri.path_and_query().map_or("/", |target| target.as_str()),
            fields: &self.fields,
            peer: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }
}

/// Reads `name: value`.
pub(super) fn field(line: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) = line
        .split_once(':')
        .with_context(|| format!("{line:?} is no header field: write 'name: value'"))?;
    named(name.trim(), value.trim())
}

/// A field of these.
pub(super) fn named(name: &str, value: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let name = name.parse().with_context(|| format!("{name:?} is no field name"))?;
    let value = value.parse().with_context(|| format!("{value:?} is no field value"))?;
    Ok((name, value))
}
