//! The second thread: makes written passes durable, then visible, then answers.
//!
//! While one sync is under way the writer goes on; all that it has written by the time the sync is done is
//! covered by the next one. So the number of messages in a sync follows the load by itself. A small pass that comes
//! while this thread sleeps is finished by the writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::Durability;

use super::Shared;
use super::database::Database;
use super::failpoints::{Step, reach};
use super::log::TopicLog;
use super::writer::{Effect, Pass};
use crate::delivery::block::Block;

/// Runs until the queue of passes is closed and empty.
pub(super) fn run(shared: &Shared, database: &Database) {
    let mut passes = Vec::new();
    while shared.passes.take(&mut passes, Duration::from_secs(3600)) {
        shared.finishing.lock().finish(shared, database, &mut passes);
    }
}

/// Finishes passes: for the syncer, and for the writer while the syncer sleeps.
pub(super) struct Finishing {
    recent: Recent,
}

impl Finishing {
    /// Keeps at most so many bytes of blocks in memory.
    pub(super) fn new(recent_bytes: usize) -> Self {
        Self { recent: Recent { order: VecDeque::new(), bytes: 0, limit: recent_bytes } }
    }

    /// Makes passes durable with one sync, then visible, then answers. They come in the order in which they were
    /// written.
    pub(super) fn finish(&mut self, shared: &Shared, database: &Database, passes: &mut Vec<Pass>) {
        let level = passes.iter().map(|pass| pass.level).max().unwrap_or(Durability::Memory);
        if level > Durability::Memory
            && shared.failure().is_none()
            && let Err(error) = database.sync(level >= Durability::Fsync)
        {
            shared.fail(&error);
        }
        reach(Step::Synced, || passes.iter().any(Pass::settles));
        let settles = cfg!(feature = "failpoints") && passes.iter().any(Pass::settles);
        // After a failure nothing more becomes visible: what is not durable is not there.
        let failure = shared.failure();
        for pass in passes.drain(..) {
            if failure.is_none() {
                reveal(shared, &mut self.recent, pass.blocks, pass.effects);
                if !pass.changes.is_empty() {
                    shared.store.apply(pass.changes);
                }
            }
            for answer in pass.answers {
                answer.tell(failure.as_ref());
            }
            shared.budget.give(pass.bytes);
        }
        reach(Step::Answered, || settles);
    }
}

/// Answers whoever still comes after the syncer has stopped on a fault.
pub(super) fn abandon(shared: &Shared) {
    let mut passes = Vec::new();
    while shared.passes.take(&mut passes, Duration::from_secs(3600)) {
        let failure = shared.failure();
        for pass in passes.drain(..) {
            pass.answers.into_iter().for_each(|answer| answer.tell(failure.as_ref()));
            shared.budget.give(pass.bytes);
        }
    }
}

fn reveal(
    shared: &Shared,
    recent: &mut Recent,
    blocks: Vec<(Arc<TopicLog>, Vec<Arc<Block>>)>,
    effects: Vec<Effect>,
) {
    for effect in effects {
        match effect {
            Effect::TopicMade(log) => drop(shared.topics.write().insert(log.name.clone(), log)),
            Effect::TopicGone(log) => {
                // A topic of the same name may have been made since.
                let mut topics = shared.topics.write();
                if topics.get(&log.name).is_some_and(|known| Arc::ptr_eq(known, &log)) {
                    topics.remove(&log.name);
                }
            }
            Effect::SubscriptionMade(state) => {
                drop(shared.subscriptions.write().insert(state.name.clone(), state))
            }
            Effect::SubscriptionGone(state) => {
                let mut subscriptions = shared.subscriptions.write();
                if subscriptions.get(&state.name).is_some_and(|known| Arc::ptr_eq(known, &state)) {
                    subscriptions.remove(&state.name);
                }
                drop(subscriptions);
                for log in state.retain(|_| false) {
                    log.detach(&state);
                }
            }
            Effect::Synced(state, awaited) => state.synced(&awaited, shared.clock.now()),
        }
    }
    for (log, blocks) in blocks {
        log.advance(&blocks);
        for block in &blocks {
            recent.add(&log, block);
        }
    }
}

/// The blocks that are in memory, of all topics together, oldest first.
struct Recent {
    /// Each with where it ends and the memory it takes.
    order: VecDeque<(Arc<TopicLog>, u64, usize)>,
    bytes: usize,
    limit: usize,
}

impl Recent {
    fn add(&mut self, log: &Arc<TopicLog>, block: &Block) {
        self.order.push_back((log.clone(), block.range().end, block.memory()));
        self.bytes += block.memory();
        while self.bytes > self.limit
            && let Some((log, end, bytes)) = self.order.pop_front()
        {
            log.evict(end);
            self.bytes -= bytes;
        }
    }
}
