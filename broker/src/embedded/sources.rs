//! Which batches of which publishers a topic has stored, so that one that is sent again is answered as the first time.
//!
//! Kept in memory for every publisher that is known, written once in a pass for each that published in it, in the
//! same batch as its messages (column family `default`, see [`keys::source`]): a msgpack array of the next sequence,
//! when it was last heard of, and for each batch whose answer it may still need: sequence, first offset, count,
//! durability (0 memory, 1 os, 2 fsync), and runs of duplicates (place, offset, count). What was refused is not
//! written: after a restart `answered` says as much.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crossdock_topics::{Durability, Error, ErrorCode, Receipts, Source, Timestamp};
use rocksdb::WriteBatch;
use serde::{Deserialize, Serialize};

use super::keys;

/// So many publishers are remembered, in all topics together, at a few hundred bytes each. Beyond it those that have
/// been silent for longest are forgotten before their time.
pub(super) const MAX_PUBLISHERS: usize = 65_536;
/// A publisher is remembered for as long as ids are, and for this long at least.
pub(super) const LEAST_WINDOW: Duration = Duration::from_secs(60);
/// So many runs of duplicates are remembered for a publisher; beyond it the oldest batches are forgotten.
const MAX_RUNS: usize = 16_384;

/// The publishers of one topic.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    publishers: HashMap<u128, Publisher>,
    /// Those that have stored something since the last write.
    changed: Vec<u128>,
}

#[derive(Debug, Default)]
struct Publisher {
    /// The sequence after the last batch that was stored.
    next: u64,
    /// The sequence after the last batch that was stored or refused.
    seen: u64,
    heard: Timestamp,
    /// The batches that were stored and whose answer may still be needed, in order.
    stored: VecDeque<Remembered>,
    is_changed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    sequence: u64,
    first: u64,
    count: u32,
    durability: u8,
    /// Duplicates that follow each other, here and in the log: place in the batch, offset, how many.
    duplicates: Vec<(u32, u64, u32)>,
}

/// What is to be done with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It comes next: store it.
    Now,
    /// It was stored before.
    Before(Receipts),
}

/// Checks what can be checked without knowing the publisher.
pub(crate) fn check(source: &Source) -> Result<(), Error> {
    let under_way = source.sequence.checked_sub(source.answered);
    if under_way.is_some_and(|under_way| under_way < Source::MAX_UNDER_WAY) && source.sequence < u64::MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "batch {} with all before batch {} answered: at most {} can be under way, this one included",
        source.sequence,
        source.answered,
        Source::MAX_UNDER_WAY
    )))
}

impl Sources {
    /// Whether it is the batch's turn.
    ///
    /// # Errors
    /// `Conflict` when it comes out of order, or when what became of it is no longer known.
    pub(crate) fn turn(&mut self, source: &Source, now: Timestamp) -> Result<Turn, Error> {
        let sequence = source.sequence;
        let Some(publisher) = self.publishers.get_mut(&source.publisher) else {
            return if sequence == 0 { Ok(Turn::Now) } else { Err(unknown(sequence)) };
        };
        publisher.heard = now;
        publisher.forget_before(source.answered);
        if sequence >= publisher.next {
            // What was answered and is not known here was refused.
            return if sequence <= publisher.seen || sequence == source.answered {
                Ok(Turn::Now)
            } else {
                Err(out_of_order(sequence, &format!("batch {} comes next", publisher.seen)))
            };
        }
        match publisher.stored.binary_search_by_key(&sequence, |stored| stored.sequence) {
            Ok(at) => Ok(Turn::Before(publisher.stored[at].receipts())),
            Err(_) => Err(out_of_order(
                sequence,
                &format!(
                    "batch {} has been stored, and this one was refused or answered",
                    publisher.next - 1
                ),
            )),
        }
    }

