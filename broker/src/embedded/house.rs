//! The folder of an embedded broker as a place that is moved from or to: its database alone, no thread at work on it.
//!
//! Every message that arrives here keeps its offset and its time, so it lies in blocks with gaps, each a segment of its own.
//! While a move has not come to its end, the key `moving` in the family `default` says so.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use crossdock_topics::{
    Clock, Durability, Entry, Error, Result, Source, Stored, Subscription, SystemClock, Timestamp, Topic,
};
use rocksdb::WriteBatch;

use super::EmbeddedOptions;
use super::database::Database;
use super::keys;
use super::log::{TopicLog, load};
use super::recovery;
use super::segments::Segment;
use super::sources::LEAST_WINDOW;
use super::writer;
use crate::delivery::block::{Cursor, Found, SparseBuilder};
use crate::delivery::keys::group;
use crate::moving::Side;
use crate::moving::house::{
    Held, House, Inventory, Item, Mark, Numbers, PAGE_BYTES, Sent, Standing, State, Subscribed,
};

/// What is written is synced after so many bytes.
const SYNC_BYTES: usize = 32 << 20;

/// Opens a folder, which must be there where it is the source.
///
/// # Errors
/// `NotFound`; `Conflict` when another process uses it, or it is itself half moved; what opening fails with.
pub(crate) async fn open(path: PathBuf, side: Side) -> Result<Folder> {
    blocking(move || Folder::open(path, side)).await
}

/// The folder of an embedded broker.
pub(crate) struct Folder {
    path: PathBuf,
    database: Arc<Database>,
    /// The topics' ends, and what is known of their publishers.
    logs: HashMap<u32, Arc<TopicLog>>,
    /// As a source: the batches that may be sent again, by topic and the offset of their last message.
    batches: HashMap<(u32, u64), Sent>,
    unsynced: usize,
    /// When the newest message was stored, by topic, of those to which something was appended.
    last: HashMap<u32, Timestamp>,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| Error::internal(format!("reading or writing was interrupted: {cause}")))?
}

impl Folder {
    fn open(path: PathBuf, side: Side) -> Result<Self> {
        if side == Side::Source && !path.join("CURRENT").is_file() {
            return Err(Error::not_found("broker's data in", path.display())
                .hint("name the folder that the server is given with --broker rocksdb:PATH"));
        }
        let database = Arc::new(Database::open(&EmbeddedOptions::new(&path))?);
        recovery::check_format(&database)?;
        if side == Side::Source
            && let Some(mark) = mark(&database)?
        {
            return Err(mark.refusal());
        }
        let mut folder = Self {
            path,
            database,
            logs: HashMap::new(),
            batches: HashMap::new(),
            unsynced: 0,
            last: HashMap::new(),
        };
        folder.read_logs()?;
        Ok(folder)
    }

    /// Reads where the topics end.
    fn read_logs(&mut self) -> Result<()> {
        let entries = recovery::read_store(&self.database)?;
        for (name, id) in recovery::read_numbers(&self.database, keys::TOPIC)? {
            let (topic, revision) = recovery::definition::<Topic>(&entries, &format!("topics/{name}"))?;
            let log = recovery::read_log(&self.database, id, topic, revision)?;
            for (publisher, oldest, sequence, receipts) in log.writing.lock().sources.remembered() {
                let stored = u64::from(receipts.count) - receipts.duplicates.len() as u64;
                let Some(last) = (receipts.first + stored).checked_sub(1).filter(|_| stored > 0) else {
                    continue;
                };
                let source = Source { publisher, sequence, answered: oldest.0 };
                self.batches.insert((id, last), Sent { source, receipts, from: oldest.1 });
            }
            self.logs.insert(id, Arc::new(log));
        }
        Ok(())
    }

    fn log(&self, topic: &Held) -> Result<Arc<TopicLog>> {
        let log = self.logs.get(&topic.number).cloned();
        log.ok_or_else(|| Error::not_found("topic", &topic.topic.name))
    }

    fn read_inventory(&self) -> Result<Inventory> {
        let entries = recovery::read_store(&self.database)?;
        let mut topics: Vec<Held> = self
            .logs
            .iter()
            .map(|(number, log)| {
                let (topic, revision) = log.definition();
                let (head, tail) = (log.head().min(log.tail()), log.tail());
                Held { number: *number, topic: (*topic).clone(), revision, head, tail }
            })
            .collect();
        topics.sort_by_key(|held| held.number);
        let mut subscriptions = Vec::new();
        for (name, number) in recovery::read_numbers(&self.database, keys::SUBSCRIPTION)? {
            let key = format!("subscriptions/{name}");
            let (definition, revision) = recovery::definition::<Subscription>(&entries, &key)?;
            subscriptions.push(Subscribed::of(number, definition, revision, &topics));
        }
        subscriptions.sort_by_key(|known| known.number);
        let numbers = self.database.get("default", keys::NEXT_KEY)?;
        let numbers = numbers.as_deref().and_then(writer::Numbers::decode).unwrap_or_default();
        let mut entries: Vec<Entry> = entries
            .into_values()
            .filter(|(entry, lease)| lease.is_none() && !is_definition(&entry.key))
            .map(|(entry, _)| entry)
            .collect();
        entries.sort_by_key(|entry| entry.revision);
        Ok(Inventory {
            place: format!("rocksdb:{}", self.path.display()),
            topics,
            subscriptions,
            entries,
            numbers: Numbers {
                topic: numbers.topic,
                subscription: numbers.subscription,
                lease: numbers.lease,
                revision: numbers.revision,
            },
        })
    }
}

