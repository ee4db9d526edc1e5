//! The streams that topics lie in, as JetStream's API has them.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::response::Response;
use crossdock_topics::{Error, ErrorCode, Result, Timestamp, Topic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::super::connection::Connection;
pub(super) use super::stored::From;

/// The least window that NATS takes, and what it has where nobody looks at ids.
const LEAST_WINDOW: Duration = Duration::from_millis(100);
/// There is no leader, or a server that a new stream needs is away: it may only be connecting to the others.
const NOT_NOW: [u64; 2] = [10_008, 10_005];
/// There is no stream of this name.
pub(super) const NO_STREAM: u64 = 10_059;
/// How long one server may take to answer, and how long to wait before asking again.
const ANSWER: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(100);
/// The list of all streams is late when one of them does not answer: nats-server waits 4 s for it.
const LIST: Duration = Duration::from_secs(6);

/// What NATS says of a stream.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Info {
    pub(super) config: Described,
    pub(super) state: State,
    /// In a cluster.
    cluster: Option<Group>,
}

#[derive(Clone, Debug, Deserialize)]
struct Group {
    leader: Option<String>,
}

impl Info {
    /// Whether it is the leader that says so. Where there is none, others say what they have.
    fn is_the_leaders(&self) -> bool {
        self.cluster.as_ref().is_none_or(|group| group.leader.as_ref().is_some_and(|name| !name.is_empty()))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Described {
    pub(super) name: String,
    #[serde(default)]
    pub(super) num_replicas: usize,
}

/// How far a stream has come.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct State {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    first_seq: u64,
    first_ts: String,
    last_seq: u64,
    last_ts: String,
}

impl State {
    /// The first offset that is kept.
    pub(super) fn head(&self) -> u64 {
        if self.messages == 0 { self.last_seq } else { self.first_seq.saturating_sub(1) }
    }

    /// The offset that comes next.
    pub(super) fn tail(&self) -> u64 {
        self.last_seq
    }

    /// When the oldest message that is kept was stored.
    pub(super) fn first(&self) -> Option<Timestamp> {
        if self.messages == 0 { None } else { self.first_ts.parse().ok() }
    }

    /// When the newest message was stored.
    pub(super) fn last(&self) -> Option<Timestamp> {
        if self.last_seq == 0 { None } else { self.last_ts.parse().ok() }
    }
}

/// The streams of one cluster.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) connection: Connection,
}

#[derive(Serialize)]
struct Settings<'a> {
    name: &'a str,
    description: String,
    subjects: [String; 1],
    retention: &'static str,
    storage: &'static str,
    discard: &'static str,
    num_replicas: usize,
    max_age: u64,
    max_bytes: i64,
    max_msgs: i64,
    max_msg_size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seq: Option<u64>,
    duplicate_window: u64,
    allow_direct: bool,
    allow_atomic: bool,
    metadata: HashMap<&'static str, String>,
}

#[derive(Deserialize)]
struct Purged {
    #[allow(dead_code)] // only that it is an answer counts
    success: bool,
}

#[derive(Deserialize)]
struct Listed {
    total: usize,
    /// How many are looked at for one answer, which has fewer where some do not answer.
    limit: usize,
    #[serde(default)]
    streams: Option<Vec<Info>>,
    /// Those that did not answer.
    #[serde(default)]
    missing: Option<Vec<String>>,
}

/// The streams of all topics.
pub(super) struct All {
    /// What the leaders know of them, by their names.
    pub(super) found: HashMap<String, Info>,
    /// The names of those that have no leader at the moment.
    pub(super) leaderless: Vec<String>,
}

impl Streams {
    /// The stream of a topic.
    pub(super) fn name(&self, number: u32) -> String {
        format!("{}-t-{number}", self.connection.prefix())
    }

