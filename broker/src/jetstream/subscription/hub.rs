//! The subscriptions of a cluster as one engine sees them, and those that it owns.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossdock_topics::{
    Clock, ConsumerId, Delivery, ErrorCode, Expect, Fetch, Result, Revision, Shutdown, Subscription,
    SubscriptionName, SystemClock,
};
use parking_lot::RwLock;
use tokio::time::Instant;

use super::catch_up::CATCH_UP;
use super::definitions::{Defined, Definitions, not_found};
use super::elsewhere::Elsewhere;
use super::journal::Journals;
use super::owned::{Common, Owned, Tenure, moved};
use super::owners::Owners;
use super::pass::Command;
use super::topics::Topics;
use crate::delivery::block::Block;
use crate::delivery::{Blocks, Feed, LONGEST_WAIT, Sieve};
use crate::jetstream::connection::Connection;
use crate::jetstream::instance::Instance;
use crate::jetstream::log::{Logs, Needs, Readers};
use crate::jetstream::store::KeyStore;

/// When nothing has come for so long, NATS is asked how far topics go.
const QUIET: Duration = Duration::from_millis(100);
/// How often all of it is looked at, at least.
const LOOK: Duration = Duration::from_secs(1);
/// When whoever has come to an engine that closes may look for another one.
const SOON: Duration = Duration::from_millis(50);
/// So many are taken over at once.
const TAKING: usize = 16;

/// The subscriptions of a cluster.
pub(in crate::jetstream) struct Hub {
    pub(super) common: Common,
    pub(super) definitions: Definitions,
    pub(super) shutdown: Shutdown,
    owned: RwLock<HashMap<SubscriptionName, Arc<Owned>>>,
    pub(super) owners: Owners,
    elsewhere: Elsewhere,
    /// Each is taken over, or changed, once at a time.
    taking: [tokio::sync::Mutex<()>; TAKING],
    consumers: AtomicU64,
    /// Nothing more is asked by this process; others may ask until it is closed.
    leaving: AtomicBool,
    closed: AtomicBool,
}

