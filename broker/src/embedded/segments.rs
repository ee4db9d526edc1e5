//! A coarse index of a topic's log, small enough to be in memory: how many bytes lie where, and since when.
//!
//! A segment covers about 1 MiB of blocks. Closed ones are persisted (40 bytes: end u64, bytes u64, first and
//! last time i64, number of messages u64, big-endian; without the number it is that of the offsets) with the write that closes them, so that a start reads these instead of the log,
//! and looks only at the blocks after the last one.

use std::collections::VecDeque;
use std::ops::Range;

use crossdock_topics::{Retention, Timestamp};

use crate::delivery::block::Block;

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
    /// How many messages it held when it was closed, or compacted last.
    pub(super) count: u64,
    blocks: u32,
}

impl Segment {
    /// What compaction made of a run of segments.
    pub(super) fn compacted(
        range: Range<u64>,
        bytes: u64,
        count: u64,
        first_time: Timestamp,
        last_time: Timestamp,
    ) -> Self {
        Self { first: range.start, end: range.end, bytes, first_time, last_time, count, blocks: 0 }
    }

    pub(super) fn encode(&self) -> [u8; 40] {
        let mut out = [0; 40];
        out[..8].copy_from_slice(&self.end.to_be_bytes());
        out[8..16].copy_from_slice(&self.bytes.to_be_bytes());
        out[16..24].copy_from_slice(&self.first_time.0.to_be_bytes());
        out[24..32].copy_from_slice(&self.last_time.0.to_be_bytes());
        out[32..].copy_from_slice(&self.count.to_be_bytes());
        out
    }

    pub(super) fn decode(first: u64, bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 8).and_then(|word| <[u8; 8]>::try_from(word).ok());
        let end = u64::from_be_bytes(word(0)?);
        Some(Self {
            first,
            end,
            bytes: u64::from_be_bytes(word(8)?),
            first_time: Timestamp(i64::from_be_bytes(word(16)?)),
            last_time: Timestamp(i64::from_be_bytes(word(24)?)),
            count: word(32).map_or_else(|| end.saturating_sub(first), u64::from_be_bytes),
            blocks: 0,
        })
    }
}

/// What retention must know of a block, or of a part of it that was stored at one time.
#[derive(Clone, Debug)]
pub(super) struct BlockFacts {
    pub(super) range: Range<u64>,
    pub(super) bytes: u64,
    pub(super) count: u64,
    pub(super) time: Timestamp,
    /// Where its block begins.
    pub(super) block: u64,
}

impl From<&Block> for BlockFacts {
    fn from(block: &Block) -> Self {
        Self {
            range: block.range(),
            bytes: block.size() as u64,
            count: u64::from(block.count()),
            time: block.time(),
            block: block.range().start,
        }
    }
}

impl BlockFacts {
    /// The parts of a block that were stored at one time each.
    pub(super) fn parts(block: &Block) -> Vec<Self> {
        if !block.is_sparse() || block.count() == 0 {
            return vec![Self::from(block)];
        }
        let Range { start, end } = block.range();
        let mut parts: Vec<Self> = Vec::new();
        for found in block.iter() {
            match parts.last_mut().filter(|part| part.time == found.time) {
                Some(part) => {
                    part.bytes += found.record.size() as u64;
                    part.count += 1;
                }
                None => {
                    let first = if parts.is_empty() { start } else { found.offset };
                    if let Some(before) = parts.last_mut() {
                        before.range.end = first;
                    }
                    parts.push(Self {
                        range: first..end,
                        bytes: found.record.size() as u64,
                        count: 1,
                        time: found.time,
                        block: start,
                    });
                }
            }
        }
        parts
    }
}

/// All segments of a topic, oldest first; the last one may still grow.
#[derive(Debug, Default)]
pub(super) struct Segments {
    closed: VecDeque<Segment>,
    open: Option<Segment>,
    bytes: u64,
    count: u64,
}

impl Segments {
    /// Takes in a closed segment that was persisted.
    pub(super) fn restore(&mut self, segment: Segment) {
        self.bytes += segment.bytes;
        self.count += segment.count;
        self.closed.push_back(segment);
    }

    /// The first offset after all persisted segments.
    pub(super) fn restored_end(&self) -> Option<u64> {
        self.closed.back().map(|segment| segment.end)
    }

