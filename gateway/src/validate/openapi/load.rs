//! Descriptions are compiled when the config is.

use http::Method;
use jsonschema::{Draft, PatternOptions, Registry, Validator};
use routing::json;
use routing::matching::normalise;
use serde_json::{Value, json};

use super::parameter::{Form, Parameter, Place};
use super::shape::Shape;
use super::style::Style;
use super::{Body, Content, Description, Operation, PathItem, Segment};

/// The address that stands for the description inside validators.
const ADDRESS: &str = "openapi:///description";

/// How many references may lead from one to the next.
const MAX_REFERENCES: usize = 16;

/// Compiles a description, which is YAML or JSON; what it says of answers only where they are `judged`.
///
/// # Errors
/// In words: what is wrong, and where.
pub(crate) fn load_description(text: &[u8], base: Option<&str>, judged: bool) -> Result<Description, String> {
    let document = parse(text)?;
    let version = document["openapi"].as_str().unwrap_or_default();
    if !version.starts_with("3.1.") {
        return Err(format!(
            "`openapi` is {}, expected 3.1: earlier versions have schemas of their own",
            if version.is_empty() { "missing" } else { version }
        ));
    }
    let registry = Registry::new()
        .add(ADDRESS, &document)
        .and_then(|registry| registry.prepare())
        .map_err(|error| plain(&error.to_string()))?;
    let mut loader = Loader {
        document: &document,
        registry: &registry,
        judged,
        operations: Vec::new(),
    };
    let paths = document["paths"].as_object().ok_or("`paths` is missing")?;
    let mut items = Vec::new();
    for (path, item) in paths {
        let at = format!("/paths/{}", escaped(path));
        let item = loader.path(path, item, &at).map_err(|error| plain(&error))?;
        items.push(item);
    }
    // Literal segments come before parameters (§4.8.8.2), and `Segment::Literal` is the lesser.
    items.sort_by(|a: &PathItem, b| {
        let kind = |item: &PathItem| {
            item.segments
                .iter()
                .map(|segment| matches!(segment, Segment::Parameter { .. }))
                .collect::<Vec<_>>()
        };
        kind(a).cmp(&kind(b))
    });
    Ok(Description {
        bases: bases(&document, base),
        paths: items,
        operations: loader.operations,
    })
}

fn parse(text: &[u8]) -> Result<Value, String> {
    if text.trim_ascii_start().first() == Some(&b'{') {
        return json::parse(text).map_err(|error| format!("this is not JSON: {error}"));
    }
    let text = std::str::from_utf8(text).map_err(|_| "this is not UTF-8")?;
    serde_saphyr::from_str(text).map_err(|error| format!("this is not YAML: {error}"))
}

/// Where the description's paths begin: what the config says, else the paths of its servers.
fn bases(document: &Value, base: Option<&str>) -> Vec<String> {
    if let Some(base) = base {
        return vec![base.trim_end_matches('/').to_owned()];
    }
    let servers = document["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut bases: Vec<String> = Vec::new();
    for url in servers.iter().filter_map(|server| server["url"].as_str()) {
        let path = match url.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
            None => url,
        };
        let path = path.trim_end_matches('/').to_owned();
        if !path.contains('{') && !bases.contains(&path) {
            bases.push(path);
        }
    }
    if bases.is_empty() {
        bases.push(String::new());
    }
    bases
}

struct Loader<'d> {
    document: &'d Value,
    registry: &'d Registry<'d>,
    /// Whether answers are judged.
    judged: bool,
    operations: Vec<Operation>,
}

/// A part of the document, and where it is.
type Placed<'d> = (&'d Value, String);

/// A parameter's place and name, by which there is one of it.
type Named<'d> = ((String, String), Placed<'d>);

