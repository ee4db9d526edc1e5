//! Reading the ids of a topic back from its log, when the first one comes after a start, on a thread of its own: there may
//! be half a million of them, or gigabytes of messages without any, and nobody else's messages are to wait for that.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{Error, Topic};

use super::Shared;
use super::database::Database;
use super::dedup::Dedup;
use super::keys;
use super::log::TopicLog;
use super::writer::Command;
use crate::delivery::block::Block;

/// What is to be read.
pub(super) struct Wanted {
    pub(super) log: Arc<TopicLog>,
    /// From the block that begins here on.
    pub(super) from: u64,
    pub(super) window: Duration,
}

/// Reads what is wanted until the queue is closed, and tells the writer.
pub(super) fn run(shared: &Shared, database: &Database) {
    let mut all = Vec::new();
    while shared.recalling.take(&mut all, Duration::from_secs(3600)) {
        for Wanted { log, from, window } in all.drain(..) {
            let ids = ids(database, log.id, from, window);
            // The writer that has stopped reads for itself.
            let _ = shared.commands.push(Command::Recalled { log, window, ids });
        }
    }
}

/// The ids of a topic from a block on.
pub(super) fn ids(database: &Database, log: u32, from: u64, window: Duration) -> Result<Dedup, Error> {
    let mut dedup = Dedup::default();
    // Backwards, until there are as many ids as may be remembered: other messages do not count.
    let (mut blocks, mut count) = (Vec::new(), 0);
    database.scan_back("log", &keys::log(log, u64::MAX), &keys::log(log, from), |value| {
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
