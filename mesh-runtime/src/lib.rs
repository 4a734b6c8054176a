//! The control plane of a Heddle mesh and what comes with it: the registry of who serves what where, the certificate
//! authority, the store that keeps both, and the wrapper that brings a program into the mesh that knows nothing of it.
//!
//! The `mesh-runtime` program is [`cli::main`]. A control plane in this process is [`serve`]:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let running = mesh_runtime::serve(mesh_runtime::Config::new("/var/lib/mesh")).await?;
//! println!("members join at {}", running.control());
//! running.shutdown().await?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod authority;
mod backup;
pub mod cli;
mod config;
mod metrics;
mod operator;
mod policies;
mod registry;
mod run;
mod server;
pub mod store;

pub use authority::{AuthorityError, CaError, CsrError, JoinError, MAX_SVID_TTL, MAX_TOKEN_TTL, MIN_SVID_TTL};
pub use backup::{Backup, BackupError, RestoreError};
pub use config::{Config, ConfigError, DEFAULT_ADMIN, DEFAULT_LISTEN, DEFAULT_TRUST_DOMAIN};
pub use policies::PolicyError;
pub use server::{Running, ServeError, serve};

/// Seconds since 1970-01-01T00:00:00Z.
pub(crate) fn now_unix() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
