//! The third thread: keeps only the newest message of each key in topics that ask for it.
//!
//! It works in passes from a topic's head to the limit of what may go, a run of segments at a time: reads them, leaves
//! out what is superseded, and hands the writer blocks with gaps ([`Rewrite`]) to put in their place, all in one
//! batch. Neighbours that have become small are put together. The writer's part is a few writes and never a read of
//! the log. Where the head has moved, a pass ends with a look through what is known of keys: those of which the log holds
//! nothing any more are forgotten. A pass of a topic rests for many times as long as the one before it took, so that
//! compaction is a small part of the load however much is written.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossdock_topics::{Error, Result, Timestamp};
use tokio::sync::oneshot;

use super::Shared;
use super::database::Database;
use super::keys;
use super::log::{self, TopicLog};
use super::newest::{self, Newest};
use super::segments::Segment;
use super::writer::Command;
use crate::delivery::block::{Block, Found, SparseBuilder, TARGET};

/// How long a message with an empty payload, which says that its key is gone, is kept.
const TOMBSTONES_KEPT: Duration = Duration::from_secs(86_400);
/// How often it looks whether there is something to do.
const TICK: Duration = Duration::from_millis(250);
/// A pass begins at most so often, and after so many times what the last one took.
const LEAST_REST: Duration = Duration::from_millis(500);
const REST: u32 = 50;
/// At most so many bytes of segments are read for one rewrite; one segment at least.
const STEP_BYTES: u64 = 4 * 1024 * 1024;
/// And at most so many segments.
const STEP_SEGMENTS: usize = 64;
/// So many keys are handed to the writer at one time, which looks each of them up.
const KEYS_AT_ONCE: usize = 500;
/// So many keys are looked at in one step.
const KEYS_IN_A_STEP: usize = 20_000;

/// What is to stand in the log in the place of some segments.
pub(super) struct Rewrite {
    pub(super) log: Arc<TopicLog>,
    pub(super) old: Vec<Range<u64>>,
    /// The offsets that `blocks` stand for.
    pub(super) range: Range<u64>,
    pub(super) blocks: Vec<(Bytes, Arc<Block>)>,
    pub(super) segment: Segment,
    /// What is left out, in order.
    pub(super) removed: Vec<u64>,
    /// Keys that are gone, each with the message that said so.
    pub(super) forgotten: Vec<(Bytes, u64)>,
}

/// What was found out about keys.
pub(super) struct FoundKeys {
    pub(super) log: Arc<TopicLog>,
    /// Those of messages that were there before compaction was switched on.
    pub(super) newest: Vec<(Bytes, u64)>,
    /// Those whose newest message has been dropped from the log, with its offset.
    pub(super) dropped: Vec<(Bytes, u64)>,
    /// Set with the last ones: all before this offset have been read.
    pub(super) all_before: Option<u64>,
}

/// How far one topic has come.
struct Progress {
    /// Where the pass goes on, or the reading of keys.
    at: Option<u64>,
    /// Where the look through the keys goes on.
    sweep: Option<Vec<u8>>,
    /// The head when it was last begun.
    swept: u64,
    began: Instant,
    /// No pass begins before this moment.
    rest_until: Instant,
    /// What the last pass went by: the tail, and the limit of what may go.
    seen: (u64, u64),
    /// When something can go that could not in the last pass.
    again_at: Option<Timestamp>,
}

/// Runs until the queue is closed.
pub(super) fn run(shared: &Shared, database: &Database) {
    let mut compactor = Compactor { shared, database, topics: HashMap::new() };
    let (mut nothing, mut is_busy): (Vec<Infallible>, bool) = (Vec::new(), false);
    while shared.compacting.take(&mut nothing, if is_busy { Duration::ZERO } else { TICK }) {
        if shared.failure().is_none() {
            is_busy = compactor.look();
        }
    }
}

struct Compactor<'a> {
    shared: &'a Shared,
    database: &'a Database,
    topics: HashMap<u32, Progress>,
}

