//! A subscription that this engine owns.
//!
//! It works as in every engine ([`SubscriptionState`]); what must survive is in its [`super::journal`], and what the
//! journal comes to in memory. One task ([`super::pass`]) writes the journal and does everything that changes what is
//! kept; deliveries are taken beside it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossdock_topics::{
    Clock, Delivery, DeliveryId, Error, ErrorCode, Fetch, LeaseId, Outcome, Result, Settled, Settlement,
    StartAt, Subscription, Timestamp,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::{Changes, Kept, Kind};
use super::journal::{Journal, Journals};
use super::outputs::Settling;
use super::pass::{self, Command};
use super::topics::{Read, Topics};
use crate::delivery::block::Block;
use crate::delivery::{Blocks, Engine, Feed, Keep, Operation, Sieve, SubscriptionState, keys};

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
/// From which engine to which it was handed over with what consumers held: [`between`]. For any other one that is over: both
/// have gone before they heard more of it, and consumers perhaps too.
pub(super) const BETWEEN: &[u8] = b"between";

/// What all subscriptions of an engine have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) journals: Journals,
    pub(super) topics: Topics,
    pub(super) clock: Arc<dyn Clock>,
}

/// By what this engine owns a subscription.
pub(super) struct Tenure {
    /// This engine's name.
    pub(super) me: String,
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
    /// Nothing is delivered, because it is about to be handed over.
    pausing: AtomicBool,
    /// What was with consumers when it was handed over: another engine hears what becomes of it.
    handed: OnceLock<HashSet<DeliveryId>>,
    /// This engine owns it no longer.
    pub(super) over: CancellationToken,
    /// What can be said of topics is known as of this change.
    pub(super) topics_seen: AtomicU64,
    /// Its topics.
    pub(super) reads: Mutex<HashMap<u32, Read>>,
    /// What group tokens begin with: larger than in every life before.
    pub(super) token: u64,
    /// The deliveries whose outputs are being stored.
    pub(super) settling: Settling,
    /// Topics that could not be read yet are looked for again after a while, to begin at this place.
    pub(super) later: Mutex<Option<(Instant, StartAt)>>,
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
            pausing: AtomicBool::new(false),
            handed: OnceLock::new(),
            over: CancellationToken::new(),
            topics_seen: AtomicU64::new(u64::MAX),
            reads: Mutex::default(),
            token: journal.number() << 24,
            settling: Settling::default(),
            later: Mutex::new(None),
        });
        let mut pass = pass::Pass::new(owned.clone(), journal);
        // Its topics, before anybody takes anything.
        if let Err(error) = pass.begin().await {
            owned.detach();
            return Err(error);
        }
        Ok((owned, pass.run(commands)))
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

    /// Takes messages. What was taken while others may have taken the subscription over is not given to anybody, unless
    /// it was handed over with it.
    pub(super) async fn fetch(&self, fetch: Fetch) -> Result<Vec<Delivery>> {
        let deliveries = self.state.fetch(self, fetch).await?;
        let Err(error) = self.check_held() else { return Ok(deliveries) };
        let handed = self.handed.get().filter(|_| (self.tenure.holds)());
        let (given, taken): (Vec<_>, Vec<_>) = deliveries
            .into_iter()
            .partition(|delivery| handed.is_some_and(|handed| handed.contains(&delivery.id)));
        let outcomes = taken.into_iter().map(|delivery| (delivery.id, Outcome::Release)).collect();
        self.state.settle(&Settlement { outcomes, ..Settlement::default() }, false, self.now());
        if given.is_empty() { Err(error) } else { Ok(given) }
    }

    /// Settles, when all outputs have been stored.
    pub(super) async fn settle(&self, settlement: Settlement, whole: bool) -> Result<Settled> {
        self.check_held()?;
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

    /// Why nothing can be asked of it, if so: another engine owns it, or may by now.
    pub(super) fn check_held(&self) -> Result<()> {
        let is_handed = self.handed.get().is_some();
        let is_held = !is_handed && !self.over.is_cancelled() && (self.tenure.holds)();
        if is_held { Ok(()) } else { Err(self.why_over()) }
    }

    /// Delivers nothing more; what is with consumers can be settled.
    pub(super) fn pause(&self) {
        self.pausing.store(true, Ordering::SeqCst);
        self.state.wake_all();
    }

    /// Delivers again.
    pub(super) fn go_on(&self) {
        self.pausing.store(false, Ordering::SeqCst);
        self.state.wake_all();
    }

    /// How many messages are with consumers.
    pub(super) fn in_flight(&self) -> u64 {
        self.state.info().topics.iter().map(|topic| topic.in_flight).sum()
    }

    /// Has what consumers hold kept for another engine. From now on nothing is delivered or settled here.
    pub(super) fn let_go_of_held(&self, other: &str, changes: &mut Changes) -> Result<()> {
        changes.put(BETWEEN, &between(&self.tenure.me, other));
        self.state.keep_held(changes, |held| drop(self.handed.set(held)))
    }

    /// Whether what was with consumers when it was last handed over can be settled here: it was handed to this one, or could
    /// not be and is still this one's.
    pub(super) fn goes_on_with_held(&self) -> bool {
        let me = self.tenure.me.as_bytes();
        let kept = self.kept.read();
        kept.get(BETWEEN).is_some_and(|between| between.split(|byte| *byte == b' ').any(|one| one == me))
    }

    /// Why nothing can be said of some of these deliveries yet, if so: there is a place in their topic, which is left for later.
    pub(super) fn check_read(&self, deliveries: impl Iterator<Item = DeliveryId>) -> Result<()> {
        let unread: BTreeSet<u32> = {
            let reads = self.reads.lock();
            deliveries.map(|id| id.log).filter(|topic| !reads.contains_key(topic)).collect()
        };
        let kept = self.kept.read();
        let has_place = |topic: &u32| kept.get(&keys::place(self.state.id, *topic)).is_some();
        if unread.iter().any(has_place) { Err(self.why_over()) } else { Ok(()) }
    }

    /// Has all that has changed stored.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn rest(&self) -> Result<()> {
        self.ask(|answer| Command::Rest { answer }).await
    }

    /// Lets go of it: from now on nothing is delivered or settled here.
    pub(super) fn end(&self) {
        self.over.cancel();
        self.state.wake_all();
    }
}

/// What is kept as [`BETWEEN`]: the names of both, which have no spaces.
fn between(from: &str, to: &str) -> Vec<u8> {
    format!("{from} {to}").into_bytes()
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

    /// For whoever fetches; what else is asked goes on while it is about to be handed over.
    fn check_open(&self) -> Result<()> {
        if self.pausing.load(Ordering::SeqCst) {
            return Err(self.why_over());
        }
        self.check_held()
    }

    fn kept(&self, _: &SubscriptionState, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.kept.read().get(key).map(|value| value.to_vec()))
    }

    fn persist_soon(&self, _: &Arc<SubscriptionState>) -> Result<()> {
        self.dirty.notify_one();
        Ok(())
    }

    async fn operate(&self, _: &Arc<SubscriptionState>, operation: Operation) -> Result<usize> {
        self.check_held()?;
        self.ask(|answer| Command::Operate { operation, answer }).await
    }
}

/// An empty message of the journal.
pub(super) fn changes() -> Changes {
    Changes::new(Kind::Changes)
}
