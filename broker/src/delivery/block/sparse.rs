//! Blocks of which compaction has taken messages out.

use std::sync::Arc;

use bytes::Bytes;
use crossdock_topics::{Error, Timestamp};

use super::{Block, END, ENTRY, Found, HEADER, SPARSE, TARGET, damaged, seal, u32_at, u64_at};

/// What compaction keeps of a stretch of the log, on its way into a block.
#[derive(Debug)]
pub(crate) struct SparseBuilder {
    first: u64,
    table: Vec<u8>,
    records: Vec<u8>,
    count: u32,
    has_ids: bool,
}

impl SparseBuilder {
    /// An empty block that stands for the offsets from `first` on.
    pub(crate) fn new(first: u64) -> Self {
        Self { first, table: Vec::new(), records: Vec::new(), count: 0, has_ids: false }
    }

    /// Whether a message belongs into it. Its offset is counted from the block's first in 32 bits.
    pub(crate) fn has_room(&self, found: &Found) -> bool {
        let more = self.records.len() + found.record.size();
        found.offset - self.first < u64::from(u32::MAX) && (self.count == 0 || more <= TARGET)
    }

    /// Adds a message for which there is room, and whose offset is larger than those before.
    pub(crate) fn push(&mut self, found: &Found) {
        let delta = u32::try_from(found.offset - self.first).unwrap_or(u32::MAX);
        self.table.extend_from_slice(&delta.to_le_bytes());
        self.table.extend_from_slice(&found.time.0.to_le_bytes());
        let length = u32::try_from(found.record.as_bytes().len()).unwrap_or(u32::MAX);
        self.records.extend_from_slice(&length.to_le_bytes());
        self.records.extend_from_slice(found.record.as_bytes());
        self.count += 1;
        self.has_ids |= found.record.id().is_some();
    }

    /// Closes the block, which stands for all offsets before `end`: its value for the log, and the block.
    ///
    /// # Errors
    /// When it could not be read again.
    pub(crate) fn finish(self, end: u64, time: Timestamp) -> Result<(Bytes, Arc<Block>), Error> {
        let mut bytes = Vec::with_capacity(HEADER + END + self.table.len() + self.records.len());
        bytes.resize(HEADER, 0);
        bytes.extend_from_slice(&end.to_le_bytes());
        bytes.extend_from_slice(&self.table);
        bytes.extend_from_slice(&self.records);
        seal(&mut bytes, SPARSE, self.first, self.count, self.has_ids, time);
        let value = Bytes::from(bytes);
        let block = Block::decode(&value)?;
        Ok((value, block))
    }
}

/// End, table and records of a block.
type Parts = (Option<u64>, Option<Bytes>, Bytes);

/// Takes apart a block with gaps whose checksum is right.
pub(super) fn split(value: &Bytes, first: u64, count: u32) -> Result<Parts, Error> {
    let start = HEADER + END + ENTRY * count as usize;
    if value.len() < start {
        return Err(damaged("it is cut off"));
    }
    let (end, table) = (u64_at(value, HEADER), value.slice(HEADER + END..start));
    let deltas = || table.chunks_exact(ENTRY).map(|entry| u64::from(u32_at(entry, 0)));
    if !deltas().is_sorted_by(|a, b| a < b) || deltas().any(|delta| delta >= end.saturating_sub(first)) {
        return Err(damaged("its offsets are none of it"));
    }
    Ok((Some(end), Some(table), value.slice(start..)))
}
