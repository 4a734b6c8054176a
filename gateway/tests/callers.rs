//! Who is calling: API keys, several methods on a route, and keys that issuers publish.

mod support;

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use support::{Network, Request, Script, UNIX, compile, token};

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
const ACME: &str = "acme-key-0123456789abcdef";
const OTHER: &str = "other-key-0123456789abcdef";

const CONFIG: &str = r#"
[gateway]
default_auth = "customer"

[upstreams.a]
endpoints = [{ url = "http://127.0.0.1:1" }]

[auth.customer]
kind = "jwt"
algorithms = ["HS256"]
secret = "a-secret-of-at-least-thirty-two-bytes"

[auth.partner]
kind = "api-key"
keys = [
  { name = "acme", sha256 = "8d1fde3e812f6f2e7da16e8dbbe290a806f4608424c237f78886b81304c4c234", scopes = ["read", "write"], claims = { tier = "gold" } },
  { name = "other", sha256 = "ef930a905aa029f128cd4ccc511beea86303b75a64904812bf9637466c2b82d9" },
]

[auth.linked]
kind = "api-key"
query = "key"
keys = [{ name = "link", sha256 = "8d1fde3e812f6f2e7da16e8dbbe290a806f4608424c237f78886b81304c4c234" }]

[[routes]]
name = "default"
match = { path = "/default" }
upstream = "a"

[[routes]]
name = "open"
match = { path = "/open" }
auth = "none"
upstream = "a"

[[routes]]
name = "partner"
match = { path = "/partner" }
auth = "partner"
upstream = "a"
headers = { request = { set = { x-partner = "{api-key.name}", x-tier = "{claim.tier}" } } }

[[routes]]
name = "scoped"
match = { path = "/scoped" }
auth = "partner"
require = { scopes = ["read"], claims = { tier = "gold" } }
upstream = "a"

[[routes]]
name = "linked"
match = { path = "/linked" }
auth = "linked"
upstream = "a"

[[routes]]
name = "any"
match = { path = "/any" }
auth = ["partner", "customer"]
upstream = "a"
headers = { request = { set = { x-partner = "{api-key.name}", x-caller = "{claim.sub}" } } }

[[routes]]
name = "all"
match = { path = "/all" }
auth = { all = ["customer", "partner"] }
upstream = "a"
headers = { request = { set = { x-partner = "{api-key.name}", x-caller = "{claim.sub}" } } }
"#;

fn bearer() -> String {
    format!("Bearer {}", token(SECRET, &json!({"sub": "7", "exp": UNIX + 60})))
}

fn send(request: &Request) -> (u16, Option<String>, Network) {
    let mut network = Network::new(&compile(CONFIG));
    network.script([Script::answers("a", 200, "")]);
    let got = network.send(request);
    (got.status, got.reason, network)
}

#[track_caller]
fn refused(request: &Request, status: u16, reason: &str) {
    let (got, why, network) = send(request);
    assert_eq!((got, why.as_deref()), (status, Some(reason)));
    assert!(network.sent.is_empty(), "nothing goes upstream");
}

#[track_caller]
fn accepted(request: &Request) -> http::HeaderMap {
    let (status, why, network) = send(request);
    assert_eq!((status, why), (200, None));
    network.sent[0].fields.clone()
}

#[test]
fn a_route_that_says_nothing_has_the_default_and_none_is_said_aloud() {
    refused(&Request::get("/default"), 401, "credentials-missing");
    accepted(&Request::get("/default").with("authorization", &bearer()));
    accepted(&Request::get("/open"));
}

#[test]
fn a_key_is_the_callers_name_and_goes_no_further() {
    let fields = accepted(&Request::get("/partner").with("x-api-key", ACME).with("x-partner", "admin"));
    assert_eq!(fields.get_all("x-partner").iter().collect::<Vec<_>>(), ["acme"]);
    assert_eq!(fields["x-tier"], "gold");
    assert!(!fields.contains_key("x-api-key"));
}

#[test]
fn an_unknown_key_is_refused_and_none_is_a_challenge() {
    refused(&Request::get("/partner").with("x-api-key", "guess"), 401, "api-key-invalid");
    refused(
        &Request::get("/partner").with("x-api-key", ACME).with("x-api-key", OTHER),
        401,
        "api-key-invalid",
    );
    let mut network = Network::new(&compile(CONFIG));
    let got = network.send(&Request::get("/partner"));
    assert_eq!(got.reason.as_deref(), Some("credentials-missing"));
    assert_eq!(got.fields["www-authenticate"], "ApiKey realm=\"partner\"");
}

