//! Streams that no topic has any more. Whoever deletes a topic takes its place away first, and then its stream: one that
//! goes away in between leaves a place that is marked, or a stream that no place leads to.
//!
//! They are looked for when an engine starts. A place is written before its stream is made; so a stream that is listed, and
//! to which no place leads in the store as it is after that, belongs to nobody, and never will: numbers are not used again.
//! A number that the store has not given yet says that the store was put back from a copy. Its stream is left alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Backoff, ErrorCode, Expect, Result, TopicName};

use super::Logs;
use super::definitions::{TOPICS, definition, read};
use super::places::{NUMBERS, Place, place};
use crate::jetstream::store::Key;

/// How long to wait before looking again when NATS did not say what there is, and how often.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(60) };
const TIMES: u32 = 10;

/// Removes them, once.
pub(super) async fn run(logs: Arc<Logs>) {
    for times in 1..=TIMES {
        let cleared = tokio::select! {
            cleared = clear(&logs) => cleared,
            () = logs.shutdown.started() => return,
        };
        match cleared {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "streams that nobody has any more are looked for again"),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN.wait(times, logs.engine)) => {}
            () = logs.shutdown.started() => return,
        }
    }
}

async fn clear(logs: &Logs) -> Result<()> {
    let streams = logs.streams.all().await?;
    logs.store.come().await?;
    let mut places = HashSet::new();
    for entry in logs.store.list_own(TOPICS).0 {
        // Whether this release knows such names or not, it is somebody's.
        let lies: Place = read(&Key::Own(entry.key.clone()), &entry)?;
        places.insert(lies.number);
        let Some(name) = entry.key.strip_prefix(TOPICS).and_then(|name| name.parse::<TopicName>().ok())
        else {
            continue;
        };
        if lies.goes && logs.store.peek(&definition(&name)).is_none() {
            // Whoever makes the topic now takes this place in exchange for another one, or finds none.
            match logs.store.delete(&place(&name), Expect::At(entry.revision)).await {
                Ok(_) => logs.drop_stream(&name, lies.number).await,
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }
    let key = Key::Own(NUMBERS.into());
    let last = logs.store.peek(&key).map_or(Ok(0), |entry| read::<u32>(&key, &entry))?;
    for name in streams.found.into_keys().chain(streams.leaderless) {
        let Some(number) = logs.streams.number(&name).filter(|number| *number <= last) else { continue };
        if !places.contains(&number) {
            tracing::warn!(
                stream = name,
                "the stream of a topic that is gone was left behind, and is removed"
            );
            logs.streams.delete(number).await?;
        }
    }
    Ok(())
}

impl Logs {
    /// The numbers of all topics that there are, whatever this engine knows of them otherwise, as of now.
    ///
    /// # Errors
    /// `Unavailable`; `Internal` when one is damaged.
    pub(in crate::jetstream) async fn numbers(&self) -> Result<HashSet<u32>> {
        self.store.come().await?;
        let (entries, _) = self.store.list_own(TOPICS);
        let number = |entry| Ok(read::<Place>(&Key::Own(TOPICS.into()), entry)?.number);
        entries.iter().map(number).collect()
    }
}
