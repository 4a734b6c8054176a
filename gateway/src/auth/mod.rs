//! Who sends a request, and whether they may.

pub(crate) mod api_key;
pub(crate) mod jwt;

pub(crate) use routing::claims::{Claims, Missing, Requirements, scalar};
