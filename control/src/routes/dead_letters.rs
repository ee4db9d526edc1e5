//! What subscriptions have given up on.

use axum::extract::State;
use crossdock_http::{Json, Result};
use crossdock_topics::{DeadLetterFilter, Error, SubscriptionName, Subscriptions, TopicName};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::{Count, DeadLetter, DeadLetterEdit, DeadLetterPage, DiscardRequest, RedriveRequest};
use crate::extract::{MessagePlace, Named, NamedAnd, Query, page_size};
use crate::server::Server;

/// No further dead letter once their payloads are this large together, in bytes.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// How many are taken from the broker at once: each can be as large as a message can be.
const CHUNK: usize = 16;
/// How many are looked at for one page at most, when a filter lets few of them through.
const LOOKED_AT: usize = 10_000;

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
    /// Only those that lie in this topic.
    topic: Option<String>,
    /// Only those whose reason contains this text.
    reason: Option<String>,
    /// Only those where who failed begins with this, such as a service's name.
    by: Option<String>,
    /// Only those given up at or after this moment.
    since: Option<String>,
    /// Only those given up before this moment.
    until: Option<String>,
    /// Only those whose message has this key.
    key: Option<String>,
    /// Only those whose message has this header, as `NAME=VALUE`.
    header: Option<String>,
}

impl After {
    /// What is asked of them.
    fn filter(&self) -> Result<DeadLetterFilter, Error> {
        let header = |text: &String| {
            let (name, value) = text.split_once('=').ok_or_else(|| {
                Error::invalid(format!("header is {text:?}")).hint("write it like region=eu")
            })?;
            Ok::<_, Error>((name.to_owned(), value.to_owned()))
        };
        Ok(DeadLetterFilter {
            topic: self.topic.as_deref().map(str::parse).transpose()?,
            reason: self.reason.clone(),
            by: self.by.clone(),
            since: self.since.as_deref().map(str::parse).transpose()?,
            until: self.until.as_deref().map(str::parse).transpose()?,
            key: self.key.clone(),
            headers: self.header.as_ref().map(header).transpose()?.into_iter().collect(),
        })
    }
}

/// Lists dead letters
///
/// By topic and offset, with why and how often they failed: all, or those of which everything that is asked is true.
/// At most `max` and about 4 MiB of payloads at once; pass `next` as `after` for more, also after a page that is
/// empty because a filter let none through.
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
    let filter = query.filter()?;
    let after = query.after.as_deref().map(str::parse::<MessagePlace>).transpose()?;
    let after = after.map(|MessagePlace(topic, offset)| (topic, offset));
    // Tells an unknown subscription from one without dead letters.
    server.broker.subscription(&name).await?;
    Ok(Json(page(&*server.broker, &name, &filter, after, max).await?))
}

async fn page(
    subscriptions: &dyn Subscriptions,
    name: &SubscriptionName,
    filter: &DeadLetterFilter,
    mut after: Option<(TopicName, u64)>,
    max: usize,
) -> crossdock_topics::Result<DeadLetterPage> {
    let mut dead_letters: Vec<DeadLetter> = Vec::new();
    let (mut bytes, mut looked_at) = (0, 0);
    loop {
        let wanted = CHUNK.min(max - dead_letters.len());
        let letters = subscriptions.dead_letters(name, after.clone(), wanted).await?;
        let last = letters.len() < wanted;
        looked_at += letters.len();
        for letter in letters {
            after = Some((letter.topic.clone(), letter.offset));
            if filter.matches(&letter) {
                bytes += letter.message.as_ref().map_or(0, |(_, record)| record.size());
                dead_letters.push(letter.into());
            }
        }
        if last {
            return Ok(DeadLetterPage { dead_letters, next: None });
        }
        if dead_letters.len() >= max || bytes >= PAGE_BYTES || looked_at >= LOOKED_AT {
            let next = after.map(|(topic, offset)| format!("{topic}:{offset}"));
            return Ok(DeadLetterPage { dead_letters, next });
        }
    }
}

