//! The topics of a subscription that is owned here: which they are, and where it goes on in each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossdock_topics::{Error, ErrorCode, Result, StartAt, Subscription, TopicName};
use futures::StreamExt;
use tokio::time::{Instant, timeout};

use super::catch_up::catch_up;
use super::entry::Changes;
use super::owned::{GENERATION, Owned};
use super::pass::Command;
use super::topics::Read;
use crate::delivery::block::Block;
use crate::delivery::{Engine, Feed, Keep, READ_BYTES, Restoring, facts, keys, members};
use crate::group::{Action, Event, Facts, Group, Place, Rules};

/// How long finding the place in a topic may take: others are not kept waiting for it longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait before looking again for those that were not to be had.
const LATER: Duration = Duration::from_secs(5);
/// So many are looked at at once.
const AT_ONCE: usize = 32;

/// A topic, and where the subscription goes on in it.
struct Attaching {
    read: Read,
    group: Group,
    /// What of the group is to be kept with the next pass.
    pending: Vec<Action>,
    mended: std::collections::BTreeSet<u64>,
    /// What is to be kept of that.
    changes: Changes,
}

impl Owned {
    /// Gives it the topics that its definition names and it does not read yet, and takes away those that are gone. Those
    /// that have no place yet get one at `start`. One that is not to be had now is left for later.
    pub(super) async fn attach(&self, start: StartAt, changes: &mut Changes) -> Result<()> {
        let (definition, _) = self.state.definition();
        let matches =
            |name: &TopicName| definition.topics.iter().any(|pattern| pattern.matches(name.as_str()));
        let mut topics = self.common.topics.all();
        topics.retain(|(_, name)| matches(name));
        let known = self.state.feeds(None);
        for gone in known.iter().filter(|feed| !topics.iter().any(|(id, _)| *id == feed.id)) {
            self.state.retain_logs(gone);
            gone.detach(&self.state);
            self.reads.lock().remove(&gone.id);
            let prefix = keys::group(self.state.id, gone.id);
            self.kept.read().scan(&prefix).for_each(|(key, _)| changes.delete(key));
        }
        topics.retain(|(id, _)| !known.iter().any(|feed| feed.id == *id));
        let definition = &*definition;
        let found = futures::stream::iter(topics).map(|(_, name)| async move {
            let found = timeout(PATIENCE, self.find_place(definition, &name, start)).await;
            let late = || Error::new(ErrorCode::Unavailable, "NATS did not say in time how far it goes");
            (name, found.unwrap_or_else(|_| Err(late())))
        });
        let mut found = std::pin::pin!(found.buffer_unordered(AT_ONCE));
        let mut later = None;
        while let Some((topic, found)) = found.next().await {
            match found {
                Ok(Attaching { read, group, pending, mended, changes: more }) => {
                    let feed = read.need.feed().clone();
                    changes.add(&more);
                    self.state.attach_with(&feed, group, pending);
                    self.state.restore_mended(&feed, mended);
                    // Whoever finds it here finds it there.
                    self.reads.lock().insert(feed.id, read);
                }
                // It has gone meanwhile.
                Err(error) if error.code == ErrorCode::NotFound => {}
                Err(error) if error.code == ErrorCode::Unavailable => {
                    tracing::debug!(subscription = %self.state.name, %topic, %error, "it is not read yet");
                    later = Some((Instant::now() + LATER, start));
                }
                Err(error) => return Err(error),
            }
        }
        *self.later.lock() = later;
        Ok(())
    }

    /// Forgets what is kept of topics that were deleted while nobody owned it, if the store can say which there are.
    pub(super) async fn forget_gone(&self, changes: &mut Changes) {
        let there = match timeout(PATIENCE, self.common.topics.numbers()).await {
            Ok(Ok(there)) => there,
            Ok(Err(error)) => {
                return tracing::debug!(subscription = %self.state.name, %error, "left for later");
            }
            Err(_) => return,
        };
        let kept = self.kept.read();
        for (key, _) in kept.scan(&self.state.id.to_be_bytes()) {
            // Other keys are words.
            if key.len() > 8 && !keys::u32_of(&key[4..]).is_some_and(|topic| there.contains(&topic)) {
                changes.delete(key);
            }
        }
    }

