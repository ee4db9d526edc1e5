//! One topic's log: what all of it has in common, and the end at which it grows.
//!
//! The writer holds [`Writing`] and appends; what it wrote becomes visible when the syncer calls
//! [`Feed::advance`]. Readers have the [`Feed`].

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use crossdock_topics::record::packed;
use crossdock_topics::{Batch, Durability, Error, Receipts, Revision, Timestamp, Topic, TopicInfo};
use parking_lot::{Mutex, RwLock};

use super::database::Database;
use super::dedup::Dedup;
use super::keys;
use super::newest::Newest;
use super::recall;
use super::segments::{BlockFacts, Segment, Segments};
use super::sources::Sources;
use crate::delivery::Feed;
use crate::delivery::block::{Block, Builder, TARGET};

pub(super) struct TopicLog {
    /// What readers see of it.
    pub(super) feed: Arc<Feed>,
    definition: RwLock<(Arc<Topic>, Revision)>,
    bytes: AtomicU64,
    pub(super) held_by: Mutex<Option<String>>,
    pub(super) writing: Mutex<Writing>,
}

/// The end at which the writer appends. Nobody else changes it.
pub(super) struct Writing {
    /// The offset of the next message to be written.
    pub(super) next: u64,
    pub(super) segments: Segments,
    pub(super) sources: Sources,
    pub(super) newest: Newest,
    last_time: Timestamp,
    dedup: Option<Dedup>,
    builder: Option<Builder>,
    finished: Vec<(Bytes, Arc<Block>)>,
    /// All blocks before this offset have been deleted.
    pub(super) deleted_to: u64,
    /// The bytes of blocks that were dropped and not deleted yet.
    pub(super) undeleted: u64,
    /// Whether it has something for the pass under construction.
    pub(super) is_touched: bool,
    /// Whether retention goes by size or count: then what is appended makes it worth another look.
    pub(super) is_limited: bool,
    /// When retention is worth another look.
    pub(super) upkeep_at: Timestamp,
    /// When retention by age is, which may cost reading a part of the log.
    pub(super) age_at: Timestamp,
    /// Up to where retention would have dropped the log when it last looked; that does not shrink.
    pub(super) excess: u64,
}

impl Deref for TopicLog {
    type Target = Feed;

    fn deref(&self) -> &Feed {
        &self.feed
    }
}

impl TopicLog {
    /// A log whose segments and last blocks have been read back, or an empty one.
    pub(super) fn new(
        id: u32,
        topic: Topic,
        revision: Revision,
        head: u64,
        segments: Segments,
        next: u64,
        last: Timestamp,
    ) -> Self {
        Self {
            feed: Arc::new(Feed::new(id, topic.name.clone(), head, next, last)),
            definition: RwLock::new((Arc::new(topic), revision)),
            bytes: AtomicU64::new(segments.bytes()),
            held_by: Mutex::default(),
            writing: Mutex::new(Writing {
                next,
                segments,
                sources: Sources::default(),
                newest: Newest::default(),
                last_time: last,
                dedup: None,
                builder: None,
                finished: Vec::new(),
                deleted_to: 0,
                undeleted: 0,
                is_touched: false,
                is_limited: false,
                upkeep_at: Timestamp(0),
                age_at: Timestamp(0),
                excess: 0,
            }),
        }
    }

    pub(super) fn definition(&self) -> (Arc<Topic>, Revision) {
        self.definition.read().clone()
    }

    pub(super) fn redefine(&self, topic: Topic, revision: Revision) {
        let window = topic.dedup_window;
        let (before, _) = std::mem::replace(&mut *self.definition.write(), (Arc::new(topic), revision));
        let mut writing = self.writing.lock();
        writing.upkeep_at = Timestamp(0);
        (writing.age_at, writing.excess) = (Timestamp(0), 0);
        if before.dedup_window != window {
            // Read back from the log when it is needed.
            writing.dedup = None;
        }
    }

