//! The published JSON Schema of the config says what the config's own reader says.

#![allow(clippy::unwrap_used, reason = "a suite that cannot be set up has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "reading examples is the test's work, not the gateway's"
)]

#[path = "../../tests/conformance/case.rs"]
#[allow(dead_code, reason = "only the configs of the cases are read here")]
mod case;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gateway::{CONFIG_SCHEMA, Gateway, Source};
use serde_json::Value;

/// Every table of the format: where the schema describes it, and a config that has it, with `%` where a key of it can stand.
const TABLES: &[(&str, &str)] = &[
    ("", "%"),
    ("/properties/gateway", "[gateway]\n%"),
    ("/properties/mesh", "[mesh]\n%"),
    ("/$defs/quotas", "[gateway]\nquotas = { % }"),
    ("/$defs/tls", "[gateway]\ntls = { % }"),
    ("/$defs/upstream", "[upstreams.u]\n%"),
    ("/$defs/endpoint", "[upstreams.u]\nendpoints = [{ % }]"),
    ("/$defs/outlier", "[upstreams.u]\noutlier = { % }"),
    ("/$defs/successRate", "[upstreams.u]\noutlier = { success_rate = { % } }"),
    ("/$defs/breaker", "[upstreams.u]\nbreaker = { % }"),
    ("/$defs/jwt", "[auth.a]\nkind = \"jwt\"\n%"),
    ("/$defs/apiKeys", "[auth.a]\nkind = \"api-key\"\n%"),
    ("/$defs/apiKey", "[auth.a]\nkind = \"api-key\"\nkeys = [{ % }]"),
    ("/$defs/route", "[[routes]]\n%"),
    ("/$defs/match", "[[routes]]\nmatch = { % }"),
    ("/$defs/require", "[[routes]]\nmatch = {}\nrequire = { % }"),
    ("/$defs/validate", "[[routes]]\nmatch = {}\nvalidate = { % }"),
    ("/$defs/share", "[[routes]]\nmatch = {}\nsplit = [{ % }]"),
    ("/$defs/aggregate", "[[routes]]\nmatch = {}\naggregate = { % }"),
    ("/$defs/branch", "[[routes]]\nmatch = {}\naggregate = { branches = [{ % }] }"),
    ("/$defs/redirect", "[[routes]]\nmatch = {}\nredirect = { % }"),
    ("/$defs/respond", "[[routes]]\nmatch = {}\nrespond = { % }"),
    ("/$defs/rewrite", "[[routes]]\nmatch = {}\nrewrite = { % }"),
    ("/$defs/headers", "[[routes]]\nmatch = {}\nheaders = { % }"),
    ("/$defs/headerEdits", "[[routes]]\nmatch = {}\nheaders = { request = { % } }"),
    ("/$defs/rateLimit", "[[routes]]\nmatch = {}\nrate_limit = { % }"),
    ("/$defs/cors", "[[routes]]\nmatch = {}\ncors = { % }"),
    ("/$defs/fault", "[[routes]]\nmatch = {}\nfault = { % }"),
    ("/$defs/delay", "[[routes]]\nmatch = {}\nfault = { delay = { % } }"),
    ("/$defs/abort", "[[routes]]\nmatch = {}\nfault = { abort = { % } }"),
    ("/$defs/mirror", "[[routes]]\nmatch = {}\nmirror = { % }"),
    ("/$defs/retry", "[[routes]]\nmatch = {}\nretry = { % }"),
];

/// What only a document of the mesh has.
const OF_THE_MESH: [&str; 3] = ["[[rules]]", "[services.", "\nto = ["];

fn schema() -> Value {
    serde_json::from_str(CONFIG_SCHEMA).unwrap()
}

fn json(config: &str) -> Value {
    toml::from_str(config).unwrap()
}

