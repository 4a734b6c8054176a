//! The settings file of `mesh-runtime serve` (TOML).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use identity::TrustDomain;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{Config, StoreChoice, parse_duration};

/// What a file may set; each has the meaning of the flag or of the [`Config`] field of its name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileSettings {
    listen: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    pub(crate) data_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    #[serde(default, deserialize_with = "text")]
    trust_domain: Option<TrustDomain>,
    #[serde(default, deserialize_with = "text")]
    pub(crate) store: Option<StoreChoice>,
    #[serde(default, deserialize_with = "duration")]
    svid_ttl: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    lease_ttl: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    lease_grace: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    drain: Option<Duration>,
}

impl FileSettings {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            ConfigError::Parse {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
                message: error.message().to_owned(),
            }
        })
    }

    /// Puts what the file sets in place of what `config` has.
    pub(crate) fn apply(self, config: &mut Config) {
        fn set<T>(value: Option<T>, place: &mut T) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(self.listen, &mut config.listen);
        set(self.admin, &mut config.admin);
        set(self.data_dir, &mut config.data_dir);
        set(self.svid_ttl, &mut config.svid_ttl);
        set(self.lease_ttl, &mut config.lease_ttl);
        set(self.lease_grace, &mut config.lease_grace);
        set(self.drain, &mut config.drain);
        if self.socket.is_some() {
            config.socket = self.socket;
        }
        if self.trust_domain.is_some() {
            config.trust_domain = self.trust_domain;
        }
    }
}

fn text<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    parse_duration(&String::deserialize(deserializer)?)
        .map(Some)
        .map_err(D::Error::custom)
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is malformed.
    #[error("{path}:{line}:{column}: error: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// A setting out of its range.
    #[error("`{name}` is {value:?}, which must be {least:?} to {most:?}")]
    Range {
        /// The setting.
        name: &'static str,
        /// What it is.
        value: Duration,
        /// The least that it may be.
        least: Duration,
        /// The most that it may be.
        most: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FileSettings, String> {
        FileSettings::parse(Path::new("mesh.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_setting_is_taken_over() {
        let text = r#"
            listen = "127.0.0.1:1"
            admin = "127.0.0.1:2"
            data_dir = "/data"
            socket = "/run/mesh.sock"
            trust_domain = "bank.test"
            store = "embedded"
            svid_ttl = "30m"
            lease_ttl = "5s"
            lease_grace = "20s"
            drain = "1s"
        "#;
        let mut config = Config::new("/elsewhere");
        parse(text).unwrap().apply(&mut config);
        let expected = Config {
            listen: "127.0.0.1:1".parse().unwrap(),
            admin: "127.0.0.1:2".parse().unwrap(),
            data_dir: "/data".into(),
            socket: Some("/run/mesh.sock".into()),
            trust_domain: Some(TrustDomain::new("bank.test").unwrap()),
            svid_ttl: Duration::from_secs(1800),
            lease_ttl: Duration::from_secs(5),
            lease_grace: Duration::from_secs(20),
            drain: Duration::from_secs(1),
            state_home: None,
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        let mut config = Config::new("/data");
        parse("").unwrap().apply(&mut config);
        assert_eq!(config, Config::new("/data"));
    }

    #[test]
    fn every_error_names_its_place() {
        for (text, place, word) in [
            ("listne = \"127.0.0.1:1\"", "mesh.toml:1:1:", "listne"),
            ("\nlisten = \"localhost\"", "mesh.toml:2:10:", "socket address"),
            ("svid_ttl = \"soon\"", "mesh.toml:1:12:", "10m"),
            ("svid_ttl = 30", "mesh.toml:1:12:", "string"),
            ("trust_domain = \"Bank\"", "mesh.toml:1:16:", "'B'"),
            ("store = \"disk\"", "mesh.toml:1:9:", "embedded"),
            ("listen", "mesh.toml:1:7:", ""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(place) && error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_setting_out_of_its_range_is_refused() {
        let config = Config {
            svid_ttl: Duration::from_secs(9),
            ..Config::new("/data")
        };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "`svid_ttl` is 9s, which must be 10s to 86400s"
        );
    }
}
