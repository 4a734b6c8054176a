//! `[external.NAME]`: what is outside the mesh and is called by a name all the same.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use routing::config::{Diagnostics, Period, Spanned};
use serde::Deserialize;

use super::document::{Texts, one_of};
use crate::outside::{External, MAX_ENDPOINTS, Place, Speech, Tls, Ttl, Way};

const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExternal {
    endpoints: Option<Texts>,
    dns: Option<Spanned<String>>,
    srv: Option<Spanned<String>>,
    port: Option<Spanned<u16>>,
    protocol: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    tls: Option<Spanned<bool>>,
    ca: Option<Spanned<String>>,
    min_ttl: Option<Spanned<Period>>,
    max_ttl: Option<Spanned<Period>>,
}

impl RawExternal {
    /// What it says of `name`. None where it has a mistake. `whole` as [`Read`](routing::config::Read) tells it.
    pub(super) fn compile(&self, name: &Spanned<String>, whole: bool, diagnostics: &mut Diagnostics) -> Option<External> {
        let place = self.place(name, whole, diagnostics);
        let known = [
            ("http1", Speech::Http1),
            ("http2", Speech::Http2),
            ("grpc", Speech::Http2),
            ("tcp", Speech::Tcp),
        ];
        let protocol = self.protocol.as_ref();
        let speech = protocol.map_or(Some(Speech::Http1), |text| one_of("protocol", text, &known, diagnostics));
        let host = match &self.host {
            Some(host) => host_name(host, "host", diagnostics).map(Some),
            None => Some(None),
        };
        let tls = self.tls(diagnostics);
        let ttl = self.ttl(diagnostics);
        Some(External {
            place: place?,
            way: Arc::new(Way::new(speech?, tls?)),
            host: host?,
            ttl: ttl?,
        })
    }

    fn place(&self, name: &Spanned<String>, whole: bool, diagnostics: &mut Diagnostics) -> Option<Place> {
        if let (None, Some(port)) = (&self.dns, &self.port) {
            diagnostics
                .error(port.span(), "`port` has no effect here")
                .hint("endpoints have their ports, and SRV records say them; `port` is for `dns`");
        }
        match (&self.endpoints, &self.dns, &self.srv) {
            (Some(endpoints), None, None) => fixed(endpoints, diagnostics),
            (None, Some(host), None) => {
                let host = host_name(host, "dns", diagnostics);
                let port = match &self.port {
                    Some(port) => diagnostics.number("a port", port, 1..=u16::MAX),
                    None => {
                        if whole && let Some(dns) = &self.dns {
                            diagnostics
                                .error(dns.span(), "A and AAAA records say no port")
                                .hint("add port = 443, say, or ask for SRV records: srv = \"_NAME._tcp.DOMAIN\"");
                        }
                        None
                    }
                };
                Some(Place::Host {
                    name: host?,
                    port: port?,
                })
            }
            (None, None, Some(service)) => service_records(service, diagnostics).map(Place::Service),
            (None, None, None) => {
                if whole {
                    diagnostics
                        .error(name.span(), format!("`{}` is nowhere", name.get_ref()))
                        .hint("add endpoints = [\"IP:PORT\"], or dns = \"HOST\" and port = N, or srv = \"_NAME._tcp.DOMAIN\"");
                }
                None
            }
            _ => {
                diagnostics
                    .error(name.span(), format!("`{}` is in several places", name.get_ref()))
                    .hint("keep one of `endpoints`, `dns` and `srv`; a route may split between several names");
                None
            }
        }
    }

    /// How it is verified, where it is.
    fn tls(&self, diagnostics: &mut Diagnostics) -> Option<Option<Tls>> {
        let Some(tls) = self.tls.as_ref().filter(|tls| *tls.get_ref()) else {
            if let Some(ca) = &self.ca {
                diagnostics
                    .error(ca.span(), "`ca` has no effect without TLS")
                    .hint("add tls = true");
                return None;
            }
            return Some(None);
        };
        // Without DNSSEC, whoever answers for DNS would choose the target of an SRV record, and whose certificate is right (RFC 6125).
        let Some(expected) = self.host.as_ref().or(self.dns.as_ref()) else {
            diagnostics
                .error(tls.span(), "there is no name to find in its certificate")
                .hint("add host = \"api.example.com\", say: the name that it is known by");
            return None;
        };
        // A name that is none has been told of already.
        let verified = Tls::expecting(expected.get_ref().trim_end_matches('.')).ok()?;
        let Some(ca) = &self.ca else { return Some(Some(verified)) };
        let Some(verified) = verified.of_authorities(ca.get_ref()) else {
            diagnostics
                .error(
                    ca.span(),
                    "`ca` has no certificates of authorities, or one that cannot be read",
                )
                .hint("write the text of a PEM file between \"\"\" and \"\"\": -----BEGIN CERTIFICATE----- …");
            return None;
        };
        Some(Some(verified))
    }

