//! What a gateway is for: a hundred routes, a signed token to judge, a limit, header edits.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;

use crate::contestants::native_host::{Engine, native_host};
use crate::contestants::{Contestant, EnvoyPolicy, envoy_with_policy};
use crate::lab::Lab;
use crate::load::Load;
use crate::load::wrk::Wrk;
use crate::report::{Goal, Report};
use crate::rounds::compare;
use crate::statistics::Bound;
use crate::tokens::{AUDIENCE, ISSUER, Issuer, script};
use crate::upstream::Upstream;

/// How many routes there are; the one that is asked stands in the middle.
const ROUTES: usize = 100;

/// How many tokens ask in turn.
const TOKENS: u32 = 1_000;

const CONNECTIONS: u32 = 32;

/// What is asked for, by whom, and by which config.
pub(crate) struct Asked {
    pub(crate) config: PathBuf,
    path: String,
    script: PathBuf,
    /// A field that one request by hand has to have.
    field: String,
    jwks: String,
}

impl Asked {
    /// Writes the config, and tokens of an issuer of its own.
    pub(crate) fn prepare(lab: &Lab, upstream: SocketAddr) -> Result<Self> {
        let issuer = Issuer::new()?;
        let jwks = issuer.jwks().to_string();
        lab.write("policy.jwks.json", &jwks)?;
        let path = format!("/service-{}/items/4711", ROUTES / 2);
        let tokens = issuer.tokens(TOKENS)?;
        Ok(Self {
            config: lab.write("policy.toml", &config(upstream))?,
            script: script(lab, &path, &tokens)?,
            field: format!("authorization: Bearer {}\r\n", tokens[0]),
            path,
            jwks,
        })
    }

    /// The contestant, once it answers.
    pub(crate) fn ready(&self, contestant: Contestant) -> Result<Contestant> {
        contestant.ready(&self.path, &self.field)
    }

    /// Asks for it as fast as the answers come.
    pub(crate) fn load(&self, lab: &Lab, contestant: &Contestant, seconds: u32) -> Result<Load> {
        Wrk {
            connections: CONNECTIONS,
            url: format!("http://{}{}", contestant.address, self.path),
            seconds,
            script: Some(self.script.clone()),
        }
        .run(lab)
    }
}

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let upstream = Upstream::start(lab)?;
    let asked = Asked::prepare(lab, upstream.address)?;
    let peer = EnvoyPolicy {
        routes: ROUTES,
        issuer: ISSUER,
        audience: AUDIENCE,
        jwks: &asked.jwks,
        cached: TOKENS as usize,
    };
    let contestants = [
        asked.ready(native_host(lab, Engine::Native, &asked.config)?)?,
        asked.ready(native_host(lab, Engine::Wasm, &asked.config)?)?,
        asked.ready(envoy_with_policy(lab, upstream.address, &peer)?)?,
    ];
    let mut report = Report::new(
        "policy",
        "100 routes; the one in the middle is asked with 1,000 different ES256 tokens in turn, has a rate limit and edits headers both\n\
         ways; 32 connections, an answer of 1 KiB. The limit counts by token, and Envoy's all together;\n\
         Envoy has jwt_authn with its cache of verified tokens, and local_ratelimit.",
    );
    let comparison = compare(lab, "32 connections", &contestants, &|contestant, seconds| {
        asked.load(lab, contestant, seconds)
    })?;
    let (native, wasm) = (Engine::Native.label(), Engine::Wasm.label());
    report.tables.push(comparison.table("32 connections", native));
    let mut goal = |what: &str, most: f64, ours: &str, theirs: &str| {
        let ratio = comparison.ratio(ours, theirs);
        report.goals.push(Goal::new(what, Bound::AtMost(most), 2, ratio));
    };
    goal("native engine: processor per request ≤ 0.3 × Envoy", 0.3, native, "Envoy");
    goal("wasm engine: processor per request ≤ 1.3 × native engine", 1.3, wasm, native);
    report.problems.extend(comparison.problems);
    Ok(report)
}

fn config(upstream: SocketAddr) -> String {
    let mut config = format!(
        r#"[gateway]
name = "policy"

[upstreams.services]
endpoints = [{{ url = "http://{upstream}" }}]

[auth.customer]
kind = "jwt"
issuer = "{ISSUER}"
audiences = ["{AUDIENCE}"]
algorithms = ["ES256"]
jwks_file = "policy.jwks.json"
"#
    );
    for number in 0..ROUTES {
        // Writing to a string cannot fail.
        let _ = write!(
            config,
            r#"
[[routes]]
name = "service-{number}"
match = {{ path = "/service-{number}/items/{{id}}", methods = ["GET"] }}
auth = "customer"
rate_limit = {{ limit = 1000000, window = "1s", key = "claim.sub" }}
upstream = "services"
headers = {{ request = {{ set = {{ x-customer = "{{claim.sub}}" }} }}, response = {{ add = {{ x-served-by = "gateway" }} }} }}
"#
        );
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_stands_in_the_config() {
        let config = config(SocketAddr::from(([127, 0, 0, 1], 80)));
        assert_eq!(config.matches("[[routes]]").count(), ROUTES);
        assert!(config.contains(r#"path = "/service-50/items/{id}""#), "{config}");
    }
}
