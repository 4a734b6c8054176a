//! What is wrong with an `[auth]`, or with a route's `auth`.

use gateway::{Gateway, Source};

const HASH: &str = "8d1fde3e812f6f2e7da16e8dbbe290a806f4608424c237f78886b81304c4c234";

fn errors(config: &str) -> String {
    let secret = |name: &str| (name == "SECRET").then(|| "a-secret-of-at-least-thirty-two-bytes".to_owned());
    match Gateway::compile(
        &Source::new("g.toml", config),
        &mut |_| Err("no such file".to_owned()),
        &secret,
    ) {
        Ok(_) => String::new(),
        Err(diagnostics) => diagnostics.to_string(),
    }
}

fn key(lines: &str) -> String {
    errors(&format!(
        "[auth.partner]\nkind = \"api-key\"\n{}",
        lines.replace("HASH", HASH)
    ))
}

fn jwt(lines: &str) -> String {
    errors(&format!("[auth.customer]\nkind = \"jwt\"\n{lines}"))
}

fn route(gateway: &str, auth: &str) -> String {
    errors(&format!(
        "[gateway]\n{gateway}\n[auth.customer]\nkind = \"jwt\"\nalgorithms = [\"HS256\"]\nsecret = \"${{SECRET}}\"\n         [auth.partner]\nkind = \"api-key\"\nkeys = [{{ name = \"a\", sha256 = \"{HASH}\" }}]\n         [upstreams.a]\nendpoints = [{{ url = \"http://127.0.0.1:1\" }}]\n[[routes]]\nmatch = {{ path = \"/a\" }}\nupstream = \"a\"\n{auth}"
    ))
}

#[track_caller]
fn assert_has(errors: &str, parts: &[&str]) {
    for part in parts {
        assert!(errors.contains(part), "{part:?} in\n{errors}");
    }
}

#[test]
fn a_key_is_a_name_and_a_hash_in_one_place() {
    assert_eq!(key("keys = [{ name = \"a\", sha256 = \"HASH\" }]\n"), "");
    assert_has(&key(""), &["`keys` is missing"]);
    assert_has(
        &key("keys = []\n"),
        &["g.toml:3:8: error: [auth.partner] needs 1 to 1000 keys", "openssl rand"],
    );
    let errors = key("keys = [{ name = \"a\", sha256 = \"my-secret-key\" }]\n");
    assert_has(&errors, &["g.toml:3:32: error: `sha256` is 64 hexadecimal digits"]);
    assert!(!errors.contains("my-secret-key"), "it may be the key itself");
    assert_has(
        &key("keys = [{ name = \"\", sha256 = \"HASH\" }]\n"),
        &["the name of a key is printable"],
    );
    assert_has(
        &key("keys = [{ name = \"a\", sha256 = \"HASH\" }, { name = \"b\", sha256 = \"HASH\" }]\n"),
        &["a key comes twice"],
    );
    assert_has(
        &key("header = \"x y\"\nkeys = [{ name = \"a\", sha256 = \"HASH\" }]\n"),
        &["g.toml:3:10: error: `x y` is not the name of a header field"],
    );
    assert_has(
        &key("header = \"x-key\"\nquery = \"key\"\nkeys = [{ name = \"a\", sha256 = \"HASH\" }]\n"),
        &["g.toml:4:9: error: a key is looked for in one place"],
    );
    assert_has(
        &key("keys = [{ name = \"a\", sha256 = \"HASH\", claims = { sub = \"b\" } }]\n"),
        &["`claims` has `sub`"],
    );
}

#[test]
fn a_kind_is_known() {
    assert_has(
        &errors("[auth.a]\nkind = \"apikey\"\n"),
        &["g.toml:2:8: error: `apikey` is not a kind", "did you mean `api-key`?"],
    );
    assert_has(&errors("[auth.a]\n"), &["[auth.a] has no `kind`"]);
}

