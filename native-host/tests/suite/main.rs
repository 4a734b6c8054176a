//! The host with real sockets, in this process.

#![expect(clippy::unwrap_used, reason = "a panic is what a test fails with")]

mod admin;
mod codec;
mod command;
mod component;
mod failures;
mod guest_faults;
mod http2;
mod limits;
mod proxying;
mod quotas;
mod reload;
mod stopping;
mod support;
mod tls;
