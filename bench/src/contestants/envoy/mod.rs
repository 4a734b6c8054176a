//! Envoy: one worker, no log, none of the headers that cost it time and that nobody asked for.

mod policy;
mod sidecar;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Contestant;
pub(crate) use policy::{EnvoyPolicy, envoy_with_policy};
pub(crate) use sidecar::envoy_sidecars;

use crate::certificates::Issued;
use crate::lab::{Lab, tied};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// One route to `upstream`, behind TLS 1.3 and HTTP/2 where there is a certificate.
pub(crate) fn envoy(lab: &Lab, upstream: SocketAddr, certificate: Option<&Issued>) -> Result<Contestant> {
    let address = lab.address()?;
    let mut front = listener(address, &manager(&json!([route("/", "up")]), &[]));
    if let Some(issued) = certificate {
        let context = json!({ "common_tls_context": tls_context(issued, &["h2", "http/1.1"]) });
        front["filter_chains"][0]["transport_socket"] = transport_socket("DownstreamTlsContext", context);
    }
    let config = json!({ "static_resources": {
        "listeners": [front],
        "clusters": [cluster("up", upstream)],
    }});
    start(lab, "Envoy", address, &config)
}

fn start(lab: &Lab, name: &str, address: SocketAddr, config: &Value) -> Result<Contestant> {
    let file = lab.write(&format!("{name}.json"), &format!("{config:#}"))?;
    let mut command = command(lab, &file)?;
    Contestant::start(lab, name, address, &mut command)
}

fn command(lab: &Lab, config: &Path) -> Result<std::process::Command> {
    let mut command = tied(lab.envoy.as_ref().context("Envoy is not there")?);
    command.args(["--concurrency", "1", "--log-level", "warn", "--disable-hot-restart", "-c"]);
    command.arg(config);
    Ok(command)
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn listener(address: SocketAddr, manager: &Value) -> Value {
    json!({ "name": "in", "address": socket(address), "filter_chains": [{ "filters": [manager] }] })
}

fn route(prefix: &str, cluster: &str) -> Value {
    json!({ "match": { "prefix": prefix }, "route": { "cluster": cluster } })
}

/// The HTTP connection manager with these routes, and these filters before the router.
fn manager(routes: &Value, filters: &[Value]) -> Value {
    let mut filters = filters.to_vec();
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router"), "suppress_envoy_headers": true },
    }));
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "in",
            "generate_request_id": false,
            "use_remote_address": true,
            "route_config": { "name": "r", "virtual_hosts": [{ "name": "v", "domains": ["*"], "routes": routes }] },
            "http_filters": filters,
        },
    })
}

/// TLS 1.3 with a certificate.
fn tls_context(own: &Issued, protocols: &[&str]) -> Value {
    json!({
        "alpn_protocols": protocols,
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": own.certificate },
            "private_key": { "filename": own.key },
        }],
    })
}

fn transport_socket(side: &str, mut context: Value) -> Value {
    context["@type"] = json!(format!("{TYPES}.transport_sockets.tls.v3.{side}"));
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
}

fn cluster(name: &str, address: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(address) } }] }],
        },
        "circuit_breakers": {
            "thresholds": [{ "max_connections": 4096, "max_pending_requests": 8192, "max_requests": 8192 }],
        },
    })
}
