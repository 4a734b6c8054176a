//! How much a caller may ask for: what a route's `rate_limit` is made of.
//!
//! The exchange only says what to take from which quota; who keeps the quotas is the driver's matter ([`Step::Take`](
//! crate::exchange::Step::Take)): a host for all of its cores, an instance at the edge for itself.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use http::HeaderValue;
use routing::config::show_duration;
use routing::filter::{Reference, Resolve};
use routing::policy::{Kept, LimitKey, Rate, Take, Taken};
use sha2::{Digest as _, Sha256};

/// The limits of a route, all of which a request is taken from.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) list: Vec<Limit>,
    /// The value of `RateLimit-Policy`, which is the same for every request.
    pub(crate) policy: HeaderValue,
}

/// `concurrency`: how many of a route's requests may be under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Concurrency {
    pub(crate) key: LimitKey,
    pub(crate) limit: u32,
}

/// One `rate_limit`.
#[derive(Debug)]
pub(crate) struct Limit {
    /// Its name in `RateLimit` and `RateLimit-Policy`.
    pub(crate) name: String,
    /// How many requests.
    pub(crate) limit: u32,
    /// In what time.
    pub(crate) window: Duration,
    /// The same, as it is reckoned with.
    pub(crate) rate: Rate,
    /// What it counts by; where there is nothing, all requests of the route share one quota.
    pub(crate) by: Option<Reference>,
    /// Tells its quotas from those of every other limit, in this gateway and in others that share a store.
    pub(crate) id: [u8; 32],
    /// Where its quotas are kept.
    pub(crate) kept: Kept,
}

impl Concurrency {
    /// That of this route of this gateway.
    pub(crate) fn of(gateway: &str, route: &str, limit: u32) -> Self {
        let key = short(&Limit::id(gateway, route, ["concurrency", ""]));
        Self { key, limit }
    }
}

impl Limits {
    pub(crate) fn new(list: Vec<Limit>) -> Option<Self> {
        let items: Vec<String> = list.iter().map(Limit::policy_item).collect();
        let policy = HeaderValue::from_str(&items.join(", ")).ok()?;
        Some(Self { list, policy })
    }

    /// What to take for a request that knows these values.
    pub(crate) fn takes(&self, values: &dyn Resolve) -> Vec<Take> {
        let take = |limit: &Limit| Take {
            key: limit.key(values),
            rate: limit.rate,
            kept: limit.kept,
        };
        self.list.iter().map(take).collect()
    }

    /// The value of `RateLimit`: what is left of each quota, where that is known.
    pub(crate) fn state(&self, taken: &[Option<Taken>]) -> Option<HeaderValue> {
        let item = |(limit, taken): (&Limit, &Option<Taken>)| {
            let taken = taken.as_ref()?;
            Some(format!(
                "\"{}\";r={};t={}",
                limit.name,
                taken.remaining,
                whole_seconds(taken.reset)
            ))
        };
        let items: Vec<String> = self.list.iter().zip(taken).filter_map(item).collect();
        HeaderValue::from_str(&items.join(", ")).ok().filter(|_| !items.is_empty())
    }
}

impl Limit {
    /// The id of a limit of this route of this gateway. All that it is made of is in it, so that a limit that was changed starts anew.
    pub(crate) fn id(gateway: &str, route: &str, made_of: [&str; 2]) -> [u8; 32] {
        let mut id = Sha256::new_with_prefix("heddle rate limit 1");
        for part in [gateway, route].into_iter().chain(made_of) {
            // The same number of bytes for every engine: a guest's lengths have 32 bits.
            id.update((part.len() as u64).to_le_bytes());
            id.update(part);
        }
        id.finalize().into()
    }

    /// Whose quota it is for a request that knows these values. Requests without a value share one, since to have none must not be a
    /// way around the limit.
    fn key(&self, values: &dyn Resolve) -> LimitKey {
        let mut text = String::new();
        let is_known = self.by.as_ref().is_some_and(|by| values.resolve(by, &mut text));
        if self.by == Some(Reference::ClientIp) {
            text = network(&text);
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.id);
        hasher.update(&[u8::from(is_known)]).update(text.as_bytes());
        short(hasher.finalize().as_bytes())
    }

