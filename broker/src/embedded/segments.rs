//! A coarse index of a topic's log, small enough to be in memory: how many bytes lie where, and since when.
//!
//! A segment covers about 1 MiB of blocks. Closed ones are persisted (32 bytes: end u64, bytes u64, first and
//! last time i64, big-endian) with the write that closes them, so that a start reads these instead of the log,
//! and looks only at the blocks after the last one.

use std::collections::VecDeque;
use std::ops::Range;

use crossdock_topics::{Retention, Timestamp};

use super::block::Block;

/// A segment is closed beyond this many bytes, or this many blocks.
const CLOSE_BYTES: u64 = 1024 * 1024;
const CLOSE_BLOCKS: u32 = 8192;

/// A run of blocks that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) bytes: u64,
    pub(super) first_time: Timestamp,
    pub(super) last_time: Timestamp,
    blocks: u32,
}

impl Segment {
    pub(super) fn encode(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out[..8].copy_from_slice(&self.end.to_be_bytes());
        out[8..16].copy_from_slice(&self.bytes.to_be_bytes());
        out[16..24].copy_from_slice(&self.first_time.0.to_be_bytes());
        out[24..].copy_from_slice(&self.last_time.0.to_be_bytes());
        out
    }

    pub(super) fn decode(first: u64, bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 8).and_then(|word| <[u8; 8]>::try_from(word).ok());
        Some(Self {
            first,
            end: u64::from_be_bytes(word(0)?),
            bytes: u64::from_be_bytes(word(8)?),
            first_time: Timestamp(i64::from_be_bytes(word(16)?)),
            last_time: Timestamp(i64::from_be_bytes(word(24)?)),
            blocks: 0,
        })
    }
}

/// What retention must know of a block.
#[derive(Clone, Debug)]
pub(super) struct BlockFacts {
    pub(super) range: Range<u64>,
    pub(super) bytes: u64,
    pub(super) time: Timestamp,
}

impl From<&Block> for BlockFacts {
    fn from(block: &Block) -> Self {
        Self { range: block.range(), bytes: block.size() as u64, time: block.time() }
    }
}

/// All segments of a topic, oldest first; the last one may still grow.
#[derive(Debug, Default)]
pub(super) struct Segments {
    closed: VecDeque<Segment>,
    open: Option<Segment>,
    bytes: u64,
}

impl Segments {
    /// Takes in a closed segment that was persisted.
    pub(super) fn restore(&mut self, segment: Segment) {
        self.bytes += segment.bytes;
        self.closed.push_back(segment);
    }

    /// The first offset after all persisted segments.
    pub(super) fn restored_end(&self) -> Option<u64> {
        self.closed.back().map(|segment| segment.end)
    }

    /// Takes in the next block; gives a segment that is closed by it, to be persisted.
    pub(super) fn push(&mut self, block: &BlockFacts) -> Option<Segment> {
        self.bytes += block.bytes;
        let open = self.open.get_or_insert(Segment {
            first: block.range.start,
            end: block.range.start,
            bytes: 0,
            first_time: block.time,
            last_time: block.time,
            blocks: 0,
        });
        open.end = block.range.end;
        open.bytes += block.bytes;
        open.last_time = block.time;
        open.blocks += 1;
        if open.bytes < CLOSE_BYTES && open.blocks < CLOSE_BLOCKS {
            return None;
        }
        let closed = self.open.take()?;
        self.closed.push_back(closed.clone());
        Some(closed)
    }

    /// The bytes of all blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.closed.iter().chain(&self.open)
    }

    /// The segment in which the first message stored at or after `time` lies.
    pub(super) fn at_time(&self, time: Timestamp) -> Option<Range<u64>> {
        self.iter().find(|segment| segment.last_time >= time).map(|segment| segment.first..segment.end)
    }

    /// Up to which offset retention would drop the log, whoever still needs it. `blocks` reads the blocks of a
    /// part of the log; it is asked for one segment at most.
    pub(super) fn excess<E>(
        &self,
        retention: &Retention,
        now: Timestamp,
        next: u64,
        blocks: impl FnOnce(Range<u64>) -> Result<Vec<BlockFacts>, E>,
    ) -> Result<u64, E> {
        let cutoff = retention.max_age.map_or(Timestamp(i64::MIN), |age| now.before(age));
        let limit = retention.max_bytes.unwrap_or(u64::MAX);
        let mut target = retention.max_messages.map_or(0, |messages| next.saturating_sub(messages));
        let mut left = self.bytes;
        let mut segments = self.iter().peekable();
        while let Some(segment) = segments.next() {
            if segment.last_time < cutoff || left.saturating_sub(segment.bytes) >= limit {
                target = target.max(segment.end);
                left -= segment.bytes;
                continue;
            }
            // Only a part may go. By bytes that is worth a look only where it is all there is.
            if segment.first_time < cutoff || (left > limit && segments.peek().is_none()) {
                for block in blocks(segment.first..segment.end)? {
                    if block.time >= cutoff && left.saturating_sub(block.bytes) < limit {
                        break;
                    }
                    target = target.max(block.range.end);
                    left = left.saturating_sub(block.bytes);
                }
            }
            break;
        }
        Ok(target)
    }

    /// Drops what lies before `head`, and gives the segments that are gone and the offset of the first block
    /// that stays. `blocks` reads the blocks of the segment that `head` cuts.
    pub(super) fn trim<E>(
        &mut self,
        head: u64,
        blocks: impl FnOnce(Range<u64>) -> Result<Vec<BlockFacts>, E>,
    ) -> Result<(Vec<Segment>, u64), E> {
        let mut gone = Vec::new();
        while let Some(segment) = self.closed.pop_front_if(|segment| segment.end <= head) {
            self.bytes -= segment.bytes;
            gone.push(segment);
        }
        if let Some(segment) = self.open.take_if(|segment| segment.end <= head) {
            self.bytes -= segment.bytes;
        }
        let Some(cut) = self.closed.front_mut().or(self.open.as_mut()).filter(|segment| segment.first < head)
        else {
            return Ok((gone, head));
        };
        let mut first = cut.first;
        for block in blocks(cut.first..head)? {
            cut.first_time = block.time;
            if block.range.end > head {
                break;
            }
            first = block.range.end;
            cut.bytes = cut.bytes.saturating_sub(block.bytes);
            self.bytes = self.bytes.saturating_sub(block.bytes);
        }
        // The segment keeps its first offset, which is its key; after a restart it counts whole again.
        Ok((gone, first))
    }
}
