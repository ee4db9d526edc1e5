//! One topic's log: what all of it has in common, and its two ends.
//!
//! The writer holds [`Writing`] and appends; what it wrote becomes visible when the syncer calls
//! [`TopicLog::advance`]. Readers see offsets from `head` to `tail` and get the newest blocks from memory.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use crossdock_topics::record::packed;
use crossdock_topics::{
    Batch, Durability, Error, Receipts, Revision, Timestamp, Topic, TopicInfo, TopicName,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::block::{Block, Builder};
use super::database::Database;
use super::dedup::Dedup;
use super::keys;
use super::members::Listed;
use super::newest::Newest;
use super::segments::{BlockFacts, Segment, Segments};
use super::sources::Sources;
use super::subscription::SubscriptionState;

/// At most so many bytes of blocks are handed out at one time, from memory or from the disk (and one block at
/// least), so that a reader who is far behind holds no more than that.
pub(super) const READ_BYTES: usize = 1024 * 1024;

pub(super) struct TopicLog {
    pub(super) id: u32,
    pub(super) name: TopicName,
    definition: RwLock<(Arc<Topic>, Revision)>,
    head: AtomicU64,
    tail: AtomicU64,
    last: AtomicI64,
    bytes: AtomicU64,
    deleted: AtomicBool,
    /// The newest blocks. Which go when memory is short is decided for all topics together.
    recent: RwLock<VecDeque<Arc<Block>>>,
    /// Wakes those who read without a subscription.
    pub(super) moved: Notify,
    subscribers: RwLock<Vec<(Arc<SubscriptionState>, Arc<Listed>)>>,
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
    /// When retention is worth another look.
    pub(super) upkeep_at: Timestamp,
    /// When retention by age is, which may cost reading a part of the log.
    pub(super) age_at: Timestamp,
    /// Up to where retention would have dropped the log when it last looked; that does not shrink.
    pub(super) excess: u64,
}

/// Where blocks from an offset on are to be had.
pub(super) enum Recent {
    /// Here.
    Blocks(Vec<Arc<Block>>),
    /// On the disk only.
    Older,
    /// There are none yet.
    End,
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
            id,
            name: topic.name.clone(),
            definition: RwLock::new((Arc::new(topic), revision)),
            head: AtomicU64::new(head),
            tail: AtomicU64::new(next),
            last: AtomicI64::new(last.0),
            bytes: AtomicU64::new(segments.bytes()),
            deleted: AtomicBool::new(false),
            recent: RwLock::default(),
            moved: Notify::new(),
            subscribers: RwLock::default(),
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

    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    pub(super) fn set_head(&self, head: u64) {
        self.head.store(head, Ordering::Release);
    }

    pub(super) fn tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// From now on nothing is appended, and whoever waits for more is woken.
    pub(super) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.moved.notify_waiters();
    }

    pub(super) fn info(&self) -> TopicInfo {
        let (topic, revision) = self.definition();
        let (head, tail) = (self.head(), self.tail());
        let last = self.last.load(Ordering::Relaxed);
        TopicInfo {
            topic: (*topic).clone(),
            revision,
            head: head.min(tail),
            tail,
            bytes: self.bytes.load(Ordering::Relaxed),
            last: (tail > 0 && last > 0).then_some(Timestamp(last)),
            held_by: self.held_by.lock().clone(),
        }
    }

    pub(super) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn attach(&self, subscription: &Arc<SubscriptionState>, listed: Arc<Listed>) {
        let mut subscribers = self.subscribers.write();
        if !subscribers.iter().any(|(known, _)| Arc::ptr_eq(known, subscription)) {
            subscribers.push((subscription.clone(), listed));
        }
    }

    pub(super) fn detach(&self, subscription: &Arc<SubscriptionState>) {
        self.subscribers.write().retain(|(known, _)| !Arc::ptr_eq(known, subscription));
    }

    pub(super) fn subscribers(&self) -> Vec<Arc<SubscriptionState>> {
        self.subscribers.read().iter().map(|(subscription, _)| subscription.clone()).collect()
    }

    /// Makes blocks visible, in order, and wakes who waits for them.
    pub(super) fn advance(&self, blocks: &[Arc<Block>]) {
        let Some(last) = blocks.last() else { return };
        self.recent.write().extend(blocks.iter().cloned());
        self.last.store(last.time().0, Ordering::Relaxed);
        self.tail.store(last.range().end, Ordering::Release);
        self.moved.notify_waiters();
        for (subscription, listed) in self.subscribers.read().iter() {
            subscription.moved(listed);
        }
    }

    /// Drops the oldest blocks that are in memory, up to an offset.
    pub(super) fn evict(&self, end: u64) {
        let mut recent = self.recent.write();
        while recent.pop_front_if(|block| block.range().end <= end).is_some() {}
    }

    /// The blocks from the one that holds `offset` on, as far as they are in memory: at most `limit` bytes of
    /// them, and one at least.
    pub(super) fn recent(&self, offset: u64, limit: usize) -> Recent {
        if offset >= self.tail() {
            return Recent::End;
        }
        let recent = self.recent.read();
        match recent.front() {
            Some(first) if first.range().start <= offset => {
                let at = recent.partition_point(|block| block.range().end <= offset);
                let mut bytes = 0;
                let enough = |block: &&Arc<Block>| {
                    bytes += block.size();
                    bytes <= limit
                };
                let mut blocks: Vec<_> = recent.range(at..).take_while(enough).cloned().collect();
                if blocks.is_empty() {
                    blocks.extend(recent.get(at).cloned());
                }
                Recent::Blocks(blocks)
            }
            _ => Recent::Older,
        }
    }

    /// The same from the disk: blocks that are visible, the first of which holds `offset` (or follows it, where
    /// retention has dropped it).
    pub(super) fn load(
        &self,
        database: &Database,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Block>>, Error> {
        let tail = self.tail();
        let prefix = self.id.to_be_bytes();
        let mut blocks: Vec<Arc<Block>> = Vec::new();
        let mut bytes = 0;
        database.scan_around("log", &keys::log(self.id, offset), &prefix, |key, value| {
            let first = keys::u64_of(&key[4..]).unwrap_or(u64::MAX);
            if first >= tail || (!blocks.is_empty() && bytes + value.len() > limit) {
                return Ok(false);
            }
            let block = self.decode(first, value)?;
            if block.range().end <= offset {
                return Ok(true);
            }
            if blocks.last().is_some_and(|last| last.range().end != first) {
                return Err(Error::internal(format!(
                    "topic {} has a hole in its log before offset {first}",
                    self.name
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
    pub(super) fn decode(&self, first: u64, value: &[u8]) -> Result<Arc<Block>, Error> {
        let block = Block::decode(&Bytes::copy_from_slice(value));
        let placed = block.and_then(|block| match block.range().start == first {
            true => Ok(block),
            false => Err(Error::internal("a block of the log lies in another one's place")),
        });
        placed.map_err(|error| Error {
            message: format!("{} (topic {}, at offset {first})", error.message, self.name).into(),
            ..error
        })
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
            facts.extend(BlockFacts::parts(&*self.decode(first, value)?));
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
        if builder.has_room(run.len()) && (count == 1 || run.len() <= super::block::TARGET) {
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
        let finished = std::mem::take(&mut self.finished);
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
        let mut dedup = Dedup::default();
        let Some(part) = self.segments.at_time(now.before(window)) else { return Ok(dedup) };
        // Backwards, until there are as many ids as may be remembered: other messages do not count.
        let (mut blocks, mut count) = (Vec::new(), 0);
        database.scan_back("log", &keys::log(log.id, u64::MAX), &keys::log(log.id, part.start), |value| {
            let block = Block::decode(&Bytes::copy_from_slice(value))?;
            if block.has_ids() {
                count += block.ids().count();
                blocks.push(block);
            }
            Ok(count < Topic::MAX_DEDUP_IDS)
        })?;
        for block in blocks.iter().rev() {
            for (offset, time, id) in block.ids() {
                dedup.first(id, offset, time, window);
            }
        }
        Ok(dedup)
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
