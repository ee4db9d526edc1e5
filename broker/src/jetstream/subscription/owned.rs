//! A subscription that this engine owns.
//!
//! It works as in every engine ([`SubscriptionState`]); what must survive is in its [`super::journal`], and what the
//! journal comes to in memory. One task ([`super::pass`]) writes the journal and does everything that changes what is
//! kept; deliveries are taken beside it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crossdock_topics::{
    Clock, Delivery, Error, ErrorCode, Fetch, LeaseId, Outcome, Result, Settled, Settlement, StartAt,
    Subscription, Timestamp, TopicName,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::{Changes, Kept, Kind};
use super::hub::catch_up;
use super::journal::{Journal, Journals};
use super::pass::{self, Command};
use super::topics::{Read, Topics};
use crate::delivery::block::Block;
use crate::delivery::{
    Blocks, Engine, Feed, Keep, Operation, READ_BYTES, Restoring, Sieve, SubscriptionState, facts, keys,
    members,
};
use crate::group::{Facts, Group, Place, Rules};

/// So many commands may wait for a pass; then whoever comes waits before it.
const WAITING: usize = 4096;
/// How long taking over may take.
const TAKING_OVER: Duration = Duration::from_secs(30);

/// There once places have been given to it.
pub(super) const BEGUN: &[u8] = b"begun";
/// There while it is paused.
pub(super) const PAUSED: &[u8] = b"paused";
/// How often messages were made to be delivered again as if they had never been.
pub(super) const GENERATION: &[u8] = b"generation";

/// What all subscriptions of an engine have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) journals: Journals,
    pub(super) topics: Topics,
    pub(super) clock: Arc<dyn Clock>,
}

/// By what this engine owns a subscription.
pub(super) struct Tenure {
    pub(super) lease: LeaseId,
    /// Whether no other engine can have taken it over yet.
    pub(super) holds: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A subscription that this engine owns.
pub(super) struct Owned {
    pub(super) state: Arc<SubscriptionState>,
    pub(super) common: Common,
    pub(super) tenure: Tenure,
    /// What its journal comes to.
    pub(super) kept: RwLock<Kept>,
    commands: mpsc::Sender<Command>,
    /// Something has changed that is to be persisted.
    pub(super) dirty: Notify,
    /// This engine owns it no longer.
    pub(super) over: CancellationToken,
    /// What can be said of topics is known as of this change.
    pub(super) topics_seen: AtomicU64,
    /// Its topics.
    pub(super) reads: Mutex<HashMap<u32, Read>>,
    /// What group tokens begin with: larger than in every life before.
    token: u64,
}

impl Owned {
    /// Takes a subscription over, and begins to work. Whoever calls awaits the task, which ends when the subscription is
    /// let go of, lost or deleted.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn take_over(
        common: &Common,
        id: u32,
        definition: Subscription,
        sieve: Option<Arc<Sieve>>,
        revision: u64,
        tenure: Tenure,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send + use<>)> {
        let (journal, kept) = Journal::open(&common.journals, id, Instant::now() + TAKING_OVER).await?;
        let (sender, commands) = mpsc::channel(WAITING);
        let state = Arc::new(SubscriptionState::new(id, definition, sieve, revision));
        state.set_paused(kept.get(PAUSED).is_some());
        let owned = Arc::new(Self {
            state,
            common: common.clone(),
            tenure,
            kept: RwLock::new(kept),
            commands: sender,
            dirty: Notify::new(),
            over: CancellationToken::new(),
            topics_seen: AtomicU64::new(u64::MAX),
            reads: Mutex::default(),
            token: journal.number() << 24,
        });
        let mut pass = pass::Pass::new(owned.clone(), journal);
        // Its topics, before anybody takes anything.
        pass.begin().await?;
        Ok((owned, pass.run(commands)))
    }

