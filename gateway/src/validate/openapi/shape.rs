//! What kinds of values a schema has in mind. Parameters and forms come as texts; which JSON value a text stands for, only the schema
//! can say.

use std::collections::BTreeMap;

use serde_json::{Number, Value};

/// How deep schemas are looked into, and through how many references.
const MAX_DEPTH: usize = 16;

/// The kinds of values of a schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shape {
    types: Types,
    items: Option<Box<Self>>,
    members: BTreeMap<String, Self>,
    /// Of members that are not named.
    others: Option<Box<Self>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Types {
    string: bool,
    number: bool,
    integer: bool,
    boolean: bool,
    null: bool,
    list: bool,
    object: bool,
}

/// Of what nothing is said.
static ANY: Shape = Shape {
    types: Types {
        string: false,
        number: false,
        integer: false,
        boolean: false,
        null: false,
        list: false,
        object: false,
    },
    items: None,
    members: BTreeMap::new(),
    others: None,
};

impl Shape {
    /// The shape of a schema in a document.
    pub(super) fn of(schema: &Value, document: &Value) -> Self {
        let mut shape = Self::default();
        shape.learn(schema, document, 0);
        shape
    }

    fn learn(&mut self, schema: &Value, document: &Value, depth: usize) {
        let Value::Object(schema) = schema else { return };
        if depth > MAX_DEPTH {
            return;
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str)
            && let Some(target) = target.strip_prefix('#').and_then(|pointer| document.pointer(pointer))
        {
            self.learn(target, document, depth + 1);
        }
        match schema.get("type") {
            Some(Value::String(name)) => self.types.add(name),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).for_each(|name| self.types.add(name)),
            _ => {}
        }
        for value in schema
            .get("enum")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .chain(schema.get("const"))
        {
            self.types.add_of(value);
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let parts = schema.get(keyword).and_then(Value::as_array).into_iter().flatten();
            parts.for_each(|part| self.learn(part, document, depth + 1));
        }
        if let Some(items) = schema.get("items") {
            self.items.get_or_insert_default().learn(items, document, depth + 1);
        }
        for (name, member) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.members
                .entry(name.clone())
                .or_default()
                .learn(member, document, depth + 1);
        }
        if let Some(others) = schema.get("additionalProperties") {
            self.others.get_or_insert_default().learn(others, document, depth + 1);
        }
    }

    /// Whether a value is to be a list.
    pub(super) fn is_list(&self) -> bool {
        self.types.list && !self.types.object
    }

    /// Whether a value is to be an object.
    pub(super) fn is_object(&self) -> bool {
        self.types.object && !self.types.list
    }

    pub(super) fn item(&self) -> &Self {
        self.items.as_deref().unwrap_or(&ANY)
    }

    pub(super) fn member(&self, name: &str) -> &Self {
        self.members.get(name).or(self.others.as_deref()).unwrap_or(&ANY)
    }

    /// The names of the members that are named.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// What a text stands for: what the schema has in mind, where it can be read as that, else the text, which the schema will refuse.
    pub(super) fn scalar(&self, text: &str) -> Value {
        let types = self.types;
        if types.integer || types.number {
            // JSON's numbers and no others: neither `+1` nor `01`, `1.` or `Infinity`.
            let number = serde_json::from_str::<Number>(text).ok().filter(|_| !text.starts_with(' '));
            if let Some(number) = number.filter(|_| !text.ends_with(|c: char| c.is_ascii_whitespace())) {
                return Value::Number(number);
            }
        }
        match text {
            "true" if types.boolean => Value::Bool(true),
            "false" if types.boolean => Value::Bool(false),
            "null" | "" if types.null && !types.string => Value::Null,
            _ => Value::String(text.to_owned()),
        }
    }
}

impl Types {
    fn add(&mut self, name: &str) {
        match name {
            "string" => self.string = true,
            "number" => self.number = true,
            "integer" => self.integer = true,
            "boolean" => self.boolean = true,
            "null" => self.null = true,
            "array" => self.list = true,
            "object" => self.object = true,
            _ => {}
        }
    }

    fn add_of(&mut self, value: &Value) {
        self.add(match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        });
    }
}