impl Compactor<'_> {
    /// One step for each topic that needs one; gives whether there is more to do at once.
    fn look(&mut self) -> bool {
        let compacted = |log: &&Arc<TopicLog>| log.definition().0.retention.compact;
        let logs: Vec<_> = self.shared.topics.read().values().filter(compacted).cloned().collect();
        self.topics.retain(|id, _| logs.iter().any(|log| log.id == *id));
        let mut is_busy = false;
        for log in logs {
            match self.step(&log) {
                Ok(more) => is_busy |= more,
                Err(error) => {
                    if !log.is_deleted() && self.shared.check_open().is_ok() {
                        tracing::error!(topic = %log.name, %error, "compaction failed; trying again later");
                    }
                    self.rest(&log, Duration::from_secs(60));
                }
            }
        }
        is_busy
    }

    fn progress(&mut self, log: &TopicLog) -> &mut Progress {
        self.topics.entry(log.id).or_insert_with(|| Progress {
            at: None,
            sweep: None,
            swept: 0,
            began: Instant::now(),
            rest_until: Instant::now(),
            seen: (0, 0),
            again_at: None,
        })
    }

    fn rest(&mut self, log: &TopicLog, rest: Duration) {
        let progress = self.progress(log);
        progress.at = None;
        progress.sweep = None;
        progress.rest_until = Instant::now() + rest;
    }

    /// After a pass: looks through the keys if the head has moved, or rests. Gives whether there is more to do at once.
    fn end(&mut self, log: &TopicLog) -> bool {
        let head = log.head();
        let progress = self.progress(log);
        if head > progress.swept {
            progress.swept = head;
            progress.sweep = Some(keys::newest(log.id, b""));
            return true;
        }
        let rest = (progress.began.elapsed() * REST).max(LEAST_REST);
        progress.rest_until = Instant::now() + rest;
        false
    }

    /// Goes on with a topic, or begins; gives whether there is more to do at once.
    fn step(&mut self, log: &Arc<TopicLog>) -> Result<bool> {
        let building = match log.writing.lock().newest {
            Newest::Off => return Ok(false),
            Newest::Building { until, .. } => Some(until),
            Newest::Ready { .. } => None,
        };
        if self.progress(log).rest_until > Instant::now() {
            return Ok(false);
        }
        if let Some(until) = building {
            return self.read_keys(log, until).map(|()| true);
        }
        if let Some(from) = self.progress(log).sweep.take() {
            return self.sweep(log, &from);
        }
        let Some(at) = self.progress(log).at else { return self.begin(log) };
        let (_, limit) = self.progress(log).seen;
        let next = self.compact(log, at, limit)?;
        self.progress(log).at = next;
        Ok(next.is_some() || self.end(log))
    }

    /// Begins a pass if it could find something.
    fn begin(&mut self, log: &Arc<TopicLog>) -> Result<bool> {
        let seen = (log.tail(), self.limit(log));
        let now = self.shared.clock.now();
        let progress = self.progress(log);
        if (progress.seen == seen && progress.again_at.is_none_or(|at| at > now)) || seen.1 <= log.head() {
            let is_due = log.head() > progress.swept;
            progress.began = Instant::now();
            return Ok(is_due && self.end(log));
        }
        progress.seen = seen;
        progress.again_at = None;
        progress.began = Instant::now();
        progress.at = Some(0);
        // Only closed segments are rewritten.
        let open = log.writing.lock().segments.open_from();
        if open.is_some_and(|from| from < seen.1) {
            self.ask(|answer| Command::CloseSegment { log: log.clone(), answer })?;
        }
        Ok(true)
    }

    /// Up to which offset messages may go.
    fn limit(&self, log: &TopicLog) -> u64 {
        let tail = log.tail();
        if log.definition().0.retention.drop_unread {
            return tail;
        }
        let needs = log.subscribers().into_iter().filter_map(|subscription| subscription.needs(log));
        needs.map(|(needs, _)| needs).min().unwrap_or(tail).min(tail)
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.shared.command(command(answer))?;
        answered.blocking_recv().unwrap_or_else(|_| Err(super::closed()))
    }

    /// Compacts the next run of segments from `at` on; gives where to go on, if there is more.
    fn compact(&mut self, log: &Arc<TopicLog>, at: u64, limit: u64) -> Result<Option<u64>> {
        let mut segments = log.writing.lock().segments.closed_from(at, STEP_SEGMENTS);
        // A block that readers see in part would show them what is not durable yet.
        let tail = log.tail();
        segments.retain(|segment| segment.first < limit && segment.end <= tail);
        let mut bytes = 0;
        let enough = segments.iter().position(|segment| {
            bytes += segment.bytes;
            bytes > STEP_BYTES
        });
        segments.truncate(enough.map_or(segments.len(), |enough| enough.max(1)));
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok(None) };
        let mut part = Part::new(first.first..last.end, limit, log, self.shared.clock.now());
        let mut from = None;
        self.database.scan("log", &keys::log(log.id, first.first), &log.id.to_be_bytes(), |key, value| {
            let first = keys::u64_of(&key[4..]).unwrap_or(u64::MAX);
            if first >= last.end {
                return Ok(false);
            }
            let block = log::decode(log, first, value)?;
            for found in block.iter() {
                let newest = match found.record.key().filter(|_| found.offset < limit) {
                    Some(key) => newest::written(log.id, key.as_bytes(), self.database)?,
                    None => None,
                };
                part.take(found, newest);
            }
            from = from.or(Some(block.range().start));
            Ok(true)
        })?;
        let (next, again_at) = (last.end, part.again_at);
        let progress = self.progress(log);
        progress.again_at = progress.again_at.into_iter().chain(again_at).min();
        let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let are_small = segments.len() as u64 > 1 + bytes / TARGET as u64;
        if let (Some(from), true) = (from, are_small || !part.removed.is_empty()) {
            let rewrite = part.rewrite(log.clone(), &segments, from)?;
            self.ask(|answer| Command::Rewrite { rewrite: Box::new(rewrite), answer })?;
        }
        Ok(Some(next))
    }

    /// Looks through some of what is known of keys, and has those forgotten whose newest message lies before the head.
    fn sweep(&mut self, log: &Arc<TopicLog>, from: &[u8]) -> Result<bool> {
        let (head, mut looked_at, mut dropped, mut next) = (log.head(), 0, Vec::new(), None);
        self.database.scan("keys", from, &log.id.to_be_bytes(), |key, value| {
            if looked_at == KEYS_IN_A_STEP || dropped.len() == KEYS_AT_ONCE {
                next = Some(key.to_vec());
                return Ok(false);
            }
            looked_at += 1;
            if let Some(newest) = keys::u64_of(value).filter(|newest| *newest < head) {
                dropped.push((Bytes::copy_from_slice(&key[size_of_val(&log.id)..]), newest));
            }
            Ok(true)
        })?;
        if !dropped.is_empty() {
            self.tell(FoundKeys { log: log.clone(), newest: Vec::new(), dropped, all_before: None })?;
        }
        self.progress(log).sweep = next;
        Ok(self.progress(log).sweep.is_some() || self.end(log))
    }

    fn tell(&self, found: FoundKeys) -> Result<()> {
        self.ask(|answer| Command::FoundKeys { keys: Box::new(found), answer })
    }

    /// Reads the keys of messages that were there before compaction was switched on.
    fn read_keys(&mut self, log: &Arc<TopicLog>, until: u64) -> Result<()> {
        let at = self.progress(log).at.unwrap_or(0).max(log.head());
        let mut found: HashMap<Bytes, u64> = HashMap::new();
        let (mut bytes, mut end) = (0, at);
        self.database.scan_around("log", &keys::log(log.id, at), &log.id.to_be_bytes(), |key, value| {
            let first = keys::u64_of(&key[4..]).unwrap_or(u64::MAX);
            if first >= until || bytes > TARGET {
                return Ok(false);
            }
            let block = log::decode(log, first, value)?;
            for message in block.iter() {
                if let Some(key) = message.record.key() {
                    found.insert(Bytes::copy_from_slice(key.as_bytes()), message.offset);
                }
            }
            (bytes, end) = (bytes + block.size(), block.range().end);
            Ok(true)
        })?;
        let is_all = end >= until || bytes == 0;
        let mut found: Vec<(Bytes, u64)> = found.into_iter().collect();
        loop {
            let rest = found.split_off(found.len().min(KEYS_AT_ONCE));
            let newest = std::mem::replace(&mut found, rest);
            let all_before = (is_all && found.is_empty()).then_some(until);
            self.tell(FoundKeys { log: log.clone(), newest, dropped: Vec::new(), all_before })?;
            if found.is_empty() {
                break;
            }
        }
        self.progress(log).at = (!is_all).then_some(end);
        Ok(())
    }
}

