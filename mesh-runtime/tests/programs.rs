//! Whatever a program speaks: gRPC, WebSockets, HTTP/2 and protocols of their own, from wrapper to wrapper, and what the ways out allow.
//!
//! What the wrapped programs would serve and call is served and called by the tests themselves, on the ports of real wrappers.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, outside of the test functions, too"
)]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use http::Uri;
use http::uri::PathAndQuery;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::world::{Running, World, free_port, json, local, text};
use support::{eventually, exchange};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request as Opening, Response as Opened};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{accept_hdr_async, client_async, tungstenite};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The address of a wrapper's way out.
fn egress_of(wrapper: &Running) -> SocketAddr {
    wrapper.line("egress listening on ").parse().unwrap()
}

/// The address of a mapped port; asked for after [`egress_of`], as it is told after it.
fn mapped(wrapper: &Running, service: &str) -> SocketAddr {
    wrapper.line(&format!("upstream {service} listening on ")).parse().unwrap()
}

/// A tunnel through a proxy, or the proxy's answer.
async fn tunnel(egress: SocketAddr, target: &str) -> Result<TcpStream, (u16, String)> {
    let mut stream = TcpStream::connect(egress).await.unwrap();
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error}: {}", text(&head)),
        }
    }
    let status = text(&head).split(' ').nth(1).unwrap().parse().unwrap();
    if status == 200 {
        return Ok(stream);
    }
    let mut body = Vec::new();
    stream.read_to_end(&mut body).await.unwrap();
    Err((status, text(&body)))
}

