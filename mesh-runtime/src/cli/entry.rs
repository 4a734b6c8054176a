//! The commands about who may join without a token: `entry create`, `entry list`, `entry remove`.

use identity::ServiceName;
use mesh_api::v1::{CreateEntryRequest, ListEntriesRequest, RemoveEntryRequest};
use serde_json::json;

use super::operate::{answer, operator};
use super::output::{json, line, table};
use crate::authority::Selector;

pub(super) async fn create(control: &str, service: &ServiceName, selectors: &[Selector]) -> anyhow::Result<()> {
    let request = CreateEntryRequest {
        service: service.to_string(),
        selectors: selectors.iter().map(ToString::to_string).collect(),
    };
    let entry = answer(control, operator(control)?.create_entry(request)).await?;
    line(format_args!("{}", entry.id))
}

pub(super) async fn list(control: &str, as_json: bool) -> anyhow::Result<()> {
    let entries = answer(control, operator(control)?.list_entries(ListEntriesRequest {}))
        .await?
        .entries;
    if as_json {
        let entries = entries.iter().map(|entry| {
            json!({
                "id": entry.id,
                "service": entry.service,
                "selectors": entry.selectors,
                "created_at": entry.created_at,
                "identities": entry.identities,
            })
        });
        return json(&entries.collect());
    }
    let rows: Vec<_> = entries
        .into_iter()
        .map(|entry| {
            let identities = entry.identities.to_string();
            [entry.id, entry.service, entry.selectors.join(" "), identities]
        })
        .collect();
    table(["ID", "SERVICE", "SELECTORS", "IDENTITIES"], &rows)
}

pub(super) async fn remove(control: &str, id: String) -> anyhow::Result<()> {
    let request = RemoveEntryRequest { id };
    let removed = answer(control, operator(control)?.remove_entry(request)).await?;
    match removed.revoked {
        1 => line(format_args!("removed, and 1 identity with it")),
        revoked => line(format_args!("removed, and {revoked} identities with it")),
    }
}
