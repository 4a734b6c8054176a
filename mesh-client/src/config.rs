//! What a member must be told: where the control plane is, by what it may join, as whom and where it serves.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use identity::{ServiceName, ServiceNameError};
use mesh_api::{DEFAULT_CONTROL, JoinToken, MAX_ATTRIBUTE, TokenError};

use crate::health::{Check, CheckError};

/// By what a member may join.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Credential {
    /// A join token, good once, for the service that it was made for.
    Token(JoinToken),
    /// The operator's credential, by which the member makes its own join tokens. For development: whoever can read the
    /// file that it comes from may be any service.
    Operator(JoinToken),
    /// The control plane's socket on this machine, by which it knows who the process is: user, group, program. Good for the
    /// services that registration entries name.
    Local(PathBuf),
}

/// How to join a mesh.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) control: Vec<String>,
    pub(crate) credential: Credential,
    pub(crate) service: Option<ServiceName>,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<String>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) version: String,
    pub(crate) zone: String,
    pub(crate) weight: NonZeroU16,
    pub(crate) health: Option<Check>,
    pub(crate) dns: Vec<SocketAddr>,
    pub(crate) join_timeout: Duration,
    pub(crate) drain: Duration,
}

impl Config {
    /// Joins at `control` (one or more of `HOST:PORT`, with or without `http://` before it) by `credential`.
    ///
    /// # Errors
    /// [`ConfigError::Control`] where an address is malformed, or there is none.
    pub fn new<'a>(control: impl IntoIterator<Item = &'a str>, credential: Credential) -> Result<Self, ConfigError> {
        let control = control.into_iter().map(address).collect::<Result<Vec<_>, _>>()?;
        if control.is_empty() {
            return Err(ConfigError::Control(String::new()));
        }
        Ok(Self {
            control,
            credential,
            service: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            state_dir: None,
            version: String::new(),
            zone: String::new(),
            weight: NonZeroU16::MIN,
            health: None,
            dns: Vec::new(),
            join_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        })
    }

    /// Reads the environment.
    ///
    /// | variable | what | default |
    /// |---|---|---|
    /// | `MESH_CONTROL` | the control plane, `HOST:PORT`, several separated by commas | `127.0.0.1:7700` |
    /// | `MESH_TOKEN` | the join token | `MESH_SOCKET` |
    /// | `MESH_SOCKET` | the control plane's socket on this machine | an operator's credential on this machine |
    /// | `MESH_SERVICE` | the name of the service | that of the token or the entry; with an operator's credential, of the program |
    /// | `MESH_LISTEN` | where [`Mesh::serve`](crate::Mesh::serve) listens | `127.0.0.1:0` |
    /// | `MESH_ADVERTISE` | `HOST:PORT` that peers connect to | what is bound |
    /// | `MESH_STATE_DIR` | where the last known endpoints are kept | in memory |
    /// | `MESH_VERSION` | the version of the service that is served here, at most 128 bytes | none |
    /// | `MESH_ZONE` | where it is served, at most 128 bytes | none |
    /// | `MESH_WEIGHT` | its share of the calls beside the service's other endpoints, 1 to 65,535 | 1 |
    /// | `MESH_HEALTH` | how the service is checked where the mesh does not say: `http:/PATH`, `grpc`, `grpc:SERVICE` or `tcp` | not |
    /// | `MESH_DNS` | the servers that are asked where something outside the mesh is, `IP` or `IP:PORT`, several separated by commas | the system's |
    ///
    /// Without either the operator's credential is taken from `HEDDLE_OPERATOR_TOKEN`, or from the file that
    /// `mesh-runtime serve` leaves on its machine ([`operator_token_file`]).
    ///
    /// # Errors
    /// [`ConfigError`], which names the variable and the mend.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// The same as [`from_env`](Self::from_env), of any variables.
    ///
    /// # Errors
    /// As there.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let control = set("MESH_CONTROL").unwrap_or_else(|| DEFAULT_CONTROL.to_owned());
        let control: Vec<_> = control.split(',').map(str::trim).collect();
        let credential = match set("MESH_TOKEN") {
            Some(token) => Credential::Token(parse_token("MESH_TOKEN", &token)?),
            None => match set("MESH_SOCKET") {
                Some(socket) => Credential::Local(socket.into()),
                None => find_operator(&control, variable)?,
            },
        };
        let mut config = Self::new(control, credential)?;
        if let Some(name) = set("MESH_SERVICE") {
            config.service = Some(ServiceName::new(&name).map_err(|error| ConfigError::Service { name, error })?);
        }
        if let Some(listen) = set("MESH_LISTEN") {
            config.listen = listen.parse().map_err(|_| ConfigError::Listen(listen))?;
        }
        if let Some(advertise) = set("MESH_ADVERTISE") {
            config.advertise = Some(address(&advertise).map_err(|_| ConfigError::Advertise(advertise))?);
        }
        config.state_dir = set("MESH_STATE_DIR").map(PathBuf::from);
        config.version = attribute("MESH_VERSION", set("MESH_VERSION"))?;
        config.zone = attribute("MESH_ZONE", set("MESH_ZONE"))?;
        if let Some(weight) = set("MESH_WEIGHT") {
            config.weight = weight.trim().parse().map_err(|_| ConfigError::Weight(weight))?;
        }
        if let Some(check) = set("MESH_HEALTH") {
            config.health = Some(check.trim().parse().map_err(|error| ConfigError::Health { check, error })?);
        }
        if let Some(servers) = set("MESH_DNS") {
            let servers = servers
                .split(',')
                .map(|server| dns_server(server.trim()).ok_or_else(|| server.to_owned()));
            config.dns = servers.collect::<Result<_, _>>().map_err(ConfigError::Dns)?;
        }
        Ok(config)
    }

    /// Joins as this service. A join token must be one for it.
    #[must_use]
    pub fn service(mut self, name: ServiceName) -> Self {
        self.service = Some(name);
        self
    }

    /// Where to listen when serving; port 0 is a free one.
    #[must_use]
    pub const fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// The `HOST:PORT` that peers connect to, where it is not what is bound.
    #[must_use]
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Keeps the last known endpoints in this directory. Keys are never written.
    #[must_use]
    pub fn state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(directory.into());
        self
    }

    /// What the endpoint says of itself: its version and its zone, at most 128 bytes each; the zone is also the one that the member
    /// calls from.
    #[must_use]
    pub fn attributes(mut self, version: impl Into<String>, zone: impl Into<String>) -> Self {
        (self.version, self.zone) = (version.into(), zone.into());
        self
    }

    /// Which share of the calls the endpoint takes beside the others of its service. Default 1.
    #[must_use]
    pub const fn weight(mut self, weight: NonZeroU16) -> Self {
        self.weight = weight;
        self
    }

    /// How the service that is served is checked, where the mesh does not say it of the service. Default: not at all.
    #[must_use]
    pub fn health(mut self, check: Check) -> Self {
        self.health = Some(check);
        self
    }

    /// Asks these servers of DNS where something outside the mesh is. Default: those of the system.
    #[must_use]
    pub fn dns(mut self, servers: impl Into<Vec<SocketAddr>>) -> Self {
        self.dns = servers.into();
        self
    }

    /// How long [`Mesh::join`](crate::Mesh::join) tries to reach the control plane. Default 30 s.
    #[must_use]
    pub const fn join_timeout(mut self, timeout: Duration) -> Self {
        self.join_timeout = timeout;
        self
    }

    /// How long requests in flight may take to finish when a serving member leaves. Default 10 s.
    #[must_use]
    pub const fn drain(mut self, deadline: Duration) -> Self {
        self.drain = deadline;
        self
    }
}

