//! Where a request came from, told to its upstream: `x-forwarded-for|proto|host` and `forwarded` (RFC 7239).
//!
//! What the client says of itself is dropped, unless it is a proxy that the config trusts; then our own word is added to it.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};
use routing::{Fields, RequestHead, Scheme};

use super::made::Made;
use super::{Edit, names};

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    network: u128,
    mask: u128,
}

impl Cidr {
    /// Parses `10.0.0.0/8`, `2001:db8::/32` or one address. IPv4 is kept as IPv4-mapped IPv6, so that both forms of a peer's
    /// address are one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, length) = text
            .split_once('/')
            .map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().ok()?;
        let (bits, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let length = match length {
            // Not `parse` alone, which takes a sign.
            Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => length.parse().ok()?,
            Some(_) => return None,
            None => bits,
        };
        if length > bits {
            return None;
        }
        let mask = u128::MAX.checked_shl(bits - length).unwrap_or(0) | if offset == 96 { !0 << 32 } else { 0 };
        Some(Self {
            network: mapped(address) & mask,
            mask,
        })
    }

    fn contains(self, address: IpAddr) -> bool {
        mapped(address) & self.mask == self.network
    }
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
    .to_bits()
}

/// Adds the edits that tell an upstream where the request came from.
pub(super) fn edit(head: &RequestHead<'_>, trusted: &[Cidr], edits: &mut Vec<Edit>, made: &mut Made) {
    let is_trusted = head.peer.is_some_and(|peer| trusted.iter().any(|block| block.contains(peer)));
    let peer = head.peer.map(|peer| match peer {
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or(peer, IpAddr::V4),
        IpAddr::V4(_) => peer,
    });
    let shown = peer.map(Shown::of);
    let proto = match head.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let mut tell = |name: HeaderName, value: Option<HeaderValue>| {
        edits.push(match value {
            Some(value) => Edit::Set(name, value),
            None => Edit::Remove(name),
        });
    };
    // A trusted proxy told of the connection before it; ours comes after it in the list.
    let before = |name: &HeaderName| {
        if is_trusted {
            joined(head.fields, name.as_str())
        } else {
            Vec::new()
        }
    };
    // And it alone knows the scheme and the host that the client used.
    let kept = |name: &HeaderName| {
        let told = head.fields.first(name.as_str()).filter(|_| is_trusted)?;
        HeaderValue::from_bytes(told).ok()
    };
    let chain = before(&names::X_FORWARDED_FOR);
    tell(
        names::X_FORWARDED_FOR,
        shown.as_ref().and_then(|shown| made.value([chain.as_slice(), shown.bytes()])),
    );
    tell(
        names::X_FORWARDED_PROTO,
        kept(&names::X_FORWARDED_PROTO).or(Some(HeaderValue::from_static(proto))),
    );
    let host = head.authority.as_bytes();
    tell(
        names::X_FORWARDED_HOST,
        kept(&names::X_FORWARDED_HOST).or_else(|| made.value([host]).filter(|_| !host.is_empty())),
    );
    let chain = before(&names::FORWARDED);
    tell(
        names::FORWARDED,
        made.value(
            [chain.as_slice()]
                .into_iter()
                .chain(element(peer, shown.as_ref(), head.authority, proto)),
        ),
    );
}

/// All values of a field as one list, to be gone on with. One line, since programs that read only the first are common.
fn joined(fields: &dyn Fields, name: &str) -> Vec<u8> {
    let mut list = Vec::new();
    for value in fields.all(name) {
        list.extend_from_slice(value);
        list.extend_from_slice(b", ");
    }
    list
}

