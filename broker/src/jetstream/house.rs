//! A NATS cluster as a place that is moved from or to, with no engine at work on it.
//!
//! Whoever moves holds the key `mover` of the engine's own, which goes with it; until what is moved here is whole, the
//! key `moving` says so. An engine that is opened makes itself known first and looks for these then; whoever moves does it
//! the other way round: so never both go on.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crossdock_topics::{
    Clock, Durability, Entry, Error, ErrorCode, Expect, LeaseId, Result, Shutdown, StartAt, Subscription,
    SystemClock, Timestamp, Topic,
};
use tokio::time::Instant;

use super::connection::Connection;
use super::instance::INSTANCES;
use super::log::{self, Moved};
use super::store::{Key, KeyStore};
use super::subscription::moving as journals;
use super::{GRACE, JetStreamOptions};
use crate::delivery::keys;
use crate::group::Place;
use crate::moving::house::{Held, House, Inventory, Item, Mark, Numbers, Standing, State, Subscribed};
use crate::moving::{Progress, Side, Tell};

/// How long the lease of whoever moves lasts, and how often it is renewed.
const LEASE: Duration = Duration::from_secs(5);
const RENEW: Duration = Duration::from_secs(1);
/// How long to wait for one who has gone without a word to be taken for gone.
const GONE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(250);
const TOPICS: &str = "topics/";
const SUBSCRIPTIONS: &str = "subscriptions/";

fn mark_key() -> Key {
    Key::Own("moving".into())
}

fn lock_key() -> Key {
    Key::Own("mover".into())
}

/// Whether all is here that should be, and nobody is moving it.
///
/// # Errors
/// `Conflict`.
pub(super) async fn check_whole(store: &KeyStore) -> Result<()> {
    if let Some(entry) = store.get(&mark_key()).await? {
        return Err(Mark::read(&entry.value)?.refusal());
    }
    if store.get(&lock_key()).await?.is_some() {
        return Err(Error::new(ErrorCode::Conflict, "what is in this NATS is being moved right now")
            .hint("wait until `crossdock migrate` has come to its end, then start the server"));
    }
    Ok(())
}

/// A NATS cluster.
pub(crate) struct Cluster {
    connection: Connection,
    store: KeyStore,
    topics: log::Moving,
    subscriptions: journals::Moving,
    lease: LeaseId,
    shutdown: Shutdown,
    /// Topics in which something may still stand for messages that are missing.
    holey: HashSet<u32>,
    keyed: HashSet<u32>,
}

/// Opens a cluster, when no server works there. One that is not there yet gets revisions that follow on `revision`.
///
/// # Errors
/// `NotFound` where it is the source and nothing is there; `Conflict` when a server works there, or somebody else moves,
/// or it is itself half moved; `Unavailable`.
pub(crate) async fn open(
    options: JetStreamOptions,
    side: Side,
    revision: u64,
    tell: Tell<'_>,
) -> Result<Cluster> {
    let connection = Connection::open(options).await?;
    let shutdown = Shutdown::new(GRACE);
    match Box::pin(Cluster::start(&connection, &shutdown, side, revision, tell)).await {
        Ok(cluster) => Ok(cluster),
        Err(error) => {
            let _ = tokio::time::timeout(GRACE, shutdown.drain()).await;
            connection.close().await;
            Err(error)
        }
    }
}

impl Cluster {
    async fn start(
        connection: &Connection,
        shutdown: &Shutdown,
        side: Side,
        revision: u64,
        tell: Tell<'_>,
    ) -> Result<Self> {
        connection.watch_over(shutdown);
        if side == Side::Source && !KeyStore::exists(connection).await? {
            let what = format!("{} (prefix {})", connection.options.shown(), connection.prefix());
            return Err(Error::not_found("broker's data in", what));
        }
        let store = Box::pin(KeyStore::open_after(connection, revision, shutdown)).await?;
        let lease = lock(&store, tell).await?;
        shutdown.tasks().spawn(renew(store.clone(), lease, shutdown.clone()));
        let cluster = Self {
            connection: connection.clone(),
            topics: log::Moving::new(connection),
            subscriptions: journals::Moving::open(connection).await?,
            store,
            lease,
            shutdown: shutdown.clone(),
            holey: HashSet::new(),
            keyed: HashSet::new(),
        };
        let ready = async {
            if side == Side::Source
                && let Some(entry) = cluster.store.get(&mark_key()).await?
            {
                return Err(Mark::read(&entry.value)?.refusal());
            }
            nobody_works(&cluster.store, tell).await
        };
        if let Err(error) = ready.await {
            let _ = cluster.store.revoke(lease).await;
            return Err(error);
        }
        Ok(cluster)
    }

