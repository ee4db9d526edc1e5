//! Replaying a part of a topic into another one.

use axum::extract::State;
use crossdock_http::{Json, Result};
use crossdock_topics::TopicName;

use super::topics::writable;
use crate::api::{ReplayRequest, ReplayStep};
use crate::extract::Named;
use crate::replay::Replay;
use crate::server::Server;

/// Replays messages into another topic
///
/// One step of it: as many messages as a few seconds allow, in order. Repeat with `next` as `from` and `end` as `to`
/// until it is `done`. Each copy says where it came from (headers `crossdock-origin`, `-time` and `-id`), and has an id made
/// of that place, so that a step that is sent again stores nothing twice within the dedup window of the topic it
/// goes to. Expiry and delivery time are not taken along.
#[utoipa::path(post, path = "/topics/{name}/replay", tag = "topics", operation_id = "replay_topic",
    params(("name" = String, Path, description = "The topic that is read.")),
    request_body = ReplayRequest,
    responses((status = 200, description = "How far it has come.", body = ReplayStep)))]
pub(super) async fn replay(
    State(server): State<Server>,
    Named(name): Named<TopicName>,
    Json(request): Json<ReplayRequest>,
) -> Result<Json<ReplayStep>> {
    writable(&request.into)?;
    let replay = Replay::new(&server, name, request).await?;
    Ok(Json(replay.step().await?))
}
