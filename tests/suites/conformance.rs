//! The cases of `conformance/cases/*.toml` over real HTTP, on the native engine and on the built component, by either of its exports: the
//! gateway is a process, and so are, to it, its upstreams.

#![allow(clippy::unwrap_used, reason = "a suite that cannot be set up has failed")]

#[path = "../conformance/case.rs"]
mod case;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use case::{Answer, Case, CaseRequest, File, Got, Sent};
use http::{HeaderMap, HeaderName, HeaderValue};
use tests::bank::Gateway;
use tests::process::binary;

#[test]
fn the_native_engine_decides_every_case_as_expected() {
    every_case("native");
}

#[test]
fn the_component_decides_every_case_as_expected() {
    every_case("wasm");
}

#[test]
fn the_component_decides_every_case_as_expected_at_the_edge() {
    every_case("edge");
}

fn every_case(engine: &str) {
    let mut failures = Vec::new();
    for (path, mut file) in case::files() {
        if engine == "edge" {
            // The runtime makes it of the endpoint's address.
            let attempts = file.case.iter_mut().flat_map(|case| &mut case.expect.attempts);
            attempts.for_each(|attempt| attempt.host = None);
        }
        let name = path.file_name().unwrap().display();
        for case in &file.case {
            let differences = run(&file, case, engine).into_iter();
            failures.extend(differences.map(|difference| format!("{name}: {}: {difference}", case.name)));
        }
    }
    assert!(failures.is_empty(), "{engine}:\n{}", failures.join("\n"));
}

fn run(file: &File, case: &Case, engine: &str) -> Vec<String> {
    let network = Arc::new(Mutex::new(Network {
        scripts: case.upstream.clone(),
        ..Network::default()
    }));
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in &file.files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::fs::write(folder.path().join("gateway.toml"), &file.config).unwrap();
    let mut host = Command::new(binary("native-host"));
    host.envs(&file.variables);
    let _refused = listen(file, case, &network, &mut host);
    let gateway = Gateway::start(host, &folder.path().join("gateway.toml"), engine);
    for _ in 1..case.request.repeat {
        exchange(gateway.url.trim_start_matches("http://"), &case.request);
    }
    let (status, fields, body) = exchange(gateway.url.trim_start_matches("http://"), &case.request);
    let reason = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|body| body["reason"].as_str().map(str::to_owned));
    // A copy of the request may arrive after its answer.
    let patience = Instant::now() + Duration::from_secs(2);
    while !network.lock().unwrap().scripts.is_empty() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    let network = network.lock().unwrap();
    case.differences(&Got {
        status,
        reason,
        fields,
        body,
        sent: network.sent.clone(),
        unasked: network.scripts.len(),
    })
}

/// What upstreams are to do, and what they saw.
#[derive(Default)]
struct Network {
    scripts: Vec<Answer>,
    sent: Vec<Sent>,
    /// Connections that are never answered.
    hanging: Vec<TcpStream>,
}

/// Listens for every upstream of the config and tells the host their ports. An upstream to which no connection is to be made gets a
/// port that is bound and not listened on, which refuses.
fn listen(file: &File, case: &Case, network: &Arc<Mutex<Network>>, host: &mut Command) -> Vec<socket2::Socket> {
    let mut refused = Vec::new();
    let config: toml::Table = toml::from_str(&file.config).unwrap();
    let upstreams = config
        .get("upstreams")
        .and_then(toml::Value::as_table)
        .cloned()
        .unwrap_or_default();
    let mut ports = BTreeMap::new();
    for (name, upstream) in &upstreams {
        let url = upstream["endpoints"][0]["url"].as_str().unwrap().to_owned();
        let variable = url
            .split("${")
            .nth(1)
            .and_then(|rest| rest.split('}').next())
            .unwrap()
            .to_owned();
        let refuses = case
            .upstream
            .iter()
            .any(|answer| answer.name == *name && answer.fail.as_deref() == Some("connect"));
        let address = if refuses {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            refused.push(socket);
            // Nobody sees an attempt that finds nobody: it counts as asked.
            let mut network = network.lock().unwrap();
            let at = network.scripts.iter().position(|answer| answer.name == *name).unwrap();
            network.scripts.remove(at);
            let attempt = Sent {
                upstream: name.clone(),
                ..nobody()
            };
            network.sent.push(attempt);
            address
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let (name, network) = (name.clone(), network.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (name, network) = (name.clone(), network.clone());
                    std::thread::spawn(move || answer(&name, stream, &network));
                }
            });
            address
        };
        ports.insert(variable, address.port().to_string());
    }
    host.envs(&ports);
    refused
}

