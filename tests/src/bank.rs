//! The whole bank, as a user would start it: control plane, three services, gateway; every one a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::eventually::eventually;
use crate::http::{Answer, get};
use crate::process::{Process, binary, run};

/// What the bank's tokens are signed with.
pub const SECRET: &str = "a secret of the tests, longer than thirty-two bytes";

/// The top of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is a folder of the repository")
        .to_owned()
}

/// The component that `cargo xtask component` built.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn component() -> PathBuf {
    let path = std::env::var_os("HEDDLE_COMPONENT").map_or_else(|| repository().join("target/gateway.wasm"), PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: build it with `cargo xtask component`",
        path.display()
    );
    path
}

/// A token for `customer` with these scopes, good for `seconds` from this moment (negative: expired).
///
/// # Panics
/// Where the clock stands before 1970.
#[must_use]
pub fn token(customer: &str, scope: &str, seconds: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock stands after 1970")
        .as_secs();
    let claims = json!({
        "iss": "https://id.bank.example/",
        "aud": "bank-api",
        "sub": customer,
        "scope": scope,
        "exp": now.saturating_add_signed(seconds),
    });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("the claims are plain JSON")
}

/// A control plane with its state in a folder of its own.
#[derive(Debug)]
pub struct ControlPlane {
    /// The process.
    pub process: Process,
    /// HOST:PORT of its control port.
    pub address: String,
    folder: PathBuf,
}

impl ControlPlane {
    /// Starts one whose state lives in `folder`, on this address.
    #[must_use]
    pub fn start(folder: &Path, listen: &str, settings: &[&str]) -> Self {
        let mut command = Command::new(binary("mesh-runtime"));
        command
            .args([
                "serve",
                "--listen",
                listen,
                "--admin",
                "127.0.0.1:0",
                "--trust-domain",
                "bank.test",
                "--data-dir",
            ])
            .arg(folder.join("control"))
            .args(settings)
            .env("XDG_STATE_HOME", folder.join("state"));
        let mut process = Process::start("mesh-runtime serve", &mut command);
        let address = process.line_after("control listening on ");
        Self {
            process,
            address,
            folder: folder.to_owned(),
        }
    }

    /// A command of this workspace that belongs to this mesh and its operator.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(binary(name));
        command
            .env("XDG_STATE_HOME", self.folder.join("state"))
            .env("MESH_CONTROL", &self.address)
            .env_remove("MESH_TOKEN");
        command
    }

    /// The rows that an operator's command lists.
    ///
    /// # Panics
    /// Where it fails.
    #[must_use]
    pub fn rows(&self, what: &str) -> Vec<serde_json::Value> {
        let (code, out, err) = run(self
            .command("mesh-runtime")
            .args([what, "--json", "--control", &self.address]));
        assert_eq!(code, 0, "mesh-runtime {what}: {err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("mesh-runtime {what} --json: {error}: {out}"))
    }

    /// A Rust service of the bank.
    #[must_use]
    pub fn service(&self, name: &str) -> Process {
        Process::start(name, self.command(&format!("bank-{name}")).env("MESH_SERVICE", name))
    }

    /// A program in another language, in the wrapper.
    #[must_use]
    pub fn wrapped(&self, name: &str, port: u16, command: &[&str]) -> Process {
        let port = port.to_string();
        let mut wrapper = self.command("mesh-runtime");
        wrapper
            .args(["run", "--service", name, "--port", &port, "--control", &self.address, "--"])
            .args(command);
        Process::start(name, wrapper.current_dir(repository()))
    }

    /// Waits until each of these services has an endpoint.
    pub fn serves(&self, services: &[&str]) {
        eventually(Duration::from_secs(60), || {
            let rows = self.rows("endpoints");
            let has = |name: &&str| rows.iter().any(|row| row["service"] == **name);
            let missing: Vec<_> = services.iter().filter(|name| !has(name)).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("no endpoint of {missing:?}"))
            }
        });
    }
}

/// The gateway of the bank.
#[derive(Debug)]
pub struct Gateway {
    /// The process.
    pub process: Process,
    /// `http://HOST:PORT`.
    pub url: String,
    /// `http://HOST:PORT` of its admin port.
    pub admin: String,
}

impl Gateway {
    /// Starts `command`, a `native-host` without arguments, on this config.
    #[must_use]
    pub fn start(mut command: Command, config: &Path, engine: &str) -> Self {
        command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--engine",
                engine,
                "--config",
            ])
            .arg(config)
            .env("BANK_JWT_SECRET", SECRET);
        if engine != "native" {
            command.arg("--component").arg(component());
        }
        if engine == "edge" {
            // Each instance counts for itself, and each core has its own; one after the other, requests meet the same one.
            command.args(["--workers", "1"]);
        }
        let mut process = Process::start("native-host", &mut command);
        let url = process.line_after("gateway listening on ");
        let admin = process.line_after("admin listening on ");
        Self { process, url, admin }
    }

    /// `GET path`, with a bearer token where one is given.
    #[must_use]
    pub fn get(&self, path: &str, token: Option<&str>) -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        get(&format!("{}{path}", self.url), &fields)
    }
}

/// A port of loopback that is free at this moment, for a program that cannot be told to take any.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("a bound listener has an address").port()
}