fn is_definition(key: &str) -> bool {
    key.starts_with("topics/") || key.starts_with("subscriptions/")
}

/// The mark of a move to this database that has not come to its end.
pub(super) fn mark(database: &Database) -> Result<Option<Mark>> {
    database.get("default", keys::MOVING_KEY)?.map(|bytes| Mark::read(&bytes)).transpose()
}

#[async_trait]
impl House for Folder {
    async fn inventory(&self) -> Result<Inventory> {
        self.read_inventory()
    }

    async fn messages(&self, topic: &Held, from: u64) -> Result<Vec<Item>> {
        let (database, log) = (self.database.clone(), self.log(topic)?);
        let (head, tail) = (topic.head, log.tail());
        let items = blocking(move || {
            let (mut items, mut at) = (Vec::new(), from.max(head));
            while items.is_empty() && at < tail {
                let blocks = load(&log, &database, at, PAGE_BYTES)?;
                let Some(last) = blocks.last() else { break };
                let next = last.range().end;
                for found in blocks.iter().flat_map(|block| block.iter()) {
                    if found.offset >= at {
                        let Found { offset, time, record, .. } = found;
                        items.push(Item { stored: Stored { offset, time, record }, batch: None });
                    }
                }
                at = next;
            }
            Ok(items)
        });
        let mut items = items.await?;
        for item in &mut items {
            item.batch = self.batches.get(&(topic.number, item.stored.offset)).cloned();
        }
        Ok(items)
    }

    async fn standing(&self, subscription: &Subscribed) -> Result<Standing> {
        let number = subscription.number;
        let paused = self.database.get("default", &keys::paused(number))?.is_some();
        let mut standing = Standing { paused, kept: Vec::new() };
        let prefix = number.to_be_bytes();
        self.database.scan("groups", &prefix, &prefix, |key, value| {
            if subscription.owns(key) {
                standing.kept.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            }
            Ok(true)
        })?;
        Ok(standing)
    }

    async fn state(&self) -> Result<State> {
        if let Some(mark) = mark(&self.database)? {
            return Ok(State::Begun(mark));
        }
        let inventory = self.read_inventory()?;
        let (topics, keys) = (inventory.topics.len(), inventory.entries.len());
        Ok(match inventory.numbers.revision {
            0 => State::Empty,
            _ => State::Taken(format!("{} holds {topics} topics and {keys} keys", self.path.display())),
        })
    }

    fn refuses_topic(&self, topic: &Topic) -> Option<String> {
        let Durability::Quorum(servers) = topic.durability else { return None };
        Some(format!(
            "topic {} asks for quorum({servers}), and a broker on one machine gives fsync at most: set its durability to fsync at the source",
            topic.name
        ))
    }

    fn refuses_message(&self, _: &Item) -> Option<String> {
        None
    }

    fn remark(&self, _: &Topic) -> Option<String> {
        None
    }

    async fn begin(&mut self, mark: &Mark, inventory: &Inventory) -> Result<()> {
        recovery::begin(&self.database, SystemClock.now())?;
        let numbers = inventory.numbers;
        let store = self.database.family("store");
        let mut batch = WriteBatch::default();
        batch.put(keys::MOVING_KEY, mark.written()?);
        let next = writer::Numbers {
            topic: numbers.topic,
            subscription: numbers.subscription,
            lease: numbers.lease,
            revision: numbers.revision,
        };
        batch.put(keys::NEXT_KEY, next.encode());
        for held in &inventory.topics {
            let name = held.topic.name.as_str();
            batch.put(keys::topic(name), held.number.to_be_bytes());
            batch.put(keys::head(held.number), held.head.to_be_bytes());
            batch.put_cf(store, format!("topics/{name}"), stored(held.revision, &json(&held.topic)?));
        }
        for known in &inventory.subscriptions {
            let name = known.definition.name.as_str();
            batch.put(keys::subscription(name), known.number.to_be_bytes());
            let value = stored(known.revision, &json(&known.definition)?);
            batch.put_cf(store, format!("subscriptions/{name}"), value);
        }
        self.database.write(batch)?;
        self.database.sync(true)?;
        self.read_logs()
    }

