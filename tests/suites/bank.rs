//! The bank from end to end: the real component in the real host, a real mesh behind it.

#![allow(clippy::unwrap_used, reason = "a suite that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::bank::{ControlPlane, Gateway, free_port, repository, token};
use tests::eventually::eventually;
use tests::http::{get, send};
use tests::process::{Process, Signal, binary};

struct Bank {
    control: ControlPlane,
    accounts: Process,
    statements: Process,
    rates: Process,
    gateway: Gateway,
    folder: tempfile::TempDir,
}

impl Bank {
    fn open(engine: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = ControlPlane::start(folder.path(), "127.0.0.1:0", &[]);
        let accounts = control.service("accounts");
        let statements = control.service("statements");
        let port = free_port();
        let rates = control.wrapped("rates", port, &["python3", "examples/bank/rates/rates.py", &port.to_string()]);
        control.serves(&["accounts", "statements", "rates"]);
        let config = bank_config(folder.path(), &control.address);
        let gateway = Gateway::start(control.command("native-host"), &config, engine);
        Self {
            control,
            accounts,
            statements,
            rates,
            gateway,
            folder,
        }
    }

    fn overview(&self) -> Result<(), String> {
        let answer = self
            .gateway
            .get("/customers/7/overview", Some(&token("7", "accounts:read", 60)));
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status != 200 || answer.field("x-heddle-partial").is_some() {
            return Err(format!("{}: {body}", answer.status));
        }
        let body = answer.json();
        assert_eq!(body["customer"]["id"], 7, "{body}");
        assert!(
            body["account"].is_object() && body["statement"].is_array() && body["rates"].is_object(),
            "{body}"
        );
        Ok(())
    }
}

/// The bank's own config with this mesh's address, beside its schemas.
fn bank_config(folder: &Path, control: &str) -> std::path::PathBuf {
    let bank = repository().join("examples/bank");
    let text = std::fs::read_to_string(bank.join("gateway.toml")).unwrap();
    assert!(text.contains("http://127.0.0.1:7700"));
    let config = folder.join("gateway.toml");
    std::fs::write(&config, text.replace("http://127.0.0.1:7700", &format!("http://{control}"))).unwrap();
    std::fs::create_dir_all(folder.join("schemas")).unwrap();
    std::fs::copy(bank.join("schemas/transfer.json"), folder.join("schemas/transfer.json")).unwrap();
    config
}

fn the_bank_answers(engine: &str) {
    let mut bank = Bank::open(engine);
    eventually(Duration::from_secs(20), || bank.overview());

    let refused = bank.gateway.get("/customers/7/overview", None);
    assert_eq!(
        (refused.status, refused.field("content-type")),
        (401, Some("application/problem+json"))
    );
    let forged = format!("{}x", token("7", "accounts:read", 60));
    assert_eq!(bank.gateway.get("/accounts/42", Some(&forged)).status, 401);
    assert_eq!(
        bank.gateway
            .get("/accounts/42", Some(&token("7", "accounts:read", -60)))
            .status,
        401
    );
    assert_eq!(bank.gateway.get("/accounts/42", Some(&token("7", "other", 60))).status, 403);
    assert_eq!(bank.gateway.get("/nowhere", None).status, 404);
    let customer = token("7", "accounts:read", 60);
    for (path, status) in [("/customers/9/overview", 403), ("/customers/0/overview", 404)] {
        let refused = bank.gateway.get(path, Some(&customer));
        assert_eq!(refused.status, status, "{path}: {}", String::from_utf8_lossy(&refused.body));
    }

    let bearer = format!("Bearer {}", token("7", "transfers:write", 60));
    let fields = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let refused = send(
        "POST",
        &format!("{}/transfers", bank.gateway.url),
        &fields,
        br#"{"amount":"a lot"}"#,
    )
    .unwrap();
    let problem = refused.json();
    assert_eq!(refused.status, 422, "{problem}");
    assert!(
        problem["errors"]
            .as_array()
            .is_some_and(|errors| errors.iter().any(|error| error["pointer"] == "/amount")),
        "{problem}"
    );

    // Everyone leaves when asked, in any order a user may choose.
    for process in [
        &mut bank.gateway.process,
        &mut bank.rates,
        &mut bank.statements,
        &mut bank.accounts,
    ] {
        assert!(process.stop().success(), "{}", process.output());
    }
    assert!(bank.control.rows("endpoints").is_empty(), "who left has deregistered");
    assert!(bank.control.process.stop().success());
}

#[test]
fn the_component_combines_three_services_into_one_answer() {
    the_bank_answers("wasm");
}