/// A server of DNS, at its usual port where none is said (RFC 1035 §4.2).
fn dns_server(text: &str) -> Option<SocketAddr> {
    let at_53 = |ip| SocketAddr::new(ip, 53);
    text.parse().ok().or_else(|| text.parse().ok().map(at_53))
}

/// The operator's credential that is readable on this machine for the control plane at one of `control`: from
/// `HEDDLE_OPERATOR_TOKEN`, else from its file.
///
/// # Errors
/// [`ConfigError::NoCredential`] where there is none, [`ConfigError::Token`] where it is malformed.
pub fn find_operator(control: &[&str], variable: &dyn Fn(&str) -> Option<String>) -> Result<Credential, ConfigError> {
    if let Some(token) = variable("HEDDLE_OPERATOR_TOKEN").filter(|token| !token.trim().is_empty()) {
        return Ok(Credential::Operator(parse_token("HEDDLE_OPERATOR_TOKEN", &token)?));
    }
    for control in control {
        let Some(file) = operator_token_file(&address(control)?, variable) else {
            continue;
        };
        if let Ok(token) = std::fs::read_to_string(&file) {
            return Ok(Credential::Operator(parse_token(&file.display().to_string(), &token)?));
        }
    }
    Err(ConfigError::NoCredential {
        control: control.join(","),
    })
}