/// Sends `text` and its end, and reads what comes back to its end.
async fn said(mut stream: TcpStream, words: &str) -> String {
    stream.write_all(words.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    back
}

/// A server of a protocol of its own: it hears its peer to the end, and then says how much that was and what.
async fn listen_to_the_end(port: u16) {
    let listener = TcpListener::bind(local(port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = String::new();
                if stream.read_to_string(&mut heard).await.is_ok() && !heard.is_empty() {
                    let answer = format!("{} {heard}", heard.len());
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
}

#[tokio::test]
async fn a_protocol_of_its_own_is_carried_by_mapped_ports_and_by_tunnels() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let port = free_port();
    let db = world.stand_in(&control, "db", &["--port", &port.to_string(), "--protocol", "tcp"]);
    egress_of(&db);
    listen_to_the_end(port).await;
    let upstreams = ["--upstream", "db=0", "--upstream", "nobody=127.0.0.1:0"];
    let shop = world.stand_in(&control, "shop", &upstreams);
    let (egress, db_port, nobody) = (egress_of(&shop), mapped(&shop, "db"), mapped(&shop, "nobody"));
    world.registered(&control, &["db"]).await;

    let stream = TcpStream::connect(db_port).await.unwrap();
    assert_eq!(said(stream, "through a port").await, "14 through a port");
    let stream = tunnel(egress, "db.mesh:5432").await.unwrap();
    assert_eq!(said(stream, "through a tunnel").await, "16 through a tunnel");
    let long = "heddle ".repeat(1 << 20);
    let stream = TcpStream::connect(db_port).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let sent = long.clone();
    tokio::spawn(async move {
        to.write_all(sent.as_bytes()).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut back = String::new();
    from.read_to_string(&mut back).await.unwrap();
    assert!(back == format!("{} {long}", long.len()), "{} bytes came back", back.len());

    // HTTP has no way there, and is told so.
    let request = "GET http://db.mesh/ HTTP/1.1\r\nhost: db.mesh\r\nconnection: close\r\n\r\n";
    let (status, _, body) = exchange(egress, request).await;
    assert_eq!((status, &json(&body)["reason"]), (502, &"upstream-protocol".into()));
    assert!(body.contains("opaque TCP"), "{body}");

    // Nobody is nobody: in words where there are words, and else by a reset, which is no answer.
    let (status, body) = tunnel(egress, "nobody.mesh:1").await.unwrap_err();
    assert_eq!((status, &json(&body)["reason"]), (503, &"no-endpoint".into()));
    // It may come before the connecting end has seen that it is connected.
    let answer = async { TcpStream::connect(nobody).await?.read_u8().await };
    let error = answer.await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    // The policy asks who, and for no method and no path.
    let policy = world.path("mesh.toml");
    std::fs::write(
        &policy,
        "[[rules]]\nname = \"a\"\naction = \"deny\"\nfrom = [\"shop\"]\nto = [\"db\"]\n",
    )
    .unwrap();
    world.ask(&["apply", policy.to_str().unwrap(), "--control", &control]);
    eventually(async || match tunnel(egress, "db.mesh:5432").await {
        Err((status, body)) => (status, &json(&body)["reason"]) == (403, &"forbidden".into()),
        Ok(_) => false,
    })
    .await;
    let check = ["policy", "check", "shop", "db", "CONNECT", "--control", &control];
    assert_eq!(world.output(&check).status.code(), Some(1));
}

#[tokio::test]
async fn connections_that_are_idle_or_too_many_end() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let port = free_port().to_string();
    let limits = [
        "--port",
        &port,
        "--protocol",
        "tcp",
        "--idle-timeout",
        "1s",
        "--max-connections",
        "1",
    ];
    let db = world.stand_in(&control, "db", &limits);
    egress_of(&db);
    listen_to_the_end(port.parse().unwrap()).await;
    let shop = world.stand_in(&control, "shop", &["--upstream", "db=0"]);
    let (egress, _) = (egress_of(&shop), mapped(&shop, "db"));
    world.registered(&control, &["db"]).await;
    let mut idle = None;
    eventually(async || {
        idle = tunnel(egress, "db.mesh:1").await.ok();
        idle.is_some()
    })
    .await;
    let (status, body) = tunnel(egress, "db.mesh:1").await.unwrap_err();
    assert_eq!((status, &json(&body)["reason"]), (503, &"overloaded".into()));
    // Neither end says anything, so it ends; and its place is free.
    let _ = idle.unwrap().read_u8().await.unwrap_err();
    eventually(async || tunnel(egress, "db.mesh:1").await.is_ok()).await;
}

/// Calls by the generated code's own means, of a service whose messages are strings.
#[derive(Clone)]
struct Talk(tonic::client::Grpc<Channel>);

const CONVERSE: &str = "/heddle.test.Talk/Converse";

impl Talk {
    fn by(channel: Channel) -> Self {
        Self(tonic::client::Grpc::new(channel))
    }

    async fn converse(
        &mut self,
        words: impl Stream<Item = String> + Send + 'static,
    ) -> Result<Response<Streaming<String>>, Status> {
        self.0.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        let path = PathAndQuery::from_static(CONVERSE);
        self.0
            .streaming(Request::new(words), path, ProstCodec::<String, String>::default())
            .await
    }
}

/// Says each word back as it comes, tells who calls, and ends in a status of its own where it hears `fail`.
#[derive(Clone)]
struct Talker;

impl tonic::server::NamedService for Talker {
    const NAME: &'static str = "heddle.test.Talk";
}

type Words = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

impl tonic::server::StreamingService<String> for Talker {
    type Response = String;
    type ResponseStream = Words;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Words>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        let peers = request.metadata().get_all("x-forwarded-client-cert");
        let peers: Vec<_> = peers.iter().map(|peer| peer.to_str().unwrap().to_owned()).collect();
        let answers = request.into_inner().map(|word| match word?.as_str() {
            "fail" => {
                let mut status = Status::data_loss("as asked");
                status.metadata_mut().insert("x-trailer", "there".parse().unwrap());
                Err(status)
            }
            word => Ok(format!("{word}!")),
        });
        let mut response = Response::new(Box::pin(answers) as Words);
        response.metadata_mut().insert("x-peers", peers.join(" & ").parse().unwrap());
        Box::pin(async move { Ok(response) })
    }
}

impl tower::Service<http::Request<tonic::body::Body>> for Talker {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut server = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            Ok(server.streaming(Self, request).await)
        })
    }
}

async fn serve_talk(port: u16) {
    let listener = TcpListener::bind(local(port)).await.unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder()
        .add_service(Talker)
        .serve_with_incoming(incoming);
    tokio::spawn(server);
}

/// A channel over `CONNECT`, as gRPC's own libraries make it where `http_proxy` is set.
async fn tunnelled(egress: SocketAddr, target: &'static str) -> Channel {
    let connector = tower::service_fn(move |_: Uri| async move {
        let stream = tunnel(egress, target).await;
        stream
            .map(TokioIo::new)
            .map_err(|(status, body)| std::io::Error::other(format!("{status} {body}")))
    });
    Endpoint::from_static("http://talk.mesh").connect_with_connector_lazy(connector)
}

