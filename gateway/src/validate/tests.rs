use std::collections::HashMap;

use http::HeaderMap;
use http::header::HeaderValue;

use super::*;
use crate::exchange::BodyRead;

fn compile(list: &[(&str, &str)]) -> Result<Validator, String> {
    let map: HashMap<&str, &str> = list.iter().copied().collect();
    load_schema(list[0].0, &mut |path| {
        map.get(path)
            .map(|text| text.as_bytes().to_vec())
            .ok_or_else(|| format!("{path}: no such file"))
    })
}

fn rules(schema: &str) -> BodyRules {
    BodyRules {
        schema: Some(compile(&[("s.json", schema)]).unwrap()),
        description: None,
        content_types: vec!["application/json".to_owned()],
        max_body: 100,
    }
}

fn violations(rules: &BodyRules, body: &str) -> Vec<String> {
    match rules.judge(body.as_bytes()) {
        Err(BodyRefusal::Schema(violations)) => violations.into_iter().map(|violation| violation.pointer).collect(),
        other => panic!("{other:?}"),
    }
}

const TRANSFER: &str = r#"{
    "type": "object", "required": ["to", "amount"], "additionalProperties": false,
    "properties": { "to": { "type": "string", "pattern": "^[A-Z]{2}[0-9]+$" }, "amount": { "type": "number", "exclusiveMinimum": 0 },
        "mail": { "type": "string", "format": "email" }, "items": { "type": "array", "items": { "type": "integer" } } }
}"#;

