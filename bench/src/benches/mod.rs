//! What is measured, one file each.

mod discovery;
pub(crate) mod edge;
mod large;
mod mesh;
pub(crate) mod policy;
pub(crate) mod proxy;
mod reload;
mod routes;
mod start;
pub(crate) mod tls;

use anyhow::Result;

use crate::lab::Lab;
use crate::report::Report;

/// A bench by its name, in the order in which they are run and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bench {
    Proxy,
    Policy,
    Edge,
    Tls,
    Large,
    Mesh,
    Routes,
    Reload,
    Discovery,
    Start,
}

impl Bench {
    /// All of them.
    pub(crate) const ALL: [Self; 10] = [
        Self::Proxy,
        Self::Policy,
        Self::Edge,
        Self::Tls,
        Self::Large,
        Self::Mesh,
        Self::Routes,
        Self::Reload,
        Self::Discovery,
        Self::Start,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Policy => "policy",
            Self::Edge => "edge",
            Self::Tls => "tls",
            Self::Large => "large",
            Self::Mesh => "mesh",
            Self::Routes => "routes",
            Self::Reload => "reload",
            Self::Discovery => "discovery",
            Self::Start => "start",
        }
    }

    pub(crate) fn run(self, lab: &Lab) -> Result<Report> {
        match self {
            Self::Proxy => proxy::run(lab),
            Self::Policy => policy::run(lab),
            Self::Edge => edge::run(lab),
            Self::Tls => tls::run(lab),
            Self::Large => large::run(lab),
            Self::Mesh => mesh::run(lab),
            Self::Routes => routes::run(lab),
            Self::Reload => reload::run(lab),
            Self::Discovery => discovery::run(lab),
            Self::Start => start::run(lab),
        }
    }
}