/// Where `mesh-runtime serve` leaves the operator's credential of the control plane at `control` (`HOST:PORT`), readable
/// by its user alone; `None` where the environment names no home.
#[must_use]
pub fn operator_token_file(control: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    // An address without `/` cannot lead out of the directory.
    let name = control.replace([':', '/'], "_");
    Some(state.join("heddle/operator").join(format!("{name}.token")))
}

fn parse_token(place: &str, token: &str) -> Result<JoinToken, ConfigError> {
    token.trim().parse().map_err(|error| ConfigError::Token {
        place: place.to_owned(),
        error,
    })
}

fn attribute(variable: &'static str, value: Option<String>) -> Result<String, ConfigError> {
    let value = value.unwrap_or_default().trim().to_owned();
    if value.len() > MAX_ATTRIBUTE || value.chars().any(char::is_control) {
        return Err(ConfigError::Attribute { variable });
    }
    Ok(value)
}

/// `HOST:PORT`, from that or from a URL of it: both schemes mean the mesh's own TLS.
fn address(text: &str) -> Result<String, ConfigError> {
    let text = text.trim();
    let bare = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let authority: http::uri::Authority = bare.parse().map_err(|_| ConfigError::Control(text.to_owned()))?;
    if authority.host().is_empty() || authority.port_u16().is_none_or(|port| port == 0) || bare.contains('@') {
        return Err(ConfigError::Control(text.to_owned()));
    }
    Ok(bare.to_owned())
}

/// What is wrong with what a member was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not `HOST:PORT`.
    #[error("MESH_CONTROL: {0:?} is not HOST:PORT; set it to the address of the control plane, as in 127.0.0.1:7700")]
    Control(String),
    /// A token that is none.
    #[error("{place}: {error}")]
    Token {
        /// The variable or the file that it came from.
        place: String,
        /// What is wrong with it.
        #[source]
        error: TokenError,
    },
    /// A name that is none.
    #[error("MESH_SERVICE: {name:?} is no service name: {error}")]
    Service {
        /// What it was.
        name: String,
        /// What is wrong with it.
        #[source]
        error: ServiceNameError,
    },
    /// Not `IP:PORT`.
    #[error("MESH_LISTEN: {0:?} is not IP:PORT; 127.0.0.1:0 takes a free port, 0.0.0.0:8443 is reachable from other machines")]
    Listen(String),
    /// Not `HOST:PORT`.
    #[error("MESH_ADVERTISE: {0:?} is not HOST:PORT; set it to the address that other members connect to")]
    Advertise(String),
    /// Not what an endpoint may say of itself.
    #[error(
        "{variable} has more than {MAX_ATTRIBUTE} bytes, or control characters; name it shorter, as in 2.1.0 or eu-west-1a"
    )]
    Attribute {
        /// The variable.
        variable: &'static str,
    },
    /// No check.
    #[error("MESH_HEALTH: {check:?}: {error}")]
    Health {
        /// What it was.
        check: String,
        /// What is wrong with it.
        #[source]
        error: CheckError,
    },
    /// No server of DNS.
    #[error("MESH_DNS: {0:?} is not IP or IP:PORT; separate several by commas, as in 10.0.0.2,10.0.0.3:5353")]
    Dns(String),
    /// Not 1 to 65,535.
    #[error("MESH_WEIGHT: {0:?} is not a whole number from 1 to 65535; 2 takes twice the calls of 1")]
    Weight(String),
    /// Neither token nor operator's credential.
    #[error(
        "neither MESH_TOKEN nor MESH_SOCKET is set, and there is no operator's credential for {control} on this machine; \
         make a token where the control plane runs: mesh-runtime token create SERVICE"
    )]
    NoCredential {
        /// The addresses of the control plane.
        control: String,
    },
}

#[cfg(test)]
mod tests {
    use mesh_api::Pin;

    use super::*;

