//! Drain as a value that everybody holds: one side begins it, every listener and connection watches for it.

use tokio::sync::watch;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// New connections and requests are welcome.
    Running,
    /// No new connections; what is in flight may finish.
    Draining,
}

/// Begins the drain.
#[derive(Debug, Clone)]
pub(crate) struct Trigger(watch::Sender<Phase>);

/// Sees the drain begin.
#[derive(Debug, Clone)]
pub(crate) struct Watch(watch::Receiver<Phase>);

/// A trigger and what it triggers.
pub(crate) fn channel() -> (Trigger, Watch) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (Trigger(sender), Watch(receiver))
}

impl Trigger {
    /// Begins the drain; again is no harm.
    pub(crate) fn begin(&self) {
        self.0.send_replace(Phase::Draining);
    }
}

impl Watch {
    /// Whether the drain has begun.
    pub(crate) fn begun(&self) -> bool {
        *self.0.borrow() == Phase::Draining
    }

    /// Resolves when the drain begins. A trigger that is gone counts as having begun it.
    pub(crate) async fn wait(&mut self) {
        // An error means that the trigger was dropped, and nobody is left who could want us to go on.
        let _gone = self.0.wait_for(|phase| *phase == Phase::Draining).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_watch_sees_one_trigger() {
        let (trigger, mut first) = channel();
        let mut second = first.clone();
        assert!(!first.begun());
        trigger.begin();
        first.wait().await;
        second.wait().await;
        assert!(second.begun());
    }

    #[tokio::test]
    async fn a_trigger_that_is_gone_counts_as_begun() {
        let (trigger, mut watch) = channel();
        drop(trigger);
        watch.wait().await;
    }
}
