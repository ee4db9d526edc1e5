//! What this engine cannot do yet. No URL leads here before this file is gone.

use std::time::Duration;

use async_trait::async_trait;
use crossdock_topics::{
    ConsumerId, DeadLetter, Delivery, DeliveryId, Error, ErrorCode, Expect, Explanation, Fetch, Message,
    ParkedKey, Redrive, Result, Revision, Selection, Settled, Settlement, StartAt, Subscription,
    SubscriptionInfo, SubscriptionName, Subscriptions, TopicName,
};

use super::JetStream;

fn unfinished() -> Error {
    Error::new(ErrorCode::Unavailable, "the engine on NATS JetStream cannot do this yet")
}

#[async_trait]
impl Subscriptions for JetStream {
    async fn put_subscription(&self, _: Subscription, _: Expect) -> Result<Revision> {
        Err(unfinished())
    }

    async fn delete_subscription(&self, _: &SubscriptionName) -> Result<()> {
        Err(unfinished())
    }

    async fn subscription(&self, _: &SubscriptionName) -> Result<SubscriptionInfo> {
        Err(unfinished())
    }

    async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>> {
        Err(unfinished())
    }

    async fn join(&self, _: &SubscriptionName) -> Result<ConsumerId> {
        Err(unfinished())
    }

    fn leave(&self, _: &SubscriptionName, _: ConsumerId) {}

    async fn fetch(&self, _: &SubscriptionName, _: Fetch) -> Result<Vec<Delivery>> {
        Err(unfinished())
    }

    async fn settle(&self, _: &SubscriptionName, _: Settlement) -> Result<Settled> {
        Err(unfinished())
    }

    async fn extend(&self, _: &SubscriptionName, _: &[DeliveryId], _: Duration) -> Result<Settled> {
        Err(unfinished())
    }

    async fn dead_letters(
        &self,
        _: &SubscriptionName,
        _: Option<(TopicName, u64)>,
        _: usize,
    ) -> Result<Vec<DeadLetter>> {
        Err(unfinished())
    }

    async fn redrive(&self, _: &SubscriptionName, _: Redrive) -> Result<usize> {
        Err(unfinished())
    }

    async fn discard(&self, _: &SubscriptionName, _: Selection, _: bool) -> Result<usize> {
        Err(unfinished())
    }

    async fn edit_dead_letter(&self, _: &SubscriptionName, _: &TopicName, _: u64, _: Message) -> Result<()> {
        Err(unfinished())
    }

    async fn set_paused(&self, _: &SubscriptionName, _: bool) -> Result<()> {
        Err(unfinished())
    }

    async fn seek(&self, _: &SubscriptionName, _: Option<&TopicName>, _: StartAt) -> Result<()> {
        Err(unfinished())
    }

    async fn parked_keys(&self, _: &SubscriptionName, _: usize) -> Result<Vec<ParkedKey>> {
        Err(unfinished())
    }

    async fn release_key(&self, _: &SubscriptionName, _: &str, _: bool) -> Result<usize> {
        Err(unfinished())
    }

    async fn explain(&self, _: &TopicName, _: u64) -> Result<Explanation> {
        Err(unfinished())
    }
}
