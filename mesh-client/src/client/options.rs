//! What a client does, and how long it waits.

use std::time::Duration;

use routing::balance::Balance;
use routing::policy::{Retry, RetryOn};

/// The settings of one [`Client`](super::Client).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// How an endpoint is chosen. Default: as the mesh says of the service; where it says nothing, of two drawn at random the one
    /// that is expected to answer sooner.
    pub balance: Option<Balance>,
    /// When a request is sent again whose route does not say; never, whatever its route says, where there is none. An endpoint that cannot
    /// be connected to is gone round in any case. Default: twice more where no connection could be made or it broke,
    /// within a budget of a fifth of the requests.
    pub retry: Option<Retry>,
    /// How long connecting and the handshake may take together. Default 1 s.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take, retries included. Default: for as long as the caller waits.
    pub response_timeout: Option<Duration>,
    /// How long a service of which nothing is known yet is waited for, and the policies of the mesh. Default 3 s.
    pub discovery_timeout: Duration,
    /// The most connections to one endpoint, at least 1. Default 2; more are opened only where the first is busy.
    pub connections: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        let on = RetryOn {
            connect_failure: true,
            reset: true,
            ..RetryOn::default()
        };
        Self {
            balance: None,
            retry: Some(Retry {
                attempts: 3,
                on,
                ..Retry::default()
            }),
            connect_timeout: Duration::from_secs(1),
            response_timeout: None,
            discovery_timeout: Duration::from_secs(3),
            connections: 2,
        }
    }
}

impl ClientOptions {
    /// The same without retries, for a caller that has a policy of its own.
    #[must_use]
    pub fn without_retries(mut self) -> Self {
        self.retry = None;
        self
    }

    /// The same with another way to choose endpoints.
    #[must_use]
    pub const fn balance(mut self, balance: Balance) -> Self {
        self.balance = Some(balance);
        self
    }

    /// The same with another limit on connecting.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The same with a limit on the time to an answer's head.
    #[must_use]
    pub const fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = Some(timeout);
        self
    }
}

/// Among the extensions of a request: by which the endpoint is chosen that owns it, where the client or the mesh balances by
/// [`RingHash`](Balance::RingHash), in place of what the mesh says to go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity(pub u64);
