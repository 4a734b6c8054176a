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
    /// Whether anything was done with the trigger since this watch was made. Takes no lock, for it is asked with every request.
    pub(crate) fn stirred(&self) -> bool {
        !matches!(self.0.has_changed(), Ok(false))
    }

    /// Whether the drain has begun.
    pub(crate) fn begun(&self) -> bool {
        self.stirred() && *self.0.borrow() == Phase::Draining
    }

    /// Resolves when the drain begins. A trigger that is gone counts as having begun it.
    pub(crate) async fn wait(&self) {
        // Waiting counts as seeing, after which `has_changed` would see nothing, so a twin does it.
        let mut twin = self.0.clone();
        // An error means that the trigger was dropped, and nobody is left who could want us to go on.
        let _gone = twin.wait_for(|phase| *phase == Phase::Draining).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_watch_sees_one_trigger() {
        let (trigger, first) = channel();
        let second = first.clone();
        assert!(!first.begun() && !first.stirred());
        trigger.begin();
        first.wait().await;
        second.wait().await;
        assert!(second.begun() && second.clone().begun());
    }

    #[tokio::test]
    async fn a_trigger_that_is_gone_counts_as_begun() {
        let (trigger, watch) = channel();
        assert!(!watch.stirred());
        drop(trigger);
        assert!(watch.stirred() && !watch.begun());
        watch.wait().await;
    }
}
