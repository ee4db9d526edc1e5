//! Subscriptions.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use crossdock_http::{Json, Result};
use crossdock_topics::{ErrorCode, Expect, Subscription, SubscriptionInfo, SubscriptionName};
use http::StatusCode;
use serde_json::{Map, Value};

use super::definition;
use crate::api::{SubscriptionList, schema};
use crate::extract::Named;
use crate::server::Server;

/// Lists subscriptions
#[utoipa::path(get, path = "/subscriptions", tag = "subscriptions", operation_id = "list_subscriptions",
    responses((status = 200, body = SubscriptionList)))]
pub(super) async fn list(State(server): State<Server>) -> Result<Json<SubscriptionList>> {
    Ok(Json(SubscriptionList { subscriptions: server.broker.subscriptions().await? }))
}

/// Shows a subscription
#[utoipa::path(get, path = "/subscriptions/{name}", tag = "subscriptions", operation_id = "get_subscription",
    params(("name" = String, Path, description = "The subscription.")),
    responses((status = 200, body = schema::SubscriptionInfo)))]
pub(super) async fn get(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
) -> Result<Json<SubscriptionInfo>> {
    Ok(Json(server.broker.subscription(&name).await?))
}

/// Makes a subscription, or changes its definition
///
/// What the body leaves out is as by default. `start` counts only for a new one.
#[utoipa::path(put, path = "/subscriptions/{name}", tag = "subscriptions", operation_id = "put_subscription",
    params(("name" = String, Path, description = "The subscription.")),
    request_body = schema::Subscription,
    responses(
        (status = 200, description = "It was there.", body = schema::SubscriptionInfo),
        (status = 201, description = "It is new.", body = schema::SubscriptionInfo)))]
pub(super) async fn put(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
    Json(body): Json<Map<String, Value>>,
) -> Result<Response> {
    let subscription: Subscription = definition("subscription", name.as_str(), body)?;
    subscription.check()?;
    let status = match server.broker.subscription(&name).await {
        Ok(_) => StatusCode::OK,
        Err(error) if error.code == ErrorCode::NotFound => StatusCode::CREATED,
        Err(error) => return Err(error.into()),
    };
    server.broker.put_subscription(subscription, Expect::Any).await?;
    Ok((status, Json(server.broker.subscription(&name).await?)).into_response())
}

/// Deletes a subscription
///
/// With its place and its dead letters' index. Messages stay in their topics.
#[utoipa::path(delete, path = "/subscriptions/{name}", tag = "subscriptions",
    operation_id = "delete_subscription",
    params(("name" = String, Path, description = "The subscription.")),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
) -> Result<StatusCode> {
    server.broker.delete_subscription(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
