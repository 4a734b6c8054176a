//! What is wrong with a config is told at once, each mistake with its place and its mend.

use gateway::{Gateway, Source};

const UPSTREAM: &str = "[upstreams.accounts]\nendpoints = [{ url = \"http://127.0.0.1:1\" }]\n";

fn read(path: &str) -> Result<Vec<u8>, String> {
    match path {
        "ok.json" => Ok(b"{\"type\":\"object\"}".to_vec()),
        "broken.json" => Ok(b"{\"type\":\"objet\"}".to_vec()),
        "text.json" => Ok(b"hello".to_vec()),
        "private.pem" => Ok(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec()),
        "empty.jwks" => Ok(b"{\"keys\":[]}".to_vec()),
        _ => Err("no such file".to_owned()),
    }
}

fn variable(name: &str) -> Option<String> {
    (name == "SECRET").then(|| "a-secret-of-at-least-thirty-two-bytes".to_owned())
}

fn compile(config: &str) -> Result<Gateway, String> {
    Gateway::compile(&Source::new("g.toml", config), &mut read, &variable).map_err(|diagnostics| diagnostics.to_string())
}

fn errors(config: &str) -> String {
    compile(config).expect_err("it has a mistake")
}

/// The mistakes of a route, which is the file's sixth line and on.
fn route(route: &str) -> String {
    errors(&format!("{UPSTREAM}\n\n[[routes]]\n{route}"))
}

fn auth(auth: &str) -> String {
    errors(&format!("[auth.customer]\n{auth}"))
}

#[track_caller]
fn assert_has(errors: &str, parts: &[&str]) {
    for part in parts {
        assert!(errors.contains(part), "{part:?} in\n{errors}");
    }
}

#[test]
fn a_config_with_everything_compiles() {
    let config = r#"
[gateway]
name = "bank"
listen = "127.0.0.1:0"
admin = "[::1]:0"
trusted_proxies = ["10.0.0.0/8", "::1"]
max_header = "32KiB"
max_uri = "4KiB"
max_body = "2MiB"
drain = "10s"

[mesh]
control = "http://127.0.0.1:7700"
ingress = "https://mesh.bank.example"
handoff_key = "${SECRET}"

[upstreams.accounts]
mesh = "accounts"

[upstreams.rates]
endpoints = [{ url = "http://127.0.0.1:9101", weight = 90 }, { url = "http://127.0.0.1:9102", weight = 10 }]
balance = "peak-ewma"
outlier = { consecutive_failures = 5, ejection = "10s", max_ejected = 0.5 }
breaker = { max_requests = 1024, max_pending = 256 }

[auth.customer]
kind = "jwt"
issuer = "https://id.bank.example/"
audiences = ["bank-api"]
algorithms = ["HS256"]
secret = "${SECRET}"
leeway = "30s"

[[routes]]
name = "account"
match = [{ path = "/accounts/{id}", methods = ["GET"] }, { path = "/konten/{id}" }]
auth = "customer"
require = { scopes = ["accounts:read"], claims = { tier = ["gold", "silver"], level = 3 } }
rate_limit = [{ limit = 100, window = "1m", key = "claim.sub" }, { name = "all", limit = 1000, window = "1s", burst = 50 }]
split = [{ upstream = "accounts", weight = 95 }, { upstream = "rates", weight = 5 }]
rewrite = { path = "/v2/accounts/{id}", host = "accounts.internal" }
headers = { request = { set = { x-customer = "{claim.sub}" }, remove = ["cookie"] }, response = { add = { x-served-by = "bank" } } }
timeout = "2s"
retry = { attempts = 2, on = ["connect-failure", "reset", "502", "503", "504"], per_try_timeout = "500ms", backoff = "25ms..250ms", budget = 0.2 }

[[routes]]
name = "transfer"
match = { path = "/transfers", methods = ["POST"] }
upstream = "accounts"
validate = { body = "ok.json", content_types = ["application/json"], max_body = "64KiB" }

[[routes]]
name = "overview"
match = { path = "/customers/{id}/overview", methods = ["GET"] }
[routes.aggregate]
timeout = "1s"
branches = [
  { as = "customer", upstream = "accounts", path = "/customers/{id}", required = true },
  { as = "rates", upstream = "rates", path = "/rates?of={customer.currency}", fallback = [], timeout = "300ms" },
]

[[routes]]
match = { path = "/old/{*rest}" }
redirect = { path = "/new/{rest}", status = 308 }

[[routes]]
match = { path = "/healthz" }
respond = { status = 200, body = "ok" }
"#;
    let gateway = compile(config).unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<_> = gateway.routes().iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["account", "transfer", "overview", "route-4", "route-5"]);
    assert_eq!(
        gateway.upstreams().iter().map(|upstream| &*upstream.name).collect::<Vec<_>>(),
        ["accounts", "rates"]
    );
    assert_eq!(gateway.keys().len(), 1);
    let settings = gateway.settings();
    assert_eq!(
        (settings.name.as_str(), settings.max_header, settings.max_body),
        ("bank", 32 << 10, 2 << 20)
    );
    let mesh = settings.mesh.as_ref().unwrap();
    assert_eq!(mesh.handoff_key.as_ref().unwrap().reveal().len(), 37);
    assert!(!format!("{gateway:?}").contains("thirty-two"), "no secret in a debug print");
    let listed: Vec<_> = gateway.listing().iter().map(ToString::to_string).collect();
    assert!(
        listed[0].contains("/customers/{id}/overview") && listed[0].contains("aggregate { customer: accounts, rates: rates }"),
        "{listed:#?}"
    );
    assert!(
        listed
            .iter()
            .any(|line| line.contains("account  auth customer  → accounts | rates")),
        "{listed:#?}"
    );
}

