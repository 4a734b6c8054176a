//! The signals that this process gets, on behalf of its command.

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{self, SignalKind};
use tokio::task::AbortHandle;

/// Signals that ask to stop. The mesh is left first, and then the command gets the same.
pub(super) struct Stop {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

/// One that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) name: &'static str,
    pub(super) signal: Signal,
}

impl Asked {
    /// What the command is asked where nobody asked this process.
    pub(super) const END: Self = Self {
        name: "SIGTERM",
        signal: Signal::TERM,
    };
}

impl Stop {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn asked(&mut self) -> Asked {
        let (name, signal) = tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", Signal::TERM),
            _ = self.interrupt.recv() => ("SIGINT", Signal::INT),
        };
        Asked { name, signal }
    }
}

/// Signals that mean something to the command alone (read your files again, say), and are passed on as they come.
pub(super) struct Relayed(Vec<(unix::Signal, Signal)>);

impl Relayed {
    pub(super) fn listen() -> anyhow::Result<Self> {
        let relayed = [
            (SignalKind::hangup(), Signal::HUP),
            (SignalKind::quit(), Signal::QUIT),
            (SignalKind::user_defined1(), Signal::USR1),
            (SignalKind::user_defined2(), Signal::USR2),
        ];
        let relayed = relayed.into_iter().map(|(kind, signal)| Ok((listen(kind)?, signal)));
        Ok(Self(relayed.collect::<anyhow::Result<_>>()?))
    }

    /// Passes them on to the command until the answer is dropped. To it alone: what they mean to processes that it has started is its
    /// business, and by default their end.
    pub(super) fn to(self, command: Pid) -> Relay {
        let each = self.0.into_iter().map(|(mut coming, signal)| {
            let relay = async move {
                while coming.recv().await.is_some() {
                    // It may be gone.
                    let _ = kill_process(command, signal);
                }
            };
            tokio::spawn(relay).abort_handle()
        });
        Relay(each.collect())
    }
}

/// Passes signals on for as long as it lives: afterwards the command's number may be another's.
pub(super) struct Relay(Vec<AbortHandle>);

impl Drop for Relay {
    fn drop(&mut self) {
        for relay in &self.0 {
            relay.abort();
        }
    }
}

fn listen(kind: SignalKind) -> anyhow::Result<unix::Signal> {
    unix::signal(kind).context("cannot listen for signals")
}
