//! Envoy that judges tokens, limits and edits headers.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};

use super::{TYPES, cluster, listener, manager, route, start};
use crate::contestants::Contestant;
use crate::lab::Lab;

/// What Envoy is to do with a request besides forwarding it.
#[derive(Debug)]
pub(crate) struct EnvoyPolicy<'a> {
    /// How many routes there are, `/service-N/items/…` each.
    pub(crate) routes: usize,
    pub(crate) issuer: &'a str,
    pub(crate) audience: &'a str,
    pub(crate) jwks: &'a str,
    /// How many verified tokens are remembered.
    pub(crate) cached: usize,
}

/// Envoy with jwt_authn, local_ratelimit and header edits.
pub(crate) fn envoy_with_policy(lab: &Lab, upstream: SocketAddr, policy: &EnvoyPolicy<'_>) -> Result<Contestant> {
    let address = lab.address()?;
    let routes: Vec<Value> = (0..policy.routes)
        .map(|number| {
            let mut route = route(&format!("/service-{number}/items/"), "up");
            route["response_headers_to_add"] = json!([{ "header": { "key": "x-served-by", "value": "gateway" } }]);
            route
        })
        .collect();
    let jwt = json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.jwt_authn.v3.JwtAuthentication"),
            "providers": { "customer": {
                "issuer": policy.issuer,
                "audiences": [policy.audience],
                "local_jwks": { "inline_string": policy.jwks },
                "forward": true,
                "claim_to_headers": [{ "header_name": "x-customer", "claim_name": "sub" }],
                "jwt_cache_config": { "jwt_cache_size": policy.cached },
            }},
            "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "customer" } }],
        },
    });
    let all = json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } });
    let limit = json!({
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.local_ratelimit.v3.LocalRateLimit"),
            "stat_prefix": "limit",
            // Counts, and is never reached.
            "token_bucket": { "max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s" },
            "filter_enabled": all,
            "filter_enforced": all,
        },
    });
    let config = json!({ "static_resources": {
        "listeners": [listener(address, &manager(&json!(routes), &[jwt, limit]))],
        "clusters": [cluster("up", upstream)],
    }});
    start(lab, "Envoy", address, &config)
}
