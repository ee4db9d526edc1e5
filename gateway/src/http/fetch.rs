//! `GET /subscriptions/{name}/messages`: taking messages by long poll.

use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::response::Response;
use crossdock_http::{Authenticated, MessageJson, Result, json_handover};
use crossdock_topics::time::human;
use crossdock_topics::{Error, Fetch, SubscriptionName};
use serde::{Deserialize, Serialize};

use super::gateway::Gateway;
use super::held::Held;
use super::path::Named;
use super::room::Taken;

const MAX: usize = 1000;
const MAX_WAIT: Duration = Duration::from_secs(60);
const LEASES: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(12 * 3600);

/// What a consumer asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    max: Option<usize>,
    #[serde(default, with = "human::option")]
    wait: Option<Duration>,
    #[serde(default, with = "human::option")]
    lease: Option<Duration>,
}

/// The query of a request to consume.
pub(super) type Query = Result<axum::extract::Query<Wish>, QueryRejection>;

impl Wish {
    /// # Errors
    /// `InvalidArgument` naming the parameter and its range.
    pub(super) fn of(query: Query) -> Result<Self, Error> {
        let axum::extract::Query(wish) = query.map_err(|error| {
            Error::invalid(error.body_text())
                .hint("max, wait and lease are understood, as in ?max=100&wait=2s")
        })?;
        if wish.max.is_some_and(|max| !(1..=MAX).contains(&max)) {
            return Err(Error::invalid(format!("max can be 1 to {MAX}")));
        }
        if wish.wait.is_some_and(|wait| wait > MAX_WAIT) {
            return Err(Error::invalid("wait can be at most 60s").hint("ask again when it has passed"));
        }
        check_lease(wish.lease)?;
        Ok(wish)
    }

    pub(super) fn max(&self, otherwise: usize) -> usize {
        self.max.unwrap_or(otherwise)
    }

    pub(super) fn lease(&self) -> Option<Duration> {
        self.lease
    }
}

/// # Errors
/// `InvalidArgument` with the range.
pub(super) fn check_lease(lease: Option<Duration>) -> Result<(), Error> {
    if lease.is_some_and(|lease| !LEASES.contains(&lease)) {
        return Err(Error::invalid("a lease can be 10ms to 12h"));
    }
    Ok(())
}

/// Takes messages on a lease: at once if there are any, else when the first comes, within the wait. What the
/// caller does not stay to receive is given back.
pub(super) async fn fetch(
    State(gateway): State<Gateway>,
    Authenticated(principal): Authenticated,
    Named(name): Named<SubscriptionName>,
    query: Query,
) -> Result<Response> {
    let wish = Wish::of(query)?;
    gateway.consumable(&principal, &name).await?;
    let wait = wish.wait.unwrap_or_default();
    let fetch = Fetch { lease: wish.lease, ..Fetch::new(None, wish.max(100), wait) };
    let deliveries = tokio::select! {
        biased;
        deliveries = gateway.broker.fetch(&name, fetch) => deliveries?,
        // Whoever waits for what may come is told that nothing has.
        () = gateway.shutdown.started() => Vec::new(),
    };
    let held = Held::new(&gateway, &name, &deliveries);
    let size: usize = deliveries.iter().map(|delivery| delivery.record.size() + 256).sum();
    // Readers can be slow, and many.
    let mut room = Taken::default();
    gateway.pages.take(&mut room, size)?;
    let mut text = Vec::with_capacity(size);
    let messages = deliveries.iter().map(MessageJson::delivered).collect();
    serde_json::to_writer(&mut text, &Messages { messages })
        .map_err(|error| Error::internal(format!("the messages cannot be written: {error}")))?;
    Ok(json_handover(text, move || {
        held.keep();
        drop(room);
    }))
}

#[derive(Serialize)]
struct Messages<'a> {
    messages: Vec<MessageJson<'a>>,
}
