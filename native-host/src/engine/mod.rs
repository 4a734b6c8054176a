//! Who decides what happens to a request: the gateway linked into this program, or the same gateway in its sandbox.

pub(crate) mod handler;
mod native;
mod source;
pub(crate) mod wasm;

use std::sync::Arc;

use gateway::Gateway;
use gateway::exchange::{Arrival, Event, Step};
use routing::Now;

use crate::inbound::Head;
use crate::keys::KeyStore;

pub(crate) use native::Native;
pub(crate) use source::{Decider, Prepared, Source};
pub(crate) use wasm::Wasm;

/// Starts exchanges and tells them what happened. One per core, so nothing here is shared or awaits.
pub(crate) trait Engine: 'static {
    /// An exchange that has steps to come; dropping it ends it.
    type Exchange;

    /// The snapshot that decides.
    fn gateway(&self) -> &Arc<Gateway>;

    /// The engine for the next snapshot; none where the decider is another engine's.
    fn succeed(&self, gateway: Arc<Gateway>, keys: &Arc<KeyStore>, decider: Decider) -> Option<Self>
    where
        Self: Sized;

    /// Tells an arrival, which has this head; no exchange where the step is the last.
    fn start(&self, arrival: &Arrival<'_>, head: &Head) -> Result<(Option<Self::Exchange>, Step), Fault>;

    /// Tells what happened.
    fn on(&self, exchange: &mut Self::Exchange, event: Event, now: Now) -> Result<Step, Fault>;
}

/// Why a decision could not be made. It costs the request that asked for it, and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum Fault {
    /// The guest trapped, or outgrew its memory.
    #[error("the guest trapped")]
    Trapped,
    /// The guest took too long.
    #[error("the guest took longer than a decision may")]
    Overtime,
    /// A neighbour's fault ended the instance, and this exchange did not come out the same in a fresh one.
    #[error("the exchange could not be replayed in a fresh guest")]
    Diverged,
    /// No instance could be made.
    #[error("no guest could be started")]
    Unavailable,
}

impl Fault {
    /// For a metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Trapped => "trapped",
            Self::Overtime => "overtime",
            Self::Diverged => "diverged",
            Self::Unavailable => "unavailable",
        }
    }
}
