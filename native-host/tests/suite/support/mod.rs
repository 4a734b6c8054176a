//! What the suites share: gateways in this process, upstreams on loopback, and a client that sees raw bytes.

pub(crate) mod authority;
pub(crate) mod guest;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use native_host::{EngineKind, Options, Running};

/// A gateway that serves `config` natively on free ports, on one core.
pub(crate) fn gateway(config: &str) -> Gateway {
    gateway_with(config, EngineKind::Native, |_| {})
}

/// A gateway with other options.
pub(crate) fn gateway_with(config: &str, engine: EngineKind, change: impl FnOnce(&mut Options)) -> Gateway {
    gateway_in(tempfile::tempdir().unwrap(), config, engine, change)
}

/// A gateway whose config is in `folder`, beside what it names.
pub(crate) fn gateway_in(
    folder: tempfile::TempDir,
    config: &str,
    engine: EngineKind,
    change: impl FnOnce(&mut Options),
) -> Gateway {
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, config).unwrap();
    let mut options = options(&file, engine);
    change(&mut options);
    Gateway {
        running: Some(native_host::serve(options).unwrap()),
        folder,
    }
}

pub(crate) fn options(config: &Path, engine: EngineKind) -> Options {
    let mut options = Options::new(config, engine);
    options.listen = Some("127.0.0.1:0".parse().unwrap());
    options.admin = Some("127.0.0.1:0".parse().unwrap());
    options.workers = Some(1);
    options
}

pub(crate) struct Gateway {
    running: Option<Running>,
    folder: tempfile::TempDir,
}

impl Gateway {
    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().address()
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().admin()
    }

    /// Where its config is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
    }

    pub(crate) fn admin(&self, path: &str) -> Answer {
        let mut client = Client::connect(self.admin_address());
        client.send(format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n"));
        client.answer()
    }

    /// Has it look at its config.
    pub(crate) fn reload(&self) {
        self.running.as_ref().unwrap().reload();
    }

    /// Begins the drain in the background and gives what is to be joined.
    pub(crate) fn shutdown(&mut self) -> std::thread::JoinHandle<usize> {
        let running = self.running.take().unwrap();
        std::thread::spawn(move || running.shutdown())
    }
}

/// A client connection on which every byte is the test's own.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Whether the other end is still there to be sent to.
    pub(crate) fn try_send(&mut self, bytes: &str) -> bool {
        self.stream.write_all(bytes.as_bytes()).is_ok()
    }

    /// Reads one answer: head, and body by its length, by chunks, or to the end.
    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// The answer, or nothing where the connection ended before its first byte.
    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        (!self.read.is_empty() || self.more()).then(|| self.answer())
    }

    pub(crate) fn answer_to(&mut self, method: &str) -> Answer {
        let head = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                let head = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
                if !head.starts_with("HTTP/1.1 100") {
                    break head;
                }
                continue;
            }
            assert!(
                self.more(),
                "the connection ended before an answer: {:?}",
                String::from_utf8_lossy(&self.read)
            );
        };
        let mut answer = Answer::parse(&head);
        if method == "HEAD" || matches!(answer.status, 204 | 304) {
            return answer;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.until(b"\r\n");
                let size = usize::from_str_radix(String::from_utf8(line).unwrap().trim(), 16).unwrap();
                answer.body.extend(self.exactly(size));
                self.exactly(2);
                if size == 0 {
                    return answer;
                }
            }
        }
        match answer.header("content-length").map(|length| length.parse().unwrap()) {
            Some(length) => answer.body = self.exactly(length),
            None => {
                while self.more() {}
                answer.body = std::mem::take(&mut self.read);
            }
        }
        answer
    }

    /// Bytes that come next, however many; none at the end.
    pub(crate) fn some(&mut self) -> Vec<u8> {
        if self.read.is_empty() {
            self.more();
        }
        std::mem::take(&mut self.read)
    }

    /// Whether the other end closes, in time.
    pub(crate) fn closes(&mut self) -> bool {
        while self.more() {}
        true
    }

    fn until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = find(&self.read, mark) {
                return self.read.drain(..at + mark.len()).collect();
            }
            assert!(self.more(), "the connection ended early");
        }
    }

    fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.more(), "the connection ended after {} of {count} bytes", self.read.len());
        }
        self.read.drain(..count).collect()
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self {
            status,
            headers,
            body: Vec::new(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The `reason` of a problem.
    pub(crate) fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        problem["reason"].as_str().unwrap().to_owned()
    }
}

/// An upstream whose connections are all served by `serve`, one thread each.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Upstream {
    pub(crate) fn start(serve: impl Fn(Client) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, serve) = (Arc::clone(&connections), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || {
                    serve(Client {
                        stream,
                        read: Vec::new(),
                    })
                });
            }
        });
        Self { address, connections }
    }

    /// Answers every request of a kept connection with what `answer` makes of its head and body.
    pub(crate) fn answering(answer: impl Fn(&Request) -> String + Send + Sync + 'static) -> Self {
        Self::start(move |mut client| {
            while let Some(request) = client.request() {
                client.send(answer(&request));
            }
        })
    }

    pub(crate) fn made(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A request as an upstream got it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) head: Answer,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.head.body
    }
}

impl Client {
    /// Reads one request, to the end of its body.
    pub(crate) fn request(&mut self) -> Option<Request> {
        let head = self.request_head()?;
        Some(self.request_body(head))
    }

    pub(crate) fn request_head(&mut self) -> Option<Request> {
        let head = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
            }
            if !self.more() {
                return None;
            }
        };
        let (line, rest) = head.split_once("\r\n").unwrap();
        Some(Request {
            line: line.to_owned(),
            head: Answer::parse(&format!("x 0\r\n{rest}")),
        })
    }

    pub(crate) fn request_body(&mut self, mut request: Request) -> Request {
        if request.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.until(b"\r\n");
                let size = usize::from_str_radix(String::from_utf8(line).unwrap().trim(), 16).unwrap();
                request.head.body.extend(self.exactly(size));
                self.exactly(2);
                if size == 0 {
                    return request;
                }
            }
        }
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        request.head.body = self.exactly(length);
        request
    }

    pub(crate) fn close(&mut self) {
        self.stream.shutdown(Shutdown::Both).ok();
    }
}

/// Asks until it is so.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An answer with a length.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A config with one upstream for everything.
pub(crate) fn everything_to(upstream: SocketAddr) -> String {
    format!(
        "[upstreams.u]\nendpoints = [{{ url = \"http://{upstream}\" }}]\n\n[[routes]]\nname = \"all\"\nmatch = {{ path_prefix = \"/\" }}\nupstream = \"u\"\ntimeout = \"5s\"\n"
    )
}
