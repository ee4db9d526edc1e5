//! What a group says about itself.

use crossdock_topics::{ConsumerId, Timestamp};

use super::aside::Wait;
use super::key::KeyHash;
use super::place::Held;
use super::{AT_ONCE, Flight, Group};

/// How many messages are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// With consumers.
    pub in_flight: usize,
    /// Set aside, those behind a key and those whose key is parked included.
    pub set_aside: usize,
    /// Looked at and not set aside for any reason of their own: they wait for a consumer as what lies behind `next` does.
    pub ahead: usize,
    /// Behind an earlier one of their key.
    pub behind_key: usize,
    /// Whose key is parked. As many as there are parked keys.
    pub parked_keys: usize,
    /// Given up.
    pub dead: usize,
}

/// The state of one message, for whoever asks why it is not elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Acknowledged, discarded, expired, passed over, or before the place the group began at.
    Done,
    /// Not looked at yet.
    Unseen,
    /// With a consumer.
    InFlight {
        /// Whose it is, if it joined.
        consumer: Option<ConsumerId>,
        /// Until when.
        until: Timestamp,
    },
    /// Waits for a consumer.
    Ready {
        /// Who else still holds messages of its slot, so that the owner has to wait.
        held_by: Option<ConsumerId>,
    },
    /// Waits for its time.
    Later {
        /// When it has come.
        due: Timestamp,
    },
    /// Waits for another one of its key.
    Behind {
        /// The one whose turn it is, or was.
        head: u64,
        /// Whether that one is done with, and only that being durable is waited for.
        is_over: bool,
    },
    /// Its key is parked.
    Parked,
    /// Given up.
    Dead,
}

impl Group {
    /// How many messages are in which state.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            in_flight: self.in_flight.len(),
            set_aside: self.aside.len() - self.ahead,
            ahead: self.ahead,
            behind_key: self.lanes.behind(),
            parked_keys: self.parked.len(),
            dead: self.dead.len(),
        }
    }

    /// What is in flight: with [`Saved::held`](super::Saved) it can be settled elsewhere. Whoever has joined here has not
    /// joined there: what they hold is held until it is settled or its lease runs out.
    pub fn held(&self) -> impl Iterator<Item = (u64, Held)> {
        self.in_flight.iter().map(|(offset, Flight { token, until, known, .. })| {
            (*offset, Held { token: *token, until: *until, deliveries: known.deliveries })
        })
    }

    /// The messages whose keys are parked, in order, and how many wait behind each.
    pub fn parked_keys(&self) -> impl Iterator<Item = (u64, KeyHash, usize)> {
        self.parked.iter().filter_map(|offset| {
            let key = self.aside.get(offset)?.known.facts.key?;
            Some((*offset, key, self.lanes.of(key).map_or(0, |(_, behind)| behind)))
        })
    }

    /// The message that keeps a key parked.
    #[must_use]
    pub fn parked(&self, key: KeyHash) -> Option<u64> {
        self.lanes.of(key).map(|(head, _)| head).filter(|head| self.parked.contains(head))
    }

    /// Whether there is no room for another message in flight.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.in_flight.len() >= self.rules.max_in_flight
    }

    /// Whether so many are set aside that nothing new is looked at.
    #[must_use]
    pub fn is_choked(&self) -> bool {
        self.aside.len() >= self.rules.max_aside
    }

    /// Whether a message was given up.
    #[must_use]
    pub fn is_dead(&self, offset: u64) -> bool {
        self.dead.contains_key(&offset)
    }

    /// Whether nothing is remembered of a message: it is done, or has not been looked at.
    #[must_use]
    pub fn is_settled(&self, offset: u64) -> bool {
        matches!(self.standing(offset).0, Standing::Done | Standing::Unseen)
    }

    /// The state of one message; how often it was delivered, and how often it failed, as far as it is known here.
    #[must_use]
    pub fn standing(&self, offset: u64) -> (Standing, u32, u32) {
        if let Some(flight) = self.in_flight.get(&offset) {
            let standing = Standing::InFlight { consumer: flight.consumer, until: flight.until };
            return (standing, flight.known.deliveries, flight.known.failures);
        }
        let Some(aside) = self.aside.get(&offset) else {
            let standing = match offset {
                _ if self.dead.contains_key(&offset) => Standing::Dead,
                _ if offset >= self.next => Standing::Unseen,
                _ => Standing::Done,
            };
            return (standing, 0, 0);
        };
        let key = aside.known.facts.key;
        let standing = match aside.wait {
            Wait::Parked => Standing::Parked,
            Wait::Behind => Standing::Behind {
                head: key.and_then(|key| self.lanes.of(key)).map_or(offset, |(head, _)| head),
                is_over: key.is_some_and(|key| self.lanes.is_over(key)),
            },
            Wait::Later if aside.due > AT_ONCE => Standing::Later { due: aside.due },
            Wait::Later | Wait::Ready => {
                Standing::Ready { held_by: key.and_then(|key| self.holders.of(key.slot())) }
            }
        };
        (standing, aside.known.deliveries, aside.known.failures)
    }
}
