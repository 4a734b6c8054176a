//! What is wrong with a route's policies, each mistake with its place and its mend.

use gateway::{Gateway, Source};

/// A route with these keys, the first of which is in line 5.
fn compile(keys: &str) -> Result<Gateway, String> {
    let config = format!(
        "[upstreams.accounts]\nendpoints = [{{ url = \"http://127.0.0.1:1\" }}]\n[[routes]]\nmatch = {{ path = \"/a\", methods = [\"POST\"] }}\n{keys}\nupstream = \"accounts\"\n"
    );
    let compiled = Gateway::compile(&Source::new("g.toml", config), &mut |_| Err(String::new()), &|_| None);
    compiled.map_err(|diagnostics| diagnostics.to_string())
}

#[track_caller]
fn refused(keys: &str, parts: &[&str]) {
    let errors = compile(keys).expect_err("it has a mistake");
    for part in parts {
        assert!(errors.contains(part), "{part:?} in\n{errors}");
    }
}

fn policies(keys: &str) -> Vec<String> {
    let gateway = compile(keys).unwrap_or_else(|errors| panic!("{errors}"));
    gateway.listing().remove(0).policies
}

#[test]
fn a_rate_limit_is_a_number_a_window_and_a_key() {
    assert_eq!(
        policies(
            "rate_limit = [{ limit = 5, window = \"10s\", key = \"client.ip\" }, { name = \"all\", limit = 9, window = \"1m\" }]"
        ),
        ["rate limit `5-per-10s`: 5 per 10s by client.ip", "rate limit `all`: 9 per 1m"]
    );
    let limit = |of: &str, parts: &[&str]| refused(&format!("rate_limit = {{ {of} }}"), parts);
    limit("limit = 5", &["g.toml:5:14: error: `window` is missing"]);
    limit(
        "limit = 0, window = \"1m\"",
        &["g.toml:5:24: error: `limit` is 0, expected 1 to 1000000"],
    );
    limit(
        "limit = 5, window = \"2d\"",
        &["g.toml:5:36: error", "a whole number with ms, s, m or h"],
    );
    limit("limit = 5, window = \"25h\"", &["`window` is 25h, expected 1ms to 24h"]);
    limit("limit = 5, window = \"1m\", burst = 0", &["`burst` is 0"]);
    limit(
        "limit = 5, window = \"1m\", name = \"a\\\"b\"",
        &["is not a name that a rate limit can have"],
    );
    limit(
        "limit = 5, windw = \"1m\"",
        &["unknown key `windw`", "did you mean `window`?"],
    );
}

#[test]
fn a_rate_limit_counts_by_something_that_the_route_knows() {
    let by = |key: &str, parts: &[&str]| {
        refused(
            &format!("rate_limit = {{ limit = 5, window = \"1m\", key = \"{key}\" }}"),
            parts,
        );
    };
    by(
        "claim.sub",
        &["g.toml:5:48: error: `claim.sub` needs a verified caller", "add auth"],
    );
    by("api-key", &["`api-key` needs an API key"]);
    by(
        "client.id",
        &[
            "`client.id` is nothing that a limit can count by",
            "did you mean `client.ip`?",
        ],
    );
    by("id", &["known here: client.ip, claim.NAME, header.NAME, api-key, route"]);
    by("{client.ip}", &["is nothing that a limit can count by"]);
    by("header.a b", &["is nothing that a limit can count by"]);
}

#[test]
fn the_limits_of_a_route_have_names_of_their_own() {
    let limit = "{ limit = 5, window = \"1m\" }";
    refused(
        &format!("rate_limit = [{limit}, {{ limit = 5, window = \"60s\", key = \"client.ip\" }}]"),
        &[
            "g.toml:5:45: error: a second rate limit of the route is called `5-per-1m`",
            "name = ",
        ],
    );
    refused(
        &format!("rate_limit = [{}]", [limit; 9].join(", ")),
        &["at most 8 rate limits"],
    );
}

#[test]
fn cors_names_origins_and_what_they_may() {
    assert_eq!(
        policies("cors = { origins = [\"https://app.bank.example\"], credentials = true }"),
        ["cors for https://app.bank.example, with credentials"]
    );
    let cors = |of: &str, parts: &[&str]| refused(&format!("cors = {{ {of} }}"), parts);
    cors("origins = []", &["g.toml:5:20: error: `origins` is empty"]);
    cors(
        "origins = [\"app.bank.example\"]",
        &[
            "g.toml:5:21: error: `app.bank.example` is not an origin",
            "\"https://app.bank.example\"",
        ],
    );
    cors(
        "origins = [\"*\"], credentials = true",
        &["g.toml:5:41: error: `credentials` for every origin", "name the origins"],
    );
    cors(
        "origins = [\"*\"], headers = [\"x y\"]",
        &["`x y` is not the name of a header field"],
    );
    cors("origins = [\"*\"], methods = [\"A B\"]", &["`A B` is not a method"]);
    cors(
        "origins = [\"*\"], max_age = \"25h\"",
        &["`max_age` is 25h, expected 0ms to 24h"],
    );
    cors("origin = [\"*\"]", &["unknown key `origin`", "did you mean `origins`?"]);
}