    async fn find_place(
        &self,
        definition: &Subscription,
        name: &TopicName,
        start: StartAt,
    ) -> Result<Attaching> {
        let read = self.common.topics.follow(name)?;
        let feed = read.need.feed().clone();
        let mut changes = super::owned::changes();
        let mut restoring = Restoring::default();
        let prefix = keys::group(self.state.id, feed.id);
        let with_held = self.goes_on_with_held();
        for (key, value) in self.kept.read().scan(&prefix) {
            if !keys::is_of(key, keys::HELD) {
                restoring.read(key, value)?;
                continue;
            }
            if with_held {
                restoring.read_held(key, value)?;
            }
            // From now on it is known here what becomes of it.
            changes.delete(key);
        }
        if !restoring.is_placed() {
            let offset = self.common.topics.place(&read.log, start).await?;
            let group = Group::new(Rules::from(definition), Place::at(offset).into(), self.token);
            members::write(self.state.id, feed.id, &group, &[], &mut changes)?;
            return Ok(Attaching { read, group, pending: Vec::new(), mended: Default::default(), changes });
        }
        // What it stopped at is read from what the topic shows.
        let end = catch_up(&self.common.topics, &read.log).await?;
        if feed.tail() < end && !feed.is_deleted() {
            return Err(Error::new(
                ErrorCode::Unavailable,
                format!("topic {name} does not show all of it yet"),
            ));
        }
        let near = self.load(&feed, restoring.wanted(definition)).await?;
        let block = |offset| Ok(find(&near, offset));
        let (mut group, mended) = restoring.group(definition, feed.head(), self.token, block)?;
        let (next, tail) = (group.next(), feed.tail());
        let mut pending = Vec::new();
        if next > tail {
            tracing::warn!(
                subscription = %self.state.name, topic = %name, next, tail,
                "the topic is shorter than it was: it goes on at its end"
            );
            group.apply(Event::Shortened(tail), self.now(), &mut pending);
            // What comes out of messages there is not what came out of those that had their offsets before.
            changes.put(GENERATION, &(self.generation() + 1).to_be_bytes());
        }
        Ok(Attaching { read, group, pending, mended, changes })
    }

    /// Takes in which topics there are.
    pub(super) async fn catch_topics(&self) -> Result<()> {
        let now = *self.common.topics.changes().borrow();
        let is_later = self.later.lock().is_some_and(|(when, _)| when <= Instant::now());
        if self.topics_seen.load(Ordering::Acquire) == now && !is_later {
            return Ok(());
        }
        self.ask(|answer| Command::Topics { answer }).await?;
        self.topics_seen.store(now, Ordering::Release);
        Ok(())
    }

    /// Where it begins in topics that it has no place in yet: those that were there when it was defined at its start.
    pub(super) fn start(&self) -> StartAt {
        self.later.lock().map_or(StartAt::Start, |(_, start)| start)
    }

    /// Reads no topic any more.
    pub(super) fn detach(&self) {
        for feed in self.state.feeds(None) {
            feed.detach(&self.state);
        }
        self.reads.lock().clear();
    }

    /// The blocks that hold these messages, which come in order.
    async fn load(
        &self,
        feed: &Arc<Feed>,
        offsets: impl IntoIterator<Item = u64> + Send,
    ) -> Result<Vec<Arc<Block>>> {
        let mut blocks: Vec<Arc<Block>> = Vec::new();
        let offsets: Vec<u64> = offsets.into_iter().collect();
        for offset in offsets {
            if blocks.last().is_none_or(|block| block.range().end <= offset) {
                blocks.extend(self.common.topics.blocks(feed, offset, READ_BYTES).await?);
            }
        }
        Ok(blocks)
    }

    /// What the log says of the messages that are not settled, by topic. Until the next pass is stored it takes no
    /// others.
    pub(super) async fn open_facts(
        &self,
        definition: &Subscription,
    ) -> Result<HashMap<u32, BTreeMap<u64, Facts>>> {
        let mut open = HashMap::new();
        for (feed, offsets) in self.state.hold(self.now()) {
            let near = self.load(&feed, offsets.iter().copied()).await?;
            open.insert(feed.id, facts(definition, offsets, |offset| Ok(find(&near, offset)))?);
        }
        Ok(open)
    }
}

/// The block that holds a message, among blocks in order.
fn find(blocks: &[Arc<Block>], offset: u64) -> Option<Arc<Block>> {
    let at = blocks.partition_point(|block| block.range().end <= offset);
    blocks.get(at).filter(|block| block.range().contains(&offset)).cloned()
}
