//! What a request's body has to be: its media type, its size, its JSON and the JSON's schema (2020-12).

mod answer;
mod load;
mod openapi;

pub(crate) use answer::AnswerRules;
pub(crate) use load::load_schema;
pub(crate) use openapi::{Chosen, Description, Head, HeadRefusal, load_description};

use std::sync::Arc;

use jsonschema::Validator;
use routing::Fields;
use routing::json;
use serde::Serialize;
use serde_json::Value;

/// The most violations that one answer lists.
pub(crate) const MAX_VIOLATIONS: usize = 20;

/// The longest message of a violation, in bytes. It may quote names that the client chose.
const MAX_MESSAGE: usize = 300;

/// What a route's `validate` asks of a request's body.
#[derive(Debug)]
pub(crate) struct BodyRules {
    /// The schema that the body has to follow.
    pub(crate) schema: Option<Validator>,
    /// The description that the whole request has to follow, beside its size.
    pub(crate) description: Option<Arc<Description>>,
    /// Media types without parameters, in lower case. Any where there are none.
    pub(crate) content_types: Vec<String>,
    /// The longest body that is accepted, in bytes.
    pub(crate) max_body: u64,
}

/// Why a body is refused.
#[derive(Debug, PartialEq)]
pub(crate) enum BodyRefusal {
    /// It is no JSON; with the parser's words.
    NotJson(String),
    /// It is not in its format; with what is wrong.
    Malformed(&'static str),
    /// It breaks its schema.
    Schema(Vec<Violation>),
}

/// A place where a body, or a parameter, breaks its schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Violation {
    /// What kind of parameter it is; none where it is the body.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<&'static str>,
    /// Where: a JSON pointer (RFC 6901) into the body; into the parameters of that kind, whose first step is the name.
    pub(crate) pointer: String,
    /// What was expected.
    pub(crate) detail: String,
}

impl BodyRules {
    /// Whether the body's media type is one of those accepted.
    pub(crate) fn accepts_type(&self, fields: &dyn Fields) -> bool {
        if self.content_types.is_empty() {
            return true;
        }
        // Two types are none: the program behind may believe the other one.
        if fields.nth("content-type", 1).is_some() {
            return false;
        }
        let Some(value) = fields.text("content-type") else {
            return false;
        };
        let essence = value.split(';').next().unwrap_or_default().trim_ascii();
        self.content_types
            .iter()
            .any(|accepted| accepted.eq_ignore_ascii_case(essence))
    }

    /// Judges a body as a whole.
    pub(crate) fn judge(&self, body: &[u8]) -> Result<(), BodyRefusal> {
        let Some(schema) = &self.schema else {
            return Ok(());
        };
        let value = json::parse(body).map_err(|error| BodyRefusal::NotJson(error.to_string()))?;
        let violations = violations(schema, &value, None, "");
        if violations.is_empty() {
            Ok(())
        } else {
            Err(BodyRefusal::Schema(violations))
        }
    }

    /// Whether the body has to be read before the request goes on.
    pub(crate) fn reads(&self, chosen: Option<Chosen>) -> bool {
        self.description.is_none() || chosen.is_some_and(Chosen::wants_body)
    }
}

/// Whether a body is in a coding, so that reading it otherwise than its recipient is no check (RFC 9110 §8.4).
pub(crate) fn is_coded(fields: &dyn Fields) -> bool {
    fields
        .first("content-encoding")
        .is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"))
}

/// How long a body is by its own word.
pub(crate) fn said_length(fields: &dyn Fields) -> Option<u64> {
    fields.text("content-length")?.parse().ok()
}

/// What is wrong with a value.
fn violations(schema: &Validator, value: &Value, place: Option<&'static str>, prefix: &str) -> Vec<Violation> {
    let told = |error: jsonschema::ValidationError<'_>| Violation {
        place,
        pointer: format!("{prefix}{}", error.instance_path()),
        // Without the value: the client knows what it sent, and logs need not.
        detail: shortened(error.masked().to_string()),
    };
    schema.iter_errors(value).take(MAX_VIOLATIONS).map(told).collect()
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