#[tokio::test]
async fn grpc_streams_both_ways_with_its_trailers() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let port = free_port();
    let talk = world.stand_in(&control, "talk", &["--port", &port.to_string(), "--protocol", "grpc"]);
    egress_of(&talk);
    serve_talk(port).await;
    let shop = world.stand_in(&control, "shop", &["--upstream", "talk=0"]);
    let (egress, port) = (egress_of(&shop), mapped(&shop, "talk"));
    world.registered(&control, &["talk"]).await;

    let plain = |address: SocketAddr| Endpoint::from_shared(format!("http://{address}")).unwrap();
    let by_egress = plain(egress).origin(Uri::from_static("http://talk.mesh")).connect_lazy();
    let channels = [by_egress, plain(port).connect_lazy(), tunnelled(egress, "talk.mesh:80").await];
    for channel in channels {
        let mut client = Talk::by(channel);
        let (say, words) = mpsc::channel(1);
        let mut words = Some(ReceiverStream::new(words));
        let answer = client.converse(words.take().unwrap()).await.unwrap();
        let peers = answer.metadata().get("x-peers").unwrap().to_str().unwrap().to_owned();
        assert!(
            peers.contains("URI=spiffe://mesh.local/service/shop") && !peers.contains('&'),
            "{peers}"
        );
        let mut answers = answer.into_inner();
        // Each answer comes before the next word is said.
        for word in ["one", "two", "three"] {
            say.send(word.to_owned()).await.unwrap();
            assert_eq!(answers.message().await.unwrap(), Some(format!("{word}!")));
        }
        say.send("fail".to_owned()).await.unwrap();
        let status = answers.message().await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::DataLoss, "as asked"));
        assert_eq!(status.metadata().get("x-trailer").unwrap(), "there");
        // A stream that ends well ends with the status that says so.
        let words = tokio_stream::iter(["last".to_owned()]);
        let mut answers = client.converse(words).await.unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().as_deref(), Some("last!"));
        assert_eq!(answers.message().await.unwrap(), None);
        assert!(answers.trailers().await.unwrap().is_some());
    }

    // What the wrapper answers itself is a status, too.
    let nobody = plain(egress).origin(Uri::from_static("http://nobody.mesh")).connect_lazy();
    let status = Talk::by(nobody).converse(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("no-endpoint"), "{status}");
    let (status, body) = tunnel(egress, "talk.mesh:443").await.unwrap_err();
    assert_eq!((status, &json(&body)["reason"]), (501, &"upgrade-unsupported".into()));
    assert!(body.contains("http://talk.mesh/"), "{body}");
}

/// Serves WebSockets on a port: it tells who came, and says everything back.
async fn serve_chat(port: u16) {
    let listener = TcpListener::bind(local(port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut greeting = String::new();
                #[allow(clippy::result_large_err, reason = "the callback's type is the library's")]
                let look = |opening: &Opening, mut opened: Opened| {
                    if opening.uri().path() == "/closed" {
                        let mut refused = ErrorResponse::new(Some("not here".to_owned()));
                        *refused.status_mut() = http::StatusCode::NOT_FOUND;
                        return Err(refused);
                    }
                    let peers = opening.headers().get_all("x-forwarded-client-cert").iter();
                    let peers: Vec<_> = peers.map(|peer| peer.to_str().unwrap()).collect();
                    let host = opening.headers()["host"].to_str().unwrap();
                    greeting = format!("{} {host} {}", opening.uri(), peers.join(" & "));
                    if let Some(asked) = opening.headers().get("sec-websocket-protocol") {
                        opened.headers_mut().insert("sec-websocket-protocol", asked.clone());
                    }
                    Ok(opened)
                };
                let Ok(mut socket) = accept_hdr_async(stream, look).await else {
                    return;
                };
                let _ = socket.send(Message::text(greeting)).await;
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() || message.is_binary() {
                        let _ = socket.send(message).await;
                    }
                }
            });
        }
    });
}

