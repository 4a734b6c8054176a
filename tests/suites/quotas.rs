//! Quotas that several gateways share through a real Redis: exact while it answers, and as the config says while it does not. On the
//! native engine and on the built component.

#![allow(clippy::unwrap_used, reason = "a suite that cannot be set up has failed")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tests::bank::{Gateway, free_port};
use tests::eventually::eventually;
use tests::http::{Answer, get};
use tests::process::{Process, Signal, binary};

const ENGINES: [&str; 2] = ["native", "wasm"];

/// A Redis on a port of its own.
struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    fn start(port: u16) -> Self {
        Self::with(port, &["--port", &port.to_string()])
    }

    fn with(port: u16, settings: &[&str]) -> Self {
        let root = root();
        let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        let mut command = Command::new(root.join("usr/bin/redis-server"));
        command
            .env("LD_LIBRARY_PATH", root.join(libraries))
            .args(["--bind", "127.0.0.1", "--requirepass", "pw"])
            .args(["--save", "", "--appendonly", "no"])
            .args(settings);
        let process = Process::start("redis-server", &mut command);
        eventually(Duration::from_secs(30), || {
            match process.output().contains("Ready to accept") {
                true => Ok(()),
                false => Err(process.output()),
            }
        });
        Self { process, port }
    }

    fn url(&self) -> String {
        format!("redis://:pw@127.0.0.1:{}", self.port)
    }
}

/// Where `cargo xtask test` unpacks it.
fn root() -> PathBuf {
    let root = std::env::var_os("HEDDLE_DATABASES").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/databases/root"));
    assert!(
        root.join("usr/bin/redis-server").exists(),
        "{} has no Redis: `cargo xtask test` unpacks it",
        root.display()
    );
    root
}

struct Shared {
    gateway: Gateway,
    _folder: tempfile::TempDir,
}

impl Shared {
    /// A gateway whose route `/` admits three requests an hour, `/own` as many for this process alone, and `/both` has both limits.
    fn start(engine: &str, store: &str) -> Self {
        Self::with(Command::new(binary("native-host")), engine, store)
    }

    fn with(host: Command, engine: &str, store: &str) -> Self {
        let config = format!(
            "[gateway]\nquotas = {{ {store} }}\n\
             [[routes]]\nname = \"shared\"\nmatch = {{ path = \"/\" }}\nrespond = {{ status = 200 }}\n\
             rate_limit = {{ limit = 3, window = \"1h\" }}\n\
             [[routes]]\nname = \"own\"\nmatch = {{ path = \"/own\" }}\nrespond = {{ status = 200 }}\n\
             rate_limit = {{ limit = 3, window = \"1h\", shared = false }}\n\
             [[routes]]\nname = \"both\"\nmatch = {{ path = \"/both\" }}\nrespond = {{ status = 200 }}\n\
             rate_limit = [{{ name = \"own\", limit = 100, window = \"1h\", shared = false }}, {{ name = \"all\", limit = 2, window = \"1h\" }}]\n"
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, config).unwrap();
        let gateway = Gateway::start(host, &file, engine);
        Self {
            gateway,
            _folder: folder,
        }
    }

    /// One whose store answers already.
    fn connected(engine: &str, store: &str) -> Self {
        let shared = Self::start(engine, store);
        shared.says("the store of the quotas answers", 1);
        shared
    }

    /// Waits until its log says this so often.
    fn says(&self, what: &str, times: usize) {
        eventually(Duration::from_secs(30), || {
            let output = self.gateway.process.output();
            match output.matches(what).count() >= times {
                true => Ok(()),
                false => Err(output),
            }
        });
    }

    fn ask(&self, path: &str) -> Answer {
        get(&format!("{}{path}", self.gateway.url), &[])
    }

    fn statuses(&self, path: &str, times: usize) -> Vec<u16> {
        (0..times).map(|_| self.ask(path).status).collect()
    }
}

/// Why the gateway answered itself.
fn reason(answer: &Answer) -> Option<String> {
    answer.json()["reason"].as_str().map(str::to_owned)
}

#[test]
fn gateways_share_a_quota_whatever_their_engines_are() {
    let redis = Redis::start(free_port());
    let store = format!("redis = \"{}\", timeout = \"5s\"", redis.url());
    let gateways = ENGINES.map(|engine| Shared::connected(engine, &store));
    assert_eq!(gateways[0].statuses("/", 2), [200, 200]);
    assert_eq!(gateways[1].statuses("/", 2), [200, 429]);
    let refused = gateways[0].ask("/");
    assert_eq!((refused.status, reason(&refused).as_deref()), (429, Some("rate-limited")));
    assert!(
        refused.field("ratelimit").unwrap().starts_with("\"3-per-1h\";r=0;t=3"),
        "{refused:?}"
    );
    assert!(refused.field("retry-after").is_some());
    for gateway in &gateways {
        assert_eq!(gateway.statuses("/own", 4), [200, 200, 200, 429], "a quota of its own");
    }
    // A limit that refuses charges no other, wherever that is kept.
    assert_eq!(gateways[0].statuses("/both", 3), [200, 200, 429]);
    let refused = gateways[0].ask("/both");
    assert!(refused.field("ratelimit").unwrap().contains("\"own\";r=98"), "{refused:?}");
}

