//! Upstreams: named groups of endpoints with one connection policy, and splits over several of them.

use std::fmt;
use std::time::Duration;

use crate::balance;
use crate::filter::Reference;
use crate::policy::{BreakerSettings, OutlierSettings};

/// A named group of endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its name in the config.
    pub name: Box<str>,
    /// Where it is.
    pub target: Target,
    /// How its endpoints are used.
    pub connection: ConnectionPolicy,
}

/// How the endpoints of an upstream are used.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConnectionPolicy {
    /// How an endpoint is chosen, and when one is left out.
    pub balancing: balance::Settings,
    /// What of a request says which endpoint is its own, where endpoints own shares of the requests
    /// ([`RingHash`](balance::Balance::RingHash)).
    pub hash: Option<Reference>,
    /// How much may be under way.
    pub breaker: BreakerSettings,
}

/// Of what the endpoints are, which decides what holds where nobody says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An upstream of the gateway.
    Upstream,
    /// A service of the mesh.
    Service,
}

impl ConnectionPolicy {
    /// What holds where nobody says.
    ///
    /// A service's endpoints are ejected for what they answer only where somebody asks for it, since 5xx may be what the application
    /// means. One that cannot be reached is out at once: discovery will tell, but later. Only briefly, because one connection is
    /// little evidence, and never the last.
    #[must_use]
    pub fn usual(kind: Kind) -> Self {
        let balancing = match kind {
            Kind::Upstream => balance::Settings {
                balance: balance::Balance::RoundRobin,
                outlier: Some(OutlierSettings::default()),
                ..balance::Settings::default()
            },
            Kind::Service => balance::Settings {
                balance: balance::Balance::PeakEwma,
                unreachable: Some(Duration::from_secs(2)),
                ..balance::Settings::default()
            },
        };
        Self {
            balancing,
            ..Self::default()
        }
    }
}

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The mesh service of this name.
    Mesh(Box<str>),
    /// These endpoints.
    Endpoints(Vec<EndpointAddress>),
}

/// An endpoint as a config names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointAddress {
    /// A host name or an IP address, an IPv6 address without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// Its share of the requests, 0 to 65,535. One with 0 gets none.
    pub weight: u16,
}

impl fmt::Display for EndpointAddress {
    /// `host:port`, the key under which an endpoint's state is kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Shares of a route's requests, each with what it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split<U> {
    /// What the shares go to, and the sums of their weights so far.
    shares: Box<[(U, u64)]>,
}

impl<U> Split<U> {
    /// Shares by weight; None where all of them are 0.
    #[must_use]
    pub fn new(shares: impl IntoIterator<Item = (U, u32)>) -> Option<Self> {
        let mut sum = 0;
        let positive = shares.into_iter().filter(|(_, weight)| *weight > 0);
        let summed = positive.map(|(to, weight)| {
            sum += u64::from(weight);
            (to, sum)
        });
        let shares: Box<[_]> = summed.collect();
        (!shares.is_empty()).then_some(Self { shares })
    }

    /// Chooses by a random number that is uniform over all of `u64`.
    #[must_use]
    pub fn choose(&self, random: u64) -> &U {
        let (last, total) = self.shares.last().map(|(to, sum)| (to, *sum)).expect("a split has a share");
        let point = u64::try_from((u128::from(total) * u128::from(random)) >> 64).unwrap_or(u64::MAX);
        self.shares.iter().find(|(_, sum)| point < *sum).map_or(last, |(to, _)| to)
    }

    /// What the shares go to.
    pub fn targets(&self) -> impl Iterator<Item = &U> {
        self.shares.iter().map(|(to, _)| to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_as_their_weights() {
        let split = Split::new([("a", 95), ("none", 0), ("b", 5)]).unwrap();
        let chosen = |share: &str| {
            (0..1000_u128)
                .filter(|n| *split.choose((n << 64).div_ceil(1000) as u64) == share)
                .count()
        };
        assert_eq!((chosen("a"), chosen("b"), chosen("none")), (950, 50, 0));
        assert_eq!(*split.choose(u64::MAX), "b");
        assert_eq!(Split::new([("a", 0)]), None);
    }
}