    /// Takes in that a batch whose turn it was is stored; gives whether its publisher is a new one.
    pub(crate) fn stored(&mut self, source: &Source, receipts: &Receipts, now: Timestamp) -> bool {
        let known = self.publishers.len();
        let publisher = self.publishers.entry(source.publisher).or_default();
        publisher.next = source.sequence + 1;
        publisher.seen = publisher.seen.max(publisher.next);
        publisher.heard = now;
        publisher.stored.push_back(Remembered::new(source.sequence, receipts));
        publisher.bound();
        if !std::mem::replace(&mut publisher.is_changed, true) {
            self.changed.push(source.publisher);
        }
        self.publishers.len() > known
    }

    /// Takes in that a batch was refused, so that those behind it can go on; gives whether its publisher is a new
    /// one.
    pub(crate) fn refused(&mut self, source: &Source, now: Timestamp) -> bool {
        let known = self.publishers.len();
        if self.turn(source, now) == Ok(Turn::Now) {
            let publisher = self.publishers.entry(source.publisher).or_default();
            publisher.seen = publisher.seen.max(source.sequence + 1);
            publisher.heard = now;
        }
        self.publishers.len() > known
    }

    /// Adds what has changed to a batch.
    pub(super) fn write(&mut self, topic: u32, batch: &mut WriteBatch) -> Result<(), Error> {
        for name in self.changed.drain(..) {
            if let Some(publisher) = self.publishers.get_mut(&name) {
                publisher.is_changed = false;
                batch.put(keys::source(topic, name), publisher.encode()?);
            }
        }
        Ok(())
    }

    /// Takes in a publisher that was persisted.
    pub(super) fn restore(&mut self, name: u128, bytes: &[u8]) -> Result<(), Error> {
        self.publishers.insert(name, Publisher::decode(bytes)?);
        Ok(())
    }

    /// Whether anything is known of a publisher.
    pub(crate) fn knows(&self, name: u128) -> bool {
        self.publishers.contains_key(&name)
    }

    /// The first offset of the oldest batch whose answer a publisher may still need.
    pub(crate) fn oldest(&self, name: u128, answered: u64) -> Option<u64> {
        let mut stored = self.publishers.get(&name)?.stored.iter();
        stored.find(|stored| stored.sequence >= answered).map(|stored| stored.first)
    }

    /// Takes in what the log says of a publisher instead of what was known: its batches, in order.
    pub(crate) fn recall(&mut self, name: u128, batches: &[(Source, Receipts)], now: Timestamp) {
        let seen = self.publishers.remove(&name).map_or(0, |publisher| publisher.seen);
        for (source, receipts) in batches {
            self.stored(source, receipts, now);
        }
        if let Some(publisher) = self.publishers.get_mut(&name) {
            publisher.forget_before(batches.last().map_or(0, |(source, _)| source.answered));
            publisher.seen = publisher.seen.max(seen);
        }
    }

    /// The batches that may be sent again: publisher, sequence and first offset of its oldest one, sequence, receipts.
    pub(super) fn remembered(&self) -> impl Iterator<Item = (u128, (u64, u64), u64, Receipts)> + '_ {
        self.publishers.iter().flat_map(|(name, publisher)| {
            let oldest = publisher.stored.front().map_or((0, 0), |oldest| (oldest.sequence, oldest.first));
            publisher.stored.iter().map(move |stored| (*name, oldest, stored.sequence, stored.receipts()))
        })
    }

    /// Takes in a batch that was stored elsewhere, at a moment.
    pub(super) fn moved(&mut self, source: &Source, receipts: &Receipts, at: Timestamp) {
        self.stored(source, receipts, at);
        if let Some(publisher) = self.publishers.get_mut(&source.publisher) {
            publisher.forget_before(source.answered);
        }
    }

    /// Forgets all, to recall what is needed.
    pub(crate) fn clear(&mut self) {
        self.publishers.clear();
        self.changed.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.publishers.len()
    }

    /// Forgets those that have been silent for longer than the window.
    pub(super) fn forget(&mut self, topic: u32, now: Timestamp, window: Duration, batch: &mut WriteBatch) {
        let oldest = now.before(window.max(LEAST_WINDOW));
        self.forget_heard_before(topic, oldest, batch);
    }

    /// Forgets those that were last heard of before a moment.
    pub(super) fn forget_heard_before(&mut self, topic: u32, oldest: Timestamp, batch: &mut WriteBatch) {
        self.publishers.retain(|name, publisher| {
            // One that is about to be written would come back.
            let stays = publisher.heard >= oldest || publisher.is_changed;
            if !stays {
                batch.delete(keys::source(topic, *name));
            }
            stays
        });
    }

    /// When each of them was last heard of.
    pub(super) fn heard(&self) -> impl Iterator<Item = Timestamp> + '_ {
        self.publishers.values().map(|publisher| publisher.heard)
    }
}

