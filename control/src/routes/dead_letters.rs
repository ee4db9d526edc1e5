//! What subscriptions have given up on.

use axum::extract::State;
use crossdock_http::{Json, Result};
use crossdock_topics::{SubscriptionName, Subscriptions, TopicName};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::{Count, DeadLetter, DeadLetterPage, DeadLetterSelection};
use crate::extract::{Named, Query, page_size, place};
use crate::server::Server;

/// No further dead letter once their payloads are this large together, in bytes.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// How many are taken from the broker at once: each can be as large as a message can be.
const CHUNK: usize = 16;

/// Which dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct After {
    /// Only those after this place, `TOPIC:OFFSET`.
    after: Option<String>,
    /// At most so many: 1 to 1000, 100 unless said.
    #[param(minimum = 1, maximum = 1000)]
    max: Option<usize>,
}

/// Lists dead letters
///
/// By topic and offset, with why and how often they failed. At most `max` and about 4 MiB of payloads at once;
/// pass `next` as `after` for more.
#[utoipa::path(get, path = "/subscriptions/{name}/dead-letters", tag = "dead letters",
    operation_id = "list_dead_letters",
    params(("name" = String, Path, description = "The subscription."), After),
    responses((status = 200, body = DeadLetterPage)))]
pub(super) async fn list(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
    Query(query): Query<After>,
) -> Result<Json<DeadLetterPage>> {
    let max = page_size(query.max)?;
    let after = query.after.as_deref().map(place).transpose()?;
    // Tells an unknown subscription from one without dead letters.
    server.broker.subscription(&name).await?;
    Ok(Json(page(&*server.broker, &name, after, max).await?))
}

async fn page(
    subscriptions: &dyn Subscriptions,
    name: &SubscriptionName,
    mut after: Option<(TopicName, u64)>,
    max: usize,
) -> crossdock_topics::Result<DeadLetterPage> {
    let mut dead_letters: Vec<DeadLetter> = Vec::new();
    let mut bytes = 0;
    loop {
        let wanted = CHUNK.min(max - dead_letters.len());
        let letters = subscriptions.dead_letters(name, after.clone(), wanted).await?;
        let last = letters.len() < wanted;
        for letter in letters {
            bytes += letter.message.as_ref().map_or(0, |(_, record)| record.size());
            after = Some((letter.topic.clone(), letter.offset));
            dead_letters.push(letter.into());
        }
        if last {
            return Ok(DeadLetterPage { dead_letters, next: None });
        }
        if dead_letters.len() >= max || bytes >= PAGE_BYTES {
            let next = after.map(|(topic, offset)| format!("{topic}:{offset}"));
            return Ok(DeadLetterPage { dead_letters, next });
        }
    }
}

/// Delivers dead letters again
///
/// At once and with their failures forgotten.
#[utoipa::path(post, path = "/subscriptions/{name}/dead-letters/redrive", tag = "dead letters",
    operation_id = "redrive_dead_letters",
    params(("name" = String, Path, description = "The subscription.")),
    request_body = DeadLetterSelection,
    responses((status = 200, description = "How many.", body = Count)))]
pub(super) async fn redrive(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
    Json(selection): Json<DeadLetterSelection>,
) -> Result<Json<Count>> {
    let count = server.broker.redrive(&name, selection.into_selection()?.into()).await?;
    Ok(Json(Count { count }))
}

/// Forgets dead letters
///
/// The messages stay in their topics.
#[utoipa::path(post, path = "/subscriptions/{name}/dead-letters/discard", tag = "dead letters",
    operation_id = "discard_dead_letters",
    params(("name" = String, Path, description = "The subscription.")),
    request_body = DeadLetterSelection,
    responses((status = 200, description = "How many.", body = Count)))]
pub(super) async fn discard(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
    Json(selection): Json<DeadLetterSelection>,
) -> Result<Json<Count>> {
    let count = server.broker.discard(&name, selection.into_selection()?, false).await?;
    Ok(Json(Count { count }))
}