#[test]
fn faults_and_mirrors_have_shares() {
    assert_eq!(
        policies(
            "fault = { delay = { duration = \"2s\", percent = 10 }, abort = { status = 503, percent = 0.5 } }\nmirror = { upstream = \"accounts\", percent = 50 }"
        ),
        [
            "fault: 10 % wait 2s",
            "fault: 0.5 % are answered 503",
            "mirror 50 % to accounts"
        ]
    );
    refused("fault = {}", &["g.toml:5:9: error: `fault` does nothing", "delay = "]);
    refused(
        "fault = { abort = { status = 200 } }",
        &["g.toml:5:30: error: `status` is 200, expected 400 to 599"],
    );
    refused(
        "fault = { delay = { duration = \"1s\", percent = 101 } }",
        &["`percent` is 101, expected 0 to 100"],
    );
    refused(
        "mirror = { upstream = \"acounts\" }",
        &[
            "g.toml:5:23: error: there is no upstream `acounts`",
            "did you mean `accounts`?",
        ],
    );
    refused(
        "mirror = { upstream = \"accounts\", percent = -1 }",
        &["`percent` is -1, expected 0 to 100"],
    );
    let five = ["{ upstream = \"accounts\" }"; 5].join(", ");
    refused(&format!("mirror = [{five}]"), &["a route has at most 4 mirrors"]);
}

#[test]
fn concurrency_is_a_number_of_requests() {
    assert_eq!(policies("concurrency = 64"), ["at most 64 at once"]);
    refused(
        "concurrency = 0",
        &["g.toml:5:15: error: `concurrency` is 0, expected 1 to 1000000"],
    );
}

#[test]
fn ring_hash_goes_by_something_of_the_request() {
    let upstream = |keys: &str| {
        let config = format!("[upstreams.a]\nendpoints = [{{ url = \"http://127.0.0.1:1\" }}]\n{keys}\n");
        let compiled = Gateway::compile(&Source::new("g.toml", config), &mut |_| Err(String::new()), &|_| None);
        compiled
            .map(|_| ())
            .map_err(|diagnostics| diagnostics.to_string())
            .err()
            .unwrap_or_default()
    };
    for by in ["client.ip", "header.x-tenant", "cookie.session"] {
        assert_eq!(upstream(&format!("balance = \"ring-hash\"\nhash = \"{by}\"")), "");
    }
    assert_eq!(
        upstream("slow_start = \"30s\"\noutlier = { success_rate = {} }\nbreaker = { max_connections = 8 }"),
        ""
    );
    for (keys, part) in [
        (
            "balance = \"ring-hash\"",
            "g.toml:3:11: error: ring-hash has nothing to go by\n  hint: add hash = ",
        ),
        (
            "hash = \"client.ip\"\nbalance = \"peak-ewma\"",
            "g.toml:3:8: error: `hash` has no effect",
        ),
        ("hash = \"client.id\"\nbalance = \"ring-hash\"", "did you mean `client.ip`?"),
        (
            "hash = \"claim.sub\"\nbalance = \"ring-hash\"",
            "`claim.sub` is nothing that ring-hash can go by",
        ),
        ("balance = \"ring-hsh\"", "did you mean `ring-hash`?"),
        (
            "balance = \"ring-hash\"\nhash = \"client.ip\"\nslow_start = \"5s\"",
            "g.toml:5:14: error: `slow_start` has no effect with ring-hash",
        ),
        ("slow_start = \"0s\"", "`slow_start` is 0ms, expected 1s to 1h"),
        (
            "breaker = { max_connections = 0 }",
            "`max_connections` is 0, expected 1 to 1000000",
        ),
        (
            "outlier = { success_rate = { interval = \"10ms\" } }",
            "`interval` is 10ms, expected 1s to 1h",
        ),
    ] {
        assert!(upstream(keys).contains(part), "{part:?} in\n{}", upstream(keys));
    }
}