#[tokio::test]
async fn websockets_cross_the_mesh_from_program_to_program() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let port = free_port();
    let chat = world.stand_in(&control, "chat", &["--port", &port.to_string()]);
    egress_of(&chat);
    serve_chat(port).await;
    let shop = world.stand_in(&control, "shop", &["--upstream", "chat=0"]);
    let (egress, port) = (egress_of(&shop), mapped(&shop, "chat"));
    world.registered(&control, &["chat"]).await;

    let streams = [
        TcpStream::connect(egress).await.unwrap(),
        TcpStream::connect(port).await.unwrap(),
        tunnel(egress, "chat.mesh:80").await.unwrap(),
    ];
    for stream in streams {
        let request = http::Request::get("ws://chat.mesh/room?a=b")
            .header("host", "chat.mesh")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", tungstenite::handshake::client::generate_key())
            .header("sec-websocket-protocol", "chat")
            .header("x-forwarded-client-cert", "URI=spiffe://mesh.local/service/admin");
        let (mut socket, answer) = client_async(request.body(()).unwrap(), stream).await.unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        let greeting = socket.next().await.unwrap().unwrap().into_text().unwrap();
        assert!(greeting.starts_with("/room?a=b chat.mesh "), "{greeting}");
        assert!(
            greeting.contains("service/shop") && !greeting.contains("service/admin"),
            "{greeting}"
        );
        for size in [5, 200_000] {
            let message = Message::binary(vec![7; size]);
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        socket.close(None).await.unwrap();
        let rest: Vec<_> = socket.collect().await;
        assert!(rest.iter().all(Result::is_ok), "{rest:?}");
    }

    // The policy judges one as the GET that opens it.
    let policy = world.path("mesh.toml");
    let text = "[services.chat]\npolicy = { default = \"deny\" }\n[[rules]]\nname = \"room\"\naction = \"allow\"\nto = [\"chat\"]\n\
                methods = [\"GET\"]\npaths = [\"/room\", \"/closed\"]\n";
    std::fs::write(&policy, text).unwrap();
    world.ask(&["apply", policy.to_str().unwrap(), "--control", &control]);
    let opened = async |path: &str| {
        let stream = TcpStream::connect(egress).await.unwrap();
        match client_async(format!("ws://chat.mesh{path}"), stream).await {
            Ok(_) => 101,
            Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
            Err(error) => panic!("{error}"),
        }
    };
    eventually(async || opened("/attic").await == 403).await;
    assert_eq!(opened("/room").await, 101);

    // A program that will not open one is heard; and nobody takes its answer for an open WebSocket.
    assert_eq!(opened("/closed").await, 404);
    let (rates, _) = world.wrap(&control, "rates");
    egress_of(&rates);
    world.registered(&control, &["rates"]).await;
    let stream = TcpStream::connect(egress).await.unwrap();
    let plain = client_async("ws://rates.mesh/", stream).await;
    assert!(matches!(plain, Err(tungstenite::Error::Http(answer)) if answer.status() == 502));
}

/// A program that speaks nothing but HTTP/2: it tells what it sees, and opens WebSockets by extended CONNECT (RFC 8441).
async fn serve_page(port: u16) {
    let listener = TcpListener::bind(local(port)).await.unwrap();
    let page = |mut request: http::Request<Incoming>| async move {
        if request.extensions().get::<hyper::ext::Protocol>().is_some() {
            let opened = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(TokioIo::new(opened.await.unwrap()));
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
            return Ok::<_, Infallible>(http::Response::new(Full::default()));
        }
        let peer = request.headers()["x-forwarded-client-cert"].to_str().unwrap();
        let seen = format!("{} {:?} {peer}", request.uri(), request.version());
        Ok(http::Response::new(Full::new(Bytes::from(seen))))
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http2.enable_connect_protocol();
            tokio::spawn(http2.serve_connection(TokioIo::new(stream), service_fn(page)));
        }
    });
}