/// Segments on their way to be rewritten: decides about each message.
struct Part {
    range: Range<u64>,
    /// Nothing at or after this offset may go.
    limit: u64,
    head: u64,
    /// Readers see the messages before this offset.
    tail: u64,
    now: Timestamp,
    /// Ids are looked for in messages that were stored after this moment.
    ids_since: Timestamp,
    ids_kept: Duration,
    kept: Vec<Found>,
    removed: Vec<u64>,
    forgotten: Vec<(Bytes, u64)>,
    again_at: Option<Timestamp>,
}

impl Part {
    fn new(range: Range<u64>, limit: u64, log: &TopicLog, now: Timestamp) -> Self {
        let window = log.definition().0.dedup_window;
        Self {
            range,
            limit,
            head: log.head(),
            tail: log.tail(),
            now,
            ids_since: now.before(window),
            ids_kept: window,
            kept: Vec::new(),
            removed: Vec::new(),
            forgotten: Vec::new(),
            again_at: None,
        }
    }

    /// Keeps a message or leaves it out; `newest` is the newest one of its key, if it has a key.
    fn take(&mut self, found: Found, newest: Option<u64>) {
        if found.offset < self.head {
            self.removed.push(found.offset);
            return;
        }
        let is_gone = match newest {
            // What takes its place must be there for readers first.
            Some(newest) if newest > found.offset => newest < self.tail,
            Some(newest) if newest == found.offset && found.record.payload().is_empty() => {
                let until = found.time.after(TOMBSTONES_KEPT);
                if until > self.now {
                    self.look_again(until);
                }
                until <= self.now
            }
            _ => false,
        };
        // An id that is still looked for is found in the log after a restart.
        let is_named = found.record.id().is_some() && found.time > self.ids_since;
        if !is_gone || is_named || found.offset >= self.limit {
            if is_gone && is_named {
                self.look_again(found.time.after(self.ids_kept));
            }
            self.kept.push(found);
            return;
        }
        if newest == Some(found.offset)
            && let Some(key) = found.record.key()
        {
            if self.forgotten.len() == KEYS_AT_ONCE {
                self.look_again(self.now);
                self.kept.push(found);
                return;
            }
            self.forgotten.push((Bytes::copy_from_slice(key.as_bytes()), found.offset));
        }
        self.removed.push(found.offset);
    }

