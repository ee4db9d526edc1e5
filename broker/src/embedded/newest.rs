//! Which message is the newest of each key, for topics that are compacted.
//!
//! The column family `keys` has the offset for each key; it is written in the same batch as the messages. When
//! compaction is switched on for a topic that holds messages, the compactor reads them and the writer takes them in
//! ([`Newest::Building`]); once all are there, `compact/` in the family `default` says so.

use std::collections::HashMap;

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::database::Database;
use super::keys;

/// What is known of a topic's keys.
#[derive(Debug, Default)]
pub(super) enum Newest {
    /// Nothing: it is not compacted.
    #[default]
    Off,
    /// Those of messages at or after `until`, and of a growing part of those before it.
    Building { until: u64, unwritten: Unwritten },
    /// Everything.
    Ready { unwritten: Unwritten },
}

/// What the pass under construction changes.
type Unwritten = HashMap<Bytes, u64>;

impl Newest {
    /// Whether messages' keys are to be taken in.
    pub(super) fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    fn unwritten(&mut self) -> Option<&mut Unwritten> {
        match self {
            Self::Off => None,
            Self::Building { unwritten, .. } | Self::Ready { unwritten } => Some(unwritten),
        }
    }

    /// Takes in a message that is appended.
    pub(super) fn appended(&mut self, key: &[u8], offset: u64) {
        if let Some(unwritten) = self.unwritten() {
            match unwritten.get_mut(key) {
                Some(newest) => *newest = offset,
                None => drop(unwritten.insert(Bytes::copy_from_slice(key), offset)),
            }
        }
    }

    /// Adds what has changed to a batch.
    pub(super) fn write(&mut self, topic: u32, batch: &mut WriteBatch, database: &Database) {
        if let Some(unwritten) = self.unwritten().filter(|unwritten| !unwritten.is_empty()) {
            let family = database.family("keys");
            for (key, offset) in unwritten.drain() {
                batch.put_cf(family, keys::newest(topic, &key), offset.to_be_bytes());
            }
        }
    }

    /// The newest message of a key, those of the pass under construction included.
    pub(super) fn find(
        &self,
        topic: u32,
        key: &[u8],
        database: &Database,
    ) -> Result<Option<u64>, crossdock_topics::Error> {
        let unwritten = match self {
            Self::Off => None,
            Self::Building { unwritten, .. } | Self::Ready { unwritten } => unwritten.get(key),
        };
        match unwritten {
            Some(offset) => Ok(Some(*offset)),
            None => written(topic, key, database),
        }
    }
}

/// The newest message of a key that was written.
pub(super) fn written(
    topic: u32,
    key: &[u8],
    database: &Database,
) -> Result<Option<u64>, crossdock_topics::Error> {
    Ok(database.get("keys", &keys::newest(topic, key))?.as_deref().and_then(keys::u64_of))
}
