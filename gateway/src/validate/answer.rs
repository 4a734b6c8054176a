//! What a route's answers should be. What they are not is told to those who run the gateway, and changes nothing for the client.

use http::HeaderMap;
use jsonschema::Validator;
use routing::{Fields, json};

use super::openapi::Answered;
use super::{BodyRefusal, Description, Violation, is_coded, violations};
use crate::exchange::BodyRead;

/// What answers are held against.
#[derive(Debug)]
pub(crate) struct AnswerRules {
    /// What the JSON of an answer that says yes (2xx) should follow.
    pub(crate) schema: Option<Validator>,
    /// Whether the API's description of the route says what answers there are.
    pub(crate) described: bool,
    /// The longest body that is judged, in bytes.
    pub(crate) max_body: u64,
}

impl AnswerRules {
    /// What is wrong with an answer, in words: nothing where it cannot be read, being too long, broken off or in a coding. `described` is the operation that was asked for, where a description knows it.
    pub(crate) fn judge(
        &self,
        described: Option<(&Description, u32)>,
        status: u16,
        fields: &HeaderMap,
        body: &BodyRead,
    ) -> Vec<String> {
        let body = match body {
            BodyRead::Whole(body) => body,
            BodyRead::TooLarge | BodyRead::Broken => return Vec::new(),
        };
        if is_coded(fields) {
            return Vec::new();
        }
        let by_schema = self.schema.as_ref().filter(|_| has_content(status));
        let mut wrong = by_schema
            .map(|schema| by_schema_alone(schema, fields, body))
            .unwrap_or_default();
        if let Some((description, operation)) = described.filter(|_| self.described) {
            let answered = Answered { status, fields, body };
            wrong.extend(description.judge_answer(operation, &answered));
        }
        wrong
    }
}

/// Whether an answer says yes, and something more (RFC 9110 §15.3.5, §15.3.6).
fn has_content(status: u16) -> bool {
    (200..300).contains(&status) && !matches!(status, 204 | 205)
}

fn by_schema_alone(schema: &Validator, fields: &HeaderMap, body: &[u8]) -> Vec<String> {
    let kind = (fields as &dyn Fields).text("content-type").unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" && !essence.ends_with("+json") {
        return vec![format!("the content-type is not JSON: `{essence}`")];
    }
    match json::parse(body) {
        Ok(value) => violations(schema, &value, None, "").iter().map(told).collect(),
        Err(error) => vec![format!("the body is not JSON: {error}")],
    }
}

/// A place and what is wrong there.
pub(super) fn told(Violation { pointer, detail, .. }: &Violation) -> String {
    format!("`{pointer}`: {detail}")
}

/// Why a body is not as it should be.
pub(super) fn refusal(refusal: &BodyRefusal) -> Vec<String> {
    match refusal {
        BodyRefusal::NotJson(error) => vec![format!("the body is not JSON: {error}")],
        BodyRefusal::Malformed(what) => vec![format!("the body is malformed: {what}")],
        BodyRefusal::Schema(violations) => violations.iter().map(told).collect(),
    }
}
