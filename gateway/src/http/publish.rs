//! `POST /topics/{topic}/messages`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use crossdock_access::Action;
use crossdock_http::{Authenticated, Result, check_json, is_json, json_response, refuse_encoded};
use crossdock_topics::{Batch, Clock, Error, ErrorCode, Published, Receipts, SystemClock, TopicName};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::gateway::Gateway;
use super::path::Named;
use super::{conditions, fields, lines};

/// How long the broker may take to make something durable.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

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
    let options = conditions::options(&headers, message.key.as_deref())?;
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
    let receipts = stored(gateway.broker.publish(&topic, batch, options), PATIENCE).await?;
    Ok(receipt(StatusCode::CREATED, &topic, &receipts))
}

/// Waits for the receipts of what is on its way.
///
/// # Errors
/// The broker's own; `Timeout` when they do not come in time.
pub(super) async fn stored(published: Published, patience: Duration) -> Result<Receipts, Error> {
    tokio::time::timeout(patience, published).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorCode::Timeout, "the receipt did not come in time; the message may be stored")
            .hint("send it again; with a message id it is stored once"))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_receipt_that_does_not_come_is_not_waited_for_for_ever() {
        let (_engine, published) = Published::pending();
        let error = stored(published, Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Timeout);
        assert!(error.hint.is_some());
    }
}
