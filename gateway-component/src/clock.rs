//! The host's clocks and its randomness, which the pure crates take as arguments.

use gateway::exchange::Entropy;
use routing::{Moment, Now};
use wasi::clocks::{monotonic_clock, wall_clock};
use wasi::random::random;

/// Both clocks.
pub(crate) fn now() -> Now {
    Now {
        moment: moment(),
        unix: wall_clock::now().seconds,
    }
}

/// The monotonic clock alone, for half the price: each clock is a call to the host.
pub(crate) fn moment() -> Moment {
    Moment(monotonic_clock::now())
}

/// Fresh randomness for one exchange.
pub(crate) fn entropy() -> Entropy {
    let mut entropy = Entropy::default();
    for (byte, fresh) in entropy.iter_mut().zip(random::get_random_bytes(32)) {
        *byte = fresh;
    }
    entropy
}

/// A random number, uniform over all of `u64`.
pub(crate) fn random() -> u64 {
    random::get_random_u64()
}