    /// Gives it the topics that its definition names and it does not read yet, and takes away those that are gone. Those
    /// that have no place yet get one at `start`.
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
        for (_, name) in topics.iter().filter(|(id, _)| !known.iter().any(|feed| feed.id == *id)) {
            match self.attach_one(&definition, name, start, changes).await {
                // It has gone meanwhile.
                Err(error) if error.code == ErrorCode::NotFound => {}
                attached => attached?,
            }
        }
        Ok(())
    }

    async fn attach_one(
        &self,
        definition: &Subscription,
        name: &TopicName,
        start: StartAt,
        changes: &mut Changes,
    ) -> Result<()> {
        let read = self.common.topics.follow(name)?;
        let feed = read.need.feed().clone();
        let mut restoring = Restoring::default();
        let prefix = keys::group(self.state.id, feed.id);
        for (key, value) in self.kept.read().scan(&prefix) {
            restoring.read(key, value)?;
        }
        if !restoring.is_placed() {
            let offset = self.common.topics.place(&read.log, start).await?;
            let group = Group::new(Rules::from(definition), Place::at(offset).into(), self.token);
            members::write(self.state.id, feed.id, &group, &[], changes)?;
            self.reads.lock().insert(feed.id, read);
            self.state.attach(&feed, group);
            return Ok(());
        }
        // What it stopped at is read from what the topic shows.
        catch_up(&self.common.topics, &read.log).await?;
        let near = self.load(&feed, restoring.wanted(definition)).await?;
        let block = |offset| Ok(find(&near, offset));
        let (group, mended) = restoring.group(definition, feed.head(), self.token, block)?;
        self.reads.lock().insert(feed.id, read);
        self.state.attach(&feed, group);
        self.state.restore_mended(&feed, mended);
        Ok(())
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

    /// Asks for a pass, and waits for what comes of it.
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| self.why_over())?;
        answered.await.unwrap_or_else(|_| Err(self.why_over()))
    }

    /// Takes messages. What was taken while others may have taken the subscription over is not given to anybody.
    pub(super) async fn fetch(&self, fetch: Fetch) -> Result<Vec<Delivery>> {
        let deliveries = self.state.fetch(self, fetch).await?;
        if !deliveries.is_empty()
            && let Err(error) = self.check_open()
        {
            let outcomes = deliveries.into_iter().map(|delivery| (delivery.id, Outcome::Release)).collect();
            self.state.settle(&Settlement { outcomes, ..Settlement::default() }, false, self.now());
            return Err(error);
        }
        Ok(deliveries)
    }

    /// Settles, when all outputs have been stored.
    pub(super) async fn settle(&self, settlement: Settlement, whole: bool) -> Result<Settled> {
        self.check_open()?;
        self.ask(|answer| Command::Settle { settlement, whole, answer }).await
    }

    /// How often messages were made to be delivered again as if they had never been.
    pub(super) fn generation(&self) -> u64 {
        self.kept.read().get(GENERATION).and_then(|value| keys::u64_of(value)).unwrap_or(0)
    }

    /// Why nothing can be asked of it any more.
    pub(super) fn why_over(&self) -> Error {
        if self.state.is_deleted() {
            return Error::not_found("subscription", &self.state.name);
        }
        moved(&self.state.name)
    }

    /// Lets go of it: from now on nothing is delivered or settled here.
    pub(super) fn end(&self) {
        self.over.cancel();
        self.state.wake_all();
    }
}

/// The block that holds a message, among blocks in order.
fn find(blocks: &[Arc<Block>], offset: u64) -> Option<Arc<Block>> {
    let at = blocks.partition_point(|block| block.range().end <= offset);
    blocks.get(at).filter(|block| block.range().contains(&offset)).cloned()
}

/// It is not owned here (any more).
pub(super) fn moved(name: &dyn std::fmt::Display) -> Error {
    // Whoever asks can tell from the last of it that nothing was done.
    Error::new(ErrorCode::Unavailable, format!("subscription {name} is being taken over by another server"))
        .hint("try again")
        .retry_after(Duration::from_millis(50))
}

impl Blocks for Owned {
    async fn blocks(&self, feed: &Arc<Feed>, offset: u64, limit: usize) -> Result<Vec<Arc<Block>>> {
        self.common.topics.blocks(feed, offset, limit).await
    }
}

impl Engine for Owned {
    fn now(&self) -> Timestamp {
        self.common.clock.now()
    }

    fn check_open(&self) -> Result<()> {
        if self.over.is_cancelled() || !(self.tenure.holds)() { Err(self.why_over()) } else { Ok(()) }
    }

    fn kept(&self, _: &SubscriptionState, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.kept.read().get(key).map(|value| value.to_vec()))
    }

    fn persist_soon(&self, _: &Arc<SubscriptionState>) -> Result<()> {
        self.dirty.notify_one();
        Ok(())
    }

    async fn operate(&self, _: &Arc<SubscriptionState>, operation: Operation) -> Result<usize> {
        self.check_open()?;
        self.ask(|answer| Command::Operate { operation, answer }).await
    }
}

/// An empty message of the journal.
pub(super) fn changes() -> Changes {
    Changes::new(Kind::Changes)
}
