//! What topics there are: making, changing, deleting and describing them.

use std::sync::Arc;

use bytes::Bytes;
use crossdock_topics::{
    Change, Entry, Error, ErrorCode, Expect, Result, Revision, Subscription, Topic, TopicInfo, TopicName,
};
use serde::{Deserialize, Serialize};

use super::super::store::Key;
use super::streams::{Info, unavailable};
use super::topic::Moved;
use super::{Logs, TopicLog};

const TOPICS: &str = "topics/";
/// The last number given to a topic.
const NUMBERS: &str = "topic-numbers";
/// How often to begin anew when others make the same topic at the same time.
const ATTEMPTS: usize = 20;

/// Where a topic's messages lie: a key of the engine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    number: u32,
    replicas: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved: Option<Moved>,
}

fn definition(name: &TopicName) -> Key {
    Key::Shared(format!("{TOPICS}{name}"))
}

fn place(name: &TopicName) -> Key {
    Key::Own(format!("{TOPICS}{name}"))
}

/// Why retention keeps more of a topic than its limits say, in words.
pub(super) fn held_by(name: &TopicName) -> Key {
    Key::Own(format!("held/{name}"))
}

fn read<T: serde::de::DeserializeOwned>(key: &Key, entry: &Entry) -> Result<T> {
    serde_json::from_slice(&entry.value)
        .map_err(|cause| Error::internal(format!("{key} in the store cannot be read: {cause}")))
}

fn written(value: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|cause| Error::internal(format!("a definition cannot be written: {cause}")))
}

/// Where the messages of a topic lie, as the key and the value that say so.
pub(in crate::jetstream) fn placed(
    name: &TopicName,
    number: u32,
    replicas: usize,
    moved: Option<Moved>,
) -> Result<(Key, Bytes)> {
    Ok((place(name), written(&Place { number, replicas, moved })?))
}

/// The number of a topic's stream, and what of it was moved there, by such a value.
pub(in crate::jetstream) fn number_in(name: &TopicName, entry: &Entry) -> Result<u32> {
    Ok(read::<Place>(&place(name), entry)?.number)
}

/// The last number given to a topic, as the key and the value that say so.
pub(in crate::jetstream) fn counted(number: u32) -> Result<(Key, Bytes)> {
    Ok((Key::Own(NUMBERS.into()), written(&number)?))
}

impl Logs {
    /// A topic by its name.
    ///
    /// # Errors
    /// `NotFound`.
    pub(in crate::jetstream) fn topic(&self, name: &TopicName) -> Result<Arc<TopicLog>> {
        if let Some(log) = self.topics.read().get(name) {
            return Ok(log.clone());
        }
        // It may have been made in this moment.
        self.take_in(name, self.store.peek(&definition(name)).as_ref())?;
        self.topics.read().get(name).cloned().ok_or_else(|| Error::not_found("topic", name))
    }

    /// All topics.
    pub(in crate::jetstream) fn all_topics(&self) -> Vec<Arc<TopicLog>> {
        self.topics.read().values().cloned().collect()
    }

