//! An explanation for people.

use std::fmt::{Display, Formatter, Result};

use super::{AuthResult, Candidate, ExplainedAttempt, Explanation, Outcome};

/// How many rules that do not match are shown.
const NEAR_MISSES: usize = 5;

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let host = if self.host.is_empty() { "(no host)" } else { &self.host };
        let path = self.path.as_deref().unwrap_or("(a path that is malformed)");
        writeln!(f, "request   {} {host}{path}", self.method)?;
        self.show_candidates(f)?;
        self.auth.iter().try_for_each(|auth| show_auth(auth, f))?;
        for policy in &self.policies {
            writeln!(f, "policy    {policy}")?;
        }
        if self.body_read {
            writeln!(f, "body      read and judged")?;
        }
        match &self.outcome {
            Outcome::Send {
                action,
                attempts,
                waiting,
                ..
            } => {
                writeln!(f, "action    {action}")?;
                attempts.iter().try_for_each(|attempt| show_attempt(attempt, f))?;
                waiting.iter().try_for_each(|branch| writeln!(f, "then      {branch}"))
            }
            Outcome::Respond {
                status,
                reason,
                fields,
                body,
                ..
            } => {
                writeln!(
                    f,
                    "answer    {status}{}",
                    reason.as_ref().map(|reason| format!(", reason {reason}")).unwrap_or_default()
                )?;
                for (name, value) in fields {
                    writeln!(f, "          {name}: {value}")?;
                }
                if body.is_empty() {
                    Ok(())
                } else {
                    writeln!(f, "          {body}")
                }
            }
        }
    }
}

impl Explanation {
    fn show_candidates(&self, f: &mut Formatter<'_>) -> Result {
        let shown = |candidate: &&Candidate| candidate.mismatches.is_empty();
        let matching = self.candidates.iter().filter(shown);
        let missing = self.candidates.iter().filter(|candidate| !shown(candidate)).take(NEAR_MISSES);
        for candidate in matching.chain(missing) {
            let verdict = match (candidate.chosen, candidate.mismatches.as_slice()) {
                (true, _) => "takes it".to_owned(),
                (false, []) => "matches as well, but is less specific".to_owned(),
                (false, mismatches) => mismatches.join(", "),
            };
            writeln!(f, "route     {} ({}): {verdict}", candidate.route, candidate.path)?;
        }
        let hidden = self
            .candidates
            .iter()
            .filter(|candidate| !shown(candidate))
            .count()
            .saturating_sub(NEAR_MISSES);
        if hidden > 0 {
            writeln!(f, "          and {hidden} more that do not match")
        } else {
            Ok(())
        }
    }
}

fn show_auth(auth: &AuthResult, f: &mut Formatter<'_>) -> Result {
    if let Some(api_key) = &auth.api_key {
        return writeln!(f, "api key   auth `{}`: {api_key}", auth.auth);
    }
    if let Some((place, succeeded)) = &auth.fetched {
        let came = if *succeeded {
            "fetched from"
        } else {
            "cannot be fetched from"
        };
        writeln!(f, "keys      auth `{}`: {came} {place}", auth.auth)?;
    }
    let verdict = match auth.signature {
        Some(true) => "its signature is right",
        Some(false) => "its signature is wrong",
        None => "it did not come to its signature",
    };
    write!(f, "token     auth `{}`: {verdict}", auth.auth)?;
    if let Some(algorithm) = &auth.algorithm {
        let key = auth.key.as_ref().map(|key| format!(", key {key}")).unwrap_or_default();
        write!(f, " ({algorithm}{key})")?;
    }
    writeln!(f)
}

fn show_attempt(attempt: &ExplainedAttempt, f: &mut Formatter<'_>) -> Result {
    writeln!(
        f,
        "{}   {} {} to upstream `{}`, at most {} ms",
        if attempt.is_copy { "mirror " } else { "attempt" },
        attempt.method,
        attempt.target,
        attempt.upstream,
        attempt.timeout_ms
    )?;
    if let Some(host) = &attempt.host {
        writeln!(f, "          host {host}")?;
    }
    if !attempt.inherits {
        writeln!(f, "          with none of the client's header fields")?;
    }
    for edit in &attempt.request_edits {
        writeln!(f, "          request: {edit}")?;
    }
    for edit in &attempt.response_edits {
        writeln!(f, "          response: {edit}")?;
    }
    if !attempt.judged.is_empty() {
        let statuses: Vec<_> = attempt.judged.iter().map(u16::to_string).collect();
        writeln!(f, "          another attempt may follow after {}", statuses.join(", "))?;
    }
    Ok(())
}
