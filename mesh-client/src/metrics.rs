//! What a member counts, as OpenMetrics text.

use identity::ServiceName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::policy::Mode;

/// The metrics of one member.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    denied: Family<Denied, Counter>,
    lookups: Family<Lookup, Counter>,
}

/// A request that a policy denies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Denied {
    /// The rule; empty where the default denied it.
    rule: String,
    mode: &'static str,
}

/// A question to DNS about something outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lookup {
    /// The name that it is called by; there are as many as the document has.
    service: String,
    outcome: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("heddle_mesh"),
            denied: Family::default(),
            lookups: Family::default(),
        };
        metrics.registry.register(
            "requests_denied",
            "Requests that a policy denies: refused where its mode is enforce, served where it is audit",
            metrics.denied.clone(),
        );
        metrics.registry.register(
            "dns_lookups",
            "Questions to DNS about what is outside the mesh: answered, or failed, after which the last answer is used",
            metrics.lookups.clone(),
        );
        metrics
    }

    pub(crate) fn denied(&self, rule: Option<&str>, mode: Mode) {
        let denied = Denied {
            rule: rule.unwrap_or_default().to_owned(),
            mode: mode.as_str(),
        };
        self.denied.get_or_create(&denied).inc();
    }

    pub(crate) fn looked_up(&self, service: &ServiceName, answered: bool) {
        let lookup = Lookup {
            service: service.to_string(),
            outcome: if answered { "answered" } else { "failed" },
        };
        self.lookups.get_or_create(&lookup).inc();
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}
