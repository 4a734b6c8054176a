//! Header fields between HTTP/1.1 at the program and HTTP/2 in the mesh.

use http::header::{
    CONNECTION, COOKIE, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
    UPGRADE,
};

/// Fields that are about one connection (RFC 9110 §7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Takes out what ends at this hop. `TE: trailers` stays, since trailers are forwarded and gRPC asks for them.
pub(super) fn strip_hop_by_hop(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = items(fields, &CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    let trailers = items(fields, &TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    for name in named.iter().chain(&HOP_BY_HOP) {
        fields.remove(name);
    }
    fields.remove(TE);
    if trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Joins the cookie fields, which HTTP/2 may split, into the one that HTTP/1.1 has (RFC 9113 §8.2.3).
pub(super) fn join_cookies(fields: &mut HeaderMap) {
    let mut cookies = fields.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (cookies.next(), cookies.next()) {
        let all: Vec<&[u8]> = [first, second]
            .into_iter()
            .chain(cookies)
            .map(HeaderValue::as_bytes)
            .collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            fields.insert(COOKIE, joined);
        }
    }
}

pub(super) fn items<'a>(fields: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    fields
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    #[test]
    fn what_is_about_the_connection_ends_here() {
        let mut all = fields(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip, trailers"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut all);
        assert_eq!(all, fields(&[("accept", "*/*"), ("te", "trailers")]));
    }

    #[test]
    fn cookies_become_one_field() {
        let mut all = HeaderMap::new();
        for value in ["a=1", "b=2", "c=3"] {
            all.append(COOKIE, HeaderValue::from_static(value));
        }
        join_cookies(&mut all);
        assert_eq!(all, fields(&[("cookie", "a=1; b=2; c=3")]));
        let mut none = HeaderMap::new();
        join_cookies(&mut none);
        assert!(none.is_empty());
    }
}
