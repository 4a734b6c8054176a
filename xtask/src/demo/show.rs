//! What the demo prints.

use super::http::Answer;
use super::{CUSTOMER, GATEWAY, GATEWAY_ADMIN};

/// Prints an answer as it came, its JSON only indented.
pub(super) fn answer(path: &str, answer: &Answer) {
    println!("\nGET http://{GATEWAY}{path}\n\n{} {}", answer.status, answer.phrase);
    for (name, value) in &answer.fields {
        println!("{name}: {value}");
    }
    println!("\n{}\n", indented(&String::from_utf8_lossy(&answer.body)));
}

/// Prints what to try next.
pub(super) fn try_next(token: &str) {
    let gateway = format!("http://{GATEWAY}");
    println!(
        r#"Try next:

  # what you saw; the token holds for an hour
  TOKEN='{token}'
  curl -i -H "authorization: Bearer $TOKEN" {gateway}/customers/{CUSTOMER}/overview

  # no token: 401 and a problem+json that says why
  curl -i {gateway}/customers/{CUSTOMER}/overview

  # a path that no route knows: 404
  curl -i {gateway}/nowhere

  # a body that its schema refuses: 422 and the JSON pointer to what is wrong
  curl -i -H "authorization: Bearer $TOKEN" -H 'content-type: application/json' \
       -d '{{"from": 42, "to": 43, "amount": -5, "currency": "EUR"}}' {gateway}/transfers

  # the gateway from inside
  curl -s http://{GATEWAY_ADMIN}/routes
  curl -s http://{GATEWAY_ADMIN}/metrics

The bank serves until Ctrl-C."#
    );
}

/// JSON with line breaks and nothing else changed: a parser would sort its members.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut rest = json.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(char) = rest.next() {
        if quoted {
            quoted = escaped || char != '"';
            escaped = !escaped && char == '\\';
            out.push(char);
            continue;
        }
        match char {
            '{' | '[' => {
                out.push(char);
                if rest.peek().is_some_and(|next| !matches!(next, '}' | ']')) {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                if !out.ends_with(['{', '[']) {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(char);
            }
            ',' => {
                out.push(char);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => {
                quoted = char == '"';
                if !char.is_whitespace() {
                    out.push(char);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_order_and_its_texts() {
        let json = r#"{"b":[1,{}],"a":"x, \"y\": {z}","c":[]}"#;
        assert_eq!(
            indented(json),
            "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": \"x, \\\"y\\\": {z}\",\n  \"c\": []\n}"
        );
    }
}
