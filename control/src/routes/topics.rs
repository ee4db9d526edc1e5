//! Topics.

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use crossdock_http::{Json, Result};
use crossdock_topics::{Error, ErrorCode, Expect, Topic, TopicInfo, TopicName};
use http::StatusCode;
use serde_json::{Map, Value};

use super::definition;
use super::optional;
use crate::api::{PurgeRequest, TopicList, schema};
use crate::extract::Named;
use crate::server::Server;

/// Lists topics
///
/// All of them, by name; the system's own (`_logs.orders`) included.
#[utoipa::path(get, path = "/topics", tag = "topics", operation_id = "list_topics",
    responses((status = 200, body = TopicList)))]
pub(super) async fn list(State(server): State<Server>) -> Result<Json<TopicList>> {
    Ok(Json(TopicList { topics: server.broker.topics().await? }))
}

/// Shows a topic
#[utoipa::path(get, path = "/topics/{name}", tag = "topics", operation_id = "get_topic",
    params(("name" = String, Path, description = "The topic.")),
    responses((status = 200, body = schema::TopicInfo)))]
pub(super) async fn get(
    State(server): State<Server>,
    Named(name): Named<TopicName>,
) -> Result<Json<TopicInfo>> {
    Ok(Json(server.broker.topic(&name).await?))
}

/// Makes a topic, or changes its definition
///
/// What the body leaves out is as by default. Putting what is there already changes nothing.
#[utoipa::path(put, path = "/topics/{name}", tag = "topics", operation_id = "put_topic",
    params(("name" = String, Path, description = "The topic.")),
    request_body = schema::Topic,
    responses(
        (status = 200, description = "It was there.", body = schema::TopicInfo),
        (status = 201, description = "It is new.", body = schema::TopicInfo)))]
pub(super) async fn put(
    State(server): State<Server>,
    Named(name): Named<TopicName>,
    Json(body): Json<Map<String, Value>>,
) -> Result<Response> {
    writable(&name)?;
    let topic: Topic = definition("topic", name.as_str(), body)?;
    topic.check()?;
    let status = match server.broker.topic(&name).await {
        Ok(_) => StatusCode::OK,
        Err(error) if error.code == ErrorCode::NotFound => StatusCode::CREATED,
        Err(error) => return Err(error.into()),
    };
    server.broker.put_topic(topic, Expect::Any).await?;
    Ok((status, Json(server.broker.topic(&name).await?)).into_response())
}

/// Deletes a topic, with all its messages
///
/// Refused with `conflict` while a subscription names it, and for the system's own.
#[utoipa::path(delete, path = "/topics/{name}", tag = "topics", operation_id = "delete_topic",
    params(("name" = String, Path, description = "The topic.")),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete(
    State(server): State<Server>,
    Named(name): Named<TopicName>,
) -> Result<StatusCode> {
    own(&name, "services and servers write to it, and its retention keeps it small; it stays")?;
    server.broker.delete_topic(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Drops messages of a topic
///
/// From the oldest on: all that are stored now, or those before an offset. Nobody is asked: what subscriptions have
/// not settled, and their dead letters, go too. Offsets go on where they were.
#[utoipa::path(post, path = "/topics/{name}/purge", tag = "topics", operation_id = "purge_topic",
    params(("name" = String, Path, description = "The topic.")),
    request_body(content = PurgeRequest, description = "May be left out."),
    responses((status = 200, description = "What is kept.", body = schema::TopicInfo)))]
pub(super) async fn purge(
    State(server): State<Server>,
    Named(name): Named<TopicName>,
    body: Bytes,
) -> Result<Json<TopicInfo>> {
    own(&name, "its retention keeps it small")?;
    let request: PurgeRequest = optional(&body)?;
    server.broker.purge(&name, request.before).await?;
    Ok(Json(server.broker.topic(&name).await?))
}

/// Refuses the system's own topics: they are read, not written.
pub(super) fn writable(name: &TopicName) -> Result<(), Error> {
    own(name, "choose a name that does not begin with '_'")
}

fn own(name: &TopicName, hint: &'static str) -> Result<(), Error> {
    if name.is_system() {
        return Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("{name} is one of the system's own topics"),
        )
        .hint(hint));
    }
    Ok(())
}
