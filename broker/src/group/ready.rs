//! What could be delivered at once.

use std::collections::{BTreeMap, BTreeSet};

use crossdock_topics::Timestamp;

use super::key::KeyHash;

/// What is ready, by slot of its key, in the order in which it is to be delivered.
#[derive(Clone, Debug, Default)]
pub(super) struct Ready {
    /// Only slots that hold something. `None`: whatever has no key.
    slots: BTreeMap<Option<u8>, BTreeSet<Rank>>,
    len: usize,
}

/// A place in the order: what is urgent first, then what was due first, then the older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// 255 less the priority.
    calm: u8,
    due: Timestamp,
    pub(super) offset: u64,
}

impl Rank {
    /// Without regard to priority.
    pub(super) fn by_time(due: Timestamp, offset: u64) -> Self {
        Self { calm: 0, due, offset }
    }

    /// Higher first, then the older.
    pub(super) fn by_priority(priority: u8, offset: u64) -> Self {
        Self { calm: u8::MAX - priority, due: Timestamp(0), offset }
    }
}

impl Ready {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, key: Option<KeyHash>, rank: Rank) {
        self.len += usize::from(self.slots.entry(key.map(KeyHash::slot)).or_default().insert(rank));
    }

    pub(super) fn remove(&mut self, key: Option<KeyHash>, rank: Rank) {
        let slot = key.map(KeyHash::slot);
        let Some(ranks) = self.slots.get_mut(&slot) else { return };
        self.len -= usize::from(ranks.remove(&rank));
        if ranks.is_empty() {
            self.slots.remove(&slot);
        }
    }

    /// The first in order among the slots that may be taken from. A slot is all or nothing, so this looks at no
    /// more than one of each.
    pub(super) fn first(&self, may_take: impl Fn(Option<u8>) -> bool) -> Option<u64> {
        let firsts = self.slots.iter().filter(|(slot, _)| may_take(**slot)).filter_map(|(_, s)| s.first());
        firsts.min().map(|rank| rank.offset)
    }
}