#[test]
fn every_violation_is_named_by_its_pointer() {
    let rules = rules(TRANSFER);
    assert_eq!(rules.judge(br#"{"to":"DE1","amount":1.5}"#), Ok(()));
    let mut pointers = violations(&rules, r#"{"to":"x","amount":-1,"items":[1,"2",3,null]}"#);
    pointers.sort();
    assert_eq!(pointers, ["/amount", "/items/1", "/items/3", "/to"]);
    assert_eq!(violations(&rules, r#"{"to":"DE1"}"#), [""]);
}

#[test]
fn formats_are_asserted() {
    assert_eq!(
        violations(&rules(TRANSFER), r#"{"to":"DE1","amount":1,"mail":"nobody"}"#),
        ["/mail"]
    );
}

#[test]
fn at_most_twenty_violations_are_listed() {
    let body = format!(r#"{{"to":"DE1","amount":1,"items":[{}null]}}"#, "null,".repeat(100));
    assert_eq!(violations(&rules(TRANSFER), &body).len(), MAX_VIOLATIONS);
}

#[test]
fn a_message_repeats_neither_the_value_nor_more_than_a_line_of_names() {
    let name = "n".repeat(5000);
    let Err(BodyRefusal::Schema(list)) =
        rules(TRANSFER).judge(format!(r#"{{"to":"s3cret","amount":1,"{name}":1}}"#).as_bytes())
    else {
        panic!("it has two violations");
    };
    assert!(
        list.iter()
            .all(|violation| violation.detail.len() <= MAX_MESSAGE + 4 && !violation.detail.contains("s3cret"))
    );
}

#[test]
fn a_body_that_is_no_json_is_told_apart() {
    for body in [
        "",
        "{",
        "{'to':1}",
        "{\"to\":1}x",
        "{\"to\":\"DE1\",\"to\":\"DE2\",\"amount\":1}",
    ] {
        assert!(
            matches!(rules(TRANSFER).judge(body.as_bytes()), Err(BodyRefusal::NotJson(_))),
            "{body}"
        );
    }
    assert!(matches!(rules("true").judge(b"\"\xff\""), Err(BodyRefusal::NotJson(_))));
}

#[test]
fn a_schema_may_be_made_of_several_files() {
    let schema = compile(&[
        ("schemas/a.json", r#"{"$ref":"parts/b.json#/$defs/pair"}"#),
        (
            "schemas/parts/b.json",
            r##"{"$defs":{"pair":{"type":"array","items":{"$ref":"../c.json"},"maxItems":2},"self":{"$ref":"#/$defs/pair"}}}"##,
        ),
        ("schemas/c.json", r#"{"anyOf":[{"type":"integer"},{"$ref":"a.json"}]}"#),
    ])
    .unwrap();
    assert!(schema.is_valid(&serde_json::json!([1, [2, [3]]])));
    assert!(!schema.is_valid(&serde_json::json!([1, [2, ["3"]]])));
}

#[test]
fn a_reference_into_the_network_is_refused() {
    let error = compile(&[("s.json", r#"{"$ref":"https://schemas.bank.example/a.json"}"#)]).unwrap_err();
    assert!(error.contains("nothing is fetched"), "{error}");
}

#[test]
fn a_reference_to_a_file_that_is_not_there_names_it() {
    let error = compile(&[("schemas/s.json", r#"{"properties":{"a":{"$ref":"b.json"}}}"#)]).unwrap_err();
    assert!(error.contains("schemas/b.json: no such file"), "{error}");
}

#[test]
fn a_schema_inside_a_schema_is_found_by_its_id() {
    let schema = compile(&[(
        "s.json",
        r#"{"$ref":"https://bank.example/iban","$defs":{"iban":{"$id":"https://bank.example/iban","type":"string"}}}"#,
    )])
    .unwrap();
    assert!(schema.is_valid(&serde_json::json!("x")));
    assert!(!schema.is_valid(&serde_json::json!(1)));
}

#[test]
fn a_schema_that_is_none_says_where() {
    let error = compile(&[("s.json", r#"{"properties":{"a":{"type":"strin"}}}"#)]).unwrap_err();
    assert!(error.contains("/properties/a/type"), "{error}");
}

#[test]
fn only_the_media_type_without_its_parameters_counts() {
    let rules = rules("true");
    let accepts = |values: &[&'static str]| {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append("content-type", HeaderValue::from_static(value));
        }
        rules.accepts_type(&fields)
    };
    assert!(accepts(&["application/json"]));
    assert!(accepts(&["Application/JSON; charset=utf-8"]));
    for other in [
        &[][..],
        &["text/plain"],
        &["application/jsonp"],
        &[""],
        &["application/json", "text/plain"],
    ] {
        assert!(!accepts(other), "{other:?}");
    }
}

#[test]
fn a_body_says_how_long_it_is_before_it_is_read() {
    let says = |length: &'static str| {
        let mut fields = HeaderMap::new();
        fields.insert("content-length", HeaderValue::from_static(length));
        said_length(&fields)
    };
    assert_eq!(says("101"), Some(101));
    assert_eq!(says("x"), None);
    assert_eq!(said_length(&HeaderMap::new()), None);
}

/// What is wrong with an answer of this status, type and body for this schema.
fn answered(status: u16, kind: &'static str, body: &'static str) -> Vec<String> {
    let files = [("s.json", r#"{"type":"object","required":["id"]}"#)];
    let rules = AnswerRules {
        schema: Some(compile(&files).unwrap()),
        described: false,
        max_body: 100,
    };
    let mut fields = HeaderMap::new();
    fields.insert("content-type", HeaderValue::from_static(kind));
    rules.judge(None, status, &fields, &BodyRead::Whole(body.into()))
}

#[test]
fn an_answer_that_says_yes_is_held_against_its_schema() {
    assert_eq!(answered(200, "application/json", r#"{"id":1}"#), Vec::<String>::new());
    assert_eq!(
        answered(200, "application/hal+json; charset=utf-8", r#"{"id":1}"#),
        Vec::<String>::new()
    );
    let wrong = answered(201, "application/json", "{}");
    assert!(
        wrong.len() == 1 && wrong[0].starts_with("``: ") && wrong[0].contains("id"),
        "{wrong:?}"
    );
    assert_eq!(
        answered(200, "text/html", "{}"),
        ["the content-type is not JSON: `text/html`"]
    );
    let wrong = answered(200, "application/json", "{");
    assert!(wrong[0].starts_with("the body is not JSON"), "{wrong:?}");
    for no_content in [204, 205, 304, 404, 500] {
        assert_eq!(answered(no_content, "text/plain", ""), Vec::<String>::new(), "{no_content}");
    }
}

#[test]
fn an_answer_that_cannot_be_read_is_not_judged() {
    let rules = AnswerRules {
        schema: Some(compile(&[("s.json", "false")]).unwrap()),
        described: false,
        max_body: 100,
    };
    let mut fields = HeaderMap::new();
    fields.insert("content-type", HeaderValue::from_static("application/json"));
    let judge = |fields: &HeaderMap, body: BodyRead| rules.judge(None, 200, fields, &body).len();
    assert_eq!(judge(&fields, BodyRead::Whole("{}".into())), 1);
    assert_eq!(judge(&fields, BodyRead::TooLarge), 0);
    assert_eq!(judge(&fields, BodyRead::Broken), 0);
    fields.insert("content-encoding", HeaderValue::from_static("gzip"));
    assert_eq!(judge(&fields, BodyRead::Whole("{}".into())), 0);
}
