//! Any text at all as the document of a mesh: never a panic, and every mistake at a place that the text has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_client::policy::{Policies, Source};

fuzz_target!(|text: &str| {
    let trust_domain = "bank.example".parse().expect("a trust domain");
    let Err(mistakes) = Policies::compile(&Source::new("fuzz.toml", text), &trust_domain) else { return };
    let lines = text.matches('\n').count() + 1;
    assert!(mistakes.list().iter().all(|mistake| (1..=lines).contains(&mistake.line)));
});
