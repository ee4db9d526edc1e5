//! Blocks of a topic that are older than what is in memory: read from NATS, and for whoever reads on and on before they are
//! asked for.

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Result, Timestamp};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Logs;
use super::follower::found;
use super::message::decode;
use super::pulled::Pulled;
use super::stored::{From, Kept};
use super::streams::unavailable;
use crate::delivery::block::{Block, SparseBuilder};
use crate::delivery::{Feed, READ_BYTES};

/// So many messages are read at once at most.
const READ_MESSAGES: usize = 1000;
/// So many blocks are read before they are asked for, of all topics together, and so long they are kept.
const AT_ONCE: usize = 16;
const KEPT: Duration = Duration::from_secs(5);

/// From so many messages on that are still to be read, a consumer in NATS is made for them.
const WORTH_A_CONSUMER: u64 = 3 * READ_MESSAGES as u64;

/// Blocks that are read before they are asked for, of all topics: each for one reader, and for a short while.
#[derive(Default)]
pub(super) struct Ahead(Mutex<Vec<Begun>>);

struct Begun {
    topic: u32,
    offset: u64,
    since: Instant,
    reading: Reading,
}

/// A block, and how what follows it is read.
type Reading = JoinHandle<Option<(Arc<Block>, Reader)>>;

/// How one reader is read for.
#[derive(Default)]
pub(super) enum Reader {
    /// By the messages' numbers, until there are many.
    #[default]
    ByNumber,
    Pulled(Box<Pulled>),
    /// By numbers, as nothing else could be had.
    GivenUp,
}

impl Ahead {
    /// Forgets what is being read of a topic.
    pub(super) fn forget(&self, topic: u32) {
        self.0.lock().retain(|begun| begun.topic != topic);
    }

    /// What is being read from an offset on, if it is.
    fn take(&self, topic: u32, offset: u64) -> Option<Reading> {
        let mut begun = self.0.lock();
        begun.retain(|begun| begun.since.elapsed() < KEPT);
        let at = begun.iter().position(|begun| (begun.topic, begun.offset) == (topic, offset))?;
        Some(begun.swap_remove(at).reading)
    }

    /// Whether there is room for one more that is not there.
    fn has_room(&self, topic: u32, offset: u64) -> bool {
        let mut begun = self.0.lock();
        begun.retain(|begun| begun.since.elapsed() < KEPT);
        let is_there = begun.iter().any(|begun| (begun.topic, begun.offset) == (topic, offset));
        !is_there && begun.len() < AT_ONCE
    }
}

impl Logs {
    /// What NATS has of a topic from an offset on, where there is something: about so many bytes. Whoever `reads_on` wants
    /// what follows next.
    pub(super) async fn older(
        self: &Arc<Self>,
        feed: &Arc<Feed>,
        offset: u64,
        bytes: usize,
        reads_on: bool,
    ) -> Result<Arc<Block>> {
        let ahead = match self.ahead.take(feed.id, offset) {
            Some(reading) => reading.await.ok().flatten(),
            None => None,
        };
        let (block, reader) = match ahead {
            Some(found) => found,
            None => (self.read_block(feed, offset, bytes).await?, Reader::default()),
        };
        let end = block.range().end;
        if reads_on && end < feed.tail() && self.ahead.has_room(feed.id, end) {
            let (logs, from) = (self.clone(), feed.clone());
            let reading = self.shutdown.tasks().spawn(async move {
                tokio::select! {
                    found = logs.read_on(&from, end, reader) => found.ok(),
                    () = logs.shutdown.started() => None,
                }
            });
            let begun = Begun { topic: feed.id, offset: end, since: Instant::now(), reading };
            self.ahead.0.lock().push(begun);
        }
        Ok(block)
    }

    /// The next block for whoever reads on.
    async fn read_on(&self, feed: &Feed, offset: u64, mut reader: Reader) -> Result<(Arc<Block>, Reader)> {
        if matches!(reader, Reader::ByNumber) && feed.tail().saturating_sub(offset) >= WORTH_A_CONSUMER {
            let stream = self.streams.name(feed.id);
            let pulled = Pulled::begin(&self.streams.connection, &stream, offset).await;
            reader = pulled.map_or(Reader::GivenUp, |pulled| Reader::Pulled(Box::new(pulled)));
        }
        if let Reader::Pulled(pulled) = &mut reader {
            match pulled.next(READ_MESSAGES, READ_BYTES).await {
                Some(kept) if !kept.is_empty() => {
                    let count = kept.len();
                    let block = block_of(kept, offset, feed.tail())?;
                    if block.count() as usize == count {
                        return Ok((block, reader));
                    }
                    // Something of it was left over, which does not come again.
                    return Ok((block, Reader::ByNumber));
                }
                _ => reader = Reader::GivenUp,
            }
        }
        Ok((self.read_block(feed, offset, READ_BYTES).await?, reader))
    }

    async fn read_block(&self, feed: &Feed, offset: u64, bytes: usize) -> Result<Arc<Block>> {
        let tail = feed.tail();
        let kept = self.streams.read(feed.id, From::Offset(offset), READ_MESSAGES, bytes).await?;
        // Who says that there is nothing must have come as far as this engine knows that it goes.
        if kept.is_empty() && self.streams.info(feed.id).await?.is_none_or(|i| i.state.tail() < tail) {
            return Err(unavailable(&format!("topic {} ends before offset {tail} there", feed.name)));
        }
        block_of(kept, offset, tail)
    }
}

/// As many of these messages as belong into a block that begins at an offset, of a topic that goes up to `tail`.
fn block_of(mut kept: Vec<Kept>, offset: u64, tail: u64) -> Result<Arc<Block>> {
    kept.retain(|kept| kept.offset < tail);
    let mut builder = SparseBuilder::new(offset);
    // Without any, there is nothing left of it up to the window.
    let mut end = tail;
    let mut time = Timestamp(0);
    for Kept { offset, time: stored, headers, payload } in kept {
        let found = found(offset, stored.max(time), &decode(Some(&headers), payload))?;
        if !builder.has_room(&found) {
            break;
        }
        builder.push(&found);
        (end, time) = (offset + 1, found.time);
    }
    Ok(builder.finish(end, time)?.1)
}