impl Publisher {
    fn forget_before(&mut self, answered: u64) {
        while self.stored.pop_front_if(|stored| stored.sequence < answered).is_some() {}
    }

    /// Keeps the memory bounded, whatever the publisher says of its answers.
    fn bound(&mut self) {
        let mut runs: usize = self.stored.iter().map(|stored| stored.duplicates.len()).sum();
        while self.stored.len() as u64 > Source::MAX_UNDER_WAY || runs > MAX_RUNS {
            let Some(oldest) = self.stored.pop_front() else { break };
            runs -= oldest.duplicates.len();
        }
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        rmp_serde::to_vec(&(self.next, self.heard.0, &self.stored))
            .map_err(|cause| Error::internal(format!("cannot write what a publisher has sent: {cause}")))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (next, heard, stored): (u64, i64, VecDeque<Remembered>) = rmp_serde::from_slice(bytes)
            .map_err(|cause| Error::internal(format!("what a publisher has sent is damaged: {cause}")))?;
        Ok(Self { next, seen: next, heard: Timestamp(heard), stored, is_changed: false })
    }
}

impl Remembered {
    fn new(sequence: u64, receipts: &Receipts) -> Self {
        let mut runs: Vec<(u32, u64, u32)> = Vec::new();
        for (place, offset) in &receipts.duplicates {
            match runs.last_mut() {
                Some((p, o, count)) if *p + *count == *place && *o + u64::from(*count) == *offset => {
                    *count += 1
                }
                _ => runs.push((*place, *offset, 1)),
            }
        }
        let durability = match receipts.durability {
            Durability::Memory => 0,
            Durability::Os => 1,
            Durability::Fsync | Durability::Quorum(_) => 2,
        };
        Self { sequence, first: receipts.first, count: receipts.count, durability, duplicates: runs }
    }

    fn receipts(&self) -> Receipts {
        let runs = self.duplicates.iter();
        let duplicates =
            runs.flat_map(|(place, offset, count)| (0..*count).map(|n| (*place + n, *offset + u64::from(n))));
        let durability = match self.durability {
            0 => Durability::Memory,
            1 => Durability::Os,
            _ => Durability::Fsync,
        };
        Receipts { first: self.first, count: self.count, durability, duplicates: duplicates.collect() }
    }
}

fn unknown(sequence: u64) -> Error {
    out_of_order(sequence, "its publisher is not known here, or no longer")
}

