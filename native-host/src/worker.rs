//! One core's thread: accepts connections and serves them to their end, on a runtime of its own.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use routing::Scheme;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;

use crate::drain;
use crate::listener::{self, Client, Connections, Front, Serving, tls};
use crate::metrics;
use crate::options::{Http1, Limits};
use crate::reload::Next;

/// How long to wait after accepting failed: it fails when the process has no file descriptor left, and one has to be closed
/// first.
pub(crate) const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// What a worker is given.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Its own listener.
    pub(crate) listener: TcpListener,
    /// What its clients may demand; connections are per core here.
    pub(crate) limits: Limits,
    /// What it is given to serve with as the config changes.
    pub(crate) changes: mpsc::UnboundedReceiver<Next>,
    /// Whose codec reads HTTP/1.
    pub(crate) http1: Http1,
    /// How TLS is answered, where it is spoken.
    pub(crate) tls: Option<tls::Current>,
    /// When to stop.
    pub(crate) drain: drain::Watch,
    /// How long what is in flight may take then.
    pub(crate) deadline: Duration,
    /// What it counts.
    pub(crate) metrics: Arc<metrics::Core>,
}

impl Worker {
    /// Serves until the drain is over. Gives the number of connections that had to be cut off at the deadline.
    pub(crate) fn run<F: Front>(
        self,
        front: impl FnOnce() -> anyhow::Result<Rc<F>>,
        ready: impl FnOnce(anyhow::Result<()>),
    ) -> usize {
        // Its tasks are its thread's, so that they need no set of their own to be woken through.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                ready(Err(error.into()));
                return 0;
            }
        };
        runtime.block_on(async move {
            let front = match front() {
                Ok(front) => front,
                Err(error) => {
                    ready(Err(error));
                    return 0;
                }
            };
            let listener = match tokio::net::TcpListener::from_std(self.listener) {
                Ok(listener) => listener,
                Err(error) => {
                    ready(Err(error.into()));
                    return 0;
                }
            };
            ready(Ok(()));
            tokio::task::spawn_local(sweeping(Rc::downgrade(&front)));
            tokio::task::spawn_local(adopting(Rc::downgrade(&front), self.changes));
            let connections = Rc::new(Connections::default());
            let tls = self.tls.map(|current| {
                let (limit, timeout) = (self.limits.handshakes, self.limits.handshake_timeout);
                tls::Front::new(current, limit, timeout, Arc::clone(&self.metrics))
            });
            let accepting = Accepting {
                serving: Serving {
                    limits: Rc::new(self.limits),
                    http1: self.http1,
                    drain: self.drain,
                },
                tls,
                metrics: self.metrics,
                connections,
            };
            accepting.run(&listener, &front).await;
            // The kernel resets what it queued and we did not accept, so the queue is emptied before the listener closes.
            accepting.rest(&listener, &front).await;
            drop(listener);
            let finished = accepting.connections.below(1);
            match tokio::time::timeout(self.deadline, finished).await {
                Ok(()) => 0,
                Err(_) => accepting.connections.open(),
            }
        })
    }
}

/// Sweeps every now and then, as long as there is something to sweep.
async fn sweeping<F: Front>(front: std::rc::Weak<F>) {
    const EVERY: Duration = Duration::from_secs(10);
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(front) = front.upgrade() else { return };
        front.sweep();
    }
}

/// Adopts what comes, as long as there is something to adopt it.
async fn adopting<F: Front>(front: std::rc::Weak<F>, mut changes: mpsc::UnboundedReceiver<Next>) {
    while let Some(next) = changes.recv().await {
        let Some(front) = front.upgrade() else { return };
        front.adopt(next);
    }
}

struct Accepting {
    serving: Serving,
    tls: Option<tls::Front>,
    metrics: Arc<metrics::Core>,
    connections: Rc<Connections>,
}

impl Accepting {
    async fn run<F: Front>(&self, listener: &tokio::net::TcpListener, front: &Rc<F>) {
        let drain = self.serving.drain.clone();
        loop {
            tokio::select! {
                biased;
                () = drain.wait() => return,
                () = self.room() => {}
            }
            tokio::select! {
                biased;
                () = drain.wait() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => self.serve(stream, address, front),
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        }
    }

    /// Resolves when there is room for one more connection and its handshake.
    async fn room(&self) {
        self.connections.below(self.serving.limits.connections).await;
        if let Some(tls) = &self.tls {
            tls.room().await;
        }
    }

    /// Serves the connections that the kernel had accepted for us when the drain began.
    async fn rest<F: Front>(&self, listener: &tokio::net::TcpListener, front: &Rc<F>) {
        while let Some(Ok((stream, address))) = futures_util::FutureExt::now_or_never(listener.accept()) {
            self.serve(stream, address, front);
        }
    }

    fn serve<F: Front>(&self, stream: tokio::net::TcpStream, address: std::net::SocketAddr, front: &Rc<F>) {
        // Without it the last piece of an answer waits for the client's acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "the client is gone already");
            return;
        }
        let open = self.connections.enter();
        let (front, serving) = (Rc::clone(front), self.serving.clone());
        let client = Client {
            address,
            scheme: if self.tls.is_some() { Scheme::Https } else { Scheme::Http },
        };
        let metrics = Arc::clone(&self.metrics);
        let tls = self.tls.clone().map(|tls| (tls.enter(), tls));
        tokio::task::spawn_local(async move {
            metrics.connections.fetch_add(1, Relaxed);
            match tls {
                None => listener::serve(stream, client, front, serving).await,
                // On the heap, so that a connection without TLS is not as large as one with.
                Some((place, tls)) => {
                    Box::pin(async move {
                        if let Some(stream) = tls.accept(stream, place, serving.drain.clone()).await {
                            listener::serve(stream, client, front, serving).await;
                        }
                    })
                    .await;
                }
            }
            metrics.connections.fetch_sub(1, Relaxed);
            drop(open);
        });
    }
}
