//! Copies of requests: sent beside the request that they are copies of, and on their own from then on. Neither the client nor its
//! exchange waits for one or hears of it; what bounds them is their deadline and their upstream's breaker.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use gateway::exchange::{Answer, Attempt};
use http_body::Body as _;

use crate::core::Core;
use crate::engine::Engine;
use crate::inbound::Inbound;

/// Sends the copies among these attempts, and gives the others.
pub(crate) fn split_off<E: Engine>(core: &Rc<Core<E>>, inbound: &Inbound, mut attempts: Vec<Attempt>) -> Vec<Attempt> {
    let is_copy = |attempt: &Attempt| attempt.answer == Answer::Discard;
    if attempts.iter().any(is_copy) {
        let (copies, rest): (Vec<_>, Vec<_>) = attempts.into_iter().partition(is_copy);
        for copy in copies {
            tokio::task::spawn_local(send(Rc::clone(core), twin(inbound), copy));
        }
        attempts = rest;
    }
    attempts
}

async fn send<E: Engine>(core: Rc<Core<E>>, inbound: Inbound, attempt: Attempt) {
    let deadline = core.instant(attempt.deadline);
    match core.upstreams().send(&attempt, &inbound, Instant::now()).await {
        Ok(answered) => {
            let mut body = answered.body;
            // Read to its end, so that its connection can serve another.
            let drained = async {
                while std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))
                    .await
                    .is_some_and(|frame| frame.is_ok())
                {}
            };
            // Whoever sends for longer than that is hung up on.
            let _late = tokio::time::timeout_at(deadline.into(), drained).await;
        }
        Err(failed) => tracing::debug!(failure = ?failed.failure, "a mirror did not answer"),
    }
}

/// The same request with endpoints of its own: what a copy tried says nothing of what the request tried.
fn twin(inbound: &Inbound) -> Inbound {
    Inbound {
        head: inbound.head.clone(),
        scheme: inbound.scheme,
        client: inbound.client,
        body: inbound.body.clone(),
        tried: Cell::new(None),
    }
}
