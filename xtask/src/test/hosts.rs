//! The component under hosts that are not ours.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::demo::http;
use crate::demo::service::Services;
use crate::{paths, run, tools};

/// What `wasmtime serve` gets to serve: an answer of the gateway's own, and one of an upstream.
fn config(upstream: SocketAddr) -> String {
    format!(
        r#"
[gateway]
name = "plain"

[upstreams.echo]
endpoints = [{{ url = "http://{upstream}" }}]

[[routes]]
name = "health"
match = {{ path = "/healthz", methods = ["GET"] }}
respond = {{ status = 200, body = "ok" }}

[[routes]]
name = "echo"
match = {{ path = "/echo/{{*rest}}" }}
upstream = "echo"
"#
    )
}

/// Serves the component that imports `wasi:*` alone under `wasmtime serve` and sends it real requests.
pub(crate) fn wasmtime_serves(plain: &Path) -> Result<()> {
    let wasmtime = tools::wasmtime()?;
    let folder = paths::target("hosts");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("gateway.toml"), config(echo()?))?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();

    run::say("serving the plain component under wasmtime serve");
    let mut command = Command::new(wasmtime);
    command.args([
        "serve",
        "-S",
        "cli,http,p3",
        "-W",
        "component-model-async",
        "--addr",
        &address,
        "--dir",
    ]);
    command.arg(format!("{}::/", folder.display())).arg(plain);
    let mut services = Services::default();
    services.start("wasmtime", &mut command, &folder)?;
    await_first_answer(&address, &mut services)?;

    for (path, status, text) in [
        ("/healthz", 200, "ok"),
        ("/echo/a?b=c", 200, "GET /echo/a?b=c HTTP/1.1"),
        ("/nowhere", 404, "route-not-found"),
    ] {
        let answer = http::get(&address, path, &[]).with_context(|| services.log_of("wasmtime"))?;
        let body = String::from_utf8_lossy(&answer.body);
        if answer.status != status || !body.contains(text) {
            bail!(
                "{path}: {} {body:?} where {status} with {text:?} was expected:\n{}",
                answer.status,
                services.log_of("wasmtime")
            );
        }
        eprintln!("    {path}: {status}");
    }
    // It knows no drain: a signal is its end, and no clean one.
    let _ = services.stop();
    Ok(())
}

/// The first request waits for the host's compiler.
fn await_first_answer(address: &str, services: &mut Services) -> Result<()> {
    let begun = Instant::now();
    while let Err(error) = http::get(address, "/healthz", &[]) {
        services.all_run()?;
        if begun.elapsed() > Duration::from_secs(120) {
            return Err(error.context(format!("wasmtime serve does not answer:\n{}", services.log_of("wasmtime"))));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// An upstream that answers each connection's first request with its request line, for as long as this process lives.
fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            if reader.read_line(&mut line).is_err() {
                continue;
            }
            // To close with something unread would reset the connection under the answer.
            let mut field = String::new();
            while reader.read_line(&mut field).is_ok_and(|length| length > 2) {
                field.clear();
            }
            let line = line.trim();
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                line.len()
            );
            // Whoever went away sees no answer.
            let _ = reader.into_inner().write_all(format!("{head}{line}").as_bytes());
        }
    });
    Ok(address)
}
