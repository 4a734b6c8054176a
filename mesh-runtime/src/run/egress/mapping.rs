//! Local ports that lead to services: `--upstream db=127.0.0.1:5432`.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use identity::ServiceName;

/// A port on loopback, and the service behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) service: ServiceName,
    pub(crate) address: SocketAddr,
}

impl FromStr for Mapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` maps no port; write SERVICE=PORT or SERVICE=IP:PORT, as in db=5432 or db=127.0.0.1:5432");
        let (service, address) = text.split_once('=').ok_or_else(wrong)?;
        let service = ServiceName::new(service).map_err(|error| format!("`{service}` is no service name: {error}"))?;
        let address = match address.parse::<u16>() {
            Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Err(_) => address.parse().map_err(|_| wrong())?,
        };
        if !address.ip().is_loopback() {
            return Err(format!(
                "`{address}` can be reached from other machines, and whoever reaches it speaks as this service; choose an address of \
                 loopback, as in 127.0.0.1:{}",
                address.port()
            ));
        }
        Ok(Self { service, address })
    }
}

impl Mapping {
    /// The variable that tells the program where the port is, as in `MESH_UPSTREAM_DB`.
    pub(crate) fn variable(&self) -> String {
        let name = self.service.as_str().to_ascii_uppercase().replace('-', "_");
        format!("MESH_UPSTREAM_{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_mapped_on_loopback_alone() {
        let mapped = |text: &str| text.parse::<Mapping>().map(|mapping| mapping.address.to_string());
        assert_eq!(mapped("db=5432").as_deref(), Ok("127.0.0.1:5432"));
        assert_eq!(mapped("db=127.0.0.2:5432").as_deref(), Ok("127.0.0.2:5432"));
        assert_eq!(mapped("db=[::1]:0").as_deref(), Ok("[::1]:0"));
        for (text, why) in [
            ("db", "db=5432"),
            ("5432", "db=5432"),
            ("db=", "db=5432"),
            ("db=localhost", "db=5432"),
            ("db=70000", "db=5432"),
            ("Db=5432", "no service name"),
            ("db=0.0.0.0:5432", "127.0.0.1:5432"),
            ("db=10.0.0.1:5432", "speaks as this service"),
        ] {
            let error = mapped(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_program_is_told_by_a_variable() {
        let mapping: Mapping = "orders-db=5432".parse().unwrap();
        assert_eq!(mapping.variable(), "MESH_UPSTREAM_ORDERS_DB");
    }
}