#[test]
fn the_native_engine_combines_three_services_into_one_answer() {
    the_bank_answers("native");
}

#[test]
fn members_keep_calling_each_other_without_a_control_plane_and_rejoin_by_themselves() {
    let mut bank = Bank::open("native");
    eventually(Duration::from_secs(20), || bank.overview());
    let address = bank.control.address.clone();
    bank.control.process.kill();
    for _ in 0..20 {
        bank.overview().expect("what is known stays known");
    }
    bank.control = ControlPlane::start(bank.folder.path(), &address, &[]);
    bank.control.serves(&["accounts", "statements", "rates"]);
    bank.accounts.stop();
    bank.accounts = bank.control.service("accounts");
    eventually(Duration::from_secs(30), || bank.overview());
}

#[test]
fn identities_are_renewed_under_load_without_a_failed_request() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("control.toml");
    std::fs::write(&settings, "svid_ttl = \"10s\"\n").unwrap();
    let control = ControlPlane::start(folder.path(), "127.0.0.1:0", &["--config", settings.to_str().unwrap()]);
    let _accounts = control.service("accounts");
    let _statements = control.service("statements");
    control.serves(&["accounts", "statements"]);
    let gateway = Gateway::start(
        control.command("native-host"),
        &bank_config(folder.path(), &control.address),
        "native",
    );
    let ask = || match gateway.get("/accounts/42", Some(&token("7", "accounts:read", 60))).status {
        200 => Ok(()),
        status => Err(format!("{status}")),
    };
    eventually(Duration::from_secs(20), ask);
    let serials = || -> BTreeSet<String> {
        let shown = control.rows("identities");
        shown.iter().map(|row| row["serial"].as_str().unwrap().to_owned()).collect()
    };
    let issued = serials();
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(25) {
        ask().expect("no request fails while identities are renewed");
    }
    let renewed = serials();
    assert!(
        renewed.len() >= 3 && renewed.is_disjoint(&issued),
        "the identities were renewed meanwhile: {issued:?}, then {renewed:?}"
    );
}

#[test]
fn plaintext_and_strangers_get_no_answer_from_a_member() {
    let folder = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(folder.path(), "127.0.0.1:0", &[]);
    let _accounts = control.service("accounts");
    control.serves(&["accounts"]);
    let rows = control.rows("endpoints");
    let address = rows[0]["address"].as_str().unwrap();
    let answer = tests::http::raw(address, b"GET /customers/7 HTTP/1.1\r\nhost: accounts.mesh\r\n\r\n");
    assert!(!answer.contains("200"), "plaintext was answered: {answer}");
    assert!(
        !tests::http::raw(&control.address, b"GET / HTTP/1.1\r\nhost: control\r\n\r\n").starts_with("HTTP/"),
        "plaintext control"
    );
}

#[test]
fn a_wrapped_program_leaves_with_its_own_status() {
    let folder = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(folder.path(), "127.0.0.1:0", &[]);
    let port = free_port();
    let program = format!(
        "import http.server, threading, os\nthreading.Timer(1.5, lambda: os._exit(7)).start()\nhttp.server.HTTPServer(('127.0.0.1', {port}), http.server.BaseHTTPRequestHandler).serve_forever()"
    );
    let mut wrapper = control.wrapped("jobs", port, &["python3", "-c", &program]);
    assert_eq!(wrapper.ended(Duration::from_secs(30)).code(), Some(7), "{}", wrapper.output());
    assert!(control.rows("endpoints").is_empty(), "who left has deregistered");
}

#[test]
fn a_gateway_drains_what_is_in_flight() {
    let upstream = tests::upstream::Upstream::start(|_| {
        std::thread::sleep(Duration::from_millis(700));
        http::Response::new(axum::body::Body::from("late"))
    });
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    let text = format!(
        "[upstreams.slow]\nendpoints = [{{ url = \"{}\" }}]\n[[routes]]\nname = \"slow\"\nmatch = {{ path = \"/slow\" }}\nupstream = \"slow\"\n",
        upstream.url()
    );
    std::fs::write(&config, text).unwrap();
    let mut gateway = Gateway::start(Command::new(binary("native-host")), &config, "native");
    let url = format!("{}/slow", gateway.url);
    let request = std::thread::spawn(move || get(&url, &[]));
    eventually(Duration::from_secs(5), || {
        if upstream.seen().is_empty() {
            Err("no request is in flight")
        } else {
            Ok(())
        }
    });
    gateway.process.signal(Signal::TERM);
    let answer = request.join().unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"late".as_slice()));
    assert_eq!(gateway.process.ended(Duration::from_secs(10)).code(), Some(0));
}
