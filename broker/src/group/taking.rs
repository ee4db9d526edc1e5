//! Handing messages out.

use crossdock_topics::{ConsumerId, Timestamp};

use super::aside::Wait;
use super::key::{KeyHash, Slots};
use super::place::Waiting;
use super::{AT_ONCE, Action, Facts, Flight, Fresh, Group, Known};

/// Who takes, and until when.
#[derive(Clone, Copy)]
pub(super) struct Taker<'a> {
    pub(super) consumer: Option<ConsumerId>,
    pub(super) slots: &'a Slots,
    pub(super) max: usize,
    pub(super) bytes: usize,
    pub(super) until: Timestamp,
}

impl Group {
    /// How many fresh messages an [`Event::Take`](super::Event::Take) of `max` could use now.
    #[must_use]
    pub fn wants_fresh(&self, max: usize) -> usize {
        if self.aside.len() >= self.rules.max_aside {
            return 0;
        }
        match max.min(self.room()) {
            0 => 0,
            _ if self.rules.by_priority => self.rules.look_ahead.saturating_sub(self.ready.len()),
            room => room,
        }
    }

    /// Whether something is ready that there is room for, if only for another consumer.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.ready.len() > 0 && self.room() > 0
    }

    /// The size of a message that is in flight, as far as it is known.
    #[must_use]
    pub fn size_in_flight(&self, offset: u64) -> usize {
        self.in_flight.get(&offset).map_or(0, |flight| flight.known.facts.size as usize)
    }

    /// Whether what is ready is looked through for the most urgent, so that it is to be filled up before anything is
    /// taken.
    #[must_use]
    pub fn looks_ahead(&self) -> bool {
        self.rules.by_priority
    }

    fn room(&self) -> usize {
        if self.is_held() {
            return 0;
        }
        self.rules.max_in_flight.saturating_sub(self.in_flight.len())
    }

    pub(super) fn take(
        &mut self,
        taker: Taker<'_>,
        fresh: &[Fresh],
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.expire_leases(now, actions);
        self.ripen(now);
        let (mut room, mut bytes) = (taker.max.min(self.room()), taker.bytes);
        if self.rules.by_priority {
            for message in fresh {
                if message.offset < self.next
                    || self.ready.len() >= self.rules.look_ahead
                    || self.aside.len() >= self.rules.max_aside
                {
                    break;
                }
                self.look(message, None, now, actions);
            }
        }
        while room > 0 && bytes > 0 {
            let holders = &self.holders;
            let may_take = |slot: Option<u8>| {
                slot.is_none_or(|slot| holders.let_take(taker.consumer, slot, taker.slots))
            };
            let Some(offset) = self.ready.first(may_take) else { break };
            let Some(aside) = self.pick_up(offset) else { break };
            self.fly(offset, aside.known, &taker, actions);
            room -= 1;
            bytes = bytes.saturating_sub(aside.known.facts.size as usize);
        }
        if !self.rules.by_priority {
            for message in fresh {
                let full = room == 0 || bytes == 0 || self.aside.len() >= self.rules.max_aside;
                if message.offset < self.next || full {
                    break;
                }
                if self.look(message, Some(&taker), now, actions) {
                    room -= 1;
                    bytes = bytes.saturating_sub(message.facts.size as usize);
                }
            }
        }
        self.tighten(actions);
    }

    /// Looks at the next message of the log; gives whether it was handed to the taker.
    fn look(
        &mut self,
        message: &Fresh,
        taker: Option<&Taker<'_>>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> bool {
        let offset = message.offset;
        self.next = offset + 1;
        if message.skip || message.expires_at.is_some_and(|expiry| expiry <= now) {
            if actions.last() != Some(&Action::Place) {
                actions.push(Action::Place);
            }
            return false;
        }
        let facts = Facts { key: message.facts.key.filter(|_| self.rules.by_key), ..message.facts };
        let known = Known { facts, ..Known::default() };
        if let Some(due) = message.deliver_at.filter(|due| *due > now) {
            let known = Known { recorded: true, ..known };
            let waiting = Waiting::of(&known, due, None, "", None);
            self.set_aside(offset, known, due, false);
            actions.extend([Action::Record { offset, waiting }, Action::Place]);
            return false;
        }
        self.open.insert(offset);
        if let Some(taker) = taker
            && facts.key.is_none_or(|key| {
                self.lanes.of(key).is_none() && self.holders.let_take(taker.consumer, key.slot(), taker.slots)
            })
        {
            if let Some(key) = facts.key {
                self.lanes.enter(key, offset);
            }
            self.fly(offset, known, taker, actions);
            return true;
        }
        if self.set_aside(offset, known, AT_ONCE, true) == Wait::Ready && taker.is_some() {
            // For another consumer than the one who looked.
            if actions.last() != Some(&Action::Available) {
                actions.push(Action::Available);
            }
        }
        false
    }

    fn fly(&mut self, offset: u64, mut known: Known, taker: &Taker<'_>, actions: &mut Vec<Action>) {
        known.deliveries = known.deliveries.saturating_add(1);
        let token = self.token;
        self.token += 1;
        let (consumer, until) = (taker.consumer, taker.until);
        if self.in_flight.is_empty() || until < self.earliest_lease {
            self.earliest_lease = until;
        }
        if let (Some(consumer), Some(slot)) = (consumer, known.facts.key.map(KeyHash::slot)) {
            self.holders.take(consumer, slot);
        }
        self.in_flight.insert(offset, Flight { token, consumer, until, known, handed: false });
        let attempt = known.failures.saturating_add(1);
        actions.push(Action::Deliver { offset, token, attempt, deliveries: known.deliveries });
    }

    /// A message is no longer with a consumer.
    pub(super) fn land(&mut self, offset: u64, actions: &mut Vec<Action>) -> Option<Known> {
        let flight = self.in_flight.remove(&offset)?;
        if let (Some(consumer), Some(key)) = (flight.consumer, flight.known.facts.key)
            && self.holders.give(consumer, key.slot())
        {
            // The slot may belong to somebody else by now.
            actions.push(Action::Available);
        }
        Some(flight.known)
    }
}
