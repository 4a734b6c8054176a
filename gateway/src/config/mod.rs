//! The gateway's config: what its file says, and the immutable snapshot that it compiles to.

mod aggregate;
mod auth;
mod compile;
mod limit;
mod listing;
mod mirror;
mod policy;
mod raw;
mod route;
mod settings;
mod validate;

use http::{HeaderMap, HeaderName};
use routing::matching::View;
use routing::table::{Find, RouteTable};
use routing::upstream::Upstream;

pub use crate::auth::jwt::keys::Key;
pub use listing::Listed;
pub(crate) use listing::{describe, policies};
pub use policy::Policy;
pub(crate) use policy::{Action, Auth, AuthRule, Backend, Method, Mirror, policy_edit_count};
pub use routing::config::{Diagnostic, Diagnostics, Severity, Source};
pub use settings::{CertificateFiles, MeshSettings, QuotaStore, Secret, Settings, WhenDown};

use crate::auth::jwt::keys::fetched;
use crate::exchange::{BodyRead, KeyId, Observe, RouteId, UpstreamId, Verify, VerifyKey};
use crate::keys::Published;
use crate::validate::AnswerRules;

/// The JSON Schema (2020-12) of a config. It knows every key and the form of its value; what refers to what, and which values go
/// together, [`Gateway::compile`] knows.
pub const CONFIG_SCHEMA: &str = include_str!("../../config.schema.json");

/// A route: its name, its rules, and what happens to the requests that they match.
pub type Route = routing::table::Route<Policy>;

/// A compiled config: the immutable snapshot by which exchanges are decided.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    table: RouteTable<Policy>,
    upstreams: Vec<Upstream>,
    auths: Vec<Auth>,
    keys: Vec<Key>,
    published: Vec<Published>,
    /// The request's fields that say who the caller is: what a client sends under their names goes no further, on any route.
    identity_fields: Vec<HeaderName>,
    /// A hash of everything that it was made of: the config, the files that it names, and the variables.
    fingerprint: [u8; 32],
}

impl Gateway {
    /// Compiles a config.
    ///
    /// `files` reads the files that the config names (schemas and keys), by their paths as they are written there; a path that a
    /// schema refers to is relative to the schema. `variables` gives the values of `${NAME}`.
    ///
    /// # Errors
    /// Every mistake of the config at once, each with its place and its mend.
    pub fn compile(
        source: &Source,
        files: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
        variables: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Diagnostics> {
        let (gateway, diagnostics) = Self::compile_on(source, files, variables, &mut |_, _| {});
        diagnostics.into_result(gateway)
    }

    /// Compiles a config for a host that has something of its own to say about the settings, its certificates for one: `host` is
    /// shown them once, and what it finds wrong stands beside everything else. The warnings come even where there is a gateway;
    /// there is none where there is an error.
    pub fn compile_on(
        source: &Source,
        files: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
        variables: &dyn Fn(&str) -> Option<String>,
        host: &mut dyn FnMut(&Settings, &mut Diagnostics),
    ) -> (Option<Self>, Diagnostics) {
        compile::compile(source, files, variables, host)
    }

    /// What the `[gateway]` and `[mesh]` sections say.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The routes in the order of the file: a [`RouteId`] is a place in this list.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        self.table.routes()
    }

    /// The rules of all routes in the order in which they are tried, for people and programs to read.
    #[must_use]
    pub fn listing(&self) -> Vec<Listed<'_>> {
        listing::listing(self)
    }

    /// The upstreams in the order of the file: an [`UpstreamId`] is a place in this list.
    #[must_use]
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// The keys that check tokens: a [`KeyId`] is a place in this list.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The sets of keys that issuers publish: a [`KeySetId`](crate::exchange::KeySetId) is a place in this list.
    #[must_use]
    pub fn key_sets(&self) -> &[Published] {
        &self.published
    }

    /// Whether a signature is right: what a driver does for [`Step::Verify`](crate::exchange::Step::Verify).
    #[must_use]
    pub fn verify(&self, verify: &Verify) -> bool {
        let Verify {
            algorithm,
            message,
            signature,
            ..
        } = verify;
        match &verify.key {
            &VerifyKey::Known(KeyId(at)) => {
                let key = usize::try_from(at).ok().and_then(|at| self.keys.get(at));
                key.is_some_and(|key| key.verify(*algorithm, message, signature))
            }
            VerifyKey::Fetched { auth, jwk } => {
                let auth = usize::try_from(*auth).ok().and_then(|at| self.auths.get(at));
                let Some(Auth {
                    name,
                    method: Method::Jwt(jwt),
                }) = auth
                else {
                    return false;
                };
                fetched(name, jwk, &jwt.algorithms).is_some_and(|key| key.verify(*algorithm, message, signature))
            }
        }
    }

    /// What is wrong with an answer that was [observed](crate::exchange::Observe), in words.
    #[must_use]
    pub fn judge_answer(&self, observe: &Observe, status: u16, fields: &HeaderMap, body: &BodyRead) -> Vec<String> {
        let Some(policy) = self.route(observe.route).map(|route| &route.policy) else {
            return Vec::new();
        };
        let description = policy.body.as_ref().and_then(|rules| rules.description.as_deref());
        let judge = |rules: &AnswerRules| rules.judge(description.zip(observe.operation), status, fields, body);
        policy.answers.as_deref().map(judge).unwrap_or_default()
    }

    /// The route at a place.
    #[must_use]
    pub fn route(&self, RouteId(at): RouteId) -> Option<&Route> {
        usize::try_from(at).ok().and_then(|at| self.routes().get(at))
    }

    /// The upstream at a place.
    #[must_use]
    pub fn upstream(&self, UpstreamId(at): UpstreamId) -> Option<&Upstream> {
        usize::try_from(at).ok().and_then(|at| self.upstreams.get(at))
    }

    pub(crate) fn find<'t, 'v>(&'t self, view: &'v View<'_>) -> Find<'t, 'v, Policy> {
        self.table.find(view)
    }

    pub(crate) fn table(&self) -> &RouteTable<Policy> {
        &self.table
    }

    pub(crate) fn identity_fields(&self) -> &[HeaderName] {
        &self.identity_fields
    }

    pub(crate) fn auth(&self, at: usize) -> Option<&Auth> {
        self.auths.get(at)
    }

    pub(crate) fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}
