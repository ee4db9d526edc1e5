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
    behind: BTreeSet<u64>,
}

impl Lanes {
    /// How many messages wait behind others.
    pub(super) fn behind(&self) -> usize {
        self.behind
    }

    /// Whose turn it is, and how many wait behind it.
    pub(super) fn of(&self, key: KeyHash) -> Option<(u64, usize)> {
        self.lanes.get(&key).map(|lane| (lane.head, lane.behind.len()))
    }

    /// Lets a message wait for its turn; gives whether it is its turn now.
    pub(super) fn enter(&mut self, key: KeyHash, offset: u64) -> bool {
        match self.lanes.get_mut(&key) {
            None => {
                self.lanes.insert(key, Lane { head: offset, behind: BTreeSet::new() });
                true
            }
            Some(lane) => {
                let is_head = lane.head == offset;
                if !is_head && lane.behind.insert(offset) {
                    self.behind += 1;
                }
                is_head
            }
        }
    }

    /// A message is done with; gives the one whose turn it is now, if that is another one than before.
    pub(super) fn leave(&mut self, key: KeyHash, offset: u64) -> Option<u64> {
        let lane = self.lanes.get_mut(&key)?;
        if lane.head != offset {
            self.behind -= usize::from(lane.behind.remove(&offset));
            return None;
        }
        match lane.behind.pop_first() {
            Some(next) => {
                self.behind -= 1;
                lane.head = next;
                Some(next)
            }
            None => {
                self.lanes.remove(&key);
                None
            }
        }
    }
}

/// Who holds messages of which slot. All that are held of a slot by consumers that have joined are held by one.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders(BTreeMap<u8, (ConsumerId, usize)>);

impl Holders {
    /// Whether `consumer` may take from a slot: it owns it, and what another one holds of it has been settled or given
    /// back. Whoever has not joined may take from any.
    pub(super) fn let_take(&self, consumer: Option<ConsumerId>, slot: u8, slots: &Slots) -> bool {
        let Some(consumer) = consumer else { return true };
        slots.owner(slot) == Some(consumer) && self.0.get(&slot).is_none_or(|(holder, _)| *holder == consumer)
    }

    /// Who holds messages of a slot.
    pub(super) fn of(&self, slot: u8) -> Option<ConsumerId> {
        self.0.get(&slot).map(|(holder, _)| *holder)
    }

    pub(super) fn take(&mut self, consumer: ConsumerId, slot: u8) {
        self.0.entry(slot).or_insert((consumer, 0)).1 += 1;
    }

    /// A message is no longer held; gives whether it was the last one of the slot.
    pub(super) fn give(&mut self, consumer: ConsumerId, slot: u8) -> bool {
        let Some((_, held)) = self.0.get_mut(&slot).filter(|(holder, _)| *holder == consumer) else {
            return false;
        };
        *held -= 1;
        if *held > 0 {
            return false;
        }
        self.0.remove(&slot);
        true
    }
}
