//! Where topics lie: each in a stream, which a number names that no other topic has or had.
//!
//! A topic is there when its definition is. Its place is written before the stream and the definition are made, and marked
//! before the definition is deleted; then the place goes, and the stream only by the hand that took the place away. So a
//! place without a definition is either about to be used, with nothing in its stream, or marked, and then whoever makes
//! the topic takes another number: what subscriptions and late deletions know of the old one does not touch it.

use bytes::Bytes;
use crossdock_topics::{Entry, Error, ErrorCode, Expect, Result, Topic, TopicName};
use serde::{Deserialize, Serialize};

use super::super::store::Key;
use super::Logs;
use super::definitions::{ATTEMPTS, TOPICS, definition, no_topic, read, written};
use super::streams::unavailable;
use super::topic::Moved;

/// The last number given to a topic.
pub(super) const NUMBERS: &str = "topic-numbers";

/// Where a topic's messages lie: a key of the engine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) number: u32,
    pub(super) replicas: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) moved: Option<Moved>,
    /// Somebody has begun to delete the topic, and may not have come to the end of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) goes: bool,
}

pub(super) fn place(name: &TopicName) -> Key {
    Key::Own(format!("{TOPICS}{name}"))
}

/// Where the messages of a topic lie, as the key and the value that say so.
pub(in crate::jetstream) fn placed(
    name: &TopicName,
    number: u32,
    replicas: usize,
    moved: Option<Moved>,
) -> Result<(Key, Bytes)> {
    Ok((place(name), written(&Place { number, replicas, moved, goes: false })?))
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
    /// Where a topic that is made now will lie: in a stream that nothing has ever been stored in.
    pub(super) async fn make_place(&self, name: &TopicName) -> Result<Place> {
        let key = place(name);
        for _ in 0..ATTEMPTS {
            let left = self.store.get(&key).await?;
            let mut before = None;
            if let Some(entry) = &left {
                let lies: Place = read(&key, entry)?;
                if !lies.goes {
                    // Somebody else makes it at this moment, or has not come to the end of making it.
                    let info = self.streams.info(lies.number).await?;
                    if info.is_none_or(|info| info.state.tail() == 0)
                        || self.store.get(&definition(name)).await?.is_some()
                    {
                        return Ok(lies);
                    }
                }
                before = Some((lies.number, entry.revision));
            }
            if let Some(lies) = self.take_place(name, before).await? {
                return Ok(lies);
            }
        }
        Err(unavailable("others make the same topic all the time"))
    }

    /// Gives a topic a new place instead of the one that it had, whose stream goes; `None` if that is another one now.
    async fn take_place(&self, name: &TopicName, before: Option<(u32, u64)>) -> Result<Option<Place>> {
        let (number, replicas) = (self.new_number().await?, self.streams.connection.replicas());
        let lies = Place { number, replicas, moved: None, goes: false };
        let expect = before.map_or(Expect::Absent, |(_, revision)| Expect::At(revision));
        match self.store.put(&place(name), written(&lies)?, expect, None).await {
            Ok(_) => {
                if let Some((number, _)) = before {
                    self.drop_stream(name, number).await;
                }
                Ok(Some(lies))
            }
            Err(error) if error.code == ErrorCode::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sees to it that a topic that was just defined lies where its place says, which may have been taken away while it was
    /// being made with this number.
    pub(super) async fn keep_place(&self, topic: &Topic, number: u32) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let there = self.store.get(&place(&topic.name)).await?;
            let lies = match &there {
                Some(entry) => read::<Place>(&place(&topic.name), entry).map(Some)?,
                None => None,
            };
            let taken = match (&there, lies) {
                (_, Some(lies)) if !lies.goes && lies.number == number => return Ok(()),
                (_, Some(lies)) if !lies.goes => Some(lies),
                (Some(entry), Some(lies)) => {
                    self.take_place(&topic.name, Some((lies.number, entry.revision))).await?
                }
                _ => self.take_place(&topic.name, None).await?,
            };
            if let Some(lies) = taken {
                self.streams.put(lies.number, topic).await?;
                // Nobody has stored anything there: no place led to it since it was made again.
                if lies.number != number {
                    self.drop_stream(&topic.name, number).await;
                }
                return Ok(());
            }
        }
        Err(unavailable("others make and delete the same topic all the time"))
    }

    /// Where a topic lies that is defined, with its place and its stream made where they are missing: whoever should have
    /// may have gone away.
    pub(super) async fn place_of(&self, topic: &Topic) -> Result<Place> {
        for _ in 0..ATTEMPTS {
            let lies = match self.store.get(&place(&topic.name)).await? {
                Some(entry) => Some(read::<Place>(&place(&topic.name), &entry)?),
                None => self.take_place(&topic.name, None).await?,
            };
            if let Some(lies) = lies {
                if self.streams.info(lies.number).await?.is_none() {
                    self.streams.put(lies.number, topic).await?;
                }
                return Ok(lies);
            }
        }
        Err(unavailable("others make and delete the same topic all the time"))
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
                return Err(no_topic(name));
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
            let mut marked = None;
            if let Some(lies) = self.store.get(&place(name)).await? {
                let goes = Place { goes: true, ..read(&place(name), &lies)? };
                match self.store.put(&place(name), written(&goes)?, Expect::At(lies.revision), None).await {
                    Ok(revision) => marked = Some((goes.number, revision)),
                    Err(error) if error.code == ErrorCode::Conflict => continue,
                    Err(error) => return Err(error),
                }
            }
            match self.store.delete(&definition(name), Expect::At(entry.revision)).await {
                Ok(revision) => {
                    self.take_out(name, revision);
                    if let Some((number, revision)) = marked
                        // Otherwise the topic has been made anew already, by one who took another place.
                        && self.store.delete(&place(name), Expect::At(revision)).await.is_ok()
                    {
                        self.drop_stream(name, number).await;
                    }
                    return Ok(());
                }
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(unavailable("others change the same topic all the time"))
    }

    /// Deletes a stream that no place leads to any more. The topic has gone, whether this succeeds or not.
    pub(super) async fn drop_stream(&self, name: &TopicName, number: u32) {
        if let Err(error) = self.streams.delete(number).await {
            let stream = self.streams.name(number);
            tracing::warn!(topic = %name, stream, %error, "the stream of a topic that is gone is still there; remove it");
        }
    }
}
