//! Decisions with state: whether to try again, how long to wait, how much may be under way, how often
//! somebody may come, whom to leave out for a while.
//!
//! Nothing here reads a clock or a random source: the moment and the random number are arguments, so that a test moves time and a
//! replay decides the same again.

mod breaker;
mod budget;
mod chance;
mod deadline;
mod fault;
mod gcra;
mod limiter;
mod occupancy;
mod outlier;
mod retry;
mod shared;
mod timeout;

pub use breaker::{Breaker, BreakerSettings, Connected, Pending, Permit, Refused};
pub use budget::RetryBudget;
pub use chance::Chance;
pub use deadline::{GRPC_TIMEOUT, TIMEOUT_MS, grpc_timeout, timeout_left, timeout_ms};
pub use fault::{Abort, Delay, Fault};
pub use gcra::{Rate, Taken};
pub use limiter::{LimitKey, Limiter, Take};
pub use occupancy::{Entered, Occupancy};
pub use outlier::{Health, OutlierSettings, SuccessRate};
pub use retry::{Backoff, Cause, Retry, RetryOn, Try, retry_after};
pub use shared::{Half, Kept, redis};
pub use timeout::Timeouts;
