//! Appending to topics: as it comes, only if the log is as expected, and once for each batch of a publisher.

use std::sync::Arc;

use crossdock_topics::{Batch, Durability, Error, ErrorCode, Expected, Receipts, Result, Source, Timestamp};

use super::Writer;
use super::compaction::unknown_keys;
use crate::embedded::log::TopicLog;
use crate::embedded::sources::{MAX_PUBLISHERS, Turn};

impl Writer {
    pub(super) fn append(
        &mut self,
        log: &Arc<TopicLog>,
        batch: &Batch,
        durability: Durability,
    ) -> Result<Receipts> {
        if log.is_deleted() {
            return Err(Error::not_found("topic", &log.name));
        }
        let mut writing = log.writing.lock();
        let receipts = writing.append(log, batch, durability, self.now, &self.database)?;
        if !std::mem::replace(&mut writing.is_touched, true) {
            self.touched.push(log.clone());
        }
        drop(writing);
        self.require(durability);
        Ok(receipts)
    }

    /// Appends if the log is as expected. That is decided on what was written, so that of two who race one wins.
    pub(super) fn append_expected(
        &mut self,
        log: &Arc<TopicLog>,
        batch: &Batch,
        durability: Durability,
        expected: Option<&Expected>,
    ) -> Result<Receipts> {
        match expected {
            None => {}
            Some(Expected::Last(wanted)) => {
                let found = log.writing.lock().next.checked_sub(1);
                if found != *wanted {
                    return Err(unexpected(
                        &format!("the newest message of topic {}", log.name),
                        found,
                        *wanted,
                    ));
                }
            }
            Some(Expected::LastOfKey(key, wanted)) => {
                let writing = log.writing.lock();
                if let Some(error) = unknown_keys(log, &writing.newest) {
                    return Err(error);
                }
                let found = writing.newest.find(log.id, key.as_bytes(), &self.database)?;
                // What has been dropped is not there.
                let found = found.filter(|offset| *offset >= log.head());
                if found != *wanted {
                    let what = format!("the newest message of key {key} in topic {}", log.name);
                    return Err(unexpected(&what, found, *wanted));
                }
            }
        }
        self.append(log, batch, durability)
    }

    /// Appends a publisher's batch if it has not been stored before. One that has is answered as the first time,
    /// when it is as durable as is asked now.
    pub(super) fn append_once(
        &mut self,
        log: &Arc<TopicLog>,
        batch: &Batch,
        durability: Durability,
        expected: Option<&Expected>,
        source: &Source,
    ) -> Result<Receipts> {
        if log.is_deleted() {
            return Err(Error::not_found("topic", &log.name));
        }
        let turn = log.writing.lock().sources.turn(source, self.now)?;
        if let Turn::Before(mut receipts) = turn {
            receipts.durability = receipts.durability.max(durability);
            self.require(receipts.durability);
            return Ok(receipts);
        }
        let result = self.append_expected(log, batch, durability, expected);
        match &result {
            Ok(receipts) => {
                let is_new = log.writing.lock().sources.stored(source, receipts, self.now);
                self.count_publisher(is_new);
            }
            Err(_) => self.note_refused(log, source),
        }
        result
    }

    /// A publisher's batch was refused.
    pub(super) fn note_refused(&mut self, log: &TopicLog, source: &Source) {
        let is_new = log.writing.lock().sources.refused(source, self.now);
        self.count_publisher(is_new);
    }

    fn count_publisher(&mut self, is_new: bool) {
        self.publishers += usize::from(is_new);
        // With some room, so that looking for the silent ones is worth it.
        if self.publishers > MAX_PUBLISHERS + MAX_PUBLISHERS / 8 {
            self.forget_publishers();
        }
    }

    /// Keeps the memory for publishers bounded: those out of their topics' windows go, and then those that have
    /// been silent for longest.
    pub(super) fn forget_publishers(&mut self) {
        let holders: Vec<Arc<TopicLog>> = self.topics.values().cloned().collect();
        let mut heard: Vec<Timestamp> = Vec::new();
        for log in &holders {
            let mut writing = log.writing.lock();
            if writing.sources.len() > 0 {
                let window = log.definition().0.dedup_window;
                writing.sources.forget(log.id, self.now, window, &mut self.batch);
                heard.extend(writing.sources.heard());
            }
        }
        self.publishers = heard.len();
        let Some(excess) = heard.len().checked_sub(MAX_PUBLISHERS).filter(|excess| *excess > 0) else {
            return;
        };
        let (_, oldest, _) = heard.select_nth_unstable(excess);
        let oldest = *oldest;
        self.publishers = 0;
        for log in &holders {
            let mut writing = log.writing.lock();
            writing.sources.forget_heard_before(log.id, oldest, &mut self.batch);
            self.publishers += writing.sources.len();
        }
    }
}

fn unexpected(what: &str, found: Option<u64>, wanted: Option<u64>) -> Error {
    let there = |offset: Option<u64>| offset.map_or_else(|| "none".to_owned(), |o| format!("at offset {o}"));
    Error::new(ErrorCode::Conflict, format!("{what} is {}, and should be {}", there(found), there(wanted)))
        .hint("read what is there, and decide again; nothing was stored")
}
