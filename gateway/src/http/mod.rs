//! The HTTP gateway: publish, consume and settle over HTTP, and the REST channels of the configuration.
//!
//! ```text
//! POST /topics/{topic}/messages            publish      publish.rs, fields.rs, cloudevents.rs, lines.rs
//! GET  /subscriptions/{name}/messages      long poll    fetch.rs, held.rs
//! POST /subscriptions/{name}/settle        outcomes     settle.rs
//! GET  /subscriptions/{name}/stream        SSE          stream.rs
//! GET  /health                             open         health.rs
//! any other path                           a REST channel, see rest/
//! ```
//!
//! docs/HTTP.md describes all of it for users.

mod cloudevents;
mod conditions;
mod fetch;
mod fields;
mod gateway;
mod health;
mod held;
mod intake;
mod lines;
mod mirror;
mod path;
mod publish;
mod rest;
mod room;
mod settle;
mod stream;
mod subscriptions;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use crossdock_access::Access;
use crossdock_http::{Limits, Problem, serve};
use crossdock_topics::{Result, SharedBroker, Shutdown};
use http::{Method, StatusCode};
use tokio::net::TcpListener;

use gateway::Gateway;

/// What an HTTP gateway can be told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The bounds of its connections. `max_body` bounds settlements; topics and channels say themselves what
    /// they take.
    pub limits: Limits,
}

/// Runs an HTTP gateway on a listener until shutdown begins, then finishes what is under way. REST channels
/// are those of the store, always as they are now.
///
/// # Errors
/// Those of the store's first answer. Later ones are lived with: what was known last counts.
pub async fn run(
    options: Options,
    listener: TcpListener,
    broker: SharedBroker,
    access: Access,
    shutdown: Shutdown,
) -> Result<()> {
    let gateway = Gateway::open(options.limits, broker, access, &shutdown).await?;
    serve(listener, router(gateway), options.limits, &shutdown).await;
    Ok(())
}

fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/topics/{topic}/messages", post(publish::publish))
        .route("/subscriptions/{name}/messages", get(fetch::fetch).head(wrong_method))
        .route("/subscriptions/{name}/settle", post(settle::settle))
        .route("/subscriptions/{name}/stream", get(stream::stream).head(wrong_method))
        .route("/health", get(health::health))
        .method_not_allowed_fallback(wrong_method)
        .fallback(rest::answer)
        .layer(DefaultBodyLimit::disable()) // every handler has its own
        .with_state(gateway)
}

/// For methods a known path does not take. The router adds `Allow`.
async fn wrong_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::wrong_method(&method).into_response()
}
