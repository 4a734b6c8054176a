//! An Envoy beside each of two programs, with mutual TLS 1.3 and HTTP/2 between the two.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};

use super::{TYPES, cluster, listener, manager, route, start, tls_context, transport_socket};
use crate::certificates::{Authority, Issued};
use crate::lab::Lab;
use crate::process::Process;

const CALLER: &str = "spiffe://bench.test/service/a";
const SERVICE: &str = "spiffe://bench.test/service/b";

/// Starts both; gives where the caller's takes plain requests for `service`.
pub(crate) fn envoy_sidecars(lab: &Lab, authority: &Authority, service: SocketAddr) -> Result<(SocketAddr, Vec<Process>)> {
    let (inbound, egress) = (lab.address()?, lab.address()?);
    let (caller, callee) = (authority.issue(lab, "a", CALLER)?, authority.issue(lab, "b", SERVICE)?);
    let routes = json!([route("/", "up")]);

    let mut listens = listener(inbound, &manager(&routes, &[]));
    let context = json!({ "common_tls_context": mutual(authority, &callee, CALLER), "require_client_certificate": true });
    listens["filter_chains"][0]["transport_socket"] = transport_socket("DownstreamTlsContext", context);
    let beside_service = json!({ "static_resources": { "listeners": [listens], "clusters": [cluster("up", service)] } });

    let mut to_service = cluster("up", inbound);
    let context = json!({ "common_tls_context": mutual(authority, &caller, SERVICE), "sni": "localhost" });
    to_service["transport_socket"] = transport_socket("UpstreamTlsContext", context);
    to_service["typed_extension_protocol_options"] = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": { "http2_protocol_options": {} },
    }});
    let listens = listener(egress, &manager(&routes, &[]));
    let beside_caller = json!({ "static_resources": { "listeners": [listens], "clusters": [to_service] } });

    let mut processes = start(lab, "Envoy beside B", inbound, &beside_service)?.processes;
    processes.extend(start(lab, "Envoy beside A", egress, &beside_caller)?.processes);
    Ok((egress, processes))
}

/// A certificate of one's own, and the one ID that the other end may have.
fn mutual(authority: &Authority, own: &Issued, peer: &str) -> Value {
    let mut context = tls_context(own, &["h2"]);
    context["validation_context"] = json!({
        "trusted_ca": { "filename": authority.root },
        "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": peer } }],
    });
    context
}
