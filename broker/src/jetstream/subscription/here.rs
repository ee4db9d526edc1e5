//! The subscriptions that this engine owns, as [`Subscriptions`] has them. What is asked of others is refused: whoever asks
//! finds out where they are now.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crossdock_topics::{
    ConsumerId, DeadLetter, Delivery, DeliveryId, Error, Expect, Explanation, Fetch, Message, ParkedKey,
    Redrive, Result, Revision, Selection, Settled, Settlement, StartAt, Subscription, SubscriptionInfo,
    SubscriptionName, Subscriptions, TopicName,
};
use tokio::sync::oneshot;

use super::catch_up::catch_up;
use super::hub::Hub;
use crate::delivery::explain::facts;
use crate::delivery::{Engine, Operation, Sieve};

/// The subscriptions that this engine owns.
pub(in crate::jetstream) struct Here(pub(super) Arc<Hub>);

impl Here {
    pub(in crate::jetstream) fn new(hub: &Arc<Hub>) -> Self {
        Self(hub.clone())
    }
}

#[async_trait]
impl Subscriptions for Here {
    async fn put_subscription(&self, subscription: Subscription, expect: Expect) -> Result<Revision> {
        self.0.check_open()?;
        subscription.check()?;
        if let Some(filter) = subscription.filter.clone() {
            let compiled = tokio::task::spawn_blocking(move || Sieve::compile(&filter).map(drop)).await;
            compiled.map_err(|cause| Error::internal(format!("compiling was interrupted: {cause}")))??;
        }
        self.0.put(subscription, expect).await
    }

    async fn delete_subscription(&self, name: &SubscriptionName) -> Result<()> {
        self.0.check_open()?;
        self.0.delete(name).await
    }

    async fn subscription(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        owned.catch_up().await?;
        Ok(owned.state.info())
    }

    async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>> {
        self.0.check_open()?;
        let mut subscriptions = Vec::new();
        for owned in self.0.all_at_work() {
            owned.catch_up().await?;
            subscriptions.push(owned.state.info());
        }
        subscriptions.sort_by(|a, b| a.subscription.name.cmp(&b.subscription.name));
        Ok(subscriptions)
    }

    async fn join(&self, name: &SubscriptionName) -> Result<ConsumerId> {
        self.0.check_open()?;
        self.0.owned(name).await?.state.join(|| self.0.number())
    }

    fn leave(&self, name: &SubscriptionName, consumer: ConsumerId) {
        if let Some(owned) = self.0.known(name) {
            owned.state.leave(consumer, owned.now());
        }
    }

    async fn fetch(&self, name: &SubscriptionName, fetch: Fetch) -> Result<Vec<Delivery>> {
        self.0.check_open()?;
        self.0.fetch(name, fetch).await
    }

    async fn settle(&self, name: &SubscriptionName, settlement: Settlement) -> Result<Settled> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        let mut settlement = settlement;
        let outputs = std::mem::take(&mut settlement.outputs);
        if outputs.is_empty() {
            return owned.settle(settlement, false).await;
        }
        // Whoever asks may go away: what has begun goes on to its end.
        let (answer, answered) = oneshot::channel();
        self.0.shutdown.tasks().spawn(async move {
            let _ = answer.send(owned.settle_outputs(settlement, outputs).await);
        });
        answered.await.unwrap_or_else(|_| Err(crate::jetstream::closed()))
    }

    async fn extend(
        &self,
        name: &SubscriptionName,
        deliveries: &[DeliveryId],
        lease: Duration,
    ) -> Result<Settled> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        owned.check_held()?;
        owned.check_read(deliveries.iter().copied())?;
        let settled = owned.state.extend(deliveries, lease, owned.now());
        // What was written down for the next owner before this has the old time.
        owned.check_held()?;
        Ok(settled)
    }

    async fn dead_letters(
        &self,
        name: &SubscriptionName,
        after: Option<(TopicName, u64)>,
        max: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        owned.catch_up().await?;
        // What has just become one has its record when that is stored.
        owned.rest().await?;
        owned.state.dead_letters(&*owned, after.as_ref(), max).await
    }

    async fn redrive(&self, name: &SubscriptionName, redrive: Redrive) -> Result<usize> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        owned.state.redrive(&*owned, redrive).await
    }

    async fn discard(&self, name: &SubscriptionName, selection: Selection, dry_run: bool) -> Result<usize> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        owned.state.discard(&*owned, selection, dry_run).await
    }

    async fn edit_dead_letter(
        &self,
        name: &SubscriptionName,
        topic: &TopicName,
        offset: u64,
        message: Message,
    ) -> Result<()> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        let limit = owned.common.topics.limit(topic).await?;
        owned.state.mend_letter(&*owned, topic, limit, offset, &message).await
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        owned.operate(&owned.state, Operation::Pause(paused)).await.map(drop)
    }

    async fn seek(&self, name: &SubscriptionName, topic: Option<&TopicName>, to: StartAt) -> Result<()> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        owned.catch_up().await?;
        owned.operate(&owned.state, Operation::Seek { topic: topic.cloned(), to }).await.map(drop)
    }

    async fn parked_keys(&self, name: &SubscriptionName, max: usize) -> Result<Vec<ParkedKey>> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        owned.rest().await?;
        owned.state.parked_keys(&*owned, max).await
    }

    async fn release_key(&self, name: &SubscriptionName, key: &str, give_up: bool) -> Result<usize> {
        self.0.check_open()?;
        let owned = self.0.owned(name).await?;
        let parked = owned.state.where_parked(&*owned, key).await?;
        owned.operate(&owned.state, Operation::ReleaseKeys { parked, give_up }).await
    }

    async fn explain(&self, topic: &TopicName, offset: u64) -> Result<Explanation> {
        self.0.check_open()?;
        self.0.common.topics.find(topic).await?;
        let read = self.0.common.topics.follow(topic)?;
        let feed = read.need.feed();
        catch_up(&self.0.common.topics, &read.log).await?;
        let facts = facts(&*self.0, feed, offset).await?;
        let mut subscriptions = Vec::new();
        for owned in self.0.all_at_work() {
            if !owned.state.definition().0.topics.iter().any(|pattern| pattern.matches(topic.as_str())) {
                continue;
            }
            owned.catch_up().await?;
            let record = facts.found.as_ref().map(|(_, record)| record);
            subscriptions.extend(owned.state.situation(&*owned, feed, offset, record)?);
        }
        subscriptions.sort_by(|a, b| a.subscription.cmp(&b.subscription));
        Ok(facts.explanation(topic.clone(), offset, subscriptions))
    }
}
