//! Who sends a request, and whether they may.

pub(crate) mod api_key;
mod claims;
pub(crate) mod jwt;

pub(crate) use claims::{Claims, Missing, Requirements, scalar};
