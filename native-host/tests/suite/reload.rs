//! The config changes while requests are served.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use native_host::EngineKind;
use rustls::HandshakeKind;
use rustls::version::TLS13;

use crate::support::authority::{Authority, connect};
use crate::support::guest::{built, misbehaving};
use crate::support::{Client, Gateway, Upstream, eventually, everything_to, gateway, gateway_in, gateway_with, ok};

const SAYS: &str = "[[routes]]\nname = \"all\"\nmatch = { path_prefix = \"/\" }\nrespond = { status = 200, body = ";

fn says(word: &str) -> String {
    format!("{SAYS}\"{word}\" }}\n")
}

fn write(gateway: &Gateway, config: &str) {
    std::fs::write(gateway.folder().join("gateway.toml"), config).unwrap();
}

fn said_by(gateway: &Gateway) -> String {
    gateway.get("/").text().to_owned()
}

fn eventually_says(gateway: &Gateway, word: &str) {
    eventually(word, || (said_by(gateway) == word).then_some(()));
}

fn metric(gateway: &Gateway, name: &str) -> String {
    let metrics = gateway.admin("/metrics");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}: {}", metrics.text())).to_owned()
}

/// The cores serve with a config a moment before it is counted.
fn eventually_measures(gateway: &Gateway, name: &str, value: &str) {
    eventually(name, || (metric(gateway, name) == value).then_some(()));
}

const APPLIED: &str = "heddle_config_reloads_total{result=\"applied\"}";

#[test]
fn a_config_that_is_written_in_place_or_replaced_serves_soon() {
    let gateway = gateway_with(&says("one"), EngineKind::Native, |options| options.workers = Some(2));
    assert_eq!(said_by(&gateway), "one");
    write(&gateway, &says("two"));
    eventually_says(&gateway, "two");
    let aside = gateway.folder().join(".gateway.toml.swp");
    std::fs::write(&aside, says("three")).unwrap();
    std::fs::rename(&aside, gateway.folder().join("gateway.toml")).unwrap();
    eventually_says(&gateway, "three");
    eventually_measures(&gateway, APPLIED, "2");
    eventually("the admin interface shows it", || {
        gateway.admin("/config").text().contains("three").then_some(())
    });
    // Each core has its own; new connections are spread over them.
    assert!((0..40).all(|_| said_by(&gateway) == "three"));
}

#[test]
fn a_config_behind_the_link_of_a_config_map_serves_soon() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let publish = |version: &str| {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("gateway.toml"), says(version)).unwrap();
        std::os::unix::fs::symlink(version, at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    publish("..1");
    std::os::unix::fs::symlink("..data/gateway.toml", at("gateway.toml")).unwrap();
    let options = crate::support::options(&at("gateway.toml"), EngineKind::Native);
    let running = native_host::serve(options).unwrap();
    let said = || {
        let mut client = Client::connect(running.address());
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        client.answer().text().to_owned()
    };
    for version in ["..2", "..3"] {
        publish(version);
        eventually(version, || (said() == version).then_some(()));
    }
}

#[test]
fn a_config_that_does_not_compile_leaves_the_one_before_serving_and_shows() {
    let gateway = gateway(&says("good"));
    write(&gateway, &says("bad").replace("status", "stauts"));
    let ready = eventually("the refusal shows", || {
        let ready = gateway.admin("/ready");
        ready.text().contains("refused").then_some(ready)
    });
    assert_eq!(ready.status, 200, "it serves");
    assert!(
        ready.text().contains("gateway.toml:4:13: error: unknown key `stauts`"),
        "{}",
        ready.text()
    );
    let config = gateway.admin("/config");
    assert!(
        config.text().starts_with("# the config on disk is refused"),
        "{}",
        config.text()
    );
    assert!(
        config.text().contains("\"good\"") && config.text().parse::<toml::Table>().is_ok(),
        "{}",
        config.text()
    );
    assert_eq!(metric(&gateway, "heddle_config_refused"), "1");
    assert_eq!(metric(&gateway, "heddle_config_reloads_total{result=\"refused\"}"), "1");
    assert_eq!(said_by(&gateway), "good");
    // Mended to just what it was.
    write(&gateway, &says("good"));
    eventually("the refusal is over", || {
        (gateway.admin("/ready").text() == "ready\n").then_some(())
    });
    assert_eq!(metric(&gateway, "heddle_config_refused"), "0");
    assert_eq!(metric(&gateway, "heddle_config_reloads_total{result=\"applied\"}"), "0");
    // And mended to something new.
    write(&gateway, "nonsense");
    eventually("the next refusal", || {
        (metric(&gateway, "heddle_config_refused") == "1").then_some(())
    });
    write(&gateway, &says("better"));
    eventually_says(&gateway, "better");
    eventually_measures(&gateway, "heddle_config_refused", "0");
}

