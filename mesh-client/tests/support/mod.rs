//! What the suites need: an authority that issues anything it is asked for, and a control plane in memory.

#![allow(dead_code, unreachable_pub, reason = "each suite uses a part of it")]

pub mod authority;
pub mod control;
pub mod dns;
pub mod served;

use std::future::Future;
use std::time::Duration;

/// Asks until the answer is yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let asked = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}
