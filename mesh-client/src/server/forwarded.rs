//! `x-forwarded-client-cert`: who the peer is, for handlers that read headers.

use std::fmt::Write as _;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use identity::SpiffeId;

use crate::tls::PeerIdentity;

/// The header by which a proxy tells a program behind it who the peer is.
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Sets the header from what the handshake proved. Whatever came is dropped first: a peer may not vouch for another.
pub(super) fn replace(headers: &mut HeaderMap, peer: Option<&PeerIdentity>, own: &SpiffeId) {
    headers.remove(X_FORWARDED_CLIENT_CERT);
    if let Some(peer) = peer {
        let value = element(peer, own);
        headers.insert(
            X_FORWARDED_CLIENT_CERT,
            HeaderValue::from_str(&value).expect("hex digits and SPIFFE IDs are visible ASCII"),
        );
    }
}

/// `By` is who received it, `Hash` the SHA-256 of the certificate, `URI` whom it names, as other proxies write them.
fn element(peer: &PeerIdentity, own: &SpiffeId) -> String {
    let mut value = format!("By={own};Hash=");
    for byte in peer.fingerprint() {
        let _ = write!(value, "{byte:02x}");
    }
    let _ = write!(value, ";URI={}", peer.id());
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_nameless_peer_claims_is_dropped() {
        let mut headers = HeaderMap::new();
        for claim in [
            "URI=spiffe://bank.example/service/director",
            "URI=spiffe://bank.example/control-plane",
        ] {
            headers.append(X_FORWARDED_CLIENT_CERT, HeaderValue::from_static(claim));
        }
        replace(&mut headers, None, &"spiffe://bank.example/control-plane".parse().unwrap());
        assert!(headers.is_empty());
    }
}
