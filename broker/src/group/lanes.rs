//! Messages of one key, one after another, and slots that change hands.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crossdock_topics::ConsumerId;

use super::key::{KeyHash, Slots};

/// The keys that have messages that are not settled.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes {
    lanes: HashMap<KeyHash, Lane>,
    /// How many messages wait behind others.
    behind: usize,
}

#[derive(Clone, Debug)]
struct Lane {
    /// The message whose turn it is.
    head: u64,
    /// Whether it is done with: then it is nobody's turn before that is durable.
    is_over: bool,
    /// The number of the last change that one of its messages left by.
    last: u64,
    behind: BTreeSet<u64>,
}

impl Lanes {
    /// How many messages wait behind others.
    pub(super) fn behind(&self) -> usize {
        self.behind
    }

    /// Whose turn it is or was last, and how many wait behind it.
    pub(super) fn of(&self, key: KeyHash) -> Option<(u64, usize)> {
        self.lanes.get(&key).map(|lane| (lane.head, lane.behind.len()))
    }

    /// Whether the one whose turn it was is done with, and that is not durable yet.
    pub(super) fn is_over(&self, key: KeyHash) -> bool {
        self.lanes.get(&key).is_some_and(|lane| lane.is_over)
    }

    /// Lets a message wait for its turn; gives whether it is its turn now.
    pub(super) fn enter(&mut self, key: KeyHash, offset: u64) -> bool {
        match self.lanes.get_mut(&key) {
            None => {
                let lane = Lane { head: offset, is_over: false, last: 0, behind: BTreeSet::new() };
                self.lanes.insert(key, lane);
                true
            }
            Some(lane) => {
                let is_head = lane.head == offset;
                if is_head {
                    lane.is_over = false;
                } else if lane.behind.insert(offset) {
                    self.behind += 1;
                }
                is_head
            }
        }
    }

    /// A message is done with by the change of this number; gives whether it was there.
    pub(super) fn leave(&mut self, key: KeyHash, offset: u64, number: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(&key) else { return false };
        if lane.head == offset {
            lane.is_over = true;
        } else if lane.behind.remove(&offset) {
            self.behind -= 1;
        } else {
            return false;
        }
        lane.last = number;
        true
    }

    /// The change of this number is durable; gives the message whose turn has come by that. While another one of the key
    /// has left by a later change, it is nobody's turn.
    pub(super) fn pass_on(&mut self, key: KeyHash, number: u64) -> Option<u64> {
        let lane = self.lanes.get_mut(&key).filter(|lane| lane.is_over && lane.last == number)?;
        match lane.behind.pop_first() {
            Some(next) => {
                self.behind -= 1;
                (lane.head, lane.is_over) = (next, false);
                Some(next)
            }
            None => {
                self.lanes.remove(&key);
                None
            }
        }
    }
}

/// Who holds messages of which slot, and how many. All that are held of a slot by consumers that have joined are held by
/// one, but for those that were taken before order by key began.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders(BTreeMap<(u8, ConsumerId), usize>);

impl Holders {
    fn in_slot(&self, slot: u8) -> impl Iterator<Item = ConsumerId> {
        let all = (slot, ConsumerId(0))..=(slot, ConsumerId(u64::MAX));
        self.0.range(all).map(|((_, consumer), _)| *consumer)
    }

    /// Whether `consumer` may take from a slot: it owns it, and what another one holds of it has been settled or given
    /// back. Whoever has not joined may take from any.
    pub(super) fn let_take(&self, consumer: Option<ConsumerId>, slot: u8, slots: &Slots) -> bool {
        let Some(consumer) = consumer else { return true };
        slots.owner(slot) == Some(consumer) && self.in_slot(slot).all(|holder| holder == consumer)
    }

    /// Who holds messages of a slot.
    pub(super) fn of(&self, slot: u8) -> Option<ConsumerId> {
        self.in_slot(slot).next()
    }

    pub(super) fn take(&mut self, consumer: ConsumerId, slot: u8) {
        *self.0.entry((slot, consumer)).or_default() += 1;
    }

    /// A message is no longer held; gives whether it was the last one of the slot that this consumer held.
    pub(super) fn give(&mut self, consumer: ConsumerId, slot: u8) -> bool {
        let Some(held) = self.0.get_mut(&(slot, consumer)) else { return false };
        *held -= 1;
        if *held > 0 {
            return false;
        }
        self.0.remove(&(slot, consumer));
        true
    }
}
