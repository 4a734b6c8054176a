//! What is spoken inside TLS.

use serde::{Deserialize, Serialize};

use super::TlsError;

/// What is spoken inside TLS. An endpoint declares it and ALPN (RFC 7301) confirms it, so that no end takes one for the other and
/// nobody has to guess from the first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/2.
    #[default]
    #[serde(rename = "h2")]
    Http2,
    /// The bytes of a protocol that the mesh does not look into, after one byte of its own: see [`opaque`](crate::opaque).
    #[serde(rename = "tcp")]
    Tcp,
}

impl Protocol {
    /// Its name in the registry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http2 => "h2",
            Self::Tcp => "tcp",
        }
    }

    /// The protocol of this name in the registry; HTTP/2 where an endpoint does not say.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "" | "h2" => Some(Self::Http2),
            "tcp" => Some(Self::Tcp),
            _ => None,
        }
    }

    /// What ALPN calls it.
    pub(super) fn alpn(self) -> Vec<u8> {
        match self {
            Self::Http2 => b"h2".to_vec(),
            // Not registered with IANA, so it says whose it is.
            Self::Tcp => b"heddle-tcp".to_vec(),
        }
    }

    /// Without ALPN the library lets a connection through whose protocol nobody agreed on.
    pub(super) fn expect(self, agreed: Option<&[u8]>) -> Result<(), TlsError> {
        if agreed == Some(&*self.alpn()) {
            Ok(())
        } else {
            Err(TlsError::Alpn(self.name()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_known_by_its_name_and_by_no_other() {
        for protocol in [Protocol::Http2, Protocol::Tcp] {
            assert_eq!(Protocol::named(protocol.name()), Some(protocol));
            assert!(protocol.expect(Some(&protocol.alpn())).is_ok());
        }
        assert_eq!(Protocol::named(""), Some(Protocol::Http2));
        for name in ["http/1.1", "H2", "udp"] {
            assert_eq!(Protocol::named(name), None, "{name}");
        }
        for agreed in [None, Some(&b"h2"[..]), Some(b"http/1.1")] {
            assert!(Protocol::Tcp.expect(agreed).is_err(), "{agreed:?}");
        }
    }
}
