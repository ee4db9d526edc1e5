//! Batches for topics that this engine does not know.
//!
//! Another engine may have made the topic a moment ago. So the store's leader is asked first: one question at a time, for
//! all that wait. What is published meanwhile to a topic for which something waits, waits behind it, so that the order of
//! the calls stays the order in the topic.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossdock_topics::{Error, ErrorCode, Result, TopicName};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::{Call, Logs};

/// So many batches may wait for their topic, whatever their size.
const MOST: usize = 10_000;
/// How long whoever can do without it waits for the store to say which topics there are.
const SOON: Duration = Duration::from_secs(1);
/// How long to wait before asking a store again that could not answer.
const AGAIN: Duration = Duration::from_millis(100);

/// What waits for its topic to be known.
#[derive(Default)]
pub(super) struct Unknown {
    /// How many batches wait.
    count: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// In the order of the calls, each with its number.
    topics: HashMap<TopicName, VecDeque<(u64, Call)>>,
    /// The number of the next call.
    next: u64,
    /// Whether somebody asks.
    asking: bool,
}

impl Unknown {
    /// Whether nothing waits. Whoever calls finds what it added itself.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

impl Logs {
    /// Publishes to a topic when it is known; refuses it when the store's leader does not know it either.
    pub(super) fn publish_when_known(self: &Arc<Self>, topic: &TopicName, call: Call) {
        let mut waiting = self.unknown.waiting.lock();
        if !waiting.topics.contains_key(topic)
            && let Ok(log) = self.topic(topic)
        {
            drop(waiting);
            return self.append(&log, call, false);
        }
        let size = call.batch.as_bytes().len();
        if self.unknown.count.load(Ordering::Acquire) >= MOST || !self.budget.take(size) {
            return call.answer.send(Err(self.overloaded()));
        }
        self.unknown.count.fetch_add(1, Ordering::AcqRel);
        let number = waiting.next;
        waiting.next += 1;
        waiting.topics.entry(topic.clone()).or_default().push_back((number, call));
        if !std::mem::replace(&mut waiting.asking, true) {
            self.shutdown.tasks().spawn(ask(self.clone()));
        }
    }

    /// Publishes what waits for topics that are known now. What was waiting for others before the call of a number is
    /// refused, with `failure` or because there is no such topic.
    fn place_waiting(self: &Arc<Self>, before: u64, failure: Option<&Error>) {
        let mut waiting = self.unknown.waiting.lock();
        waiting.topics.retain(|topic, calls| {
            match failure.map_or_else(|| self.topic(topic), |error| Err(error.clone())) {
                Ok(log) => {
                    for (_, call) in calls.drain(..) {
                        self.append(&log, call, true);
                        self.unknown.count.fetch_sub(1, Ordering::AcqRel);
                    }
                }
                Err(error) => {
                    while let Some((_, call)) = calls.pop_front_if(|(number, _)| *number < before) {
                        self.budget.give(call.batch.as_bytes().len());
                        call.answer.send(Err(error.clone()));
                        self.unknown.count.fetch_sub(1, Ordering::AcqRel);
                    }
                }
            }
            !calls.is_empty()
        });
    }

    /// Takes in all topics that were made anywhere before this was called, if the store can say which they are.
    pub(in crate::jetstream) async fn come_to_topics(&self) {
        if let Ok(Ok(())) = timeout(SOON, self.store.come()).await {
            self.take_in_new();
        }
    }

    /// Waits until this engine knows what was stored when this was called, with patience for a store without a leader.
    async fn come(&self) -> Result<()> {
        let deadline = Instant::now() + self.streams.connection.options.patience;
        loop {
            match self.store.come().await {
                Err(error) if error.code == ErrorCode::Unavailable && Instant::now() + AGAIN < deadline => {
                    tokio::time::sleep(AGAIN).await;
                }
                done => return done,
            }
        }
    }
}

/// Asks for as long as something waits.
async fn ask(logs: Arc<Logs>) {
    loop {
        let before = {
            let mut waiting = logs.unknown.waiting.lock();
            waiting.asking = !waiting.topics.is_empty();
            if !waiting.asking {
                return;
            }
            waiting.next
        };
        let came = tokio::select! {
            came = logs.come() => came,
            () = logs.shutdown.started() => Err(crate::jetstream::closed()),
        };
        let before = if logs.shutdown.has_started() { u64::MAX } else { before };
        logs.place_waiting(before, came.as_ref().err());
    }
}
