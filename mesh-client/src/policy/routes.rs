//! Where the calls of one member to one service go. Immutable: another document is another one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use http::request;
use identity::{ServiceName, SpiffeId};
use routing::filter::{HeaderEdit, HeaderEdits, Reference, Resolve, Rewrite};
use routing::matching::{Params, View};
use routing::policy::{Chance, Fault, Retry};
use routing::table::{Find, Route, RouteTable};
use routing::upstream::Split;
use routing::{RequestHead, Scheme};

/// What happens to the calls that a route takes.
#[derive(Debug, Default)]
pub(crate) struct RoutePolicy {
    /// Its name; empty for calls that no route takes.
    pub(crate) name: Box<str>,
    pub(crate) fault: Option<Fault>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: Option<Retry>,
    pub(crate) backends: Vec<Backend>,
    /// Places among the backends by their weights; none where every weight is 0.
    pub(crate) split: Option<Split<usize>>,
    pub(crate) mirrors: Vec<Mirror>,
    pub(super) rewrite: Rewrite,
    pub(super) request: HeaderEdits,
    pub(super) response: HeaderEdits,
}

/// Endpoints that a call may go to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The service, where it is not the one that is called.
    pub(crate) service: Option<ServiceName>,
    /// Those of this version alone.
    pub(crate) version: Option<Box<str>>,
}

/// One share of a route's calls.
#[derive(Debug, Default)]
pub(crate) struct Backend {
    pub(crate) to: Destination,
    pub(super) request: HeaderEdits,
    pub(super) response: HeaderEdits,
}

/// Where copies of some calls go.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) to: Destination,
    pub(crate) chance: Chance,
}

/// A route of the document, and whose calls it is about.
#[derive(Debug)]
pub(super) struct ScopedRoute {
    /// The services that are called.
    pub(super) to: Vec<ServiceName>,
    /// Anybody where there are none.
    pub(super) from: Vec<SpiffeId>,
    pub(super) route: Route<Arc<RoutePolicy>>,
}

impl ScopedRoute {
    /// Whether it is about calls of `caller` to `service`; nobody in particular is a caller that no route names.
    pub(super) fn is_about(&self, caller: Option<&SpiffeId>, service: &ServiceName) -> bool {
        let called = self.to.contains(service);
        called && (self.from.is_empty() || caller.is_some_and(|caller| self.from.contains(caller)))
    }
}

/// The routes for calls of one member to one service.
#[derive(Debug)]
pub(crate) struct Routes {
    table: Option<RouteTable<Arc<RoutePolicy>>>,
    /// What becomes of calls that no route takes.
    usual: Arc<RoutePolicy>,
}

impl Routes {
    pub(super) fn new(routes: Vec<Route<Arc<RoutePolicy>>>) -> Self {
        let usual = RoutePolicy {
            backends: vec![Backend::default()],
            split: Split::new([(0, 1)]),
            ..RoutePolicy::default()
        };
        Self {
            // A route that a better one for this very caller hides is no mistake.
            table: (!routes.is_empty()).then(|| RouteTable::compile(routes).0),
            usual: Arc::new(usual),
        }
    }

    /// The policies of all routes.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Arc<RoutePolicy>> {
        let table = self.table.iter().flat_map(RouteTable::routes);
        table.map(|route| &route.policy).chain([&self.usual])
    }

    /// What becomes of a request, by a random number that is uniform over all of `u64`. One whose path is none matches no route.
    pub(crate) fn plan(&self, head: &request::Parts, random: u64) -> Plan {
        let authority = head.uri.authority().map_or("", |authority| authority.as_str());
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let request = RequestHead {
            method: head.method.as_str(),
            scheme: Scheme::Https,
            authority,
            target,
            fields: &head.headers,
            peer: None,
        };
        let view = self.table.as_ref().and_then(|table| Some((table, View::of(&request).ok()?)));
        let found = view.as_ref().map(|(table, view)| (table.find(view), view));
        match &found {
            Some((Find::Found(found), view)) => {
                let policy = &found.route.policy;
                let target = policy.rewrite.target(&found.params, view.query);
                let values = Values {
                    params: Some(&found.params),
                    fields: &head.headers,
                };
                Plan::new(policy, target, &values, random)
            }
            _ => {
                let values = Values {
                    params: None,
                    fields: &head.headers,
                };
                Plan::new(&self.usual, None, &values, random)
            }
        }
    }
}

/// What becomes of one call.
pub(crate) struct Plan {
    pub(crate) policy: Arc<RoutePolicy>,
    /// Where it goes, as a place among the backends; nowhere where every weight is 0.
    backend: Option<usize>,
    /// Its path and query, where they are others.
    target: Option<String>,
    request: Vec<HeaderEdit>,
    response: Vec<HeaderEdit>,
}

impl Plan {
    fn new(policy: &Arc<RoutePolicy>, target: Option<String>, values: &Values<'_>, random: u64) -> Self {
        let backend = policy.split.as_ref().map(|split| *split.choose(random));
        let chosen = backend.and_then(|at| policy.backends.get(at));
        let of_backend =
            |edits: fn(&Backend) -> &HeaderEdits| chosen.into_iter().flat_map(move |chosen| edits(chosen).edits(values));
        Self {
            request: policy
                .request
                .edits(values)
                .chain(of_backend(|backend| &backend.request))
                .collect(),
            response: policy
                .response
                .edits(values)
                .chain(of_backend(|backend| &backend.response))
                .collect(),
            policy: Arc::clone(policy),
            backend,
            target,
        }
    }

    /// Where it goes.
    pub(crate) fn destination(&self) -> Option<&Destination> {
        Some(&self.policy.backends.get(self.backend?)?.to)
    }

    /// The path and query to send, where they are others.
    pub(crate) fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// The host to tell, where it is another.
    pub(crate) fn host(&self) -> Option<&HeaderValue> {
        self.policy.rewrite.host.as_ref()
    }

    pub(crate) fn edit_request(&self, headers: &mut HeaderMap) {
        apply(&self.request, headers);
    }

    pub(crate) fn edit_response(&self, headers: &mut HeaderMap) {
        apply(&self.response, headers);
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("route", &self.policy.name)
            .finish_non_exhaustive()
    }
}

fn apply(edits: &[HeaderEdit], headers: &mut HeaderMap) {
    for edit in edits {
        match edit {
            HeaderEdit::Remove(name) => drop(headers.remove(name)),
            HeaderEdit::Set(name, value) => drop(headers.insert(name, value.clone())),
            HeaderEdit::Add(name, value) => drop(headers.append(name, value.clone())),
        }
    }
}

/// What templates refer to.
struct Values<'a> {
    params: Option<&'a Params<'a, 'a>>,
    fields: &'a HeaderMap,
}

impl Resolve for Values<'_> {
    fn resolve(&self, reference: &Reference, into: &mut String) -> bool {
        if let Some(params) = self.params.filter(|_| matches!(reference, Reference::Param(_))) {
            return params.resolve(reference, into);
        }
        let fields: &dyn routing::Fields = self.fields;
        fields.referred(reference).map(|value| into.push_str(value)).is_some()
    }
}
