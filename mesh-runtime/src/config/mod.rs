//! The settings of a control plane: defaults, a file, flags; the later wins.

mod file;
mod units;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use identity::TrustDomain;

pub use file::ConfigError;
pub(crate) use file::FileSettings;
pub(crate) use units::parse_duration;

/// The trust domain of a mesh for which no other is asked.
pub const DEFAULT_TRUST_DOMAIN: &str = "mesh.local";
/// Where members reach the control plane unless told otherwise.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7700);
/// Where the admin endpoint is unless told otherwise.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7701);

/// The settings of a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where members reach it. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `/live`, `/ready`, `/metrics` and `/config` are. Port 0 takes a free one.
    pub admin: SocketAddr,
    /// Where the store is; made where it does not exist.
    pub data_dir: PathBuf,
    /// Where processes of this machine join by who they are. `None`: `mesh.sock` in the data directory, which only its owner can
    /// enter; another place lets other users near.
    pub socket: Option<PathBuf>,
    /// The trust domain. `None`: the one that the data directory belongs to, or [`DEFAULT_TRUST_DOMAIN`].
    pub trust_domain: Option<TrustDomain>,
    /// How long an SVID is valid: 10 seconds to 24 hours.
    pub svid_ttl: Duration,
    /// How long a registration lasts without a heartbeat: 1 second to 1 hour.
    pub lease_ttl: Duration,
    /// How long registrations last after a restart of the control plane, for members to find back.
    pub lease_grace: Duration,
    /// How long stopping may take.
    pub drain: Duration,
    /// The folder for state of this user (`$XDG_STATE_HOME`), where the operator's credential is put for commands on this
    /// machine, besides the data directory. `None`: nowhere else.
    pub state_home: Option<PathBuf>,
}

impl Config {
    /// The defaults, with the data in `data_dir` and the operator's credential nowhere else than there.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            admin: DEFAULT_ADMIN,
            data_dir: data_dir.into(),
            socket: None,
            trust_domain: None,
            svid_ttl: Duration::from_secs(3600),
            lease_ttl: Duration::from_secs(15),
            lease_grace: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            state_home: None,
        }
    }

    /// Where the local socket is.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.data_dir.join("mesh.sock"))
    }

    /// Whether every setting is within its range.
    ///
    /// # Errors
    /// [`ConfigError::Range`] for the first that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let hour = Duration::from_secs(3600);
        let second = Duration::from_secs(1);
        for (name, value, least, most) in [
            (
                "svid_ttl",
                self.svid_ttl,
                crate::authority::MIN_SVID_TTL,
                crate::authority::MAX_SVID_TTL,
            ),
            ("lease_ttl", self.lease_ttl, second, hour),
            ("lease_grace", self.lease_grace, second, hour),
            ("drain", self.drain, Duration::ZERO, hour),
        ] {
            if value < least || value > most {
                return Err(ConfigError::Range {
                    name,
                    value,
                    least,
                    most,
                });
            }
        }
        Ok(())
    }
}

/// The store that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreChoice {
    Embedded,
    Etcd,
}

impl std::str::FromStr for StoreChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "embedded" => Ok(Self::Embedded),
            text if text.starts_with("etcd://") => Ok(Self::Etcd),
            _ => Err("a store is `embedded` or `etcd://HOST:PORT[,…]`".to_owned()),
        }
    }
}