#[test]
fn a_keys_scopes_and_claims_are_required_like_a_tokens() {
    accepted(&Request::get("/scoped").with("x-api-key", ACME));
    refused(&Request::get("/scoped").with("x-api-key", OTHER), 403, "scope-missing");
}

#[test]
fn a_key_in_the_query_is_taken_out_of_what_goes_upstream() {
    let (status, _, network) = send(&Request::get(&format!("/linked?a=1&key={ACME}&b=%20")));
    assert_eq!(status, 200);
    assert_eq!(network.sent[0].target, "/linked?a=1&b=%20");
}

#[test]
fn what_a_client_says_of_its_identity_reaches_no_upstream_on_any_route() {
    let fields = accepted(
        &Request::get("/open")
            .with("x-caller", "admin")
            .with("x-partner", "admin")
            .with("x-more", "1"),
    );
    assert!(!fields.contains_key("x-caller") && !fields.contains_key("x-partner"));
    assert_eq!(fields["x-more"], "1");
}

#[test]
fn any_of_several_methods_will_do() {
    let fields = accepted(&Request::get("/any").with("x-api-key", ACME));
    assert_eq!(
        (&fields["x-partner"], &fields["x-caller"]),
        (&"acme".parse().unwrap(), &"acme".parse().unwrap())
    );
    let fields = accepted(&Request::get("/any").with("authorization", &bearer()));
    assert_eq!(fields["x-caller"], "7");
    assert!(!fields.contains_key("x-partner"));
    // A wrong one does not spoil a right one.
    let fields = accepted(
        &Request::get("/any")
            .with("x-api-key", "guess")
            .with("authorization", &bearer()),
    );
    assert_eq!(fields["x-caller"], "7");
}

#[test]
fn where_no_method_is_satisfied_the_refusal_is_the_one_that_says_most() {
    let mut network = Network::new(&compile(CONFIG));
    let got = network.send(&Request::get("/any"));
    assert_eq!(got.reason.as_deref(), Some("credentials-missing"));
    assert_eq!(
        got.fields["www-authenticate"],
        "ApiKey realm=\"partner\", Bearer realm=\"customer\""
    );
    refused(&Request::get("/any").with("x-api-key", "guess"), 401, "api-key-invalid");
    let expired = format!("Bearer {}", token(SECRET, &json!({"sub": "7", "exp": UNIX - 60})));
    refused(
        &Request::get("/any")
            .with("x-api-key", "guess")
            .with("authorization", &expired),
        401,
        "token-expired",
    );
}

#[test]
fn all_of_several_methods_have_to_be_satisfied_and_the_first_says_who_it_is() {
    let both = Request::get("/all").with("x-api-key", ACME).with("authorization", &bearer());
    let fields = accepted(&both);
    assert_eq!(
        (&fields["x-partner"], &fields["x-caller"]),
        (&"acme".parse().unwrap(), &"7".parse().unwrap())
    );
    refused(&Request::get("/all").with("x-api-key", ACME), 401, "credentials-missing");
    refused(
        &Request::get("/all").with("authorization", &bearer()),
        401,
        "credentials-missing",
    );
    refused(
        &Request::get("/all")
            .with("x-api-key", "guess")
            .with("authorization", &bearer()),
        401,
        "api-key-invalid",
    );
}

const ISSUERS: &str = r#"
[upstreams.a]
endpoints = [{ url = "http://127.0.0.1:1" }]

[auth.one]
kind = "jwt"
issuer = "https://one.example"
algorithms = ["EdDSA"]
jwks = "https://one.example/jwks"

[auth.two]
kind = "jwt"
issuer = "https://two.example"
algorithms = ["EdDSA"]

[[routes]]
match = { path = "/one" }
auth = "one"
upstream = "a"

[[routes]]
match = { path = "/any" }
auth = ["one", "two"]
upstream = "a"
"#;

struct Issuer {
    name: &'static str,
    key: Ed25519KeyPair,
}

impl Issuer {
    fn new(name: &'static str) -> Self {
        let key = Ed25519KeyPair::generate().expect("the system has randomness");
        Self { name, key }
    }

