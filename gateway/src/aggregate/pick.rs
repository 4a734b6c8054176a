//! What of a branch's JSON becomes its member of the answer. The JSON is taken apart without being understood: what is picked is
//! passed on as the bytes that it is, so that no number loses a digit.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What is picked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// What is at this path; `null` where nothing is.
    At(Box<str>),
    /// An object of these members, by their names there (as JSON strings with their quotes) and their paths. One that is not there is
    /// left out. Of a list, every item becomes such an object.
    Members(Vec<(Box<str>, Box<str>)>),
}

impl Pick {
    /// Picks. None where the text is no JSON.
    pub(crate) fn of(&self, json: &str) -> Option<Vec<u8>> {
        let json: &RawValue = serde_json::from_str(json).ok()?;
        let mut picked = Vec::with_capacity(json.get().len().min(4096));
        match self {
            Self::At(path) => picked.extend_from_slice(at(json, path).map_or("null", RawValue::get).as_bytes()),
            Self::Members(members) => match serde_json::from_str::<Vec<&RawValue>>(json.get()) {
                Ok(items) => {
                    picked.push(b'[');
                    for (at, item) in items.into_iter().enumerate() {
                        if at > 0 {
                            picked.push(b',');
                        }
                        pick(item, members, &mut picked);
                    }
                    picked.push(b']');
                }
                Err(_) => pick(json, members, &mut picked),
            },
        }
        Some(picked)
    }
}

fn pick(json: &RawValue, members: &[(Box<str>, Box<str>)], into: &mut Vec<u8>) {
    into.push(b'{');
    let mut is_first = true;
    for (name, path) in members {
        let Some(value) = at(json, path) else { continue };
        if !std::mem::take(&mut is_first) {
            into.push(b',');
        }
        into.extend_from_slice(name.as_bytes());
        into.push(b':');
        into.extend_from_slice(value.get().as_bytes());
    }
    into.push(b'}');
}

/// What is at a path of names and places with dots between them.
fn at<'a>(json: &'a RawValue, path: &str) -> Option<&'a RawValue> {
    let mut found = json;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        found = match found.get().as_bytes().first()? {
            b'{' => {
                serde_json::from_str::<Members<'_>>(found.get())
                    .ok()?
                    .0
                    .into_iter()
                    .rev()
                    .find(|(name, _)| name == step)?
                    .1
            }
            b'[' => {
                let items: Vec<&RawValue> = serde_json::from_str(found.get()).ok()?;
                items.into_iter().nth(step.parse().ok()?)?
            }
            _ => return None,
        };
    }
    Some(found)
}

/// An object's members in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(pick: &Pick, json: &str) -> String {
        String::from_utf8(pick.of(json).unwrap()).unwrap()
    }

    fn members(list: &[(&str, &str)]) -> Pick {
        let member = |(name, path): &(&str, &str)| (format!("{name:?}").into(), (*path).into());
        Pick::Members(list.iter().map(member).collect())
    }

    #[test]
    fn a_value_is_taken_out_as_the_bytes_that_it_is() {
        let json = r#"{"data":{"n":12345678901234567890.10,"list":[1, {"x":true}]}}"#;
        assert_eq!(picked(&Pick::At("data.n".into()), json), "12345678901234567890.10");
        assert_eq!(picked(&Pick::At("data.list.1".into()), json), r#"{"x":true}"#);
        assert_eq!(picked(&Pick::At("data.gone.n".into()), json), "null");
    }

    #[test]
    fn members_are_picked_and_named_anew_and_missing_ones_left_out() {
        let pick = members(&[("id", "id"), ("city", "address.city"), ("gone", "gone")]);
        let json = r#"{"address":{"city":"Köln","street":"x"},"id":7.0,"secret":1}"#;
        assert_eq!(picked(&pick, json), r#"{"id":7.0,"city":"Köln"}"#);
        assert_eq!(picked(&pick, "null"), "{}");
    }

    #[test]
    fn of_a_list_every_item_is_picked_from() {
        let pick = members(&[("id", "id")]);
        assert_eq!(picked(&pick, r#" [{"id":1,"a":2},{"a":3},7] "#), r#"[{"id":1},{},{}]"#);
        assert_eq!(picked(&pick, "[]"), "[]");
    }

    #[test]
    fn an_escape_in_a_name_does_not_make_another_name() {
        assert_eq!(picked(&Pick::At("id".into()), r#"{"\u0069d":1}"#), "1");
    }

    #[test]
    fn what_is_no_json_is_not_picked_from() {
        assert_eq!(Pick::At("a".into()).of("{"), None);
    }
}
