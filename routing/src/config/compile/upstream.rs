//! Upstreams and splits over them.

use std::collections::HashSet;
use std::time::Duration;

use http::Uri;
use toml::Spanned;

use crate::balance::{self, Balance, ZoneSettings};
use crate::config::{Diagnostics, nearest, raw};
use crate::filter::{Reference, Template};
use crate::matching::{HostPattern, split_authority};
use crate::upstream::{ConnectionPolicy, EndpointAddress, Kind, Target, Upstream};

impl raw::Upstream {
    /// The upstream called `name`. None where it has a mistake. `whole` as [`Read`](crate::config::Read) tells it.
    pub fn compile(&self, name: &Spanned<String>, whole: bool, diagnostics: &mut Diagnostics) -> Option<Upstream> {
        let target = match (&self.mesh, &self.endpoints) {
            (Some(service), None) => compile_service(service, diagnostics).map(Target::Mesh),
            (None, Some(endpoints)) => compile_endpoints(endpoints, diagnostics).map(Target::Endpoints),
            (Some(_), Some(endpoints)) => {
                diagnostics.error(endpoints.span(), "an upstream has `mesh` or `endpoints`, not both");
                None
            }
            (None, None) => {
                if whole {
                    let error = diagnostics.error(name.span(), format!("upstream `{}` leads nowhere", name.get_ref()));
                    error.hint("add mesh = \"SERVICE\" or endpoints = [{ url = \"http://HOST:PORT\" }]");
                }
                None
            }
        };
        let connection = self.connection().compile(Kind::Upstream, diagnostics);
        if self.mesh.is_some() {
            let slow_start = self.slow_start.as_ref().map(|slow_start| ("slow_start", slow_start.span()));
            let outlier = self.outlier.as_ref().map(|outlier| ("outlier", outlier.span()));
            for (key, span) in outlier.into_iter().chain(slow_start) {
                let error = diagnostics.error(span, format!("`{key}` has no effect on an upstream of the mesh"));
                error.hint("say it for the whole mesh: [services.NAME] in the document for mesh-runtime apply");
            }
        }
        let name = name.get_ref().as_str().into();
        Some(Upstream {
            name,
            target: target?,
            connection: connection?,
        })
    }

    fn connection(&self) -> raw::Connection<'_> {
        raw::Connection {
            balance: self.balance.as_ref(),
            hash: self.hash.as_ref(),
            outlier: self.outlier.as_ref().map(Spanned::get_ref),
            breaker: self.breaker.as_ref(),
            slow_start: self.slow_start.as_ref(),
            zone: None,
        }
    }
}

