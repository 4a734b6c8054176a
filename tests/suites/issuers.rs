//! Tokens of real issuers: what PyJWT, jwcrypto and oidc-provider sign, checked by keys that are fetched from them. On the native engine and
//! on the built component, by either of its exports.

#![allow(clippy::unwrap_used, reason = "a suite that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::bank::Gateway;
use tests::eventually::eventually;
use tests::http::{get, send};
use tests::process::{Process, binary};

const ENGINES: [&str; 3] = ["native", "wasm", "edge"];

/// What signs and says where its keys are.
struct Issuer {
    process: Process,
    url: String,
}

impl Issuer {
    /// One that signs with a Python library.
    fn python(library: &str) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("issuers/issuer.py");
        let mut command = Command::new(tools().join("python/bin/python"));
        command.arg(program).arg(library);
        Self::start(library, &mut command)
    }

    /// A whole OpenID provider.
    fn provider() -> Self {
        let mut command = Command::new("node");
        command.arg(tools().join("provider.mjs"));
        Self::start("oidc-provider", &mut command)
    }

    fn start(name: &str, command: &mut Command) -> Self {
        let mut process = Process::start(name, command);
        let url = format!("http://127.0.0.1:{}", process.line_after("listening on "));
        Self { process, url }
    }

    fn ask(&self, path: &str) -> serde_json::Value {
        get(&format!("{}{path}", self.url), &[]).json()
    }

    fn token(&self, algorithm: &str) -> String {
        self.ask(&format!("/token?alg={algorithm}&sub=7"))["token"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

/// Where `cargo xtask test` installs the issuers.
fn tools() -> PathBuf {
    let folder = std::env::var_os("HEDDLE_ISSUERS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/issuers"));
    assert!(
        folder.join("installed").exists(),
        "{} has no issuers: `cargo xtask test` installs them",
        folder.display()
    );
    folder
}

/// A gateway that asks these `[auth]` sections, each on the path of its name.
fn gateway(engine: &str, auths: &[(&str, &str)]) -> (Gateway, tempfile::TempDir) {
    let mut config = String::new();
    for (name, lines) in auths {
        config += &format!(
            "[auth.{name}]\nkind = \"jwt\"\naudiences = [\"bank-api\"]\n{lines}\n\
             [[routes]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\nauth = \"{name}\"\n\
             respond = {{ status = 200, body = \"you are known\" }}\n"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, config).unwrap();
    (Gateway::start(Command::new(binary("native-host")), &file, engine), folder)
}

#[test]
fn every_algorithm_of_two_python_libraries_is_checked_by_fetched_keys() {
    for library in ["pyjwt", "jwcrypto"] {
        let issuer = Issuer::python(library);
        for engine in ENGINES {
            let url = &issuer.url;
            let auth = |more: &str| {
                format!("issuer = \"{url}\"\nalgorithms = [\"RS256\", \"PS256\", \"ES256\", \"ES384\", \"EdDSA\"]\n{more}")
            };
            let (gateway, _folder) = gateway(
                engine,
                &[("named", &auth(&format!("jwks = \"{url}/jwks\""))), ("discovered", &auth(""))],
            );
            for algorithm in ["RS256", "PS256", "ES256", "ES384", "EdDSA"] {
                let token = issuer.token(algorithm);
                for path in ["/named", "/discovered"] {
                    let answer = gateway.get(path, Some(&token));
                    let text = String::from_utf8_lossy(&answer.body);
                    assert_eq!(answer.status, 200, "{library} {engine} {algorithm} {path}: {text}");
                }
                // One bit of the signature's first byte.
                let (message, signature) = token.rsplit_once('.').unwrap();
                let other = if signature.starts_with('A') { "B" } else { "A" };
                let forged = format!("{message}.{other}{}", &signature[1..]);
                assert_eq!(
                    gateway.get("/named", Some(&forged)).status,
                    401,
                    "{library} {engine} {algorithm}"
                );
            }
        }
    }
}

#[test]
fn access_tokens_of_an_openid_provider_are_checked_by_discovered_keys() {
    let provider = Issuer::provider();
    let form = b"grant_type=client_credentials&scope=accounts:read";
    let fields = [
        ("authorization", "Basic YmFuazphLXNlY3JldC1vZi10aGlzLXRlc3Q="),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    let answer = send("POST", &format!("{}/token", provider.url), &fields, form).unwrap();
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    for engine in ENGINES {
        let auth = format!("issuer = \"{}\"\nalgorithms = [\"ES256\"]\n", provider.url);
        let (gateway, _folder) = gateway(engine, &[("customer", &auth)]);
        let answer = gateway.get("/customer", Some(&token));
        assert_eq!(answer.status, 200, "{engine}: {}", String::from_utf8_lossy(&answer.body));
    }
}

#[test]
fn a_rotated_key_is_found_and_its_predecessor_forgotten() {
    for engine in ENGINES {
        let issuer = Issuer::python("pyjwt");
        let auth = format!(
            "issuer = \"{url}\"\nalgorithms = [\"EdDSA\"]\njwks = \"{url}/jwks\"\njwks_cooldown = \"1s\"",
            url = issuer.url
        );
        let (gateway, _folder) = gateway(engine, &[("customer", &auth)]);
        let old = issuer.token("EdDSA");
        assert_eq!(gateway.get("/customer", Some(&old)).status, 200, "{engine}");
        issuer.ask("/rotate");
        let new = issuer.token("EdDSA");
        eventually(Duration::from_secs(20), || {
            match gateway.get("/customer", Some(&new)).status {
                200 => Ok(()),
                status => Err(format!("{engine}: {status} for a token of the new key")),
            }
        });
        eventually(Duration::from_secs(20), || {
            match gateway.get("/customer", Some(&old)).status {
                401 => Ok(()),
                status => Err(format!(
                    "{engine}: {status} for a token whose verdict was remembered and whose key is gone"
                )),
            }
        });
    }
}

#[test]
fn an_issuer_that_is_down_keeps_its_keys_and_disturbs_no_other() {
    for engine in ENGINES {
        let (one, other) = (Issuer::python("pyjwt"), Issuer::python("jwcrypto"));
        let auth = |url: &str| {
            format!(
                "algorithms = [\"EdDSA\"]\njwks = \"{url}/jwks\"\njwks_refresh = \"1s\"\njwks_cooldown = \"1s\"\njwks_timeout = \"1s\""
            )
        };
        // A listener that answers nothing: its issuer is the slowest that there is.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = format!("http://{}", silent.local_addr().unwrap());
        let (gateway, _folder) = gateway(
            engine,
            &[
                ("one", &auth(&one.url)),
                ("other", &auth(&other.url)),
                ("silent", &auth(&silent)),
            ],
        );
        let token = one.token("EdDSA");
        assert_eq!(gateway.get("/one", Some(&token)).status, 200, "{engine}");
        one.ask("/down");
        let failed = one.ask("/fetches")["fetches"].as_u64().unwrap() + 2;
        eventually(Duration::from_secs(20), || {
            if engine == "edge" {
                // Where nothing happens but for a request.
                assert_eq!(gateway.get("/one", Some(&token)).status, 200, "by kept keys");
            }
            match one.ask("/fetches")["fetches"].as_u64().unwrap() >= failed {
                true => Ok(()),
                false => Err("it is not asked again".to_owned()),
            }
        });
        assert_eq!(
            gateway.get("/one", Some(&one.token("EdDSA"))).status,
            200,
            "{engine}: a fresh token, by kept keys"
        );
        assert_eq!(gateway.get("/other", Some(&other.token("EdDSA"))).status, 200, "{engine}");
        let answer = gateway.get("/silent", Some(&token));
        assert_eq!(
            (answer.status, answer.json()["reason"].as_str()),
            (503, Some("keys-unavailable")),
            "{engine}"
        );
    }
}

#[test]
fn unknown_keys_are_asked_for_once_in_a_cooldown_however_many_ask() {
    for engine in ENGINES {
        let (issuer, stranger) = (Issuer::python("pyjwt"), Issuer::python("pyjwt"));
        let auth = format!(
            "algorithms = [\"ES256\"]\njwks = \"{}/jwks\"\njwks_cooldown = \"1h\"",
            issuer.url
        );
        let (gateway, _folder) = gateway(engine, &[("customer", &auth)]);
        assert_eq!(gateway.get("/customer", Some(&issuer.token("ES256"))).status, 200, "{engine}");
        stranger.ask("/rotate");
        let token = stranger.token("ES256");
        for _ in 0..20 {
            assert_eq!(gateway.get("/customer", Some(&token)).status, 401, "{engine}");
        }
        assert_eq!(issuer.ask("/fetches")["fetches"], 1, "{engine}: {}", issuer.process.output());
    }
}
