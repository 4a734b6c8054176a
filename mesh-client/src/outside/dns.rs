//! Where DNS says that something is: A and AAAA records (RFC 1035, RFC 3596) of a name, SRV records (RFC 2782) of a service.
//!
//! Names are absolute, whatever the machine's search list says: one document means the same on every machine. `/etc/hosts` and
//! `/etc/resolv.conf` are read at each lookup, so that a machine which changes networks needs no restart; nothing is cached
//! here beside the endpoints themselves.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Negative, NetError};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use super::{MAX_ENDPOINTS, Place};

/// How long one server may take for one question.
const SERVER: Duration = Duration::from_secs(2);
/// How long a whole answer may take, that of the targets of SRV records included.
const WHOLE: Duration = Duration::from_secs(15);
/// Targets of SRV records that are looked up; further ones are left out.
const MAX_TARGETS: usize = 64;
/// How long an answer that there is nothing is held where it does not say (RFC 2308 has that in an SOA record).
const NOTHING: Duration = Duration::from_secs(5);

/// Asks DNS: these servers, or those of the system where there are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dns {
    servers: Arc<[SocketAddr]>,
}

/// What DNS says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(super) found: Vec<Found>,
    pub(super) valid_for: Duration,
}

/// An endpoint that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(super) address: SocketAddr,
    /// By which name.
    pub(super) host: Option<Box<str>>,
    pub(super) weight: u16,
    /// Its place among the priorities.
    pub(super) rank: u16,
}

impl Found {
    /// One that is known by its address alone.
    pub(super) const fn at(address: SocketAddr) -> Self {
        Self {
            address,
            host: None,
            weight: 1,
            rank: 0,
        }
    }
}

/// Why DNS says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DnsError {
    #[error("{0}")]
    Failed(#[from] NetError),
    #[error("no answer within {WHOLE:?}")]
    Timeout,
}

impl Dns {
    pub(crate) fn new(servers: &[SocketAddr]) -> Self {
        Self { servers: servers.into() }
    }

    /// Asks where something is.
    pub(crate) async fn ask(&self, place: &Place) -> Result<Answer, DnsError> {
        let asked = async {
            match place {
                Place::Fixed(addresses) => Ok(Answer {
                    found: addresses.iter().copied().map(Found::at).collect(),
                    valid_for: Duration::MAX,
                }),
                Place::Host { name, port } => self.host(name, *port).await,
                Place::Service(name) => self.service(name).await,
            }
        };
        timeout(WHOLE, asked).await.unwrap_or(Err(DnsError::Timeout))
    }

    async fn host(&self, name: &str, port: u16) -> Result<Answer, DnsError> {
        let addresses = addresses(&self.resolver()?, absolute(name)?).await?;
        let found = addresses.found.into_iter().map(|ip| Found {
            host: Some(name.into()),
            ..Found::at(SocketAddr::new(ip, port))
        });
        Ok(Answer {
            found: found.collect(),
            valid_for: addresses.valid_for,
        })
    }