/// Until the refusal shows, and what it says.
fn refusal(gateway: &Gateway, meanwhile: impl Fn()) -> String {
    eventually("the refusal", || {
        meanwhile();
        let ready = gateway.admin("/ready");
        ready.text().contains("refused").then(|| ready.text().to_owned())
    })
}

#[test]
fn a_config_that_is_cut_off_to_be_written_anew_is_not_taken_for_a_whole_one() {
    use std::io::Write as _;
    let gateway = gateway(&says("good"));
    let mut writer = std::fs::File::create(gateway.folder().join("gateway.toml")).unwrap();
    gateway.reload();
    let why = refusal(&gateway, || assert_eq!(said_by(&gateway), "good"));
    assert!(why.contains("gateway.toml is being written and not closed yet"), "{why}");
    writer.write_all(says("new").as_bytes()).unwrap();
    drop(writer);
    eventually_says(&gateway, "new");
    eventually_measures(&gateway, APPLIED, "1");
    assert_eq!(gateway.admin("/ready").text(), "ready\n");
}

#[test]
fn a_config_that_is_half_written_is_not_read_because_another_file_changed() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.json"), "{}").unwrap();
    let whole = format!(
        "{}[[routes]]\nmatch = {{ path = \"/post\", methods = [\"POST\"] }}\nvalidate = {{ body = \"a.json\" }}\nrespond = {{ status = 204 }}\n",
        says("good")
    );
    let gateway = gateway_in(folder, &whole, EngineKind::Native, |_| {});
    let mut writer = std::fs::File::create(gateway.folder().join("gateway.toml")).unwrap();
    writer.write_all(says("half").as_bytes()).unwrap();
    std::fs::write(gateway.folder().join("a.json"), "true").unwrap();
    let why = refusal(&gateway, || assert_eq!(said_by(&gateway), "good"));
    assert!(why.contains("gateway.toml is being written and not closed yet"), "{why}");
    drop(writer);
    eventually_says(&gateway, "half");
}

#[test]
fn an_empty_config_is_refused() {
    let gateway = gateway(&says("good"));
    write(&gateway, "");
    let why = refusal(&gateway, || assert_eq!(said_by(&gateway), "good"));
    assert!(why.contains("gateway.toml is empty"), "{why}");
}

fn validates(schema: &str) -> String {
    format!(
        "[[routes]]\nname = \"post\"\nmatch = {{ path = \"/\", methods = [\"POST\"] }}\nvalidate = {{ body = \"{schema}\" }}\nrespond = {{ status = 200 }}\n"
    )
}

/// The status of what is answered to this JSON.
fn posted(gateway: &Gateway, body: &str) -> u16 {
    let request = format!(
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    gateway.ask(&request).status
}

#[test]
fn a_file_that_the_config_names_is_watched_and_a_bad_one_names_its_route() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("schemas")).unwrap();
    let schema = folder.path().join("schemas/a.json");
    std::fs::write(&schema, "{\"required\": [\"one\"]}").unwrap();
    let gateway = gateway_in(folder, &validates("schemas/a.json"), EngineKind::Native, |_| {});
    let post = |body: &str| posted(&gateway, body);
    assert_eq!(post("{\"one\": 1}"), 200);
    assert_eq!(post("{\"two\": 1}"), 422);
    std::fs::write(&schema, "{\"required\": [\"two\"]}").unwrap();
    eventually("the new schema", || (post("{\"two\": 1}") == 200).then_some(()));
    std::fs::write(&schema, "{\"required\": 7}").unwrap();
    let ready = eventually("the refusal", || {
        let ready = gateway.admin("/ready");
        ready.text().contains("refused").then_some(ready)
    });
    assert!(
        ready.text().contains("gateway.toml:4:") && ready.text().contains("schemas/a.json"),
        "{}",
        ready.text()
    );
    assert_eq!(post("{\"two\": 1}"), 200);
    // It is watched although it does not compile.
    std::fs::write(&schema, "{\"required\": [\"three\"]}").unwrap();
    eventually("the mended schema", || (post("{\"three\": 1}") == 200).then_some(()));
}

#[test]
fn what_cannot_change_live_is_told() {
    let gateway = gateway(&says("one"));
    write(
        &gateway,
        &format!("[gateway]\nlisten = \"127.0.0.1:1\"\ndrain = \"7s\"\n{}", says("two")),
    );
    eventually_says(&gateway, "two");
    let ready = eventually("the remark", || {
        let ready = gateway.admin("/ready");
        ready.text().contains("restart").then_some(ready)
    });
    assert!(
        ready.text().contains("a change of `listen`, `drain` waits for a restart"),
        "{}",
        ready.text()
    );
}