impl Hub {
    /// Begins to look after them.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(in crate::jetstream) async fn open(
        connection: &Connection,
        store: &KeyStore,
        instance: &Instance,
        logs: &Arc<Logs>,
        shutdown: &Shutdown,
    ) -> Result<Arc<Self>> {
        let journals = Journals::open(connection).await?;
        let clock = Arc::new(SystemClock);
        let consumers = u64::try_from(clock.now().0).unwrap_or(0).saturating_mul(1000);
        let hub = Arc::new(Self {
            common: Common { journals, topics: Topics(logs.clone()), clock },
            definitions: Definitions(store.clone()),
            shutdown: shutdown.clone(),
            owned: RwLock::default(),
            owners: Owners::new(store, instance),
            elsewhere: Elsewhere::default(),
            taking: Default::default(),
            consumers: AtomicU64::new(consumers),
            leaving: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        logs.set_readers(hub.clone());
        shutdown.tasks().spawn(hub.clone().watch());
        let reading = hub.clone();
        shutdown.tasks().spawn(async move {
            tokio::select! {
                () = reading.elsewhere.run(&reading.common.journals) => {}
                () = reading.shutdown.started() => {}
            }
        });
        Ok(hub)
    }

    /// From now on this process asks for nothing.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// Whether this process may ask for something.
    pub(super) fn check_staying(&self) -> Result<()> {
        if self.leaving.load(Ordering::SeqCst) { Err(crate::jetstream::closed()) } else { self.check_open() }
    }

    /// How many servers keep what is kept of subscriptions, as it was found.
    pub(in crate::jetstream) fn replicas(&self) -> usize {
        self.common.journals.replicas()
    }

    /// Lets go of all subscriptions.
    pub(in crate::jetstream) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.owned.read().values().for_each(|owned| owned.end());
    }

    /// The subscription if it is owned here.
    pub(super) fn known(&self, name: &SubscriptionName) -> Option<Arc<Owned>> {
        self.owned.read().get(name).cloned()
    }

    /// The subscription if it is owned here, and at work.
    pub(super) fn at_work(&self, name: &SubscriptionName) -> Option<Arc<Owned>> {
        self.owned.read().get(name).filter(|owned| !owned.over.is_cancelled()).cloned()
    }

    /// All of those.
    pub(super) fn all_at_work(&self) -> Vec<Arc<Owned>> {
        let owned = self.owned.read();
        owned.values().filter(|owned| !owned.over.is_cancelled()).cloned().collect()
    }

    /// Why nothing can be asked any more.
    pub(super) fn check_open(&self) -> Result<()> {
        let closed = self.closed.load(Ordering::SeqCst) || self.shutdown.has_started();
        // Another engine that asks finds somebody else.
        if closed { Err(crate::jetstream::closed().retry_after(SOON)) } else { Ok(()) }
    }

    pub(super) fn number(&self) -> ConsumerId {
        ConsumerId(self.consumers.fetch_add(1, Ordering::Relaxed))
    }

    /// Follows what is changed in the store, and in the topics.
    async fn watch(self: Arc<Self>) {
        let (mut topics, mut held) = (self.common.topics.changes(), self.owners.held());
        loop {
            let revision = self.owners.revision();
            let ours = self.owners.all_ours();
            let (numbers, defined_at) = self.definitions.by_number();
            for id in ours {
                let done = match numbers.get(&id) {
                    Some((name, revision)) if self.is_as_defined(name, *revision) => Ok(()),
                    // Another engine has handed it over, or this one has let go of it because something failed; or it
                    // is defined anew.
                    Some((name, _)) => self.current(name).await.map(drop),
                    // It was claimed when it had just been deleted.
                    None => self.owners.forget(id).await,
                };
                if let Err(error) = done {
                    tracing::debug!(subscription = id, %error, "it cannot be looked after yet");
                }
            }
            let known: Vec<_> = self.owned.read().iter().map(|(n, o)| (n.clone(), o.clone())).collect();
            for (name, owned) in known {
                // One that this release cannot read is not gone.
                if !self.definitions.knows(&name) {
                    self.gone(&name);
                } else if self.owners.has_lost(owned.state.id, owned.tenure.lease) {
                    owned.end();
                } else if let Err(error) = owned.catch_topics().await {
                    tracing::debug!(subscription = %name, %error, "its topics cannot be looked after yet");
                }
            }
            let defined = async {
                // Otherwise so much has changed that it must be looked at anew.
                if let Ok(mut watch) = self.definitions.watch(defined_at) {
                    watch.next().await;
                }
            };
            tokio::select! {
                () = self.shutdown.started() => return,
                () = defined => {}
                _ = self.owners.changed(revision) => {}
                _ = topics.changed() => {}
                _ = held.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn is_as_defined(&self, name: &SubscriptionName, revision: Revision) -> bool {
        self.at_work(name).is_some_and(|owned| owned.state.definition().1 == revision)
    }

    /// The subscription, if this engine is its owner.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub(super) async fn owned(self: &Arc<Self>, name: &SubscriptionName) -> Result<Arc<Owned>> {
        match self.at_work(name) {
            Some(owned) => Ok(owned),
            None => self.current(name).await,
        }
    }

    /// The same, and sees to it that it is as it is defined.
    pub(super) async fn current(self: &Arc<Self>, name: &SubscriptionName) -> Result<Arc<Owned>> {
        self.check_open()?;
        if !self.definitions.has(name).await? {
            return Err(not_found(name));
        }
        let id = self.definitions.number(name).await?;
        let _one = self.taking[id as usize % TAKING].lock().await;
        let Defined { definition, revision } = self.definitions.peek(name)?;
        if let Some(owned) = self.at_work(name) {
            if owned.state.definition().1 < revision {
                let sieve = sieve(&definition).await;
                let definition = Box::new(definition);
                owned.ask(|answer| Command::Define { definition, sieve, revision, answer }).await?;
            }
            return Ok(owned);
        }
        let lease = self.owners.ours(id).ok_or_else(|| moved(name))?;
        let owners = self.owners.clone();
        let me = self.owners.me().to_owned();
        let tenure = Tenure { me, lease, holds: Box::new(move || owners.holds(lease)) };
        let sieve = sieve(&definition).await;
        let (owned, running) =
            Owned::take_over(&self.common, id, definition, sieve, revision, tenure).await?;
        tracing::debug!(subscription = %name, "owned here from now on");
        self.owned.write().insert(name.clone(), owned.clone());
        let (hub, name, ended) = (self.clone(), name.clone(), owned.clone());
        self.shutdown.tasks().spawn(async move {
            running.await;
            hub.owned.write().retain(|_, owned| !Arc::ptr_eq(owned, &ended));
            if ended.state.is_deleted()
                && let Err(error) = hub.clean_up(id, &name).await
            {
                tracing::warn!(subscription = %name, %error, "its journal is left in NATS, and does no harm");
            }
        });
        if self.check_open().is_err() {
            owned.end();
        }
        Ok(owned)
    }

    /// Hands one over that is not at work here, once it is sure that it is not just being taken over.
    ///
    /// # Errors
    /// Those of [`Owners::give`]; `Unavailable` when it is at work now.
    pub(super) async fn give_idle(&self, id: u32, other: &str) -> Result<()> {
        let _one = self.taking[id as usize % TAKING].lock().await;
        if self.all_at_work().iter().any(|owned| owned.state.id == id) {
            return Err(moved(&id));
        }
        self.owners.give(id, other).await
    }

    /// Removes what is kept of a subscription that was deleted, unless its name is in use again with the same number.
    async fn clean_up(&self, id: u32, name: &SubscriptionName) -> Result<()> {
        let is_defined = self.definitions.still_has(name).await?;
        if self.definitions.peek_number(name) == Some(id) {
            if is_defined {
                return Ok(());
            }
            self.definitions.forget_number(id, name).await?;
        }
        self.common.journals.remove(id).await?;
        self.owners.forget(id).await
    }

    /// It was deleted.
    fn gone(&self, name: &SubscriptionName) {
        if let Some(owned) = self.owned.write().remove(name) {
            owned.state.mark_deleted();
            owned.end();
        }
    }

    /// Makes a subscription, or changes it.
    pub(super) async fn put(
        self: &Arc<Self>,
        subscription: Subscription,
        expect: Expect,
    ) -> Result<Revision> {
        let name = subscription.name.clone();
        loop {
            let mut definition = subscription.clone();
            let before = self.definitions.revision(&name).await?;
            let at = before.map_or(Expect::Absent, Expect::At);
            if expect != Expect::Any && expect != at {
                // It says what is there instead.
                return self.definitions.put(&definition, expect).await;
            }
            for topic in definition.topics.iter().filter_map(crossdock_topics::TopicPattern::literal) {
                self.common.topics.limit(&topic).await?;
            }
            if let Some(revision) = before {
                let before = self.definitions.peek(&name)?.definition;
                definition.start = before.start;
                if before == definition {
                    return Ok(revision);
                }
            }
            match self.definitions.put(&definition, at).await {
                Ok(revision) => {
                    let id = self.definitions.number(&name).await?;
                    self.owners.claim(id, &name).await?;
                    if self.owners.ours(id).is_some() {
                        self.current(&name).await?;
                    }
                    return Ok(revision);
                }
                Err(error) if error.code == ErrorCode::Conflict && expect == Expect::Any => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes a subscription, with all that is kept of it.
    pub(super) async fn delete(self: &Arc<Self>, name: &SubscriptionName) -> Result<()> {
        let revision = self.definitions.revision(name).await?.ok_or_else(|| not_found(name))?;
        // So that its journal is found and removed, when this engine has let go of it.
        let owned = self.current(name).await?;
        // First: whoever makes it anew as soon as it is gone gets another number, and begins at the start.
        self.definitions.forget_number(owned.state.id, name).await?;
        self.definitions.delete(name, revision).await?;
        self.gone(name);
        owned.state.mark_deleted();
        Ok(())
    }

    /// Takes messages. What has a receipt when this begins is found.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        name: &SubscriptionName,
        fetch: Fetch,
    ) -> Result<Vec<Delivery>> {
        let deadline = Instant::now() + fetch.wait.min(LONGEST_WAIT);
        let owned = self.owned(name).await?;
        owned.catch_up_with_receipts().await;
        // Asking NATS keeps what comes meanwhile waiting: whoever waits anyway is told of that first.
        let briefly = if fetch.wait > QUIET { QUIET } else { Duration::ZERO };
        let deliveries = owned.fetch(Fetch { wait: briefly, ..fetch.clone() }).await?;
        if !deliveries.is_empty() {
            return Ok(deliveries);
        }
        // What its topics say in time is enough.
        let caught_up = tokio::time::timeout_at(deadline.max(Instant::now() + CATCH_UP), owned.catch_up());
        caught_up.await.unwrap_or(Ok(()))?;
        owned.fetch(Fetch { wait: deadline.saturating_duration_since(Instant::now()), ..fetch }).await
    }
}

impl Readers for Hub {
    fn trimmed(&self, feed: &Arc<Feed>, head: u64) {
        // What follows is kept with the next pass.
        for state in feed.subscribers() {
            state.trimmed(feed, head, self.common.clock.now());
        }
    }

    fn compacted_to(&self, feed: &Arc<Feed>, head: u64) {
        for state in feed.subscribers() {
            state.compacted_to(feed, head, self.common.clock.now());
        }
    }

    fn compacted(&self, feed: &Arc<Feed>, removed: &[u64]) {
        for state in feed.subscribers() {
            state.compacted(feed, removed, self.common.clock.now());
        }
    }

    fn dead(&self, feed: &Arc<Feed>) -> Vec<u64> {
        let dead: BTreeSet<u64> = feed.subscribers().iter().flat_map(|state| state.dead_in(feed)).collect();
        dead.into_iter().collect()
    }

    fn begin_again(&self, feed: &Arc<Feed>, from: u64) {
        for owned in self.all_at_work().into_iter().filter(|owned| owned.reads.lock().contains_key(&feed.id))
        {
            let log = feed.id;
            self.shutdown.tasks().spawn(async move {
                // Should it not be stored, whoever owns it next finds that its place lies behind the topic's end.
                if let Err(error) = owned.ask(|answer| Command::Shortened { log, to: from, answer }).await {
                    tracing::warn!(subscription = %owned.state.name, %error, "it is taken over anew");
                    owned.end();
                }
            });
        }
    }

    fn needs(&self, feed: &Arc<Feed>) -> Needs {
        let mut needed = Needs::Nothing;
        for definition in self.definitions.peek_all() {
            if !definition.topics.iter().any(|pattern| pattern.matches(feed.name.as_str())) {
                continue;
            }
            let needs = match self.at_work(&definition.name) {
                Some(owned) if owned.check_held().is_ok() => owned.state.needs(feed),
                _ => self
                    .definitions
                    .peek_number(&definition.name)
                    .and_then(|number| self.elsewhere.needs(number, feed.id)),
            };
            let Some((offset, why)) = needs else { return Needs::Unknown };
            if !matches!(needed, Needs::From(least, _) if least <= offset) {
                let words = format!("subscription {} {why} offset {offset}", definition.name);
                needed = Needs::From(offset, words);
            }
        }
        needed
    }
}

impl Blocks for Hub {
    async fn blocks(&self, feed: &Arc<Feed>, offset: u64, limit: usize) -> Result<Vec<Arc<Block>>> {
        self.common.topics.blocks(feed, offset, limit).await
    }
}

/// Compiles a filter that was compiled before, by another release perhaps. One that is not understood any more loses
/// nothing: all messages pass.
async fn sieve(definition: &Subscription) -> Option<Arc<Sieve>> {
    let filter = definition.filter.clone()?;
    let compiled = tokio::task::spawn_blocking(move || Sieve::compile(&filter)).await;
    let name = &definition.name;
    match compiled {
        Ok(Ok(sieve)) => Some(Arc::new(sieve)),
        Ok(Err(error)) => {
            tracing::error!(subscription = %name, %error, "all messages pass its filter");
            None
        }
        Err(_) => None,
    }
}
