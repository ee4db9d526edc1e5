//! What topics there are: making, changing, deleting and describing them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{
    Change, Entry, Error, ErrorCode, Expect, Result, Revision, Subscription, Topic, TopicInfo, TopicName,
};
use serde::Serialize;

use super::super::store::Key;
use super::places::{Place, place};
use super::streams::{State, unavailable};
use super::{Logs, TopicLog};

pub(super) const TOPICS: &str = "topics/";
/// How often to begin anew when others make the same topic at the same time.
pub(super) const ATTEMPTS: usize = 20;
/// How long to wait before looking again at what topics there are.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn definition(name: &TopicName) -> Key {
    Key::Shared(format!("{TOPICS}{name}"))
}

/// Why retention keeps more of a topic than its limits say, in words.
pub(super) fn held_by(name: &TopicName) -> Key {
    Key::Own(format!("held/{name}"))
}

/// There is no such topic.
pub(super) fn no_topic(name: &TopicName) -> Error {
    Error::not_found("topic", name).hint(format!("make it with `crossdock topic create {name}`"))
}

pub(super) fn read<T: serde::de::DeserializeOwned>(key: &Key, entry: &Entry) -> Result<T> {
    serde_json::from_slice(&entry.value)
        .map_err(|cause| Error::internal(format!("{key} in the store cannot be read: {cause}")).hint(DAMAGED))
}

/// What to do about a definition that cannot be read.
const DAMAGED: &str = "a newer release may have written it: update this server; or write it again, or put the store back \
                       from a copy";

pub(super) fn written(value: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|cause| Error::internal(format!("a definition cannot be written: {cause}")))
}

impl Logs {
    /// A topic by its name, if this engine knows it.
    ///
    /// # Errors
    /// `NotFound`: it may have been made elsewhere a moment ago ([`Logs::find`]).
    pub(in crate::jetstream) fn topic(&self, name: &TopicName) -> Result<Arc<TopicLog>> {
        if let Some(log) = self.topics.read().get(name) {
            return Ok(log.clone());
        }
        // It may have been made in this moment.
        self.take_in(name, self.store.peek(&definition(name)).as_ref())?;
        self.topics.read().get(name).cloned().ok_or_else(|| no_topic(name))
    }

    /// A topic by its name, whoever made it, before this was called.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` where this engine does not know it and the store does not answer.
    pub(in crate::jetstream) async fn find(&self, name: &TopicName) -> Result<Arc<TopicLog>> {
        match self.topic(name) {
            Err(error) if error.code == ErrorCode::NotFound => {
                self.store.come().await?;
                self.topic(name)
            }
            found => found,
        }
    }