impl<'d> Loader<'d> {
    fn path(&mut self, path: &str, item: &'d Value, at: &str) -> Result<PathItem, String> {
        let segments =
            segments(path).ok_or_else(|| format!("at {at}: `{path}` is not a path that is matched segment by segment"))?;
        let (item, at) = self.resolve(item, at)?;
        let shared = self.parameters(&item["parameters"], &format!("{at}/parameters"))?;
        let mut methods = Vec::new();
        for name in ["get", "put", "post", "delete", "options", "head", "patch", "trace"] {
            let Some(operation) = item.get(name) else { continue };
            let at = format!("{at}/{name}");
            let own = self.parameters(&operation["parameters"], &format!("{at}/parameters"))?;
            // An operation's parameter stands for the path's of the same name and place (§4.8.9.1).
            let shared = shared.iter().filter(|(key, _)| !own.iter().any(|(own, _)| own == key));
            let all: Vec<Placed<'d>> = own.iter().chain(shared).map(|(_, placed)| placed.clone()).collect();
            let parameters = all
                .iter()
                .map(|(value, at)| self.parameter(value, at))
                .collect::<Result<Vec<_>, _>>()?;
            let body = match operation.get("requestBody") {
                Some(body) => Some(self.body(body, &format!("{at}/requestBody"))?),
                None => None,
            };
            let answers = self.answers(&operation["responses"], &format!("{at}/responses"))?;
            methods.push((
                Method::from_bytes(name.to_ascii_uppercase().as_bytes()).map_err(|_| "no method")?,
                self.operations.len(),
            ));
            self.operations.push(Operation {
                parameters: parameters.into_iter().flatten().collect(),
                body,
                answers,
            });
        }
        Ok(PathItem { segments, methods })
    }

    /// Parameters by place and name.
    fn parameters(&self, list: &'d Value, at: &str) -> Result<Vec<Named<'d>>, String> {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let one = |(number, parameter): (usize, &'d Value)| {
            let (parameter, at) = self.resolve(parameter, &format!("{at}/{number}"))?;
            let text = |key: &str| {
                parameter[key]
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| format!("at {at}: `{key}` is missing"))
            };
            Ok(((text("in")?, text("name")?), (parameter, at.clone())))
        };
        list.iter().enumerate().map(one).collect()
    }

    /// None where it is one of those that are described elsewhere (§4.8.12.1).
    fn parameter(&self, parameter: &'d Value, at: &str) -> Result<Option<Parameter>, String> {
        let name = parameter["name"].as_str().unwrap_or_default();
        let place = match parameter["in"].as_str() {
            Some("path") => Place::Path,
            Some("query") => Place::Query,
            Some("header") => Place::Header,
            Some("cookie") => Place::Cookie,
            _ => return Err(format!("at {at}: `in` is path, query, header or cookie")),
        };
        if place == Place::Header && ["accept", "content-type", "authorization"].contains(&name.to_ascii_lowercase().as_str()) {
            return Ok(None);
        }
        let content = parameter["content"].as_object().and_then(|content| content.iter().next());
        let (form, schema) = match content {
            Some((kind, media)) if is_json(kind) => {
                (Form::Json, self.schema(media, &format!("{at}/content/{}", escaped(kind)))?)
            }
            Some((kind, _)) => return Err(format!("at {at}: `content` of a parameter is JSON here, and not {kind}")),
            None => {
                let shape = Shape::of(&parameter["schema"], self.document);
                (Form::Styled(style(parameter, place, at)?, shape), self.schema(parameter, at)?)
            }
        };
        Ok(Some(Parameter {
            place,
            name: if place == Place::Header {
                name.to_ascii_lowercase()
            } else {
                name.to_owned()
            },
            required: place == Place::Path || parameter["required"] == true,
            form,
            schema,
        }))
    }

    /// Answers by their statuses.
    fn answers(&self, answers: &'d Value, at: &str) -> Result<Vec<(String, Body)>, String> {
        let answers = answers.as_object().filter(|_| self.judged);
        let one = |(status, answer): (&String, &'d Value)| {
            let body = self.body(answer, &format!("{at}/{}", escaped(status)))?;
            Ok((status.to_ascii_uppercase().replace("DEFAULT", "default"), body))
        };
        answers.into_iter().flatten().map(one).collect()
    }

