//! Requests as an OpenAPI 3.1 description has them: the operation by path and method, its parameters, its body by media type. The
//! description is compiled with the config; its schemas are JSON Schema 2020-12, as OpenAPI 3.1 has them.

mod load;
mod parameter;
mod shape;
mod style;

#[cfg(test)]
mod tests;

pub(crate) use load::load_description;

use http::Method;
use jsonschema::Validator;
use routing::Fields;
use routing::json;
use routing::matching::{decode_query, query_pairs};
use serde_json::{Map, Value};

use super::answer::refusal;
use super::{BodyRefusal, MAX_VIOLATIONS, Violation, is_coded, violations};
use parameter::Parameter;
use shape::Shape;

/// A compiled description.
#[derive(Debug)]
pub(crate) struct Description {
    /// What paths begin with, without a slash at its end: any of these.
    bases: Vec<String>,
    /// The more literal a path, the earlier.
    paths: Vec<PathItem>,
    operations: Vec<Operation>,
}

#[derive(Debug)]
struct PathItem {
    segments: Vec<Segment>,
    /// Places among the operations.
    methods: Vec<(Method, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    /// A parameter, and the text around it.
    Parameter {
        prefix: String,
        name: String,
        suffix: String,
    },
}

#[derive(Debug)]
struct Operation {
    parameters: Vec<Parameter>,
    body: Option<Body>,
    /// By status, as the description has them: a code, a class such as `2XX`, or `default`. None where nobody asked for them.
    answers: Vec<(String, Body)>,
}

#[derive(Debug)]
struct Body {
    required: bool,
    /// Media types in lower case, which may be ranges, the more exact ones first.
    content: Vec<(String, Content)>,
}

/// How a body is judged.
#[derive(Debug)]
enum Content {
    /// As JSON.
    Json(Validator),
    /// As a form, whose fields are typed by the schema.
    Form(Validator, Shape),
    /// As one text.
    Text(Validator),
    /// Not at all: any will do.
    Any,
}

/// The operation that a request is for, and how its body is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chosen {
    operation: usize,
    /// None where there is no body, or none that is judged.
    content: Option<usize>,
}

/// Why a request is refused for what its head says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeadRefusal {
    /// The description has no such path.
    Path,
    /// It has the path, for these methods.
    Method(Vec<Method>),
    /// These parameters are not as it has them.
    Parameters(Vec<Violation>),
    /// The operation takes no body of this media type.
    MediaType,
    /// The operation needs a body.
    NoBody,
}

/// What is judged of an answer.
pub(crate) struct Answered<'a> {
    pub(crate) status: u16,
    pub(crate) fields: &'a dyn Fields,
    pub(crate) body: &'a [u8],
}

/// What is judged of a head.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a Method,
    /// The path in its one spelling.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) fields: &'a dyn Fields,
    pub(crate) has_body: bool,
}

impl Description {
    /// Finds the operation and judges its parameters, and the body as far as the head tells of it.
    pub(crate) fn judge_head(&self, head: &Head<'_>) -> Result<Chosen, HeadRefusal> {
        let (item, values) = self.find(head.path).ok_or(HeadRefusal::Path)?;
        let of = |method: &Method| item.methods.iter().find(|(own, _)| own == method).map(|(_, at)| *at);
        // What answers GET answers HEAD (RFC 9110 §9.3.2).
        let head_is_get = || (*head.method == Method::HEAD).then(|| of(&Method::GET)).flatten();
        let Some(at) = of(head.method).or_else(head_is_get) else {
            return Err(HeadRefusal::Method(
                item.methods.iter().map(|(method, _)| method.clone()).collect(),
            ));
        };
        let operation = &self.operations[at];
        let mut wrong = Vec::new();
        for parameter in &operation.parameters {
            parameter.judge(&values, head.query, head.fields, &mut wrong);
            if wrong.len() >= MAX_VIOLATIONS {
                wrong.truncate(MAX_VIOLATIONS);
                break;
            }
        }
        if !wrong.is_empty() {
            return Err(HeadRefusal::Parameters(wrong));
        }
        let content = match &operation.body {
            None => None,
            Some(body) if !head.has_body && body.required => return Err(HeadRefusal::NoBody),
            Some(_) if !head.has_body => None,
            Some(body) => Some(body.content(head.fields).ok_or(HeadRefusal::MediaType)?),
        };
        let is_judged = |at: &usize| {
            let content = operation.body.as_ref().and_then(|body| body.content.get(*at));
            !matches!(content, None | Some((_, Content::Any)))
        };
        Ok(Chosen {
            operation: at,
            content: content.filter(is_judged),
        })
    }

    /// Judges a body.
    pub(crate) fn judge_body(&self, chosen: Chosen, body: &[u8]) -> Result<(), BodyRefusal> {
        let operation = self.operations.get(chosen.operation);
        let content = operation
            .and_then(|operation| operation.body.as_ref())
            .zip(chosen.content)
            .and_then(|(body, at)| body.content.get(at));
        content.map_or(Ok(()), |(_, content)| content.judge(body))
    }