#[test]
fn defaults_are_as_documented() {
    let gateway = compile("").unwrap();
    let settings = gateway.settings();
    assert_eq!(settings.name, "gateway");
    assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.admin.to_string(), "127.0.0.1:9901");
    assert_eq!(
        (
            settings.max_header,
            settings.max_uri,
            settings.max_body,
            settings.drain.as_secs()
        ),
        (65_536, 16_384, 1 << 20, 30)
    );
    assert!(settings.mesh.is_none());
}

#[test]
fn mistakes_of_every_section_are_told_in_one_run_in_their_order() {
    let errors = errors(
        "[gateway]\nlisten = \"localhost\"\ncolour = 1\n[upstreams.a]\n[auth.x]\nkind = \"jwt\"\nalgorithms = [\"none\"]\nsecret = \"s\"\n\
         [[routes]]\nmatch = { path = \"a\" }\nupstream = \"b\"\nauth = \"y\"\n[routs]\n",
    );
    let places: Vec<_> = errors
        .lines()
        .filter(|line| line.starts_with("g.toml"))
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        places,
        [
            "g.toml:2:10",
            "g.toml:3:1",
            "g.toml:4:12",
            "g.toml:7:15",
            "g.toml:10:18",
            "g.toml:11:12",
            "g.toml:12:8",
            "g.toml:13:2"
        ]
    );
}

#[test]
fn names_that_nobody_has_are_told_with_the_nearest_one() {
    assert_has(
        &route("match = { path = \"/a\" }\nupstream = \"acounts\"\n"),
        &[
            "g.toml:7:12: error: there is no upstream `acounts`",
            "did you mean `accounts`?",
        ],
    );
    assert_has(
        &route("match = { path = \"/a\" }\nupstream = \"accounts\"\nauth = \"customer\"\n"),
        &["g.toml:8:8: error: there is no auth `customer`", "add [auth.customer]"],
    );
    assert_has(
        &route("match = { path = \"/a\" }\nupstrem = \"accounts\"\n"),
        &["unknown key `upstrem`", "did you mean `upstream`?"],
    );
}

#[test]
fn a_route_does_one_thing() {
    assert_has(
        &route("match = { path = \"/a\" }\n"),
        &["route `route-1` does nothing", "`upstream`, `split`"],
    );
    assert_has(
        &route("match = { path = \"/a\" }\nupstream = \"accounts\"\nrespond = { status = 200 }\n"),
        &["g.toml:8:11: error: route `route-1` does two things"],
    );
    assert_has(
        &route("match = { path = \"/a\" }\nrespond = { status = 200 }\nretry = { attempts = 2 }\n"),
        &["`retry` has no effect"],
    );
    assert_has(&route("match = []\nupstream = \"accounts\"\n"), &["`match` is empty"]);
}

#[test]
fn names_of_routes_are_unique() {
    let errors = errors(
        "[[routes]]\nname = \"a\"\nmatch = { path = \"/a\" }\nrespond = { status = 200 }\n[[routes]]\nname = \"a\"\nmatch = { path = \"/b\" }\nrespond = { status = 200 }\n",
    );
    assert_has(&errors, &["g.toml:6:8: error: a second route is called `a`"]);
}

#[test]
fn a_route_that_can_never_be_reached_is_a_mistake() {
    let errors = errors(
        "[[routes]]\nname = \"a\"\nmatch = { path = \"/a/{x}\" }\nrespond = { status = 200 }\n[[routes]]\nname = \"b\"\nmatch = { path = \"/a/{y}\" }\nrespond = { status = 200 }\n",
    );
    assert_has(&errors, &["g.toml:7:9: error: route `b` can never be reached", "`a`"]);
}

