//! Schemas are compiled when the config is: references to other files are read then, and nothing is fetched ever.

use std::collections::BTreeMap;

use jsonschema::{Draft, PatternOptions, Retrieve, Uri, Validator};
use routing::json;
use serde_json::Value;

/// The scheme of the addresses that stand for files inside the validator.
const SCHEME: &str = "file-of-config";

/// The most files that one schema may be made of.
const MAX_FILES: usize = 64;

/// Reads and compiles the schema at `path`. A `$ref` to another file is relative to the file it is in.
///
/// `format` is asserted, not only noted, as users of API schemas expect. Patterns are matched in linear time, so they know no
/// look-around and no back-references.
///
/// # Errors
/// In words: what is wrong with which file.
pub(crate) fn load_schema(path: &str, files: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>) -> Result<Validator, String> {
    let mut loader = Loader {
        files,
        numbers: BTreeMap::new(),
        schemas: Vec::new(),
    };
    loader.load(path)?;
    let Loader {
        numbers, mut schemas, ..
    } = loader;
    let names: BTreeMap<String, String> = numbers
        .iter()
        .map(|(path, &number)| (address(number), path.clone()))
        .collect();
    let root = schemas.first().cloned().unwrap_or(Value::Bool(true));
    let files = schemas
        .drain(..)
        .enumerate()
        .map(|(number, schema)| (address(number), schema))
        .collect();
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_base_uri(address(0))
        .with_retriever(Files(files))
        .should_validate_formats(true)
        .with_pattern_options(PatternOptions::regex())
        .build(&root)
        .map_err(|error| {
            let mut message = error.to_string();
            for (address, name) in &names {
                message = message.replace(address, name);
            }
            match error.instance_path().as_str() {
                "" => message,
                place => format!("at {place}: {message}"),
            }
        })
}

fn address(number: usize) -> String {
    format!("{SCHEME}:///{number}.json")
}

struct Loader<'f> {
    files: &'f mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
    /// The files by their paths, numbered in the order of their first mention.
    numbers: BTreeMap<String, usize>,
    schemas: Vec<Value>,
}

impl Loader<'_> {
    /// Reads a file and what it refers to; gives its number.
    fn load(&mut self, path: &str) -> Result<usize, String> {
        if let Some(&number) = self.numbers.get(path) {
            return Ok(number);
        }
        if self.numbers.len() >= MAX_FILES {
            return Err(format!("the schema is made of more than {MAX_FILES} files"));
        }
        let text = (self.files)(path)?;
        let mut schema = json::parse(&text).map_err(|error| format!("{path} is not JSON: {error}"))?;
        let number = self.numbers.len();
        self.numbers.insert(path.to_owned(), number);
        self.schemas.push(Value::Null);
        self.resolve(&mut schema, path)?;
        self.schemas[number] = schema;
        Ok(number)
    }

    /// Turns references to files into addresses, reading those files.
    fn resolve(&mut self, schema: &mut Value, path: &str) -> Result<(), String> {
        match schema {
            Value::Array(list) => list.iter_mut().try_for_each(|item| self.resolve(item, path)),
            Value::Object(members) => members.iter_mut().try_for_each(|(name, value)| match (name.as_str(), value) {
                ("$ref" | "$dynamicRef", Value::String(reference)) => {
                    if let Some(resolved) = self.resolve_reference(reference, path)? {
                        *reference = resolved;
                    }
                    Ok(())
                }
                // These hold data, not schemas.
                ("const" | "enum" | "default" | "examples", _) => Ok(()),
                (_, value) => self.resolve(value, path),
            }),
            _ => Ok(()),
        }
    }

    fn resolve_reference(&mut self, reference: &str, path: &str) -> Result<Option<String>, String> {
        let (file, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        if file.is_empty() {
            return Ok(None);
        }
        // An address with a scheme may be the `$id` of a schema inside this one; if it is not, compiling says so.
        if file.contains(':') || file.starts_with("//") {
            return Ok(None);
        }
        let target = beside(path, file);
        match self.load(&target) {
            Ok(number) => Ok(Some(format!("{}#{fragment}", address(number)))),
            Err(error) => Err(format!("{path}: `$ref` to `{reference}`: {error}")),
        }
    }
}

/// The path of a file that is named relative to another one.
fn beside(path: &str, file: &str) -> String {
    if file.starts_with('/') {
        return file.to_owned();
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            "." => {}
            ".." if parts.last().is_some_and(|last| !matches!(*last, "" | "." | "..")) => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The files that were read, and no others.
struct Files(BTreeMap<String, Value>);

impl Retrieve for Files {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        self.0
            .get(uri.as_str())
            .cloned()
            .ok_or_else(|| "only files beside the schema are read, nothing is fetched".into())
    }
}

#[cfg(test)]
mod tests {
    use super::beside;

    #[test]
    fn a_reference_is_relative_to_the_file_it_is_in() {
        assert_eq!(beside("schemas/a.json", "b.json"), "schemas/b.json");
        assert_eq!(beside("a.json", "b.json"), "b.json");
        assert_eq!(beside("schemas/deep/a.json", "../b.json"), "schemas/b.json");
        assert_eq!(beside("a.json", "../b.json"), "../b.json");
        assert_eq!(beside("../a.json", "../b.json"), "../../b.json");
        assert_eq!(beside("/etc/a.json", "./b.json"), "/etc/b.json");
        assert_eq!(beside("a.json", "/etc/b.json"), "/etc/b.json");
    }
}
