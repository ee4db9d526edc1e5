//! `POST /topics/{topic}/messages`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use crossdock_access::Action;
use crossdock_http::{Authenticated, Result, check_json, is_json, json_response, refuse_encoded};
use crossdock_topics::{Batch, Clock, Error, Receipts, SystemClock, TopicName};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::gateway::Gateway;
use super::path::Named;
use super::{fields, lines};

/// Stores one message, or a batch of lines, and answers once it is as durable as the topic asks.
pub(super) async fn publish(
    State(gateway): State<Gateway>,
    Authenticated(principal): Authenticated,
    Named(topic): Named<TopicName>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    principal.check(Action::Publish, topic.as_str())?;
    refuse_encoded(&headers)?;
    let mut message = fields::message(&headers, SystemClock.now())?;
    if let Some(topic) = &message.reply_to {
        // Whoever answers does so with its own permissions: nobody has it write where they may not themselves.
        principal.check(Action::Publish, topic).map_err(|error| Error {
            message: format!("the header X-Reply-To names {topic}: {}", error.message).into(),
            ..error
        })?;
    }
    let media = headers.get(CONTENT_TYPE);
    let batch = media.is_some_and(lines::is_lines);
    // The topic's own limit on a message is checked by the broker; here it bounds what is read.
    let limit = async {
        let largest = gateway.broker.topic(&topic).await?.topic.max_message_bytes;
        Ok(if batch { lines::MAX_LINES } else { largest })
    };
    let taken = gateway.intake.take(body, gateway.limits, limit).await?;
    let batch = if batch {
        lines::batch(message, &taken.bytes)?
    } else {
        if media.is_some_and(is_json) {
            check_json(&taken.bytes)?;
        }
        message.payload = taken.bytes.clone();
        Batch::of(&message)?
    };
    let receipts = gateway.broker.publish(&topic, batch, None).await?;
    Ok(receipt(StatusCode::CREATED, &topic, &receipts))
}

/// Says what was stored.
pub(super) fn receipt(status: StatusCode, topic: &TopicName, receipts: &Receipts) -> Response {
    let shown = Shown {
        topic,
        offsets: receipts.iter().map(|receipt| receipt.offset).collect(),
        durability: receipts.durability.to_string(),
        duplicates: receipts.duplicates.iter().map(|(place, _)| *place).collect(),
    };
    let mut response = json_response(serde_json::to_vec(&shown).unwrap_or_default()); // names and numbers: cannot fail
    *response.status_mut() = status;
    response
}

#[derive(Serialize)]
struct Shown<'a> {
    topic: &'a TopicName,
    /// Where each message lies, in the order they were sent.
    offsets: Vec<u64>,
    durability: String,
    /// Which of them (from 0) had been stored before.
    duplicates: Vec<u32>,
}