    async fn end(&self, topic: &Held) -> Result<u64> {
        let end = self.logs.get(&topic.number).map_or(0, |log| log.writing.lock().next);
        Ok(end.max(topic.head))
    }

    async fn append(&mut self, topic: &Held, items: Vec<Item>, end: u64) -> Result<()> {
        let (database, log) = (self.database.clone(), self.log(topic)?);
        let (now, last) =
            (SystemClock.now(), self.last.get(&topic.number).copied().unwrap_or_else(|| log.last()));
        let (bytes, last) = blocking(move || append(&database, &log, items, end, last, now)).await?;
        self.last.insert(topic.number, last);
        self.unsynced += bytes;
        if self.unsynced > SYNC_BYTES {
            self.settle().await?;
        }
        Ok(())
    }

    async fn put_standing(&mut self, subscription: &Subscribed, standing: &Standing) -> Result<()> {
        let (number, groups) = (subscription.number, self.database.family("groups"));
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(groups, group(number, 0).as_slice(), group(number + 1, 0).as_slice());
        for (key, value) in &standing.kept {
            batch.put_cf(groups, key, value);
        }
        match standing.paused {
            true => batch.put(keys::paused(number), b""),
            false => batch.delete(keys::paused(number)),
        }
        self.database.write(batch)
    }

    async fn put_entry(&mut self, entry: &Entry) -> Result<()> {
        let mut batch = WriteBatch::default();
        let value = stored(entry.revision, &entry.value);
        self.unsynced += value.len();
        batch.put_cf(self.database.family("store"), &entry.key, value);
        self.database.write(batch)?;
        if self.unsynced > SYNC_BYTES { self.settle().await } else { Ok(()) }
    }

    async fn settle(&mut self) -> Result<()> {
        self.unsynced = 0;
        let database = self.database.clone();
        blocking(move || database.sync(true)).await
    }

    async fn finish(&mut self, _: &Inventory) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.delete(keys::MOVING_KEY);
        let database = self.database.clone();
        blocking(move || {
            database.write(batch)?;
            database.sync(true)?;
            database.flush()
        })
        .await
    }

    async fn close(self: Box<Self>) {
        // The lock goes with the last reference.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

/// A value of the store without a lease, as `recovery` reads it.
fn stored(revision: u64, value: &[u8]) -> Vec<u8> {
    [&revision.to_be_bytes(), &0_u64.to_be_bytes(), value].concat()
}

fn json(definition: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(definition)
        .map_err(|cause| Error::internal(format!("cannot write a definition: {cause}")))
}

/// Appends messages to what was stored `last`, and lets them stand for all offsets before `end`; gives how many bytes
/// that were, and when the newest one was stored.
fn append(
    database: &Database,
    log: &TopicLog,
    items: Vec<Item>,
    end: u64,
    mut last: Timestamp,
    now: Timestamp,
) -> Result<(usize, Timestamp)> {
    // Those that have been silent for longer are forgotten at once.
    let heard_since = now.before(log.definition().0.dedup_window.max(LEAST_WINDOW));
    let mut writing = log.writing.lock();
    let (mut batch, mut bytes) = (WriteBatch::default(), 0);
    let (mut from, mut run): (u64, Vec<Found>) = (writing.next.max(log.head()), Vec::new());
    let mut builder = SparseBuilder::new(from);
    let mut close = |builder: SparseBuilder, run: &mut Vec<Found>, from: u64, end: u64| -> Result<()> {
        let first_time = run.first().map_or(last, |found| found.time);
        last = run.last().map_or(last, |found| found.time);
        let size: u64 = run.iter().map(|found| found.record.size() as u64).sum();
        let (value, _) = builder.finish(end, last)?;
        bytes += value.len();
        let segment = Segment::compacted(from..end, size, run.len() as u64, first_time, last);
        batch.put_cf(database.family("log"), keys::log(log.id, from), value);
        batch.put_cf(database.family("segments"), keys::log(log.id, from), segment.encode());
        run.clear();
        Ok(())
    };
    for Item { stored, batch } in items {
        if let Some(Sent { source, receipts, .. }) = batch
            && stored.time >= heard_since
        {
            writing.sources.moved(&source, &receipts, stored.time);
        }
        let Stored { offset, time, record } = stored;
        let found = Found { offset, time, record, after: Cursor::default() };
        if !builder.has_room(&found) {
            let full = std::mem::replace(&mut builder, SparseBuilder::new(offset));
            close(full, &mut run, from, offset)?;
            from = offset;
        }
        builder.push(&found);
        run.push(found);
    }
    if from < end {
        close(builder, &mut run, from, end)?;
    }
    writing.sources.write(log.id, &mut batch)?;
    database.write(batch)?;
    writing.next = end;
    log.begin_at(log.head(), end, last);
    Ok((bytes, last))
}
