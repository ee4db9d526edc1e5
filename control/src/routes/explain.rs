//! The life of one message.

use std::time::Duration;

use axum::extract::State;
use crossdock_http::{Json, Result};
use crossdock_topics::{StartAt, TopicName};

use crate::api::{Explained, Message};
use crate::extract::NamedAnd;
use crate::server::Server;

/// Explains what became of a message
///
/// What is stored of it, and how each subscription of its topic stands to it: why it is there, how often it failed
/// and why, who holds it, what it waits for.
#[utoipa::path(get, path = "/topics/{name}/messages/{offset}/explain", tag = "messages",
    operation_id = "explain_message",
    params(("name" = String, Path, description = "The topic."),
        ("offset" = u64, Path, description = "The message's offset.")),
    responses((status = 200, body = Explained)))]
pub(super) async fn explain(
    State(server): State<Server>,
    NamedAnd(topic, offset): NamedAnd<TopicName, u64>,
) -> Result<Json<Explained>> {
    let explanation = server.broker.explain(&topic, offset).await?;
    let mut message = None;
    if explanation.stored.is_some() {
        let page = server.broker.read(&topic, StartAt::Offset(offset), 1, Duration::ZERO).await?;
        let found = page.messages.iter().find(|stored| stored.offset == offset);
        message = found.map(|stored| Message::new(topic.clone(), offset, stored.time, &stored.record));
    }
    Ok(Json(Explained { explanation, message }))
}
