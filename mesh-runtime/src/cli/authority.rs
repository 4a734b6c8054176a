//! The commands about who signs identities: `authority status`, `authority rotate`, `authority retire`.

use std::collections::BTreeMap;

use mesh_api::v1::{Authority, AuthorityStatus, RetireAuthorityRequest, RotateAuthorityRequest, ShowAuthorityRequest};
use serde_json::json;

use super::operate::{answer, operator, span};
use super::output::{json, line, table};
use crate::now_unix;

/// What is asked of the authority; each answers with how it is then.
pub(super) enum Asked {
    Status,
    Rotate { intermediate: bool },
    Retire,
}

pub(super) async fn ask(control: &str, asked: Asked, as_json: bool) -> anyhow::Result<()> {
    let mut client = operator(control)?;
    let status = match asked {
        Asked::Status => answer(control, client.show_authority(ShowAuthorityRequest {})).await,
        Asked::Rotate { intermediate } => {
            let request = RotateAuthorityRequest {
                intermediate_only: intermediate,
            };
            answer(control, client.rotate_authority(request)).await
        }
        Asked::Retire => answer(control, client.retire_authority(RetireAuthorityRequest {})).await,
    }?;
    if as_json { print_json(&status) } else { print(&status) }
}

fn print_json(status: &AuthorityStatus) -> anyhow::Result<()> {
    let authority = |one: &Authority| {
        let identities = one.identities.iter().map(
            |identity| json!({ "spiffe_id": identity.spiffe_id, "serial": identity.serial, "not_after": identity.not_after }),
        );
        json!({
            "pin": one.pin,
            "state": state(one),
            "not_before": one.not_before,
            "not_after": one.not_after,
            "identities": identities.collect::<Vec<_>>(),
            "tokens": one.tokens,
        })
    };
    json(&json!({
        "trust_domain": status.trust_domain,
        "intermediate_not_after": status.intermediate_not_after,
        "authorities": status.authorities.iter().map(authority).collect::<Vec<_>>(),
    }))
}

fn print(status: &AuthorityStatus) -> anyhow::Result<()> {
    let now = now_unix();
    let rows: Vec<_> = status
        .authorities
        .iter()
        .map(|one| {
            let left = span(one.not_after.saturating_sub(now));
            let (identities, tokens) = (one.identities.len().to_string(), one.tokens.to_string());
            [one.pin.clone(), state(one).to_owned(), left, identities, tokens]
        })
        .collect();
    table(["AUTHORITY", "STATE", "EXPIRES IN", "IDENTITIES", "TOKENS"], &rows)?;
    for retiring in status.authorities.iter().filter(|one| one.retiring) {
        let mut waiting = BTreeMap::<&str, u64>::new();
        for identity in &retiring.identities {
            let last = waiting.entry(&identity.spiffe_id).or_default();
            *last = identity.not_after.max(*last);
        }
        line(format_args!("\n{} retires when it is needed no more by", retiring.pin))?;
        for (id, last) in waiting {
            line(format_args!("  {id} (for {} at most)", span(last.saturating_sub(now))))?;
        }
        if retiring.tokens > 0 {
            line(format_args!("  {} unused join tokens", retiring.tokens))?;
        }
    }
    Ok(())
}

fn state(authority: &Authority) -> &'static str {
    if authority.retiring { "retiring" } else { "active" }
}
