//! The harness of the suites that cross a process or a crate: it starts real binaries on free ports and speaks to them from outside.

pub mod bank;
pub mod eventually;
pub mod http;
pub mod network;
pub mod process;
pub mod upstream;
