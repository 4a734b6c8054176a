//! JSON that means the same to every reader.
//!
//! A name that comes twice in one object is read differently by different parsers (RFC 8259 §4), so that a check here and the
//! program behind it could see two values. Tokens and validated bodies with such a name are refused.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Parses a text in which no object has a name twice.
///
/// # Errors
/// Where it is no JSON, or has a name twice.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut from = serde_json::Deserializer::from_slice(text);
    let value = Unambiguous.deserialize(&mut from)?;
    from.end()?;
    Ok(value)
}

struct Unambiguous;

impl<'de> DeserializeSeed<'de> for Unambiguous {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = from.next_element_seed(Self)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            let value = from.next_value_seed(Self)?;
            if map.contains_key(&name) {
                // Not the name itself: it is the sender's text and may be long.
                return Err(A::Error::custom("a name comes twice in one object"));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// The value at a path of names with dots between them. A name may hold dots itself, as in claims that are named by a URL:
/// at each level, the longest name that exists is taken.
#[must_use]
pub fn at_path<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let members = match value {
        Value::Object(members) => members,
        Value::Array(list) => {
            let (index, rest) = path.split_once('.').map_or((path, None), |(index, rest)| (index, Some(rest)));
            let item = list.get(index.parse::<usize>().ok()?)?;
            return rest.map_or(Some(item), |rest| at_path(item, rest));
        }
        _ => return None,
    };
    if let Some(value) = members.get(path) {
        return Some(value);
    }
    path.rmatch_indices('.')
        .find_map(|(dot, _)| members.get(&path[..dot]).and_then(|value| at_path(value, &path[dot + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_that_comes_twice_is_refused_at_any_depth() {
        assert!(parse(br#"{"a":1,"a":1}"#).is_err());
        assert!(parse(br#"[{"b":{"a":1,"c":2,"a":3}}]"#).is_err());
        assert!(
            parse(br#"{"a":1,"\u0061":2}"#).is_err(),
            "an escape does not make another name"
        );
        assert_eq!(
            parse(br#"{"a":{"a":1},"b":[{"a":1},{"a":2.5}]}"#).unwrap(),
            json!({"a":{"a":1},"b":[{"a":1},{"a":2.5}]})
        );
    }

    #[test]
    fn text_after_the_value_is_refused() {
        assert!(parse(b"{} {}").is_err());
        assert!(parse(b"").is_err());
        assert!(parse(b" null ").unwrap().is_null());
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn a_path_goes_through_objects_lists_and_names_with_dots() {
        let value = json!({"a": {"b": [{"c": 1}]}, "https://id.example/tier": "gold", "x.y": {"z": 2}});
        assert_eq!(at_path(&value, "a.b.0.c"), Some(&json!(1)));
        assert_eq!(at_path(&value, "https://id.example/tier"), Some(&json!("gold")));
        assert_eq!(at_path(&value, "x.y.z"), Some(&json!(2)));
        for missing in ["", "a.", ".a", "a.b.1", "a.b.c", "a.b.0.c.d", "a.b.-1"] {
            assert_eq!(at_path(&value, missing), None, "{missing}");
        }
    }
}
