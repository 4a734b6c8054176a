//! The drain as a value: whoever serves holds a [`Watch`], whoever ends it holds the [`Signal`].
//!
//! A task that holds a watch is one that the drain waits for; it drops its watch when it is done.

use tokio::sync::watch;

/// A drain that has not begun.
#[must_use]
pub fn channel() -> (Signal, Watch) {
    let (sender, receiver) = watch::channel(false);
    (Signal(sender), Watch(receiver))
}

/// Begins the drain. Dropping it begins the drain too.
#[derive(Debug)]
pub struct Signal(watch::Sender<bool>);

impl Signal {
    /// Begins the drain; the second time changes nothing.
    pub fn start(&self) {
        self.0.send_replace(true);
    }

    /// Waits until every [`Watch`] is dropped.
    pub async fn finished(&self) {
        self.0.closed().await;
    }

    /// Another watch.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }
}

/// Sees the drain begin, and keeps it from finishing.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<bool>);

impl Watch {
    /// Waits until the drain begins.
    pub async fn started(&mut self) {
        // An error means that the signal is gone, which begins the drain as well.
        let _ = self.0.wait_for(|started| *started).await;
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn has_started(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn every_watch_sees_the_drain_and_holds_its_end() {
        let (signal, mut first) = channel();
        let mut second = first.clone();
        assert!(!first.has_started());
        signal.start();
        first.started().await;
        second.started().await;
        drop(first);
        assert!(
            tokio::time::timeout(Duration::from_millis(5), signal.finished())
                .await
                .is_err()
        );
        drop(second);
        signal.finished().await;
    }

    #[tokio::test]
    async fn a_dropped_signal_is_a_drain() {
        let (signal, mut watch) = channel();
        drop(signal);
        watch.started().await;
        assert!(watch.has_started());
    }
}
