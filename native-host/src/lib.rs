//! Runs the gateway on this machine: sockets, pools and threads around decisions that the gateway makes, either linked natively
//! or inside the component that is deployed to the edge.

mod access_log;
mod admin;
mod alarm;
mod body;
mod buffers;
mod clock;
mod core;
mod drain;
mod drive;
mod engine;
mod inbound;
mod keys;
mod limit;
mod listener;
mod memory;
mod metrics;
mod mirror;
mod observe;
mod options;
mod outgoing;
mod refusal;
mod reload;
mod reply;
mod serve;
mod snapshot;
mod upstream;
mod worker;

pub mod cli;

pub use listener::BindError;
pub use options::{EngineKind, GuestLimits, Http1, Limits, Options};
pub use serve::{Running, serve};
pub use snapshot::LoadError;