    fn ttl(&self, diagnostics: &mut Diagnostics) -> Option<Ttl> {
        let usual = Ttl::default();
        if let (Some(_), Some(useless)) = (&self.endpoints, self.min_ttl.as_ref().or(self.max_ttl.as_ref())) {
            diagnostics
                .error(useless.span(), "fixed endpoints are not asked of DNS")
                .hint("take it out");
            return None;
        }
        let mut bound = |what, text: Option<&Spanned<Period>>, usual| match text {
            Some(text) => diagnostics.duration(what, text, TTL),
            None => Some(usual),
        };
        let min = bound("`min_ttl`", self.min_ttl.as_ref(), usual.min);
        // A least time above the usual most one moves that.
        let max = bound("`max_ttl`", self.max_ttl.as_ref(), usual.max.max(min.unwrap_or_default()));
        let (min, max) = (min?, max?);
        if let Some(shorter) = self.max_ttl.as_ref().filter(|_| max < min) {
            diagnostics.error(shorter.span(), "`max_ttl` is shorter than `min_ttl`");
            return None;
        }
        Some(Ttl { min, max })
    }
}

fn fixed(endpoints: &Texts, diagnostics: &mut Diagnostics) -> Option<Place> {
    if endpoints.get_ref().is_empty() {
        diagnostics
            .error(endpoints.span(), "`endpoints` is empty")
            .hint("name where it is, as in [\"10.0.0.7:5432\"]");
        return None;
    }
    if let Some(surplus) = endpoints.get_ref().get(MAX_ENDPOINTS) {
        diagnostics.error(surplus.span(), format!("there are at most {MAX_ENDPOINTS} endpoints"));
        return None;
    }
    let address = |text: &Spanned<String>, diagnostics: &mut Diagnostics| {
        let address = text.get_ref().parse::<SocketAddr>().ok();
        let address = address.filter(|address| address.port() != 0 && !address.ip().is_unspecified());
        if address.is_none() {
            let hint = match text.get_ref().rsplit_once(':') {
                Some((host, port)) if is_name(host) && port.parse::<u16>().is_ok() => {
                    format!("a name is asked of DNS: dns = \"{host}\" and port = {port}")
                }
                _ => "write an address and its port, as in \"10.0.0.7:5432\" or \"[2001:db8::7]:5432\"".to_owned(),
            };
            diagnostics
                .error(text.span(), format!("`{}` is not IP:PORT", text.get_ref()))
                .hint(hint);
        }
        address
    };
    diagnostics.elements("endpoints", Some(endpoints), address).map(Place::Fixed)
}

fn host_name(text: &Spanned<String>, key: &str, diagnostics: &mut Diagnostics) -> Option<Box<str>> {
    let name = text.get_ref().trim_end_matches('.');
    if is_name(name) {
        return Some(name.to_ascii_lowercase().into());
    }
    let hint = if name.parse::<IpAddr>().is_ok() {
        "write an address as endpoints = [\"IP:PORT\"]"
    } else {
        "labels of letters, digits and hyphens, with dots between them, and neither scheme nor port: \"db.example.com\""
    };
    diagnostics
        .error(text.span(), format!("`{}` is no host name for `{key}`", text.get_ref()))
        .hint(hint);
    None
}

/// `_NAME._PROTOCOL.DOMAIN` (RFC 2782).
fn service_records(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<Box<str>> {
    let name = text.get_ref().trim_end_matches('.');
    let mut parts = name.splitn(3, '.');
    let mut label = || parts.next().and_then(|label| label.strip_prefix('_')).is_some_and(is_name);
    if label() && label() && parts.next().is_some_and(is_name) && name.len() <= MAX_DNS_NAME {
        return Some(name.to_ascii_lowercase().into());
    }
    diagnostics
        .error(text.span(), format!("`{}` is no name of SRV records", text.get_ref()))
        .hint("write _NAME._tcp.DOMAIN, as in \"_postgresql._tcp.example.com\"");
    None
}

/// RFC 1035 §2.3.4, without the root's label.
const MAX_DNS_NAME: usize = 253;

/// Whether it is a host name (RFC 1123 §2.1); what looks like an IPv4 address is none.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last_is_a_number = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= MAX_DNS_NAME && !last_is_a_number && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests;
