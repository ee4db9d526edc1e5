//! The store, as it is listed and watched.

use bytes::Bytes;
use crossdock_topics::{Change, Entry, Result, Revision};
use crossdock_wire::session::{Keys, Written};
use tokio::sync::mpsc;

use super::consume::Desk;
use super::frames;
use super::session::Flowing;
use crate::remote::pieces::Pieces;

/// About how many bytes of values travel in one frame.
const FRAME: usize = 4 << 20;
/// The most changes in one frame.
const CHANGES: usize = 256;

fn written(key: String, revision: Revision, value: Option<&Bytes>) -> Written {
    Written { key, revision, bytes: value.map(|value| u32::try_from(value.len()).unwrap_or(u32::MAX)) }
}

impl Desk {
    /// All keys that begin so, in as many answers as it takes.
    pub(super) async fn list(&self, id: u64, prefix: &str) -> Result<Pieces> {
        let (entries, revision) = self.broker.list(prefix).await?;
        let mut entries = entries.into_iter().peekable();
        let mut answers = Pieces::default();
        loop {
            let (mut keys, mut values, mut bytes) = (Vec::new(), Vec::new(), 0);
            while bytes < FRAME
                && let Some(Entry { key, value, revision }) = entries.next()
            {
                keys.push(written(key, revision, Some(&value)));
                // A key costs something, too.
                bytes += value.len() + 100;
                values.push(value);
            }
            let more = entries.peek().is_some();
            answers.append(frames::done(id, &Keys { revision, entries: keys }, more, values));
            if !more {
                return Ok(answers);
            }
        }
    }

    /// Every change from now on, until the client is too slow or the store has closed.
    pub(super) async fn watch(
        &self,
        id: u64,
        prefix: &str,
        after: Revision,
        flowing: mpsc::Sender<Flowing>,
    ) -> Result<Pieces> {
        let mut watch = self.broker.watch(prefix, after).await?;
        let nothing: &[Written] = &[];
        let begun = frames::done(id, &nothing, true, []);
        let mut sent = flowing.send(Flowing { pieces: begun, deliveries: 0 }).await.is_ok();
        let mut changes = Vec::new();
        while sent && watch.0.recv_many(&mut changes, CHANGES).await > 0 {
            let mut changes = changes.drain(..).peekable();
            while sent && changes.peek().is_some() {
                let (mut keys, mut values, mut bytes) = (Vec::new(), Vec::new(), 0);
                while bytes < FRAME
                    && let Some(change) = changes.next()
                {
                    match change {
                        Change::Put(Entry { key, value, revision }) => {
                            keys.push(written(key, revision, Some(&value)));
                            bytes += value.len() + 100;
                            values.push(value);
                        }
                        Change::Deleted { key, revision } => keys.push(written(key, revision, None)),
                    }
                }
                let pieces = frames::done(id, &keys, true, values);
                sent = flowing.send(Flowing { pieces, deliveries: 0 }).await.is_ok();
            }
        }
        Ok(frames::done(id, &nothing, false, []))
    }
}
