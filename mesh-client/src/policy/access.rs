//! Who may call one service: principal × method × path × port × end user.
//!
//! A rule that denies comes before every rule that allows, wherever they stand in the file, so that no later rule can open what an
//! earlier one closed. Where no rule matches, the default decides.

use std::sync::Arc;

use identity::SpiffeId;
use routing::claims::{Claims, Requirements};
use routing::matching::{MethodMatch, PathPattern};

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is served.
    Allow,
    /// It is refused.
    Deny,
}

/// Whether a refusal is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What is denied is refused.
    Enforce,
    /// What is denied is served, and reported as what would have been refused.
    Audit,
}

/// Who asks for what.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Whom the handshake proved; nobody where the listener admits the nameless.
    pub principal: Option<&'a SpiffeId>,
    /// The method; `CONNECT` for an opaque connection.
    pub method: &'a str,
    /// The path in its normal form, without the query; `/` for an opaque connection.
    pub path: &'a str,
    /// The port that the service is served on.
    pub port: u16,
    /// What is verified about the end user on whose behalf it is asked; nothing where there is none.
    pub caller: Option<&'a Claims>,
}

/// The answer, and what gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// What the policy says.
    pub action: Action,
    /// The rule that said it; none where that was the default.
    pub rule: Option<&'a str>,
    /// Whether it is held to.
    pub mode: Mode,
}

/// Who may call one service. Immutable: another document is another one.
#[derive(Debug, Clone)]
pub struct Access {
    default: Action,
    mode: Mode,
    deny: Box<[Rule]>,
    allow: Box<[Rule]>,
    reads_paths: bool,
    handoffs: Arc<[SpiffeId]>,
}

/// One rule: every part of it has to match.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) action: Action,
    /// Anybody where there are none.
    pub(super) from: Arc<[SpiffeId]>,
    pub(super) methods: MethodMatch,
    /// Any path where there are none.
    pub(super) paths: Arc<[PathPattern]>,
    /// Any port where there are none.
    pub(super) ports: Arc<[u16]>,
    /// Anybody, and nobody, where it asks nothing.
    pub(super) caller: Arc<Requirements>,
}

impl Rule {
    fn matches(&self, ask: &Ask<'_>) -> bool {
        (self.from.is_empty() || ask.principal.is_some_and(|principal| self.from.contains(principal)))
            && self.methods.matches(ask.method)
            && (self.ports.is_empty() || self.ports.contains(&ask.port))
            && (self.caller.is_empty() || ask.caller.is_some_and(|claims| self.caller.judge(claims).is_ok()))
            && (self.paths.is_empty() || self.paths.iter().any(|path| path.matches(ask.path)))
    }
}

impl Access {
    pub(super) fn new(default: Action, mode: Mode, handoffs: Arc<[SpiffeId]>, rules: impl Iterator<Item = Rule>) -> Self {
        let (deny, allow): (Vec<_>, Vec<_>) = rules.partition(|rule| rule.action == Action::Deny);
        let reads_paths = deny.iter().chain(&allow).any(|rule| !rule.paths.is_empty());
        Self {
            default,
            mode,
            deny: deny.into(),
            allow: allow.into(),
            reads_paths,
            handoffs,
        }
    }

    /// What becomes of a request.
    #[must_use]
    pub fn judge(&self, ask: &Ask<'_>) -> Verdict<'_> {
        let rules = self.deny.iter().chain(&self.allow);
        let (action, rule) = match rules.into_iter().find(|rule| rule.matches(ask)) {
            Some(rule) => (rule.action, Some(&*rule.name)),
            None => (self.default, None),
        };
        Verdict {
            action,
            rule,
            mode: self.mode,
        }
    }

    /// Whether any verdict depends on the path, so that a request without a path in normal form cannot be judged.
    #[must_use]
    pub const fn reads_paths(&self) -> bool {
        self.reads_paths
    }

    /// Whether `peer` is believed when it says on whose behalf it asks.
    #[must_use]
    pub fn believes(&self, peer: &SpiffeId) -> bool {
        self.handoffs.contains(peer)
    }

    /// Whether a refusal is one.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }
}

impl Verdict<'_> {
    /// Whether the request is served: it is allowed, or the policy only watches.
    #[must_use]
    pub fn admits(&self) -> bool {
        self.action == Action::Allow || self.mode == Mode::Audit
    }
}

impl Mode {
    /// One word for configs, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}
