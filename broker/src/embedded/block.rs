//! A block: a run of packed messages as it lies in the log.
//!
//! Key (column family `log`): topic number (u32, big-endian), offset of the first message (u64, big-endian).
//! Value, all integers little-endian:
//!
//! ```text
//!  0  u8   version, 1
//!  1  [u8; 3]  zero
//!  4  u32  CRC-32C of everything from byte 8 on
//!  8  u64  offset of the first message
//! 16  u32  number of messages, at least 1
//! 20  u32  flags: bit 0, some message has an id
//! 24  i64  when they were stored, milliseconds since 1970
//! 32  ...  the records, as packed by their publisher (`crossdock_topics::record`)
//! ```
//!
//! The offsets of a topic's blocks follow each other without a hole. A block is closed at about 1 MiB, so that
//! reading one message never costs much more; a single larger message has a block of its own.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use crossdock_topics::record::packed;
use crossdock_topics::{Error, Record, Timestamp};

/// Records beyond this many bytes go to another block.
pub(super) const TARGET: usize = 1024 * 1024;

const HEADER: usize = 32;
/// What a block in memory takes beside its records, about: itself, its owners' counts, its places in queues.
const OVERHEAD: usize = 256;
const VERSION: u8 = 1;
const HAS_IDS: u32 = 1;

/// A block in memory. Its records are slices of one allocation.
#[derive(Debug)]
pub(super) struct Block {
    first: u64,
    count: u32,
    time: Timestamp,
    has_ids: bool,
    records: Bytes,
}

impl Block {
    /// Reads a block that came from the disk.
    pub(super) fn decode(value: &Bytes) -> Result<Arc<Self>, Error> {
        let damaged = |what: &str| Error::internal(format!("a block of the log is damaged: {what}"));
        if value.len() <= HEADER {
            return Err(damaged("it is cut off"));
        }
        if value[..4] != [VERSION, 0, 0, 0] {
            return Err(Error::internal(format!(
                "a block of the log has version {}, this is {VERSION}",
                value[0]
            ))
            .hint("it was written by a newer release: use that one"));
        }
        if u32_at(value, 4) != crc32c::crc32c(&value[8..]) {
            return Err(damaged("its checksum does not match"));
        }
        let (first, count) = (u64_at(value, 8), u32_at(value, 16));
        if count == 0 || first.checked_add(u64::from(count)).is_none() {
            return Err(damaged("it holds no messages, or none that can be counted"));
        }
        #[allow(clippy::cast_possible_wrap)] // written as i64
        let time = Timestamp(u64_at(value, 24) as i64);
        let has_ids = u32_at(value, 20) & HAS_IDS != 0;
        Ok(Arc::new(Self { first, count, time, has_ids, records: value.slice(HEADER..) }))
    }

    /// The offsets of its messages.
    pub(super) fn range(&self) -> Range<u64> {
        self.first..self.first + u64::from(self.count)
    }

    /// When its messages were stored.
    pub(super) fn time(&self) -> Timestamp {
        self.time
    }

    /// Whether a message in it has an id.
    pub(super) fn has_ids(&self) -> bool {
        self.has_ids
    }

    /// The bytes of its records.
    pub(super) fn size(&self) -> usize {
        self.records.len()
    }

    /// The memory it takes: a block of a few bytes costs more than those.
    pub(super) fn memory(&self) -> usize {
        self.records.len() + OVERHEAD
    }

    /// The messages' ids, with their offsets.
    pub(super) fn ids(&self) -> impl Iterator<Item = (u64, &[u8])> {
        (self.first..).zip(packed(&self.records)).filter_map(|(offset, record)| Some((offset, record.id()?)))
    }

    /// Where the record of `offset` starts, for [`Block::record_at`]. Walks over those before it.
    pub(super) fn position(&self, offset: u64) -> Option<usize> {
        let skip = usize::try_from(offset.checked_sub(self.first)?).ok()?;
        let mut records = packed(&self.records);
        let mut at = 0;
        for _ in 0..skip {
            at += records.next()?.as_bytes().len();
        }
        (at < self.records.len()).then_some(at)
    }

    /// The record at a position, and the position of the next one.
    pub(super) fn record_at(&self, position: usize) -> Option<(Record, usize)> {
        Record::slice(&self.records, position)
    }

    /// The record of one offset.
    pub(super) fn record(&self, offset: u64) -> Option<Record> {
        self.record_at(self.position(offset)?).map(|(record, _)| record)
    }
}

/// A block that is being filled.
#[derive(Debug)]
pub(super) struct Builder {
    bytes: Vec<u8>,
    first: u64,
    count: u32,
    has_ids: bool,
}

