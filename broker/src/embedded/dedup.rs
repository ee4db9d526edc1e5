//! Which message ids a topic has seen within its window.
//!
//! Ids are remembered as 128 bits of a hash keyed anew in each process, so that nobody can make two ids meet.
//! The log itself is the durable form: after a restart the window is read back from it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crossdock_topics::{Timestamp, Topic};

/// The ids of one topic.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    keys: (RandomState, RandomState),
    offsets: HashMap<u128, u64>,
    order: VecDeque<(Timestamp, u128)>,
    used: Timestamp,
}

impl Dedup {
    /// The offset under which this id was stored within the window; otherwise remembers it under `offset`.
    pub(super) fn first(&mut self, id: &[u8], offset: u64, now: Timestamp, window: Duration) -> Option<u64> {
        self.used = now;
        self.make_room(now, window);
        let hash = u128::from(self.keys.0.hash_one(id)) << 64 | u128::from(self.keys.1.hash_one(id));
        match self.offsets.entry(hash) {
            std::collections::hash_map::Entry::Occupied(earlier) => Some(*earlier.get()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(offset);
                self.order.push_back((now, hash));
                None
            }
        }
    }

    /// When it was last asked.
    pub(super) fn used(&self) -> Timestamp {
        self.used
    }

    /// Forgets what is out of the window; gives how many ids are left.
    pub(super) fn forget(&mut self, now: Timestamp, window: Duration) -> usize {
        while let Some((_, hash)) = self.order.pop_front_if(|(seen, _)| seen.after(window) <= now) {
            self.offsets.remove(&hash);
        }
        self.order.len()
    }

    fn make_room(&mut self, now: Timestamp, window: Duration) {
        while self
            .order
            .front()
            .is_some_and(|(seen, _)| self.order.len() >= Topic::MAX_DEDUP_IDS || seen.after(window) <= now)
        {
            if let Some((_, hash)) = self.order.pop_front() {
                self.offsets.remove(&hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    #[test]
    fn an_id_is_known_within_the_window_and_forgotten_after_it() {
        let mut dedup = Dedup::default();
        assert_eq!(dedup.first(b"a", 1, Timestamp(0), WINDOW), None);
        assert_eq!(dedup.first(b"a", 2, Timestamp(9_999), WINDOW), Some(1));
        assert_eq!(dedup.first(b"b", 2, Timestamp(9_999), WINDOW), None);
        assert_eq!(dedup.first(b"a", 3, Timestamp(10_000), WINDOW), None);
        assert_eq!(dedup.first(b"a", 4, Timestamp(10_001), WINDOW), Some(3));
    }

    #[test]
    fn no_more_ids_are_remembered_than_the_limit() {
        let mut dedup = Dedup::default();
        for n in 0..=Topic::MAX_DEDUP_IDS as u64 {
            assert_eq!(dedup.first(&n.to_le_bytes(), n, Timestamp(0), WINDOW), None);
        }
        assert!(dedup.offsets.len() <= Topic::MAX_DEDUP_IDS && dedup.order.len() == dedup.offsets.len());
        assert_eq!(dedup.first(&0u64.to_le_bytes(), 9, Timestamp(0), WINDOW), None);
    }
}
