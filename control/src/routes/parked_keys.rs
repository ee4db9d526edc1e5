//! Keys that wait alone.

use axum::extract::State;
use crossdock_http::{Json, Result};
use crossdock_topics::SubscriptionName;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::{Count, ParkedKeyList, ReleaseRequest};
use crate::extract::{Named, Query, page_size};
use crate::server::Server;

/// How many keys.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AtMost {
    /// At most so many: 1 to 1000, 100 unless said.
    #[param(minimum = 1, maximum = 1000)]
    max: Option<usize>,
}

/// Lists parked keys
///
/// On a subscription with `order: key`: the keys whose message failed too often, with what waits behind it.
#[utoipa::path(get, path = "/subscriptions/{name}/parked-keys", tag = "subscriptions",
    operation_id = "list_parked_keys",
    params(("name" = String, Path, description = "The subscription."), AtMost),
    responses((status = 200, body = ParkedKeyList)))]
pub(super) async fn list(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
    Query(query): Query<AtMost>,
) -> Result<Json<ParkedKeyList>> {
    let max = page_size(query.max)?;
    // Tells an unknown subscription from one without parked keys.
    server.broker.subscription(&name).await?;
    Ok(Json(ParkedKeyList { keys: server.broker.parked_keys(&name, max).await? }))
}

/// Lets a parked key go on
///
/// In every topic in which it is parked: with its message delivered again and its failures forgotten, or with
/// `give_up`, with its message put to the dead letters.
#[utoipa::path(post, path = "/subscriptions/{name}/parked-keys/release", tag = "subscriptions",
    operation_id = "release_parked_key",
    params(("name" = String, Path, description = "The subscription.")),
    request_body = ReleaseRequest,
    responses((status = 200, description = "In how many topics it was parked.", body = Count)))]
pub(super) async fn release(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
    Json(request): Json<ReleaseRequest>,
) -> Result<Json<Count>> {
    server.broker.subscription(&name).await?;
    let count = server.broker.release_key(&name, &request.key, request.give_up).await?;
    Ok(Json(Count { count }))
}
