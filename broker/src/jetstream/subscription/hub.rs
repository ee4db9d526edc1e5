//! The subscriptions of a cluster as one engine sees them: how each is defined, and those it owns.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossdock_topics::{
    Clock, ConsumerId, Delivery, Error, ErrorCode, Expect, Fetch, Result, Revision, Shutdown, StartAt,
    Subscription, SubscriptionName, SystemClock,
};
use parking_lot::RwLock;
use tokio::time::Instant;

use super::journal::Journals;
use super::owned::{Common, Owned, Tenure};
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
/// How often it is looked whether all subscriptions are owned.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait before asking again for a subscription that is being taken over.
const AGAIN: Duration = Duration::from_millis(20);

/// The subscriptions of a cluster.
pub(in crate::jetstream) struct Hub {
    pub(super) common: Common,
    store: KeyStore,
    shutdown: Shutdown,
    owned: RwLock<HashMap<SubscriptionName, Arc<Owned>>>,
    /// One is taken over at a time.
    taking: tokio::sync::Mutex<()>,
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
        let (clock, held) = (Arc::new(SystemClock), instance.held());
        let now_held = held.clone();
        let tenure = Tenure::new(move || Instant::now() < now_held.borrow().until);
        let consumers = u64::try_from(clock.now().0).unwrap_or(0).saturating_mul(1000);
        let hub = Arc::new(Self {
            common: Common { journals, topics: Topics(logs.clone()), clock, tenure },
            store: store.clone(),
            shutdown: shutdown.clone(),
            owned: RwLock::default(),
            taking: tokio::sync::Mutex::default(),
            consumers: AtomicU64::new(consumers),
            closed: AtomicBool::new(false),
        });
        logs.set_readers(hub.clone());
        shutdown.tasks().spawn(hub.clone().watch());
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

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst) || self.shutdown.has_started()
    }

    pub(super) fn number(&self) -> ConsumerId {
        ConsumerId(self.consumers.fetch_add(1, Ordering::Relaxed))
    }

    /// Follows what is changed in the store, and in the topics.
    async fn watch(self: Arc<Self>) {
        let mut topics = self.common.topics.changes();
        loop {
            let (entries, revision) = self.store.list_shared("subscriptions/");
            for entry in entries {
                let name = entry.key.trim_start_matches("subscriptions/").parse::<SubscriptionName>();
                let Ok(name) = name else { continue };
                if let Err(error) = self.refresh(&name).await {
                    tracing::debug!(subscription = %name, %error, "it cannot be taken over yet");
                }
            }
            let known: Vec<_> = self.owned.read().iter().map(|(n, o)| (n.clone(), o.clone())).collect();
            for (name, owned) in known {
                if self.defined(&name).is_err() {
                    self.gone(&name);
                } else if let Err(error) = owned.catch_topics().await {
                    tracing::debug!(subscription = %name, %error, "its topics cannot be looked after yet");
                }
            }
            let Ok(mut watch) = self.store.watch_shared("subscriptions/", revision) else { continue };
            tokio::select! {
                () = self.shutdown.started() => return,
                _ = watch.next() => {}
                _ = topics.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
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
        let (entries, _) = self.store.list_shared("subscriptions/");
        entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
    }

    /// The subscription, owned here.
    pub(super) async fn owned(self: &Arc<Self>, name: &SubscriptionName) -> Result<Arc<Owned>> {
        let known = self.owned.read().get(name).filter(|owned| !owned.over.is_cancelled()).cloned();
        match known {
            Some(owned) => Ok(owned),
            None => self.refresh(name).await,
        }
    }

    /// Sees to it that it is as it is defined.
    pub(super) async fn refresh(self: &Arc<Self>, name: &SubscriptionName) -> Result<Arc<Owned>> {
        if self.is_closed() {
            return Err(crate::jetstream::closed());
        }
        let _one = self.taking.lock().await;
        let known = self.owned.read().get(name).filter(|owned| !owned.over.is_cancelled()).cloned();
        if self.store.peek(&key(name)).is_none() {
            self.store.come().await?;
        }
        let Defined { definition, revision } = self.defined(name)?;
        if let Some(owned) = known {
            if owned.state.definition().1 < revision {
                let sieve = sieve(&definition).await;
                let definition = Box::new(definition);
                owned.ask(|answer| Command::Define { definition, sieve, revision, answer }).await?;
            }
            return Ok(owned);
        }
        let id = self.number_of(name).await?;
        let sieve = sieve(&definition).await;
        let (owned, running) = Owned::take_over(&self.common, id, definition, sieve, revision).await?;
        self.owned.write().insert(name.clone(), owned.clone());
        let (hub, name, ended) = (self.clone(), name.clone(), owned.clone());
        self.shutdown.tasks().spawn(async move {
            running.await;
            hub.owned.write().retain(|_, owned| !Arc::ptr_eq(owned, &ended));
            if ended.state.is_deleted()
                && let Err(error) = hub.common.journals.remove(id).await
            {
                tracing::warn!(subscription = %name, %error, "its journal is left in NATS, and does no harm");
            }
        });
        if self.is_closed() {
            owned.end();
        }
        Ok(owned)
    }

    /// It was deleted.
    fn gone(&self, name: &SubscriptionName) {
        if let Some(owned) = self.owned.write().remove(name) {
            owned.state.mark_deleted();
            owned.end();
        }
    }

    /// The number of a subscription, which is never given to another one.
    async fn number_of(&self, name: &SubscriptionName) -> Result<u32> {
        let damaged =
            || Error::internal(format!("the number of subscription {name} in the store is damaged"));
        let read = |value: &[u8]| std::str::from_utf8(value).ok()?.parse::<u32>().ok();
        let (own, next) = (Key::Own(format!("subscriptions/{name}")), Key::Own("next/subscription".into()));
        loop {
            if let Some(entry) = self.store.get(&own).await? {
                return read(&entry.value).ok_or_else(damaged);
            }
            let before = self.store.get(&next).await?;
            let expect = before.as_ref().map_or(Expect::Absent, |entry| Expect::At(entry.revision));
            let last = before.map_or(Some(0), |entry| read(&entry.value)).ok_or_else(damaged)?;
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
                    self.refresh(&name).await?;
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
        // So that its journal is found and removed.
        let owned = self.owned(name).await?;
        self.store.delete(&key(name), Expect::At(entry.revision)).await?;
        self.gone(name);
        owned.state.mark_deleted();
        self.store.delete(&Key::Own(format!("subscriptions/{name}")), Expect::Any).await?;
        Ok(())
    }

    /// Takes messages. What has a receipt when this begins is found.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        name: &SubscriptionName,
        fetch: Fetch,
    ) -> Result<Vec<Delivery>> {
        let deadline = Instant::now() + fetch.wait.min(LONGEST_WAIT);
        let mut first = true;
        loop {
            let owned = self.owned(name).await?;
            if first {
                owned.catch_up_with_receipts().await;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = if first { Duration::ZERO } else { left };
            match owned.state.fetch(&*owned, Fetch { wait, ..fetch.clone() }).await {
                Ok(deliveries) if deliveries.is_empty() && first => {
                    first = false;
                    owned.catch_up().await?;
                }
                Err(error) if owned.over.is_cancelled() && !owned.state.is_deleted() => {
                    if Instant::now() >= deadline || self.is_closed() {
                        return Err(error);
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                done => return done,
            }
        }
    }
}

impl Readers for Hub {
    fn trimmed(&self, feed: &Arc<Feed>, head: u64) {
        // What follows is kept with the next pass.
        for state in feed.subscribers() {
            state.trimmed(feed, head, self.common.clock.now());
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
            let known = self.known(&definition.name);
            let Some((offset, why)) = known.and_then(|owned| owned.state.needs(feed)) else {
                return Needs::Unknown;
            };
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
        for log in logs {
            catch_up(&self.common.topics, &log).await?;
        }
        Ok(())
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

    /// Takes in which topics there are.
    async fn catch_topics(&self) -> Result<()> {
        let now = *self.common.topics.changes().borrow();
        if self.topics_seen.load(Ordering::Acquire) == now {
            return Ok(());
        }
        self.ask(|answer| Command::Topics { answer }).await?;
        self.topics_seen.store(now, Ordering::Release);
        Ok(())
    }
}

/// Waits until a topic shows what has a receipt by now, for a while.
pub(super) async fn catch_up(topics: &Topics, log: &TopicLog) -> Result<()> {
    match topics.place(log, StartAt::End).await {
        Ok(end) => reached(&log.following.feed, end).await,
        // It has gone.
        Err(error) if error.code == ErrorCode::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(())
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
    Key::Shared(format!("subscriptions/{name}"))
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
