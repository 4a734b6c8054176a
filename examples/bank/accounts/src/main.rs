//! The bank's `accounts` service: in the mesh and nowhere else.

mod bank;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Json, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use mesh_client::{Config, Mesh};
use serde_json::json;

use crate::bank::{Bank, Refusal, Transfer};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mesh = Mesh::join(Config::from_env()?).await?;
    mesh.serve("accounts", routes()).await?;
    Ok(())
}

fn routes() -> Router {
    Router::new()
        .route("/customers/{id}", get(customer))
        .route("/accounts/{id}", get(account))
        .route("/transfers", post(transfer))
        .with_state(Arc::new(Bank::with_demo_data()))
}

async fn customer(State(bank): State<Arc<Bank>>, Path(id): Path<u32>, fields: HeaderMap) -> Response {
    match bank.customer(id) {
        Some(_) if !may_see(&fields, id) => refused(StatusCode::FORBIDDEN, "this is another customer's"),
        Some(customer) => Json(customer).into_response(),
        None => refused(StatusCode::NOT_FOUND, "there is no such customer"),
    }
}

async fn account(State(bank): State<Arc<Bank>>, Path(id): Path<u32>, fields: HeaderMap) -> Response {
    match bank.account(id) {
        Some(account) if !may_see(&fields, account.customer_id) => refused(StatusCode::FORBIDDEN, "this is another customer's"),
        Some(account) => Json(account).into_response(),
        None => refused(StatusCode::NOT_FOUND, "there is no such account"),
    }
}

async fn transfer(State(bank): State<Arc<Bank>>, fields: HeaderMap, Json(transfer): Json<Transfer>) -> Response {
    if bank
        .account(transfer.from)
        .is_some_and(|account| !may_see(&fields, account.customer_id))
    {
        return refused(StatusCode::FORBIDDEN, "this is another customer's");
    }
    match bank.transfer(transfer) {
        Ok(receipt) => (StatusCode::CREATED, Json(receipt)).into_response(),
        Err(Refusal::NoAccount) => refused(StatusCode::NOT_FOUND, "there is no such account"),
        Err(Refusal::NoFunds) => refused(StatusCode::CONFLICT, "there is too little on the account"),
        Err(Refusal::OtherCurrency) => refused(StatusCode::CONFLICT, "the accounts keep another currency"),
        Err(Refusal::Senseless) => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "an amount above zero, from one account to another",
        ),
    }
}

/// The gateway says on whose behalf it calls; other services of the mesh act for the bank itself and see every customer.
fn may_see(fields: &HeaderMap, customer: u32) -> bool {
    fields
        .get("x-customer")
        .is_none_or(|caller| caller.as_bytes() == customer.to_string().as_bytes())
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}
