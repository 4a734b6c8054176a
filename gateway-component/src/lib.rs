//! The gateway as a WASI component, for any host that has `wasi:http@0.3`: one file with two exports.
//!
//! - `wasi:http/handler` (`edge`): the component serves requests by itself and drives its own exchanges.
//! - `heddle:gateway/policy` (`policy`): a host drives the same exchanges and moves the bytes itself.
//!
//! Neither holds a policy: what happens to a request is decided in the `gateway` crate. A panic here would end every request
//! that the instance has in flight, so nothing that arrives may cause one.

mod clock;
mod edge;
mod policy;

use spin_sdk::http::{IntoResponse, Request};
use spin_sdk::http_service;

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    edge::answer(request).await
}
