//! A broker of two engines: subscriptions are made at the one, and whatever else concerns them is asked of the other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crossdock_broker::JetStream;
use crossdock_topics::{
    Batch, Broker, ConsumerId, DeadLetter, Delivery, DeliveryId, Entry, Expect, Explanation, Fetch, Health,
    LeaseId, Log, Message, Page, ParkedKey, PublishOptions, Published, Redrive, Reply, Request, Requests,
    Result, Revision, Selection, ServiceName, Settled, Settlement, StartAt, Store, Subscription,
    SubscriptionInfo, SubscriptionName, Subscriptions, Topic, TopicInfo, TopicName, Watch,
};
use tokio::sync::mpsc;

pub(crate) struct Spread {
    /// Makes what is made, and so owns the subscriptions.
    pub(crate) owner: Arc<JetStream>,
    /// Is asked.
    pub(crate) other: Arc<JetStream>,
}

#[async_trait]
impl Log for Spread {
    async fn put_topic(&self, topic: Topic, expect: Expect) -> Result<Revision> {
        self.owner.put_topic(topic, expect).await
    }

    async fn delete_topic(&self, name: &TopicName) -> Result<()> {
        self.owner.delete_topic(name).await
    }

    async fn topic(&self, name: &TopicName) -> Result<TopicInfo> {
        self.owner.topic(name).await
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.owner.topics().await
    }

    async fn purge(&self, name: &TopicName, before: Option<u64>) -> Result<u64> {
        self.owner.purge(name, before).await
    }

    fn publish(&self, topic: &TopicName, batch: Batch, options: PublishOptions) -> Published {
        self.owner.publish(topic, batch, options)
    }

    async fn room(&self) {
        self.owner.room().await;
    }

    async fn read(&self, topic: &TopicName, from: StartAt, max: usize, wait: Duration) -> Result<Page> {
        self.owner.read(topic, from, max, wait).await
    }
}

#[async_trait]
impl Subscriptions for Spread {
    async fn put_subscription(&self, subscription: Subscription, expect: Expect) -> Result<Revision> {
        self.owner.put_subscription(subscription, expect).await
    }

    async fn delete_subscription(&self, name: &SubscriptionName) -> Result<()> {
        self.other.delete_subscription(name).await
    }

    async fn subscription(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        self.other.subscription(name).await
    }

    async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>> {
        self.other.subscriptions().await
    }

    async fn join(&self, name: &SubscriptionName) -> Result<ConsumerId> {
        self.other.join(name).await
    }

    fn leave(&self, name: &SubscriptionName, consumer: ConsumerId) {
        self.other.leave(name, consumer);
    }

    async fn fetch(&self, name: &SubscriptionName, fetch: Fetch) -> Result<Vec<Delivery>> {
        self.other.fetch(name, fetch).await
    }

    async fn settle(&self, name: &SubscriptionName, settlement: Settlement) -> Result<Settled> {
        self.other.settle(name, settlement).await
    }

    async fn extend(
        &self,
        name: &SubscriptionName,
        deliveries: &[DeliveryId],
        lease: Duration,
    ) -> Result<Settled> {
        self.other.extend(name, deliveries, lease).await
    }

    async fn dead_letters(
        &self,
        name: &SubscriptionName,
        after: Option<(TopicName, u64)>,
        max: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.other.dead_letters(name, after, max).await
    }

    async fn redrive(&self, name: &SubscriptionName, redrive: Redrive) -> Result<usize> {
        self.other.redrive(name, redrive).await
    }

    async fn discard(&self, name: &SubscriptionName, selection: Selection, dry_run: bool) -> Result<usize> {
        self.other.discard(name, selection, dry_run).await
    }

    async fn edit_dead_letter(
        &self,
        name: &SubscriptionName,
        topic: &TopicName,
        offset: u64,
        message: Message,
    ) -> Result<()> {
        self.other.edit_dead_letter(name, topic, offset, message).await
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.other.set_paused(name, paused).await
    }

    async fn seek(&self, name: &SubscriptionName, topic: Option<&TopicName>, to: StartAt) -> Result<()> {
        self.other.seek(name, topic, to).await
    }

    async fn parked_keys(&self, name: &SubscriptionName, max: usize) -> Result<Vec<ParkedKey>> {
        self.other.parked_keys(name, max).await
    }

    async fn release_key(&self, name: &SubscriptionName, key: &str, give_up: bool) -> Result<usize> {
        self.other.release_key(name, key, give_up).await
    }

    async fn explain(&self, topic: &TopicName, offset: u64) -> Result<Explanation> {
        self.other.explain(topic, offset).await
    }
}

#[async_trait]
impl Requests for Spread {
    async fn request(&self, service: &ServiceName, message: Message, timeout: Duration) -> Reply {
        self.other.request(service, message, timeout).await
    }

    async fn serve(&self, service: &ServiceName, capacity: usize) -> Result<mpsc::Receiver<Request>> {
        self.other.serve(service, capacity).await
    }
}

#[async_trait]
impl Store for Spread {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.owner.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect, lease: Option<LeaseId>) -> Result<Revision> {
        self.owner.put(key, value, expect, lease).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Revision> {
        self.owner.delete(key, expect).await
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision)> {
        self.owner.list(prefix).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        self.owner.watch(prefix, after).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.owner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.owner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.owner.revoke(lease).await
    }
}

#[async_trait]
impl Broker for Spread {
    fn health(&self) -> Health {
        self.owner.health()
    }

    async fn close(&self) {
        tokio::join!(self.owner.close(), self.other.close());
    }
}
