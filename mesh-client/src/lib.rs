//! The in-process data plane of a Heddle mesh, and the one crate that an application names: join, call, serve.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use mesh_client::{Config, Mesh};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mesh = Mesh::join(Config::from_env()?).await?;
//!
//! // Call: by name, over mutual TLS, to whichever endpoint is expected to answer soonest.
//! let answer = mesh.get("http://statements.mesh/statements/42").await?;
//! println!("{} says {}", answer.status(), answer.into_body().text().await?);
//!
//! // Serve: any tower service. Returns after the drain, on SIGTERM or Ctrl-C.
//! let router: Router = Router::new().route("/accounts/{id}", get(|| async { "an account" }));
//! mesh.serve("accounts", router).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Services are called `http://NAME.mesh/…` and known by `spiffe://TRUST-DOMAIN/service/NAME`. There is no sidecar: the key is made
//! in this process and never leaves it, its certificate is renewed while requests run, and the bytes go from one application to the
//! other.
//!
//! | module | what it does |
//! |---|---|
//! | [`client`] | URL → service → route → snapshot → balancer → pooled HTTP/2 connection, with retries within a budget |
//! | [`server`] | accept → mutual TLS → [`PeerIdentity`] → any tower service |
//! | [`opaque`] | connections of a protocol that is not HTTP, by service name |
//! | [`discovery`] | who serves what, where, kept while the control plane is away |
//! | [`health`] | checks of the service that is served here |
//! | [`tls`] | X.509-SVIDs, their verification and their rotation; the control plane uses it too |
//! | [`policy`] | who may talk to whom and where requests go, compiled and judged |
//! | [`caller`] | on whose behalf a request is made |
//! | [`control`] | channels to the control plane |
//! | [`telemetry`] | W3C Trace Context |
//! | [`drain`] | ending well |
//!
//! Works on any tokio runtime, of one thread or many; all of it is `Send`. What happens is told as `tracing` events.

#![forbid(unsafe_code)]

mod backoff;
pub mod caller;
pub mod client;
mod config;
pub mod control;
mod deadline;
pub mod discovery;
pub mod drain;
pub mod health;
mod join;
mod linger;
mod mesh;
mod metrics;
pub mod opaque;
mod outside;
pub mod policy;
mod register;
pub mod server;
mod source;
pub mod telemetry;
pub mod tls;
mod upkeep;

pub use caller::Caller;
pub use client::{Client, ClientOptions};
pub use config::{Config, ConfigError, Credential, find_operator, operator_token_file};
pub use deadline::{Deadline, TIMEOUT_MS};
pub use join::{AnswerError, JoinError};
pub use mesh::{Listening, Mesh, ServeError};
pub use tls::PeerIdentity;

/// What bodies and services of applications fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How much of one stream may be on its way unread: enough for 1 Gbit/s at 8 ms, and what a slow reader costs in memory.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 4 << 20;
