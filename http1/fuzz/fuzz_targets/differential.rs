//! What we accept, hyper accepts and understands alike.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| http1_fuzz::against_hyper::compare(input));
