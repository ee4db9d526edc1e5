//! Messages of a topic: published and read from outside of any subscription.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use crossdock_http::{Json, Result};
use crossdock_topics::{Batch, Clock, Error, ErrorCode, PublishOptions, StartAt, SystemClock, TopicName};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::topics::writable;
use crate::api::{Message, MessagePage, PublishReceipt, PublishRequest, Published};
use crate::extract::{Named, Query, duration, page_size};
use crate::server::Server;

/// The most messages of one request.
const MAX_MESSAGES: usize = 10_000;
/// The longest wait for a message.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(30);

/// Where to read, and how much.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Reading {
    /// `start` (unless said), `end`, an offset, or a moment like 2026-11-22T17:00:00Z.
    pub(super) from: Option<String>,
    /// At most so many messages: 1 to 1000, 100 unless said.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) max: Option<usize>,
    /// How long to wait for the first one, such as `2s`; at most 30s, no wait unless said.
    pub(super) wait: Option<String>,
}

/// Reads messages
///
/// From a place on, without a subscription: at most `max` and about 1 MiB at once. Go on at `next`.
#[utoipa::path(get, path = "/topics/{name}/messages", tag = "messages", operation_id = "read_messages",
    params(("name" = String, Path, description = "The topic."), Reading),
    responses((status = 200, body = MessagePage)))]
pub(super) async fn read(
    State(server): State<Server>,
    Named(topic): Named<TopicName>,
    Query(reading): Query<Reading>,
) -> Result<Json<MessagePage>> {
    let from = reading.from.as_deref().map_or(Ok(StartAt::Start), str::parse)?;
    let max = page_size(reading.max)?;
    let wait = duration("wait", reading.wait.as_deref(), Duration::ZERO, MAX_WAIT)?;
    let page = server.read(&topic, from, max, wait).await?;
    let messages = page
        .messages
        .iter()
        .map(|stored| Message::new(topic.clone(), stored.offset, stored.time, &stored.record))
        .collect();
    Ok(Json(MessagePage { messages, next: page.next }))
}

/// Publishes messages
///
/// In one piece: all of them are stored, one after another, or none. Answered when they are as durable as the
/// topic asks, or as `durability` asks if that is more. With `expected` they are stored only if the newest message of the
/// topic, or of a key of a compacted one, is the one that is named; otherwise the answer is `conflict`.
#[utoipa::path(post, path = "/topics/{name}/messages", tag = "messages", operation_id = "publish_messages",
    params(("name" = String, Path, description = "The topic.")),
    request_body = PublishRequest,
    responses((status = 201, description = "They are stored.", body = Published)))]
pub(super) async fn publish(
    State(server): State<Server>,
    Named(topic): Named<TopicName>,
    Json(request): Json<PublishRequest>,
) -> Result<Response> {
    writable(&topic)?;
    let count = request.messages.len();
    if !(1..=MAX_MESSAGES).contains(&count) {
        return Err(Error::invalid(format!("messages has {count}, it can have 1 to {MAX_MESSAGES}")).into());
    }
    let now = SystemClock.now();
    let mut batch = Batch::default();
    for (index, message) in request.messages.into_iter().enumerate() {
        message.into_message(now).and_then(|message| batch.push(&message)).map_err(|mut error| {
            error.message = format!("messages[{index}]: {}", error.message).into();
            error
        })?;
    }
    let options = PublishOptions {
        durability: request.durability,
        expected: request.expected.map(Into::into),
        source: None,
    };
    let publishing = server.broker.publish(&topic, batch, options);
    let receipts = tokio::time::timeout(Server::PUBLISH, publishing).await.map_err(|_| {
        Error::new(ErrorCode::Timeout, format!("the broker did not answer in {:?}", Server::PUBLISH))
            .hint("the messages may be stored or not; publish them again, with ids they are stored once")
    })??;
    let published = Published {
        topic,
        durability: receipts.durability,
        receipts: receipts
            .iter()
            .map(|receipt| PublishReceipt { offset: receipt.offset, duplicate: receipt.duplicate })
            .collect(),
    };
    Ok((StatusCode::CREATED, Json(published)).into_response())
}