#[test]
fn many_gateways_at_once_admit_not_one_more() {
    let redis = Redis::start(free_port());
    let store = format!("redis = \"{}\", timeout = \"5s\"", redis.url());
    let gateways = [Shared::connected("native", &store), Shared::connected("native", &store)];
    let admitted: usize = std::thread::scope(|scope| {
        let clients = gateways.iter().cycle().take(8);
        let clients: Vec<_> = clients.map(|gateway| scope.spawn(|| gateway.statuses("/", 10))).collect();
        let statuses = clients.into_iter().flat_map(|client| client.join().unwrap());
        statuses.filter(|status| *status == 200).count()
    });
    assert_eq!(admitted, 3);
}

#[test]
fn without_the_store_each_gateway_counts_for_itself_or_lets_in_or_refuses() {
    let redis = Redis::start(free_port());
    let (port, url) = (redis.port, redis.url());
    let with = |when_down: &str| format!("redis = \"{url}\", timeout = \"5s\", when_down = \"{when_down}\"");
    let [local, wasm] = ENGINES.map(|engine| Shared::connected(engine, &with("local")));
    let [open, closed] = ["open", "closed"].map(|when_down| Shared::connected("native", &with(when_down)));
    assert_eq!(local.ask("/").status, 200);
    drop(redis);
    assert_eq!(local.statuses("/", 4), [200, 200, 200, 429]);
    assert_eq!(wasm.statuses("/", 4), [200, 200, 200, 429]);
    assert_eq!(open.statuses("/", 5), [200; 5]);
    assert_eq!(open.ask("/").field("ratelimit"), None, "nobody knows");
    let refused = closed.ask("/");
    assert_eq!(
        (refused.status, reason(&refused).as_deref()),
        (503, Some("quotas-unavailable"))
    );
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert_eq!(closed.ask("/own").status, 200, "what is not shared needs no store");
    // And with a store again, which has forgotten what it knew.
    let _redis = Redis::start(port);
    closed.says("the store of the quotas answers", 2);
    assert_eq!(closed.statuses("/", 4), [200, 200, 200, 429]);
}

#[test]
fn a_store_that_hangs_holds_up_a_request_for_no_longer_than_it_may() {
    // It takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = |when_down: &str| {
        let address = silent.local_addr().unwrap();
        format!("redis = \"redis://{address}\", timeout = \"1s\", when_down = \"{when_down}\"")
    };
    for engine in ENGINES {
        let gateway = Shared::start(engine, &store("closed"));
        let began = Instant::now();
        assert_eq!(gateway.statuses("/", 20), [503; 20]);
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "nobody waits for it: {:?}",
            began.elapsed()
        );
    }
}

#[test]
fn a_store_that_stops_answering_is_waited_for_once() {
    let redis = Redis::start(free_port());
    let store = format!("redis = \"{}\", timeout = \"1s\", when_down = \"closed\"", redis.url());
    let gateway = Shared::connected("native", &store);
    assert_eq!(gateway.ask("/").status, 200);
    redis.process.signal(Signal::STOP);
    let began = Instant::now();
    assert_eq!(gateway.statuses("/", 20), [503; 20]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    redis.process.signal(Signal::CONT);
    eventually(Duration::from_secs(30), || match gateway.ask("/own").status {
        200 => Ok(()),
        status => Err(format!("{status}")),
    });
    gateway.says("the store of the quotas answers", 2);
    assert!([200, 429].contains(&gateway.ask("/").status));
}

#[test]
fn a_store_that_wants_another_password_is_told_and_nobody_is_let_in_by_it() {
    let redis = Redis::start(free_port());
    let store = format!(
        "redis = \"redis://:sesame-7@127.0.0.1:{}\", when_down = \"closed\"",
        redis.port
    );
    let gateway = Shared::start("native", &store);
    gateway.says("the store of the quotas cannot be reached", 1);
    assert!(
        !gateway.gateway.process.output().contains("sesame"),
        "{}",
        gateway.gateway.process.output()
    );
    assert_eq!(gateway.ask("/").status, 503);
    let config = get(&format!("{}/config", gateway.gateway.admin), &[]);
    assert!(
        !String::from_utf8_lossy(&config.body).contains("sesame"),
        "{}",
        String::from_utf8_lossy(&config.body)
    );
}

#[test]
fn a_store_is_asked_over_tls_where_its_url_says_so_and_only_where_its_certificate_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap().pem();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (write("cert.pem", &certificate), write("key.pem", &key.serialize_pem()));
    let port = free_port();
    let tls_port = port.to_string();
    let settings = ["--port", "0", "--tls-port", &tls_port, "--tls-auth-clients", "no"];
    let files = [
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &certificate,
    ];
    let _redis = Redis::with(port, &[&settings[..], &files[..]].concat());
    let store = format!("redis = \"rediss://:pw@127.0.0.1:{port}\", timeout = \"5s\", when_down = \"closed\"");
    let mut host = Command::new(binary("native-host"));
    host.env("SSL_CERT_FILE", &certificate);
    let gateway = Shared::with(host, "native", &store);
    gateway.says("the store of the quotas answers", 1);
    assert_eq!(gateway.statuses("/", 4), [200, 200, 200, 429]);
    let stranger = Shared::start("native", &store);
    stranger.says("the store of the quotas cannot be reached", 1);
    assert_eq!(stranger.ask("/").status, 503);
}
