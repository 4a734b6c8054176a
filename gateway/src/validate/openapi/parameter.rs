//! Parameters of an operation.

use jsonschema::Validator;
use routing::Fields;
use routing::json;
use serde_json::Value;

use super::super::{Violation, violations};
use super::shape::Shape;
use super::style::{Style, as_it_is, of_path, of_query};

/// A parameter.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) place: Place,
    /// Its name; a header field's in lower case.
    pub(super) name: String,
    pub(super) required: bool,
    pub(super) form: Form,
    pub(super) schema: Validator,
}

/// Where a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    Query,
    Header,
    Cookie,
}

/// How a parameter is written.
#[derive(Debug)]
pub(super) enum Form {
    /// In a style, its texts read as the shape has it.
    Styled(Style, Shape),
    /// As JSON.
    Json,
}

impl Place {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
            Self::Cookie => "cookie",
        }
    }
}

impl Parameter {
    /// Judges the parameter of a request.
    pub(super) fn judge(&self, path: &[(&str, &str)], query: Option<&str>, fields: &dyn Fields, wrong: &mut Vec<Violation>) {
        match self.value(path, query, fields) {
            None if self.required => wrong.push(self.violation("it is required")),
            None => {}
            Some(None) => wrong.push(self.violation("it is not written as the description has it, or comes twice")),
            Some(Some(value)) => {
                let prefix = format!("/{}", self.name.replace('~', "~0").replace('/', "~1"));
                wrong.extend(violations(&self.schema, &value, Some(self.place.name()), &prefix));
            }
        }
    }

    /// The outer None is that it is not there, the inner that it cannot be read.
    fn value(&self, path: &[(&str, &str)], query: Option<&str>, fields: &dyn Fields) -> Option<Option<Value>> {
        match (self.place, &self.form) {
            (Place::Query, Form::Styled(style, shape)) => style.of_query(&self.name, query, shape),
            (Place::Query, Form::Json) => {
                let text = Style::Form { explode: false }.of_query(&self.name, query, &Shape::default())?;
                Some(
                    text.as_ref()
                        .and_then(Value::as_str)
                        .and_then(|text| json::parse(text.as_bytes()).ok()),
                )
            }
            (Place::Path, form) => {
                let (_, text) = path.iter().find(|(name, _)| **name == *self.name)?;
                Some(form.read(&self.name, text, of_path))
            }
            (Place::Header, form) => {
                let text = fields.nth(&self.name, 0)?;
                if fields.nth(&self.name, 1).is_some() && !form.is_list() {
                    return Some(None);
                }
                // Several fields of one name are one list (RFC 9110 §5.3).
                let all = fields.all(&self.name).collect::<Vec<_>>().join(&b", "[..]);
                let text = if form.is_list() { all.as_slice() } else { text };
                Some(
                    std::str::from_utf8(text)
                        .ok()
                        .and_then(|text| form.read(&self.name, text.trim(), trimmed)),
                )
            }
            (Place::Cookie, form) => {
                let text = cookie(fields, &self.name)?;
                Some(form.read(&self.name, &text, of_query))
            }
        }
    }

    fn violation(&self, detail: &str) -> Violation {
        Violation {
            place: Some(self.place.name()),
            pointer: format!("/{}", self.name.replace('~', "~0").replace('/', "~1")),
            detail: detail.to_owned(),
        }
    }
}

impl Form {
    fn read(&self, name: &str, text: &str, decode: fn(&str) -> Option<String>) -> Option<Value> {
        match self {
            Self::Styled(style, shape) => style.one(name, text, shape, decode),
            Self::Json => json::parse(decode(text)?.as_bytes()).ok(),
        }
    }

    fn is_list(&self) -> bool {
        matches!(self, Self::Styled(_, shape) if shape.is_list())
    }
}

fn trimmed(text: &str) -> Option<String> {
    as_it_is(text.trim())
}

/// The value of the first cookie of that name (RFC 6265 §4.2).
fn cookie(fields: &dyn Fields, name: &str) -> Option<String> {
    let all = fields.all("cookie").filter_map(|value| std::str::from_utf8(value).ok());
    let mut pairs = all
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(own, _)| *own == name)
        .map(|(_, value)| value.trim_matches('"').to_owned())
}
