//! `native-host explain`.

use anyhow::Context as _;
use bytes::Bytes;
use gateway::Question;
use gateway::exchange::Arrival;
use gateway::keys::Published;
use http::HeaderMap;

use super::ExplainArguments;
use super::request::{Request, field};
use crate::clock::{Clock, Random};
use crate::keys::{Client, search};
use crate::snapshot::Snapshot;

pub(super) fn run(arguments: &ExplainArguments) -> anyhow::Result<()> {
    let snapshot = Snapshot::load(&arguments.config.config)?;
    let body = arguments
        .body
        .as_ref()
        .map(|file| {
            std::fs::read(file)
                .map(Bytes::from)
                .with_context(|| format!("cannot read the body {}", file.display()))
        })
        .transpose()?;
    let mut fields = HeaderMap::new();
    for header in &arguments.headers {
        let (name, value) = field(header)?;
        fields.append(name, value);
    }
    let request = Request::new(&arguments.method, &arguments.url, fields)?;
    let arrival = Arrival {
        head: request.head(),
        has_body: body.is_some(),
        now: Clock::start().now(),
        entropy: Random::seeded().entropy(),
    };
    let question = Question {
        arrival,
        body,
        key_set: &|published| fetch(published).inspect_err(|error| tracing::warn!("{error:#}")).ok(),
    };
    let explanation = gateway::explain(snapshot.gateway(), &question);
    super::print(&if arguments.json {
        serde_json::to_string_pretty(&explanation)? + "\n"
    } else {
        explanation.to_string()
    })
}

/// Fetches the keys of an issuer, as the gateway would.
fn fetch(published: &Published) -> anyhow::Result<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(search(&Client::default(), published))
}
