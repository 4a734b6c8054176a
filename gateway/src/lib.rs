//! The gateway's work on one request as a state machine, the [`Exchange`]: events in, steps out, `now` an argument.
//!
//! A driver compiles a [`Gateway`] from its config once, keeps a [`Memory`] per core, and for each request starts an exchange
//! and does what its [`Step`](exchange::Step)s say until one of them is the last. Drivers hold no policy: retries, deadlines,
//! authentication and self-made answers are decided here.
//!
//! ```
//! use std::sync::Arc;
//!
//! use gateway::exchange::{Arrival, Step};
//! use gateway::{Exchange, Gateway, Memory, Source};
//! use routing::{Moment, Now, RequestHead, Scheme};
//!
//! let config = Source::new("gateway.toml", "[[routes]]\nmatch = { path = '/healthz' }\nrespond = { status = 200, body = 'ok' }\n");
//! let gateway = Arc::new(Gateway::compile(&config, &mut |path| Err(format!("{path}: no files here")), &|_| None).unwrap());
//! let mut memory = Memory::new(&gateway);
//! let head = RequestHead {
//!     method: "GET",
//!     scheme: Scheme::Http,
//!     authority: "bank.example",
//!     target: "/healthz",
//!     fields: &http::HeaderMap::new(),
//!     peer: None,
//! };
//! let now = Now { moment: Moment(0), unix: 1_700_000_000 };
//! let (exchange, step) = Exchange::start(&gateway, &mut memory, &Arrival { head, has_body: false, now, entropy: [7; 32] });
//! assert!(exchange.is_none(), "the first step is the last one");
//! assert!(matches!(step, Step::Respond(answer) if answer.status == 200 && answer.body == "ok"));
//! ```
//!
//! Pure: nothing here reads a clock, a random source, a file, the environment or a socket. All of them are arguments.

#![forbid(unsafe_code)]

mod aggregate;
mod auth;
pub mod config;
pub mod exchange;
pub mod explain;
mod fields;
pub mod keys;
mod limit;
mod memory;
mod validate;

pub use config::{
    CONFIG_SCHEMA, CertificateFiles, Diagnostics, Gateway, Key, Listed, MeshSettings, Policy, QuotaStore, Route, Secret,
    Settings, Source, WhenDown,
};
pub use exchange::Exchange;
pub use explain::{Explanation, Question, explain};
pub use fields::{apply, strip_hop_by_hop};
pub use memory::Memory;
pub use routing::upstream::Upstream;
