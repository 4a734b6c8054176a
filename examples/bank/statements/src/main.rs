//! The bank's `statements` service: what happened on an account. It asks `accounts`, through the mesh, whose account it is.

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::{Router, routing::get};
use mesh_client::client::Body;
use mesh_client::{Client, Config, Mesh};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The most entries of one answer.
const MOST: usize = 100;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mesh = Mesh::join(Config::from_env()?).await?;
    let routes = Router::new()
        .route("/statements/{account}", get(statement))
        .with_state(mesh.client());
    mesh.serve("statements", routes).await?;
    Ok(())
}

#[derive(Deserialize)]
struct Page {
    #[serde(default = "ten")]
    n: usize,
}

fn ten() -> usize {
    10
}

/// A movement on an account, in the smallest unit of its currency.
#[derive(Serialize)]
struct Entry {
    date: &'static str,
    text: &'static str,
    amount: i64,
    currency: String,
}

/// What this service reads of an account.
#[derive(Deserialize)]
struct Account {
    currency: String,
}

async fn statement(State(client): State<Client>, Path(id): Path<u32>, Query(page): Query<Page>, fields: HeaderMap) -> Response {
    match account(&client, id, &fields).await {
        Ok(Ok(account)) => Json(entries(&account.currency, page.n)).into_response(),
        Ok(Err(status)) => refused(status, "accounts does not show this account"),
        Err(error) => {
            eprintln!("statements: asking accounts: {error:#}");
            refused(StatusCode::BAD_GATEWAY, "accounts does not answer")
        }
    }
}

/// Asks `accounts`, on behalf of the same caller.
async fn account(client: &Client, id: u32, fields: &HeaderMap) -> anyhow::Result<Result<Account, StatusCode>> {
    let mut request = Request::get(format!("http://accounts.mesh/accounts/{id}"));
    if let Some(caller) = fields.get("x-customer") {
        request = request.header("x-customer", caller);
    }
    let response = client.request(request.body(Body::empty())?).await?;
    if !response.status().is_success() {
        return Ok(Err(response.status()));
    }
    Ok(Ok(response.into_body().json().await?))
}

fn entries(currency: &str, n: usize) -> Vec<Entry> {
    let happened = [
        ("2026-05-29", "Salary", 245_000),
        ("2026-05-28", "Rent", -98_000),
        ("2026-05-26", "Groceries", -5_430),
        ("2026-05-24", "Railway ticket", -3_990),
        ("2026-05-22", "Electricity", -6_120),
        ("2026-05-21", "Books", -2_495),
        ("2026-05-19", "Coffee", -420),
    ];
    happened
        .into_iter()
        .take(n.min(MOST))
        .map(|(date, text, amount)| Entry {
            date,
            text,
            amount,
            currency: currency.to_owned(),
        })
        .collect()
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}