#[test]
fn keys_are_fetched_from_where_nobody_else_can_answer() {
    for fine in [
        "algorithms = [\"ES256\"]\njwks = \"https://id.example/jwks.json\"\n",
        "algorithms = [\"ES256\"]\njwks = \"http://127.0.0.1:1/\"\njwks_refresh = \"1h\"\njwks_cooldown = \"1m\"\njwks_timeout = \"1s\"\n",
        "algorithms = [\"ES256\"]\nissuer = \"https://id.example/\"\n",
    ] {
        assert_eq!(jwt(fine), "");
    }
    assert_has(
        &jwt("algorithms = [\"ES256\"]\njwks = \"http://id.example/\"\n"),
        &[
            "g.toml:4:8: error: `jwks`: keys that come over plain HTTP can be anybody's",
            "https://",
        ],
    );
    assert_has(
        &jwt("algorithms = [\"ES256\"]\nissuer = \"bank\"\n"),
        &["g.toml:4:10: error: [auth.customer] names no keys, and its `issuer` cannot say where they are"],
    );
    assert_has(
        &jwt("algorithms = [\"HS256\"]\njwks = \"https://id.example/\"\n"),
        &["`jwks` has public keys, which HS256"],
    );
    assert_has(
        &jwt("algorithms = [\"ES256\"]\njwks = \"https://id.example/\"\njwks_file = \"keys.json\"\n"),
        &["more than one place"],
    );
    assert_has(
        &jwt("algorithms = [\"ES256\"]\njwks = \"https://id.example/\"\njwks_cooldown = \"1ms\"\n"),
        &["g.toml:5:17: error: `jwks_cooldown` is 1ms, expected 1s to 1h"],
    );
    assert_has(
        &jwt("algorithms = [\"HS256\"]\nsecret = \"${SECRET}\"\njwks_refresh = \"1m\"\n"),
        &["g.toml:5:16: error: `jwks_refresh` has no effect"],
    );
}

#[test]
fn a_route_believes_those_that_are_there() {
    for fine in ["customer\"", "none\"", "partner\""] {
        assert_eq!(route("", &format!("auth = \"{fine}\n")), "");
    }
    assert_eq!(route("default_auth = \"customer\"", ""), "");
    assert_eq!(route("", "auth = [\"customer\", \"partner\"]\n"), "");
    assert_eq!(route("", "auth = { all = [\"customer\", \"partner\"] }\n"), "");
    assert_has(
        &route("", "auth = \"custmer\"\n"),
        &["g.toml:15:8: error: there is no auth `custmer`", "did you mean `customer`?"],
    );
    assert_has(
        &route("", "auth = [\"customer\", \"x\"]\n"),
        &["g.toml:15:21: error: there is no auth `x`", "add [auth.x]"],
    );
    assert_has(&route("", "auth = []\n"), &["`auth` names nobody", "auth = \"none\""]);
    assert_has(&route("", "auth = [\"customer\", \"none\"]\n"), &["`none` stands alone"]);
    assert_has(
        &route("", "auth = [\"customer\", \"customer\"]\n"),
        &["`customer` comes twice"],
    );
    assert_has(&route("", "auth = { any = [\"customer\"] }\n"), &["unknown key `any`"]);
    assert_has(&route("", "auth = 7\n"), &["the name of an [auth], a list of them"]);
    assert_has(
        &route("default_auth = \"x\"", ""),
        &["g.toml:2:16: error: there is no auth `x`"],
    );
    assert_has(&errors("[auth.none]\nkind = \"jwt\"\n"), &["cannot be called `none`"]);
}

#[test]
fn what_only_a_caller_can_say_needs_one() {
    let set = |value: &str| format!("headers = {{ request = {{ set = {{ x-a = \"{value}\" }} }} }}\n");
    assert_has(&route("", &set("{claim.sub}")), &["{claim.sub} needs a verified caller"]);
    assert_has(
        &route("", &format!("auth = \"customer\"\n{}", set("{api-key.name}"))),
        &["{api-key.name} needs an API key"],
    );
    assert_eq!(
        route("", &format!("auth = [\"customer\", \"partner\"]\n{}", set("{api-key.name}"))),
        ""
    );
    assert_has(
        &route(
            "default_auth = \"customer\"",
            "auth = \"none\"\nrequire = { scopes = [\"a\"] }\n",
        ),
        &["`require` asks for claims, but the route has no `auth`"],
    );
    assert_eq!(route("default_auth = \"customer\"", "require = { scopes = [\"a\"] }\n"), "");
}
