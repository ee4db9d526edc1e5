//! What is done from time to time: leases that ran out, and retention.

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Durability, Error, Result, TopicName};

use super::Writer;
use crate::embedded::keys;
use crate::embedded::log::TopicLog;

/// So many message ids of all topics together are remembered, at about 100 bytes each; others are read back from
/// the log when they are needed.
const MAX_IDS: usize = 1_000_000;

/// So much of a log is dropped before its blocks are deleted, unless a whole segment goes.
const DELETE_BYTES: u64 = 1024 * 1024;

impl Writer {
    pub(super) fn upkeep(&mut self) {
        if self.shared.failure().is_some() {
            return;
        }
        self.expire_leases();
        // A message that a vanished consumer holds comes back, or to the dead letters, even if nobody asks.
        for subscription in self.subscriptions.values().cloned().collect::<Vec<_>>() {
            if subscription.tick(self.now) {
                self.mark(&subscription);
                self.require(Durability::Os);
            }
        }
        // What was written with durability `memory` reaches the operating system within a tick or two.
        if std::mem::take(&mut self.unsafe_writes) {
            self.require(Durability::Os);
        }
        if self.now >= self.next_ids {
            self.next_ids = self.now.after(Duration::from_secs(1));
            self.forget_ids();
            self.forget_publishers();
        }
        for log in self.topics.values().cloned().collect::<Vec<_>>() {
            if log.writing.lock().upkeep_at <= self.now
                && let Err(error) = self.trim(&log)
            {
                tracing::error!(topic = %log.name, %error, "retention failed; trying again later");
            }
        }
    }

    /// Keeps the memory for message ids bounded, whatever the number of topics: each second those out of their
    /// window go, and then the ids of the topics that have not needed them for longest.
    fn forget_ids(&mut self) {
        let (mut total, mut holders) = (0, Vec::new());
        for log in self.topics.values() {
            let window = log.definition().0.dedup_window;
            let mut writing = log.writing.lock();
            let left = writing.forget_ids(self.now, window);
            if left > 0 {
                total += left;
                holders.push((writing.ids_used(), left, log.clone()));
            }
        }
        holders.sort_by_key(|(used, ..)| *used);
        // The topic in use last keeps its ids: reading them back for each message would stand still.
        holders.pop();
        for (_, left, log) in holders {
            if total <= MAX_IDS {
                break;
            }
            log.writing.lock().drop_ids();
            total -= left;
        }
    }

    fn trim(&mut self, log: &Arc<TopicLog>) -> Result<()> {
        let (topic, _) = log.definition();
        let retention = &topic.retention;
        let database = &self.database;
        let mut writing = log.writing.lock();
        // By age, twenty looks in a lifetime are enough; by size or count, a look at each tick at which something has been
        // appended, or is held.
        let age = retention.max_age.map_or(Duration::from_secs(60), |age| age / 20);
        writing.is_limited = retention.max_bytes.is_some() || retention.max_messages.is_some();
        let age = age.min(Duration::from_secs(60));
        writing.upkeep_at = self.now.after(age);
        let mut due = retention.clone();
        if self.now < writing.age_at {
            due.max_age = None;
        } else {
            writing.age_at = self.now.after(age);
        }

        let visible = log.tail();
        let wanted = writing.segments.excess(&due, self.now, |part| log.facts(database, part))?;
        let excess = wanted.min(visible).max(writing.excess);
        writing.excess = excess;
        let mut target = excess;
        let mut holder = None;
        if !retention.drop_unread {
            for subscription in log.subscribers() {
                if let Some((needs, why)) = subscription.needs(log).filter(|(needs, _)| *needs < target) {
                    target = needs;
                    holder = Some((subscription.name.clone(), why));
                }
            }
        }
        if writing.is_limited && (holder.is_some() || wanted > visible) {
            writing.upkeep_at = self.now;
        }
        *log.held_by.lock() = holder.map(|(name, why)| {
            format!("subscription {name} {why} offset {target}; retention would drop what lies before offset {excess}")
        });
        drop(writing);
        if target > log.head() {
            self.drop_before(log, target)?;
            self.require(Durability::Os);
        }
        Ok(())
    }

    /// Drops what lies before an offset, because somebody asked for it; gives the first offset that is kept.
    pub(super) fn purge(&mut self, name: &TopicName, before: Option<u64>) -> Result<u64> {
        let log = self.topics.get(name).cloned().ok_or_else(|| Error::not_found("topic", name))?;
        let tail = log.tail();
        let target = before.unwrap_or(tail);
        if target > tail {
            return Err(Error::invalid(format!(
                "topic {name} ends at offset {tail}, before offset {target}"
            ))
            .hint("name an offset up to there, or none to drop all that is stored"));
        }
        if target > log.head() {
            self.drop_before(&log, target)?;
            self.require(Durability::Fsync);
        }
        Ok(log.head())
    }

    /// Moves the head of a log. Its blocks go when there is enough of them: each range that is deleted slows down
    /// whoever reads next to it.
    fn drop_before(&mut self, log: &Arc<TopicLog>, target: u64) -> Result<()> {
        let database = &self.database;
        let mut writing = log.writing.lock();
        let before = writing.segments.bytes();
        let (gone, first) = writing.segments.trim(target, |part| log.facts(database, part))?;
        let left = writing.segments.bytes();
        writing.undeleted += before - left;
        log.set_bytes(left);
        self.batch.put(keys::head(log.id), target.to_be_bytes());
        if !gone.is_empty() || writing.undeleted >= DELETE_BYTES || left == 0 {
            writing.undeleted = 0;
            // From where the last one ended, so that the ranges do not pile up on each other.
            let from = std::mem::replace(&mut writing.deleted_to, first);
            if from < first {
                self.batch.delete_range_cf(
                    database.family("log"),
                    keys::log(log.id, from),
                    keys::log(log.id, first),
                );
            }
        }
        drop(writing);
        for segment in gone {
            self.batch.delete_cf(database.family("segments"), keys::log(log.id, segment.first));
        }
        log.set_head(target);
        for subscription in log.subscribers() {
            subscription.trimmed(log, target, self.now);
            self.mark(&subscription);
        }
        Ok(())
    }
}
