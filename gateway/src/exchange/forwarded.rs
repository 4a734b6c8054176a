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

/// What upstreams were told lately, since a client's requests come from one address and most often for one host: to make the values
/// anew for each took 8 % of a proxied request's instructions, and taking them from here takes 2 %.
///
/// Each pair of client and host has one place, from which another pair that has the same drives it out.
#[derive(Debug)]
pub(crate) struct Told(Vec<Option<Box<Known>>>);

/// What was told of one client and host.
#[derive(Debug)]
struct Known {
    peer: Option<IpAddr>,
    scheme: Scheme,
    authority: Box<str>,
    edits: [Edit; 4],
}

impl Told {
    /// About 60 KiB where all are taken.
    const PLACES: usize = 64;

    /// Longer hosts are not kept.
    const LONGEST: usize = 255;

    fn place(&mut self, head: &RequestHead<'_>) -> Option<&mut Option<Box<Known>>> {
        let address = match head.peer {
            Some(IpAddr::V4(address)) => address.to_bits(),
            Some(IpAddr::V6(address)) => address
                .segments()
                .iter()
                .fold(0_u32, |hash, &part| hash.rotate_left(9) ^ u32::from(part)),
            None => 0,
        };
        // Fibonacci's hash: the high bits of a product with 2³² by the golden ratio.
        let hash = (address ^ u32::try_from(head.authority.len()).ok()?.rotate_left(16)).wrapping_mul(0x9e37_79b9) >> 16;
        let is_kept = head.authority.len() <= Self::LONGEST;
        self.0.get_mut(hash as usize % Self::PLACES).filter(|_| is_kept)
    }
}

impl Default for Told {
    fn default() -> Self {
        Self((0..Self::PLACES).map(|_| None).collect())
    }
}

impl Known {
    fn is_of(&self, head: &RequestHead<'_>) -> bool {
        self.peer == head.peer && self.scheme == head.scheme && *self.authority == *head.authority
    }
}

/// Adds the edits that tell an upstream where the request came from.
pub(super) fn edit(head: &RequestHead<'_>, trusted: &[Cidr], told: &mut Told, edits: &mut Vec<Edit>, made: &mut Made) {
    let is_trusted = head.peer.is_some_and(|peer| trusted.iter().any(|block| block.contains(peer)));
    // What a trusted proxy says differs from request to request.
    let Some(place) = told.place(head).filter(|_| !is_trusted) else {
        return edits.extend(of(head, is_trusted, made));
    };
    let known = place.take().filter(|known| known.is_of(head)).unwrap_or_else(|| {
        Box::new(Known {
            peer: head.peer,
            scheme: head.scheme,
            authority: head.authority.into(),
            edits: of(head, is_trusted, made),
        })
    });
    edits.extend_from_slice(&place.insert(known).edits);
}

