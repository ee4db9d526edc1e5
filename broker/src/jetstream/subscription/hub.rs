//! The subscriptions of a cluster as one engine sees them: how each is defined, and those it owns.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossdock_topics::{
    Clock, ConsumerId, Delivery, Error, ErrorCode, Expect, Fetch, Result, Revision, Shutdown, StartAt,
    Subscription, SubscriptionName, SystemClock,
};
use futures::{StreamExt, TryStreamExt};
use parking_lot::RwLock;
use tokio::time::Instant;

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
use crate::jetstream::log::{Logs, Needs, Readers, TopicLog};
use crate::jetstream::store::{Key, KeyStore};

/// How long a topic may take to show what has a receipt.
const CATCH_UP: Duration = Duration::from_secs(2);
/// When nothing has come for so long, NATS is asked how far topics go.
const QUIET: Duration = Duration::from_millis(100);
/// How often all of it is looked at, at least.
const LOOK: Duration = Duration::from_secs(1);
/// So many topics are asked at once how far they go.
const AT_ONCE: usize = 32;
/// So many are taken over at once.
const TAKING: usize = 16;

/// Where the store has definitions, and the engine's own keys the numbers that go with them.
const DEFINITIONS: &str = "subscriptions/";

/// The subscriptions of a cluster.
pub(in crate::jetstream) struct Hub {
    pub(super) common: Common,
    store: KeyStore,
    pub(super) shutdown: Shutdown,
    owned: RwLock<HashMap<SubscriptionName, Arc<Owned>>>,
    pub(super) owners: Owners,
    elsewhere: Elsewhere,
    /// Each is taken over, or changed, once at a time.
    taking: [tokio::sync::Mutex<()>; TAKING],
    consumers: AtomicU64,
    closed: AtomicBool,
}

