//! The wire contract between the members of a mesh and its control plane: the protocol ([`v1`]), the form of the tokens
//! that let a member in ([`JoinToken`]), and the name by which the control plane is known ([`CONTROL_PLANE_PATH`]). Besides, the
//! gRPC health checking protocol ([`health`]), which members ask their own services by.

#![forbid(unsafe_code)]

mod token;

pub use token::{JoinToken, Pin, TokenError};

/// Protocol version 1, generated from `proto/heddle/mesh/v1/mesh.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "generated code follows its generator's style"
)]
pub mod v1 {
    tonic::include_proto!("heddle.mesh.v1");
}

/// The gRPC health checking protocol, generated from `proto/grpc/health/v1/health.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "generated code follows its generator's style"
)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The path of the control plane's SPIFFE ID: `spiffe://TRUST-DOMAIN/control-plane`.
pub const CONTROL_PLANE_PATH: &str = "/control-plane";

/// How many bytes at the beginning of an SVID's serial number say what it was issued under: one entry, one join token.
pub const SERIAL_MARK: usize = 8;

/// The longest version or zone that an endpoint may tell of itself, in bytes.
pub const MAX_ATTRIBUTE: usize = 128;

/// Where a member looks for the control plane when it is told nothing else.
pub const DEFAULT_CONTROL: &str = "127.0.0.1:7700";