#[tokio::test]
async fn a_program_of_http_2_is_spoken_to_in_http_2() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let port = free_port();
    let page = world.stand_in(&control, "page", &["--port", &port.to_string(), "--protocol", "http2"]);
    egress_of(&page);
    serve_page(port).await;
    let shop = world.stand_in(&control, "shop", &[]);
    let egress = egress_of(&shop);
    world.registered(&control, &["page"]).await;

    // From HTTP/1.1, and from HTTP/2.
    let request = "GET http://page.mesh/a?b HTTP/1.1\r\nhost: page.mesh\r\nconnection: close\r\n\r\n";
    let (status, _, seen) = exchange(egress, request).await;
    assert_eq!(status, 200, "{seen}");
    assert!(
        seen.starts_with("http://page.mesh/a?b HTTP/2.0 ") && seen.contains("service/shop"),
        "{seen}"
    );
    let stream = TokioIo::new(TcpStream::connect(egress).await.unwrap());
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://page.mesh/c")
        .body(Full::<Bytes>::default())
        .unwrap();
    let answer = client.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(seen.starts_with(b"http://page.mesh/c HTTP/2.0 "), "{}", text(&seen));

    // A WebSocket as HTTP/2 opens it, all the way.
    let mut request = http::Request::connect("http://page.mesh/socket");
    let protocol = hyper::ext::Protocol::from_static("websocket");
    request.extensions_mut().unwrap().insert(protocol);
    let opened = client.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(opened.status(), 200);
    let mut socket = TokioIo::new(hyper::upgrade::on(opened).await.unwrap());
    socket.write_all(b"frames").await.unwrap();
    socket.shutdown().await.unwrap();
    let mut back = String::new();
    socket.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "frames");
    // And as HTTP/1.1 does.
    let stream = TcpStream::connect(egress).await.unwrap();
    assert!(client_async("ws://page.mesh/socket", stream).await.is_ok());
}

#[tokio::test]
async fn the_ways_out_hold_as_many_connections_as_they_may() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (rates, _) = world.wrap(&control, "rates");
    egress_of(&rates);
    world.registered(&control, &["rates"]).await;
    let shop = world.stand_in(&control, "shop", &["--max-connections", "1"]);
    let egress = egress_of(&shop);
    let request = "GET http://rates.mesh/ HTTP/1.1\r\nhost: rates.mesh\r\nconnection: close\r\n\r\n";
    let mut first = tunnel(egress, "rates.mesh:80").await.unwrap();
    let mut waiting = tokio::spawn(exchange(egress, request));
    // The one that is open is served, and the other is not: as often as one likes to look.
    for _ in 0..20 {
        first
            .write_all(b"GET /stay HTTP/1.1\r\nhost: rates.mesh\r\n\r\n")
            .await
            .unwrap();
        let mut seen = Vec::new();
        while !text(&seen).contains("/stay") {
            assert_ne!(first.read_buf(&mut seen).await.unwrap(), 0);
        }
        assert!(!waiting.is_finished());
    }
    drop(first);
    assert_eq!((&mut waiting).await.unwrap().0, 200);
}

#[tokio::test]
async fn outside_of_the_mesh_only_what_is_on_the_list_is_reached() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (outside, other) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let (address, closed) = (outside.local_addr().unwrap(), other.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = outside.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{}",
                head.len(),
                text(&head)
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let shop = world.stand_in(&control, "shop", &["--allow-egress", &address.to_string()]);
    let egress = egress_of(&shop);
    let get = |url: &str| {
        format!("GET {url} HTTP/1.1\r\nhost: elsewhere.test\r\nx-forwarded-client-cert: URI=me\r\nconnection: close\r\n\r\n")
    };
    let (status, _, body) = exchange(egress, &get(&format!("http://{address}/a?b"))).await;
    assert_eq!(status, 200);
    let seen = body.to_ascii_lowercase();
    assert!(
        seen.starts_with("get /a?b http/1.1\r\n") && seen.contains(&format!("host: {address}")),
        "{body}"
    );
    assert!(
        !seen.contains("elsewhere") && !seen.contains("x-forwarded-client-cert"),
        "{body}"
    );
    let stream = tunnel(egress, &address.to_string()).await.unwrap();
    assert!(said(stream, "GET /tunnel HTTP/1.1\r\n\r\n").await.contains("/tunnel"));

    let (status, _, body) = exchange(egress, &get(&format!("http://{closed}/"))).await;
    assert_eq!((status, &json(&body)["reason"]), (403, &"forbidden".into()));
    assert!(body.contains(&format!("--allow-egress {closed}")), "{body}");
    let (status, body) = tunnel(egress, &closed.to_string()).await.unwrap_err();
    assert_eq!(status, 403);
    assert!(body.contains(&format!("--allow-egress {closed}")), "{body}");
}
