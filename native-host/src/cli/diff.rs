//! `native-host diff`: what a changed config would decide otherwise about requests that were recorded.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;
use gateway::exchange::Arrival;
use gateway::explain::{ExplainedAttempt, Outcome};
use gateway::{Explanation, Question};
use http::{HeaderMap, header};
use routing::Now;
use serde::Serialize;
use serde_json::Value;

use super::DiffArguments;
use super::request::{Request, field, named};
use crate::clock::{Clock, Random};
use crate::snapshot::Snapshot;

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    requests: usize,
    changed: usize,
    groups: Vec<Group>,
}

/// Requests that came from one rule to another and changed in the same things.
#[derive(Debug, Serialize)]
struct Group {
    old: String,
    new: String,
    changed: Vec<&'static str>,
    requests: usize,
    example: Example,
}

/// The first of them.
#[derive(Debug, Serialize)]
struct Example {
    request: String,
    changes: Vec<Change>,
}

#[derive(Debug, Serialize)]
struct Change {
    what: &'static str,
    old: String,
    new: String,
}

/// What a decision is made of, each fact by its name. All that is left out of one is `-`.
type Facts = BTreeMap<&'static str, String>;

/// Whether something changed.
pub(super) fn run(arguments: &DiffArguments) -> anyhow::Result<bool> {
    let (old, new) = (Snapshot::load(&arguments.old)?, Snapshot::load(&arguments.new)?);
    let file = arguments.requests.display();
    let recorded = std::fs::read_to_string(&arguments.requests).with_context(|| format!("cannot read the requests {file}"))?;
    let requests = parse(&recorded).with_context(|| format!("the requests {file}"))?;
    let report = compare(&old, &new, &requests);
    super::print(&if arguments.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        show(&report)
    })?;
    Ok(report.changed > 0)
}

fn compare(old: &Snapshot, new: &Snapshot, requests: &[Request]) -> Report {
    // The same for both, so that a split or an id makes no difference of its own.
    let (now, entropy) = (Clock::start().now(), Random::seeded().entropy());
    let mut groups: BTreeMap<(String, String, Vec<&'static str>), Group> = BTreeMap::new();
    let mut changed = 0;
    for request in requests {
        let decide = |snapshot: &Snapshot| explain(snapshot, request, now, entropy);
        let (before, after) = (decide(old), decide(new));
        let changes = changes(&facts(&before), &facts(&after));
        if changes.is_empty() {
            continue;
        }
        changed += 1;
        let (from, to) = (rule(&before), rule(&after));
        let what: Vec<_> = changes.iter().map(|change| change.what).collect();
        let group = groups
            .entry((from.clone(), to.clone(), what.clone()))
            .or_insert_with(|| Group {
                old: from,
                new: to,
                changed: what,
                requests: 0,
                example: Example {
                    request: format!("{} {}{}", before.method, before.host, request.head().target),
                    changes,
                },
            });
        group.requests += 1;
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.requests));
    Report {
        requests: requests.len(),
        changed,
        groups,
    }
}

fn explain(snapshot: &Snapshot, request: &Request, now: Now, entropy: gateway::exchange::Entropy) -> Explanation {
    let fields = request.fields();
    let has_length = fields.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    let arrival = Arrival {
        head: request.head(),
        has_body: has_length || fields.contains_key(header::TRANSFER_ENCODING),
        now,
        entropy,
    };
    let question = Question {
        arrival,
        body: None,
        // Nothing is sent, not even for the keys of an issuer.
        key_set: &|_| None,
    };
    gateway::explain(snapshot.gateway(), &question)
}

/// The rule that takes the request, by its route and its path.
fn rule(explanation: &Explanation) -> String {
    let chosen = explanation.candidates.iter().find(|candidate| candidate.chosen);
    chosen.map_or_else(
        || "(no route)".to_owned(),
        |chosen| format!("{} ({})", chosen.route, chosen.path),
    )
}

