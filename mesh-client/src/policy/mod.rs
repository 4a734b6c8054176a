//! What is decided for the whole mesh in one place, and pushed to its members: who may talk to whom, and where requests go.
//!
//! The document is TOML, and compiles with the same diagnostics as the gateway's config. It is pure: the control plane compiles it
//! before it accepts it, every member compiles what it is sent, and both judge by the same code.
//!
//! ```
//! use mesh_client::policy::{Action, Ask, Policies, Source};
//!
//! let text = r#"
//! [policy]
//! default = "deny"
//!
//! [[rules]]
//! name = "statements-read"
//! action = "allow"
//! from = ["statements"]
//! to = ["accounts"]
//! methods = ["GET"]
//! paths = ["/accounts/{id}"]
//! "#;
//! let bank = "bank.example".parse().unwrap();
//! let policies = Policies::compile(&Source::new("mesh.toml", text), &bank).unwrap();
//! let access = policies.access(&"accounts".parse().unwrap());
//! let statements = "spiffe://bank.example/service/statements".parse().unwrap();
//! let verdict = access.judge(&Ask { principal: Some(&statements), method: "GET", path: "/accounts/42", port: 9100, caller: None });
//! assert_eq!((verdict.action, verdict.rule), (Action::Allow, Some("statements-read")));
//! ```

mod access;
mod document;
mod external;
mod follow;
mod health;
mod routes;
#[cfg(test)]
mod tests;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::{ServiceName, SpiffeId, TrustDomain};
use routing::balance::ZoneSettings;
pub use routing::config::{Diagnostics, Source};
use routing::upstream::{ConnectionPolicy, Kind};

pub use access::{Access, Action, Ask, Mode, Verdict};
pub(crate) use follow::{Follower, Known};
pub(crate) use routes::{Destination, Plan, Routes};

use crate::health::Check;
use crate::outside::External;
use access::Rule;
use routes::ScopedRoute;

/// The longest document: what every member keeps of it is compiled, and what is sent at each change is this.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// A compiled document: everything that is decided centrally.
#[derive(Debug, Default)]
pub struct Policies {
    default: Default,
    services: BTreeMap<ServiceName, Default>,
    health: BTreeMap<ServiceName, Check>,
    rules: Vec<Scoped>,
    connections: BTreeMap<ServiceName, ConnectionPolicy>,
    /// What is outside the mesh.
    external: BTreeMap<ServiceName, External>,
    routes: Vec<ScopedRoute>,
    /// Who is believed about end users.
    handoffs: Arc<[SpiffeId]>,
}

/// What holds where no rule matches, and whether it is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Default {
    action: Action,
    mode: Mode,
}

impl std::default::Default for Default {
    /// A mesh without a document lets its members call each other.
    fn default() -> Self {
        Self {
            action: Action::Allow,
            mode: Mode::Enforce,
        }
    }
}

/// A rule and whom it protects.
#[derive(Debug)]
struct Scoped {
    /// Every service where there are none.
    to: Vec<ServiceName>,
    rule: Rule,
}

impl Policies {
    /// Compiles a document for the mesh of `trust_domain`.
    ///
    /// # Errors
    /// Every mistake of the document at once, each with its place and its mend.
    pub fn compile(source: &Source, trust_domain: &TrustDomain) -> Result<Self, Diagnostics> {
        Self::compile_beside(source, trust_domain, &|_| false)
    }

    /// The same beside services that are served in the mesh, none of which may be placed outside of it.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_beside(
        source: &Source,
        trust_domain: &TrustDomain,
        is_served: &dyn Fn(&ServiceName) -> bool,
    ) -> Result<Self, Diagnostics> {
        document::compile(source, trust_domain, is_served)
    }

    /// Whether `service` is outside the mesh: a member can neither be it nor take its calls.
    #[must_use]
    pub fn is_external(&self, service: &ServiceName) -> bool {
        self.external.contains_key(service)
    }

    /// Where `service` is, and how it is spoken to, if it is outside the mesh.
    pub(crate) fn external(&self, service: &ServiceName) -> Option<&External> {
        self.external.get(service)
    }

    /// The check that the members of `service` make of it, where the document says one.
    #[must_use]
    pub fn health(&self, service: &ServiceName) -> Option<&Check> {
        self.health.get(service)
    }

    /// Who may call `service`.
    #[must_use]
    pub fn access(&self, service: &ServiceName) -> Access {
        let Default { action, mode } = self.services.get(service).copied().unwrap_or(self.default);
        let rules = self.rules.iter().filter(|rule| rule.protects(service));
        Access::new(
            action,
            mode,
            Arc::clone(&self.handoffs),
            rules.map(|scoped| scoped.rule.clone()),
        )
    }

    /// How the endpoints of `service` are used by whoever calls it.
    pub(crate) fn connection(&self, service: &ServiceName) -> ConnectionPolicy {
        let own = self.connections.get(service).cloned();
        let mut connection = own.unwrap_or_else(|| ConnectionPolicy::usual(Kind::Service));
        if self.is_external(service) {
            // > A client MUST attempt to contact the target host with the lowest-numbered priority it can reach (RFC 2782)
            connection.balancing.zone = Some(ZoneSettings { overflow: u32::MAX });
        }
        connection
    }

    /// Where the calls of `caller` to `service` go.
    pub(crate) fn routes(&self, caller: &SpiffeId, service: &ServiceName) -> Routes {
        let places = traffic::of(&self.routes, Some(caller), service);
        Routes::new(places.into_iter().map(|at| self.routes[at].route.clone()).collect())
    }
}

impl Scoped {
    fn protects(&self, service: &ServiceName) -> bool {
        self.to.is_empty() || self.to.contains(service)
    }
}
