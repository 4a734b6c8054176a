//! Header fields that say how long a caller waits: whatever they are, reading them does no harm, and what is told on is never more.

#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use routing::policy::{GRPC_TIMEOUT, TIMEOUT_MS, grpc_timeout, retry_after, timeout_left, timeout_ms};

fuzz_target!(|values: Vec<(bool, Vec<u8>)>| {
    let mut fields = HeaderMap::new();
    for (ours, value) in values {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            let _ = value.to_str().map(|value| retry_after(value, 0));
            fields.append(if ours { TIMEOUT_MS } else { GRPC_TIMEOUT }, value);
        }
    }
    let Some(left) = timeout_left(&fields) else { return };
    let mut told = HeaderMap::new();
    told.insert(GRPC_TIMEOUT, grpc_timeout(left).parse().expect("digits and a letter"));
    told.insert(TIMEOUT_MS, timeout_ms(left).into());
    assert!(timeout_left(&told).is_some_and(|again| again <= left));
});
