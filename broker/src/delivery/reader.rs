//! The stretch of a log that a subscription reads next.

use std::collections::VecDeque;
use std::sync::Arc;

use crossdock_topics::{Order, Record, Subscription, Timestamp};

use super::block::{Block, Cursor};
use super::feed::{Feed, READ_BYTES, Recent};
use super::sieve::Sieve;
use super::sift::Verdicts;
use crate::group::{Facts, Fresh, KeyHash};

/// What comes next in a topic, as far as it is in memory.
#[derive(Default)]
pub(crate) struct Reader {
    blocks: VecDeque<Arc<Block>>,
    /// The place in its block at which to look for which offset.
    at: Option<(u64, Cursor)>,
    /// Whether what comes next is on the disk only.
    pub(crate) is_behind: bool,
    pub(crate) verdicts: Verdicts,
}

/// What was read: kept by whoever reads again and again, so that its room is used again.
#[derive(Default)]
pub(crate) struct Peeked {
    pub(crate) fresh: Vec<Fresh>,
    /// The message, and when it was stored, for each of the fresh ones but those that stand for a gap.
    pub(crate) records: Vec<(u64, Timestamp, Record)>,
    /// The place in its block after each of the fresh ones.
    ends: Vec<Option<Cursor>>,
}

/// What of a definition decides what is read of a message.
pub(crate) struct Regard<'a> {
    definition: &'a Subscription,
    keys: bool,
    sieve: Option<&'a Sieve>,
}

impl<'a> Regard<'a> {
    pub(crate) fn new(definition: &'a Subscription, sieve: Option<&'a Sieve>) -> Self {
        Self { definition, keys: definition.order == Order::Key, sieve }
    }

    /// Whether [`Regard::facts`] says more than the size.
    pub(crate) fn has_facts(&self) -> bool {
        self.keys || self.definition.priorities
    }

    pub(crate) fn facts(&self, record: &Record) -> Facts {
        let key = if self.keys { record.key().map(KeyHash::of) } else { None };
        let priority = if self.definition.priorities { record.priority() } else { 0 };
        Facts { key, size: u32::try_from(record.size()).unwrap_or(u32::MAX), priority }
    }

    fn fresh(&self, offset: u64, record: &Record) -> Fresh {
        Fresh {
            offset,
            expires_at: record.expires_at(),
            deliver_at: record.deliver_at(),
            skip: self.sieve.is_some_and(|sieve| !sieve.has_headers(record)),
            facts: self.facts(record),
        }
    }
}

impl Peeked {
    /// Leaves only the first so many.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.fresh.truncate(count);
        self.ends.truncate(count);
    }

    fn clear(&mut self) {
        self.fresh.clear();
        self.records.clear();
        self.ends.clear();
    }
}

impl Reader {
    /// Goes on from these blocks.
    pub(crate) fn supply(&mut self, blocks: Vec<Arc<Block>>) {
        (self.blocks, self.at, self.is_behind) = (blocks.into(), None, false);
    }

    /// Reads the messages from `offset` on, without passing over them: at most `max`, and no further one once `bytes`
    /// are together.
    pub(crate) fn peek(
        &mut self,
        log: &Feed,
        mut offset: u64,
        max: usize,
        mut bytes: usize,
        regard: &Regard<'_>,
        peeked: &mut Peeked,
    ) {
        self.is_behind = false;
        peeked.clear();
        while self.blocks.front().is_some_and(|block| block.range().end <= offset) {
            self.blocks.pop_front();
        }
        let mut index = 0;
        while peeked.fresh.len() < max && bytes > 0 {
            let Some(block) = self.blocks.get(index) else {
                match log.recent(offset, READ_BYTES) {
                    Recent::Blocks(blocks) => {
                        self.blocks.extend(blocks);
                        continue;
                    }
                    Recent::Older => self.is_behind = true,
                    Recent::End => {}
                }
                break;
            };
            if !block.range().contains(&offset) {
                // Something else than what comes next: read again from here.
                self.blocks.truncate(index);
                continue;
            }
            // The remembered place is in the block of the message before it.
            let known = self.at.filter(|(at, _)| *at == offset && offset > block.range().start);
            let mut place = known.map(|(_, place)| place).or_else(|| block.seek(offset));
            while peeked.fresh.len() < max && bytes > 0 {
                let Some(found) = place.and_then(|place| block.next(place)) else {
                    // Compaction may have left nothing at the end of a block.
                    if offset < block.range().end {
                        offset = block.range().end;
                        peeked.fresh.push(Fresh::gap(offset - 1));
                        peeked.ends.push(None);
                    }
                    break;
                };
                bytes = bytes.saturating_sub(found.record.size());
                peeked.fresh.push(regard.fresh(found.offset, &found.record));
                peeked.records.push((found.offset, found.time, found.record));
                peeked.ends.push(Some(found.after));
                place = Some(found.after);
                offset = found.offset + 1;
            }
            index += 1;
        }
    }

    /// The group has looked at the first so many of what was read, and `next` comes next.
    pub(crate) fn pass(&mut self, peeked: &Peeked, passed: usize, next: u64) {
        if let Some(place) = passed.checked_sub(1).and_then(|last| peeked.ends.get(last)) {
            self.at = place.map(|place| (next, place));
        }
    }
}
