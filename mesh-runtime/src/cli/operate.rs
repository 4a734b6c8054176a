//! The commands that ask a control plane: `token create`, `services`, `endpoints`, `identities`.

use std::collections::BTreeMap;
use std::time::Duration;

use identity::ServiceName;
use mesh_api::v1::operator_client::OperatorClient;
use mesh_api::v1::{CreateTokenRequest, ListEndpointsRequest, ListIdentitiesRequest, RegisteredEndpoint};
use mesh_client::Credential;
use mesh_client::control::Bearer;
use mesh_client::discovery::Health;
use serde_json::json;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::output::{json, line, table};
use crate::now_unix;

const ANSWER: Duration = Duration::from_secs(10);
/// A mesh of 100,000 endpoints or identities is listed in one answer.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

pub(super) async fn create_token(control: &str, service: &ServiceName, ttl: Duration) -> anyhow::Result<()> {
    let request = CreateTokenRequest {
        service: service.to_string(),
        ttl_seconds: ttl.as_secs(),
    };
    let token = answer(control, operator(control)?.create_token(request)).await?;
    line(format_args!("{}", token.token))
}

pub(super) async fn services(control: &str, as_json: bool) -> anyhow::Result<()> {
    let mut services = BTreeMap::<String, usize>::new();
    for endpoint in list_endpoints(control, None)
        .await?
        .into_iter()
        .filter_map(|registered| registered.endpoint)
    {
        *services.entry(endpoint.service).or_default() += 1;
    }
    if as_json {
        let services = services
            .iter()
            .map(|(name, endpoints)| json!({ "service": name, "endpoints": endpoints }));
        return json(&services.collect());
    }
    let rows: Vec<_> = services
        .into_iter()
        .map(|(name, endpoints)| [name, endpoints.to_string()])
        .collect();
    table(["SERVICE", "ENDPOINTS"], &rows)
}

pub(super) async fn endpoints(control: &str, service: Option<&ServiceName>, as_json: bool) -> anyhow::Result<()> {
    let registered = list_endpoints(control, service).await?;
    let endpoints = registered
        .into_iter()
        .filter_map(|one| Some((one.endpoint?, one.registered_at, one.lease_ms)));
    if as_json {
        let endpoints = endpoints.map(|(endpoint, registered_at, lease_ms)| {
            let health = Health::from(endpoint.health()).name();
            json!({
                "service": endpoint.service,
                "id": endpoint.id,
                "address": endpoint.address,
                "protocol": endpoint.protocol,
                "version": endpoint.version,
                "zone": endpoint.zone,
                "weight": endpoint.weight,
                "health": health,
                "registered_at": registered_at,
                "lease_ms": lease_ms,
            })
        });
        return json(&endpoints.collect());
    }
    let now = now_unix();
    let rows: Vec<_> = endpoints
        .map(|(endpoint, registered_at, lease_ms)| {
            let (age, lease) = (now.saturating_sub(registered_at), lease_ms.div_ceil(1000));
            let (weight, health) = (endpoint.weight.to_string(), Health::from(endpoint.health()).name());
            [
                endpoint.service,
                endpoint.id,
                endpoint.address,
                endpoint.protocol,
                or_dash(endpoint.version),
                or_dash(endpoint.zone),
                weight,
                health.to_owned(),
                span(age),
                span(lease),
            ]
        })
        .collect();
    let titles = [
        "SERVICE", "ID", "ADDRESS", "PROTOCOL", "VERSION", "ZONE", "WEIGHT", "HEALTH", "AGE", "LEASE",
    ];
    table(titles, &rows)
}

/// What is not said, in a column that others say something in.
fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

pub(super) async fn identities(control: &str, as_json: bool) -> anyhow::Result<()> {
    let identities = answer(control, operator(control)?.list_identities(ListIdentitiesRequest {}))
        .await?
        .identities;
    if as_json {
        let identities = identities.iter().map(|identity| {
            json!({
                "spiffe_id": identity.spiffe_id,
                "serial": identity.serial,
                "not_before": identity.not_before,
                "not_after": identity.not_after,
            })
        });
        return json(&identities.collect());
    }
    let now = now_unix();
    let rows: Vec<_> = identities
        .into_iter()
        .map(|identity| {
            [
                identity.spiffe_id,
                identity.serial,
                span(identity.not_after.saturating_sub(now)),
            ]
        })
        .collect();
    table(["SPIFFE ID", "SERIAL", "EXPIRES IN"], &rows)
}

async fn list_endpoints(control: &str, service: Option<&ServiceName>) -> anyhow::Result<Vec<RegisteredEndpoint>> {
    let request = ListEndpointsRequest {
        service: service.map_or_else(String::new, ToString::to_string),
    };
    Ok(answer(control, operator(control)?.list_endpoints(request)).await?.endpoints)
}

pub(super) type Client = OperatorClient<InterceptedService<Channel, Bearer>>;

/// A client of the control plane at one of `control` (separated by commas), with the operator's credential of this machine.
pub(super) fn operator(control: &str) -> anyhow::Result<Client> {
    let addresses: Vec<_> = control.split(',').map(bare).collect();
    let token = match mesh_client::find_operator(&addresses, &|name| std::env::var(name).ok()) {
        Ok(Credential::Operator(token)) => token,
        Ok(_) => anyhow::bail!("the credential of this machine is not an operator's"),
        Err(mesh_client::ConfigError::NoCredential { control }) => anyhow::bail!(
            "there is no operator's credential for {control} on this machine; is `mesh-runtime serve` running, and as \
             this user? Elsewhere, set HEDDLE_OPERATOR_TOKEN to what DATA_DIR/operator.token holds there"
        ),
        Err(error) => return Err(error.into()),
    };
    let addresses: Vec<_> = addresses.into_iter().map(str::to_owned).collect();
    Ok(mesh_client::control::operator(&addresses, &token)?.max_decoding_message_size(MAX_ANSWER))
}

/// Both schemes mean the mesh's own TLS.
fn bare(address: &str) -> &str {
    let address = address.trim();
    let address = address
        .strip_prefix("http://")
        .or_else(|| address.strip_prefix("https://"))
        .unwrap_or(address);
    address.strip_suffix('/').unwrap_or(address)
}

/// The call's answer, if it comes in time.
pub(super) async fn answer<T>(control: &str, call: impl Future<Output = Result<Response<T>, Status>>) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(ANSWER, call).await;
    let answer = answer.map_err(|_| anyhow::anyhow!("the control plane at {control} did not answer within {ANSWER:?}"))?;
    answer.map(Response::into_inner).map_err(|status| words(control, &status))
}

/// What the control plane says; where it says nothing because there is no connection, why not.
fn words(control: &str, status: &Status) -> anyhow::Error {
    let Some(mut cause) = std::error::Error::source(status) else {
        return anyhow::anyhow!("{}", status.message());
    };
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    anyhow::anyhow!("cannot reach the control plane at {control}: {cause}")
}

/// Seconds in two units.
pub(super) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m1s"),
            (3600, "1h0m"),
            (7260, "2h1m"),
            (90_000, "1d1h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn a_control_plane_is_named_with_or_without_a_scheme() {
        for text in [
            "127.0.0.1:7700",
            "http://127.0.0.1:7700",
            "https://127.0.0.1:7700/",
            " 127.0.0.1:7700 ",
        ] {
            assert_eq!(bare(text), "127.0.0.1:7700");
        }
    }
}