    /// The topic of a stream.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        name.strip_prefix(self.connection.prefix())?.strip_prefix("-t-")?.parse().ok()
    }

    /// What the subjects of a topic's messages begin with.
    pub(super) fn base(&self, number: u32) -> String {
        format!("{}.t.{number}", self.connection.prefix())
    }

    /// Makes the stream of a topic, or changes it so that it is as the topic says; one that is there keeps its replicas.
    pub(super) async fn put(&self, number: u32, topic: &Topic) -> Result<()> {
        self.set(number, topic, None).await
    }

    /// The same, with an offset to begin with where it is not there yet.
    pub(super) async fn make(&self, number: u32, topic: &Topic, head: u64) -> Result<()> {
        self.set(number, topic, Some(head + 1)).await
    }

    async fn set(&self, number: u32, topic: &Topic, first_seq: Option<u64>) -> Result<()> {
        let name = self.name(number);
        let there = self.info(number).await?;
        let replicas = there.as_ref().map(|info| info.config.num_replicas);
        let retention = &topic.retention;
        // Where nobody is asked, NATS drops by itself, at once.
        let native = retention.drop_unread && !retention.compact;
        let age = retention.max_age.filter(|_| native).map_or(Duration::ZERO, |age| age.max(LEAST_WINDOW));
        let mut window = topic.dedup_window.max(LEAST_WINDOW);
        if !age.is_zero() {
            window = window.min(age);
        }
        let limit = |limit: Option<u64>| {
            limit.filter(|_| native).map_or(-1, |n| i64::try_from(n).unwrap_or(-1).max(1))
        };
        let settings = Settings {
            name: &name,
            description: format!("messages of the topic {}", topic.name),
            subjects: [format!("{}.>", self.base(number))],
            retention: "limits",
            storage: "file",
            discard: "old",
            num_replicas: replicas.unwrap_or_else(|| self.connection.replicas()),
            max_age: nanos(age),
            max_bytes: limit(retention.max_bytes),
            max_msgs: limit(retention.max_messages),
            max_msg_size: -1,
            first_seq: first_seq.filter(|_| there.is_none()),
            duplicate_window: nanos(window),
            allow_direct: true,
            allow_atomic: true,
            metadata: HashMap::from([
                ("crossdock-topic", topic.name.to_string()),
                ("crossdock-number", number.to_string()),
            ]),
        };
        let settings = serde_json::to_value(settings)
            .map_err(|cause| Error::internal(format!("a stream's settings cannot be written: {cause}")))?;
        let (verb, settings) = match there {
            None => ("CREATE", settings),
            Some(_) => ("UPDATE", over(self.config(number).await?.unwrap_or_default(), settings)),
        };
        let _: Info = self
            .ask(&format!("STREAM.{verb}.{name}"), &settings)
            .await?
            .map_err(|error| self.refused(&error))?;
        Ok(())
    }

    /// All that is set of the stream of a topic, if it is there.
    async fn config(&self, number: u32) -> Result<Option<serde_json::Map<String, Value>>> {
        #[derive(Deserialize)]
        struct Set {
            config: serde_json::Map<String, Value>,
        }
        match self.ask::<Set>(&format!("STREAM.INFO.{}", self.name(number)), &()).await? {
            Ok(set) => Ok(Some(set.config)),
            Err(error) if error.error_code().0 == NO_STREAM => Ok(None),
            Err(error) => Err(self.refused(&error)),
        }
    }

    /// Deletes the stream of a topic, if it is there.
    pub(super) async fn delete(&self, number: u32) -> Result<()> {
        let nothing = serde_json::Map::new();
        match self.ask::<Purged>(&format!("STREAM.DELETE.{}", self.name(number)), &nothing).await? {
            Ok(_) => Ok(()),
            Err(error) if error.error_code().0 == NO_STREAM => Ok(()),
            Err(error) => Err(self.refused(&error)),
        }
    }

    /// What the leader knows of the stream of a topic, if it is there.
    pub(super) async fn info(&self, number: u32) -> Result<Option<Info>> {
        let deadline = Instant::now() + self.connection.options.patience;
        let subject = format!("STREAM.INFO.{}", self.name(number));
        loop {
            let info: Info = match self.ask(&subject, &()).await? {
                Err(error) if error.error_code().0 == NO_STREAM => return Ok(None),
                other => other.map_err(|error| self.refused(&error))?,
            };
            if info.is_the_leaders() {
                return Ok(Some(info));
            }
            if Instant::now() + AGAIN >= deadline {
                return Err(unavailable(&format!("the stream {} has no leader", info.config.name)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What is known of the streams of all topics.
    pub(super) async fn all(&self) -> Result<All> {
        #[derive(Serialize)]
        struct Wanted {
            offset: usize,
            subject: String,
        }
        let mut all = All { found: HashMap::new(), leaderless: Vec::new() };
        let mut offset = 0;
        loop {
            let wanted = Wanted { offset, subject: format!("{}.t.>", self.connection.prefix()) };
            let page: Listed =
                self.ask_within(LIST, "STREAM.LIST", &wanted).await?.map_err(|error| self.refused(&error))?;
            offset += page.limit.max(1);
            all.leaderless.extend(page.missing.unwrap_or_default());
            for info in page.streams.unwrap_or_default() {
                let name = info.config.name.clone();
                if info.is_the_leaders() {
                    all.found.insert(name, info);
                } else {
                    all.leaderless.push(name);
                }
            }
            if offset >= page.total {
                return Ok(all);
            }
        }
    }

    /// Drops what lies before an offset, of some subjects or of all.
    pub(super) async fn purge(&self, number: u32, before: u64, subjects: Option<String>) -> Result<()> {
        #[derive(Serialize)]
        struct Wanted {
            seq: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            filter: Option<String>,
        }
        let wanted = Wanted { seq: before + 1, filter: subjects };
        let purged: Purged = self
            .ask(&format!("STREAM.PURGE.{}", self.name(number)), &wanted)
            .await?
            .map_err(|error| self.refused(&error))?;
        let _ = purged;
        Ok(())
    }

    /// Drops one message, if it is there.
    pub(super) async fn drop_one(&self, number: u32, offset: u64) -> Result<()> {
        #[derive(Serialize)]
        struct Wanted {
            seq: u64,
            no_erase: bool,
        }
        let wanted = Wanted { seq: offset + 1, no_erase: true };
        match self.ask::<Purged>(&format!("STREAM.MSG.DELETE.{}", self.name(number)), &wanted).await? {
            Ok(_) => Ok(()),
            // It may be gone already; or it may not be dropped.
            Err(error) => match self.read(number, From::Offset(offset), 1, 1).await?.first() {
                Some(first) if first.offset == offset => Err(self.refused(&error)),
                _ => Ok(()),
            },
        }
    }

    /// Asks JetStream's API, again when it does not answer: the server that would have may be gone. Nothing that is asked
    /// here does more when it is asked twice.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        subject: &str,
        payload: &(impl Serialize + Sync),
    ) -> Result<std::result::Result<T, async_nats::jetstream::Error>> {
        self.ask_within(ANSWER, subject, payload).await
    }

    async fn ask_within<T: DeserializeOwned>(
        &self,
        answer: Duration,
        subject: &str,
        payload: &(impl Serialize + Sync),
    ) -> Result<std::result::Result<T, async_nats::jetstream::Error>> {
        let context = &self.connection.context;
        let deadline = Instant::now() + self.connection.options.patience;
        loop {
            let asked = context.request::<_, _, Response<T>>(subject.to_owned(), payload);
            let what = match tokio::time::timeout_at(deadline.min(Instant::now() + answer), asked).await {
                Ok(Ok(Response::Ok(answer))) => return Ok(Ok(answer)),
                Ok(Ok(Response::Err { error })) if NOT_NOW.contains(&error.error_code().0) => {
                    error.to_string()
                }
                Ok(Ok(Response::Err { error })) => return Ok(Err(error)),
                Err(_) => "it does not answer".to_owned(),
                Ok(Err(error)) => match error.kind() {
                    RequestErrorKind::NoResponders => "nobody there has JetStream".to_owned(),
                    RequestErrorKind::TimedOut => "it does not answer".to_owned(),
                    _ => return Err(unavailable(&format!("JetStream cannot be asked: {error}"))),
                },
            };
            if Instant::now() + AGAIN >= deadline {
                return Err(unavailable(&format!("JetStream cannot be asked: {what}")));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    pub(super) fn refused(&self, error: &async_nats::jetstream::Error) -> Error {
        unavailable(&format!("JetStream refuses: {error}"))
    }
}

pub(super) fn unavailable(what: &str) -> Error {
    Error::new(ErrorCode::Unavailable, what.to_owned()).hint("see nats server report jetstream; try again")
}

/// What is set, with what a topic says in place of it: an administrator may have given the stream more than that.
fn over(mut set: serde_json::Map<String, Value>, wanted: Value) -> Value {
    let Value::Object(wanted) = wanted else { return wanted };
    for (name, value) in wanted {
        match (set.get_mut(&name), value) {
            (Some(Value::Object(before)), Value::Object(more)) => before.extend(more),
            (_, value) => drop(set.insert(name, value)),
        }
    }
    Value::Object(set)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
