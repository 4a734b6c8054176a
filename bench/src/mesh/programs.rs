//! A asks B for every request that it gets, and B says 1 KiB. On one thread each, so that nobody waits for another core.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_client::{BoxError, Config, Mesh};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::upstream::ANSWER;

type Body = UnsyncBoxBody<Bytes, BoxError>;

/// What B is called in the mesh.
const SERVICE: &str = "b";

/// One of the programs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Program {
    /// B in the mesh
    MeshService,
    /// A that calls B through the mesh
    MeshCaller {
        /// Where it is asked
        listen: SocketAddr,
    },
    /// B with plain HTTP/1.1
    PlainService {
        /// Where it is asked
        listen: SocketAddr,
    },
    /// A that calls B, or its own sidecar, by plain HTTP/1.1
    PlainCaller {
        /// Where it is asked
        listen: SocketAddr,
        /// Whom it asks
        to: SocketAddr,
    },
}

/// Runs one until it is stopped.
pub(crate) fn run(program: Program) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match program {
            Program::MeshService => {
                let mesh = Mesh::join(Config::from_env()?).await?;
                let service = tower::service_fn(async |_| Ok::<_, Infallible>(answer()));
                Ok(mesh.serve(SERVICE, service).await?)
            }
            Program::MeshCaller { listen } => {
                let mesh = Mesh::join(Config::from_env()?).await?;
                let client = mesh.client();
                let url = format!("http://{SERVICE}.mesh/");
                front(listen, async move || Ok(client.get(&url).await?.map(boxed))).await
            }
            Program::PlainService { listen } => front(listen, async || Ok(answer())).await,
            Program::PlainCaller { listen, to } => {
                let pool = Pool::new(to);
                front(listen, async move || pool.get().await).await
            }
        }
    })
}

/// Serves plain HTTP/1.1 at an address; `answer` is asked for every request.
async fn front(listen: SocketAddr, answer: impl AsyncFn() -> Result<Response<Body>> + 'static) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| listen.to_string())?;
    let answer = Rc::new(answer);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = Rc::clone(&answer);
        tokio::task::spawn_local(async move {
            let service = hyper::service::service_fn(|_: Request<Incoming>| {
                let answer = Rc::clone(&answer);
                async move {
                    let answered = answer().await;
                    Ok::<_, Infallible>(answered.unwrap_or_else(|error| failed(&error)))
                }
            });
            // Whoever breaks a connection off gets no more answers on it.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Kept connections to one address, the one that was used last first.
struct Pool {
    to: SocketAddr,
    idle: RefCell<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Pool {
    fn new(to: SocketAddr) -> Self {
        Self {
            to,
            idle: RefCell::default(),
        }
    }

    async fn get(&self) -> Result<Response<Body>> {
        let kept = self.idle.borrow_mut().pop();
        let mut connection = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        connection.ready().await?;
        let request = Request::get("/").header("host", self.to.to_string()).body(Empty::new())?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        // 1 KiB comes with its head or right after it, and is read so that the connection is free again.
        let body = body.collect().await?.to_bytes();
        self.idle.borrow_mut().push(connection);
        Ok(Response::from_parts(head, boxed(Full::new(body))))
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async move {
            // Whoever waits for an answer on it hears of its end.
            let _ = driver.await;
        });
        Ok(connection)
    }
}

fn answer() -> Response<Body> {
    static ONE: [u8; ANSWER] = [b'x'; ANSWER];
    Response::new(boxed(Full::new(Bytes::from_static(&ONE))))
}

fn failed(error: &anyhow::Error) -> Response<Body> {
    let mut response = Response::new(boxed(Full::new(Bytes::from(format!("{error:#}")))));
    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
    response
}

fn boxed<B>(body: B) -> Body
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}