impl Builder {
    /// An empty block that begins at `first`, with room for records of `capacity` bytes.
    pub(super) fn new(first: u64, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER + capacity);
        bytes.resize(HEADER, 0);
        Self { bytes, first, count: 0, has_ids: false }
    }

    /// Whether it holds nothing yet.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether records of `more` bytes belong into it.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.is_empty() || self.bytes.len() + more <= HEADER + TARGET
    }

    /// Appends packed records.
    pub(super) fn push(&mut self, records: &[u8], count: u32, has_ids: bool) {
        self.bytes.extend_from_slice(records);
        self.count += count;
        self.has_ids |= has_ids;
    }

    /// Closes the block: its value for the log, and the block, which share their bytes.
    pub(super) fn finish(mut self, time: Timestamp) -> (Bytes, Arc<Block>) {
        self.bytes[0] = VERSION;
        self.bytes[8..16].copy_from_slice(&self.first.to_le_bytes());
        self.bytes[16..20].copy_from_slice(&self.count.to_le_bytes());
        let flags = if self.has_ids { HAS_IDS } else { 0 };
        self.bytes[20..24].copy_from_slice(&flags.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&time.0.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[8..]);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        // It stays in memory for a while: without the room that it grew into.
        self.bytes.shrink_to_fit();
        let value = Bytes::from(self.bytes);
        let records = value.slice(HEADER..);
        let block = Block { first: self.first, count: self.count, time, has_ids: self.has_ids, records };
        (value, Arc::new(block))
    }
}

/// Reads all that a block says, every way it is read: for the fuzz target, which has no other use for it.
///
/// # Errors
/// When it is damaged.
#[cfg(fuzzing)]
pub fn read_block(value: &Bytes) -> Result<Vec<(u64, crossdock_topics::Message)>, Error> {
    let block = Block::decode(value)?;
    let _ = (block.time(), block.has_ids(), block.memory(), block.ids().count());
    let (mut messages, mut at) = (Vec::new(), 0);
    for offset in block.range() {
        let Some((record, next)) = block.record_at(at) else { break };
        if messages.len() < 100 {
            assert_eq!(block.position(offset), Some(at));
            assert!(block.record(offset).is_some_and(|again| again == record));
        }
        messages.push((offset, record.to_message()));
        at = next;
    }
    Ok(messages)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use crossdock_topics::{Batch, Message};

    use super::*;

    fn built() -> (Bytes, Arc<Block>) {
        let mut builder = Builder::new(7, 0);
        for text in ["one", "two", "three"] {
            let batch = Batch::of(&Message::new(text).with_id(text)).unwrap();
            builder.push(batch.as_bytes(), 1, true);
        }
        builder.finish(Timestamp(42))
    }

    #[test]
    fn a_block_survives_the_disk() {
        let (value, block) = built();
        let read = Block::decode(&value).unwrap();
        assert_eq!((read.range(), read.time(), read.has_ids()), (7..10, Timestamp(42), true));
        assert_eq!(read.record(8).unwrap().payload(), "two");
        assert_eq!(block.record(9).unwrap().payload(), "three");
        assert!(read.record(10).is_none() && read.record(6).is_none());
        assert_eq!(read.ids().map(|(offset, _)| offset).collect::<Vec<_>>(), [7, 8, 9]);
    }

    /// A block of these records with a checksum that fits, whatever they are.
    fn forged(first: u64, count: u32, records: &[u8]) -> Result<Arc<Block>, Error> {
        let mut builder = Builder::new(first, 0);
        builder.push(records, count, true);
        Block::decode(&builder.finish(Timestamp(42)).0)
    }

    #[test]
    fn a_wrong_block_with_a_right_checksum_is_refused_or_read_as_far_as_it_goes() {
        assert!(forged(u64::MAX, 1, b"records").is_err(), "offsets beyond the last one");
        assert!(forged(7, 0, b"records").is_err(), "no message");
        // A record of two bytes whose fields say that there is a priority, and one that is cut off.
        let block = forged(7, 3, &[2, 0, 0, 0, 4, 0, 9, 0, 0, 0, 1]).unwrap();
        assert_eq!(block.record(7).unwrap().to_message(), Message::default());
        assert!(block.record(8).is_none() && block.record(9).is_none() && block.ids().next().is_none());
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let (value, _) = built();
        for at in 0..value.len() {
            for bit in 0..8 {
                let mut bytes = value.to_vec();
                bytes[at] ^= 1 << bit;
                assert!(Block::decode(&bytes.into()).is_err(), "byte {at} bit {bit}");
            }
        }
        for length in 0..value.len() {
            assert!(Block::decode(&value.slice(..length)).is_err(), "cut at {length}");
        }
    }
}
