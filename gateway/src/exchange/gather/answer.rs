//! What becomes of a branch's answer.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use routing::Reason;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::super::Failure;
use super::super::problem::{Problem, detail_of, reason_of};
use crate::aggregate::{Branch, Meaning};

/// Why a branch is not there.
pub(super) enum Miss {
    /// It answered 404.
    NotFound,
    /// It answered with another status.
    Status,
    /// It answered with a status that the config has a meaning for.
    Means(Meaning),
    /// It answered with something that is no JSON.
    NotJson,
    /// It answered with more than is read, or with more than all branches together may.
    TooLarge,
    /// The list that it goes through is longer than it may be.
    TooMany,
    /// What it refers to is not there.
    Reference,
    /// It could not be asked.
    Failed(Failure),
}

pub(super) fn head_verdict(branch: &Branch, status: u16, fields: &HeaderMap) -> Result<(), Miss> {
    if let Some(meaning) = branch.meaning(status) {
        return Err(Miss::Means(meaning));
    }
    let is_plain = fields
        .get_all(CONTENT_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    match status {
        200..=299 if is_plain => Ok(()),
        200..=299 => Err(Miss::NotJson),
        404 => Err(Miss::NotFound),
        _ => Err(Miss::Status),
    }
}

/// A branch's body as a member of the answer, and in parsed form where another branch refers to it. It is passed on as the bytes that it
/// is, so that no number loses a digit. No body is `null`.
pub(super) fn parsed(body: Bytes, branch: &Branch) -> Result<(Bytes, Option<Value>), Miss> {
    let body = match body.trim_ascii().is_empty() {
        true => Bytes::from_static(b"null"),
        false => body,
    };
    let text = std::str::from_utf8(&body).map_err(|_| Miss::NotJson)?;
    let value = match branch.is_needed {
        true => Some(serde_json::from_str(text).map_err(|_| Miss::NotJson)?),
        false => serde_json::from_str::<IgnoredAny>(text)
            .map(|_| None)
            .map_err(|_| Miss::NotJson)?,
    };
    match &branch.pick {
        None => Ok((body, value)),
        Some(pick) => pick.of(text).map(|picked| (picked.into(), value)).ok_or(Miss::NotJson),
    }
}

/// What follows from a branch that is not there: the answer is given without it, or it is this problem.
pub(super) fn missed(branch: &Branch, miss: &Miss) -> Result<(), Problem> {
    if !branch.required || matches!(miss, Miss::Means(Meaning::Missing)) {
        return Ok(());
    }
    let name = &branch.name;
    Err(match miss {
        Miss::NotFound => Problem::of_upstream(404, format!("what the branch `{name}` asks for does not exist")),
        Miss::Means(Meaning::Status(status)) => Problem::of_upstream(
            *status,
            format!("branch `{name}`: its upstream does not give what was asked for"),
        ),
        Miss::Failed(failure @ Failure::Timeout) => {
            Problem::new(reason_of(*failure), format!("branch `{name}`: {}", detail_of(*failure)))
        }
        Miss::TooLarge => Problem::new(
            Reason::ResponseTooLarge,
            format!("branch `{name}`: its answer is larger than may be read"),
        ),
        Miss::TooMany => Problem::new(
            Reason::ResponseTooLarge,
            format!("branch `{name}`: the list that it goes through is longer than it may be"),
        ),
        Miss::Status | Miss::Means(Meaning::Missing) => failed(name, "its upstream answered with an error"),
        Miss::NotJson => failed(name, "its upstream answered with something that is no plain JSON"),
        Miss::Reference => failed(name, "what it refers to is not there"),
        Miss::Failed(failure) => failed(name, detail_of(*failure)),
    })
}

fn failed(branch: &str, detail: &str) -> Problem {
    Problem::new(Reason::AggregateBranchFailed, format!("branch `{branch}`: {detail}"))
}