impl raw::Connection<'_> {
    /// How the endpoints are used. None where there is a mistake.
    pub fn compile(&self, kind: Kind, diagnostics: &mut Diagnostics) -> Option<ConnectionPolicy> {
        let usual = ConnectionPolicy::usual(kind);
        let balance = match self.balance {
            Some(balance) => compile_balance(balance, diagnostics),
            None => Some(usual.balancing.balance),
        };
        let hash = self.compile_hash(kind, balance, diagnostics);
        let outlier = match self.outlier {
            Some(outlier) => outlier.compile(diagnostics).map(Some),
            None => Some(usual.balancing.outlier),
        };
        let breaker = match self.breaker {
            Some(breaker) => breaker.compile(diagnostics),
            None => Some(usual.breaker),
        };
        let range = Duration::from_secs(1)..=Duration::from_secs(3600);
        let slow_start = self.slow_start.map(|time| diagnostics.duration("`slow_start`", time, range));
        let zone = self.compile_zone(diagnostics);
        if let (Some(Balance::RingHash), Some(slow_start)) = (balance, self.slow_start) {
            let error = diagnostics.error(slow_start.span(), "`slow_start` has no effect with ring-hash");
            error.hint("take it out: a place on the ring has one owner");
        }
        if let (Some(Balance::RingHash), Some(zone)) = (balance, self.zone) {
            let error = diagnostics.error(zone.span(), "`zone` has no effect with ring-hash");
            error.hint("take it out: a place on the ring has one owner, wherever that is");
        }
        Some(ConnectionPolicy {
            balancing: balance::Settings {
                balance: balance?,
                outlier: outlier?,
                slow_start: match slow_start {
                    Some(time) => Some(time?),
                    None => None,
                },
                zone: zone?,
                unreachable: usual.balancing.unreachable,
            },
            hash: hash?,
            breaker: breaker?,
        })
    }

    fn compile_zone(&self, diagnostics: &mut Diagnostics) -> Option<Option<ZoneSettings>> {
        let Some(zone) = self.zone else { return Some(None) };
        let raw::Zone { prefer, overflow } = zone.get_ref();
        let usual = ZoneSettings::default().overflow;
        let overflow = overflow
            .as_ref()
            .map_or(Some(usual), |most| diagnostics.number("`overflow`", most, 1..=1_000_000));
        let zone = ZoneSettings { overflow: overflow? };
        Some(prefer.unwrap_or(true).then_some(zone))
    }

    /// What of a request says which endpoint is its own.
    fn compile_hash(&self, kind: Kind, balance: Option<Balance>, diagnostics: &mut Diagnostics) -> Option<Option<Reference>> {
        let known = hashes(kind);
        let by_hash = balance == Some(Balance::RingHash);
        let Some(hash) = self.hash else {
            if let (true, Some(balance)) = (by_hash, self.balance) {
                let error = diagnostics.error(balance.span(), "ring-hash has nothing to go by");
                error.hint(format!("add hash = \"…\", one of {}", known.join(", ")));
                return None;
            }
            return Some(None);
        };
        if !by_hash && balance.is_some() {
            let error = diagnostics.error(hash.span(), "`hash` has no effect without balance = \"ring-hash\"");
            error.hint("take it out");
            return None;
        }
        if kind == Kind::Service && hash.get_ref() == "source" {
            return Some(Some(Reference::ClientIp));
        }
        let template = Template::parse(&format!("{{{}}}", hash.get_ref())).ok();
        match template.as_ref().and_then(|template| template.references().next()) {
            Some(by @ (Reference::Header(_) | Reference::Cookie(_))) => Some(Some(by.clone())),
            Some(by @ Reference::ClientIp) if kind == Kind::Upstream => Some(Some(by.clone())),
            _ => {
                let error = diagnostics.error(
                    hash.span(),
                    format!("`{}` is nothing that ring-hash can go by", hash.get_ref()),
                );
                error.hint(match nearest(hash.get_ref(), known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", known.join(", ")),
                });
                None
            }
        }
    }
}

/// What `ring-hash` can go by: of the client, or of the member that calls.
fn hashes(kind: Kind) -> [&'static str; 3] {
    match kind {
        Kind::Upstream => ["client.ip", "header.NAME", "cookie.NAME"],
        Kind::Service => ["source", "header.NAME", "cookie.NAME"],
    }
}

impl Diagnostics {
    /// The place of the upstream that `name` names among `upstreams`.
    pub fn upstream<'u>(&mut self, name: &Spanned<String>, upstreams: impl IntoIterator<Item = &'u str>) -> Option<usize> {
        let known: Vec<&str> = upstreams.into_iter().collect();
        let place = known.iter().position(|known| *known == name.get_ref());
        if place.is_none() {
            let hint = match nearest(name.get_ref(), known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add [upstreams.{}]", name.get_ref()),
            };
            self.error(name.span(), format!("there is no upstream `{}`", name.get_ref()))
                .hint(hint);
        }
        place
    }

    /// The shares of a split: places among `upstreams`, and weights. That all of these are 0 is no mistake: whoever takes the last
    /// backend out says so by its weight, and requests are refused until another is in (Gateway API, `HTTPBackendRef`).
    pub fn split<'u>(
        &mut self,
        shares: &Spanned<Vec<Spanned<raw::Share>>>,
        upstreams: impl IntoIterator<Item = &'u str>,
    ) -> Option<Vec<(usize, u32)>> {
        if shares.get_ref().is_empty() {
            let error = self.error(shares.span(), "`split` is empty");
            error.hint("name upstreams with their weights, as in [{ upstream = \"accounts\", weight = 1 }]");
            return None;
        }
        let known: Vec<&str> = upstreams.into_iter().collect();
        let one = |share: &Spanned<raw::Share>| {
            let raw::Share { upstream, weight, .. } = share.get_ref();
            let place = self.upstream(upstream, known.iter().copied());
            place.zip(self.number("`weight`", weight, 0..=1_000_000))
        };
        let compiled: Vec<_> = shares.get_ref().iter().map(one).collect();
        compiled.into_iter().collect()
    }
}