    fn body(&self, body: &'d Value, at: &str) -> Result<Body, String> {
        let (body, at) = self.resolve(body, at)?;
        let empty = serde_json::Map::new();
        let mut content = Vec::new();
        for (kind, media) in body["content"].as_object().unwrap_or(&empty) {
            let at = format!("{at}/content/{}", escaped(kind));
            let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            if !essence.contains('/') {
                return Err(format!("at {at}: `{kind}` is not a media type"));
            }
            let judged = match essence.as_str() {
                _ if media.get("schema").is_none() => Content::Any,
                kind if is_json(kind) => Content::Json(self.schema(media, &at)?),
                "application/x-www-form-urlencoded" => {
                    Content::Form(self.schema(media, &at)?, Shape::of(&media["schema"], self.document))
                }
                kind if kind.starts_with("text/") && !kind.ends_with('*') => Content::Text(self.schema(media, &at)?),
                _ => Content::Any,
            };
            content.push((essence, judged));
        }
        // The more exact ones first (§4.8.14.1).
        content.sort_by_key(|(range, _)| range.matches('*').count());
        Ok(Body {
            required: body["required"] == true,
            content,
        })
    }

    /// The validator of `schema` in a part of the document.
    fn schema(&self, of: &Value, at: &str) -> Result<Validator, String> {
        let schema = match of.get("schema") {
            Some(_) => json!({ "$ref": format!("{ADDRESS}#{}/schema", fragment(at)) }),
            None => json!(true),
        };
        jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_registry(self.registry)
            .should_validate_formats(true)
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| format!("at {at}/schema: {error}"))
    }

    /// Follows `$ref` of what is no schema.
    fn resolve(&self, value: &'d Value, at: &str) -> Result<Placed<'d>, String> {
        let (mut value, mut at) = (value, at.to_owned());
        for _ in 0..MAX_REFERENCES {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
                return Ok((value, at));
            };
            let pointer = reference.strip_prefix('#').ok_or_else(|| {
                format!("at {at}: `$ref` to `{reference}`: only references within the description are followed")
            })?;
            value = self
                .document
                .pointer(pointer)
                .ok_or_else(|| format!("at {at}: `$ref` to `{reference}` leads nowhere"))?;
            at = pointer.to_owned();
        }
        Err(format!("at {at}: references go in a circle"))
    }
}

fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json") || kind.to_ascii_lowercase().ends_with("+json")
}

fn style(parameter: &Value, place: Place, at: &str) -> Result<Style, String> {
    let name = parameter["style"].as_str().unwrap_or(match place {
        Place::Path | Place::Header => "simple",
        Place::Query | Place::Cookie => "form",
    });
    let explode = parameter["explode"].as_bool().unwrap_or(name == "form");
    match (place, name) {
        (Place::Path | Place::Header, "simple") => Ok(Style::Simple { explode }),
        (Place::Path, "label") => Ok(Style::Label { explode }),
        (Place::Path, "matrix") => Ok(Style::Matrix { explode }),
        // Browsers send one pair a cookie: exploded lists and objects have no place there.
        (Place::Cookie, "form") => Ok(Style::Form { explode: false }),
        (Place::Query, "form") => Ok(Style::Form { explode }),
        (Place::Query, "spaceDelimited") => Ok(Style::SpaceDelimited),
        (Place::Query, "pipeDelimited") => Ok(Style::PipeDelimited),
        (Place::Query, "deepObject") => Ok(Style::DeepObject),
        _ => Err(format!("at {at}: a {} parameter has no style `{name}`", place.name())),
    }
}

/// A path's segments; literal text in its one spelling, as requests have theirs.
fn segments(path: &str) -> Option<Vec<Segment>> {
    path.strip_prefix('/')?.split('/').map(segment).collect()
}

fn segment(text: &str) -> Option<Segment> {
    let Some((prefix, rest)) = text.split_once('{') else {
        let whole = format!("/{text}");
        let normal = normalise(&whole).ok()?;
        return Some(Segment::Literal(normal.strip_prefix('/')?.to_owned()));
    };
    let (name, suffix) = rest.split_once('}')?;
    let is_one = !name.is_empty() && !suffix.contains('{');
    is_one.then(|| Segment::Parameter {
        prefix: prefix.to_owned(),
        name: name.to_owned(),
        suffix: suffix.to_owned(),
    })
}

/// A name as a step of a JSON pointer (RFC 6901 §3).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A JSON pointer as a URI's fragment (RFC 6901 §6).
fn fragment(pointer: &str) -> String {
    let mut fragment = String::with_capacity(pointer.len());
    for byte in pointer.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => fragment.push(char::from(byte)),
            _ => fragment.push_str(&format!("%{byte:02X}")),
        }
    }
    fragment
}

/// Without the address that only validators know.
fn plain(message: &str) -> String {
    message.replace(ADDRESS, "")
}