/// The keys that the reader knows in a table: it lists them where it finds one that is like none of them.
fn known(config: &str) -> BTreeSet<String> {
    let config = config.replace('%', "zzzzzzzzzz = 1");
    let told = Gateway::compile(&Source::new("c.toml", &config), &mut |_| Err(String::new()), &|_| None).unwrap_err();
    let mistake = told
        .list()
        .iter()
        .find(|mistake| mistake.message == "unknown key `zzzzzzzzzz`");
    let hint = mistake.unwrap_or_else(|| panic!("{config}\n{told}")).hint.clone().unwrap();
    let keys = hint.strip_prefix("known here: ").unwrap_or_else(|| panic!("{hint}"));
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_schema_has_the_keys_that_the_reader_knows() {
    let schema = schema();
    for (at, config) in TABLES {
        let described = schema.pointer(at).unwrap_or_else(|| panic!("the schema has no {at}"));
        let described: BTreeSet<String> = described["properties"].as_object().unwrap().keys().cloned().collect();
        let known = known(config);
        assert_eq!(
            described, known,
            "{at}: left is gateway/config.schema.json, right is the reader"
        );
    }
}

#[test]
fn every_table_of_the_schema_is_held_against_the_reader() {
    let schema = schema();
    let tables = schema["$defs"].as_object().unwrap().iter();
    let tables: BTreeSet<String> = tables
        .filter(|(_, table)| table["type"] == "object")
        .map(|(name, _)| format!("/$defs/{name}"))
        .collect();
    let held: BTreeSet<String> = TABLES.iter().map(|(at, _)| (*at).to_owned()).collect();
    assert_eq!(tables.difference(&held).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn the_schema_refuses_an_unknown_key_anywhere() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for (at, config) in TABLES {
        let wrong = json(&config.replace('%', "zzzzzzzzzz = 1"));
        let told: Vec<String> = validator.iter_errors(&wrong).map(|error| error.to_string()).collect();
        assert!(told.iter().any(|error| error.contains("zzzzzzzzzz")), "{at}: {told:?}");
    }
}

#[test]
fn the_schema_takes_variables_where_it_takes_durations_and_refuses_what_is_none() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for (drain, valid) in [("30s", true), ("${DRAIN}", true), ("30 s", false), ("half an hour", false)] {
        let config = serde_json::json!({ "gateway": { "drain": drain } });
        assert_eq!(validator.is_valid(&config), valid, "{drain}");
    }
}

/// What is wrong with a config, for the schema and for the reader.
fn mistakes(name: &str, config: &str) -> Vec<String> {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let config_as_json = json(config);
    let by_schema = validator.iter_errors(&config_as_json);
    let mut mistakes: Vec<String> = by_schema
        .map(|error| format!("{name}: the schema: {} at {}", error, error.instance_path()))
        .collect();
    let variable = |_: &str| Some("0123456789abcdef0123456789abcdef".to_owned());
    let mut file = |path: &str| {
        Ok(match path {
            "keys.json" => JWKS.into(),
            path => format!("{{ \"$comment\": \"{path}\" }}").into_bytes(),
        })
    };
    if let Err(told) = Gateway::compile(&Source::new(name, config), &mut file, &variable) {
        mistakes.push(told.to_string());
    }
    mistakes
}

/// RFC 7517 §A.1.
const JWKS: &str = r#"{ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "1",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM" }] }"#;

/// Sections that an example on a page may leave to the reader's imagination.
const STAND_INS: &[(&str, &str)] = &[
    (
        "accounts",
        "[upstreams.accounts]\nendpoints = [{ url = \"http://127.0.0.1:9101\" }]\n",
    ),
    (
        "next",
        "[upstreams.next]\nendpoints = [{ url = \"http://127.0.0.1:9102\" }]\n",
    ),
    (
        "customer",
        "[auth.customer]\nkind = \"jwt\"\nalgorithms = [\"HS256\"]\nsecret = \"${JWT_SECRET}\"\n",
    ),
];

/// The configs of a page: its blocks of TOML that are no document of the mesh.
fn examples(page: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(page).unwrap();
    let blocks = text.split("```toml\n").skip(1).enumerate();
    blocks
        .map(|(at, rest)| (at, rest.split("```").next().unwrap().to_owned()))
        .filter(|(_, config)| !OF_THE_MESH.iter().any(|mark| config.contains(mark)))
        .map(|(at, mut config)| {
            for (name, section) in STAND_INS {
                let is_named = config.contains(&format!("\"{name}\""));
                let is_there = config.contains(&format!("s.{name}]")) || config.contains(&format!("auth.{name}]"));
                if is_named && !is_there {
                    config = format!("{config}\n{section}");
                }
            }
            (format!("{}, example {}", page.display(), at + 1), config)
        })
        .collect()
}

#[test]
fn every_example_is_a_config_for_the_schema_and_for_the_reader() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages: Vec<PathBuf> = std::fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.push(root.join("README.md"));
    pages.sort();
    let mut configs: Vec<_> = pages.iter().flat_map(|page| examples(page)).collect();
    let bank = root.join("examples/bank/gateway.toml");
    configs.push((bank.display().to_string(), std::fs::read_to_string(&bank).unwrap()));
    assert!(configs.len() > 10, "{}", configs.len());
    let mistakes: Vec<String> = configs.iter().flat_map(|(name, config)| mistakes(name, config)).collect();
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn the_schema_takes_the_config_of_every_conformance_case() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let mut refused = BTreeMap::new();
    for (path, file) in case::files() {
        let config = json(&file.config);
        let errors: Vec<String> = validator
            .iter_errors(&config)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect();
        if !errors.is_empty() {
            refused.insert(path, errors);
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}