/// Shows a dead letter
#[utoipa::path(get, path = "/subscriptions/{name}/dead-letters/{message}", tag = "dead letters",
    operation_id = "get_dead_letter",
    params(("name" = String, Path, description = "The subscription."),
        ("message" = String, Path, description = "The message, `TOPIC:OFFSET`.")),
    responses((status = 200, body = DeadLetter)))]
pub(super) async fn get(
    State(server): State<Server>,
    NamedAnd(name, place): NamedAnd<SubscriptionName, MessagePlace>,
) -> Result<Json<DeadLetter>> {
    Ok(Json(find(&*server.broker, &name, &place).await?.into()))
}

/// Changes what a dead letter is delivered as
///
/// When it is delivered again, and to this subscription alone: the log stays as it is. What the body leaves out stays
/// as it was.
#[utoipa::path(patch, path = "/subscriptions/{name}/dead-letters/{message}", tag = "dead letters",
    operation_id = "edit_dead_letter",
    params(("name" = String, Path, description = "The subscription."),
        ("message" = String, Path, description = "The message, `TOPIC:OFFSET`.")),
    request_body = DeadLetterEdit,
    responses((status = 204, description = "It is changed.")))]
pub(super) async fn edit(
    State(server): State<Server>,
    NamedAnd(name, place): NamedAnd<SubscriptionName, MessagePlace>,
    Json(edit): Json<DeadLetterEdit>,
) -> Result<StatusCode> {
    let letter = find(&*server.broker, &name, &place).await?;
    let Some((_, record)) = letter.message else {
        return Err(
            Error::not_found("message", format!("{}:{} any more", letter.topic, letter.offset)).into()
        );
    };
    let message = edit.apply(record.to_message())?;
    server.broker.edit_dead_letter(&name, &letter.topic, letter.offset, message).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The dead letter at a place. They are listed by topic and offset, so what comes right after the offset before it is
/// it, or it is none; only an offset of 0 has none before it and is looked for from the start.
async fn find(
    subscriptions: &dyn Subscriptions,
    name: &SubscriptionName,
    MessagePlace(topic, offset): &MessagePlace,
) -> crossdock_topics::Result<crossdock_topics::DeadLetter> {
    subscriptions.subscription(name).await?;
    let mut after = offset.checked_sub(1).map(|before| (topic.clone(), before));
    let max = if *offset == 0 { CHUNK } else { 1 };
    loop {
        let letters = subscriptions.dead_letters(name, after, max).await?;
        let passed = letters.len() < max || letters.iter().any(|letter| letter.topic > *topic) || max == 1;
        after = letters.last().map(|letter| (letter.topic.clone(), letter.offset));
        let found = letters.into_iter().find(|letter| letter.topic == *topic && letter.offset == *offset);
        match found {
            Some(letter) => return Ok(letter),
            None if passed => {
                let what = format!("{topic}:{offset} of subscription {name}");
                return Err(Error::not_found("dead letter", what));
            }
            None => {}
        }
    }
}

/// Delivers dead letters again
///
/// With their failures forgotten; at once, or at most `rate` a second.
#[utoipa::path(post, path = "/subscriptions/{name}/dead-letters/redrive", tag = "dead letters",
    operation_id = "redrive_dead_letters",
    params(("name" = String, Path, description = "The subscription.")),
    request_body = RedriveRequest,
    responses((status = 200, description = "How many.", body = Count)))]
pub(super) async fn redrive(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
    Json(request): Json<RedriveRequest>,
) -> Result<Json<Count>> {
    let count = server.broker.redrive(&name, request.into_redrive()?).await?;
    Ok(Json(Count { count }))
}

/// Forgets dead letters
///
/// The messages stay in their topics.
#[utoipa::path(post, path = "/subscriptions/{name}/dead-letters/discard", tag = "dead letters",
    operation_id = "discard_dead_letters",
    params(("name" = String, Path, description = "The subscription.")),
    request_body = DiscardRequest,
    responses((status = 200, description = "How many.", body = Count)))]
pub(super) async fn discard(
    State(server): State<Server>,
    Named(name): Named<SubscriptionName>,
    Json(request): Json<DiscardRequest>,
) -> Result<Json<Count>> {
    let dry_run = request.dry_run;
    let count = server.broker.discard(&name, request.into_selection()?, dry_run).await?;
    Ok(Json(Count { count }))
}
