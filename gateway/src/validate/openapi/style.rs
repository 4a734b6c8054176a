//! How a parameter's value is written (OpenAPI 3.1 §4.8.12.3): lists and objects in one text, or in several parameters.

use routing::matching::{decode_query, query_pairs};
use serde_json::{Map, Value};

use super::shape::Shape;

/// A style and whether it is exploded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `a,b` and `k,v` or, exploded, `k=v`.
    Simple { explode: bool },
    /// `.a.b`
    Label { explode: bool },
    /// `;name=a,b`
    Matrix { explode: bool },
    /// `name=a,b` or, exploded, `name=a&name=b` and `k=v&l=w`.
    Form { explode: bool },
    /// `name=a%20b`
    SpaceDelimited,
    /// `name=a|b`
    PipeDelimited,
    /// `name[k]=v&name[l]=w`
    DeepObject,
}

/// How escapes in a part are undone.
pub(super) type Decode = fn(&str) -> Option<String>;

/// `%XX` alone, as in a path.
pub(super) fn of_path(text: &str) -> Option<String> {
    // A plus is itself there, and not a space.
    of_query(&text.replace('+', "%2B"))
}

/// `%XX`, and `+` as a space.
pub(super) fn of_query(text: &str) -> Option<String> {
    String::from_utf8(decode_query(text).into_owned()).ok()
}

/// No escapes at all.
pub(super) fn as_it_is(text: &str) -> Option<String> {
    Some(text.to_owned())
}

impl Style {
    /// The value in one text. None where it is not written in this style.
    pub(super) fn one(self, name: &str, text: &str, shape: &Shape, decode: Decode) -> Option<Value> {
        match self {
            Self::Simple { explode } | Self::Form { explode } => split(text, ',', explode.then_some('='), shape, decode),
            Self::Label { explode } => {
                let separator = if explode { '.' } else { ',' };
                split(text.strip_prefix('.')?, separator, explode.then_some('='), shape, decode)
            }
            Self::Matrix { explode } => matrix(name, text.strip_prefix(';')?, explode, shape, decode),
            Self::SpaceDelimited => split(&text.replace("%20", " ").replace('+', " "), ' ', None, shape, decode),
            Self::PipeDelimited => split(&text.replace("%7C", "|").replace("%7c", "|"), '|', None, shape, decode),
            Self::DeepObject => None,
        }
    }

    /// The value among the parameters of a query. The outer None is that it is not there, the inner that it cannot be read.
    pub(super) fn of_query(self, name: &str, query: Option<&str>, shape: &Shape) -> Option<Option<Value>> {
        let named = |pair: &(&str, &str)| *decode_query(pair.0) == *name.as_bytes();
        match self {
            Self::DeepObject => members(
                query,
                |key| Some(key.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?.to_owned()),
                shape,
            ),
            Self::Form { explode: true } if shape.is_object() => {
                let own: Vec<&str> = shape.names().collect();
                members(query, |key| own.contains(&key).then(|| key.to_owned()), shape)
            }
            Self::Form { explode: true } if shape.is_list() => {
                let values: Vec<&str> = query_pairs(query).filter(named).map(|(_, value)| value).collect();
                let value = |value: &&str| Some(shape.item().scalar(&of_query(value)?));
                (!values.is_empty()).then(|| values.iter().map(value).collect::<Option<_>>().map(Value::Array))
            }
            _ => {
                let mut values = query_pairs(query).filter(named).map(|(_, value)| value);
                let first = values.next()?;
                // Which of two a program behind would believe, nobody knows.
                Some(if values.next().is_some() {
                    None
                } else {
                    self.one(name, first, shape, of_query)
                })
            }
        }
    }
}

fn split(text: &str, separator: char, pairs: Option<char>, shape: &Shape, decode: Decode) -> Option<Value> {
    if shape.is_list() {
        let item = |text: &str| Some(shape.item().scalar(&decode(text)?));
        return match text {
            "" => Some(Value::Array(Vec::new())),
            _ => text.split(separator).map(item).collect::<Option<_>>().map(Value::Array),
        };
    }
    if !shape.is_object() {
        return Some(shape.scalar(&decode(text)?));
    }
    let mut object = Map::new();
    let mut parts = text.split(separator);
    while let Some(part) = parts.next() {
        let (key, value) = match pairs {
            Some(between) => part.split_once(between)?,
            None => (part, parts.next()?),
        };
        insert(&mut object, decode(key)?, &decode(value)?, shape)?;
    }
    Some(Value::Object(object))
}

fn matrix(name: &str, text: &str, explode: bool, shape: &Shape, decode: Decode) -> Option<Value> {
    let own = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (key == name).then(|| value.to_owned())
    };
    if explode && shape.is_list() {
        let values = text.split(';').map(|part| Some(shape.item().scalar(&decode(&own(part)?)?)));
        return values.collect::<Option<_>>().map(Value::Array);
    }
    if explode && shape.is_object() {
        return split(text, ';', Some('='), shape, decode);
    }
    split(&own(text)?, ',', None, shape, decode)
}

/// An object of the parameters whose names are its members'.
fn members(query: Option<&str>, member: impl Fn(&str) -> Option<String>, shape: &Shape) -> Option<Option<Value>> {
    let mut object = Map::new();
    for (key, value) in query_pairs(query) {
        let Some(name) = of_query(key).and_then(|key| member(&key)) else {
            continue;
        };
        let Some(value) = of_query(value) else { return Some(None) };
        if insert(&mut object, name, &value, shape).is_none() {
            return Some(None);
        }
    }
    (!object.is_empty()).then_some(Some(Value::Object(object)))
}

/// None where the member is there already.
fn insert(object: &mut Map<String, Value>, name: String, value: &str, shape: &Shape) -> Option<()> {
    let value = shape.member(&name).scalar(value);
    object.insert(name, value).is_none().then_some(())
}