    /// An item of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10 §3).
    fn policy_item(&self) -> String {
        let mut item = format!("\"{}\";q={}", self.name, self.limit);
        // A window is in whole seconds there, and a shorter one cannot be told.
        if self.window.subsec_nanos() == 0 {
            item.push_str(&format!(";w={}", self.window.as_secs()));
        }
        item
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        let by = match &self.by {
            Some(by) => format!(" by {}", by.to_string().trim_matches(['{', '}'])),
            None => String::new(),
        };
        let (limit, window) = (self.limit, show_duration(self.window));
        let shared = if self.kept == Kept::Here { "" } else { ", shared" };
        format!("`{}`: {limit} per {window}{by}{shared}", self.name)
    }
}

fn short(hash: &[u8; 32]) -> LimitKey {
    LimitKey(*hash.first_chunk().expect("a hash of 32 bytes has 16"))
}

/// Seconds, the begun one counted: whoever comes back then is not too early.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// An address as far as it tells clients apart: of an IPv6 address its first 64 bits, since whoever has one has all that begin
/// with them (RFC 4291 §2.5.1, RFC 6177).
fn network(address: &str) -> String {
    match address.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V6(address)) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).to_string(),
        Ok(IpAddr::V4(address)) => address.to_string(),
        Err(_) => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &str, by: Option<Reference>) -> Limit {
        let window = Duration::from_secs(60);
        Limit {
            name: name.to_owned(),
            limit: 100,
            window,
            rate: Rate::new(100, window, 100).unwrap(),
            by,
            id: Limit::id("bank", "account", [name, ""]),
            kept: Kept::Here,
        }
    }

    fn by_client(client: &str) -> LimitKey {
        let values = |_: &Reference, into: &mut String| {
            into.push_str(client);
            true
        };
        limit("a", Some(Reference::ClientIp)).key(&values)
    }

    #[test]
    fn clients_are_told_apart_by_address_and_networks_of_ipv6_by_their_first_half() {
        assert_ne!(by_client("192.0.2.1"), by_client("192.0.2.2"));
        assert_eq!(by_client("192.0.2.1"), by_client("::ffff:192.0.2.1"));
        assert_eq!(by_client("2001:db8::1"), by_client("2001:db8::2:3:4:5"));
        assert_ne!(by_client("2001:db8::1"), by_client("2001:db8:0:1::1"));
    }

    #[test]
    fn no_value_is_another_key_than_an_empty_one_and_each_limit_has_its_own() {
        let none = |_: &Reference, _: &mut String| false;
        let empty = |_: &Reference, _: &mut String| true;
        let by = || Some(Reference::Claim("sub".into()));
        assert_ne!(limit("a", by()).key(&none), limit("a", by()).key(&empty));
        assert_ne!(limit("a", by()).key(&none), limit("b", by()).key(&none));
        assert_ne!(Limit::id("a", "bc", ["d", ""]), Limit::id("ab", "c", ["d", ""]));
    }

    #[test]
    fn fields_are_lists_of_items_with_parameters() {
        let limits = Limits::new(vec![limit("a", None), limit("b", None)]).unwrap();
        assert_eq!(limits.policy, "\"a\";q=100;w=60, \"b\";q=100;w=60");
        let taken = |remaining, millis| {
            Some(Taken {
                refused: None,
                remaining,
                reset: Duration::from_millis(millis),
            })
        };
        let state = limits.state(&[taken(99, 600), taken(0, 60_000)]).unwrap();
        assert_eq!(state, "\"a\";r=99;t=1, \"b\";r=0;t=60");
        assert_eq!(limits.state(&[None, taken(0, 60_000)]).unwrap(), "\"b\";r=0;t=60");
        assert_eq!(limits.state(&[None, None]), None);
    }
}