    fn set(&self, id: &str) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x}]}).to_string()
    }

    fn request(&self, path: &str, id: &str) -> Request {
        let claims = json!({"sub": "7", "iss": self.name, "exp": UNIX + 86_400});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&json!({"alg": "EdDSA", "kid": id})), encode(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes()));
        Request::get(path).with("authorization", &format!("Bearer {message}.{signature}"))
    }
}

fn status(network: &mut Network, request: &Request) -> u16 {
    network.scripts.clear();
    network.script([Script::answers("a", 200, "")]);
    network.send(request).status
}

#[test]
fn an_issuers_keys_are_asked_for_once_and_then_confirmed() {
    let mut network = Network::new(&compile(ISSUERS));
    let issuer = Issuer::new("https://one.example");
    network.key_sets.insert("one", issuer.set("k"));
    for _ in 0..3 {
        assert_eq!(status(&mut network, &issuer.request("/one", "k")), 200);
    }
    assert_eq!((network.fetches.len(), network.verified), (1, 1));
    network.advance(Duration::from_secs(1));
    assert_eq!(status(&mut network, &issuer.request("/one", "k")), 200);
    assert_eq!(
        (network.fetches.len(), network.verified),
        (2, 1),
        "nothing changed, so the verdict holds"
    );
    assert!(network.fetches.iter().all(|fetch| !fetch.anew));
}

#[test]
fn an_unknown_key_is_asked_for_anew_once_a_request() {
    let mut network = Network::new(&compile(ISSUERS));
    let issuer = Issuer::new("https://one.example");
    network.key_sets.insert("one", issuer.set("old"));
    assert_eq!(status(&mut network, &issuer.request("/one", "old")), 200);
    let request = issuer.request("/one", "new");
    assert_eq!(network.send(&request).reason.as_deref(), Some("token-invalid"));
    assert_eq!(network.fetches.len(), 2);
    assert!(network.fetches[1].anew);
    network.key_sets.insert("one", issuer.set("new"));
    assert_eq!(status(&mut network, &request), 200);
}

#[test]
fn a_verdict_goes_with_the_key_that_it_was_found_with() {
    let mut network = Network::new(&compile(ISSUERS));
    let issuer = Issuer::new("https://one.example");
    network.key_sets.insert("one", issuer.set("k"));
    assert_eq!(status(&mut network, &issuer.request("/one", "k")), 200);
    network
        .key_sets
        .insert("one", Issuer::new("https://one.example").set("other"));
    network.advance(Duration::from_secs(1));
    assert_eq!(status(&mut network, &issuer.request("/one", "k")), 401);
}

#[test]
fn tokens_of_an_issuer_whose_keys_are_not_there_are_refused_with_503_and_others_are_not_touched() {
    let mut network = Network::new(&compile(ISSUERS));
    let (one, two) = (Issuer::new("https://one.example"), Issuer::new("https://two.example"));
    network.key_sets.insert("two", two.set("k"));
    assert_eq!(
        network.send(&one.request("/any", "k")).reason.as_deref(),
        Some("keys-unavailable")
    );
    network.fetches.clear();
    assert_eq!(status(&mut network, &two.request("/any", "k")), 200);
    assert!(
        network.fetches.iter().all(|fetch| fetch.set.0 == 1),
        "the other issuer was not asked for"
    );
}

#[test]
fn nonsense_is_not_worth_a_fetch() {
    let mut network = Network::new(&compile(ISSUERS));
    let other = Issuer::new("https://other.example");
    for request in [
        other.request("/one", "k"),
        Request::get("/one").with("authorization", "Bearer abc"),
        Request::get("/one").with("authorization", &bearer()),
    ] {
        assert_eq!(network.send(&request).reason.as_deref(), Some("token-invalid"));
    }
    assert!(network.fetches.is_empty());
}

#[test]
fn keys_that_were_fetched_hold_while_the_driver_knows_no_newer_ones() {
    let mut network = Network::new(&compile(ISSUERS));
    let issuer = Issuer::new("https://one.example");
    network.key_sets.insert("one", issuer.set("k"));
    assert_eq!(status(&mut network, &issuer.request("/one", "k")), 200);
    network.key_sets.clear();
    network.advance(Duration::from_secs(3600));
    assert_eq!(status(&mut network, &issuer.request("/one", "k")), 200);
}
