//! Subscriptions, as [`Subscriptions`] has them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crossdock_topics::{
    Batch, ConsumerId, DeadLetter, Delivery, DeliveryId, Error, Expect, Explanation, Fetch, Message,
    ParkedKey, Redrive, Result, Revision, Selection, Settled, Settlement, StartAt, Subscription,
    SubscriptionInfo, SubscriptionName, Subscriptions, Timestamp, TopicName,
};

use super::log::{TopicLog, load};
use super::writer::Command;
use super::{Embedded, Shared};
use crate::delivery::block::Block;
use crate::delivery::explain::explain;
use crate::delivery::{Blocks, Engine, Feed, Operation, Recent, Sieve, SubscriptionState};

impl Blocks for Shared {
    async fn blocks(&self, feed: &Arc<Feed>, offset: u64, limit: usize) -> Result<Vec<Arc<Block>>> {
        match feed.recent(offset, limit) {
            Recent::Blocks(blocks) => Ok(blocks),
            Recent::End => Ok(Vec::new()),
            Recent::Older => {
                let (database, feed) = (self.database()?, feed.clone());
                tokio::task::spawn_blocking(move || load(&feed, &database, offset, limit))
                    .await
                    .map_err(|cause| Error::internal(format!("reading was interrupted: {cause}")))?
            }
        }
    }
}

impl Engine for Shared {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn check_open(&self) -> Result<()> {
        Self::check_open(self)
    }

    fn kept(&self, _: &SubscriptionState, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.database()?.get("groups", key)
    }

    fn persist_soon(&self, subscription: &Arc<SubscriptionState>) -> Result<()> {
        self.command(Command::Persist(subscription.clone()))
    }

    async fn operate(&self, subscription: &Arc<SubscriptionState>, operation: Operation) -> Result<usize> {
        Self::check_open(self)?;
        let subscription = subscription.clone();
        self.ask(|answer| Command::Operate { subscription, operation, answer }).await
    }
}

impl Shared {
    /// Finds the topics that outputs go to, and checks that they may.
    fn outputs(&self, outputs: Vec<(TopicName, Batch)>) -> Result<Vec<(Arc<TopicLog>, Batch)>> {
        outputs
            .into_iter()
            .map(|(topic, batch)| {
                let log = self.topic(&topic)?;
                log.definition().0.admit(&batch)?;
                Ok((log, batch))
            })
            .collect()
    }
}

#[async_trait]
impl Subscriptions for Embedded {
    async fn put_subscription(&self, subscription: Subscription, expect: Expect) -> Result<Revision> {
        subscription.check()?;
        let sieve = match subscription.filter.clone() {
            Some(filter) => {
                let compiled = tokio::task::spawn_blocking(move || Sieve::compile(&filter)).await;
                let failed = |cause| Error::internal(format!("compiling was interrupted: {cause}"));
                Some(Arc::new(compiled.map_err(failed)??))
            }
            None => None,
        };
        self.shared.ask(|answer| Command::PutSubscription { subscription, sieve, expect, answer }).await
    }

    async fn delete_subscription(&self, name: &SubscriptionName) -> Result<()> {
        self.shared.ask(|answer| Command::DeleteSubscription { name: name.clone(), answer }).await
    }

    async fn subscription(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        Ok(self.shared.subscription(name)?.info())
    }

    async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>> {
        let states: Vec<_> = self.shared.subscriptions.read().values().cloned().collect();
        let mut subscriptions: Vec<SubscriptionInfo> = states.iter().map(|state| state.info()).collect();
        subscriptions.sort_by(|a, b| a.subscription.name.cmp(&b.subscription.name));
        Ok(subscriptions)
    }

    async fn join(&self, name: &SubscriptionName) -> Result<ConsumerId> {
        self.shared.check_open()?;
        self.shared.subscription(name)?.join(|| ConsumerId(self.shared.token()))
    }

    fn leave(&self, name: &SubscriptionName, consumer: ConsumerId) {
        if let Ok(state) = self.shared.subscription(name) {
            state.leave(consumer, self.shared.clock.now());
        }
    }

    async fn fetch(&self, name: &SubscriptionName, fetch: Fetch) -> Result<Vec<Delivery>> {
        self.shared.subscription(name)?.fetch(&*self.shared, fetch).await
    }

    async fn settle(&self, name: &SubscriptionName, settlement: Settlement) -> Result<Settled> {
        self.shared.check_open()?;
        let subscription = self.shared.subscription(name)?;
        let mut settlement = settlement;
        let outputs = self.shared.outputs(std::mem::take(&mut settlement.outputs))?;
        let bytes = outputs.iter().map(|(_, batch)| batch.as_bytes().len()).sum();
        // What has been done already is not refused for want of room: it waits.
        while !self.shared.budget.take(bytes) {
            self.shared.budget.wait().await;
            self.shared.check_open()?;
        }
        let settle = |answer| Command::Settle { subscription, settlement, outputs, bytes, answer };
        self.shared.ask(settle).await
    }

    async fn extend(
        &self,
        name: &SubscriptionName,
        deliveries: &[DeliveryId],
        lease: Duration,
    ) -> Result<Settled> {
        self.shared.check_open()?;
        Ok(self.shared.subscription(name)?.extend(deliveries, lease, self.shared.clock.now()))
    }

    async fn dead_letters(
        &self,
        name: &SubscriptionName,
        after: Option<(TopicName, u64)>,
        max: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.shared.subscription(name)?.dead_letters(&*self.shared, after.as_ref(), max).await
    }

    async fn redrive(&self, name: &SubscriptionName, redrive: Redrive) -> Result<usize> {
        self.shared.subscription(name)?.redrive(&*self.shared, redrive).await
    }

    async fn discard(&self, name: &SubscriptionName, selection: Selection, dry_run: bool) -> Result<usize> {
        self.shared.subscription(name)?.discard(&*self.shared, selection, dry_run).await
    }

    async fn edit_dead_letter(
        &self,
        name: &SubscriptionName,
        topic: &TopicName,
        offset: u64,
        message: Message,
    ) -> Result<()> {
        let (state, log) = (self.shared.subscription(name)?, self.shared.topic(topic)?);
        let limit = log.definition().0.max_message_bytes;
        state.mend_letter(&*self.shared, topic, limit, offset, &message).await
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.shared.operate(&self.shared.subscription(name)?, Operation::Pause(paused)).await.map(drop)
    }

    async fn seek(&self, name: &SubscriptionName, topic: Option<&TopicName>, to: StartAt) -> Result<()> {
        self.shared
            .operate(&self.shared.subscription(name)?, Operation::Seek { topic: topic.cloned(), to })
            .await
            .map(drop)
    }

    async fn parked_keys(&self, name: &SubscriptionName, max: usize) -> Result<Vec<ParkedKey>> {
        self.shared.subscription(name)?.parked_keys(&*self.shared, max).await
    }

    async fn release_key(&self, name: &SubscriptionName, key: &str, give_up: bool) -> Result<usize> {
        let state = self.shared.subscription(name)?;
        let parked = state.where_parked(&*self.shared, key).await?;
        self.shared.operate(&state, Operation::ReleaseKeys { parked, give_up }).await
    }

    async fn explain(&self, topic: &TopicName, offset: u64) -> Result<Explanation> {
        explain(&*self.shared, &self.shared.topic(topic)?.feed, offset).await
    }
}