    async fn service(&self, name: &str) -> Result<Answer, DnsError> {
        let resolver = self.resolver()?;
        let Records { lookup, valid_for } = records(resolver.lookup(absolute(name)?, RecordType::SRV).await)?;
        let mut targets: Vec<&SRV> = lookup.iter().flat_map(Lookup::answers).filter_map(srv).collect();
        // > A Target of "." means that the service is decidedly not available at this domain. (RFC 2782)
        targets.retain(|target| !target.target.is_root());
        if targets.len() > MAX_TARGETS {
            tracing::warn!(
                name,
                targets = targets.len(),
                "only {MAX_TARGETS} targets of SRV records are looked up"
            );
            targets.sort_by_key(|target| target.priority);
            targets.truncate(MAX_TARGETS);
        }
        let looked_up = join_all(targets.iter().map(|target| addresses(&resolver, target.target.clone()))).await;
        let (mut places, mut valid_for, mut failed) = (Vec::new(), valid_for, None);
        for (target, addresses) in targets.into_iter().zip(looked_up) {
            match addresses {
                Ok(addresses) => {
                    valid_for = valid_for.min(addresses.valid_for);
                    places.push((target, addresses.found));
                }
                Err(error) => failed = Some(error),
            }
        }
        // A target that cannot be looked up keeps nobody from the others.
        match failed {
            Some(error) if places.is_empty() => Err(error),
            _ => Ok(Answer {
                found: found(&places),
                valid_for,
            }),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.servers.iter().map(|server| {
                let mut config = NameServerConfig::udp_and_tcp(server.ip());
                for connection in &mut config.connections {
                    connection.port = server.port();
                }
                config
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.timeout = options.timeout.min(SERVER);
        builder.build()
    }
}

fn absolute(name: &str) -> Result<Name, NetError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    Ok(name)
}

const fn srv(record: &hickory_resolver::proto::rr::Record) -> Option<&SRV> {
    match &record.data {
        RData::SRV(srv) => Some(srv),
        _ => None,
    }
}

/// The records of one type: none where DNS says that there are none.
struct Records {
    lookup: Option<Lookup>,
    valid_for: Duration,
}

fn records(answer: Result<Lookup, NetError>) -> Result<Records, NetError> {
    match answer {
        Ok(lookup) => Ok(Records {
            valid_for: lookup.valid_until().saturating_duration_since(Instant::now()),
            lookup: Some(lookup),
        }),
        Err(NetError::Dns(Negative::NoRecordsFound(none))) => Ok(Records {
            lookup: None,
            valid_for: none
                .negative_ttl
                .map_or(NOTHING, |seconds| Duration::from_secs(seconds.into())),
        }),
        Err(error) => Err(error),
    }
}

struct Addresses {
    found: Vec<IpAddr>,
    valid_for: Duration,
}

/// The addresses of a name of both families, those alone that this machine has a route to.
async fn addresses(resolver: &TokioResolver, name: Name) -> Result<Addresses, DnsError> {
    let (four, six) = join(
        resolver.lookup(name.clone(), RecordType::A),
        resolver.lookup(name, RecordType::AAAA),
    )
    .await;
    let both = [records(four), records(six)];
    let (mut found, mut valid_for, mut nothing_for, mut failed) = (Vec::new(), Duration::MAX, Duration::MAX, None);
    for records in both {
        match records {
            Ok(Records {
                lookup: Some(lookup),
                valid_for: time,
            }) => {
                found.extend(lookup.answers().iter().filter_map(|record| record.data.ip_addr()));
                valid_for = valid_for.min(time);
            }
            Ok(Records {
                lookup: None,
                valid_for: time,
            }) => nothing_for = nothing_for.min(time),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        // Half an answer is better than none.
        Some(error) if found.is_empty() => return Err(error.into()),
        _ => {}
    }
    // Most names have addresses of one family only, which says nothing of how long the others hold.
    if found.is_empty() {
        valid_for = nothing_for;
    }
    found.truncate(MAX_ENDPOINTS);
    Ok(Addresses {
        found: reachable(found, has_route),
        valid_for,
    })
}

/// Those that may be reached; all of them where none may, so that whoever connects is told why.
fn reachable(addresses: Vec<IpAddr>, has_route: impl Fn(&IpAddr) -> bool) -> Vec<IpAddr> {
    let routed: Vec<_> = addresses.iter().copied().filter(has_route).collect();
    if routed.is_empty() { addresses } else { routed }
}

/// Whether this machine has a route to an address. Connecting a UDP socket sends nothing; it only asks for the route.
fn has_route(ip: &IpAddr) -> bool {
    let any = match ip {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((*ip, 9))).is_ok()
}

/// The endpoints of SRV records, by the order of their priorities and with their shares of the requests.
///
/// A target that has several addresses shares its weight out among them. The weight 0 is a hundredth of 1: "a very small chance of being
/// selected" (RFC 2782).
fn found(places: &[(&SRV, Vec<IpAddr>)]) -> Vec<Found> {
    let mut by_priority: BTreeMap<u16, Vec<(f64, Found)>> = BTreeMap::new();
    for (target, addresses) in places {
        let host: Box<str> = target.target.to_ascii().trim_end_matches('.').into();
        let share = f64::from(target.weight).max(0.01) / addresses.len() as f64;
        let found = addresses.iter().map(|ip| Found {
            host: Some(host.clone()),
            ..Found::at(SocketAddr::new(*ip, target.port))
        });
        let level = by_priority.entry(target.priority).or_default();
        level.extend(found.map(|found| (share, found)));
    }
    let levels = by_priority.into_values().filter(|level| !level.is_empty()).zip(0..);
    let weighted = levels.flat_map(|(level, rank)| {
        let (least, most) = level.iter().fold((f64::MAX, 0.0_f64), |(least, most), (share, _)| {
            (least.min(*share), most.max(*share))
        });
        // Whole numbers keep the proportions to a hundredth, as far as there are numbers.
        let scale = (100.0 / least).min(f64::from(u16::MAX) / most);
        level.into_iter().map(move |(share, found)| Found {
            weight: (share * scale).round().clamp(1.0, f64::from(u16::MAX)) as u16,
            rank,
            ..found
        })
    });
    weighted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(priority: u16, weight: u16, name: &str) -> SRV {
        SRV::new(priority, weight, 5432, absolute(name).unwrap())
    }

    fn ips(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect()
    }

    fn shares(places: &[(&SRV, Vec<IpAddr>)]) -> Vec<(String, u16, u16)> {
        let found = found(places).into_iter();
        found
            .map(|found| (found.address.ip().to_string(), found.weight, found.rank))
            .collect()
    }

    fn share(ip: &str, weight: u16, rank: u16) -> (String, u16, u16) {
        (ip.to_owned(), weight, rank)
    }

    #[test]
    fn priorities_are_ranks_and_weights_are_shares() {
        let (a, b, c) = (target(10, 60, "a.test"), target(10, 20, "b.test"), target(20, 0, "c.test"));
        let places = [(&c, ips(&[3])), (&a, ips(&[1])), (&b, ips(&[2]))];
        assert_eq!(
            shares(&places),
            [
                share("10.0.0.1", 300, 0),
                share("10.0.0.2", 100, 0),
                share("10.0.0.3", 100, 1)
            ]
        );
        let found = found(&places);
        assert_eq!((found[0].host.as_deref(), found[0].address.port()), (Some("a.test"), 5432));
    }

    #[test]
    fn a_target_shares_its_weight_out_among_its_addresses() {
        let (a, b) = (target(1, 10, "a.test"), target(1, 10, "b.test"));
        assert_eq!(
            shares(&[(&a, ips(&[1, 2])), (&b, ips(&[3]))]),
            [
                share("10.0.0.1", 100, 0),
                share("10.0.0.2", 100, 0),
                share("10.0.0.3", 200, 0)
            ]
        );
    }

    #[test]
    fn the_weight_0_is_a_very_small_chance_beside_others_and_an_equal_one_among_its_like() {
        let (a, b) = (target(1, 1, "a.test"), target(1, 0, "b.test"));
        assert_eq!(
            shares(&[(&a, ips(&[1])), (&b, ips(&[2]))]),
            [share("10.0.0.1", 10_000, 0), share("10.0.0.2", 100, 0)]
        );
        let heavy = target(1, u16::MAX, "a.test");
        assert_eq!(
            shares(&[(&heavy, ips(&[1])), (&b, ips(&[2]))]),
            [share("10.0.0.1", u16::MAX, 0), share("10.0.0.2", 1, 0)]
        );
        assert_eq!(
            shares(&[(&b, ips(&[1])), (&b, ips(&[2]))]),
            [share("10.0.0.1", 100, 0), share("10.0.0.2", 100, 0)]
        );
    }

    #[test]
    fn a_priority_of_which_nothing_is_found_has_no_rank() {
        let (a, b) = (target(1, 1, "a.test"), target(2, 1, "b.test"));
        assert_eq!(shares(&[(&a, Vec::new()), (&b, ips(&[2]))]), [share("10.0.0.2", 100, 0)]);
        assert_eq!(shares(&[]), []);
    }

    #[test]
    fn addresses_without_a_route_are_left_out_unless_there_are_no_others() {
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        let both = [ips(&[1]), vec![six]].concat();
        assert_eq!(reachable(both.clone(), IpAddr::is_ipv4), ips(&[1]));
        assert_eq!(reachable(both.clone(), |_| false), both);
        assert!(has_route(&IpAddr::from(Ipv4Addr::LOCALHOST)));
    }
}
