use std::collections::HashMap;

use http::HeaderMap;
use http::header::HeaderValue;

use super::*;

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
fn a_length_over_the_limit_is_known_before_the_body_is_read() {
    let rules = rules("true");
    let says = |length: &'static str| {
        let mut fields = HeaderMap::new();
        fields.insert("content-length", HeaderValue::from_static(length));
        rules.says_too_long(&fields)
    };
    assert!(says("101"));
    assert!(!says("100"));
    assert!(!says("x"));
}