    /// Writes a key unless it says so already.
    async fn put(&self, key: &Key, value: Bytes) -> Result<()> {
        if self.store.peek(key).is_none_or(|entry| entry.value != value) {
            self.store.put(key, value, Expect::Any, None).await?;
        }
        Ok(())
    }

    /// What an acknowledgement is worth with so many replicas.
    fn durability(&self, replicas: usize) -> Durability {
        log::durability(self.connection.options.sync_always, replicas)
    }

    async fn topics(&self) -> Result<Vec<Held>> {
        let mut topics = Vec::new();
        for entry in self.store.list_shared(TOPICS).0 {
            let topic: Topic = read(&entry)?;
            let lies = self.store.peek(&Key::Own(entry.key.clone()));
            let number = lies.map(|lies| log::number_in(&topic.name, &lies)).transpose()?;
            let Some(number) = number else {
                return Err(Error::internal(format!("nobody knows where topic {} lies", topic.name)));
            };
            let Some(extent) = self.topics.extent(number).await? else {
                return Err(Error::internal(format!("the stream of topic {} is not there", topic.name)));
            };
            let (head, tail) = (extent.head, extent.tail);
            topics.push(Held { number, topic, revision: entry.revision, head, tail });
        }
        topics.sort_by_key(|held| held.number);
        Ok(topics)
    }

    fn subscriptions(&self, topics: &[Held]) -> Result<Vec<Subscribed>> {
        let mut subscriptions = Vec::new();
        for entry in self.store.list_shared(SUBSCRIPTIONS).0 {
            let definition: Subscription = read(&entry)?;
            let number = self.store.peek(&Key::Own(journals::number_key(&definition.name)));
            let number = number.and_then(|entry| journals::number_read(&entry.value));
            let Some(number) = number else {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!("subscription {} has never been at work", definition.name),
                )
                .hint("start a server there once, and stop it when it is ready"));
            };
            subscriptions.push(Subscribed::of(number, definition, entry.revision, topics));
        }
        subscriptions.sort_by_key(|known| known.number);
        Ok(subscriptions)
    }

    /// Where a subscription stands that has never been at work.
    async fn beginning(&self, known: &Subscribed) -> Result<Standing> {
        let mut standing = Standing::default();
        for held in self.topics().await?.iter().filter(|held| known.topics.contains(&held.number)) {
            let offset = match known.definition.start {
                StartAt::Start => held.head,
                StartAt::End => held.tail,
                StartAt::Offset(offset) => offset.clamp(held.head, held.tail),
                StartAt::Time(time) => self.at_time(held, time).await?,
            };
            let key = Bytes::copy_from_slice(&keys::place(known.number, held.number));
            standing.kept.push((key, Place::at(offset).encode().into()));
        }
        standing.kept.sort();
        Ok(standing)
    }

    async fn at_time(&self, held: &Held, time: Timestamp) -> Result<u64> {
        let mut at = held.head;
        loop {
            let items = self.messages(held, at).await?;
            let Some(last) = items.last() else { return Ok(held.tail) };
            at = last.stored.offset + 1;
            if let Some(found) = items.iter().find(|item| item.stored.time >= time) {
                return Ok(found.stored.offset);
            }
        }
    }

    fn number_of(&self, key: &Key) -> Option<Bytes> {
        self.store.peek(key).map(|entry| entry.value)
    }
}

fn read<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T> {
    serde_json::from_slice(&entry.value)
        .map_err(|cause| Error::internal(format!("{} in the store cannot be read: {cause}", entry.key)))
}

fn json(definition: &impl serde::Serialize) -> Result<Bytes> {
    serde_json::to_vec(definition)
        .map(Bytes::from)
        .map_err(|cause| Error::internal(format!("cannot write a definition: {cause}")))
}

