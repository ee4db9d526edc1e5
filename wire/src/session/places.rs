//! Deliveries and places in a log, many in a few integers: what lies one after another is written as one run.

use std::time::Duration;

use crossdock_topics::{Delivery, DeliveryId, Outcome};
use serde::{Deserialize, Serialize};

/// `[log, offset, token, count]`: deliveries of which each has an offset and a token one larger than the one before
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRange(pub u32, pub u64, pub u64, pub u32);

/// Deliveries, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(pub Vec<DeliveryRange>);

impl DeliveryRange {
    /// Takes one more, if it comes next.
    fn take(&mut self, id: DeliveryId) -> bool {
        let count = u64::from(self.3);
        let next = self.0 == id.log
            && self.1.checked_add(count) == Some(id.offset)
            && self.2.checked_add(count) == Some(id.token)
            && self.3 < u32::MAX;
        self.3 += u32::from(next);
        next
    }

    /// The deliveries.
    pub fn ids(self) -> impl Iterator<Item = DeliveryId> {
        let Self(log, offset, token, count) = self;
        (0..u64::from(count)).map(move |i| DeliveryId {
            log,
            offset: offset.wrapping_add(i),
            token: token.wrapping_add(i),
        })
    }
}

impl From<DeliveryId> for DeliveryRange {
    fn from(id: DeliveryId) -> Self {
        Self(id.log, id.offset, id.token, 1)
    }
}

impl FromIterator<DeliveryId> for Ranges {
    fn from_iter<I: IntoIterator<Item = DeliveryId>>(ids: I) -> Self {
        let mut ranges: Vec<DeliveryRange> = Vec::new();
        for id in ids {
            if !ranges.last_mut().is_some_and(|last| last.take(id)) {
                ranges.push(id.into());
            }
        }
        Self(ranges)
    }
}

impl Ranges {
    /// How many deliveries they name: to be checked before they are counted out.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.3)).sum()
    }

    /// Whether they name none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The deliveries.
    pub fn ids(&self) -> impl Iterator<Item = DeliveryId> {
        self.0.iter().flat_map(|range| range.ids())
    }
}

const ACK: u8 = 0;
const RETRY: u8 = 1;
const RELEASE: u8 = 2;
const REJECT: u8 = 3;

/// `[outcome, log, offset, token, count, after_ms, reason]`: what is said about a range of deliveries. The outcome is 0
/// acknowledge, 1 retry, 2 release, 3 reject; what it has no use for is nil and the empty text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRange(pub u8, pub u32, pub u64, pub u64, pub u32, pub Option<u64>, pub String);

impl OutcomeRange {
    /// Outcomes as they are said, in order, in as few ranges as there can be.
    #[must_use]
    pub fn all(outcomes: &[(DeliveryId, Outcome)]) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        let mut last: Option<&Outcome> = None;
        for (id, outcome) in outcomes {
            if last == Some(outcome)
                && let Some(Self(_, log, offset, token, count, ..)) = ranges.last_mut()
            {
                let mut range = DeliveryRange(*log, *offset, *token, *count);
                if range.take(*id) {
                    *count = range.3;
                    continue;
                }
            }
            last = Some(outcome);
            let (number, after, reason) = match outcome {
                Outcome::Ack => (ACK, None, ""),
                Outcome::Retry { after, reason } => (RETRY, *after, reason.as_str()),
                Outcome::Release => (RELEASE, None, ""),
                Outcome::Reject { reason } => (REJECT, None, reason.as_str()),
            };
            let after = after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            ranges.push(Self(number, id.log, id.offset, id.token, 1, after, reason.to_owned()));
        }
        ranges
    }

    /// The deliveries it is about.
    #[must_use]
    pub fn range(&self) -> DeliveryRange {
        DeliveryRange(self.1, self.2, self.3, self.4)
    }

    /// What is said about them; `None` for a number that is no outcome.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        Some(match self.0 {
            ACK => Outcome::Ack,
            RETRY => Outcome::Retry { after: self.5.map(Duration::from_millis), reason: self.6.clone() },
            RELEASE => Outcome::Release,
            REJECT => Outcome::Reject { reason: self.6.clone() },
            _ => return None,
        })
    }
}

/// `[offset, token, time_ms, attempt, deliveries, count]`: deliveries of which each has an offset and a token one
/// larger than the one before it, and all else alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run(pub u64, pub u64, pub i64, pub u32, pub u32, pub u32);

/// `[topic, log, runs]`: deliveries from one topic, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRuns(pub String, pub u32, pub Vec<Run>);

impl TopicRuns {
    /// Adds a delivery to those of a frame.
    pub fn add(topics: &mut Vec<Self>, delivery: &Delivery) {
        let id = delivery.id;
        if !topics.last().is_some_and(|last| last.1 == id.log && last.0 == delivery.topic.as_str()) {
            topics.push(Self(delivery.topic.as_str().to_owned(), id.log, Vec::new()));
        }
        let Some(Self(_, _, runs)) = topics.last_mut() else { return };
        if let Some(Run(offset, token, time, attempt, deliveries, count)) = runs.last_mut() {
            let so_far = u64::from(*count);
            if offset.checked_add(so_far) == Some(id.offset)
                && token.checked_add(so_far) == Some(id.token)
                && *time == delivery.time.0
                && (*attempt, *deliveries) == (delivery.attempt, delivery.deliveries)
            {
                *count += 1;
                return;
            }
        }
        runs.push(Run(id.offset, id.token, delivery.time.0, delivery.attempt, delivery.deliveries, 1));
    }
}

impl TopicRuns {
    /// How many deliveries they are: to be checked before they are counted out.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.2.iter().map(|run| u64::from(run.5)).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each delivery.
    pub fn deliveries(&self) -> impl Iterator<Item = Delivered> {
        let log = self.1;
        self.2.iter().flat_map(move |Run(offset, token, time, attempt, deliveries, count)| {
            DeliveryRange(log, *offset, *token, *count).ids().map(|id| Delivered {
                id,
                time: *time,
                attempt: *attempt,
                deliveries: *deliveries,
            })
        })
    }
}

/// What a [`Run`] says of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Its name.
    pub id: DeliveryId,
    /// When the message was stored, in milliseconds since 1970.
    pub time: i64,
    /// Which try it is.
    pub attempt: u32,
    /// How often it has been delivered.
    pub deliveries: u32,
}

/// `[offset, time_ms, count]`: messages that lie one after another and were stored at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRun(pub u64, pub i64, pub u32);

impl PageRun {
    /// Adds a message to those of a frame.
    pub fn add(runs: &mut Vec<Self>, offset: u64, time: i64) {
        match runs.last_mut() {
            Some(Self(first, at, count))
                if *at == time && first.checked_add(u64::from(*count)) == Some(offset) =>
            {
                *count += 1;
            }
            _ => runs.push(Self(offset, time, 1)),
        }
    }
}