/// The parts of one element of `forwarded` (RFC 7239 §4).
fn element<'a>(
    peer: Option<IpAddr>,
    shown: Option<&'a Shown>,
    authority: &'a str,
    proto: &'a str,
) -> impl Iterator<Item = &'a [u8]> {
    // An IPv6 address stands in brackets, and what is no token in quotes (§6).
    let [before, after] = match peer {
        Some(IpAddr::V6(_)) => ["for=\"[", "]\""],
        Some(IpAddr::V4(_)) | None => ["for=", ""],
    };
    let client = shown.map_or(b"unknown".as_slice(), Shown::bytes);
    let quotable = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    let in_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let [told, host, end] = match authority {
        "" => [""; 3],
        authority if authority.bytes().all(in_token) => [";host=", authority, ""],
        authority if authority.bytes().all(quotable) => [";host=\"", authority, "\""],
        _ => [""; 3],
    };
    [before.as_bytes(), client]
        .into_iter()
        .chain([after, told, host, end, ";proto=", proto].map(str::as_bytes))
}

/// An address as text. The standard library's formatting took 5 % of a proxied request's instructions to write it twice.
struct Shown {
    text: [u8; Self::LONGEST],
    length: usize,
}

impl Shown {
    /// `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`.
    const LONGEST: usize = 45;