fn of(head: &RequestHead<'_>, is_trusted: bool, made: &mut Made) -> [Edit; 4] {
    let peer = head.peer.map(|peer| match peer {
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or(peer, IpAddr::V4),
        IpAddr::V4(_) => peer,
    });
    let shown = peer.map(Shown::of);
    let proto = match head.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let tell = |name: HeaderName, value: Option<HeaderValue>| match value {
        Some(value) => Edit::Set(name, value),
        None => Edit::Remove(name),
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
    let list = shown.as_ref().and_then(|shown| made.value(&[&chain, shown.bytes()]));
    let host = kept(&names::X_FORWARDED_HOST).or_else(|| {
        made.value(&[head.authority.as_bytes()])
            .filter(|_| !head.authority.is_empty())
    });
    let chain = before(&names::FORWARDED);
    let forwarded = made.value(&element(&chain, peer, shown.as_ref(), head.authority, proto));
    [
        tell(names::X_FORWARDED_FOR, list),
        tell(
            names::X_FORWARDED_PROTO,
            kept(&names::X_FORWARDED_PROTO).or(Some(HeaderValue::from_static(proto))),
        ),
        tell(names::X_FORWARDED_HOST, host),
        tell(names::FORWARDED, forwarded),
    ]
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

/// The parts of `forwarded`: one more element (RFC 7239 §4) behind those that are there.
fn element<'a>(
    chain: &'a [u8],
    peer: Option<IpAddr>,
    shown: Option<&'a Shown>,
    authority: &'a str,
    proto: &'a str,
) -> [&'a [u8]; 9] {
    // An IPv6 address stands in brackets, and what is no token in quotes (§6).
    let [before, after] = match peer {
        Some(IpAddr::V6(_)) => ["for=\"[", "]\""],
        Some(IpAddr::V4(_)) | None => ["for=", ""],
    };
    let client = shown.map_or(b"unknown".as_slice(), Shown::bytes);
    let all = |kind: u8| {
        authority
            .bytes()
            .fold(true, |all, byte| all & (FORWARDED[usize::from(byte)] & kind != 0))
    };
    let [told, host, end] = match authority {
        "" => [""; 3],
        authority if all(TOKEN) => [";host=", authority, ""],
        authority if all(QUOTABLE) => [";host=\"", authority, "\""],
        _ => [""; 3],
    };
    [
        chain,
        before.as_bytes(),
        client,
        after.as_bytes(),
        told.as_bytes(),
        host.as_bytes(),
        end.as_bytes(),
        b";proto=",
        proto.as_bytes(),
    ]
}

/// Stands in a token (RFC 9110 §5.6.2).
const TOKEN: u8 = 1;
/// Stands in a quoted string as it is.
const QUOTABLE: u8 = 2;

/// Where a byte may stand, a bit each. Searching a list of the token's signs for each byte was 1 % of a proxied request's instructions.
static FORWARDED: [u8; 256] = {
    let signs = b"!#$%&'*+-.^_`|~";
    let mut table = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\') {
            table[byte as usize] |= QUOTABLE;
        }
        if byte.is_ascii_alphanumeric() {
            table[byte as usize] |= TOKEN;
        }
        byte += 1;
    }
    let mut at = 0;
    while at < signs.len() {
        table[signs[at] as usize] |= TOKEN;
        at += 1;
    }
    table
};

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
        edit(&head, &trusted, &mut Told::default(), &mut edits, &mut Made::default());
        let mut after = fields.clone();
        crate::apply(&edits, &mut after);
        after
    }

    #[test]
    fn what_is_told_does_not_depend_on_what_was_told_before() {
        let trusted = [Cidr::parse("10.0.0.0/8").unwrap()];
        let peers = ["192.0.2.7", "192.0.2.8", "10.0.0.1", "2001:db8::1", "2001:db8::2"];
        let mut told = Told::default();
        let long = "a".repeat(Told::LONGEST + 1);
        for round in 0..3 {
            let mut fields = HeaderMap::new();
            fields.insert("x-forwarded-for", HeaderValue::from_str(&format!("6.6.6.{round}")).unwrap());
            for peer in peers.map(|peer| peer.parse().ok()).into_iter().chain([None]) {
                for authority in ["a", "b", "", &long] {
                    for scheme in [Scheme::Http, Scheme::Https] {
                        let head = RequestHead {
                            method: "GET",
                            scheme,
                            authority,
                            target: "/",
                            fields: &fields,
                            peer,
                        };
                        let (mut known, mut anew) = (Vec::new(), Vec::new());
                        edit(&head, &trusted, &mut told, &mut known, &mut Made::default());
                        edit(&head, &trusted, &mut Told::default(), &mut anew, &mut Made::default());
                        assert_eq!(known, anew, "{peer:?} {authority} {scheme:?}");
                    }
                }
            }
        }
        assert!(told.0.iter().flatten().all(|known| known.authority.len() <= Told::LONGEST));
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
