//! What a broker keeps, as it is moved: the same words for every engine.

use async_trait::async_trait;
use bytes::Bytes;
use crossdock_topics::{Entry, Receipts, Result, Source, Stored, Subscription, Topic};
use serde::{Deserialize, Serialize};

use crate::delivery::keys;

/// About so many bytes of messages are read at one time, one message at least.
pub(crate) const PAGE_BYTES: usize = 1024 * 1024;

/// What an engine keeps, while no server works on it. As a source it is left as it is.
#[async_trait]
pub(crate) trait House: Send + Sync {
    /// What there is beside the messages.
    async fn inventory(&self) -> Result<Inventory>;

    /// Messages of a topic from an offset on, in order: a page of about [`PAGE_BYTES`]; empty when none follows before
    /// the topic's tail.
    async fn messages(&self, topic: &Held, from: u64) -> Result<Vec<Item>>;

    /// How a subscription stands.
    async fn standing(&self, subscription: &Subscribed) -> Result<Standing>;

    /// Whether something can be moved here.
    async fn state(&self) -> Result<State>;

    /// Why a topic like this cannot be here, if it cannot, with what to do.
    fn refuses_topic(&self, topic: &Topic) -> Option<String>;

    /// Why a message cannot be here, if it cannot, with what to do.
    fn refuses_message(&self, item: &Item) -> Option<String>;

    /// What will be different here for a topic, if that is worth a word.
    fn remark(&self, topic: &Topic) -> Option<String>;

    /// Begins, or goes on. From now on no server can be started here until [`House::finish`].
    async fn begin(&mut self, mark: &Mark, inventory: &Inventory) -> Result<()>;

    /// Where the next message of a topic is appended.
    async fn end(&self, topic: &Held) -> Result<u64>;

    /// Appends messages to a topic, all that belong before `end` and are not here yet. Nothing else appends to it.
    async fn append(&mut self, topic: &Held, items: Vec<Item>, end: u64) -> Result<()>;

    /// Puts a subscription where it stands.
    async fn put_standing(&mut self, subscription: &Subscribed, standing: &Standing) -> Result<()>;

    /// Puts a key of the store, unless it is there already.
    async fn put_entry(&mut self, entry: &Entry) -> Result<()>;

    /// Makes what was appended durable.
    async fn settle(&mut self) -> Result<()>;

    /// All is here: a server can be started.
    async fn finish(&mut self, inventory: &Inventory) -> Result<()>;

    /// Lets go of it.
    async fn close(self: Box<Self>);
}

/// What there is beside the messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    /// Where it is, as people write it, without a login.
    pub(crate) place: String,
    pub(crate) topics: Vec<Held>,
    pub(crate) subscriptions: Vec<Subscribed>,
    /// The keys of the store but definitions, and those that vanish with a lease; in the order of their revisions.
    pub(crate) entries: Vec<Entry>,
    pub(crate) numbers: Numbers,
}

/// The last numbers given: none is given again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) topic: u32,
    pub(crate) subscription: u32,
    pub(crate) lease: u64,
    pub(crate) revision: u64,
}

/// A topic.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) number: u32,
    pub(crate) topic: Topic,
    pub(crate) revision: u64,
    pub(crate) head: u64,
    pub(crate) tail: u64,
}

/// A subscription.
#[derive(Clone, Debug)]
pub(crate) struct Subscribed {
    pub(crate) number: u32,
    pub(crate) definition: Subscription,
    pub(crate) revision: u64,
    /// The numbers of the topics it takes from.
    pub(crate) topics: Vec<u32>,
}

/// How a subscription stands: what every engine keeps of it, by [`keys`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) paused: bool,
    /// In the order of the keys.
    pub(crate) kept: Vec<(Bytes, Bytes)>,
}

impl Standing {
    /// How many of one kind it has.
    pub(crate) fn count(&self, kind: u8) -> u64 {
        self.kept.iter().filter(|(key, _)| key.get(8) == Some(&kind)).count() as u64
    }
}

impl Subscribed {
    /// A subscription, with those of the topics that it takes from.
    pub(crate) fn of(number: u32, definition: Subscription, revision: u64, topics: &[Held]) -> Self {
        let matches =
            |held: &&Held| definition.topics.iter().any(|pattern| pattern.matches(held.topic.name.as_str()));
        let topics = topics.iter().filter(matches).map(|held| held.number).collect();
        Self { number, definition, revision, topics }
    }

    /// Whether a key says how it stands in a topic that it takes from.
    pub(crate) fn owns(&self, key: &[u8]) -> bool {
        let is_place = key.len() == 9 || key.len() == 17;
        let topic = key.get(4..).and_then(keys::u32_of);
        is_place
            && keys::u32_of(key) == Some(self.number)
            && topic.is_some_and(|topic| self.topics.contains(&topic))
    }
}

/// A message, and the batch of which it is the last one that was stored, where its publisher may send that again.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) stored: Stored,
    pub(crate) batch: Option<Sent>,
}

/// A batch that may be sent again.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) source: Source,
    pub(crate) receipts: Receipts,
    /// All its publisher may still send lies from here on.
    pub(crate) from: u64,
}

/// Whether something can be moved to a place.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Nothing is there.
    Empty,
    /// A move has begun and not come to its end.
    Begun(Mark),
    /// Something else is there, in words.
    Taken(String),
}

/// What is noted at the target while a move is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Where it comes from, without a login.
    pub(crate) from: String,
    /// What it was when the move began, see `summary`.
    pub(crate) digest: String,
}

impl Mark {
    /// What a server says that is started there.
    pub(crate) fn refusal(&self) -> crossdock_topics::Error {
        let Self { from, .. } = self;
        crossdock_topics::Error::new(
            crossdock_topics::ErrorCode::Conflict,
            format!("what is here is not whole: it is being moved from {from}"),
        )
        .hint("run the same `crossdock migrate` again, it goes on where it was; then start the server")
    }

    pub(crate) fn written(&self) -> Result<Bytes> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(|cause| crossdock_topics::Error::internal(format!("cannot write a mark: {cause}")))
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|cause| {
            crossdock_topics::Error::internal(format!("the mark of a move cannot be read: {cause}"))
        })
    }
}