fn out_of_order(sequence: u64, why: &str) -> Error {
    Error::new(ErrorCode::Conflict, format!("batch {sequence} of its publisher is out of order: {why}"))
        .hint("take a new number as publisher and count from 0; nothing of this batch was stored now")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn source(sequence: u64, answered: u64) -> Source {
        Source { publisher: 7, sequence, answered }
    }

    fn receipts(first: u64) -> Receipts {
        Receipts { first, count: 2, durability: Durability::Os, duplicates: vec![(1, 40)] }
    }

    fn store(sources: &mut Sources, sequence: u64, answered: u64) {
        assert_eq!(sources.turn(&source(sequence, answered), NOW).unwrap(), Turn::Now, "batch {sequence}");
        sources.stored(&source(sequence, answered), &receipts(sequence * 10), NOW);
    }

    fn conflict(sources: &mut Sources, sequence: u64, answered: u64) {
        let error = sources.turn(&source(sequence, answered), NOW).unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict);
    }

    #[test]
    fn what_was_stored_gets_its_receipts_until_it_is_answered() {
        let mut sources = Sources::default();
        (0..4).for_each(|sequence| store(&mut sources, sequence, 0));
        for sequence in [0, 3, 1] {
            let again = sources.turn(&source(sequence, 0), NOW).unwrap();
            assert_eq!(again, Turn::Before(receipts(sequence * 10)));
        }
        store(&mut sources, 4, 3);
        conflict(&mut sources, 2, 0);
        assert_eq!(sources.turn(&source(3, 3), NOW).unwrap(), Turn::Before(receipts(30)));
    }

    #[test]
    fn a_gap_is_refused_unless_it_was_refused_or_answered() {
        let mut sources = Sources::default();
        conflict(&mut sources, 1, 0);
        conflict(&mut sources, 1, 1);
        store(&mut sources, 0, 0);
        conflict(&mut sources, 2, 0);
        sources.refused(&source(1, 0), NOW);
        // Nothing has come after it: it may be sent again, or the next one.
        assert_eq!(sources.turn(&source(1, 0), NOW).unwrap(), Turn::Now);
        store(&mut sources, 2, 0);
        conflict(&mut sources, 1, 0);
        conflict(&mut sources, 9, 8);
        store(&mut sources, 9, 9);
        let other = |sequence| Source { publisher: 8, sequence, answered: 0 };
        sources.refused(&other(0), NOW);
        assert_eq!(sources.turn(&other(1), NOW), Ok(Turn::Now), "also when it was the first");
    }

    #[test]
    fn a_restart_remembers_it_all() {
        let mut sources = Sources::default();
        (0..200).for_each(|sequence| store(&mut sources, sequence, sequence.saturating_sub(100)));
        let bytes = sources.publishers[&7].encode().unwrap();
        let mut sources = Sources::default();
        sources.restore(7, &bytes).unwrap();
        assert_eq!(sources.turn(&source(150, 99), NOW).unwrap(), Turn::Before(receipts(1500)));
        store(&mut sources, 200, 150);
        for cut in 0..bytes.len() {
            assert!(Publisher::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_whatever_the_publisher_says() {
        let mut sources = Sources::default();
        (0..10_000).for_each(|sequence| store(&mut sources, sequence, 0));
        assert_eq!(sources.publishers[&7].stored.len() as u64, Source::MAX_UNDER_WAY);
        let scattered = (0..20_000).map(|place| (place * 2, 5)).collect();
        let large = Receipts { duplicates: scattered, count: 40_000, ..receipts(0) };
        sources.stored(&source(10_000, 0), &large, NOW);
        assert!(sources.publishers[&7].stored.is_empty());
        conflict(&mut sources, 10_000, 10_000);
        store(&mut sources, 10_001, 10_001);
    }

    #[test]
    fn duplicates_that_follow_each_other_take_no_room() {
        let receipts =
            Receipts { duplicates: (0..60_000).map(|n| (n, 900 + u64::from(n))).collect(), ..receipts(0) };
        let remembered = Remembered::new(0, &receipts);
        assert_eq!((remembered.duplicates.len(), remembered.receipts()), (1, receipts));
    }

    #[test]
    fn silent_ones_are_forgotten_after_the_window() {
        let mut sources = Sources::default();
        store(&mut sources, 0, 0);
        let mut batch = WriteBatch::default();
        sources.write(1, &mut batch).unwrap();
        sources.forget(1, NOW.after(LEAST_WINDOW), Duration::ZERO, &mut batch);
        assert_eq!(sources.len(), 1);
        sources.forget(1, NOW.after(LEAST_WINDOW + Duration::from_millis(1)), Duration::ZERO, &mut batch);
        assert_eq!((sources.len(), batch.len()), (0, 2));
    }
}
