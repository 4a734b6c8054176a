//! What the control plane counts.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The control plane's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) registrations: Gauge,
    watchers: Gauge,
    connections: Gauge,
    pub(crate) expired: Counter,
    pub(crate) joins: Counter,
    pub(crate) join_failures: Family<Failure, Counter>,
    pub(crate) svids: Counter,
    pub(crate) own_renewals: Counter,
    pub(crate) handshake_failures: Counter,
    pub(crate) store_failures: Counter,
}

/// Why something failed, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Failure {
    pub(crate) reason: &'static str,
}

/// One of what a gauge counts, for as long as it lives.
pub(crate) struct Counted(Gauge);

impl Counted {
    fn one_of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("heddle_mesh"),
            registrations: Gauge::default(),
            watchers: Gauge::default(),
            connections: Gauge::default(),
            expired: Counter::default(),
            joins: Counter::default(),
            join_failures: Family::default(),
            svids: Counter::default(),
            own_renewals: Counter::default(),
            handshake_failures: Counter::default(),
            store_failures: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "registrations",
            "Endpoints that are registered",
            metrics.registrations.clone(),
        );
        registry.register("watchers", "Streams that follow endpoints", metrics.watchers.clone());
        registry.register("connections", "Connections to the control port", metrics.connections.clone());
        registry.register(
            "leases_expired",
            "Endpoints taken out for want of heartbeats",
            metrics.expired.clone(),
        );
        registry.register("joins", "Members that joined by a token", metrics.joins.clone());
        registry.register("join_failures", "Joins that were refused", metrics.join_failures.clone());
        registry.register(
            "own_renewals",
            "Renewals of the control plane's own SVID",
            metrics.own_renewals.clone(),
        );
        registry.register("svids_issued", "X509-SVIDs issued, renewals included", metrics.svids.clone());
        registry.register(
            "handshake_failures",
            "TLS handshakes that failed",
            metrics.handshake_failures.clone(),
        );
        registry.register(
            "store_failures",
            "Commits that the store refused",
            metrics.store_failures.clone(),
        );
        Arc::new(metrics)
    }

    pub(crate) fn watchers(&self) -> Counted {
        Counted::one_of(&self.watchers)
    }

    pub(crate) fn connections(&self) -> Counted {
        Counted::one_of(&self.connections)
    }

    /// OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}