#[test]
fn algorithms_are_pinned_known_and_of_one_kind() {
    assert_has(
        &auth("kind = \"jwt\"\nsecret = \"${SECRET}\"\n"),
        &["`algorithms` is missing"],
    );
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = []\nsecret = \"${SECRET}\"\n"),
        &["`algorithms` is empty"],
    );
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = [\"none\"]\nsecret = \"${SECRET}\"\n"),
        &["g.toml:3:15: error: `none` is not an algorithm", "known here: HS256"],
    );
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = [\"HS265\"]\nsecret = \"${SECRET}\"\n"),
        &["did you mean `HS256`?"],
    );
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = [\"HS256\", \"ES256\"]\nsecret = \"${SECRET}\"\n"),
        &["some with a secret (HS…) and some with a public key"],
    );
}

#[test]
fn keys_fit_their_algorithms_and_their_place() {
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = [\"ES256\"]\nsecret = \"${SECRET}\"\n"),
        &["g.toml:4:10: error: `secret` goes with HS256"],
    );
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = [\"HS256\"]\nkey_file = \"x.pem\"\n"),
        &["`key_file` is a public key"],
    );
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = [\"ES256\"]\n"),
        &["g.toml:1:7: error: [auth.customer] has no key"],
    );
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = [\"ES256\"]\nkey_file = \"a\"\njwks_file = \"b\"\n"),
        &["more than one place"],
    );
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = [\"ES256\"]\nkey_file = \"gone.pem\"\n"),
        &["g.toml:4:12: error: the keys of [auth.customer] in `gone.pem`: no such file"],
    );
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = [\"ES256\"]\nkey_file = \"private.pem\"\n"),
        &["this is a private key"],
    );
    assert_has(
        &auth("kind = \"jwt\"\nalgorithms = [\"ES256\"]\njwks_file = \"empty.jwks\"\n"),
        &["no key of this set checks signatures by ES256"],
    );
    let errors = auth("kind = \"jwt\"\nalgorithms = [\"HS512\"]\nsecret = \"${SECRET}\"\n");
    assert_has(&errors, &["the secret has 37 bytes", "64"]);
    assert!(!errors.contains("thirty-two-bytes"), "a message never quotes a secret");
    let errors = auth("kind = \"jwt\"\nalgorithms = [\"HS256\"]\nsecret = \"${MISSING}\"\n");
    assert_has(&errors, &["the variable `MISSING` is not set"]);
    assert!(!errors.contains("bytes"), "what is not there has no length:\n{errors}");
}

#[test]
fn a_schema_is_checked_when_the_config_is_and_names_its_route() {
    let with = |path: &str| {
        route(&format!(
            "name = \"transfer\"\nmatch = {{ path = \"/a\" }}\nupstream = \"accounts\"\nvalidate = {{ body = \"{path}\" }}\n"
        ))
    };
    assert_has(
        &with("gone.json"),
        &["g.toml:9:21: error: the schema `gone.json` of route `transfer`: no such file"],
    );
    assert_has(&with("broken.json"), &["of route `transfer`: at /type"]);
    assert_has(&with("text.json"), &["is not JSON"]);
    assert_has(
        &route("match = { path = \"/a\" }\nupstream = \"accounts\"\nvalidate = { content_types = [\"json\"] }\n"),
        &["`json` is not a media type"],
    );
}

#[test]
fn templates_refer_to_what_is_there() {
    let with = |set: &str| {
        route(&format!(
            "match = {{ path = \"/a/{{id}}\" }}\nupstream = \"accounts\"\nheaders = {{ request = {{ set = {{ x = \"{set}\" }} }} }}\n"
        ))
    };
    assert_has(&with("{di}"), &["{di} is not a parameter of the path", "did you mean `id`?"]);
    assert_has(
        &with("{claim.sub}"),
        &["g.toml:8:37: error: {claim.sub} needs a verified caller", "add auth"],
    );
    assert_has(&with("{customer.id}"), &["`{customer.id}` refers to nothing"]);
    assert_has(&with("{id"), &["a brace without its other one"]);
    assert_has(
        &route("match = { path = \"/a\" }\nupstream = \"accounts\"\nrequire = { scopes = [\"x\"] }\n"),
        &["`require` asks for claims, but the route has no `auth`"],
    );
}

fn aggregate(branches: &str) -> String {
    route(&format!(
        "match = {{ path = \"/a/{{id}}\" }}\n[routes.aggregate]\nbranches = [\n{branches}\n]\n"
    ))
}