/// A subscription as the store has it.
#[derive(Clone)]
pub(super) struct Defined {
    pub(super) definition: Subscription,
    pub(super) revision: Revision,
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
            store: store.clone(),
            shutdown: shutdown.clone(),
            owned: RwLock::default(),
            owners: Owners::new(store, instance),
            elsewhere: Elsewhere::default(),
            taking: Default::default(),
            consumers: AtomicU64::new(consumers),
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
        if closed { Err(crate::jetstream::closed()) } else { Ok(()) }
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
            let (definitions, defined_at) = self.store.list_shared(DEFINITIONS);
            let numbers: HashMap<u32, (SubscriptionName, Revision)> = definitions
                .iter()
                .filter_map(|entry| {
                    let name: SubscriptionName = entry.key.strip_prefix(DEFINITIONS)?.parse().ok()?;
                    Some((self.peek_number(&name)?, (name, entry.revision)))
                })
                .collect();
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
                if self.store.peek(&key(&name)).is_none() {
                    self.gone(&name);
                } else if self.owners.has_lost(owned.state.id, owned.tenure.lease) {
                    owned.end();
                } else if let Err(error) = owned.catch_topics().await {
                    tracing::debug!(subscription = %name, %error, "its topics cannot be looked after yet");
                }
            }
            let defined = async {
                // Otherwise so much has changed that it must be looked at anew.
                if let Ok(mut watch) = self.store.watch_shared(DEFINITIONS, defined_at) {
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

    /// A subscription as this engine knows it.
    pub(super) fn defined(&self, name: &SubscriptionName) -> Result<Defined> {
        let entry = self.store.peek(&key(name)).ok_or_else(|| not_found(name))?;
        let definition = serde_json::from_slice(&entry.value).map_err(|error| {
            Error::internal(format!("subscription {name} in the store is damaged: {error}"))
        })?;
        Ok(Defined { definition, revision: entry.revision })
    }

    /// All of them.
    pub(super) async fn all_defined(&self) -> Result<Vec<Subscription>> {
        self.store.come().await?;
        Ok(self.peek_defined())
    }

    /// All of them, as this engine knows them.
    fn peek_defined(&self) -> Vec<Subscription> {
        let (entries, _) = self.store.list_shared(DEFINITIONS);
        entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
    }

    /// Whether there is such a subscription.
    pub(super) async fn is_defined(&self, name: &SubscriptionName) -> Result<bool> {
        if self.store.peek(&key(name)).is_none() {
            self.store.come().await?;
        }
        Ok(self.store.peek(&key(name)).is_some())
    }

    /// Whether there is such a subscription, as of now.
    pub(super) async fn is_still_defined(&self, name: &SubscriptionName) -> Result<bool> {
        self.store.come().await?;
        Ok(self.store.peek(&key(name)).is_some())
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
        if !self.is_defined(name).await? {
            return Err(not_found(name));
        }
        let id = self.number_of(name).await?;
        let _one = self.taking[id as usize % TAKING].lock().await;
        let Defined { definition, revision } = self.defined(name)?;
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
        let tenure = Tenure { lease, holds: Box::new(move || owners.holds(lease)) };
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

    /// Removes what is kept of a subscription that was deleted, unless its name is in use again with the same number.
    async fn clean_up(&self, id: u32, name: &SubscriptionName) -> Result<()> {
        self.store.come().await?;
        if self.peek_number(name) == Some(id) {
            if self.store.peek(&key(name)).is_some() {
                return Ok(());
            }
            self.forget_number(id, name).await?;
        }
        self.common.journals.remove(id).await?;
        self.owners.forget(id).await
    }

    /// The next life of this name has another number.
    async fn forget_number(&self, id: u32, name: &SubscriptionName) -> Result<()> {
        let own = number_key(name);
        let entry = self.store.get(&own).await?;
        match entry.filter(|entry| number(&entry.value) == Some(id)) {
            Some(entry) => self.store.delete(&own, Expect::At(entry.revision)).await.map(drop),
            None => Ok(()),
        }
    }

    /// It was deleted.
    fn gone(&self, name: &SubscriptionName) {
        if let Some(owned) = self.owned.write().remove(name) {
            owned.state.mark_deleted();
            owned.end();
        }
    }

    /// The number of a subscription, as this engine knows it.
    fn peek_number(&self, name: &SubscriptionName) -> Option<u32> {
        number(&self.store.peek(&number_key(name))?.value)
    }

    /// The number of a subscription, which is never given to another one.
    pub(super) async fn number_of(&self, name: &SubscriptionName) -> Result<u32> {
        if let Some(number) = self.peek_number(name) {
            return Ok(number);
        }
        if !self.is_defined(name).await? {
            return Err(not_found(name));
        }
        let damaged =
            || Error::internal(format!("the number of subscription {name} in the store is damaged"));
        let (own, next) = (number_key(name), Key::Own("next/subscription".into()));
        loop {
            if let Some(entry) = self.store.get(&own).await? {
                return number(&entry.value).ok_or_else(damaged);
            }
            let before = self.store.get(&next).await?;
            let expect = before.as_ref().map_or(Expect::Absent, |entry| Expect::At(entry.revision));
            let last = before.map_or(Some(0), |entry| number(&entry.value)).ok_or_else(damaged)?;
            let number = (last + 1).to_string();
            match self.store.put(&next, number.clone().into(), expect, None).await {
                Ok(_) => {}
                Err(error) if error.code == ErrorCode::Conflict => continue,
                Err(error) => return Err(error),
            }
            match self.store.put(&own, number.into(), Expect::Absent, None).await {
                Ok(_) => return Ok(last + 1),
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
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
            let entry = self.store.get(&key(&name)).await?;
            let at = entry.as_ref().map_or(Expect::Absent, |entry| Expect::At(entry.revision));
            if expect != Expect::Any && expect != at {
                // It says what is there instead.
                return self.store.put(&key(&name), json(&definition)?, expect, None).await;
            }
            for topic in definition.topics.iter().filter_map(crossdock_topics::TopicPattern::literal) {
                self.common.topics.limit(&topic)?;
            }
            if let Some(entry) = &entry {
                let before = self.defined(&name)?.definition;
                definition.start = before.start;
                if before == definition {
                    return Ok(entry.revision);
                }
            }
            match self.store.put(&key(&name), json(&definition)?, at, None).await {
                Ok(revision) => {
                    let id = self.number_of(&name).await?;
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
        let entry = self.store.get(&key(name)).await?.ok_or_else(|| not_found(name))?;
        // So that its journal is found and removed, when this engine has let go of it.
        let owned = self.current(name).await?;
        // First: whoever makes it anew as soon as it is gone gets another number, and begins at the start.
        self.forget_number(owned.state.id, name).await?;
        self.store.delete(&key(name), Expect::At(entry.revision)).await?;
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

    fn needs(&self, feed: &Arc<Feed>) -> Needs {
        let mut needed = Needs::Nothing;
        for definition in self.peek_defined() {
            if !definition.topics.iter().any(|pattern| pattern.matches(feed.name.as_str())) {
                continue;
            }
            let needs = match self.at_work(&definition.name) {
                Some(owned) if owned.check_held().is_ok() => owned.state.needs(feed),
                _ => self
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

impl Owned {
    /// Waits until its topics show what has a receipt by now.
    pub(super) async fn catch_up(&self) -> Result<()> {
        self.catch_topics().await?;
        let logs: Vec<_> = self.reads.lock().values().map(|read| read.log.clone()).collect();
        let catching = futures::stream::iter(logs)
            .map(|log| async move { catch_up(&self.common.topics, &log).await.map(drop) });
        catching.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Waits until its topics show what this engine has given receipts for.
    pub(super) async fn catch_up_with_receipts(&self) {
        let behind: Vec<(Arc<Feed>, u64)> = {
            let reads = self.reads.lock();
            let behind = reads.values().filter(|read| read.log.known_tail() > read.need.feed().tail());
            behind.map(|read| (read.need.feed().clone(), read.log.known_tail())).collect()
        };
        for (feed, end) in behind {
            reached(&feed, end).await;
        }
    }
}

/// Waits until a topic shows what has a receipt by now, for a while; gives where that ends.
pub(super) async fn catch_up(topics: &Topics, log: &TopicLog) -> Result<u64> {
    match topics.place(log, StartAt::End).await {
        Ok(end) => {
            reached(&log.following.feed, end).await;
            Ok(end)
        }
        // It has gone.
        Err(error) if error.code == ErrorCode::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Waits until a topic shows all before an offset, for a while.
async fn reached(feed: &Feed, end: u64) {
    let reached = async {
        loop {
            let moved = feed.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if feed.tail() >= end || feed.is_deleted() {
                return;
            }
            moved.await;
        }
    };
    let _ = tokio::time::timeout(CATCH_UP, reached).await;
}

fn key(name: &SubscriptionName) -> Key {
    Key::Shared(format!("{DEFINITIONS}{name}"))
}

fn number_key(name: &SubscriptionName) -> Key {
    Key::Own(format!("{DEFINITIONS}{name}"))
}

fn number(value: &[u8]) -> Option<u32> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn json(definition: &Subscription) -> Result<bytes::Bytes> {
    let json = serde_json::to_vec(definition);
    json.map(Into::into).map_err(|cause| Error::internal(format!("cannot write a definition: {cause}")))
}

fn not_found(name: &SubscriptionName) -> Error {
    Error::not_found("subscription", name)
        .hint(format!("make it with `crossdock sub create {name} --topic TOPIC`"))
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
