//! What lies outside the mesh and is called by a name all the same: where it is, and how it is spoken to.
//!
//! The document of the mesh says which names these are (`[external.NAME]`). Such a peer has no identity of the mesh, so nothing here is
//! ever used for a service that has: a name is one or the other, by the document alone, and an endpoint that is registered is called over
//! mutual TLS or not at all.
//!
//! | module | what it does |
//! |---|---|
//! | [`dns`] | asks where a name is |
//! | [`follow`] | keeps the answer fresh |
//! | [`way`] | connects, in plain text or over TLS |

mod dns;
mod follow;
mod way;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use dns::Dns;
pub(crate) use follow::follow;
pub(crate) use way::{Io, Speech, Tls, Way};

use crate::discovery::Endpoint;
use dns::Found;

/// The most endpoints of one name; further ones are left out.
pub(crate) const MAX_ENDPOINTS: usize = 256;

/// Something outside the mesh, as the document says it: `[external.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct External {
    pub(crate) place: Place,
    pub(crate) way: Arc<Way>,
    /// As what it knows itself: told with each request, and expected in its certificate. Where nothing is said, where it was found.
    pub(crate) host: Option<Box<str>>,
    pub(crate) ttl: Ttl,
}

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// At these addresses.
    Fixed(Vec<SocketAddr>),
    /// Where the A and AAAA records of a name say, at this port.
    Host { name: Box<str>, port: u16 },
    /// Where the SRV records of a name say.
    Service(Box<str>),
}

/// For how long an answer of DNS is held, whatever it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ttl {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Default for Ttl {
    /// 1 s to 5 min: 0 would ask without a pause, and a day would be a long time to wait for a mistake to be mended.
    fn default() -> Self {
        Self {
            min: Duration::from_secs(1),
            max: Duration::from_secs(300),
        }
    }
}

/// What there is to know of an endpoint outside the mesh, beside its address.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Outward {
    pub(crate) way: Arc<Way>,
    /// What it is told as the host of a request.
    pub(crate) authority: Box<str>,
    /// Its place among the priorities of SRV records: 0 comes first.
    pub(crate) rank: u16,
}

impl External {
    /// The endpoints that were found, by address.
    fn endpoints(&self, found: Vec<Found>) -> Vec<Endpoint> {
        let endpoint = |found: Found| {
            let at = found.address;
            let host = self.host.as_deref().or(found.host.as_deref());
            let outward = Outward {
                way: Arc::clone(&self.way),
                authority: self.authority(host, at),
                rank: found.rank,
            };
            Endpoint::outside(at, found.weight, outward)
        };
        let mut endpoints: Vec<_> = found.into_iter().map(endpoint).collect();
        endpoints.sort_by(|one, other| one.id().cmp(other.id()));
        endpoints.dedup_by(|one, other| one.id() == other.id());
        endpoints.truncate(MAX_ENDPOINTS);
        endpoints
    }

    /// The port is told where it is not the usual one (RFC 9110 §4.2.3).
    fn authority(&self, host: Option<&str>, at: SocketAddr) -> Box<str> {
        let usual = if self.way.tls.is_some() { 443 } else { 80 };
        let host = host.map_or_else(
            || match at {
                SocketAddr::V4(at) => at.ip().to_string(),
                SocketAddr::V6(at) => format!("[{}]", at.ip()),
            },
            str::to_owned,
        );
        if at.port() == usual {
            host.into()
        } else {
            format!("{host}:{}", at.port()).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(host: Option<&str>, tls: Option<Tls>) -> External {
        External {
            place: Place::Fixed(Vec::new()),
            way: Arc::new(Way::new(Speech::Http1, tls)),
            host: host.map(Into::into),
            ttl: Ttl::default(),
        }
    }

    fn found(address: &str, host: Option<&str>) -> Found {
        Found {
            host: host.map(Into::into),
            ..Found::at(address.parse().unwrap())
        }
    }

    fn told(external: &External, found: Found) -> String {
        let endpoints = external.endpoints(vec![found]);
        endpoints[0].outward().unwrap().authority.to_string()
    }

    #[test]
    fn it_is_told_the_host_that_is_named_or_where_it_was_found() {
        let (plain, named) = (external(None, None), external(Some("api.test"), None));
        assert_eq!(told(&plain, found("10.0.0.7:8080", None)), "10.0.0.7:8080");
        assert_eq!(told(&plain, found("10.0.0.7:80", None)), "10.0.0.7");
        assert_eq!(told(&plain, found("[2001:db8::1]:8080", None)), "[2001:db8::1]:8080");
        assert_eq!(told(&plain, found("10.0.0.7:80", Some("a.test"))), "a.test");
        assert_eq!(told(&named, found("10.0.0.7:8080", Some("a.test"))), "api.test:8080");
        let over_tls = external(Some("api.test"), Some(Tls::expecting("api.test").unwrap()));
        assert_eq!(told(&over_tls, found("10.0.0.7:443", None)), "api.test");
        assert_eq!(told(&over_tls, found("10.0.0.7:80", None)), "api.test:80");
    }

    #[test]
    fn an_address_is_one_endpoint_and_there_are_not_more_than_there_may_be() {
        let plain = external(None, None);
        let twice = ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"].map(|address| found(address, None));
        let addresses: Vec<_> = plain
            .endpoints(twice.into())
            .iter()
            .map(|one| one.address().to_owned())
            .collect();
        assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:80"]);
        let many = (1..=300).map(|port| found(&format!("10.0.0.1:{port}"), None)).collect();
        assert_eq!(plain.endpoints(many).len(), MAX_ENDPOINTS);
    }
}
