//! A folder with a mesh in it, and the real program running there.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::eventually;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mesh-runtime");
const PATIENCE: Duration = Duration::from_secs(60);

/// A program in Python that knows nothing of the mesh: it says what it sees, and calls others through `http_proxy`.
const SERVER: &str = r#"
import http.server, json, os, sys, threading, urllib.request, urllib.error

go, sick = threading.Event(), threading.Event()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/call/"):
            url = "http://" + self.path[len("/call/"):]
            try:
                body = urllib.request.urlopen(url, timeout=10).read()
                self.answer(200, body)
            except urllib.error.HTTPError as error:
                self.answer(error.code, error.read())
        elif self.path == "/stream":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nfirst\r\n")
            self.wfile.flush()
            go.wait(30)
            self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n")
        elif self.path in ("/sicken", "/heal"):
            sick.set() if self.path == "/sicken" else sick.clear()
            self.answer(200, b"so it is")
        elif self.path == "/health":
            self.answer(503 if sick.is_set() else 200, b"")
        elif self.path == "/go":
            go.set()
            self.answer(200, b"went")
        else:
            seen = {"service": sys.argv[1], "path": self.path, "host": self.headers["host"],
                    "peer": self.headers.get_all("x-forwarded-client-cert"), "token": os.environ.get("MESH_TOKEN"), "pid": os.getpid()}
            self.answer(200, json.dumps(seen).encode())

    def do_POST(self):
        self.answer(200, self.rfile.read(int(self.headers["content-length"])))

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A folder with a mesh in it: its data, its state, its programs. What runs in it ends with it.
pub(crate) struct World {
    folder: tempfile::TempDir,
}

/// A running `mesh-runtime`. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(world.path("server.py"), SERVER).unwrap();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap());
        command
            .env("HOME", self.folder.path())
            .env("XDG_STATE_HOME", self.path("state"));
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The stdout of a command that succeeds.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// A control plane, and its two addresses. `listen` is `127.0.0.1:0` but where one is started again.
    pub(crate) fn serve(&self, listen: &str) -> (Running, String, SocketAddr) {
        self.serve_with(listen, "")
    }

    /// The same, with settings of its own.
    pub(crate) fn serve_with(&self, listen: &str, settings: &str) -> (Running, String, SocketAddr) {
        let (data, config) = (self.path("data"), self.path("serve.toml"));
        std::fs::write(&config, settings).unwrap();
        let (data, config) = (data.to_str().unwrap(), config.to_str().unwrap());
        let fixed = ["serve", "--listen", listen, "--admin", "127.0.0.1:0", "--data-dir", data];
        let running = self.start(&[&fixed[..], &["--config", config]].concat());
        let control = running.line("control listening on ");
        let admin = running.line("admin listening on ").parse().unwrap();
        (running, control, admin)
    }

    pub(crate) fn wrap(&self, control: &str, service: &str) -> (Running, u16) {
        let port = free_port();
        let (script, port_text) = (self.path("server.py"), port.to_string());
        let script = script.to_str().unwrap();
        let arguments = [
            "run",
            "--service",
            service,
            "--port",
            &port_text,
            "--control",
            control,
            "--",
            "python3",
            script,
            service,
        ];
        (self.start(&arguments), port)
    }

    /// A wrapper with these flags around a command that waits for its end. What it stands in front of, the test serves itself.
    pub(crate) fn stand_in(&self, control: &str, service: &str, flags: &[&str]) -> Running {
        let wrapped = ["run", "--service", service, "--control", control];
        self.start(&[&wrapped[..], flags, &["--", "sleep", "1000"]].concat())
    }

    /// Waits until as many endpoints of a service are registered.
    pub(crate) async fn endpoints(&self, control: &str, service: &str, count: usize) {
        eventually(async || {
            let listed = self.output(&["endpoints", service, "--json", "--control", control]);
            listed.status.success() && json(&text(&listed.stdout)).as_array().unwrap().len() == count
        })
        .await;
    }

    pub(crate) async fn registered(&self, control: &str, services: &[&str]) {
        eventually(async || {
            let listed = self.output(&["services", "--json", "--control", control]);
            services
                .iter()
                .all(|service| text(&listed.stdout).contains(&format!("\"{service}\"")))
        })
        .await;
    }
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = mpsc::channel();
        let readers: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for reader in readers {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(reader).lines().map_while(Result::ok) {
                    let _ = send.send(line);
                }
            });
        }
        Self { child, lines }
    }

    /// Waits for a line with `mark` in it, and says what follows the mark.
    pub(crate) fn line(&self, mark: &str) -> String {
        let (until, mut seen) = (Instant::now() + PATIENCE, Vec::new());
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.to_owned();
            }
            seen.push(line);
        }
        panic!("no {mark:?} in {seen:#?}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end");
    }

    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(crate) fn lives(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}
