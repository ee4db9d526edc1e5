//! A block: a run of packed messages as it lies in the log.
//!
//! Key (column family `log`): topic number (u32, big-endian), offset of the first message (u64, big-endian).
//! Value, all integers little-endian:
//!
//! ```text
//!  0  u8   version, 1 or 2
//!  1  [u8; 3]  zero
//!  4  u32  CRC-32C of everything from byte 8 on
//!  8  u64  offset of the first message
//! 16  u32  number of messages, at least 1
//! 20  u32  flags: bit 0, some message has an id
//! 24  i64  when they were stored, milliseconds since 1970
//! 32  ...  the records, as packed by their publisher (`crossdock_topics::record`)
//! ```
//!
//! Version 2 is what compaction leaves of one block or several: offsets may be missing, there may be no message at
//! all, and each was stored at its own time. At 8 it has the first offset it stands for, at 24 when the newest message
//! was stored that it ever held, and before the records:
//!
//! ```text
//! 32  u64  the offset after the last one it stands for
//! 40  for each message: u32 its offset less that at 8, i64 when it was stored
//! ```
//!
//! The offsets that a topic's blocks stand for follow each other without a hole. A block is closed at about 1 MiB, so
//! that reading one message never costs much more; a single larger message has a block of its own.

mod sparse;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use crossdock_topics::record::packed;
use crossdock_topics::{Error, Record, Timestamp};

pub(crate) use sparse::SparseBuilder;

/// Records beyond this many bytes go to another block.
pub(crate) const TARGET: usize = 1024 * 1024;

const HEADER: usize = 32;
/// What a block in memory takes beside its records, about: itself, its owners' counts, its places in queues.
const OVERHEAD: usize = 256;
const DENSE: u8 = 1;
const SPARSE: u8 = 2;
const HAS_IDS: u32 = 1;
/// The `end` of a block with gaps, and an entry of its table.
const END: usize = 8;
const ENTRY: usize = 12;

/// A block in memory. Its records are slices of one allocation.
#[derive(Debug)]
pub(crate) struct Block {
    first: u64,
    end: u64,
    count: u32,
    time: Timestamp,
    has_ids: bool,
    /// The offset and time of each message, where they do not follow from the block's own.
    table: Option<Bytes>,
    records: Bytes,
}

/// A place in a block: which message, and where its record starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    index: u32,
    at: usize,
}

/// A message found in a block.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    /// When it was stored.
    pub(crate) time: Timestamp,
    pub(crate) record: Record,
    /// The place after it.
    pub(crate) after: Cursor,
}

impl Block {
    /// Reads a block that came from the disk.
    pub(crate) fn decode(value: &Bytes) -> Result<Arc<Self>, Error> {
        if value.len() <= HEADER {
            return Err(damaged("it is cut off"));
        }
        let version = value[0];
        if !matches!(version, DENSE | SPARSE) || value[1..4] != [0, 0, 0] {
            return Err(Error::internal(format!(
                "a block of the log has version {version}, this release reads up to {SPARSE}"
            ))
            .hint("it was written by a newer release: use that one"));
        }
        if u32_at(value, 4) != crc32c::crc32c(&value[8..]) {
            return Err(damaged("its checksum does not match"));
        }
        let (first, count) = (u64_at(value, 8), u32_at(value, 16));
        let (end, table, records) = match version {
            DENSE => (first.checked_add(u64::from(count)), None, value.slice(HEADER..)),
            _ => sparse::split(value, first, count)?,
        };
        let end = end.filter(|end| *end > first);
        let end = end.ok_or_else(|| damaged("it holds no messages, or none that can be counted"))?;
        let has_ids = u32_at(value, 20) & HAS_IDS != 0;
        Ok(Arc::new(Self { first, end, count, time: time_at(value, 24), has_ids, table, records }))
    }

    /// The offsets it stands for. Some may be missing.
    pub(crate) fn range(&self) -> Range<u64> {
        self.first..self.end
    }

    /// How many messages it holds.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// When its newest message was stored.
    pub(crate) fn time(&self) -> Timestamp {
        self.time
    }

    /// Whether each message has its own time, and offsets may be missing.
    pub(crate) fn is_sparse(&self) -> bool {
        self.table.is_some()
    }

    /// Whether a message in it has an id.
    pub(crate) fn has_ids(&self) -> bool {
        self.has_ids
    }

    /// The bytes of its records.
    pub(crate) fn size(&self) -> usize {
        self.records.len()
    }

    /// The memory it takes: a block of a few bytes costs more than those.
    pub(crate) fn memory(&self) -> usize {
        self.records.len() + self.table.as_ref().map_or(0, Bytes::len) + OVERHEAD
    }

    /// Offset and time of the message at an index.
    fn entry(&self, index: u32) -> (u64, Timestamp) {
        match &self.table {
            None => (self.first + u64::from(index), self.time),
            Some(table) => {
                let at = index as usize * ENTRY;
                (self.first + u64::from(u32_at(table, at)), time_at(table, at + 4))
            }
        }
    }

