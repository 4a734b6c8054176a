//! An endpoint as members name it, read strictly: what is registered here is what every caller of the service dials.

use std::net::IpAddr;

use identity::{ServiceName, ServiceNameError};
use mesh_api::{MAX_ATTRIBUTE, v1};
use mesh_client::discovery::Health;
use serde::{Deserialize, Serialize};

const MAX_ID: usize = 128;
const MAX_WEIGHT: u32 = 65_535;

/// One place where a service is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// Unique for the life of the registration; chosen by the member.
    pub(crate) id: String,
    /// The service.
    pub(crate) service: String,
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// What it speaks inside TLS.
    pub(crate) protocol: Protocol,
    /// The version of the program, as it says itself; may be empty.
    #[serde(default)]
    pub(crate) version: String,
    /// Where it runs, as it says itself; may be empty.
    #[serde(default)]
    pub(crate) zone: String,
    /// Its share of the calls among the endpoints of the service, 0 to 65,535.
    pub(crate) weight: u32,
    /// What its own checks say of it.
    #[serde(default)]
    pub(crate) health: Health,
}

/// What is spoken inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Protocol {
    /// HTTP/2.
    #[serde(rename = "h2")]
    Http2,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http1,
    /// A protocol that the mesh does not look into.
    #[serde(rename = "tcp")]
    Tcp,
}

impl Protocol {
    /// Its name in what members say.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http2 => "h2",
            Self::Http1 => "http/1.1",
            Self::Tcp => "tcp",
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = EndpointError;

    fn try_from(endpoint: v1::Endpoint) -> Result<Self, EndpointError> {
        ServiceName::new(&endpoint.service)?;
        let is_id_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        if endpoint.id.is_empty() || endpoint.id.len() > MAX_ID || !endpoint.id.bytes().all(is_id_byte) {
            return Err(EndpointError::Id);
        }
        check_address(&endpoint.address)?;
        let protocol = match endpoint.protocol.as_str() {
            "h2" => Protocol::Http2,
            "http/1.1" => Protocol::Http1,
            "tcp" => Protocol::Tcp,
            _ => return Err(EndpointError::Protocol),
        };
        for (name, text) in [("version", &endpoint.version), ("zone", &endpoint.zone)] {
            if text.len() > MAX_ATTRIBUTE || text.chars().any(char::is_control) {
                return Err(EndpointError::Text(name));
            }
        }
        if endpoint.weight > MAX_WEIGHT {
            return Err(EndpointError::Weight(endpoint.weight));
        }
        let health = endpoint.health().into();
        Ok(Self {
            id: endpoint.id,
            service: endpoint.service,
            address: endpoint.address,
            protocol,
            version: endpoint.version,
            zone: endpoint.zone,
            weight: endpoint.weight,
            health,
        })
    }
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            id: endpoint.id.clone(),
            service: endpoint.service.clone(),
            address: endpoint.address.clone(),
            protocol: endpoint.protocol.name().to_owned(),
            version: endpoint.version.clone(),
            zone: endpoint.zone.clone(),
            weight: endpoint.weight,
            health: v1::Health::from(endpoint.health).into(),
        }
    }
}

/// `HOST:PORT` with a host that can be dialled: an address other than the unspecified one, or a DNS name.
fn check_address(address: &str) -> Result<(), EndpointError> {
    let (host, port) = address.rsplit_once(':').ok_or(EndpointError::Address)?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().unwrap_or(0) == 0 {
        return Err(EndpointError::Address);
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let ip: Option<IpAddr> = match bracketed {
        Some(host) => Some(IpAddr::V6(host.parse().map_err(|_| EndpointError::Address)?)),
        None => host.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4),
    };
    match ip {
        Some(ip) if ip.is_unspecified() => Err(EndpointError::Unspecified),
        Some(_) => Ok(()),
        None => {
            let is_label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            };
            if host.len() <= 253 && host.split('.').all(is_label) {
                Ok(())
            } else {
                Err(EndpointError::Address)
            }
        }
    }
}

/// Why an endpoint is not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    /// A service name that is none.
    #[error(transparent)]
    Service(#[from] ServiceNameError),
    /// An id that is none.
    #[error("an endpoint id has 1 to {MAX_ID} letters, digits, `-`, `_`, `.` or `:`")]
    Id,
    /// An address that nobody can dial.
    #[error("an endpoint address is HOST:PORT, as in `10.0.0.7:8443`")]
    Address,
    /// The address that stands for all of them.
    #[error("an unspecified address such as 0.0.0.0 cannot be dialled; advertise the address that peers reach you by")]
    Unspecified,
    /// Another protocol.
    #[error("the protocol of an endpoint is `h2`, `http/1.1` or `tcp`")]
    Protocol,
    /// Too long, or with control characters.
    #[error("the {0} of an endpoint has at most {MAX_ATTRIBUTE} bytes and no control characters")]
    Text(&'static str),
    /// Too heavy.
    #[error("the weight {0} is over {MAX_WEIGHT}")]
    Weight(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> v1::Endpoint {
        v1::Endpoint {
            id: "accounts-1".to_owned(),
            service: "accounts".to_owned(),
            address: "10.0.0.7:8443".to_owned(),
            protocol: "h2".to_owned(),
            version: String::new(),
            zone: "a".to_owned(),
            weight: 1,
            health: v1::Health::Serving.into(),
        }
    }

    #[test]
    fn what_is_read_is_written_the_same() {
        for protocol in ["h2", "http/1.1", "tcp"] {
            let good = v1::Endpoint {
                protocol: protocol.to_owned(),
                ..good()
            };
            assert_eq!(v1::Endpoint::from(&Endpoint::try_from(good.clone()).unwrap()), good);
        }
    }

    #[test]
    fn addresses_that_can_be_dialled_are_taken() {
        for address in ["127.0.0.1:1", "[::1]:65535", "accounts.internal:8443", "host_1:80", "a:1"] {
            assert_eq!(check_address(address), Ok(()), "{address}");
        }
    }

    #[test]
    fn addresses_that_cannot_be_dialled_are_refused() {
        for address in [
            "", ":", "a", "a:", "a:0", "a:65536", "a:+1", ":80", "::1:80", "[::1:80", "a..b:80", "a b:80", "x/y:80", "[a]:80",
        ] {
            assert_eq!(check_address(address), Err(EndpointError::Address), "{address}");
        }
        for address in ["0.0.0.0:80", "[::]:80"] {
            assert_eq!(check_address(address), Err(EndpointError::Unspecified), "{address}");
        }
    }

    #[test]
    fn each_malformed_field_is_refused_for_its_own_reason() {
        let refuse = |change: fn(&mut v1::Endpoint)| {
            let mut endpoint = good();
            change(&mut endpoint);
            Endpoint::try_from(endpoint).unwrap_err()
        };
        assert_eq!(refuse(|e| e.id.clear()), EndpointError::Id);
        assert_eq!(refuse(|e| e.id = "a b".to_owned()), EndpointError::Id);
        assert_eq!(refuse(|e| e.id = "x".repeat(129)), EndpointError::Id);
        assert_eq!(refuse(|e| e.protocol = "h3".to_owned()), EndpointError::Protocol);
        assert_eq!(refuse(|e| e.zone = "a\n".to_owned()), EndpointError::Text("zone"));
        assert_eq!(refuse(|e| e.version = "x".repeat(129)), EndpointError::Text("version"));
        assert_eq!(refuse(|e| e.weight = 65_536), EndpointError::Weight(65_536));
        assert!(matches!(
            refuse(|e| e.service = "Accounts".to_owned()),
            EndpointError::Service(_)
        ));
    }
}