/// A service's name is a DNS label, since it is called as `NAME.mesh`.
fn compile_service(name: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<Box<str>> {
    let text = name.get_ref();
    let is_label = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label {
        return Some(text.as_str().into());
    }
    let error = diagnostics.error(name.span(), format!("`{text}` is not a service name"));
    error.hint("a service name has 1 to 63 small letters, digits and -, as in \"accounts\"");
    None
}

fn compile_balance(name: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<Balance> {
    let known = Balance::ALL.map(Balance::name);
    if let Some(balance) = Balance::ALL.into_iter().find(|balance| balance.name() == name.get_ref()) {
        return Some(balance);
    }
    let text = name.get_ref();
    let error = diagnostics.error(name.span(), format!("`{text}` is not a way to balance"));
    error.hint(match nearest(text, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("supported: {}", known.join(", ")),
    });
    None
}

fn compile_endpoints(
    raw: &Spanned<Vec<Spanned<raw::Endpoint>>>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<EndpointAddress>> {
    let mut compiled = Some(Vec::new());
    let mut seen = HashSet::<String, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>::default();
    for endpoint in raw.get_ref() {
        let raw::Endpoint { url, weight } = endpoint.get_ref();
        let weight = weight.as_ref().map_or(Some(1), |weight| {
            diagnostics.number("`weight`", weight, 0..=u32::from(u16::MAX))
        });
        let address = compile_url(url, diagnostics)
            .zip(weight)
            .map(|((host, port), weight)| EndpointAddress {
                host,
                port,
                weight: u16::try_from(weight).unwrap_or(u16::MAX),
            });
        if let Some(address) = &address
            && !seen.insert(address.to_string())
        {
            diagnostics
                .error(url.span(), format!("the endpoint {address} is listed twice"))
                .hint("give one of them the weight of both");
        }
        compiled = compiled.zip(address).map(|(mut compiled, address)| {
            compiled.push(address);
            compiled
        });
    }
    let compiled = compiled?;
    if compiled.iter().all(|address: &EndpointAddress| address.weight == 0) {
        let what = if compiled.is_empty() {
            "`endpoints` is empty"
        } else {
            "no endpoint has a weight above 0"
        };
        diagnostics.error(raw.span(), what);
        return None;
    }
    Some(compiled)
}

/// Host, an IPv6 address without its brackets, and port.
fn compile_url(url: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<(Box<str>, u16)> {
    let text = url.get_ref();
    let parsed = text.parse::<Uri>().ok();
    let refuse = |diagnostics: &mut Diagnostics, message: &str, hint: &str| {
        diagnostics
            .error(url.span(), format!("endpoint `{text}`: {message}"))
            .hint(hint);
        None
    };
    let form = "an endpoint is written as http://HOST:PORT";
    let Some((parsed, authority)) = parsed.as_ref().and_then(|uri| Some((uri, uri.authority()?))) else {
        return refuse(diagnostics, "not a URL", form);
    };
    match parsed.scheme_str() {
        Some("http") => {}
        Some("https") => {
            let hint = "write http://, or reach it through the mesh, which encrypts: mesh = \"SERVICE\"";
            return refuse(diagnostics, "https to an endpoint is not supported", hint);
        }
        _ => return refuse(diagnostics, "the scheme is not http", form),
    }
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
        return refuse(
            diagnostics,
            "an endpoint has neither path nor query",
            "a path is put in front by a route's `rewrite`",
        );
    }
    let name = split_authority(authority.as_str()).filter(|name| matches!(HostPattern::parse(name), Ok(HostPattern::Exact(_))));
    // `Authority::port` has no answer for a port that is too large, as if there were none.
    let port = authority.as_str().rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    let port = port.map_or(Some(80), |(_, port)| port.parse().ok()).filter(|port| *port > 0);

    let (Some(name), Some(port)) = (name, port) else {
        return refuse(diagnostics, "not a host and a port", form);
    };
    Some((name.trim_matches(['[', ']']).into(), port))
}
