//! Whether and from where a subscription delivers.

use axum::extract::State;
use crossdock_http::{Json, Result};
use crossdock_topics::{SubscriptionInfo, SubscriptionName};

use crate::api::{SeekRequest, schema};
use crate::extract::Named;
use crate::server::Server;

/// Pauses a subscription
///
/// Nothing is delivered until it is resumed, not over a restart either. What consumers hold can be settled.
#[utoipa::path(post, path = "/subscriptions/{name}/pause", tag = "subscriptions",
    operation_id = "pause_subscription",
    params(("name" = String, Path, description = "The subscription.")),
    responses((status = 200, body = schema::SubscriptionInfo)))]
pub(super) async fn pause(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
) -> Result<Json<SubscriptionInfo>> {
    server.broker.set_paused(&name, true).await?;
    Ok(Json(server.broker.subscription(&name).await?))
}

/// Lets a subscription deliver again
#[utoipa::path(post, path = "/subscriptions/{name}/resume", tag = "subscriptions",
    operation_id = "resume_subscription",
    params(("name" = String, Path, description = "The subscription.")),
    responses((status = 200, body = schema::SubscriptionInfo)))]
pub(super) async fn resume(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
) -> Result<Json<SubscriptionInfo>> {
    server.broker.set_paused(&name, false).await?;
    Ok(Json(server.broker.subscription(&name).await?))
}

/// Moves a subscription's place
///
/// In all its topics or in one: everything from there on is delivered (again), nothing before it. What consumers
/// hold becomes stale; failures are forgotten, and so are dead letters from there on.
#[utoipa::path(post, path = "/subscriptions/{name}/seek", tag = "subscriptions",
    operation_id = "seek_subscription",
    params(("name" = String, Path, description = "The subscription.")),
    request_body = SeekRequest,
    responses((status = 200, body = schema::SubscriptionInfo)))]
pub(super) async fn seek(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
    Json(request): Json<SeekRequest>,
) -> Result<Json<SubscriptionInfo>> {
    server.broker.seek(&name, request.topic.as_ref(), request.to).await?;
    Ok(Json(server.broker.subscription(&name).await?))
}