    /// The messages' ids, with their offsets and times.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (u64, Timestamp, &[u8])> {
        (0..self.count).zip(packed(&self.records)).filter_map(|(index, record)| {
            let id = record.id()?;
            let (offset, time) = self.entry(index);
            Some((offset, time, id))
        })
    }

    /// The place of the first message at or after `offset`. Walks over the records before it.
    pub(crate) fn seek(&self, offset: u64) -> Option<Cursor> {
        let index = match &self.table {
            None => offset.saturating_sub(self.first),
            Some(table) => {
                let entries = table.chunks_exact(ENTRY);
                entries.take_while(|entry| self.first + u64::from(u32_at(entry, 0)) < offset).count() as u64
            }
        };
        let index = u32::try_from(index).ok().filter(|index| *index < self.count)?;
        let mut records = packed(&self.records);
        let mut at = 0;
        for _ in 0..index {
            at += records.next()?.as_bytes().len();
        }
        (at < self.records.len()).then_some(Cursor { index, at })
    }

    /// The message at a place.
    pub(crate) fn next(&self, place: Cursor) -> Option<Found> {
        if place.index >= self.count {
            return None;
        }
        let (record, at) = Record::slice(&self.records, place.at)?;
        let (offset, time) = self.entry(place.index);
        Some(Found { offset, time, record, after: Cursor { index: place.index + 1, at } })
    }

    /// The messages, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Found> {
        let mut place = Cursor { index: 0, at: 0 };
        std::iter::from_fn(move || {
            let found = self.next(place)?;
            place = found.after;
            Some(found)
        })
    }

    /// The message of one offset.
    pub(crate) fn find(&self, offset: u64) -> Option<Found> {
        self.next(self.seek(offset)?).filter(|found| found.offset == offset)
    }
}

/// A block that is being filled.
#[derive(Debug)]
pub(crate) struct Builder {
    bytes: Vec<u8>,
    first: u64,
    count: u32,
    has_ids: bool,
}

impl Builder {
    /// An empty block that begins at `first`, with room for records of `capacity` bytes.
    pub(crate) fn new(first: u64, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER + capacity);
        bytes.resize(HEADER, 0);
        Self { bytes, first, count: 0, has_ids: false }
    }

    /// Whether it holds nothing yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether records of `more` bytes belong into it.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.is_empty() || self.bytes.len() + more <= HEADER + TARGET
    }

    /// Appends packed records.
    pub(crate) fn push(&mut self, records: &[u8], count: u32, has_ids: bool) {
        self.bytes.extend_from_slice(records);
        self.count += count;
        self.has_ids |= has_ids;
    }

    /// Closes the block: its value for the log, and the block, which share their bytes.
    pub(crate) fn finish(mut self, time: Timestamp) -> (Bytes, Arc<Block>) {
        seal(&mut self.bytes, DENSE, self.first, self.count, self.has_ids, time);
        // It stays in memory for a while: without the room that it grew into.
        self.bytes.shrink_to_fit();
        let value = Bytes::from(self.bytes);
        let (first, count, has_ids) = (self.first, self.count, self.has_ids);
        let (end, records) = (first.saturating_add(u64::from(count)), value.slice(HEADER..));
        let block = Block { first, end, count, time, has_ids, table: None, records };
        (value, Arc::new(block))
    }
}

/// Fills in the header of a block.
fn seal(bytes: &mut [u8], version: u8, first: u64, count: u32, has_ids: bool, time: Timestamp) {
    bytes[0] = version;
    bytes[8..16].copy_from_slice(&first.to_le_bytes());
    bytes[16..20].copy_from_slice(&count.to_le_bytes());
    let flags = if has_ids { HAS_IDS } else { 0 };
    bytes[20..24].copy_from_slice(&flags.to_le_bytes());
    bytes[24..32].copy_from_slice(&time.0.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn damaged(what: &str) -> Error {
    Error::internal(format!("a block of the log is damaged: {what}"))
}

/// Reads all that a block says, every way it is read: for the fuzz target, which has no other use for it.
///
/// # Errors
/// When it is damaged.
#[cfg(feature = "fuzzing")]
pub fn read_block(value: &Bytes) -> Result<Vec<(u64, crossdock_topics::Message)>, Error> {
    let block = Block::decode(value)?;
    let _ = (block.time(), block.has_ids(), block.memory(), block.ids().count());
    let mut messages = Vec::new();
    for found in block.iter() {
        assert!(block.range().contains(&found.offset));
        if messages.len() < 100 {
            let again = block.find(found.offset);
            assert!(again.is_some_and(|again| again.record == found.record && again.after == found.after));
        }
        messages.push((found.offset, found.record.to_message()));
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

fn time_at(bytes: &[u8], at: usize) -> Timestamp {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    Timestamp(i64::from_le_bytes(word))
}