#[test]
fn a_request_in_flight_ends_with_the_config_that_it_began_with() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let upstream = Upstream::answering(move |_| {
        released.lock().unwrap().recv().unwrap();
        ok("slow")
    });
    let headers = "headers = { response = { set = { x-config = \"old\" } } }\n";
    let gateway = gateway(&(everything_to(upstream.address) + headers));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    eventually("it is under way", || (upstream.made() == 1).then_some(()));
    write(&gateway, &says("new"));
    eventually_measures(&gateway, APPLIED, "1");
    release.send(()).unwrap();
    let answer = client.answer();
    assert_eq!((answer.text(), answer.header("x-config")), ("slow", Some("old")));
    // The connection stays, and its next request meets the new config.
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(client.answer().text(), "new");
}

#[test]
fn connections_to_an_endpoint_that_stays_are_kept() {
    let upstream = Upstream::answering(|_| ok("kept"));
    let gateway = gateway(&everything_to(upstream.address));
    assert_eq!(said_by(&gateway), "kept");
    // Another endpoint beside it, and another route.
    let two = everything_to(upstream.address).replace("}]", "}, { url = \"http://127.0.0.1:1\", weight = 0 }]");
    write(
        &gateway,
        &(two + "[[routes]]\nmatch = { path = \"/new\" }\nrespond = { status = 204 }\n"),
    );
    eventually("the new route", || (gateway.get("/new").status == 204).then_some(()));
    assert_eq!(said_by(&gateway), "kept");
    assert_eq!(upstream.made(), 1);
}

#[test]
fn an_ejected_endpoint_stays_ejected_and_a_full_breaker_full() {
    let good = Upstream::answering(|_| ok("good"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let bad = Upstream::answering(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_owned()
    });
    let config = |route: &str| {
        format!(
            "[upstreams.u]\nendpoints = [{{ url = \"http://{}\" }}, {{ url = \"http://{}\" }}]\noutlier = {{ consecutive_failures = 1, ejection = \"1h\", max_ejected = 0.5 }}\n[[routes]]\nname = \"{route}\"\nmatch = {{ path_prefix = \"/{route}\" }}\nupstream = \"u\"\n",
            bad.address, good.address
        )
    };
    let gateway = gateway(&config("one"));
    for _ in 0..4 {
        gateway.get("/one");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "ejected after its first failure");
    write(&gateway, &config("two"));
    eventually("the new route", || (gateway.get("/two").status == 200).then_some(()));
    for _ in 0..4 {
        assert_eq!(gateway.get("/two").text(), "good");
    }
    // Even where the upstream itself changed.
    write(&gateway, &config("three").replace("\"1h\"", "\"30m\""));
    eventually("the new route", || (gateway.get("/three").status == 200).then_some(()));
    for _ in 0..4 {
        assert_eq!(gateway.get("/three").text(), "good");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// Clients that ask for `/` until they are told to stop; gives how often they were answered.
fn under_load(address: SocketAddr, work: impl FnOnce()) -> usize {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let over = &over;
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    let mut answered = 0;
                    while !over.load(Ordering::Relaxed) {
                        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
                        assert_eq!(client.answer().status, 200);
                        answered += 1;
                        if answered % 20 == number {
                            client = Client::connect(address);
                        }
                    }
                    answered
                })
            })
            .collect();
        work();
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    })
}

fn swaps_lose_no_request(gateway: &Gateway, config: &str, swaps: usize) {
    let answered = under_load(gateway.address(), || {
        for round in 1..=swaps {
            let aside = gateway.folder().join("next");
            std::fs::write(&aside, format!("{config}# {round}\n")).unwrap();
            std::fs::rename(&aside, gateway.folder().join("gateway.toml")).unwrap();
            eventually_measures(gateway, APPLIED, &round.to_string());
        }
    });
    assert!(answered > swaps, "{answered}");
}

#[test]
fn swaps_under_load_lose_no_request_with_the_native_engine() {
    let upstream = Upstream::answering(|_| ok("fine"));
    let config = everything_to(upstream.address);
    let gateway = gateway_with(&config, EngineKind::Native, |options| options.workers = Some(2));
    swaps_lose_no_request(&gateway, &config, 50);
}

#[test]
fn swaps_under_load_lose_no_request_with_the_wasm_engine() {
    let component = built();
    let upstream = Upstream::answering(|_| ok("fine"));
    let config = everything_to(upstream.address);
    let gateway = gateway_with(&config, EngineKind::Wasm, |options| {
        options.workers = Some(2);
        options.component = Some(component);
    });
    swaps_lose_no_request(&gateway, &config, 20);
    write(&gateway, &says("guest"));
    eventually_says(&gateway, "guest");
}

