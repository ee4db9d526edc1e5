//! What subscriptions need of the topics.

use std::collections::HashSet;
use std::sync::Arc;

use crossdock_topics::{Batch, PublishOptions, Published, Result, StartAt, TopicName};
use tokio::sync::watch;

use crate::delivery::Feed;
use crate::delivery::block::Block;
use crate::jetstream::log::{Logs, Need, TopicLog};

/// The topics, as subscriptions see them.
#[derive(Clone)]
pub(super) struct Topics(pub(super) Arc<Logs>);

/// A topic that is read.
pub(super) struct Read {
    pub(super) log: Arc<TopicLog>,
    pub(super) need: Need,
}

impl Topics {
    /// All topics there are, with their numbers.
    pub(super) fn all(&self) -> Vec<(u32, TopicName)> {
        self.0.all_topics().iter().map(|log| (log.number, log.name.clone())).collect()
    }

    /// The largest payload a topic takes.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub(super) async fn limit(&self, name: &TopicName) -> Result<usize> {
        Ok(self.0.find(name).await?.definition().0.max_message_bytes)
    }

    /// Checks that all of these batches could be published now.
    ///
    /// # Errors
    /// As publishing them.
    pub(super) async fn check_all(&self, batches: &[(TopicName, Batch)]) -> Result<()> {
        self.0.check_all(batches).await
    }

    /// Changes whenever a topic is made, or has gone.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed()
    }

    /// Takes in all topics that were made anywhere before this was called, if the store can say which they are.
    pub(super) async fn come(&self) {
        self.0.come_to_topics().await;
    }

    /// A topic by its name, whoever made it.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub(super) async fn find(&self, name: &TopicName) -> Result<Arc<TopicLog>> {
        self.0.find(name).await
    }

    /// The numbers of all topics that there are now.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn numbers(&self) -> Result<HashSet<u32>> {
        self.0.numbers().await
    }

    /// A topic's feed, which is advanced as messages are stored for as long as this is held.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn follow(&self, name: &TopicName) -> Result<Read> {
        let log = self.0.topic(name)?;
        let need = self.0.follow(&log);
        Ok(Read { log, need })
    }

    /// As [`crate::delivery::Blocks::blocks`].
    pub(super) async fn blocks(
        &self,
        feed: &Arc<Feed>,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Block>>> {
        self.0.blocks(feed, offset, limit).await
    }

    /// Which offset a place is at now; nothing that has a receipt lies behind the end.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub(super) async fn place(&self, log: &TopicLog, start: StartAt) -> Result<u64> {
        let place = self.0.place(log, start).await?;
        match start {
            StartAt::Offset(_) => Ok(place.min(self.0.place(log, StartAt::End).await?)),
            _ => Ok(place),
        }
    }

    /// Publishes.
    pub(super) fn publish(&self, topic: &TopicName, batch: Batch) -> Published {
        self.0.publish(topic, batch, PublishOptions::default())
    }
}