    pub(super) fn info(&self) -> TopicInfo {
        let (topic, revision) = self.definition();
        let (head, tail) = (self.head(), self.tail());
        let last = self.last();
        TopicInfo {
            topic: (*topic).clone(),
            revision,
            head: head.min(tail),
            tail,
            bytes: self.bytes.load(Ordering::Relaxed),
            last: (tail > 0 && last.0 > 0).then_some(last),
            held_by: self.held_by.lock().clone(),
        }
    }

    pub(super) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// What retention must know of the blocks in a part of the log, written ones that are not visible included.
    pub(super) fn facts(&self, database: &Database, part: Range<u64>) -> Result<Vec<BlockFacts>, Error> {
        let mut facts = Vec::new();
        let prefix = self.id.to_be_bytes();
        database.scan("log", &keys::log(self.id, part.start), &prefix, |key, value| {
            let first = keys::u64_of(&key[4..]).unwrap_or(u64::MAX);
            if first >= part.end {
                return Ok(false);
            }
            facts.extend(BlockFacts::parts(&*decode(self, first, value)?));
            Ok(true)
        })?;
        Ok(facts)
    }

    /// The offset of the first block that was written at or after `time`, if there is one: it may have been
    /// trimmed in part, and may not be visible yet.
    pub(super) fn at_time(&self, database: &Database, time: Timestamp) -> Result<Option<u64>, Error> {
        let part = self.writing.lock().segments.at_time(time);
        let Some(part) = part else { return Ok(None) };
        let facts = self.facts(database, part.clone())?;
        let first = facts.into_iter().find(|block| block.time >= time);
        Ok(Some(first.map_or(part.end, |block| block.range.start)))
    }
}

/// Blocks from the disk that are visible, the first of which holds `offset` (or follows it, where
/// retention has dropped it).
pub(super) fn load(
    feed: &Feed,
    database: &Database,
    offset: u64,
    limit: usize,
) -> Result<Vec<Arc<Block>>, Error> {
    let tail = feed.tail();
    let prefix = feed.id.to_be_bytes();
    let mut blocks: Vec<Arc<Block>> = Vec::new();
    let mut bytes = 0;
    database.scan_around("log", &keys::log(feed.id, offset), &prefix, |key, value| {
        let first = keys::u64_of(&key[4..]).unwrap_or(u64::MAX);
        if first >= tail || (!blocks.is_empty() && bytes + value.len() > limit) {
            return Ok(false);
        }
        let block = decode(feed, first, value)?;
        if block.range().end <= offset {
            return Ok(true);
        }
        if blocks.last().is_some_and(|last| last.range().end != first) {
            return Err(Error::internal(format!(
                "topic {} has a hole in its log before offset {first}",
                feed.name
            ))
            .hint("restore the folder from a backup"));
        }
        bytes += block.size();
        blocks.push(block);
        Ok(true)
    })?;
    Ok(blocks)
}

/// Reads a block that lies at an offset; what is wrong with it names the topic and where.
pub(super) fn decode(feed: &Feed, first: u64, value: &[u8]) -> Result<Arc<Block>, Error> {
    let block = Block::decode(&Bytes::copy_from_slice(value));
    let placed = block.and_then(|block| match block.range().start == first {
        true => Ok(block),
        false => Err(Error::internal("a block of the log lies in another one's place")),
    });
    placed.map_err(|error| Error {
        message: format!("{} (topic {}, at offset {first})", error.message, feed.name).into(),
        ..error
    })
}

