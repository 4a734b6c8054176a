//! The examples of the documentation that are the mesh's are documents.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use mesh_client::policy::{Policies, Source};

/// What only a document of the mesh has.
const OF_THE_MESH: [&str; 4] = ["[[rules]]", "[services.", "\nto = [", "[external."];

#[test]
fn every_example_of_the_documentation_compiles() {
    let pages = [
        ("docs/mesh.md", include_str!("../../docs/mesh.md")),
        ("docs/services.md", include_str!("../../docs/services.md")),
        ("README.md", include_str!("../../README.md")),
    ];
    let bank = "bank.example".parse().unwrap();
    let mut compiled = 0;
    for (name, page) in pages {
        let examples = page.split("```toml\n").skip(1);
        let examples = examples.map(|rest| rest.split("```").next().unwrap());
        for example in examples.filter(|example| OF_THE_MESH.iter().any(|mark| example.contains(mark))) {
            if let Err(mistakes) = Policies::compile(&Source::new(name, example), &bank) {
                panic!("{mistakes}\n{example}");
            }
            compiled += 1;
        }
    }
    assert!(compiled >= 5, "{compiled}");
}
