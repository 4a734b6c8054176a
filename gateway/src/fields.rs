//! Header fields on their way through: which end at this hop, and the edits of a step.

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};

use crate::exchange::Edit;

/// Fields that are about one connection (RFC 9110 §7.6.1, and §11.7 for the proxy's own authentication). `keep-alive` and
/// `proxy-connection` are not registered as such, but are sent by clients that mean them so.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes the fields that end at this hop, those that `Connection` names included.
///
/// `TE: trailers` stays where it was (it is what gRPC asks for, and this proxy forwards trailers); every other member of `TE`
/// goes (RFC 9110 §10.1.4). Call it on a request before its edits are applied, and on an upstream's answer likewise.
pub fn strip_hop_by_hop(fields: &mut HeaderMap) {
    // Most messages have none. To compare names costs a tenth of looking each of them up.
    if !fields.keys().any(|name| *name == TE || HOP_BY_HOP.contains(name)) {
        return;
    }
    let trailers = fields.get_all(TE).iter().any(accepts_trailers);
    if fields.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = fields
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
            .collect();
        for name in named {
            fields.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        fields.remove(name);
    }
    fields.remove(TE);
    if trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
}

fn accepts_trailers(te: &HeaderValue) -> bool {
    te.as_bytes()
        .split(|&byte| byte == b',')
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Applies edits in their order.
pub fn apply(edits: &[Edit], fields: &mut HeaderMap) {
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                fields.insert(name.clone(), value.clone());
            }
            Edit::Add(name, value) => {
                fields.append(name.clone(), value.clone());
            }
            Edit::Remove(name) => {
                fields.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    #[test]
    fn fields_that_connection_names_end_here() {
        let mut map = fields(&[("connection", "close, X-Internal"), ("x-internal", "1"), ("accept", "*/*")]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, fields(&[("accept", "*/*")]));
    }

    #[test]
    fn the_connections_own_fields_end_here_without_being_named() {
        let mut map = fields(&[
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eDp5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-type", "text/plain"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, fields(&[("content-type", "text/plain")]));
    }

    #[test]
    fn te_keeps_only_trailers() {
        let mut map = fields(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, fields(&[("te", "trailers")]));
        let mut map = fields(&[("te", "gzip")]);
        strip_hop_by_hop(&mut map);
        assert!(map.is_empty());
    }

    #[test]
    fn odd_bytes_in_connection_are_no_reason_to_stop() {
        let mut map = HeaderMap::new();
        map.insert(CONNECTION, HeaderValue::from_bytes(b"\xff, ,x-a,").unwrap());
        map.insert("x-a", HeaderValue::from_static("1"));
        strip_hop_by_hop(&mut map);
        assert!(map.is_empty());
    }

    #[test]
    fn edits_apply_in_their_order() {
        let mut map = fields(&[("a", "1"), ("a", "2"), ("b", "1")]);
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        apply(
            &[
                Edit::Set(name("a"), value("3")),
                Edit::Add(name("a"), value("4")),
                Edit::Remove(name("b")),
            ],
            &mut map,
        );
        assert_eq!(map, fields(&[("a", "3"), ("a", "4")]));
    }
}
