//! What is asked of a service, and how often.

use std::str::FromStr;
use std::time::Duration;

use http::uri::PathAndQuery;

/// The longest name of a gRPC service that is asked about.
const MAX_GRPC: usize = 256;

/// A check that a member makes of the service that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// From one question to the next. Default 5 s.
    pub interval: Duration,
    /// How long the answer may take. Default 2 s.
    pub timeout: Duration,
    /// After how many failures in a row an endpoint does not serve any more. Default 2.
    pub failures: u32,
    /// After how many passes in a row it serves again. Default 1.
    pub passes: u32,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A GET of this path, which is answered with a status from 200 to 399.
    Http(PathAndQuery),
    /// `grpc.health.v1.Health/Check` of this service (empty: of all), which is answered with `SERVING`.
    Grpc(String),
    /// Whether the program accepts connections that a wrapper serves; a service in the member's own process always does.
    Tcp,
}

impl Check {
    /// A check with the defaults.
    #[must_use]
    pub const fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            failures: 2,
            passes: 1,
        }
    }
}

impl Probe {
    /// A GET of `path`.
    ///
    /// # Errors
    /// [`CheckError::Path`] where it is none.
    pub fn http(path: &str) -> Result<Self, CheckError> {
        // `//host/path` is a URL without its scheme.
        let absolute = Some(path).filter(|path| path.starts_with('/') && !path.starts_with("//"));
        let path = absolute.and_then(|path| path.parse().ok());
        path.map(Self::Http).ok_or(CheckError::Path)
    }

    /// The gRPC health protocol, for `service` (empty: for all).
    ///
    /// # Errors
    /// [`CheckError::Grpc`] where there can be no such service.
    pub fn grpc(service: &str) -> Result<Self, CheckError> {
        if service.len() > MAX_GRPC || !service.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CheckError::Grpc);
        }
        Ok(Self::Grpc(service.to_owned()))
    }
}

/// `http:/PATH`, `grpc`, `grpc:SERVICE` or `tcp`.
impl FromStr for Check {
    type Err = CheckError;

    fn from_str(text: &str) -> Result<Self, CheckError> {
        let probe = match text.split_once(':') {
            Some(("http", path)) => Probe::http(path)?,
            Some(("grpc", service)) => Probe::grpc(service)?,
            None if text == "grpc" => Probe::grpc("")?,
            None if text == "tcp" => Probe::Tcp,
            _ => return Err(CheckError::Kind),
        };
        Ok(Self::new(probe))
    }
}

/// What is wrong with a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// Another kind.
    #[error("a check is http:/PATH, grpc, grpc:SERVICE or tcp, as in http:/healthz")]
    Kind,
    /// No path.
    #[error("a path to check begins with /, as in /healthz")]
    Path,
    /// No gRPC service.
    #[error("a gRPC service to check has at most {MAX_GRPC} visible ASCII characters, as in bank.Accounts")]
    Grpc,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_read_as_they_are_written() {
        let probe = |text: &str| text.parse::<Check>().map(|check| check.probe);
        assert_eq!(probe("http:/healthz?x=1"), Ok(Probe::Http("/healthz?x=1".parse().unwrap())));
        assert_eq!(probe("grpc"), Ok(Probe::Grpc(String::new())));
        assert_eq!(probe("grpc:bank.Accounts"), Ok(Probe::Grpc("bank.Accounts".to_owned())));
        assert_eq!(probe("tcp"), Ok(Probe::Tcp));
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in ["", "http", "https:/", "tcp:80", "udp", "/healthz"] {
            assert_eq!(text.parse::<Check>(), Err(CheckError::Kind), "{text}");
        }
        for text in ["http:", "http:healthz", "http://host/", "http:/a b"] {
            assert_eq!(text.parse::<Check>(), Err(CheckError::Path), "{text}");
        }
        assert_eq!("grpc:a b".parse::<Check>(), Err(CheckError::Grpc));
    }
}