#[test]
fn a_guest_is_handed_the_files_that_the_config_names_by_now() {
    let component = built();
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        std::fs::write(folder.path().join(name), format!("{{\"required\": [\"{name}\"]}}")).unwrap();
    }
    let gateway = gateway_in(folder, &validates("one"), EngineKind::Wasm, |options| {
        options.component = Some(component);
    });
    assert_eq!(posted(&gateway, "{\"one\": 1}"), 200);
    write(&gateway, &validates("two"));
    eventually("the other schema", || (posted(&gateway, "{\"two\": 1}") == 200).then_some(()));
    assert_eq!(posted(&gateway, "{\"one\": 1}"), 422);
    std::fs::write(gateway.folder().join("two"), "{\"required\": [\"three\"]}").unwrap();
    eventually("the changed schema", || {
        (posted(&gateway, "{\"three\": 1}") == 200).then_some(())
    });
}

#[test]
fn a_component_that_cannot_take_the_config_leaves_the_one_before_serving() {
    let folder = tempfile::tempdir().unwrap();
    let component = misbehaving(folder.path());
    let gateway = gateway_with(&says("x"), EngineKind::Wasm, |options| options.component = Some(component));
    assert_eq!(gateway.get("/").status, 200);
    write(&gateway, &(says("x") + "# unfit\n"));
    eventually("the refusal", || {
        gateway
            .admin("/ready")
            .text()
            .contains("the component failed while it compiled the config")
            .then_some(())
    });
    assert_eq!(gateway.get("/").status, 200);
}

const TLS: &str = "[gateway]\ntls = { cert_file = \"a.pem\", key_file = \"a.key\" }\n";

fn shown(authority: &Authority, address: SocketAddr) -> Vec<u8> {
    let stream = connect(&authority.client(&[&TLS13], &[]), address, "a.test").unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

fn issue_aside(authority: &Authority, folder: &Path) {
    // Key and certificate are two files: between them they do not belong together, which is refused and not served.
    authority.issue(folder, "new", &["a.test"]);
    std::fs::rename(folder.join("new.key"), folder.join("a.key")).unwrap();
    std::fs::rename(folder.join("new.pem"), folder.join("a.pem")).unwrap();
}

#[test]
fn a_renewed_certificate_is_shown_to_new_clients_and_drops_nobody() {
    use std::io::{Read as _, Write as _};
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue(folder.path(), "a", &["a.test"]);
    let gateway = gateway_in(folder, &(TLS.to_owned() + &says("served")), EngineKind::Native, |_| {});
    let client = authority.client(&[&TLS13], &[]);
    let mut kept = connect(&client, gateway.address(), "a.test").unwrap();
    let ask = |kept: &mut crate::support::authority::TlsStream, end: &str| {
        kept.write_all(format!("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: {end}\r\n\r\n").as_bytes())
            .unwrap();
        let mut read = vec![0; 4096];
        let count = kept.read(&mut read).unwrap();
        assert!(read[..count].starts_with(b"HTTP/1.1 200"));
    };
    ask(&mut kept, "keep-alive");
    let old = shown(&authority, gateway.address());
    let resumed = connect(&client, gateway.address(), "a.test").unwrap();
    assert_eq!(resumed.conn.handshake_kind(), Some(HandshakeKind::Resumed));

    issue_aside(&authority, gateway.folder());
    eventually("the new certificate", || {
        (shown(&authority, gateway.address()) != old).then_some(())
    });
    ask(&mut kept, "close");
    let again = connect(&client, gateway.address(), "a.test").unwrap();
    assert_eq!(
        again.conn.handshake_kind(),
        Some(HandshakeKind::Full),
        "the old certificate's tickets are worth nothing"
    );
    assert!(
        gateway
            .admin("/metrics")
            .text()
            .contains("heddle_tls_certificate_not_after_timestamp_seconds{cert_file=\"a.pem\"} ")
    );
}

#[test]
fn a_certificate_that_cannot_be_used_leaves_the_one_before() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue(folder.path(), "a", &["a.test"]);
    let gateway = gateway_in(folder, &(TLS.to_owned() + &says("served")), EngineKind::Native, |_| {});
    let old = shown(&authority, gateway.address());
    std::fs::write(gateway.folder().join("a.key"), "junk").unwrap();
    eventually("the refusal", || {
        gateway.admin("/ready").text().contains("a.key").then_some(())
    });
    assert_eq!(shown(&authority, gateway.address()), old);
}

#[test]
fn an_asked_reload_of_what_is_unchanged_changes_nothing() {
    let gateway = gateway(&says("one"));
    gateway.reload();
    // Whole at once: the reload that was asked for may be reading just then.
    let aside = gateway.folder().join("next");
    std::fs::write(&aside, says("two")).unwrap();
    std::fs::rename(&aside, gateway.folder().join("gateway.toml")).unwrap();
    gateway.reload();
    eventually_says(&gateway, "two");
    eventually_measures(&gateway, APPLIED, "1");
}