    /// Takes in the next block; gives a segment that is closed by it, to be persisted.
    pub(super) fn push(&mut self, block: &BlockFacts) -> Option<Segment> {
        self.bytes += block.bytes;
        self.count += block.count;
        let open = self.open.get_or_insert(Segment {
            first: block.range.start,
            end: block.range.start,
            bytes: 0,
            first_time: block.time,
            last_time: block.time,
            count: 0,
            blocks: 0,
        });
        open.end = block.range.end;
        open.bytes += block.bytes;
        open.count += block.count;
        open.last_time = block.time;
        open.blocks += 1;
        if open.bytes < CLOSE_BYTES && open.blocks < CLOSE_BLOCKS {
            return None;
        }
        self.close()
    }

    /// Closes the segment that may still grow, and gives it, to be persisted.
    pub(super) fn close(&mut self) -> Option<Segment> {
        let closed = self.open.take()?;
        self.closed.push_back(closed.clone());
        Some(closed)
    }

    /// Where the segment begins that may still grow.
    pub(super) fn open_from(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.first)
    }

    /// The closed segments that begin at or after an offset, at most `max`.
    pub(super) fn closed_from(&self, offset: u64, max: usize) -> Vec<Segment> {
        let at = self.closed.partition_point(|segment| segment.first < offset);
        self.closed.range(at..).take(max).cloned().collect()
    }

    /// Puts one in the place of closed ones that follow each other, if they are still there.
    pub(super) fn replace(&mut self, old: &[Range<u64>], new: Segment) -> bool {
        let Some(first) = old.first() else { return false };
        let at = self.closed.partition_point(|segment| segment.first < first.start);
        let found = self.closed.range(at..).take(old.len());
        if !found.map(|segment| segment.first..segment.end).eq(old.iter().cloned()) {
            return false;
        }
        for segment in self.closed.drain(at..at + old.len()) {
            self.bytes -= segment.bytes;
            self.count -= segment.count;
        }
        self.bytes += new.bytes;
        self.count += new.count;
        self.closed.insert(at, new);
        true
    }

    /// The bytes of all blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes of the blocks from the segment on that begins at an offset.
    pub(super) fn bytes_from(&self, offset: u64) -> u64 {
        self.iter().filter(|segment| segment.first >= offset).map(|segment| segment.bytes).sum()
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
        blocks: impl FnOnce(Range<u64>) -> Result<Vec<BlockFacts>, E>,
    ) -> Result<u64, E> {
        let cutoff = retention.max_age.map_or(Timestamp(i64::MIN), |age| now.before(age));
        let limit = retention.max_bytes.unwrap_or(u64::MAX);
        let most = retention.max_messages.unwrap_or(u64::MAX);
        let (mut target, mut left, mut count) = (0, self.bytes, self.count);
        let mut segments = self.iter().peekable();
        while let Some(segment) = segments.next() {
            let rest = (left.saturating_sub(segment.bytes), count.saturating_sub(segment.count));
            if segment.last_time < cutoff || rest.0 >= limit || rest.1 >= most {
                target = segment.end;
                (left, count) = rest;
                continue;
            }
            // Only a part may go. Of as many messages as offsets it is known which.
            let has_gaps = segment.count < segment.end - segment.first;
            if count > most && !has_gaps {
                target = segment.first + (count - most);
            }
            // By bytes that is worth a look only where it is all there is.
            let is_last = segments.peek().is_none();
            if segment.first_time < cutoff || (left > limit && is_last) || (count > most && has_gaps) {
                for block in blocks(segment.first..segment.end)? {
                    let few = !has_gaps || count.saturating_sub(block.count) < most;
                    if block.time >= cutoff && left.saturating_sub(block.bytes) < limit && few {
                        break;
                    }
                    target = target.max(block.range.end);
                    left = left.saturating_sub(block.bytes);
                    count = count.saturating_sub(block.count);
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
            self.count -= segment.count;
            gone.push(segment);
        }
        if let Some(segment) = self.open.take_if(|segment| segment.end <= head) {
            self.bytes -= segment.bytes;
            self.count -= segment.count;
        }
        let Some(cut) = self.closed.front_mut().or(self.open.as_mut()).filter(|segment| segment.first < head)
        else {
            return Ok((gone, head));
        };
        let mut first = cut.first;
        for block in blocks(cut.first..head)? {
            cut.first_time = block.time;
            if block.range.end > head {
                first = block.block;
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
