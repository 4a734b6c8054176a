//! The examples of the reference are configs.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use gateway::{Gateway, Source};

#[test]
fn every_example_of_the_policies_compiles() {
    let page = include_str!("../../docs/policies.md");
    let examples: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(examples.len(), 8);
    for example in examples {
        let compiled = Gateway::compile(&Source::new("policies.md", example), &mut |_| Ok(b"{}".to_vec()), &|_| None);
        assert!(compiled.is_ok(), "{}\n{example}", compiled.unwrap_err());
    }
}