    /// Makes what is known here follow a definition in the store.
    fn take_in(&self, name: &TopicName, entry: Option<&Entry>) -> Result<()> {
        let Some(entry) = entry else { return Ok(()) };
        let topic: Topic = read(&definition(name), entry)?;
        let Some(lies) = self.store.peek(&place(name)) else { return Ok(()) };
        let Place { number, replicas, moved } = read(&place(name), &lies)?;
        let mut topics = self.topics.write();
        if let Some(known) = topics.get(name).filter(|known| known.number == number) {
            known.redefine(topic, entry.revision);
            return Ok(());
        }
        let durability = self.durability(replicas);
        let log = TopicLog::new(number, moved, replicas, durability, topic, entry.revision);
        if let Some(before) = topics.insert(name.clone(), Arc::new(log)) {
            before.mark_deleted();
        }
        drop(topics);
        self.changed.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// A topic is deleted, as of a revision.
    fn take_out(&self, name: &TopicName, revision: Revision) {
        let mut topics = self.topics.write();
        if topics.get(name).is_some_and(|log| log.definition().1 < revision)
            && let Some(log) = topics.remove(name)
        {
            log.mark_deleted();
            drop(topics);
            self.changed.send_modify(|changes| *changes += 1);
        }
    }

    /// Says that a topic was made here or elsewhere, or has gone.
    pub(in crate::jetstream) fn changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) async fn put(&self, topic: Topic, expect: Expect) -> Result<Revision> {
        topic.check()?;
        let given = self.durability(self.streams.connection.replicas());
        for _ in 0..ATTEMPTS {
            let there = self.store.get(&definition(&topic.name)).await?;
            let (lies, expected) = match &there {
                None => {
                    if let Expect::At(revision) = expect {
                        return Err(Error::new(
                            ErrorCode::Conflict,
                            format!(
                                "there is no topic {}, and revision {revision} of it was expected",
                                topic.name
                            ),
                        ));
                    }
                    if topic.durability > given {
                        return Err(self.not_as_durable(topic.durability, given));
                    }
                    (self.make_place(&topic.name).await?, Expect::Absent)
                }
                Some(entry) => {
                    let fits = match expect {
                        Expect::Any => true,
                        Expect::Absent => false,
                        Expect::At(revision) => revision == entry.revision,
                    };
                    if !fits {
                        return Err(Error::new(
                            ErrorCode::Conflict,
                            format!("topic {} is at revision {}", topic.name, entry.revision),
                        )
                        .hint("read it again, and decide again"));
                    }
                    let Some(lies) = self.store.get(&place(&topic.name)).await? else {
                        return Err(Error::internal(format!("nobody knows where topic {} lies", topic.name)));
                    };
                    let lies: Place = read(&place(&topic.name), &lies)?;
                    if topic.durability > self.durability(lies.replicas) {
                        return Err(self.not_as_durable(topic.durability, self.durability(lies.replicas)));
                    }
                    if read::<Topic>(&definition(&topic.name), entry)? == topic {
                        return Ok(entry.revision);
                    }
                    (lies, Expect::At(entry.revision))
                }
            };
            self.streams.put(lies.number, &topic).await?;
            match self.store.put(&definition(&topic.name), written(&topic)?, expected, None).await {
                Ok(revision) => {
                    let value = written(&topic)?;
                    let entry = Entry { key: format!("{TOPICS}{}", topic.name), value, revision };
                    self.take_in(&topic.name, Some(&entry))?;
                    return Ok(revision);
                }
                // Somebody else was first: whatever is there now is looked at.
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(unavailable("others change the same topic all the time"))
    }

    /// Where a topic that is made now will lie: in a stream that nothing has ever been stored in.
    async fn make_place(&self, name: &TopicName) -> Result<Place> {
        let key = place(name);
        for _ in 0..ATTEMPTS {
            let left = self.store.get(&key).await?;
            let mut expect = Expect::Absent;
            if let Some(entry) = &left {
                let lies: Place = read(&key, entry)?;
                // Somebody else makes it at this moment, or has not come to the end of making it.
                if self.streams.info(lies.number).await?.is_none_or(|info| info.state.tail() == 0) {
                    return Ok(lies);
                }
                if self.store.get(&definition(name)).await?.is_some() {
                    return Ok(lies);
                }
                // Somebody has not come to the end of deleting it.
                expect = Expect::At(entry.revision);
            }
            let (number, replicas) = (self.new_number().await?, self.streams.connection.replicas());
            let lies = Place { number, replicas, moved: None };
            match self.store.put(&key, written(&lies)?, expect, None).await {
                Ok(_) => {
                    if let Some(entry) = &left {
                        let before: Place = read(&key, entry)?;
                        self.streams.delete(before.number).await?;
                    }
                    return Ok(lies);
                }
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(unavailable("others make the same topic all the time"))
    }

    /// A number that no topic has or had.
    async fn new_number(&self) -> Result<u32> {
        let key = Key::Own(NUMBERS.into());
        for _ in 0..ATTEMPTS * 10 {
            let last = self.store.get(&key).await?;
            let next = last.as_ref().map_or(Ok(0), |entry| read::<u32>(&key, entry))? + 1;
            let expect = last.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
            match self.store.put(&key, written(&next)?, expect, None).await {
                Ok(_) => return Ok(next),
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(unavailable("others make topics all the time"))
    }

    pub(super) async fn delete(&self, name: &TopicName) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let Some(entry) = self.store.get(&definition(name)).await? else {
                return Err(Error::not_found("topic", name));
            };
            if let Some(subscription) = self.subscriptions().into_iter().find(|subscription| {
                subscription.topics.iter().any(|pattern| pattern.literal().as_ref() == Some(name))
            }) {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!("subscription {} needs topic {name}", subscription.name),
                )
                .hint("delete the subscription first"));
            }
            let lies = self.store.get(&place(name)).await?;
            match self.store.delete(&definition(name), Expect::At(entry.revision)).await {
                Ok(revision) => {
                    self.take_out(name, revision);
                    if let Some(lies) = lies {
                        let Place { number, .. } = read(&place(name), &lies)?;
                        self.streams.delete(number).await?;
                        // If it is not there any more, the topic has been made anew already.
                        let _ = self.store.delete(&place(name), Expect::At(lies.revision)).await;
                    }
                    return Ok(());
                }
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(unavailable("others change the same topic all the time"))
    }

    /// The definitions of all subscriptions, as this engine knows them.
    pub(super) fn subscriptions(&self) -> Vec<Subscription> {
        let (entries, _) = self.store.list_shared("subscriptions/");
        entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
    }

    fn described(&self, log: &TopicLog, info: &Info) -> TopicInfo {
        let (topic, revision) = log.definition();
        let state = &info.state;
        let held_by = self.store.peek(&held_by(&log.name));
        TopicInfo {
            topic: (*topic).clone(),
            revision,
            head: state.head(),
            tail: state.tail(),
            bytes: state.bytes,
            last: log
                .moved
                .filter(|moved| moved.end == state.tail())
                .map_or(state.last(), |moved| Some(moved.last)),
            held_by: held_by.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()),
        }
    }

    pub(super) async fn describe(&self, name: &TopicName) -> Result<TopicInfo> {
        let log = self.topic(name)?;
        let info = self.streams.info(log.number).await?;
        info.map(|info| self.described(&log, &info)).ok_or_else(|| Error::not_found("topic", name))
    }

    pub(super) async fn describe_all(&self) -> Result<Vec<TopicInfo>> {
        let logs = self.all_topics();
        let streams = self.streams.all().await?;
        let mut topics: Vec<TopicInfo> = logs
            .iter()
            .filter_map(|log| Some(self.described(log, streams.get(&self.streams.name(log.number))?)))
            .collect();
        topics.sort_by(|a, b| a.topic.name.cmp(&b.topic.name));
        Ok(topics)
    }

    pub(super) async fn purge(&self, name: &TopicName, before: Option<u64>) -> Result<u64> {
        let log = self.topic(name)?;
        let gone = || Error::not_found("topic", name);
        let state = self.streams.info(log.number).await?.ok_or_else(gone)?.state;
        let before = before.unwrap_or(state.tail());
        if before > state.tail() {
            return Err(Error::invalid(format!(
                "topic {name} ends at offset {}, it cannot be purged up to {before}",
                state.tail()
            )));
        }
        if before > state.head() {
            self.streams.purge(log.number, before, None).await?;
            self.head_moved(&log, before);
        }
        Ok(before.max(state.head()))
    }
}

/// Keeps up with the topics that other engines make, change and delete.
pub(super) async fn watch(logs: Arc<Logs>) {
    loop {
        let (entries, revision) = logs.store.list_shared(TOPICS);
        let mut there = Vec::new();
        for entry in &entries {
            there.extend(follow(&logs, &Change::Put(entry.clone())));
        }
        for log in logs.all_topics() {
            if !there.contains(&log.name) {
                logs.take_out(&log.name, revision);
            }
        }
        let Ok(mut watch) = logs.store.watch_shared(TOPICS, revision) else { return };
        loop {
            tokio::select! {
                change = watch.next() => match change {
                    Some(change) => drop(follow(&logs, &change)),
                    None => break,
                },
                () = logs.shutdown.started() => return,
            }
        }
        if logs.shutdown.has_started() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn follow(logs: &Logs, change: &Change) -> Option<TopicName> {
    let name: TopicName = change.key().strip_prefix(TOPICS)?.parse().ok()?;
    match change {
        Change::Put(entry) => {
            if let Err(error) = logs.take_in(&name, Some(entry)) {
                tracing::warn!(topic = %name, %error, "a topic's definition is passed over");
            }
        }
        Change::Deleted { revision, .. } => logs.take_out(&name, *revision),
    }
    Some(name)
}
