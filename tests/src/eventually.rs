//! Waiting for what has to become true, bounded, instead of sleeping for what usually suffices.

use std::time::{Duration, Instant};

/// Asks until the answer is `Ok`, every 20 ms.
///
/// # Panics
/// After `within`, with the last error.
pub fn eventually<T, E: std::fmt::Display>(within: Duration, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) if Instant::now() >= deadline => panic!("not within {within:?}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