fn nobody() -> Sent {
    Sent {
        upstream: String::new(),
        method: "GET".to_owned(),
        target: String::new(),
        host: None,
        fields: HeaderMap::new(),
        body: Vec::new(),
    }
}

/// Answers the one request of a connection as the first fitting script says.
fn answer(upstream: &str, mut stream: TcpStream, network: &Mutex<Network>) {
    let Some((line, fields, body)) = message(&mut stream, true) else {
        return;
    };
    let mut words = line.split(' ');
    let (method, target) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default().to_owned(),
    );
    let mut network = network.lock().unwrap();
    let host = fields.get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
    let fits = |answer: &Answer| answer.name == upstream && answer.target.as_ref().is_none_or(|wanted| *wanted == target);
    let script = network.scripts.iter().position(fits).map(|at| network.scripts.remove(at));
    let head = method == "HEAD";
    network.sent.push(Sent {
        upstream: upstream.to_owned(),
        method,
        target,
        host,
        fields,
        body,
    });
    let Some(script) = script else { return };
    match script.fail.as_deref() {
        Some("timeout") => network.hanging.push(stream),
        Some(_) => {}
        None => {
            let status = script.status.unwrap_or(200);
            let mut answer = format!("HTTP/1.1 {status} Scripted\r\nconnection: close\r\n");
            for (name, value) in &script.headers {
                answer.push_str(&format!("{name}: {value}\r\n"));
            }
            if status != 204 && status != 304 {
                answer.push_str(&format!("content-length: {}\r\n", script.body.len()));
            }
            answer.push_str("\r\n");
            if !head {
                answer.push_str(&script.body);
            }
            // A gateway that gave up has closed.
            let _ = stream.write_all(answer.as_bytes());
        }
    }
}

/// Sends the case's request and reads the answer to the connection's end.
fn exchange(address: &str, case: &CaseRequest) -> (u16, HeaderMap, Vec<u8>) {
    let mut request = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", case.method, case.target, case.host);
    for (name, value) in &case.headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !case.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        request.push_str("connection: close\r\n");
    }
    if let Some(token) = &case.token {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let key = jsonwebtoken::EncodingKey::from_secret(token.secret.as_bytes());
        let mut header = jsonwebtoken::Header::default();
        header.typ = token.typ.clone().or(header.typ);
        let token = jsonwebtoken::encode(&header, &token.claims_at(now), &key).unwrap();
        request.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    let body = case.body.as_deref();
    match body {
        Some(_) if case.chunked => request.push_str("transfer-encoding: chunked\r\n"),
        Some(body) => request.push_str(&format!("content-length: {}\r\n", body.len())),
        None => {}
    }
    request.push_str("\r\n");
    match body {
        Some(body) if case.chunked => request.push_str(&format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
        body => request.push_str(body.unwrap_or_default()),
    }
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let (line, fields, body) = message(&mut stream, case.method != "HEAD").expect("an answer comes");
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status in `{line}`")), fields, body)
}

/// The first line, the fields and the body of a message.
fn message(stream: &mut TcpStream, has_body: bool) -> Option<(String, HeaderMap, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let line = |reader: &mut BufReader<&mut TcpStream>| {
        let mut line = String::new();
        reader
            .read_line(&mut line)
            .ok()
            .filter(|&read| read > 0)
            .map(|_| line.trim_end().to_owned())
    };
    let first = line(&mut reader)?;
    let mut fields = HeaderMap::new();
    loop {
        let line = line(&mut reader)?;
        let Some((name, value)) = line.split_once(':') else { break };
        fields.append(
            HeaderName::from_bytes(name.as_bytes()).ok()?,
            HeaderValue::from_str(value.trim()).ok()?,
        );
    }
    let length = fields
        .get("content-length")
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    if has_body && fields.contains_key("transfer-encoding") {
        while let Some(size) = line(&mut reader)
            .and_then(|size| usize::from_str_radix(&size, 16).ok())
            .filter(|&size| size > 0)
        {
            let mut chunk = vec![0; size];
            reader.read_exact(&mut chunk).ok()?;
            body.extend_from_slice(&chunk);
            line(&mut reader)?;
        }
    } else if has_body {
        body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
    }
    Some((first, fields, body))
}
