//! What a rate limit costs a request, alone and with another core at the same table: `cargo bench -p routing --bench limit`.

use std::time::Duration;

use divan::Bencher;
use routing::Moment;
use routing::policy::{Kept, LimitKey, Limiter, Rate, Take};

fn main() {
    divan::main();
}

fn take(key: u64) -> Take {
    let mut bytes = [0; 16];
    // As a hash would spread them.
    bytes[..8].copy_from_slice(&key.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    bytes[8..].copy_from_slice(&key.wrapping_mul(0xD6E8_FEB8_6659_FD93).to_le_bytes());
    Take {
        key: LimitKey(bytes),
        rate: Rate::new(1_000_000, Duration::from_secs(1), 1_000).expect("a rate"),
        kept: Kept::Here,
    }
}

/// One key, as where a limit is the route's.
#[divan::bench(threads = [1, 2])]
fn the_same_key(bencher: Bencher<'_, '_>) {
    let limiter = Limiter::new(Limiter::KEYS, 7);
    let one = take(1);
    bencher.bench(|| limiter.take_all(divan::black_box(&[one]), Moment(1 << 40)));
}

/// Many clients, whose slots are spread over the whole table.
#[divan::bench(threads = [1, 2], args = [1_000, 100_000])]
fn many_keys(bencher: Bencher<'_, '_>, keys: u64) {
    let limiter = Limiter::new(Limiter::KEYS, 7);
    let next = std::sync::atomic::AtomicU64::new(0);
    bencher.bench(|| {
        let key = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % keys;
        limiter.take_all(divan::black_box(&[take(key)]), Moment(1 << 40))
    });
}
