//! One table for each piece: what is written, and what `check` says of it.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use crate::balance::Balance;
use crate::config::{Diagnostics, Document, OneOrMany, Period, Source, raw};
use crate::policy::{Cause, Timeouts};
use crate::table::{Route, RouteTable};
use crate::upstream::{Kind, Target};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    r#match: OneOrMany<raw::Match>,
    rewrite: Option<raw::Rewrite>,
    headers: Option<raw::Headers>,
    timeout: Option<Spanned<Period>>,
    retry: Option<raw::Retry>,
    redirect: Option<raw::Redirect>,
    respond: Option<raw::Respond>,
    upstream: Option<Spanned<String>>,
    split: Option<Spanned<Vec<Spanned<raw::Share>>>>,
}

/// What is wrong with a config, one line each: `line:column message (hint)`.
fn check(text: &str) -> Vec<String> {
    let source = Source::new("f", text);
    let mut diagnostics = Diagnostics::new(&source);
    let mut document = Document::parse(&source, &|_| None, &mut diagnostics).expect("TOML");
    let mut upstreams = Vec::new();
    for (name, section) in document.named("upstreams", &mut diagnostics) {
        if let Some(read) = section.read::<raw::Upstream>(&mut diagnostics) {
            read.value.compile(&name, read.whole, &mut diagnostics);
        }
        upstreams.push(name.into_inner());
    }
    let known = || upstreams.iter().map(String::as_str);
    let (mut routes, mut spans) = (Vec::new(), Vec::new());
    for section in document.list("routes", &mut diagnostics) {
        let Some(read) = section.read::<RawRoute>(&mut diagnostics) else {
            continue;
        };
        let route = read.value;
        let d = &mut diagnostics;
        let rules = route.r#match.compile(d);
        let retry = route.retry.as_ref().and_then(|retry| retry.compile(d));
        d.timeouts(route.timeout.as_ref(), retry.as_ref());
        route.upstream.as_ref().map(|upstream| d.upstream(upstream, known()));
        route.split.as_ref().map(|split| d.split(split, known()));
        route.respond.as_ref().map(|respond| respond.compile(d));
        let Some(rules) = rules else { continue };
        route.rewrite.as_ref().map(|rewrite| rewrite.compile(&rules, d));
        route.headers.as_ref().map(|headers| headers.request.compile(&rules, d));
        route.headers.as_ref().map(|headers| headers.response.compile(&rules, d));
        route.redirect.as_ref().map(|redirect| redirect.compile(&rules, d));
        spans.push(route.r#match.spans());
        routes.push(Route {
            name: format!("r{}", routes.len()).into(),
            rules,
            policy: (),
        });
    }
    document.finish(&mut diagnostics);
    if let Err(found) = RouteTable::build(routes) {
        diagnostics.unreachable(
            &found,
            |id| format!("r{}", id.route),
            |id| spans[id.route as usize][id.rule as usize].clone(),
        );
    }
    let line = |d: &crate::config::Diagnostic| {
        let hint = d.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{}:{} {}{hint}", d.line, d.column, d.message)
    };
    diagnostics.list().iter().map(line).collect()
}

/// What is wrong with one route's lines, of which the first is line 2.
fn route(lines: &str) -> Vec<String> {
    check(&format!("[[routes]]\n{lines}"))
}

fn upstream(lines: &str) -> Vec<String> {
    check(&format!("[upstreams.u]\n{lines}"))
}

#[track_caller]
fn says(found: &[String], expected: &[&str]) {
    assert_eq!(found, expected);
}

#[test]
fn the_config_of_the_interface_is_right() {
    let text = r#"
[upstreams.accounts]
mesh = "accounts"
[upstreams.rates]
endpoints = [{ url = "http://127.0.0.1:9101", weight = 90 }, { url = "http://127.0.0.1:9102", weight = 10 }]
balance = "peak-ewma"
outlier = { consecutive_failures = 5, ejection = "10s", max_ejected = 0.5 }
breaker = { max_requests = 1024, max_pending = 256 }
[[routes]]
match = { hosts = ["api.bank.example", "*.bank.test"], path = "/accounts/{id}", methods = ["GET"], headers = { x-beta = "1" }, query = { v = "2" } }
split = [{ upstream = "accounts", weight = 95 }, { upstream = "rates", weight = 5 }]
rewrite = { path = "/v2/accounts/{id}", host = "accounts.internal" }
headers = { request = { set = { x-customer = "{claim.sub}" }, remove = ["cookie"] }, response = { add = { x-served-by = "bank" } } }
timeout = "2s"
retry = { attempts = 2, on = ["connect-failure", "reset", "502", "503", "504"], per_try_timeout = "500ms", backoff = "25ms..250ms", budget = 0.2 }
[[routes]]
match = { path = "/old/{*rest}" }
redirect = { path = "/new/{rest}", status = 308 }
[[routes]]
match = [{ path = "/healthz" }, { path_prefix = "/v2", headers = { a = { regex = "x+" }, b = { present = true } } }]
respond = { status = 200, body = "ok" }
"#;
    says(&check(text), &[]);
}

#[test]
fn a_match_says_what_is_wrong_with_it() {
    says(
        &route(
            r#"match = { hosts = ["a:80", "b*"], path = "/{x", methods = ["get"], headers = { "a b" = "1", c = { regex = "(" } }, query = { v = { regex = "[" } } }"#,
        ),
        &[
            "2:20 host `a:80`: a host is matched without its port (write \"a\"; it matches every port)",
            "2:28 host `b*`: `*` may only be the whole first label, as in *.bank.example",
            "2:42 `{x`: a parameter takes a whole segment, as in /accounts/{id}",
            "2:60 `get` is not a method (methods are case-sensitive: write \"GET\")",
            "2:80 `a b` is not the name of a header field",
            "2:107 not a regular expression: unclosed group",
            "2:140 not a regular expression: unclosed character class",
        ],
    );
    says(
        &route("match = { path = \"/a\", path_prefix = \"/a\" }"),
        &[
            "2:38 a match has `path` or `path_prefix`, not both (write two matches: match = [{ path = … }, { path_prefix = … }])",
        ],
    );
    says(
        &route("match = { path = \"a\" }"),
        &["2:18 a path starts with / (write \"/a\")"],
    );
    says(
        &route("match = { methods = [] }"),
        &["2:21 `methods` is empty (leave `methods` out to match any)"],
    );
    says(
        &route("match = { path = \"/\", headers = { a = { regexp = \"x\" }, b = 5, c = {} } }"),
        &[
            "2:41 unknown key `regexp` (did you mean `regex`?)",
            "2:61 invalid type: integer `5`, expected a text, { regex = \"…\" } or { present = true }",
            "2:68 expected one of `regex` and `present`",
        ],
    );
    says(
        &route("match = 5"),
        &["2:9 invalid type: integer `5`, expected a table or a list of tables"],
    );
    says(&route("timeout = \"1s\""), &["1:1 `match` is missing"]);
}

#[test]
fn unreachable_routes_are_named_with_both_places() {
    let found = check(
        "[[routes]]\nmatch = { path = \"/a/{x}\" }\n[[routes]]\nmatch = { path = \"/a/{y}\" }\n[[routes]]\nmatch = [\n  { path = \"/b\" },\n  { path = \"/b\" },\n]\n",
    );
    let mend = "(remove one of them, or tell them apart by host, method, headers or query)";
    says(
        &found,
        &[
            &format!(
                "4:9 route `r1` can never be reached: route `r0` in line 2 takes the same requests and comes first {mend}"
            ),
            &format!("8:3 this match of route `r2` can never be reached: the one in line 7 takes the same requests {mend}"),
        ],
    );
}

#[test]
fn a_rewrite_refers_to_what_the_path_captures() {
    let rewrite = |rewrite: &str| {
        route(&format!(
            "match = [{{ path = \"/a/{{id}}\" }}, {{ path = \"/b/{{id}}/{{n}}\" }}]\nrewrite = {{ {rewrite} }}"
        ))
    };
    says(&rewrite("path = \"/x/{id}\", host = \"b.example:81\""), &[]);
    says(
        &rewrite("path = \"/x/{n}\""),
        &["3:20 {n} is not a parameter of the path `/a/{id}` (known here: id)"],
    );
    says(
        &rewrite("path = \"/x/{ids}\""),
        &["3:20 {ids} is not a parameter of the path `/a/{id}` (did you mean `id`?)"],
    );
    says(
        &rewrite("path = \"/x/{claim.sub}\""),
        &["3:20 {claim.sub} cannot be part of a path (a path is made of the parameters of the path that was matched)"],
    );
    says(
        &rewrite("path = \"/x?a=1\""),
        &["3:20 a path has neither query nor fragment (the query is kept as it came)"],
    );
    says(&rewrite("path = \"x\""), &["3:20 the path does not start with /"]);
    says(
        &rewrite("path = \"/a/../b\""),
        &["3:20 the path is not normalised (the normal form is like \"/b\")"],
    );
    says(
        &rewrite("path = \"/{*id}\""),
        &["3:20 `{*id}`: write the name without the star where the value is used (write {id})"],
    );
    says(
        &rewrite("host = \"a b\""),
        &["3:20 `a b` is not a host, with or without a port"],
    );
    says(
        &route("match = { path = \"/\" }\nrewrite = { path = \"/{x}\" }"),
        &["3:20 {x} is not a parameter of the path `/` (it has none)"],
    );
}

#[test]
fn header_edits_leave_the_connection_alone() {
    let edits = |edits: &str| {
        route(&format!(
            "match = {{ path = \"/a/{{id}}\" }}\nheaders.request = {{ {edits} }}"
        ))
    };
    says(
        &edits("set = { x-id = \"{id}\", x-ip = \"{client.ip}\", x-h = \"{header.x-t}\" }"),
        &[],
    );
    says(
        &edits("set = { host = \"a\" }"),
        &["3:29 `host` cannot be edited: it belongs to the connection, not to the message (write rewrite = { host = … })"],
    );
    says(
        &edits("remove = [\"Content-Length\"]"),
        &["3:31 `content-length` cannot be edited: it belongs to the connection, not to the message"],
    );
    says(
        &edits("add = { x-a = \"a\\nb\" }"),
        &["3:35 a header field's value has no control characters"],
    );
    says(
        &edits("add = { x-a = \"{clam.sub}\", x-b = \"{\" }"),
        &[
            "3:35 `{clam.sub}` refers to nothing; there are {NAME} of the path, {claim.NAME}, {header.NAME}, {cookie.NAME}, {client.ip}, {request.id}, {api-key.name} (did you mean `{claim.sub}`?)",
            "3:55 a brace without its other one; write {{ or }} for the character itself",
        ],
    );
}

#[test]
fn redirects_and_answers_have_statuses_of_their_kind() {
    says(
        &route("match = {}\nredirect = { status = 200, scheme = \"ftp\", host = \"a:1\", port = 0 }"),
        &[
            "3:23 200 is not a redirect, expected 301, 302, 303, 307 or 308",
            "3:37 `ftp` is not a scheme, expected http or https",
            "3:51 `a:1` is not a host (a port is written as `port`)",
            "3:65 `port` is 0, expected 1 to 65535",
        ],
    );
    says(
        &route("match = {}\nrespond = { status = 99 }"),
        &["3:22 `status` is 99, expected 200 to 599"],
    );
    says(
        &route("match = {}\nrespond = { status = 204, body = \"x\" }"),
        &["3:22 an answer with 204 has no body"],
    );
    says(
        &route("match = {}\nrespond = { status = 200, headers = { \"a b\" = \"1\" } }"),
        &["3:39 `a b` is not the name of a header field"],
    );
}

#[test]
fn retries_and_timeouts_stay_in_their_ranges() {
    says(
        &route(
            "match = {}\ntimeout = \"0s\"\nretry = { attempts = 11, on = [\"resets\", \"200\", \"5xx\"], budget = -0.1, backoff = \"1s..2m\" }",
        ),
        &[
            "3:11 `timeout` is 0ms, expected 1ms to 1h",
            "4:22 `attempts` is 11, expected 1 to 10",
            "4:32 `resets` is not a condition to retry on (did you mean `reset`?)",
            "4:42 `200` is not a condition to retry on (expected connect-failure, reset, timeout, 5xx or a status code from 400 to 599)",
            "4:66 `budget` is -0.1, expected 0 to 10",
            "4:82 `backoff` is longer than 1m",
        ],
    );
    says(
        &route("match = {}\nretry = { on = [] }"),
        &["3:16 `on` is empty (leave `on` out for connect-failure, reset and 503)"],
    );
}

#[test]
fn an_upstream_says_what_is_wrong_with_it() {
    says(
        &upstream(""),
        &["1:12 upstream `u` leads nowhere (add mesh = \"SERVICE\" or endpoints = [{ url = \"http://HOST:PORT\" }])"],
    );
    says(&upstream("mehs = \"a\""), &["2:1 unknown key `mehs` (did you mean `mesh`?)"]);
    says(
        &upstream("mesh = \"A_b\"\nbalance = \"ring-hash\""),
        &[
            "2:8 `A_b` is not a service name (a service name has 1 to 63 small letters, digits and -, as in \"accounts\")",
            "3:11 ring-hash has nothing to go by (add hash = \"…\", one of client.ip, header.NAME, cookie.NAME)",
        ],
    );
    says(&upstream("mesh = \"a\"\nbalance = \"ring-hash\"\nhash = \"client.ip\""), &[]);
    says(
        &upstream("mesh = \"a\"\nslow_start = \"5s\""),
        &[
            "3:14 `slow_start` has no effect on an upstream of the mesh (say it for the whole mesh: [services.NAME] in the document for mesh-runtime apply)",
        ],
    );
    says(
        &upstream("mesh = \"a\"\nbalance = \"round_robin\""),
        &["3:11 `round_robin` is not a way to balance (did you mean `round-robin`?)"],
    );
    says(
        &upstream("mesh = \"a\"\nendpoints = []"),
        &["3:13 an upstream has `mesh` or `endpoints`, not both"],
    );
    says(&upstream("endpoints = []"), &["2:13 `endpoints` is empty"]);
    says(
        &upstream("endpoints = [{ url = \"http://a\", weight = 0 }]"),
        &["2:13 no endpoint has a weight above 0"],
    );
    says(
        &upstream("mesh = \"a\"\noutlier = { ejection = \"5s\" }"),
        &[
            "3:11 `outlier` has no effect on an upstream of the mesh (say it for the whole mesh: [services.NAME] in the document for mesh-runtime apply)",
        ],
    );
    says(
        &upstream(
            "endpoints = [{ url = \"http://a\" }]\noutlier = { consecutive_failures = 0, max_ejected = 1.5 }\nbreaker = { max_requests = 0 }",
        ),
        &[
            "3:36 `consecutive_failures` is 0, expected 1 to 1000",
            "3:53 `max_ejected` is 1.5, expected 0 to 1",
            "4:28 `max_requests` is 0, expected 1 to 1000000",
        ],
    );
}

#[test]
fn an_endpoint_is_an_http_url_of_host_and_port() {
    let form = "(an endpoint is written as http://HOST:PORT)";
    let https = "endpoint `https://a:1`: https to an endpoint is not supported (write http://, or reach it through the mesh, which encrypts: mesh = \"SERVICE\")";
    for (url, message) in [
        ("a:1", format!("endpoint `a:1`: the scheme is not http {form}")),
        ("", format!("endpoint ``: not a URL {form}")),
        ("/a", format!("endpoint `/a`: not a URL {form}")),
        ("ftp://a:1", format!("endpoint `ftp://a:1`: the scheme is not http {form}")),
        ("https://a:1", https.to_owned()),
        (
            "http://a:1/b",
            "endpoint `http://a:1/b`: an endpoint has neither path nor query (a path is put in front by a route's `rewrite`)"
                .to_owned(),
        ),
        (
            "http://u@a:1",
            format!("endpoint `http://u@a:1`: not a host and a port {form}"),
        ),
        ("http://a:0", format!("endpoint `http://a:0`: not a host and a port {form}")),
        (
            "http://a:65536",
            format!("endpoint `http://a:65536`: not a host and a port {form}"),
        ),
    ] {
        says(
            &upstream(&format!("endpoints = [{{ url = \"{url}\" }}]")),
            &[&format!("2:22 {message}")],
        );
    }
    says(
        &upstream("endpoints = [{ url = \"http://a\" }, { url = \"http://A:80/\" }]"),
        &["2:44 the endpoint a:80 is listed twice (give one of them the weight of both)"],
    );
}

#[test]
fn an_unknown_upstream_is_named_with_the_nearest() {
    let text = "[upstreams.accounts]\nmesh = \"accounts\"\n[[routes]]\nmatch = {}\n";
    says(
        &check(&format!("{text}upstream = \"acounts\"")),
        &["5:12 there is no upstream `acounts` (did you mean `accounts`?)"],
    );
    says(
        &check(&format!("{text}upstream = \"x\"")),
        &["5:12 there is no upstream `x` (add [upstreams.x])"],
    );
    says(
        &check(&format!("{text}split = [{{ upstream = \"accounts\", weight = 1000001 }}]")),
        &["5:44 `weight` is 1000001, expected 0 to 1000000"],
    );
}

#[test]
fn what_is_not_written_has_its_default() {
    let mut diagnostics = Diagnostics::new(&Source::new("f", ""));
    let retry = raw::Retry::default().compile(&mut diagnostics).unwrap();
    assert!(retry.attempts == 2 && retry.on.covers(Cause::Status(503)) && !retry.on.covers(Cause::Status(500)));
    assert_eq!(diagnostics.timeouts(None, Some(&retry)), Some(Timeouts::default()));
    let raw = raw::Upstream {
        mesh: Some(Spanned::new(0..0, "a".to_owned())),
        ..raw::Upstream::default()
    };
    let upstream = raw
        .compile(&Spanned::new(0..0, "u".to_owned()), true, &mut diagnostics)
        .unwrap();
    assert_eq!(upstream.target, Target::Mesh("a".into()));
    let connection = upstream.connection;
    assert!(connection.balancing.outlier.is_some() && connection.breaker.max_requests == 1024);
    let service = raw::Connection::default().compile(Kind::Service, &mut diagnostics).unwrap();
    assert_eq!(
        (service.balancing.balance, service.balancing.outlier),
        (Balance::PeakEwma, None)
    );
    let respond = raw::Respond {
        status: Spanned::new(0..0, 200),
        body: Some("ok".into()),
        headers: BTreeMap::new(),
    };
    let answer = respond.compile(&mut diagnostics).unwrap();
    assert_eq!(
        (&*answer.body, answer.fields[0].1.to_str().unwrap()),
        (&b"ok"[..], "text/plain; charset=utf-8")
    );
    assert!(diagnostics.is_empty());
}
