//! From raw pieces to compiled ones.

mod cors;
mod filter;
mod policy;
mod rule;
mod upstream;

#[cfg(test)]
mod tests;
