//! Reading everything back when a database is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{Entry, Error, LeaseId, Subscription, Timestamp, Topic};

use super::database::Database;
use super::keys;
use super::log::{TopicLog, load};
use super::newest::Newest;
use super::segments::{BlockFacts, Segment, Segments};
use super::writer::{Numbers, Recovered};
use crate::delivery::block::Block;
use crate::delivery::{Restoring, Sieve, SubscriptionState};
use crate::group::Group;

/// Everything that a database held.
pub(super) struct State {
    pub(super) topics: Vec<Arc<TopicLog>>,
    pub(super) subscriptions: Vec<Arc<SubscriptionState>>,
    pub(super) recovered: Recovered,
}

/// Reads it, or prepares an empty database.
pub(super) fn read(database: &Database, token: impl Fn() -> u64) -> Result<State, Error> {
    let numbers = match database.get("default", keys::NEXT_KEY)? {
        Some(bytes) => Numbers::decode(&bytes).ok_or_else(|| damaged("the counters"))?,
        None => Numbers::default(),
    };
    let entries = read_store(database)?;
    let mut leases = Vec::new();
    database.scan("default", keys::LEASE, keys::LEASE, |key, value| {
        let id = keys::u64_of(&key[keys::LEASE.len()..]).ok_or_else(|| damaged("a lease"))?;
        let millis = keys::u64_of(value).ok_or_else(|| damaged("a lease"))?;
        leases.push((LeaseId(id), Duration::from_millis(millis)));
        Ok(true)
    })?;

    let mut topics = Vec::new();
    for (name, id) in read_numbers(database, keys::TOPIC)? {
        let (topic, revision) = definition::<Topic>(&entries, &format!("topics/{name}"))?;
        topics.push(Arc::new(read_log(database, id, topic, revision)?));
    }
    let mut subscriptions = Vec::new();
    for (name, id) in read_numbers(database, keys::SUBSCRIPTION)? {
        let (definition, revision) = definition::<Subscription>(&entries, &format!("subscriptions/{name}"))?;
        let sieve = definition.filter.as_ref().and_then(|filter| {
            let compiled = Sieve::compile(filter).map(Arc::new);
            // It was compiled once, by another release perhaps. A filter never loses what it does not understand.
            compiled
                .inspect_err(
                    |error| tracing::error!(subscription = name, %error, "all messages pass its filter"),
                )
                .ok()
        });
        let state = Arc::new(SubscriptionState::new(id, definition.clone(), sieve, revision));
        state.set_paused(database.get("default", &keys::paused(id))?.is_some());
        for log in &topics {
            if definition.topics.iter().any(|pattern| pattern.matches(log.name.as_str())) {
                let (group, mended) = read_group(database, &definition, id, log, token())?;
                state.attach(&log.feed, group);
                state.restore_mended(log, mended);
            }
        }
        subscriptions.push(state);
    }
    Ok(State {
        topics,
        subscriptions,
        recovered: Recovered { numbers, entries: entries.into_values().collect(), leases },
    })
}

fn damaged(what: &str) -> Error {
    Error::internal(format!("{what} in the database cannot be read"))
        .hint("restore the folder from a backup; nothing was changed")
}

pub(super) fn check_format(database: &Database) -> Result<(), Error> {
    match database.get("default", keys::FORMAT_KEY)? {
        None => Ok(()),
        Some(bytes) => match keys::u32_of(&bytes) {
            Some(1..=keys::FORMAT) => Ok(()),
            Some(newer) => Err(Error::internal(format!(
                "the data has format {newer}, this release reads {}",
                keys::FORMAT
            ))
            .hint("use the release that wrote it, or a later one")),
            None => Err(damaged("the format")),
        },
    }
}

/// Notes that the database is opened once more, in this format; gives a number that no earlier opening was given,
/// whatever the clock says. Earlier releases went by the clock, in microseconds: it is larger than what they made of it.
pub(super) fn begin(database: &Database, now: Timestamp) -> Result<u64, Error> {
    check_format(database)?;
    let before = match database.get("default", keys::STARTS_KEY)? {
        Some(bytes) => keys::u64_of(&bytes).ok_or_else(|| damaged("how often it was opened"))?,
        None => (u64::try_from(now.0).unwrap_or(0).saturating_mul(1000) >> super::START_BITS) + 1,
    };
    let start = before + 1;
    let mut batch = rocksdb::WriteBatch::default();
    batch.put(keys::FORMAT_KEY, keys::FORMAT.to_be_bytes());
    batch.put(keys::STARTS_KEY, start.to_be_bytes());
    database.write(batch)?;
    database.sync(true)?;
    Ok(start)
}