impl Writing {
    /// Appends a batch to the block under construction; ids seen before are left out.
    pub(super) fn append(
        &mut self,
        log: &TopicLog,
        batch: &Batch,
        durability: Durability,
        now: Timestamp,
        database: &Database,
    ) -> Result<Receipts, Error> {
        // The log's times never step back, so that they can be searched.
        self.last_time = self.last_time.max(now);
        let mut receipts = Receipts {
            first: self.next,
            count: u32::try_from(batch.len()).unwrap_or(u32::MAX),
            durability,
            duplicates: Vec::new(),
        };
        let window = log.definition.read().0.dedup_window;
        if !batch.has_ids() || window.is_zero() {
            if self.newest.is_on() {
                for (offset, record) in (self.next..).zip(batch.records()) {
                    record.key().into_iter().for_each(|key| self.newest.appended(key, offset));
                }
            }
            self.append_run(batch.as_bytes(), receipts.count, batch.has_ids());
            return Ok(receipts);
        }
        let mut dedup = match self.dedup.take() {
            Some(dedup) => dedup,
            None => self.recall(log, now, window, database)?,
        };
        for (place, record) in (0..).zip(batch.records()) {
            let earlier = record.id().and_then(|id| dedup.first(id, self.next, now, window));
            match earlier {
                Some(offset) => receipts.duplicates.push((place, offset)),
                None => {
                    record.key().into_iter().for_each(|key| self.newest.appended(key, self.next));
                    self.append_run(record.as_bytes(), 1, true);
                }
            }
        }
        self.dedup = Some(dedup);
        Ok(receipts)
    }

    fn append_run(&mut self, run: &[u8], count: u32, has_ids: bool) {
        if self.builder.as_ref().is_some_and(|builder| !builder.has_room(run.len())) {
            self.close_block();
        }
        let first = self.next;
        let builder = self.builder.get_or_insert_with(|| Builder::new(first, run.len()));
        if builder.has_room(run.len()) && (count == 1 || run.len() <= TARGET) {
            builder.push(run, count, has_ids);
            self.next += u64::from(count);
        } else {
            for record in packed(run) {
                self.append_run(record.as_bytes(), 1, has_ids);
            }
        }
    }

    fn close_block(&mut self) {
        if let Some(builder) = self.builder.take().filter(|builder| !builder.is_empty()) {
            self.finished.push(builder.finish(self.last_time));
        }
    }

    /// Closes what is under construction: the blocks to be written with their values, and the segments that
    /// are closed by them.
    pub(super) fn finish(&mut self) -> (Vec<(Bytes, Arc<Block>)>, Vec<Segment>) {
        self.close_block();
        self.is_touched = false;
        let finished = std::mem::take(&mut self.finished);
        if self.is_limited && !finished.is_empty() {
            self.upkeep_at = Timestamp(0);
        }
        let segments = finished
            .iter()
            .filter_map(|(_, block)| self.segments.push(&BlockFacts::from(&**block)))
            .collect();
        (finished, segments)
    }

    /// Reads the window of ids back from the log.
    fn recall(
        &self,
        log: &TopicLog,
        now: Timestamp,
        window: std::time::Duration,
        database: &Database,
    ) -> Result<Dedup, Error> {
        match self.segments.at_time(now.before(window)) {
            Some(part) => recall::ids(database, log.id, part.start, window),
            None => Ok(Dedup::default()),
        }
    }

    /// From where on the ids of the log are to be read back before the next one can be looked for, if that is more than so
    /// many bytes.
    pub(super) fn unread_ids(
        &self,
        now: Timestamp,
        window: std::time::Duration,
        more_than: u64,
    ) -> Option<u64> {
        if self.dedup.is_some() || window.is_zero() {
            return None;
        }
        let from = self.segments.at_time(now.before(window))?.start;
        (self.segments.bytes_from(from) > more_than).then_some(from)
    }

    /// Takes in the ids that were read back.
    pub(super) fn know_ids(&mut self, ids: Dedup) {
        self.dedup.get_or_insert(ids);
    }

    /// Forgets ids that are out of the window; gives how many are left.
    pub(super) fn forget_ids(&mut self, now: Timestamp, window: std::time::Duration) -> usize {
        let Some(dedup) = &mut self.dedup else { return 0 };
        let left = dedup.forget(now, window);
        if left == 0 {
            self.dedup = None;
        }
        left
    }

    /// Lets go of all ids; they are read back from the log when they are needed.
    pub(super) fn drop_ids(&mut self) {
        self.dedup = None;
    }

    /// When an id was last asked for.
    pub(super) fn ids_used(&self) -> Timestamp {
        self.dedup.as_ref().map_or(Timestamp(0), Dedup::used)
    }
}
