//! The writer's part of compaction: what the compactor has made ready is put in its place.

use std::sync::Arc;

use bytes::Bytes;
use crossdock_topics::{Durability, Error, Result};

use super::Writer;
use crate::embedded::compactor::{FoundKeys, Rewrite};
use crate::embedded::keys;
use crate::embedded::log::TopicLog;
use crate::embedded::newest::{self, Newest};

impl Writer {
    /// Begins or ends to keep the newest message of each key, as the topic's definition says.
    pub(super) fn follow_keys(&mut self, log: &TopicLog) {
        let wanted = log.definition().0.retention.compact;
        let mut writing = log.writing.lock();
        if wanted == writing.newest.is_on() {
            return;
        }
        writing.newest = match wanted {
            false => {
                self.batch.delete(keys::compact(log.id));
                self.batch.delete_range_cf(
                    self.database.family("keys"),
                    keys::newest(log.id, b""),
                    keys::newest(log.id + 1, b""),
                );
                Newest::Off
            }
            true if writing.next == log.head() => {
                self.batch.put(keys::compact(log.id), b"");
                Newest::Ready { unwritten: Default::default() }
            }
            true => Newest::Building { until: writing.next, unwritten: Default::default() },
        };
    }

    /// Takes in keys of messages that were there before, and forgets those of which the log holds nothing.
    pub(super) fn found_keys(&mut self, found: &FoundKeys) -> Result<()> {
        self.commit();
        let log = &found.log;
        self.forget_keys(log, &found.dropped)?;
        let mut writing = log.writing.lock();
        let Newest::Building { until, unwritten } = &mut writing.newest else { return Ok(()) };
        for (key, offset) in &found.newest {
            if newest::written(log.id, key, &self.database)?.is_none_or(|newest| newest < *offset) {
                unwritten.insert(key.clone(), *offset);
            }
        }
        // Switched off and on again meanwhile, it begins anew.
        if found.all_before == Some(*until) {
            self.batch.put(keys::compact(log.id), b"");
            writing.newest = Newest::Ready { unwritten: std::mem::take(unwritten) };
        }
        writing.newest.write(log.id, &mut self.batch, &self.database);
        Ok(())
    }

    /// Forgets keys, each of which had this newest message. To be called after a commit: what was appended last counts.
    fn forget_keys(&mut self, log: &TopicLog, forgotten: &[(Bytes, u64)]) -> Result<()> {
        let family = self.database.family("keys");
        for (key, offset) in forgotten {
            // Unless the key has come back.
            if newest::written(log.id, key, &self.database)? == Some(*offset) {
                self.batch.delete_cf(family, keys::newest(log.id, key));
            }
        }
        Ok(())
    }

    /// Closes the segment that may still grow, so that it can be rewritten.
    pub(super) fn close_segment(&mut self, log: &Arc<TopicLog>) {
        self.commit();
        if !log.is_deleted()
            && let Some(segment) = log.writing.lock().segments.close()
        {
            let family = self.database.family("segments");
            self.batch.put_cf(family, keys::log(log.id, segment.first), segment.encode());
        }
    }

    /// Puts blocks in the place of others. Does nothing when those have changed meanwhile.
    pub(super) fn rewrite(&mut self, rewrite: Rewrite) -> Result<()> {
        let Rewrite { log, old, range, blocks, segment, removed, forgotten } = rewrite;
        // What was appended last counts, too.
        self.commit();
        let mut writing = log.writing.lock();
        if log.is_deleted() || !writing.newest.is_on() || writing.deleted_to > range.start {
            return Ok(());
        }
        let value = segment.encode();
        let Some(first) =
            old.first().map(|old| old.start).filter(|_| writing.segments.replace(&old, segment))
        else {
            return Ok(());
        };
        log.set_bytes(writing.segments.bytes());
        let families = (self.database.family("log"), self.database.family("segments"));
        self.batch.delete_range_cf(families.0, keys::log(log.id, range.start), keys::log(log.id, range.end));
        for (value, block) in &blocks {
            self.batch.put_cf(families.0, keys::log(log.id, block.range().start), value);
        }
        for gone in &old[1..] {
            self.batch.delete_cf(families.1, keys::log(log.id, gone.start));
        }
        self.batch.put_cf(families.1, keys::log(log.id, first), value);
        drop(writing);
        self.forget_keys(&log, &forgotten)?;
        tracing::debug!(topic = %log.name, from = range.start, to = range.end, removed = removed.len(), "compacted");
        for subscription in log.subscribers() {
            subscription.compacted(&log, &removed, self.now);
            self.mark(&subscription);
        }
        self.require(Durability::Os);
        self.commit();
        // What lies in memory is as it was; from now on it is read from the disk.
        log.evict(range.end);
        Ok(())
    }
}

/// What is told of a key whose index cannot be used.
pub(super) fn unknown_keys(log: &TopicLog, newest: &Newest) -> Option<Error> {
    match newest {
        Newest::Off => Some(
            Error::invalid(format!("topic {} does not know the newest message of each key", log.name)).hint(
                "set `retention.compact` to have it compacted by key, or expect something of the whole topic",
            ),
        ),
        Newest::Building { .. } => Some(
            Error::new(
                crossdock_topics::ErrorCode::Unavailable,
                format!("topic {} is still being read for its keys", log.name),
            )
            .hint("try again in a while")
            .retry_after(std::time::Duration::from_secs(1)),
        ),
        Newest::Ready { .. } => None,
    }
}
