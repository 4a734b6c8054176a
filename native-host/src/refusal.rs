//! Answers to requests that no exchange decides: because of how they are framed or addressed, or because no decision could be
//! made.

use std::borrow::Cow;

use gateway::exchange::{Entropy, Respond};
use routing::Reason;

/// A request that is refused before any policy saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    reason: Reason,
    detail: Cow<'static, str>,
    /// Whether what follows on the connection cannot be trusted.
    close: bool,
}

impl Refusal {
    /// It breaks the protocol, so what comes after it cannot be told from it.
    pub(crate) fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: Reason::MalformedRequest,
            detail: detail.into(),
            close: true,
        }
    }

    /// The codec refuses it.
    pub(crate) fn of(error: http1::Error) -> Self {
        match error.status(http1::Peer::Client) {
            414 => Self {
                close: true,
                ..Self::target_too_long()
            },
            431 => Self {
                reason: Reason::HeadTooLarge,
                detail: error.to_string().into(),
                close: true,
            },
            _ => Self::malformed(error.to_string()),
        }
    }

    /// Its target is longer than is accepted.
    pub(crate) fn target_too_long() -> Self {
        Self {
            reason: Reason::UriTooLong,
            detail: "the request's path and query are longer than this gateway accepts".into(),
            close: false,
        }
    }

    /// It wants a tunnel.
    pub(crate) fn tunnel() -> Self {
        Self {
            reason: Reason::UpgradeUnsupported,
            detail: "this gateway is no tunnel: CONNECT is not supported".into(),
            close: true,
        }
    }

    /// Nobody could decide about it.
    pub(crate) fn undecided() -> Self {
        Self {
            reason: Reason::Internal,
            detail: "the request could not be decided".into(),
            close: false,
        }
    }

    /// Why.
    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    /// Whether what follows on the connection cannot be trusted.
    pub(crate) fn closes(&self) -> bool {
        self.close
    }

    /// The answer; its request id comes from the entropy.
    pub(crate) fn respond(&self, entropy: &Entropy) -> Respond {
        gateway::exchange::refuse(self.reason, &self.detail, entropy)
    }
}
