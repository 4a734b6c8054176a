//! What should happen to a request and where it should go: the crate that the gateway and the mesh share.
//!
//! Pure: nothing here reads a clock, a random source, the environment or a socket; time and randomness are arguments.

#![forbid(unsafe_code)]

pub mod balance;
pub mod call;
pub mod claims;
pub mod config;
pub mod filter;
mod head;
pub mod json;
pub mod matching;
pub mod policy;
mod reason;
pub mod table;
mod time;
pub mod upstream;

pub use head::{Fields, RequestHead, Scheme};
pub use reason::Reason;
pub use time::{Moment, Now};