#[test]
fn branches_that_wait_for_each_other_are_told_with_their_circle() {
    let errors = aggregate(
        "{ as = \"z\", upstream = \"accounts\", path = \"/{a.x}\" },\n{ as = \"a\", upstream = \"accounts\", path = \"/{b.x}\" },\n{ as = \"b\", upstream = \"accounts\", path = \"/{a.x}\" },",
    );
    assert_has(&errors, &["g.toml:10:43: error: branches wait for each other: a → b → a"]);
    assert_has(
        &aggregate("{ as = \"a\", upstream = \"accounts\", path = \"/{a.x}\" }"),
        &["a → a"],
    );
}

#[test]
fn branches_are_named_once_and_refer_to_each_other() {
    let twice = "{ as = \"a\", upstream = \"accounts\", path = \"/\" },\n{ as = \"a\", upstream = \"accounts\", path = \"/\" }";
    assert_has(&aggregate(twice), &["g.toml:10:8: error: a second branch is called `a`"]);
    assert_has(
        &aggregate("{ as = \"customer\", upstream = \"accounts\", path = \"/{custmer.id}\" }"),
        &["there is no branch `custmer`", "did you mean `customer`?"],
    );
    assert_has(
        &aggregate("{ as = \"claim\", upstream = \"accounts\", path = \"/\" }"),
        &["a branch cannot be called `claim`"],
    );
    assert_has(
        &aggregate("{ as = \"a\", upstream = \"gone\", path = \"x\" }"),
        &["there is no upstream `gone`", "`x` is not a path"],
    );
    assert_has(
        &aggregate("{ as = \"a\", upstream = \"accounts\", path = \"/\", required = true, fallback = 1 }"),
        &["nothing can stand in for it"],
    );
    assert_has(&aggregate(""), &["1 to 32 branches"]);
}

#[test]
fn settings_that_are_none_say_how_they_are_written() {
    assert_has(
        &errors("[gateway]\nname = \"The Bank\"\n"),
        &["`The Bank` is not a name that a service can have"],
    );
    assert_has(
        &errors("[gateway]\nadmin = \"9901\"\n"),
        &["write admin = \"127.0.0.1:9901\""],
    );
    assert_has(
        &errors("[gateway]\ntrusted_proxies = [\"10.0.0.0/40\"]\n"),
        &["`10.0.0.0/40` is not a block of addresses"],
    );
    assert_has(&errors("[gateway]\nmax_header = \"1B\"\n"), &["expected 1KiB to 1MiB"]);
    assert_has(&errors("[gateway]\nmax_uri = \"1MiB\"\n"), &["expected 256B to 64KiB"]);
    assert_has(&errors("[mesh]\ncontrol = \"127.0.0.1\"\n"), &["is not the URL of a server"]);
}

#[test]
fn anything_but_a_config_is_an_error_and_never_a_crash() {
    for text in [
        "\0",
        "[",
        "[[routes]]",
        "routes = 1",
        "auth = []",
        "[auth]\nx = 1",
        "[[upstreams]]",
        "[routes]\n",
        "gateway = 3",
        "\u{feff}[gateway]",
    ] {
        let _ = compile(text);
    }
}

proptest::proptest! {
    #[test]
    fn a_config_with_a_part_cut_out_compiles_or_is_refused_with_words(from in 0_usize..700, length in 0_usize..40) {
        let config = format!(
            "{UPSTREAM}[auth.c]\nkind = \"jwt\"\nalgorithms = [\"HS256\"]\nsecret = \"${{SECRET}}\"\n[[routes]]\nname = \"a\"\n\
             match = {{ hosts = [\"*.a.b\"], path = \"/a/{{id}}/{{*r}}\", query = {{ v = {{ regex = \"x+\" }} }} }}\nauth = \"c\"\nupstream = \"accounts\"\n\
             rewrite = {{ path = \"/{{r}}\" }}\nheaders = {{ request = {{ set = {{ x = \"{{claim.a.b}}\" }} }} }}\nvalidate = {{ body = \"ok.json\" }}\n\
             [[routes]]\nmatch = {{ path = \"/b\" }}\n[routes.aggregate]\nbranches = [{{ as = \"x\", upstream = \"accounts\", path = \"/{{header.y}}\" }}]\n"
        );
        let start = from.min(config.len());
        let end = (start + length).min(config.len());
        let cut = format!("{}{}", &config[..start], &config[end..]);
        if let Err(errors) = compile(&cut) {
            proptest::prop_assert!(errors.starts_with("g.toml:"));
        }
    }
}
