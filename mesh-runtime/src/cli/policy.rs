//! The commands about what is decided centrally: `apply`, `policy show`, `policy check`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use identity::ServiceName;
use mesh_api::v1::{ApplyRequest, CheckPolicyRequest, ShowPoliciesRequest};
use serde_json::{Map, Value, json};

use super::operate::{answer, operator};
use super::output::{json, line};

pub(super) async fn apply(control: &str, file: &Path, dry_run: bool) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let request = ApplyRequest {
        name: file.display().to_string(),
        text,
        dry_run,
    };
    let applied = answer(control, operator(control)?.apply(request)).await?;
    if !applied.mistakes.is_empty() {
        eprintln!("{}", applied.mistakes);
        return Ok(ExitCode::FAILURE);
    }
    if dry_run {
        line(format_args!("{} could be applied", file.display()))?;
    } else {
        line(format_args!("applied as revision {}", applied.revision))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn show(control: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let document = answer(control, operator(control)?.show_policies(ShowPoliciesRequest {})).await?;
    if as_json {
        json(&json!({ "revision": document.revision, "name": document.name, "text": document.text }))?;
    } else if document.revision == 0 {
        line(format_args!("# nothing was applied: every member may call every other"))?;
    } else {
        line(format_args!(
            "# revision {}, from {}\n{}",
            document.revision,
            document.name,
            document.text.trim_end()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A request to ask about.
pub(super) struct Question {
    pub(super) from: String,
    pub(super) to: ServiceName,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) port: u16,
    /// JSON; empty where there is no end user.
    pub(super) claims: String,
}

/// A claim of an end user.
pub(super) type Claim = (String, Value);

/// Reads `NAME=VALUE`, where what is no JSON is text.
pub(super) fn claim(text: &str) -> Result<Claim, String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| "write NAME=VALUE, as in tier=gold".to_owned())?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

/// What is known about the end user; nothing where nothing is.
pub(super) fn claims(claims: Vec<Claim>, scopes: &[String]) -> String {
    let mut claims: Map<String, Value> = claims.into_iter().collect();
    if !scopes.is_empty() {
        claims.insert("scope".to_owned(), scopes.join(" ").into());
    }
    if claims.is_empty() {
        return String::new();
    }
    Value::Object(claims).to_string()
}

/// Success is that the request would be served, whatever it is that lets it pass.
pub(super) async fn check(control: &str, question: Question, as_json: bool) -> anyhow::Result<ExitCode> {
    let request = CheckPolicyRequest {
        from: question.from,
        to: question.to.to_string(),
        method: question.method,
        path: question.path,
        port: question.port.into(),
        claims: question.claims,
    };
    let verdict = answer(control, operator(control)?.check_policy(request)).await?;
    let action = if verdict.allowed { "allow" } else { "deny" };
    let served = verdict.allowed || verdict.audit;
    if as_json {
        let rule = Some(&verdict.rule).filter(|rule| !rule.is_empty());
        let mode = if verdict.audit { "audit" } else { "enforce" };
        json(&json!({ "verdict": action, "rule": rule, "mode": mode, "served": served, "path": verdict.path }))?;
    } else {
        let by = match verdict.rule.as_str() {
            "" => format!("by the default of {}", question.to),
            rule => format!("by the rule `{rule}`"),
        };
        let only = if verdict.audit && !verdict.allowed {
            " (mode audit: it is served and reported)"
        } else {
            ""
        };
        line(format_args!("{action} {by}{only}"))?;
    }
    Ok(if served { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