/// Takes the lock of whoever moves; one that was killed has left it for a while.
async fn lock(store: &KeyStore, tell: Tell<'_>) -> Result<LeaseId> {
    let deadline = Instant::now() + GONE;
    let mut told = false;
    loop {
        let lease = store.grant(LEASE).await?;
        match store.put(&lock_key(), Bytes::new(), Expect::Absent, Some(lease)).await {
            Ok(_) => return Ok(lease),
            Err(error) => {
                let _ = store.revoke(lease).await;
                if error.code != ErrorCode::Conflict {
                    return Err(error);
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorCode::Conflict, "somebody else is moving what is in this NATS")
                .hint("let it come to its end, or end it"));
        }
        if !std::mem::replace(&mut told, true) {
            tell(Progress::Note("waiting for the one who was moving here before to be taken for gone"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn renew(store: KeyStore, lease: LeaseId, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEW) => {}
            () = shutdown.started() => return,
        }
        if let Err(error) = store.keep_alive(lease).await {
            tracing::debug!(%error, "the lease of the one who moves could not be renewed yet");
        }
    }
}

/// Waits until servers that were killed are taken for gone.
async fn nobody_works(store: &KeyStore, tell: Tell<'_>) -> Result<()> {
    let deadline = Instant::now() + GONE;
    let mut told = false;
    loop {
        store.come().await?;
        let there = store.list_own(INSTANCES).0;
        if there.is_empty() {
            return Ok(());
        }
        let names: Vec<_> =
            there.iter().map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).collect();
        if Instant::now() >= deadline {
            return Err(Error::new(
                ErrorCode::Conflict,
                format!("{} servers work in this NATS: {}", names.len(), names.join(", ")),
            )
            .hint("stop all servers first"));
        }
        if !std::mem::replace(&mut told, true) {
            tell(Progress::Note("waiting for servers to stop, or to be taken for gone"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[async_trait]
impl House for Cluster {
    async fn inventory(&self) -> Result<Inventory> {
        self.store.come().await?;
        let topics = self.topics().await?;
        let subscriptions = self.subscriptions(&topics)?;
        let (mut entries, revision) = self.store.list_lasting();
        entries.retain(|entry| !is_definition(&entry.key));
        entries.sort_by_key(|entry| entry.revision);
        let last = self.number_of(&Key::Own(journals::LAST_NUMBER.into()));
        let subscription = last.and_then(|value| journals::number_read(&value)).unwrap_or(0);
        let (counter, _) = log::counted(0)?;
        let topic = self.number_of(&counter).and_then(|value| serde_json::from_slice(&value).ok());
        Ok(Inventory {
            place: self.connection.options.shown(),
            topics,
            subscriptions,
            entries,
            numbers: Numbers { topic: topic.unwrap_or(0), subscription, lease: 0, revision },
        })
    }

    async fn messages(&self, topic: &Held, from: u64) -> Result<Vec<Item>> {
        let durability = self.durability(self.connection.replicas());
        self.topics.read(topic.number, from, topic.tail, durability).await
    }

    async fn standing(&self, subscription: &Subscribed) -> Result<Standing> {
        match self.subscriptions.read(subscription).await? {
            Some(standing) => Ok(standing),
            None => self.beginning(subscription).await,
        }
    }

    async fn state(&self) -> Result<State> {
        self.store.come().await?;
        if let Some(entry) = self.store.peek(&mark_key()) {
            return Ok(State::Begun(Mark::read(&entry.value)?));
        }
        let (keys, streams) = (self.store.list_lasting().0.len(), self.topics.count().await?);
        if keys == 0 && streams == 0 {
            return Ok(State::Empty);
        }
        let prefix = self.connection.prefix();
        Ok(State::Taken(format!("{keys} keys and {streams} streams of topics under the prefix {prefix}")))
    }

    fn refuses_topic(&self, topic: &Topic) -> Option<String> {
        let given = self.durability(self.connection.replicas());
        (topic.durability > given).then(|| {
            let what = match topic.durability {
                Durability::Quorum(_) => "move to a cluster of that many servers",
                _ => {
                    "give nats-server sync_interval: always and write ?sync=always behind the URL, move to a cluster of \
                     three, or set its durability to os at the source"
                }
            };
            format!("topic {} asks for {}, and NATS gives {given} here: {what}", topic.name, topic.durability)
        })
    }

    fn refuses_message(&self, item: &Item) -> Option<String> {
        self.topics.refuses(&item.stored.record)
    }

    fn remark(&self, topic: &Topic) -> Option<String> {
        let most = self.connection.client.max_payload();
        (topic.max_message_bytes > most).then(|| {
            format!(
                "topic {} allows messages of {} bytes, this NATS takes {most} with headers: larger ones will be refused \
                 there unless max_payload is raised",
                topic.name, topic.max_message_bytes
            )
        })
    }

    async fn begin(&mut self, mark: &Mark, inventory: &Inventory) -> Result<()> {
        let resumed = self.store.peek(&mark_key()).is_some();
        self.put(&mark_key(), mark.written()?).await?;
        let numbers = inventory.numbers;
        let (key, value) = log::counted(numbers.topic)?;
        self.put(&key, value).await?;
        let last = Key::Own(journals::LAST_NUMBER.into());
        self.put(&last, journals::number_written(numbers.subscription)).await?;
        for held in &inventory.topics {
            if self.topics.extent(held.number).await?.is_none() {
                self.topics.create(held.number, &held.topic, held.head).await?;
            }
            let replicas = self.topics.extent(held.number).await?.map_or(1, |extent| extent.replicas);
            let (key, value) = log::placed(&held.topic.name, held.number, replicas, None)?;
            self.put(&key, value).await?;
            self.put(&Key::Shared(format!("{TOPICS}{}", held.topic.name)), json(&held.topic)?).await?;
            if held.topic.retention.compact {
                self.keyed.insert(held.number);
            }
            if resumed {
                self.holey.insert(held.number);
            }
        }
        for known in &inventory.subscriptions {
            let name = &known.definition.name;
            let own = Key::Own(journals::number_key(name));
            self.put(&own, journals::number_written(known.number)).await?;
            self.put(&Key::Shared(format!("{SUBSCRIPTIONS}{name}")), json(&known.definition)?).await?;
        }
        Ok(())
    }

    async fn end(&self, topic: &Held) -> Result<u64> {
        let extent = self.topics.extent(topic.number).await?;
        Ok(extent.map_or(topic.head, |extent| extent.tail).max(topic.head))
    }

    async fn append(&mut self, topic: &Held, items: Vec<Item>, end: u64) -> Result<()> {
        let number = topic.number;
        let window = topic.topic.dedup_window;
        let since = (!window.is_zero()).then(|| SystemClock.now().before(window));
        if self.topics.append(number, self.keyed.contains(&number), items, end, since).await? {
            self.holey.insert(number);
        }
        Ok(())
    }

    async fn put_standing(&mut self, subscription: &Subscribed, standing: &Standing) -> Result<()> {
        self.subscriptions.write(subscription, standing, SystemClock.now()).await
    }

    async fn put_entry(&mut self, entry: &Entry) -> Result<()> {
        self.put(&Key::Shared(entry.key.clone()), entry.value.clone()).await
    }

    async fn settle(&mut self) -> Result<()> {
        for number in std::mem::take(&mut self.holey) {
            self.topics.remove_holes(number).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, inventory: &Inventory) -> Result<()> {
        for held in &inventory.topics {
            let Some(extent) = self.topics.extent(held.number).await? else { continue };
            let last = self.topics.last(held.number).await?;
            let moved = last.map(|last| Moved { end: held.tail, last });
            let (key, value) = log::placed(&held.topic.name, held.number, extent.replicas, moved)?;
            self.put(&key, value).await?;
            if held.topic.retention.drop_unread {
                self.topics.limit(held.number, &held.topic).await?;
            }
        }
        self.store.delete(&mark_key(), Expect::Any).await.map(drop)
    }

    async fn close(self: Box<Self>) {
        let leaving = self.store.revoke(self.lease);
        let _ = tokio::time::timeout(GRACE, leaving).await;
        self.store.close();
        let _ = tokio::time::timeout(GRACE, self.shutdown.drain()).await;
        self.connection.close().await;
    }
}

fn is_definition(key: &str) -> bool {
    key.starts_with(TOPICS) || key.starts_with(SUBSCRIPTIONS)
}
