//! `[gateway]` and `[mesh]`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use routing::config::{Diagnostics, OneOrMany, Spanned, nearest};

use super::raw;
use crate::exchange::Cidr;

/// What the `[gateway]` and `[mesh]` sections say.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The gateway's name, which is its service name in the mesh. Default `gateway`.
    pub name: String,
    /// Where it listens. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// Where its admin interface listens. Default `127.0.0.1:9901`.
    pub admin: SocketAddr,
    /// The certificates with which it answers TLS; plain HTTP where there are none. Ignored at the edge, whose runtime ends TLS.
    pub tls: Vec<CertificateFiles>,
    /// The longest header section that is accepted, in bytes: 1 KiB to 1 MiB, default 64 KiB. A longer one is answered with
    /// [`HeadTooLarge`](routing::Reason::HeadTooLarge).
    pub max_header: usize,
    /// The longest path and query that are accepted, in bytes: 256 B to 64 KiB, default 16 KiB. A longer one is answered with
    /// [`UriTooLong`](routing::Reason::UriTooLong).
    pub max_uri: usize,
    /// The longest body of a request that is read for a policy, in bytes, where the route does not say: up to 1 GiB, default 1 MiB.
    pub max_body: u64,
    /// How long requests under way have to finish when the gateway stops: up to 1 h, default 30 s.
    pub drain: Duration,
    /// The mesh to join, where there is a `[mesh]` section.
    pub mesh: Option<MeshSettings>,
    /// The store of the quotas that several gateways share, where there is one.
    pub quotas: Option<QuotaStore>,
    pub(crate) trusted_proxies: Vec<Cidr>,
}

/// A certificate and its key, both by the paths that the config has for them. The host reads them: a private key never enters a
/// guest.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CertificateFiles {
    /// The chain in PEM, the gateway's own certificate first.
    pub cert_file: Spanned<String>,
    /// The private key in PEM.
    pub key_file: Spanned<String>,
}

/// Where quotas are kept that several gateways share.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaStore {
    /// A server that speaks the protocol of Redis: `redis://` or `rediss://` (by TLS), with a password where it wants one.
    pub redis: Secret,
    /// How long a request waits for it: 1 ms to 5 s, default 50 ms.
    pub timeout: Duration,
    /// What becomes of requests as long as it does not answer.
    pub when_down: WhenDown,
}

/// What becomes of requests that are counted where nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDown {
    /// Each gateway counts for itself. The default.
    Local,
    /// They are let in.
    Open,
    /// They are refused.
    Closed,
}

impl WhenDown {
    const ALL: [(&str, Self); 3] = [("local", Self::Local), ("open", Self::Open), ("closed", Self::Closed)];
}

impl fmt::Display for WhenDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = Self::ALL.iter().find(|(_, own)| own == self);
        f.write_str(own.map_or("", |(word, _)| word))
    }
}

/// What the `[mesh]` section says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeshSettings {
    /// The control plane, as `http://HOST:PORT`.
    pub control: Option<String>,
    /// The ingress for a gateway that cannot join, as a URL.
    pub ingress: Option<String>,
    /// The key that signs what is sent to the ingress.
    pub handoff_key: Option<Secret>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

const MAX_HEADER: u64 = 64 << 10;
/// What nginx and Envoy take at most in their defaults is 8 to 60 KiB; OAuth and SAML URLs reach 10.
const MAX_URI: u64 = 16 << 10;
const MAX_BODY: u64 = 1 << 20;
const DRAIN: Duration = Duration::from_secs(30);
/// A store in the same room answers in a tenth of a millisecond; one that takes longer than this is not worth the wait.
const QUOTAS_TIMEOUT: Duration = Duration::from_millis(50);

/// Compiles both sections; what is wrong in them is reported and has its default.
pub(super) fn compile(gateway: raw::Gateway, mesh: Option<raw::Mesh>, diagnostics: &mut Diagnostics) -> Settings {
    let max_header = gateway
        .max_header
        .as_ref()
        .and_then(|max| diagnostics.size("`max_header`", max, 1 << 10..=1 << 20));
    let max_uri = gateway
        .max_uri
        .as_ref()
        .and_then(|max| diagnostics.size("`max_uri`", max, 256..=64 << 10));
    let max_body = gateway
        .max_body
        .as_ref()
        .and_then(|max| diagnostics.size("`max_body`", max, 1..=1 << 30));
    let drain = gateway.drain.as_ref();
    let drain = drain.and_then(|drain| diagnostics.duration("`drain`", drain, Duration::ZERO..=Duration::from_secs(3600)));
    let blocks = gateway.trusted_proxies.iter().flatten();
    let trusted_proxies = blocks.filter_map(|block| cidr(block, diagnostics)).collect();
    Settings {
        name: gateway
            .name
            .map_or_else(|| "gateway".to_owned(), |name| service_name(name, diagnostics)),
        listen: address(gateway.listen.as_ref(), 8080, "listen", diagnostics),
        admin: address(gateway.admin.as_ref(), 9901, "admin", diagnostics),
        tls: gateway.tls.map(|tls| certificates(tls, diagnostics)).unwrap_or_default(),
        max_header: usize::try_from(max_header.unwrap_or(MAX_HEADER)).unwrap_or(usize::MAX),
        max_uri: usize::try_from(max_uri.unwrap_or(MAX_URI)).unwrap_or(usize::MAX),
        max_body: max_body.unwrap_or(MAX_BODY),
        drain: drain.unwrap_or(DRAIN),
        mesh: mesh.map(|mesh| MeshSettings {
            control: mesh.control.map(|control| url(control, "http://127.0.0.1:7700", diagnostics)),
            ingress: mesh.ingress.map(|ingress| url(ingress, "https://mesh.example", diagnostics)),
            handoff_key: mesh.handoff_key.map(Secret),
        }),
        quotas: gateway
            .quotas
            .and_then(|quotas| quota_store(quotas.into_inner(), diagnostics)),
        trusted_proxies,
    }
}

