//! What is wrong with an aggregate, or with an API's description.

use gateway::{Gateway, Source};

const UPSTREAM: &str = "[upstreams.a]\nendpoints = [{ url = \"http://127.0.0.1:1\" }]\n";

fn errors(config: &str) -> String {
    let mut files = |path: &str| match path {
        "fine.yaml" => Ok(b"openapi: 3.1.0\npaths: {}\n".to_vec()),
        "old.yaml" => Ok(b"openapi: 3.0.0\npaths: {}\n".to_vec()),
        _ => Err("no such file".to_owned()),
    };
    match Gateway::compile(&Source::new("g.toml", config), &mut files, &|_| None) {
        Ok(_) => String::new(),
        Err(diagnostics) => diagnostics.to_string(),
    }
}

/// The mistakes of an aggregate with a branch `c` and this one, which is the file's seventh line.
fn branch(branch: &str) -> String {
    errors(&format!(
        "{UPSTREAM}[[routes]]\nmatch = {{ path = \"/a/{{id}}\" }}\naggregate = {{ branches = [\n\
         {{ as = \"b\", upstream = \"a\", {branch} }},\n{{ as = \"c\", upstream = \"a\", path = \"/c\" }},\n] }}\n"
    ))
}

fn validate(validate: &str) -> String {
    errors(&format!(
        "{UPSTREAM}[[routes]]\nname = \"r\"\nmatch = {{ path_prefix = \"/a\" }}\nupstream = \"a\"\nvalidate = {{ {validate} }}\n"
    ))
}

#[track_caller]
fn assert_has(errors: &str, parts: &[&str]) {
    for part in parts {
        assert!(errors.contains(part), "{part:?} in\n{errors}");
    }
}

#[test]
fn a_branch_goes_through_a_list_of_another() {
    assert_eq!(
        branch("for_each = \"c.list\", path = \"/{item}/{item.x}/{id}\", max_items = 8"),
        ""
    );
    assert_eq!(branch("for_each = \"c\", path = \"/{item.x}\""), "");
    assert_has(
        &branch("for_each = \"d.list\", path = \"/\""),
        &["g.toml:6:40: error: `d.list`: there is no branch `d`"],
    );
    assert_has(
        &branch("path = \"/{item.x}\""),
        &["{item.x} needs a list to go through", "add for_each"],
    );
    assert_has(&branch("path = \"/{item}\""), &["{item} is not a parameter of the path"]);
    assert_has(
        &branch("path = \"/\", max_items = 8"),
        &["`max_items` has no effect without `for_each`"],
    );
    assert_has(
        &branch("for_each = \"c.list\", path = \"/{item}\", max_items = 257"),
        &["`max_items` is 257, expected 1 to 256"],
    );
    assert_has(
        &branch("for_each = \"b.list\", path = \"/{item}\""),
        &["branches wait for each other: b → b"],
    );
}

#[test]
fn a_status_means_something_for_the_answer() {
    assert_eq!(
        branch("path = \"/\", required = true, status = { 404 = \"fallback\", 5xx = 503 }, fallback = []"),
        ""
    );
    assert_eq!(branch("path = \"/\", status = { 404 = \"fallback\" }"), "");
    assert_has(
        &branch("path = \"/\", status = { 409 = 409 }"),
        &["a branch that may be missing does not decide", "required = true"],
    );
    assert_has(
        &branch("path = \"/\", required = true, status = { 9xx = 409 }"),
        &["`9xx` is not a status of an upstream"],
    );
    assert_has(
        &branch("path = \"/\", required = true, status = { 404 = 200 }"),
        &["400 to 599, or \"fallback\""],
    );
    assert_has(
        &branch("path = \"/\", required = true, status = { 404 = \"none\" }"),
        &["400 to 599, or \"fallback\""],
    );
    assert_has(
        &branch("path = \"/\", required = true, fallback = []"),
        &[
            "branch `b` is required, so that nothing can stand in for it",
            "status = { 404",
        ],
    );
}

#[test]
fn fields_are_picked_by_their_paths_and_headers_by_their_names() {
    for fine in ["\"a.b\"", "[\"a\", \"b.c\"]", "{ x = \"a.b\" }"] {
        assert_eq!(branch(&format!("path = \"/\", pick = {fine}")), "");
    }
    assert_has(
        &branch("path = \"/\", pick = \"a..b\""),
        &["`a..b` is not the path of a field"],
    );
    assert_has(&branch("path = \"/\", pick = 7"), &["the path of a field, a list of paths"]);
    assert_eq!(
        branch("path = \"/\", request_headers = [\"x-a\"], response_headers = [\"etag\"]"),
        ""
    );
    assert_has(
        &branch("path = \"/\", response_headers = [\"content-length\"]"),
        &["`content-length` is not a header field that is passed on"],
    );
    assert_has(
        &branch("path = \"/\", request_headers = [\"x y\"]"),
        &["`x y` is not a header field"],
    );
}

#[test]
fn a_description_is_checked_when_the_config_is_and_names_its_route() {
    assert_eq!(validate("openapi = \"fine.yaml\""), "");
    assert_eq!(validate("openapi = \"fine.yaml\", openapi_base = \"/v1\""), "");
    assert_has(
        &validate("openapi = \"gone.yaml\""),
        &["g.toml:7:24: error: the description `gone.yaml` of route `r`: no such file"],
    );
    assert_has(&validate("openapi = \"old.yaml\""), &["`openapi` is 3.0.0, expected 3.1"]);
    assert_has(
        &validate("openapi = \"fine.yaml\", body = \"schema.json\""),
        &["`body` and `openapi` both say what the body has to be"],
    );
    assert_has(
        &validate("openapi = \"fine.yaml\", openapi_base = \"v1\""),
        &["`v1` is not what a path begins with"],
    );
    assert_has(
        &validate("openapi_base = \"/v1\""),
        &["`openapi_base` has no effect without `openapi`"],
    );
}