    fn look_again(&mut self, at: Timestamp) {
        self.again_at = Some(self.again_at.map_or(at, |known| known.min(at)));
    }

    /// The blocks that take the segments' place; `from` is where their first block begins.
    fn rewrite(self, log: Arc<TopicLog>, segments: &[Segment], from: u64) -> Result<Rewrite, Error> {
        let last_time = segments.last().map_or(self.now, |segment| segment.last_time);
        let first_time = self.kept.first().map_or(last_time, |found| found.time);
        let (mut blocks, mut builder, mut newest) = (Vec::new(), SparseBuilder::new(from), first_time);
        let bytes = self.kept.iter().map(|found| found.record.size() as u64).sum();
        for found in &self.kept {
            if !builder.has_room(found) {
                let full = std::mem::replace(&mut builder, SparseBuilder::new(found.offset));
                blocks.push(full.finish(found.offset, newest)?);
            }
            builder.push(found);
            newest = found.time;
        }
        blocks.push(builder.finish(self.range.end, last_time)?);
        let count = self.kept.len() as u64;
        Ok(Rewrite {
            log,
            old: segments.iter().map(|segment| segment.first..segment.end).collect(),
            range: from..self.range.end,
            blocks,
            segment: Segment::compacted(self.range, bytes, count, first_time, last_time),
            removed: self.removed,
            forgotten: self.forgotten,
        })
    }
}
