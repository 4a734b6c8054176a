//! A conformance case as `cases/*.toml` state it (the format is described at the top of `routes.toml` there), and how what a gateway
//! did is held against it. The pure core's runner and the engines' runner include this file.

#![allow(clippy::unwrap_used, reason = "cases that cannot be read have failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "reading the cases is the harness's work, not the gateway's"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::HeaderMap;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) request: CaseRequest,
    #[serde(default)]
    pub(crate) upstream: Vec<Answer>,
    pub(crate) expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseRequest {
    #[serde(default = "get")]
    pub(crate) method: String,
    pub(crate) target: String,
    #[serde(default = "host")]
    pub(crate) host: String,
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<String>,
    /// Whether the body comes in chunks, without its length.
    #[serde(default)]
    pub(crate) chunked: bool,
    pub(crate) token: Option<Token>,
    /// How often it is sent; the last answer counts.
    #[serde(default = "once")]
    pub(crate) repeat: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    pub(crate) secret: String,
    /// The `typ` of its header; `JWT` where nothing is said.
    pub(crate) typ: Option<String>,
    pub(crate) expires_in: Option<i64>,
    #[serde(default)]
    claims: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) name: String,
    pub(crate) target: Option<String>,
    pub(crate) status: Option<u16>,
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    #[serde(default)]
    pub(crate) body: String,
    pub(crate) fail: Option<String>,
    /// Whether it may stay unasked.
    #[serde(default)]
    pub(crate) optional: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    status: u16,
    reason: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    absent: Vec<String>,
    body: Option<String>,
    json: Option<serde_json::Value>,
    #[serde(default)]
    body_has: Vec<String>,
    #[serde(default)]
    pub(crate) attempts: Vec<ExpectedAttempt>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedAttempt {
    name: String,
    method: Option<String>,
    target: Option<String>,
    pub(crate) host: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    absent: Vec<String>,
    body: Option<String>,
    #[serde(default)]
    optional: bool,
}

/// What a gateway did.
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) reason: Option<String>,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) sent: Vec<Sent>,
    /// How many of the case's upstream answers nobody asked for.
    pub(crate) unasked: usize,
}

/// What an upstream saw.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) upstream: String,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: Option<String>,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
}

fn get() -> String {
    "GET".to_owned()
}

fn once() -> usize {
    1
}

fn host() -> String {
    "api.bank.example".to_owned()
}

/// Every file of cases, by its path.
pub(crate) fn files() -> Vec<(PathBuf, File)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/cases");
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no cases", folder.display());
    let read = |path: PathBuf| match toml::from_str(&std::fs::read_to_string(&path).unwrap()) {
        Ok(file) => (path, file),
        Err(error) => panic!("{}: {error}", path.display()),
    };
    paths.into_iter().map(read).collect()
}

impl Token {
    /// The claims of a token that is made at `now`, in seconds since 1970-01-01T00:00:00Z.
    pub(crate) fn claims_at(&self, now: u64) -> serde_json::Value {
        let mut claims = self.claims.clone();
        if let Some(seconds) = self.expires_in {
            claims.insert("exp".to_owned(), now.saturating_add_signed(seconds).into());
        }
        claims.into()
    }
}

impl Case {
    /// Every difference of what was expected to what was done.
    pub(crate) fn differences(&self, got: &Got) -> Vec<String> {
        let expect = &self.expect;
        let mut failures = Vec::new();
        let mut check = |what: String, ok: bool, got: String| {
            if !ok {
                failures.push(format!("{what}, got {got}"));
            }
        };
        let text = String::from_utf8_lossy(&got.body).into_owned();
        check(
            format!("status {}", expect.status),
            got.status == expect.status,
            format!("{} {text}", got.status),
        );
        check(
            format!("reason {:?}", expect.reason),
            got.reason == expect.reason,
            format!("{:?}", got.reason),
        );
        for (name, value) in &expect.headers {
            let all = joined(&got.fields, name);
            check(format!("header {name}: {value}"), all == *value, all.clone());
        }
        for name in &expect.absent {
            check(
                format!("no header {name}"),
                !got.fields.contains_key(name),
                joined(&got.fields, name),
            );
        }
        if let Some(body) = &expect.body {
            check(format!("body {body:?}"), text == *body, text.clone());
        }
        if let Some(json) = &expect.json {
            let same = serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|got| got == *json);
            check(format!("json {json}"), same, text.clone());
        }
        for part in &expect.body_has {
            check(format!("{part:?} in the body"), text.contains(part), text.clone());
        }
        failures.extend(compare(&expect.attempts, &got.sent));
        if got.unasked > self.upstream.iter().filter(|answer| answer.optional).count() {
            failures.push(format!("{} answers of upstreams were not asked for", got.unasked));
        }
        failures
    }
}

fn joined(fields: &HeaderMap, name: &str) -> String {
    let all: Vec<_> = fields
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap_or("?"))
        .collect();
    all.join(", ")
}

/// Compares what upstreams saw with what they should have; the order does not count, since branches are sent together.
fn compare(expected: &[ExpectedAttempt], sent: &[Sent]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut left: Vec<&Sent> = sent.iter().collect();
    for attempt in expected {
        let mine = left
            .iter()
            .enumerate()
            .filter(|(_, sent)| !attempt.optional || sent.upstream == attempt.name);
        let judged = mine.map(|(at, sent)| (at, differences(attempt, sent)));
        match judged.min_by_key(|(_, differences)| differences.len()) {
            Some((at, differences)) => {
                left.remove(at);
                failures.extend(differences);
            }
            None if attempt.optional => {}
            None => failures.push(format!("{} should have been asked", attempt.name)),
        }
    }
    failures.extend(
        left.into_iter()
            .map(|sent| format!("{} was asked for {}", sent.upstream, sent.target)),
    );
    failures
}

fn differences(expected: &ExpectedAttempt, sent: &Sent) -> Vec<String> {
    let mut differences = Vec::new();
    let mut check = |what: &str, expected: &str, got: &str| {
        if expected != got {
            differences.push(format!("attempt: {what} `{expected}`, got `{got}`"));
        }
    };
    check("upstream", &expected.name, &sent.upstream);
    check("method", expected.method.as_deref().unwrap_or(&sent.method), &sent.method);
    check("target", expected.target.as_deref().unwrap_or(&sent.target), &sent.target);
    let host = sent.host.as_deref().unwrap_or_default();
    check("host", expected.host.as_deref().unwrap_or(host), host);
    for (name, value) in &expected.headers {
        check(name, value, &joined(&sent.fields, name));
    }
    for name in &expected.absent {
        check(
            name,
            "absent",
            if sent.fields.contains_key(name) { "present" } else { "absent" },
        );
    }
    if let Some(body) = &expected.body {
        check("body", body, &String::from_utf8_lossy(&sent.body));
    }
    differences
}