    /// A topic by its name, with what the leader of its stream knows of it.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn find_stream(&self, name: &TopicName) -> Result<(Arc<TopicLog>, State)> {
        let mut log = self.find(name).await?;
        loop {
            if let Some(info) = self.info(&log).await? {
                return Ok((log, info.state));
            }
            // It was deleted. It may have been made anew since.
            log = self.find_anew(&log).await?;
        }
    }

    /// The topic that has the name of one that has gone.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub(super) async fn find_anew(&self, gone: &TopicLog) -> Result<Arc<TopicLog>> {
        self.store.come().await?;
        self.take_in(&gone.name, self.store.peek(&definition(&gone.name)).as_ref())?;
        let found = self.topics.read().get(&gone.name).cloned();
        found.filter(|log| log.number != gone.number).ok_or_else(|| no_topic(&gone.name))
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
        let Place { number, replicas, moved, .. } = read(&place(name), &lies)?;
        let mut topics = self.topics.write();
        if let Some(known) = topics.get(name).filter(|known| known.number == number) {
            known.redefine(topic, entry.revision);
            return Ok(());
        }
        let sync_always = self.streams.connection.options.sync_always;
        let log = TopicLog::new(number, moved, replicas, sync_always, topic, entry.revision);
        if let Some(before) = topics.insert(name.clone(), Arc::new(log)) {
            before.mark_replaced();
        }
        drop(topics);
        self.changed.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// Takes in all topics that the store has and this engine does not know yet as they are there.
    pub(super) fn take_in_new(&self) {
        let seen = self.store.seen();
        if self.taken_in.load(Ordering::Acquire) == seen {
            return;
        }
        for (name, revision) in self.store.names(TOPICS) {
            let Ok(name) = name.parse::<TopicName>() else { continue };
            let is_known = self.topics.read().get(&name).is_some_and(|log| log.definition().1 >= revision);
            if !is_known && let Err(error) = self.take_in(&name, self.store.peek(&definition(&name)).as_ref())
            {
                tracing::warn!(topic = %name, %error, "a topic's definition is passed over");
            }
        }
        self.taken_in.store(seen, Ordering::Release);
    }

    /// A topic is deleted, as of a revision.
    pub(super) fn take_out(&self, name: &TopicName, revision: Revision) {
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
                        )
                        .hint("read it again, and decide again"));
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
                    let lies = self.place_of(&topic).await?;
                    if topic.durability > self.durability(lies.replicas) {
                        return Err(self.not_as_durable(topic.durability, self.durability(lies.replicas)));
                    }
                    if read::<Topic>(&definition(&topic.name), entry)? == topic {
                        self.take_in(&topic.name, Some(entry))?;
                        return Ok(entry.revision);
                    }
                    (lies, Expect::At(entry.revision))
                }
            };
            self.streams.put(lies.number, &topic).await?;
            match self.store.put(&definition(&topic.name), written(&topic)?, expected, None).await {
                Ok(revision) => {
                    if there.is_none() {
                        self.keep_place(&topic, lies.number).await?;
                    }
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

    /// The definitions of all subscriptions, as this engine knows them.
    pub(super) fn subscriptions(&self) -> Vec<Subscription> {
        let (entries, _) = self.store.list_shared("subscriptions/");
        entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
    }

    /// What is known of a topic, without its stream's leader what this engine has seen.
    fn described(&self, log: &TopicLog, state: Option<&State>) -> TopicInfo {
        let (topic, revision) = log.definition();
        let feed = &log.following.feed;
        let (head, tail) = match state {
            Some(state) => (state.head(), state.tail()),
            None => (feed.head(), feed.tail().max(log.known_tail())),
        };
        let held_by = self.store.peek(&held_by(&log.name));
        TopicInfo {
            topic: (*topic).clone(),
            revision,
            head,
            tail,
            bytes: state.map_or(0, |state| state.bytes),
            last: match log.moved.filter(|moved| moved.end == tail) {
                Some(moved) => Some(moved.last),
                None => state.and_then(State::last),
            },
            held_by: held_by.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()),
        }
    }

    pub(super) async fn describe(&self, name: &TopicName) -> Result<TopicInfo> {
        let (log, state) = self.find_stream(name).await?;
        Ok(self.described(&log, Some(&state)))
    }

    pub(super) async fn describe_all(&self) -> Result<Vec<TopicInfo>> {
        self.store.come().await?;
        self.take_in_new();
        let logs = self.all_topics();
        let streams = self.streams.all().await?;
        let mut topics: Vec<TopicInfo> = logs
            .iter()
            .filter_map(|log| {
                let name = self.streams.name(log.number);
                match streams.found.get(&name) {
                    Some(info) => Some(self.described(log, Some(&info.state))),
                    None => streams.leaderless.contains(&name).then(|| self.described(log, None)),
                }
            })
            .collect();
        topics.sort_by(|a, b| a.topic.name.cmp(&b.topic.name));
        Ok(topics)
    }

    pub(super) async fn purge(&self, name: &TopicName, before: Option<u64>) -> Result<u64> {
        let (log, state) = self.find_stream(name).await?;
        let before = before.unwrap_or(state.tail());
        if before > state.tail() {
            return Err(Error::invalid(format!(
                "topic {name} ends at offset {}, it cannot be purged up to {before}",
                state.tail()
            )));
        }
        if before > state.head() {
            self.streams.purge(log.number, before, None).await?;
        }
        self.dropped(&log, before);
        Ok(before.max(state.head()))
    }
}

/// Keeps up with the topics that other engines make, change and delete.
pub(super) async fn watch(logs: Arc<Logs>) {
    while !logs.shutdown.has_started() {
        let (_, placed) = logs.store.list_own(TOPICS);
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
        let (watch, places) =
            (logs.store.watch_shared(TOPICS, revision), logs.store.watch_own(TOPICS, placed));
        if let (Ok(mut watch), Ok(mut places)) = (watch, places) {
            loop {
                tokio::select! {
                    change = watch.next() => match change {
                        Some(change) => drop(follow(&logs, &change)),
                        None => break,
                    },
                    // Where it lies may be said after what it is.
                    change = places.next() => match change.as_ref().map(named) {
                        Some(Some(name)) => {
                            if let Some(entry) = logs.store.peek(&definition(&name)) {
                                follow(&logs, &Change::Put(entry));
                            }
                        }
                        Some(None) => {}
                        None => break,
                    },
                    () = logs.shutdown.started() => return,
                }
            }
        }
        // What was listed and what is watched do not fit together, for the store is read anew at this moment.
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = logs.shutdown.started() => {}
        }
    }
}

/// The topic that a change is about.
fn named(change: &Change) -> Option<TopicName> {
    change.key().strip_prefix(TOPICS)?.parse().ok()
}

fn follow(logs: &Logs, change: &Change) -> Option<TopicName> {
    let name = named(change)?;
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
