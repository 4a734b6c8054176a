//! Decisions with state: whether to try again, how long to wait, how much may be under way, how often
//! somebody may come, whom to leave out for a while.
//!
//! Nothing here reads a clock or a random source: the moment and the random number are arguments, so that a test moves time and a
//! replay decides the same again.

mod breaker;
mod budget;
mod chance;
mod gcra;
mod limiter;
mod occupancy;
mod outlier;
mod retry;
mod timeout;

pub use breaker::{Breaker, BreakerSettings, Pending, Permit, Refused};
pub use budget::RetryBudget;
pub use chance::Chance;
pub use gcra::{Rate, Taken};
pub use limiter::{LimitKey, Limiter, Take};
pub use occupancy::{Entered, Occupancy};
pub use outlier::{Health, OutlierSettings};
pub use retry::{Backoff, Cause, Retry, RetryOn, Try};
pub use timeout::Timeouts;