#[test]
fn shared_quotas_need_a_store_that_can_be_asked() {
    let with = |gateway: &str, limit: &str| {
        let config = format!(
            "[gateway]\n{gateway}\n[[routes]]\nmatch = {{ path = \"/a\" }}\nrate_limit = {{ limit = 5, window = \"1m\"{limit} }}\nrespond = {{ status = 200 }}\n"
        );
        let compiled = Gateway::compile(&Source::new("g.toml", config), &mut |_| Err(String::new()), &|_| None);
        compiled.map(|gateway| gateway.listing().remove(0).policies.join("; "))
    };
    let redis = "quotas = { redis = \"redis://10.0.0.5:6379\" }";
    assert_eq!(with("", "").unwrap(), "rate limit `5-per-1m`: 5 per 1m");
    assert_eq!(with("", ", shared = false").unwrap(), "rate limit `5-per-1m`: 5 per 1m");
    assert_eq!(with(redis, "").unwrap(), "rate limit `5-per-1m`: 5 per 1m, shared");
    assert_eq!(
        with(redis, ", shared = true").unwrap(),
        "rate limit `5-per-1m`: 5 per 1m, shared"
    );
    assert_eq!(with(redis, ", shared = false").unwrap(), "rate limit `5-per-1m`: 5 per 1m");
    let refused = |gateway: &str, limit: &str, parts: &[&str]| {
        let errors = with(gateway, limit).unwrap_err().to_string();
        for part in parts {
            assert!(errors.contains(part), "{part:?} in\n{errors}");
        }
        assert!(!errors.contains("s3cret"), "{errors}");
    };
    refused(
        "",
        ", shared = true",
        &["g.toml:5:51: error: `shared` needs a store", "[gateway] quotas"],
    );
    for url in [
        "http://h",
        "redis://",
        "redis://:s3cret@h/x",
        "rediss://:s3cret@h:1/0?a=b",
        "10.0.0.5:6379",
        "",
    ] {
        let quotas = format!("quotas = {{ redis = \"{url}\" }}");
        refused(
            &quotas,
            "",
            &[
                "g.toml:2:20: error: `redis` is not the URL of a Redis server",
                "redis://10.0.0.5:6379",
            ],
        );
    }
    for url in ["redis://h", "rediss://u:p@h:1/15", "redis://[::1]:6379/"] {
        assert!(with(&format!("quotas = {{ redis = \"{url}\" }}"), "").is_ok(), "{url}");
    }
    refused("quotas = {}", "", &["g.toml:2:10: error: `redis` is missing"]);
    let more = |more: &str| format!("quotas = {{ redis = \"redis://h\", {more} }}");
    refused(&more("timeout = \"6s\""), "", &["`timeout` is 6s, expected 1ms to 5s"]);
    refused(
        &more("when_down = \"opn\""),
        "",
        &["`opn` is nothing that can be done then", "did you mean `open`?"],
    );
    refused(&more("when_down = \"x\""), "", &["known here: local, open, closed"]);
}

#[test]
fn the_length_of_a_body_has_a_limit_where_it_is_sent_on() {
    assert_eq!(policies("max_body = \"10MiB\""), ["bodies up to 10MiB"]);
    refused(
        "max_body = \"0B\"",
        &["g.toml:5:12: error: `max_body` is 0B, expected 1B to 1024GiB"],
    );
    let config = "[[routes]]\nmatch = { path = \"/\" }\nmax_body = \"1KiB\"\nrespond = { status = 200 }\n";
    let errors = Gateway::compile(&Source::new("g.toml", config), &mut |_| Err(String::new()), &|_| None).unwrap_err();
    assert!(
        errors.to_string().contains("g.toml:3:12: error: `max_body` has no effect"),
        "{errors}"
    );
}

#[test]
fn answers_are_held_against_what_can_be_read() {
    let compile = |keys: &str| {
        let config = format!(
            "[upstreams.accounts]\nendpoints = [{{ url = \"http://127.0.0.1:1\" }}]\n[[routes]]\nname = \"a\"\nmatch = {{ path = \"/a\" }}\n{keys}\n"
        );
        let mut read = |path: &str| {
            match path {
            "answer.json" => Ok(b"{}".to_vec()),
            "api.yaml" => Ok(b"openapi: 3.1.0\npaths: { /a: { get: { responses: { 200: { content: { application/json: { schema: { type: x } } } } } } } }".to_vec()),
            other => Err(format!("{other}: no such file")),
        }
        };
        let compiled = Gateway::compile(&Source::new("g.toml", config), &mut read, &|_| None);
        compiled
            .map(|gateway| gateway.listing().remove(0).policies.join("; "))
            .map_err(|wrong| wrong.to_string())
    };
    let forwards = |validate: &str| compile(&format!("upstream = \"accounts\"\nvalidate = {{ {validate} }}"));
    assert_eq!(
        forwards("response_body = \"answer.json\"").unwrap(),
        "answers are held against a schema, and what is wrong is logged"
    );
    let refused = |errors: Result<String, String>, part: &str| {
        let errors = errors.unwrap_err();
        assert!(errors.contains(part), "{part:?} in\n{errors}");
    };
    refused(
        forwards("response_body = \"none.json\""),
        "the schema `none.json` of route `a`: none.json: no such file",
    );
    refused(
        forwards("openapi_responses = true"),
        "`openapi_responses` has no effect without `openapi`",
    );
    assert!(
        forwards("openapi = \"api.yaml\"").is_ok(),
        "what is not judged is not compiled"
    );
    refused(
        forwards("openapi = \"api.yaml\", openapi_responses = true"),
        "at /paths/~1a/get/responses/200/content/application~1json/schema",
    );
    let responds = compile("respond = { status = 200 }\nvalidate = { response_body = \"answer.json\" }");
    refused(
        responds,
        "`response_body` has no effect on a route without `upstream` or `split`",
    );
}
