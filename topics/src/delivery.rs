//! What a consumer gets, and what it says about it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Batch, Error, Record, Timestamp, TopicName};

/// Names one delivery of one message: each time a message is delivered the name is another, so that a late
/// answer to an earlier delivery cannot settle a later one.
///
/// Users see it as one opaque word. It holds which log, which offset, and a token of the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// The log the message lies in, as numbered by the engine.
    pub log: u32,
    /// The message's offset.
    pub offset: u64,
    /// Differs between deliveries of the same message, also across restarts.
    pub token: u64,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.log, self.offset, self.token)
    }
}

impl FromStr for DeliveryId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let mut parts = text.split('-');
            let log = u32::from_str_radix(parts.next()?, 16).ok()?;
            let offset = u64::from_str_radix(parts.next()?, 16).ok()?;
            let token = u64::from_str_radix(parts.next()?, 16).ok()?;
            parts.next().is_none().then_some(Self { log, offset, token })
        };
        parse().ok_or_else(|| {
            Error::invalid(format!("{text:?} is not a delivery"))
                .hint("send back the word that stood in `delivery` when the message was handed out")
        })
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeliveryId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One of the consumers that share a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConsumerId(pub u64);

/// A message handed to a consumer, on a lease.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What to settle it by.
    pub id: DeliveryId,
    /// The topic it lies in.
    pub topic: TopicName,
    /// Its offset there.
    pub offset: u64,
    /// When the broker stored it.
    pub time: Timestamp,
    /// Which try this is, from 1: one more than its failures so far.
    pub attempt: u32,
    /// How often it has been delivered, this time included. Larger than `attempt` when it came back without
    /// a failure, such as from a consumer that went away. A restart of the broker forgets deliveries that led
    /// to no failure, and delivering a dead letter again begins anew.
    pub deliveries: u32,
    /// The message.
    pub record: Record,
}

/// What a consumer says about a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; never deliver it again.
    Ack,
    /// Failed; deliver it again after the subscription's backoff, or after `after`. Counts as a failure, and
    /// one too many sends it to the dead letters.
    Retry {
        /// Instead of the backoff.
        after: Option<Duration>,
        /// Why, shown to operators.
        reason: String,
    },
    /// Not done, and not the message's fault: deliver it again at once. Counts as nothing.
    Release,
    /// Never deliver it again; put it to the dead letters.
    Reject {
        /// Why, shown to operators.
        reason: String,
    },
}

/// What a consumer did: outcomes, and the messages that become visible with them. Either all of it becomes
/// durable, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Settlement {
    /// What is said about which delivery.
    pub outcomes: Vec<(DeliveryId, Outcome)>,
    /// What is published with it.
    pub outputs: Vec<(TopicName, Batch)>,
    /// Who says so, such as a service and its version; kept with dead letters. At most 200 bytes are kept.
    pub by: Option<String>,
}

impl Settlement {
    /// A settlement that only acknowledges.
    #[must_use]
    pub fn ack(deliveries: impl IntoIterator<Item = DeliveryId>) -> Self {
        Self { outcomes: deliveries.into_iter().map(|id| (id, Outcome::Ack)).collect(), ..Self::default() }
    }

    /// A settlement of one delivery.
    #[must_use]
    pub fn one(delivery: DeliveryId, outcome: Outcome) -> Self {
        Self { outcomes: vec![(delivery, outcome)], ..Self::default() }
    }
}

/// What became of a settlement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// How many outcomes took effect.
    pub settled: usize,
    /// Deliveries whose lease had run out, or that were settled before: nothing was done about them.
    pub stale: Vec<DeliveryId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_id_survives_its_text_and_nothing_else_is_one() {
        let id = DeliveryId { log: 7, offset: u64::MAX, token: 0xabc };
        assert_eq!(id.to_string().parse::<DeliveryId>().unwrap(), id);
        for bad in ["", "1-2", "1-2-3-4", "x-1-2", "-1-2-3", "1-2-11111111111111111"] {
            assert!(bad.parse::<DeliveryId>().is_err(), "{bad}");
        }
    }
}
