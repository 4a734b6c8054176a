//! Any text at all as a config, with files that are any text as well: never a panic, and a refusal has words.
#![no_main]

use gateway::{Gateway, Source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // What stands behind the first NUL is what every file holds.
    let (config, file) = text.split_once('\0').unwrap_or((text, "{}"));
    let mut read = |_: &str| Ok(file.as_bytes().to_vec());
    let variable = |name: &str| (name.len() % 2 == 0).then(|| name.repeat(8));
    match Gateway::compile(&Source::new("fuzz.toml", config), &mut read, &variable) {
        Ok(gateway) => assert_eq!(gateway.listing().is_empty(), gateway.routes().is_empty()),
        Err(diagnostics) => assert!(diagnostics.to_string().starts_with("fuzz.toml:")),
    }
});
