//! Upstreams and splits over them.

use std::collections::HashSet;

use http::Uri;
use toml::Spanned;

use crate::balance::Balance;
use crate::config::{Diagnostics, nearest, raw};
use crate::filter::{Reference, Template};
use crate::matching::{HostPattern, split_authority};
use crate::policy::{BreakerSettings, OutlierSettings};
use crate::upstream::{EndpointAddress, Target, Upstream};

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
        let balance = match &self.balance {
            Some(balance) => compile_balance(balance, diagnostics),
            None => Some(Balance::default()),
        };
        let hash = self.compile_hash(balance, diagnostics);
        let outlier = match &self.outlier {
            Some(outlier) => outlier.compile(diagnostics).map(Some),
            None => Some(Some(OutlierSettings::default())),
        };
        let breaker = match &self.breaker {
            Some(breaker) => breaker.compile(diagnostics),
            None => Some(BreakerSettings::default()),
        };
        let name = name.get_ref().as_str().into();
        Some(Upstream {
            name,
            target: target?,
            balance: balance?,
            hash: hash?,
            outlier: outlier?,
            breaker: breaker?,
        })
    }
}

impl raw::Upstream {
    /// What of a request says which endpoint is its own.
    fn compile_hash(&self, balance: Option<Balance>, diagnostics: &mut Diagnostics) -> Option<Option<Reference>> {
        const KNOWN: [&str; 3] = ["client.ip", "header.NAME", "cookie.NAME"];
        let by_hash = balance == Some(Balance::RingHash);
        if let (true, Some(balance), Some(_)) = (by_hash, &self.balance, &self.mesh) {
            let error = diagnostics.error(balance.span(), "ring-hash is not supported for an upstream of the mesh");
            error.hint("choose another way, or name its endpoints");
            return None;
        }
        let Some(hash) = &self.hash else {
            if let (true, Some(balance)) = (by_hash, &self.balance) {
                let error = diagnostics.error(balance.span(), "ring-hash has nothing to go by");
                error.hint(format!("add hash = \"…\", one of {}", KNOWN.join(", ")));
                return None;
            }
            return Some(None);
        };
        if !by_hash && balance.is_some() {
            let error = diagnostics.error(hash.span(), "`hash` has no effect without balance = \"ring-hash\"");
            error.hint("take it out");
            return None;
        }
        let template = Template::parse(&format!("{{{}}}", hash.get_ref())).ok();
        match template.as_ref().and_then(|template| template.references().next()) {
            Some(by @ (Reference::ClientIp | Reference::Header(_) | Reference::Cookie(_))) => Some(Some(by.clone())),
            _ => {
                let error = diagnostics.error(
                    hash.span(),
                    format!("`{}` is nothing that ring-hash can go by", hash.get_ref()),
                );
                error.hint(match nearest(hash.get_ref(), KNOWN) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", KNOWN.join(", ")),
                });
                None
            }
        }
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