    fn of(address: IpAddr) -> Self {
        let mut this = Self {
            text: [0; Self::LONGEST],
            length: 0,
        };
        match address {
            IpAddr::V4(address) => {
                for (at, octet) in address.octets().into_iter().enumerate() {
                    if at > 0 {
                        this.push(b'.');
                    }
                    let digits = [octet / 100, octet / 10 % 10, octet % 10];
                    let leading = [octet < 100, octet < 10, false];
                    for (digit, _) in digits.into_iter().zip(leading).filter(|(_, is_leading)| !is_leading) {
                        this.push(b'0' + digit);
                    }
                }
            }
            IpAddr::V6(address) => address.to_string().bytes().for_each(|byte| this.push(byte)),
        }
        this
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.text.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// The client's address: the peer's, or where that is a trusted proxy, the last one of `x-forwarded-for` that is none.
pub(super) fn client(head: &RequestHead<'_>, trusted: &[Cidr]) -> Option<IpAddr> {
    let is_trusted = |address: IpAddr| trusted.iter().any(|block| block.contains(address));
    let mut client = head.peer?;
    if !is_trusted(client) {
        return Some(client);
    }
    let lists: Vec<&[u8]> = head.fields.all("x-forwarded-for").collect();
    for entry in lists.iter().rev().flat_map(|list| list.rsplit(|&byte| byte == b',')) {
        let Some(address) = std::str::from_utf8(entry)
            .ok()
            .and_then(|entry| entry.trim_ascii().parse().ok())
        else {
            break;
        };
        client = address;
        if !is_trusted(client) {
            break;
        }
    }
    Some(client)
}

/// Copies every value of a field.
pub(super) fn copy(fields: &dyn Fields, name: HeaderName, edits: &mut Vec<Edit>) {
    let values = fields
        .all(name.as_str())
        .filter_map(|value| HeaderValue::from_bytes(value).ok());
    edits.extend(values.map(|value| Edit::Add(name.clone(), value)).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn after(
        peer: Option<&str>,
        authority: &str,
        scheme: Scheme,
        trusted: &[&str],
        came: &[(&'static str, &'static str)],
    ) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in came {
            fields.append(*name, HeaderValue::from_static(value));
        }
        let trusted: Vec<_> = trusted.iter().map(|block| Cidr::parse(block).unwrap()).collect();
        let peer = peer.map(|peer| peer.parse().unwrap());
        let head = RequestHead {
            method: "GET",
            scheme,
            authority,
            target: "/",
            fields: &fields,
            peer,
        };
        let mut edits = Vec::new();
        edit(&head, &trusted, &mut edits, &mut Made::default());
        let mut after = fields.clone();
        crate::apply(&edits, &mut after);
        after
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let client = |peer: &str, lists: &[&'static str]| {
            let mut fields = HeaderMap::new();
            for list in lists {
                fields.append("x-forwarded-for", HeaderValue::from_static(list));
            }
            let head = RequestHead {
                method: "GET",
                scheme: Scheme::Http,
                authority: "a",
                target: "/",
                fields: &fields,
                peer: peer.parse().ok(),
            };
            client(&head, &[Cidr::parse("10.0.0.0/8").unwrap()]).unwrap().to_string()
        };
        assert_eq!(client("192.0.2.7", &["6.6.6.6"]), "192.0.2.7");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 192.0.2.9", "10.0.0.2"]), "192.0.2.9");
        assert_eq!(client("10.0.0.1", &["10.0.0.3"]), "10.0.0.3");
        assert_eq!(client("10.0.0.1", &["192.0.2.9, unknown"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    fn values(fields: &HeaderMap, name: &str) -> Vec<String> {
        fields
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    const CLAIMS: &[(&str, &str)] = &[
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=6.6.6.6"),
    ];

    #[test]
    fn what_a_stranger_says_of_itself_is_replaced() {
        let fields = after(Some("192.0.2.7"), "api.example:8080", Scheme::Http, &["10.0.0.0/8"], CLAIMS);
        assert_eq!(values(&fields, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(values(&fields, "x-forwarded-proto"), ["http"]);
        assert_eq!(values(&fields, "x-forwarded-host"), ["api.example:8080"]);
        assert_eq!(
            values(&fields, "forwarded"),
            ["for=192.0.2.7;host=\"api.example:8080\";proto=http"]
        );
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_added_to() {
        let fields = after(Some("::ffff:10.1.2.3"), "api.example", Scheme::Http, &["10.0.0.0/8"], CLAIMS);
        assert_eq!(values(&fields, "x-forwarded-for"), ["6.6.6.6, 10.1.2.3"]);
        assert_eq!(values(&fields, "x-forwarded-proto"), ["https"]);
        assert_eq!(values(&fields, "x-forwarded-host"), ["evil.example"]);
        assert_eq!(
            values(&fields, "forwarded"),
            ["for=6.6.6.6, for=10.1.2.3;host=api.example;proto=http"]
        );
    }

    #[test]
    fn an_unknown_peer_is_never_trusted() {
        let fields = after(None, "", Scheme::Https, &["0.0.0.0/0", "::/0"], CLAIMS);
        assert!(values(&fields, "x-forwarded-for").is_empty());
        assert!(values(&fields, "x-forwarded-host").is_empty());
        assert_eq!(values(&fields, "forwarded"), ["for=unknown;proto=https"]);
    }

    #[test]
    fn an_ipv6_peer_stands_in_brackets_and_quotes() {
        let fields = after(Some("2001:db8::1"), "a", Scheme::Http, &[], &[]);
        assert_eq!(values(&fields, "x-forwarded-for"), ["2001:db8::1"]);
        assert_eq!(values(&fields, "forwarded"), ["for=\"[2001:db8::1]\";host=a;proto=http"]);
    }

    #[test]
    fn an_authority_with_a_quote_does_not_reach_forwarded() {
        let fields = after(Some("192.0.2.7"), "a\";for=6.6.6.6;x=\"", Scheme::Http, &[], &[]);
        assert_eq!(values(&fields, "forwarded"), ["for=192.0.2.7;proto=http"]);
    }

    #[test]
    fn an_address_is_shown_as_the_standard_library_shows_it() {
        for octet in 0..=u8::MAX {
            let address = IpAddr::from([octet, 0, 10, octet.wrapping_mul(101)]);
            assert_eq!(Shown::of(address).bytes(), address.to_string().as_bytes());
        }
        for address in [
            "::",
            "2001:db8::1",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "::ffff:255.255.255.255",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(Shown::of(address).bytes(), address.to_string().as_bytes());
        }
    }

    #[test]
    fn blocks_contain_what_they_say() {
        let contains = |block: &str, address: &str| Cidr::parse(block).unwrap().contains(address.parse().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"), "all of IPv4 is not IPv6");
        assert!(contains("0.0.0.0/0", "1.2.3.4"));
        assert!(contains("::/0", "2001:db8::1"));
        assert!(contains("127.0.0.1", "127.0.0.1"));
        assert!(!contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("2001:db8::/32", "2001:db8:1::"));
        for none in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::/129",
            "localhost",
        ] {
            assert_eq!(Cidr::parse(none), None, "{none}");
        }
    }
}
