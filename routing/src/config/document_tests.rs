use serde::Deserialize;

use super::*;
use crate::config::{OneOrMany, Period};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Route {
    name: String,
    timeout: Option<Spanned<Period>>,
    retry: Option<Retry>,
    targets: Option<OneOrMany<Target>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    attempts: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    to: Spanned<String>,
}

fn variables(name: &str) -> Option<String> {
    (name == "SECRET").then(|| "hunter22\"\nname = \"injected".to_owned())
}

/// The routes that could be read, and what `check` would print.
fn read(text: &str) -> (Vec<Read<Route>>, Vec<String>) {
    let source = Source::new("f", text);
    let mut diagnostics = Diagnostics::new(&source);
    let mut routes = Vec::new();
    if let Some(mut document) = Document::parse(&source, &variables, &mut diagnostics) {
        let list = document.list("routes", &mut diagnostics);
        routes.extend(list.into_iter().filter_map(|section| section.read(&mut diagnostics)));
        document.finish(&mut diagnostics);
    }
    (routes, diagnostics.to_string().lines().map(str::to_owned).collect())
}

#[test]
fn two_unknown_keys_in_two_routes_are_two_mistakes_at_their_places() {
    let (routes, errors) = read("[[routes]]\nname = \"a\"\ntimeot = \"2s\"\n\n[[routes]]\n  nmae = \"b\"\n  colour = 1\n");
    assert_eq!(
        errors,
        [
            "f:3:1: error: unknown key `timeot`",
            "  hint: did you mean `timeout`?",
            "f:6:3: error: unknown key `nmae`",
            "  hint: did you mean `name`?",
            "f:7:3: error: unknown key `colour`",
            "  hint: known here: name, timeout, retry, targets",
        ]
    );
    assert_eq!(routes.len(), 1, "the second has no name left");
    assert!(!routes[0].whole);
}

#[test]
fn every_mistake_of_one_section_is_told_whatever_its_kind() {
    let (_, errors) = read(
        "[[routes]]\nname = 5\ntimeout = \"2 sec\"\nretry = { attempt = 3 }\ntargets = [{ to = \"a\" }, { too = \"b\" }, { to = 3 }]\n",
    );
    assert_eq!(
        errors,
        [
            "f:2:8: error: invalid type: integer `5`, expected a string",
            "f:3:11: error: invalid value: string \"2 sec\", expected a duration: a whole number with ms, s, m or h, as in \"500ms\" or \"2s\"",
            "f:4:11: error: unknown key `attempt`",
            "  hint: did you mean `attempts`?",
            "f:5:28: error: unknown key `too`",
            "  hint: did you mean `to`?",
            "f:5:48: error: invalid type: integer `3`, expected a string",
        ]
    );
}

#[test]
fn one_or_many_keeps_the_places_of_each() {
    let (routes, errors) =
        read("[[routes]]\nname = \"a\"\ntargets = { to = \"x\" }\n[[routes]]\nname = \"b\"\ntargets = [{ to = \"y\" }]\n");
    assert_eq!(errors, Vec::<String>::new());
    let text = "[[routes]]\nname = \"a\"\ntargets = ";
    let first = &routes[0].value.targets.as_ref().unwrap().0[0];
    assert_eq!(first.span().start, text.len());
    assert_eq!(first.get_ref().to.get_ref(), "x");
    assert_eq!(routes[1].value.targets.as_ref().unwrap().0[0].get_ref().to.get_ref(), "y");
    assert!(routes[0].value.timeout.is_none() && routes[0].value.retry.as_ref().is_none_or(|retry| retry.attempts > 0));
}

#[test]
fn a_missing_key_is_named_and_a_text_that_is_not_toml_is_refused() {
    assert_eq!(read("[[routes]]\ntimeout = \"1s\"\n").1, ["f:1:1: error: `name` is missing"]);
    assert!(
        read("[[routes]\nname = \"a\"\n").1[0].starts_with("f:1:10: error: not TOML: "),
        "{:?}",
        read("[[routes]\n").1
    );
    assert!(
        read("a = 1\na = 2\n").1[0].starts_with("f:2:1: error: not TOML: duplicate key"),
        "{:?}",
        read("a = 1\na = 2\n").1
    );
    assert_eq!(
        read("routes = 3\n").1,
        ["f:1:10: error: `routes` is not a list of tables", "  hint: write [[routes]]"]
    );
    assert_eq!(
        read("[route]\n").1,
        ["f:1:2: error: unknown key `route`", "  hint: did you mean `routes`?"]
    );
}

#[test]
fn a_variable_cannot_add_a_key_and_is_not_quoted_in_messages() {
    let (routes, errors) = read("[[routes]]\nname = \"${SECRET}!\"\n");
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(routes[0].value.name, "hunter22\"\nname = \"injected!");
    assert_eq!(
        read("[[routes]]\nname = \"\\u0024{SECRET}!\"\n").0[0].value.name,
        routes[0].value.name
    );
    let (_, errors) = read("[[routes]]\nname = \"a\"\ntimeout = \"${SECRET}\"\n");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(!errors[0].contains("hunter"), "{errors:?}");
}

#[test]
fn an_unknown_or_broken_variable_is_a_mistake_and_a_doubled_dollar_is_text() {
    assert_eq!(
        read("[[routes]]\nname = \"${NONE}\"\n").1,
        ["f:2:8: error: the variable `NONE` is not set", "  hint: set NONE"]
    );
    assert!(read("[[routes]]\nname = \"${\"\n").1[0].starts_with("f:2:8: error: `${` without"));
    assert_eq!(read("[[routes]]\nname = \"$${NONE} $1\"\n").0[0].value.name, "${NONE} $1");
}