pub(super) type Entries = BTreeMap<String, (Entry, Option<LeaseId>)>;

pub(super) fn read_store(database: &Database) -> Result<Entries, Error> {
    let mut entries = BTreeMap::new();
    database.scan("store", b"", b"", |key, value| {
        let key = String::from_utf8(key.to_vec()).map_err(|_| damaged("a key of the store"))?;
        let revision = keys::u64_of(value).ok_or_else(|| damaged("an entry of the store"))?;
        let lease = keys::u64_of(&value[8..]).ok_or_else(|| damaged("an entry of the store"))?;
        let value = Bytes::copy_from_slice(&value[16..]);
        let lease = (lease > 0).then_some(LeaseId(lease));
        entries.insert(key.clone(), (Entry { key, value, revision }, lease));
        Ok(true)
    })?;
    Ok(entries)
}

pub(super) fn read_numbers(database: &Database, prefix: &str) -> Result<Vec<(String, u32)>, Error> {
    let mut numbers = Vec::new();
    database.scan("default", prefix.as_bytes(), prefix.as_bytes(), |key, value| {
        let name = std::str::from_utf8(&key[prefix.len()..]).map_err(|_| damaged("a name"))?;
        numbers.push((name.to_owned(), keys::u32_of(value).ok_or_else(|| damaged("a number"))?));
        Ok(true)
    })?;
    Ok(numbers)
}

pub(super) fn definition<T: serde::de::DeserializeOwned>(
    entries: &Entries,
    key: &str,
) -> Result<(T, u64), Error> {
    let (entry, _) = entries.get(key).ok_or_else(|| damaged(key))?;
    let definition =
        serde_json::from_slice(&entry.value).map_err(|cause| damaged(&format!("{key} ({cause})")))?;
    Ok((definition, entry.revision))
}

/// Reads a topic's segments, and those of its blocks that are not in one yet.
pub(super) fn read_log(database: &Database, id: u32, topic: Topic, revision: u64) -> Result<TopicLog, Error> {
    let prefix = id.to_be_bytes();
    let head = match database.get("default", &keys::head(id))? {
        Some(bytes) => keys::u64_of(&bytes).ok_or_else(|| damaged("where a topic begins"))?,
        None => 0,
    };
    let mut segments = Segments::default();
    let mut last = Timestamp(0);
    database.scan("segments", &prefix, &prefix, |key, value| {
        let segment = keys::u64_of(&key[4..]).and_then(|first| Segment::decode(first, value));
        let segment = segment.ok_or_else(|| damaged("a segment"))?;
        last = segment.last_time;
        segments.restore(segment);
        Ok(true)
    })?;
    let mut next = segments.restored_end();
    database.scan("log", &keys::log(id, next.unwrap_or(0)), &prefix, |_, value| {
        let block = Block::decode(&Bytes::copy_from_slice(value))?;
        if next.is_some_and(|next| block.range().start != next) {
            return Err(Error::internal(format!(
                "topic {} has a hole in its log: offset {} follows on {}",
                topic.name,
                block.range().start,
                next.unwrap_or(0)
            ))
            .hint("restore the folder from a backup; nothing was changed"));
        }
        next = Some(block.range().end);
        last = block.time();
        segments.push(&BlockFacts::from(&*block));
        Ok(true)
    })?;
    // All may have been trimmed: the numbers go on where they were.
    let next = next.unwrap_or(0).max(head);
    let log = TopicLog::new(id, topic, revision, head, segments, next, last);
    if log.definition().0.retention.compact {
        let unwritten = Default::default();
        let mut writing = log.writing.lock();
        writing.newest = match database.get("default", &keys::compact(id))? {
            Some(_) => Newest::Ready { unwritten },
            None => Newest::Building { until: writing.next, unwritten },
        };
    }
    let prefix = keys::sources(id);
    database.scan("default", &prefix, &prefix, |key, value| {
        let name = key[prefix.len()..].try_into().map_err(|_| damaged("a publisher"))?;
        log.writing.lock().sources.restore(u128::from_be_bytes(name), value)?;
        Ok(true)
    })?;
    Ok(log)
}

fn read_group(
    database: &Database,
    definition: &Subscription,
    subscription: u32,
    log: &TopicLog,
    token: u64,
) -> Result<(Group, BTreeSet<u64>), Error> {
    let mut restoring = Restoring::default();
    let prefix = keys::group(subscription, log.id);
    database.scan("groups", &prefix, &prefix, |key, value| restoring.read(key, value).map(|()| true))?;
    restoring
        .group(definition, log.head(), token, |offset| Ok(load(log, database, offset, 0)?.into_iter().next()))
}
