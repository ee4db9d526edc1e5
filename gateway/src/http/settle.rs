//! `POST /subscriptions/{name}/settle`: saying what became of messages.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use crossdock_http::{Authenticated, Json, Result};
use crossdock_topics::time::human;
use crossdock_topics::{DeliveryId, Error, ErrorCode, Outcome, Settlement, SubscriptionName};
use serde::{Deserialize, Serialize};

use super::fetch::check_lease;
use super::gateway::Gateway;
use super::path::Named;
use super::publish::PATIENCE;

/// What a consumer says. All of it is optional.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub(super) struct Said {
    /// Done.
    ack: Vec<DeliveryId>,
    /// Failed; again after a while.
    nack: Vec<Nack>,
    /// Never again: to the dead letters.
    reject: Vec<Reject>,
    /// Still being worked on.
    extend: Vec<Extend>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nack {
    delivery: DeliveryId,
    /// Instead of the subscription's backoff.
    #[serde(default, with = "human::option")]
    delay: Option<Duration>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reject {
    delivery: DeliveryId,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extend {
    delivery: DeliveryId,
    /// From now on; the subscription's own lease unless said.
    #[serde(default, with = "human::option")]
    lease: Option<Duration>,
}

/// What took effect.
#[derive(Default, Serialize)]
pub(super) struct Answer {
    settled: usize,
    extended: usize,
    /// Deliveries that had been settled, or whose lease had run out: nothing was done about these.
    stale: Vec<DeliveryId>,
}

/// Settles, then extends.
pub(super) async fn settle(
    State(gateway): State<Gateway>,
    Authenticated(principal): Authenticated,
    Named(name): Named<SubscriptionName>,
    Json(said): Json<Said>,
) -> Result<Json<Answer>> {
    let subscription = gateway.consumable(&principal, &name).await?;
    let mut leases: BTreeMap<Duration, Vec<DeliveryId>> = BTreeMap::new();
    for Extend { delivery, lease } in said.extend {
        check_lease(lease)?;
        leases.entry(lease.unwrap_or(subscription.lease)).or_default().push(delivery);
    }
    let acked = said.ack.into_iter().map(|delivery| (delivery, Outcome::Ack));
    let nacked = said
        .nack
        .into_iter()
        .map(|nack| (nack.delivery, Outcome::Retry { after: nack.delay, reason: nack.reason }));
    let rejected =
        said.reject.into_iter().map(|reject| (reject.delivery, Outcome::Reject { reason: reject.reason }));
    let settlement = Settlement {
        outcomes: acked.chain(nacked).chain(rejected).collect(),
        outputs: Vec::new(),
        by: Some(format!("user {}", principal.user())),
    };
    let mut answer = Answer::default();
    if !settlement.outcomes.is_empty() {
        let settling = gateway.broker.settle(&name, settlement);
        let settled = tokio::time::timeout(PATIENCE, settling).await.map_err(|_| {
            Error::new(ErrorCode::Timeout, "the broker did not answer in time; it may be settled or not")
                .hint("settle again: what had been settled is named as stale then")
        })??;
        answer.settled = settled.settled;
        answer.stale = settled.stale;
    }
    for (lease, deliveries) in leases {
        let extended = gateway.broker.extend(&name, &deliveries, lease).await?;
        answer.extended += extended.settled;
        answer.stale.extend(extended.stale);
    }
    Ok(Json(answer))
}
