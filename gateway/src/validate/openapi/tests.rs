//! Requests against descriptions.

use http::HeaderMap;
use serde_json::json;

use super::*;

fn description(text: &str) -> Description {
    load_description(text.as_bytes(), None, false).unwrap()
}

/// A description with one operation of these parameters.
fn with(path: &str, parameters: &Value) -> Description {
    let document = json!({"openapi": "3.1.0", "paths": {path: {"get": {"parameters": parameters}}}});
    description(&document.to_string())
}

fn judge(
    description: &Description,
    method: &str,
    target: &str,
    fields: &[(&'static str, &str)],
) -> Result<Chosen, HeadRefusal> {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, value.parse().unwrap());
    }
    description.judge_head(&Head {
        method: &method.parse().unwrap(),
        path,
        query,
        fields: &map,
        has_body: map.contains_key("content-type"),
    })
}

/// The pointers of what is wrong; nothing where all is right.
fn wrong(description: &Description, target: &str, fields: &[(&'static str, &str)]) -> Vec<String> {
    match judge(description, "GET", target, fields) {
        Ok(_) => Vec::new(),
        Err(HeadRefusal::Parameters(wrong)) => wrong
            .into_iter()
            .map(|wrong| format!("{}:{}", wrong.place.unwrap(), wrong.pointer))
            .collect(),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn an_operation_is_found_by_its_path_and_method() {
    let description = description(
        r#"{"openapi":"3.1.0","servers":[{"url":"https://api.example/v1/"},{"url":"/v2"}],
        "paths":{"/a/{id}":{"get":{}},"/a/mine":{"put":{}},"/a/{id}.json":{"post":{}},"/":{"get":{}}}}"#,
    );
    for (method, path, fine) in [
        ("GET", "/v1/a/7", true),
        ("HEAD", "/v2/a/7", true),
        ("PUT", "/v1/a/mine", true),
        ("GET", "/v1/", true),
        ("GET", "/a/7", false),
        ("GET", "/v1/a", false),
        ("GET", "/v1/a/", false),
        ("GET", "/v1/a/7/b", false),
        ("GET", "/v1x/a/7", false),
    ] {
        assert_eq!(judge(&description, method, path, &[]).is_ok(), fine, "{method} {path}");
    }
    assert_eq!(judge(&description, "GET", "/v3/a/7", &[]), Err(HeadRefusal::Path));
    assert_eq!(
        judge(&description, "GET", "/v1/a/mine", &[]),
        Err(HeadRefusal::Method(vec![Method::PUT])),
        "the more literal path counts"
    );
}

#[test]
fn texts_are_read_as_the_schema_has_them_in_mind() {
    let description = with(
        "/a/{id}",
        &json!([
            {"in": "path", "name": "id", "required": true, "schema": {"type": "integer", "minimum": 1}},
            {"in": "query", "name": "n", "schema": {"type": "number"}},
            {"in": "query", "name": "b", "schema": {"type": "boolean"}},
            {"in": "query", "name": "s", "schema": {"type": "string", "maxLength": 3}},
            {"in": "query", "name": "e", "schema": {"enum": ["a", 1]}},
            {"in": "query", "name": "u", "schema": {"type": "string", "format": "uuid"}},
        ]),
    );
    for fine in [
        "/a/7",
        "/a/7?n=1.5&b=true&s=007&e=a&x=1",
        "/a/7?e=1",
        "/a/%37",
        "/a/1?s=%C3%A4",
    ] {
        assert_eq!(wrong(&description, fine, &[]), [""; 0], "{fine}");
    }
    for (target, place) in [
        ("/a/x", "path:/id"),
        ("/a/0", "path:/id"),
        ("/a/1.5", "path:/id"),
        ("/a/01", "path:/id"),
        ("/a/+1", "path:/id"),
        ("/a/7?n=x", "query:/n"),
        ("/a/7?n=", "query:/n"),
        ("/a/7?n=1&n=2", "query:/n"),
        ("/a/7?b=TRUE", "query:/b"),
        ("/a/7?s=long", "query:/s"),
        ("/a/7?s=%ff", "query:/s"),
        ("/a/7?e=b", "query:/e"),
        ("/a/7?u=1", "query:/u"),
    ] {
        assert_eq!(wrong(&description, target, &[]), [place], "{target}");
    }
    assert_eq!(wrong(&description, "/a/x?n=x&b=x", &[]), ["path:/id", "query:/n", "query:/b"]);
}

#[test]
fn what_is_required_has_to_be_there() {
    let description = with(
        "/a",
        &json!([
            {"in": "query", "name": "q", "required": true, "schema": {"type": "string"}},
            {"in": "header", "name": "X-Tenant", "required": true, "schema": {"type": "string"}},
            {"in": "cookie", "name": "s", "required": true, "schema": {"type": "integer"}},
            {"in": "header", "name": "Authorization", "required": true, "schema": {"type": "string"}},
        ]),
    );
    assert_eq!(wrong(&description, "/a", &[]), ["query:/q", "header:/x-tenant", "cookie:/s"]);
    let fields = [("x-tenant", "bank"), ("cookie", "a=b; s=7")];
    assert_eq!(wrong(&description, "/a?q=", &fields), [""; 0]);
    assert_eq!(
        wrong(
            &description,
            "/a?q=",
            &[("x-tenant", "a"), ("x-tenant", "b"), ("cookie", "s=x")]
        ),
        ["header:/x-tenant", "cookie:/s"]
    );
}

#[test]
fn lists_and_objects_are_read_in_every_style() {
    let list = json!({"type": "array", "items": {"type": "integer"}, "minItems": 2});
    let object =
        json!({"type": "object", "properties": {"k": {"type": "integer"}, "l": {"type": "string"}}, "required": ["k", "l"]});
    let name = |place: &str, style: &str, explode: bool, schema: &Value| json!([{"in": place, "name": "p", "style": style, "explode": explode, "schema": schema}]);
    for (style, explode, listed, structured) in [
        ("simple", false, "/1,2", "/k,1,l,x"),
        ("simple", true, "/1,2", "/k=1,l=x"),
        ("label", false, "/.1,2", "/.k,1,l,x"),
        ("label", true, "/.1.2", "/.k=1.l=x"),
        ("matrix", false, "/;p=1,2", "/;p=k,1,l,x"),
        ("matrix", true, "/;p=1;p=2", "/;k=1;l=x"),
    ] {
        for (schema, target) in [(&list, listed), (&object, structured)] {
            let description = with("/{p}", &name("path", style, explode, schema));
            assert_eq!(wrong(&description, target, &[]), [""; 0], "{style} {explode} {target}");
            let spoiled = target.replace('1', "x");
            assert!(!wrong(&description, &spoiled, &[]).is_empty(), "{style} {explode} {spoiled}");
        }
    }
    for (style, explode, schema, target) in [
        ("form", true, &list, "/?p=1&p=2"),
        ("form", false, &list, "/?p=1,2"),
        ("spaceDelimited", false, &list, "/?p=1%202"),
        ("pipeDelimited", false, &list, "/?p=1|2"),
        ("form", true, &object, "/?k=1&l=x"),
        ("form", false, &object, "/?p=k,1,l,x"),
        ("deepObject", true, &object, "/?p[k]=1&p%5Bl%5D=x"),
    ] {
        let description = with("/", &name("query", style, explode, schema));
        assert_eq!(wrong(&description, target, &[]), [""; 0], "{style} {explode} {target}");
        let spoiled = target.replace('1', "y");
        assert!(!wrong(&description, &spoiled, &[]).is_empty(), "{style} {explode} {spoiled}");
    }
    let description = with("/", &name("header", "simple", false, &list));
    assert_eq!(wrong(&description, "/", &[("p", "1, 2")]), [""; 0]);
    assert_eq!(wrong(&description, "/", &[("p", "1"), ("p", "2")]), [""; 0]);
    assert_eq!(wrong(&description, "/", &[("p", "1,x")]), ["header:/p/1"]);
    // A comma that is escaped is no separator.
    let texts = json!({"type": "array", "items": {"type": "string"}, "maxItems": 1});
    let description = with("/", &name("query", "form", false, &texts));
    assert_eq!(wrong(&description, "/?p=a%2Cb", &[]), [""; 0]);
    assert_eq!(wrong(&description, "/?p=a,b", &[]), ["query:/p"]);
}

#[test]
fn a_parameter_may_be_json() {
    let content = json!({"application/json": {"schema": {"type": "object", "required": ["a"]}}});
    let description = with("/", &json!([{"in": "query", "name": "f", "content": content}]));
    assert_eq!(wrong(&description, "/?f=%7B%22a%22:1%7D", &[]), [""; 0]);
    assert_eq!(wrong(&description, "/?f=%7B%7D", &[]), ["query:/f"]);
    assert_eq!(wrong(&description, "/?f=%7B", &[]), ["query:/f"]);
}

const BODIES: &str = r#"
openapi: 3.1.0
paths:
  /a:
    post:
      requestBody:
        required: true
        content:
          application/json:
            schema: { $ref: '#/components/schemas/Thing' }
          application/x-www-form-urlencoded:
            schema: { $ref: '#/components/schemas/Thing' }
          text/plain:
            schema: { type: string, maxLength: 3 }
          image/*: {}
      responses:
        200: { description: fine }
    put:
      requestBody: { $ref: '#/components/requestBodies/Patch' }
components:
  requestBodies:
    Patch:
      content:
        application/merge-patch+json:
          schema: { type: object, additionalProperties: false }
  schemas:
    Thing:
      type: object
      required: [id]
      properties:
        id: { type: integer }
        tags: { type: array, items: { type: string } }
        next: { $ref: '#/components/schemas/Thing' }
"#;

fn body(method: &str, kind: &str, text: &str) -> Result<(), String> {
    let description = description(BODIES);
    let chosen = judge(&description, method, "/a", &[("content-type", kind)]).map_err(|refusal| format!("{refusal:?}"))?;
    if !chosen.wants_body() {
        return Ok(());
    }
    description
        .judge_body(chosen, text.as_bytes())
        .map_err(|refusal| match refusal {
            BodyRefusal::Schema(wrong) => wrong.iter().map(|wrong| wrong.pointer.as_str()).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        })
}

#[test]
fn a_body_is_judged_by_its_media_type() {
    for (kind, text) in [
        ("application/json", r#"{"id":1,"next":{"id":2}}"#),
        ("Application/JSON; charset=utf-8", r#"{"id":1}"#),
        ("application/x-www-form-urlencoded", "id=1&tags=a"),
        ("application/x-www-form-urlencoded", "id=1&tags=a&tags=b+c"),
        ("text/plain", "abc"),
        ("image/png", "\u{1}"),
    ] {
        assert_eq!(body("POST", kind, text), Ok(()), "{kind} {text}");
    }
    for (kind, text, pointers) in [
        ("application/json", r#"{"next":{"id":"x"}}"#, ["", "/next/id"].as_slice()),
        ("application/x-www-form-urlencoded", "id=x", &["/id"]),
        ("text/plain", "abcd", &[""]),
    ] {
        let mut told: Vec<_> = body("POST", kind, text).unwrap_err().split(' ').map(str::to_owned).collect();
        told.sort();
        assert_eq!(told, pointers, "{kind} {text}");
    }
    assert!(body("POST", "application/json", "{").unwrap_err().contains("NotJson"));
    for kind in ["application/xml", "json", "text/html"] {
        assert_eq!(body("POST", kind, "x"), Err("MediaType".to_owned()), "{kind}");
    }
    assert_eq!(body("PUT", "application/merge-patch+json", r#"{"a":1}"#), Err(String::new()));
    assert_eq!(judge(&description(BODIES), "POST", "/a", &[]), Err(HeadRefusal::NoBody));
    assert!(
        judge(&description(BODIES), "PUT", "/a", &[]).is_ok(),
        "that one may be left out"
    );
}

#[test]
fn a_description_that_is_none_says_what_and_where() {
    for (text, part) in [
        ("openapi: 3.0.3\npaths: {}", "`openapi` is 3.0.3, expected 3.1"),
        ("a: 1", "`openapi` is missing"),
        ("openapi: 3.1.0", "`paths` is missing"),
        ("openapi: 3.1.0\npaths: {a: {}}", "`a` is not a path"),
        ("{", "this is not JSON"),
        ("a: [", "this is not YAML"),
        (
            "openapi: 3.1.0\npaths: {/a: {get: {parameters: [{name: x}]}}}",
            "at /paths/~1a/get/parameters/0: `in` is missing",
        ),
        (
            "openapi: 3.1.0\npaths: {/a: {get: {parameters: [{$ref: '#/x'}]}}}",
            "leads nowhere",
        ),
        (
            "openapi: 3.1.0\npaths: {/a: {get: {parameters: [{$ref: 'b.yaml#/x'}]}}}",
            "only references within",
        ),
        ("openapi: 3.1.0\npaths: {/a: {$ref: '#/paths/~1a'}}", "go in a circle"),
        (
            "openapi: 3.1.0\npaths: {/a: {get: {parameters: [{in: query, name: x, schema: {type: strin}}]}}}",
            "at /paths/~1a/get/parameters/0/schema",
        ),
        (
            "openapi: 3.1.0\npaths: {/a: {get: {parameters: [{in: cookie, name: x, style: simple}]}}}",
            "a cookie parameter has no style `simple`",
        ),
    ] {
        let error = load_description(text.as_bytes(), None, true).unwrap_err();
        assert!(error.contains(part), "{part:?} in {error:?}");
    }
}

#[test]
fn an_answer_is_held_against_the_status_and_the_type_that_the_description_has() {
    let text = r##"{"openapi":"3.1.0","paths":{"/a":{"get":{"responses":{
        "200":{"description":"","content":{"application/json":{"schema":{"type":"integer"}},"text/plain":{}}},
        "4XX":{"$ref":"#/components/responses/Problem"},
        "204":{"description":""}}},
        "put":{"responses":{"default":{"description":"","content":{"application/json":{"schema":false}}}}}}},
        "components":{"responses":{"Problem":{"description":"","content":{"application/problem+json":{"schema":{"required":["type"]}}}}}}}"##;
    let description = load_description(text.as_bytes(), None, true).unwrap();
    let wrong = |method: &str, status: u16, kind: Option<&'static str>, body: &str| {
        let chosen = judge(&description, method, "/a", &[]).unwrap();
        let mut fields = HeaderMap::new();
        if let Some(kind) = kind {
            fields.insert("content-type", kind.parse().unwrap());
        }
        let answered = Answered {
            status,
            fields: &fields,
            body: body.as_bytes(),
        };
        description.judge_answer(chosen.operation().unwrap(), &answered).join("; ")
    };
    let json = Some("application/json");
    assert_eq!(wrong("GET", 200, json, "7"), "");
    assert!(wrong("GET", 200, json, "\"7\"").starts_with("``: "));
    assert!(wrong("GET", 200, json, "{").starts_with("the body is not JSON"));
    assert_eq!(wrong("GET", 200, Some("text/plain"), "anything"), "");
    let no_type = "the description has no answer with the status 200 and this content-type";
    assert_eq!(wrong("GET", 200, Some("text/html"), ""), no_type);
    assert_eq!(wrong("GET", 200, None, ""), no_type);
    assert_eq!(wrong("GET", 204, None, ""), "");
    assert_eq!(wrong("GET", 404, Some("application/problem+json"), r#"{"type":"x"}"#), "");
    assert!(wrong("GET", 404, Some("application/problem+json"), "{}").contains("type"));
    assert_eq!(
        wrong("GET", 500, None, ""),
        "the description has no answer with the status 500"
    );
    assert!(!wrong("PUT", 500, json, "1").is_empty(), "the default");
    // Where nobody asks for them they are not looked at.
    let description = load_description(
        text.replace("\"type\":\"integer\"", "\"type\":\"no\"").as_bytes(),
        None,
        false,
    );
    assert!(
        description
            .unwrap()
            .operations
            .iter()
            .all(|operation| operation.answers.is_empty())
    );
}