fn facts(explanation: &Explanation) -> Facts {
    let mut facts = Facts::from([("rule", rule(explanation))]);
    let auths: Vec<_> = explanation.auth.iter().map(|asked| asked.auth.as_str()).collect();
    facts.insert("auth", auths.join(", "));
    match &explanation.outcome {
        Outcome::Respond {
            status,
            reason,
            fields,
            body,
            ..
        } => {
            facts.insert("status", status.to_string());
            facts.extend(reason.clone().map(|reason| ("reason", reason)));
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            facts.insert("answer fields", fields.join(", "));
            facts.insert("answer body", body.clone());
        }
        Outcome::Send { action, attempts, .. } => {
            facts.insert("action", action.clone());
            let each = |of: &dyn Fn(&ExplainedAttempt) -> String| attempts.iter().map(of).collect::<Vec<_>>().join(", ");
            facts.insert("upstream", each(&|attempt| attempt.upstream.clone()));
            facts.insert("method", each(&|attempt| attempt.method.clone()));
            facts.insert("target", each(&|attempt| attempt.target.clone()));
            facts.insert("host", each(&|attempt| attempt.host.clone().unwrap_or_default()));
            facts.insert("client's fields", each(&|attempt| attempt.inherits.to_string()));
            facts.insert("request edits", each(&|attempt| attempt.request_edits.join(", ")));
            facts.insert("response edits", each(&|attempt| attempt.response_edits.join(", ")));
            facts.insert("retried after", each(&|attempt| format!("{:?}", attempt.judged)));
            facts.insert("timeout", each(&|attempt| format!("{} ms", attempt.timeout_ms)));
        }
    }
    facts.retain(|_, fact| !fact.is_empty());
    facts
}

fn changes(old: &Facts, new: &Facts) -> Vec<Change> {
    let mut names: Vec<_> = old.keys().chain(new.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    let of = |facts: &Facts, name| facts.get(name).map_or("-", String::as_str).to_owned();
    let change = |what| Change {
        what,
        old: of(old, what),
        new: of(new, what),
    };
    names
        .into_iter()
        .map(change)
        .filter(|change| change.old != change.new)
        .collect()
}

fn show(report: &Report) -> String {
    let mut text = format!("{} requests, {} decided otherwise\n", report.requests, report.changed);
    for group in &report.groups {
        let moved = if group.old == group.new {
            group.old.clone()
        } else {
            format!("{} → {}", group.old, group.new)
        };
        let _infallible = write!(
            text,
            "\n{} × {moved}: {}\n    as in {}\n",
            group.requests,
            group.changed.join(", "),
            group.example.request
        );
        for Change { what, old, new } in &group.example.changes {
            let _infallible = writeln!(text, "    {what:<16} {old} → {new}");
        }
    }
    text
}

/// Reads recorded requests: one JSON object a line, or heads as they are sent, with an empty line behind each.
fn parse(text: &str) -> anyhow::Result<Vec<Request>> {
    if text.trim_start().starts_with('{') {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        return lines
            .map(|(at, line)| of_json(line).with_context(|| format!("line {}", at + 1)))
            .collect();
    }
    let mut requests = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        let head: Vec<&str> = std::iter::from_fn(|| lines.next_if(|(_, line)| !line.trim().is_empty()))
            .map(|(_, line)| line)
            .collect();
        requests.push(of_head(line, &head).with_context(|| format!("the request at line {}", at + 1))?);
    }
    Ok(requests)
}

fn of_head(line: &str, lines: &[&str]) -> anyhow::Result<Request> {
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        anyhow::bail!("{line:?} is no request line: write GET /path HTTP/1.1");
    };
    let mut fields = HeaderMap::new();
    for line in lines {
        let (name, value) = field(line)?;
        fields.append(name, value);
    }
    Request::new(method, target, fields)
}

fn of_json(line: &str) -> anyhow::Result<Request> {
    let recorded: serde_json::Map<String, Value> = serde_json::from_str(line)?;
    let text = |name: &str| recorded.get(name).and_then(Value::as_str);
    let url = text("url").context("there is no \"url\"")?;
    let mut fields = HeaderMap::new();
    let headers = recorded.get("headers").and_then(Value::as_object);
    for (name, value) in headers.into_iter().flatten() {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let value = value.as_str().with_context(|| format!("the header {name:?} is no text"))?;
            let (name, value) = named(name, value)?;
            fields.append(name, value);
        }
    }
    Request::new(text("method").unwrap_or("GET"), url, fields)
}