    fn token() -> String {
        JoinToken::new(vec![9; 32], Pin::from([1; 32])).unwrap().to_string()
    }

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_variables(&|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_token_is_all_that_is_needed() {
        let config = read(&[("MESH_TOKEN", &format!("{}\n", token()))]).unwrap();
        assert_eq!(config.control, ["127.0.0.1:7700"]);
        assert_eq!(config.listen, "127.0.0.1:0".parse().unwrap());
        assert!(matches!(config.credential, Credential::Token(_)));
    }

    #[test]
    fn a_socket_serves_where_there_is_no_token() {
        let config = read(&[("MESH_SOCKET", "/run/heddle/mesh.sock")]).unwrap();
        assert!(matches!(config.credential, Credential::Local(socket) if socket.as_os_str() == "/run/heddle/mesh.sock"));
        let both = read(&[("MESH_SOCKET", "/run/heddle/mesh.sock"), ("MESH_TOKEN", &token())]).unwrap();
        assert!(matches!(both.credential, Credential::Token(_)));
    }

    #[test]
    fn the_control_plane_may_be_a_list_and_may_be_urls() {
        let config = read(&[("MESH_TOKEN", &token()), ("MESH_CONTROL", "http://a:1/, https://[::1]:2,c:3")]).unwrap();
        assert_eq!(config.control, ["a:1", "[::1]:2", "c:3"]);
    }

    #[test]
    fn each_malformed_variable_is_named() {
        let good = token();
        for (name, value) in [
            ("MESH_CONTROL", "localhost"),
            ("MESH_CONTROL", "a:1,,b:2"),
            ("MESH_CONTROL", "a:0"),
            ("MESH_CONTROL", "a:1/path"),
            ("MESH_CONTROL", "me@a:1"),
            ("MESH_TOKEN", "hm1.short"),
            ("MESH_SERVICE", "Accounts"),
            ("MESH_LISTEN", "localhost:80"),
            ("MESH_ADVERTISE", "nowhere"),
            ("MESH_VERSION", "1\n2"),
            ("MESH_ZONE", &"z".repeat(129)),
            ("MESH_WEIGHT", "0"),
            ("MESH_WEIGHT", "65536"),
            ("MESH_WEIGHT", "half"),
            ("MESH_HEALTH", "healthz"),
            ("MESH_DNS", "10.0.0.2,dns.test"),
        ] {
            let error = read(&[(name, value), ("MESH_TOKEN", &good)]).unwrap_err().to_string();
            assert!(error.starts_with(name), "{name}={value}: {error}");
        }
    }

    #[test]
    fn an_endpoint_says_what_the_environment_says_of_it() {
        let attributes = [("MESH_VERSION", " 2.1.0 "), ("MESH_ZONE", "eu-1a"), ("MESH_WEIGHT", "65535")];
        let token = token();
        let config = read(&[&[("MESH_TOKEN", token.as_str())][..], &attributes].concat()).unwrap();
        assert_eq!((config.version.as_str(), config.zone.as_str()), ("2.1.0", "eu-1a"));
        assert_eq!(config.weight, NonZeroU16::MAX);
        let config = read(&[("MESH_TOKEN", &token)]).unwrap();
        assert_eq!((config.version.as_str(), config.zone.as_str()), ("", ""));
        assert_eq!(config.weight, NonZeroU16::MIN);
    }

    #[test]
    fn servers_of_dns_are_told_with_or_without_a_port() {
        let config = read(&[("MESH_TOKEN", &token()), ("MESH_DNS", "10.0.0.2, 10.0.0.3:5353,2001:db8::1")]).unwrap();
        let servers = ["10.0.0.2:53", "10.0.0.3:5353", "[2001:db8::1]:53"].map(|server| server.parse().unwrap());
        assert_eq!(config.dns, servers);
    }

    #[test]
    fn without_a_credential_the_error_says_which_command_makes_one() {
        let error = read(&[]).unwrap_err().to_string();
        assert!(
            error.contains("MESH_TOKEN") && error.contains("mesh-runtime token create"),
            "{error}"
        );
    }

    #[test]
    fn the_operators_file_on_this_machine_serves_where_there_is_no_token() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().to_str().unwrap().to_owned();
        let file = operator_token_file("127.0.0.1:7700", &|name| (name == "HOME").then(|| home.clone())).unwrap();
        assert!(
            file.ends_with(".local/state/heddle/operator/127.0.0.1_7700.token"),
            "{file:?}"
        );
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, token()).unwrap();
        assert!(matches!(
            read(&[("HOME", &home)]).unwrap().credential,
            Credential::Operator(_)
        ));
        let elsewhere = read(&[("HOME", &home), ("MESH_CONTROL", "127.0.0.1:7701")]);
        assert!(matches!(elsewhere, Err(ConfigError::NoCredential { .. })));
    }

    #[test]
    fn the_operators_file_is_told_by_its_place_when_it_is_malformed() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().to_str().unwrap().to_owned();
        let file = operator_token_file("127.0.0.1:7700", &|name| (name == "XDG_STATE_HOME").then(|| home.clone())).unwrap();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "what?").unwrap();
        let error = read(&[("XDG_STATE_HOME", &home)]).unwrap_err().to_string();
        assert!(error.starts_with(file.to_str().unwrap()), "{error}");
    }
}
