//! The stretch of a log that a subscription reads next.

use std::collections::VecDeque;
use std::ops::Range;
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
    /// The place at which to look for which offset, in the block that stands for these offsets. Another one may begin in
    /// the middle of what that one holds, where what was read from elsewhere meets what is in memory.
    at: Option<(u64, Range<u64>, Cursor)>,
    /// Whether what comes next is on the disk only.
    pub(crate) is_behind: bool,
    pub(crate) verdicts: Verdicts,
    /// How often it has begun again: what was asked for before that is not what comes next.
    life: u64,
}

/// What was read: kept by whoever reads again and again, so that its room is used again.
#[derive(Default)]
pub(crate) struct Peeked {
    pub(crate) fresh: Vec<Fresh>,
    /// The message, and when it was stored, for each of the fresh ones but those that stand for a gap.
    pub(crate) records: Vec<(u64, Timestamp, Record)>,
    /// The place in its block after each of the fresh ones.
    ends: Vec<Option<Cursor>>,
    /// Those blocks, each with the number of fresh ones before it.
    blocks: Vec<(usize, Range<u64>)>,
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
        self.blocks.clear();
    }
}

impl Reader {
    /// Forgets all that it has: the topic has something else there now.
    pub(crate) fn begin_again(&mut self) {
        *self = Self { life: self.life + 1, ..Self::default() };
    }

    /// How often it has begun again.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

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
            let known = self.at.as_ref().filter(|(at, range, _)| *at == offset && *range == block.range());
            let mut place = known.map(|(.., place)| *place).or_else(|| block.seek(offset));
            peeked.blocks.push((peeked.fresh.len(), block.range()));
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
        let Some(last) = passed.checked_sub(1) else { return };
        let block = peeked.blocks.iter().rfind(|(before, _)| *before <= last);
        if let (Some(place), Some((_, range))) = (peeked.ends.get(last), block) {
            self.at = place.map(|place| (next, range.clone(), place));
        }
    }
}

#[cfg(test)]
mod tests {
    use crossdock_topics::{Message, SubscriptionName};

    use super::super::block::{Found, SparseBuilder};
    use super::*;

    /// The messages with these offsets, whose payload says so.
    fn block(offsets: Range<u64>) -> Arc<Block> {
        let mut builder = SparseBuilder::new(offsets.start);
        for offset in offsets.clone() {
            let record = Record::of(&Message::new(offset.to_string())).unwrap();
            builder.push(&Found { offset, time: Timestamp(0), record, after: Cursor::default() });
        }
        builder.finish(offsets.end, Timestamp(0)).unwrap().1
    }

    #[test]
    fn where_two_blocks_overlap_nothing_is_passed_over() {
        let feed = Feed::new(1, "orders".parse().unwrap(), 0, 9, Timestamp(0));
        feed.advance(&[block(9..14), block(14..20)]);
        let name: SubscriptionName = "billing".parse().unwrap();
        let definition = Subscription::new(name, vec!["orders".parse().unwrap()]);
        let regard = Regard::new(&definition, None);
        for step in [1, 3, 10, 100] {
            let (mut reader, mut peeked) = (Reader::default(), Peeked::default());
            // What was read from elsewhere ends in the middle of a block that is in memory.
            reader.supply(vec![block(0..6), block(6..10)]);
            let (mut next, mut seen) = (0, Vec::new());
            while next < 20 {
                reader.peek(&feed, next, step, usize::MAX, &regard, &mut peeked);
                let passed = peeked.fresh.len();
                seen.extend(peeked.records.iter().map(|(.., record)| record.payload().clone()));
                next = peeked.fresh.last().unwrap().offset + 1;
                reader.pass(&peeked, passed, next);
            }
            assert_eq!(seen, (0..20).map(|offset| offset.to_string()).collect::<Vec<_>>(), "{step} at once");
        }
    }
}