fn quota_store(raw: raw::Quotas, diagnostics: &mut Diagnostics) -> Option<QuotaStore> {
    let timeout = raw.timeout.as_ref().map_or(Some(QUOTAS_TIMEOUT), |timeout| {
        diagnostics.duration("`timeout`", timeout, Duration::from_millis(1)..=Duration::from_secs(5))
    });
    let words = || WhenDown::ALL.iter().map(|(word, _)| *word);
    let when_down = raw.when_down.as_ref().map_or(Some(WhenDown::Local), |text| {
        let known = WhenDown::ALL.iter().find(|(word, _)| word == text.get_ref());
        if known.is_none() {
            let error = diagnostics.error(text.span(), format!("`{}` is nothing that can be done then", text.get_ref()));
            error.hint(match nearest(text.get_ref(), words()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", words().collect::<Vec<_>>().join(", ")),
            });
        }
        known.map(|(_, when_down)| *when_down)
    });
    let is_server = raw.redis.get_ref().parse::<http::Uri>().is_ok_and(|uri| {
        let path = uri.path().trim_start_matches('/');
        matches!(uri.scheme_str(), Some("redis" | "rediss"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && (path.is_empty() || path.parse::<u16>().is_ok())
            && uri.query().is_none()
    });
    if !is_server {
        // Without the text: it may hold a password.
        let error = diagnostics.error(raw.redis.span(), "`redis` is not the URL of a Redis server");
        error.hint("write it as \"redis://10.0.0.5:6379\", \"rediss://USER:${REDIS_PASSWORD}@HOST:6380/0\" for TLS");
    }
    Some(QuotaStore {
        redis: Secret(raw.redis.into_inner()),
        timeout: timeout?,
        when_down: when_down?,
    })
    .filter(|_| is_server)
}

fn certificates(tls: Spanned<OneOrMany<raw::Tls>>, diagnostics: &mut Diagnostics) -> Vec<CertificateFiles> {
    let span = tls.span();
    let OneOrMany(list) = tls.into_inner();
    if list.is_empty() {
        let error = diagnostics.error(span, "`tls` is an empty list");
        error.hint("leave `tls` out to speak plain HTTP, or write { cert_file = \"cert.pem\", key_file = \"key.pem\" }");
    }
    let files = list.into_iter().map(Spanned::into_inner);
    files
        .map(|raw::Tls { cert_file, key_file }| CertificateFiles { cert_file, key_file })
        .collect()
}

fn service_name(name: Spanned<String>, diagnostics: &mut Diagnostics) -> String {
    let text = name.get_ref();
    let is_label = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if !is_label {
        let error = diagnostics.error(name.span(), format!("`{text}` is not a name that a service can have"));
        error.hint("a name has 1 to 63 small letters, digits and -, as in \"bank\"");
    }
    name.into_inner()
}

fn address(text: Option<&Spanned<String>>, port: u16, key: &str, diagnostics: &mut Diagnostics) -> SocketAddr {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Some(text) = text else { return default };
    text.get_ref().parse().unwrap_or_else(|_| {
        let error = diagnostics.error(text.span(), format!("`{}` is not an IP address and a port", text.get_ref()));
        error.hint(format!("write {key} = \"{default}\", or \"[::]:{port}\" for every address"));
        default
    })
}

fn cidr(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<Cidr> {
    let block = Cidr::parse(text.get_ref());
    if block.is_none() {
        let error = diagnostics.error(text.span(), format!("`{}` is not a block of addresses", text.get_ref()));
        error.hint("write one as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\"");
    }
    block
}

fn url(text: Spanned<String>, example: &str, diagnostics: &mut Diagnostics) -> String {
    let parsed = text.get_ref().parse::<http::Uri>().ok();
    let is_origin = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some()
            && uri.path_and_query().is_none_or(|path| path == "/")
    });
    if !is_origin {
        let error = diagnostics.error(text.span(), format!("`{}` is not the URL of a server", text.get_ref()));
        error.hint(format!("write it as \"{example}\""));
    }
    text.into_inner()
}
