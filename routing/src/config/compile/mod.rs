//! From raw pieces to compiled ones.

mod claims;
mod cors;
mod filter;
mod policy;
mod rule;
mod upstream;

#[cfg(test)]
mod tests;