    /// What is wrong with an answer of an operation.
    pub(crate) fn judge_answer(&self, operation: u32, answered: &Answered<'_>) -> Vec<String> {
        let operation = usize::try_from(operation).ok().and_then(|at| self.operations.get(at));
        let answers = operation.map(|operation| operation.answers.as_slice()).unwrap_or_default();
        let code = answered.status.to_string();
        let class = format!("{}XX", answered.status / 100);
        let mut of = [code.as_str(), class.as_str(), "default"].into_iter();
        let described = of.find_map(|name| answers.iter().find(|(own, _)| own == name));
        let Some((_, described)) = described else {
            return vec![format!("the description has no answer with the status {code}")];
        };
        if described.content.is_empty() {
            return Vec::new();
        }
        let Some((_, content)) = described.content(answered.fields).and_then(|at| described.content.get(at)) else {
            return vec![format!(
                "the description has no answer with the status {code} and this content-type"
            )];
        };
        content.judge(answered.body).err().as_ref().map(refusal).unwrap_or_default()
    }

    fn find<'d, 'p>(&'d self, path: &'p str) -> Option<(&'d PathItem, Vec<(&'d str, &'p str)>)> {
        for base in &self.bases {
            let Some(rest) = path.strip_prefix(base.as_str()) else {
                continue;
            };
            let segments: Vec<&str> = rest.strip_prefix('/').unwrap_or("\n").split('/').collect();
            let found = self.paths.iter().find_map(|item| Some((item, item.captures(&segments)?)));
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

impl Content {
    fn judge(&self, body: &[u8]) -> Result<(), BodyRefusal> {
        match self {
            Self::Any => Ok(()),
            Self::Json(schema) => {
                let value = json::parse(body).map_err(|error| BodyRefusal::NotJson(error.to_string()))?;
                judged(schema, &value)
            }
            Self::Text(schema) => {
                let text = std::str::from_utf8(body).map_err(|_| BodyRefusal::Malformed("it is not UTF-8"))?;
                judged(schema, &Value::String(text.to_owned()))
            }
            Self::Form(schema, shape) => judged(schema, &form(body, shape)?),
        }
    }
}

impl Chosen {
    /// The operation's number in its description.
    pub(crate) fn operation(self) -> Option<u32> {
        u32::try_from(self.operation).ok()
    }

    /// Whether there is a body to be judged.
    pub(crate) fn wants_body(self) -> bool {
        self.content.is_some()
    }
}

impl PathItem {
    /// The values of the parameters, where the segments match.
    fn captures<'d, 'p>(&'d self, segments: &[&'p str]) -> Option<Vec<(&'d str, &'p str)>> {
        if segments.len() != self.segments.len() {
            return None;
        }
        let mut values = Vec::new();
        for (own, segment) in self.segments.iter().zip(segments) {
            match own {
                Segment::Literal(text) if text == segment => {}
                Segment::Literal(_) => return None,
                Segment::Parameter { prefix, name, suffix } => {
                    let value = segment.strip_prefix(prefix.as_str())?.strip_suffix(suffix.as_str())?;
                    values.push((name.as_str(), value));
                    if value.is_empty() {
                        return None;
                    }
                }
            }
        }
        Some(values)
    }
}

impl Body {
    /// The first of the media types that is the body's.
    fn content(&self, fields: &dyn Fields) -> Option<usize> {
        // Two types are none: the program behind may believe the other one.
        if fields.nth("content-type", 1).is_some() {
            return None;
        }
        let value = fields.text("content-type")?;
        let essence = value.split(';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let (kind, _) = essence.split_once('/')?;
        let at = self.content.iter().position(|(range, _)| match range.split_once('/') {
            Some(("*", "*")) => true,
            Some((own, "*")) => own == kind,
            _ => *range == essence,
        })?;
        // A body in a coding is none that this could read (RFC 9110 §8.4).
        (!is_coded(fields) || matches!(self.content[at].1, Content::Any)).then_some(at)
    }
}

fn judged(schema: &Validator, value: &Value) -> Result<(), BodyRefusal> {
    let violations = violations(schema, value, None, "");
    match violations.is_empty() {
        true => Ok(()),
        false => Err(BodyRefusal::Schema(violations)),
    }
}

/// A form as an object: a field that comes more than once, or that the schema has as a list, is one.
fn form(body: &[u8], shape: &Shape) -> Result<Value, BodyRefusal> {
    let text = std::str::from_utf8(body).map_err(|_| BodyRefusal::Malformed("it is not UTF-8"))?;
    let decode =
        |text: &str| String::from_utf8(decode_query(text).into_owned()).map_err(|_| BodyRefusal::Malformed("it is not UTF-8"));
    let mut members: Map<String, Value> = Map::new();
    for (name, value) in query_pairs(Some(text)) {
        let (name, value) = (decode(name)?, decode(value)?);
        let of = shape.member(&name);
        match members.get_mut(&name) {
            Some(Value::Array(list)) => list.push(of.item().scalar(&value)),
            Some(one) => *one = Value::Array(vec![one.take(), of.item().scalar(&value)]),
            None if of.is_list() => {
                members.insert(name, Value::Array(vec![of.item().scalar(&value)]));
            }
            None => {
                let value = of.scalar(&value);
                members.insert(name, value);
            }
        }
    }
    Ok(Value::Object(members))
}
