//! Subscriptions, as [`Subscriptions`] has them.
//!
//! Each is owned by one engine at a time ([`owners`]), which works as the embedded one does ([`owned`]). What is asked of
//! another engine's goes to that one ([`routes`]).

mod attach;
mod balance;
mod catch_up;
mod definitions;
mod elsewhere;
mod entry;
mod handing;
mod here;
mod hub;
mod journal;
pub(in crate::jetstream) mod moving;
mod outputs;
mod owned;
mod owners;
mod pass;
mod routes;
mod seats;
mod topics;

use std::time::Duration;

use async_trait::async_trait;
use crossdock_topics::{
    ConsumerId, DeadLetter, Delivery, DeliveryId, Expect, Explanation, Fetch, Message, ParkedKey, Redrive,
    Result, Revision, Selection, Settled, Settlement, StartAt, Subscription, SubscriptionInfo,
    SubscriptionName, Subscriptions, TopicName,
};

use super::JetStream;
pub(super) use here::Here;
pub(super) use hub::Hub;
use routes::Again;
pub(super) use routes::Routes;

#[async_trait]
impl Subscriptions for JetStream {
    async fn put_subscription(&self, subscription: Subscription, expect: Expect) -> Result<Revision> {
        match &self.routes {
            None => self.here.put_subscription(subscription, expect).await,
            Some(routes) => routes.put(subscription, expect).await,
        }
    }

    async fn delete_subscription(&self, name: &SubscriptionName) -> Result<()> {
        self.ask(name, Again::IfNothingWasDone, |place| {
            Box::pin(async move { place.delete_subscription(name).await })
        })
        .await
    }

    async fn subscription(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        self.ask(name, Again::Always, |place| Box::pin(async move { place.subscription(name).await })).await
    }

    async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>> {
        match &self.routes {
            None => self.here.subscriptions().await,
            Some(routes) => routes.all().await,
        }
    }

    async fn join(&self, name: &SubscriptionName) -> Result<ConsumerId> {
        match &self.routes {
            None => self.here.join(name).await,
            Some(routes) => routes.join(name).await,
        }
    }

    fn leave(&self, name: &SubscriptionName, consumer: ConsumerId) {
        match &self.routes {
            None => self.here.leave(name, consumer),
            Some(routes) => routes.leave(consumer),
        }
    }

    async fn fetch(&self, name: &SubscriptionName, fetch: Fetch) -> Result<Vec<Delivery>> {
        match &self.routes {
            None => self.here.fetch(name, fetch).await,
            Some(routes) => routes.fetch(name, fetch).await,
        }
    }

    async fn settle(&self, name: &SubscriptionName, settlement: Settlement) -> Result<Settled> {
        let mut settlement = settlement;
        if self.routes.as_ref().is_none_or(|routes| routes.is_here(name)) {
            // Outputs are not copied only because it may have to be asked again.
            let same = settlement.outputs.is_empty().then(|| settlement.clone());
            match (self.here.settle(name, settlement).await, same) {
                (Err(error), Some(same)) if Again::IfNothingWasDone.after(&error) => settlement = same,
                (done, _) => return done,
            }
        }
        self.ask(name, Again::IfNothingWasDone, |place| {
            let settlement = settlement.clone();
            Box::pin(async move { place.settle(name, settlement).await })
        })
        .await
    }

    async fn extend(
        &self,
        name: &SubscriptionName,
        deliveries: &[DeliveryId],
        lease: Duration,
    ) -> Result<Settled> {
        self.ask(name, Again::Always, |place| {
            Box::pin(async move { place.extend(name, deliveries, lease).await })
        })
        .await
    }

    async fn dead_letters(
        &self,
        name: &SubscriptionName,
        after: Option<(TopicName, u64)>,
        max: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.ask(name, Again::Always, |place| {
            let after = after.clone();
            Box::pin(async move { place.dead_letters(name, after, max).await })
        })
        .await
    }

    async fn redrive(&self, name: &SubscriptionName, redrive: Redrive) -> Result<usize> {
        self.ask(name, Again::IfNothingWasDone, |place| {
            let redrive = redrive.clone();
            Box::pin(async move { place.redrive(name, redrive).await })
        })
        .await
    }

    async fn discard(&self, name: &SubscriptionName, selection: Selection, dry_run: bool) -> Result<usize> {
        self.ask(name, Again::IfNothingWasDone, |place| {
            let selection = selection.clone();
            Box::pin(async move { place.discard(name, selection, dry_run).await })
        })
        .await
    }

    async fn edit_dead_letter(
        &self,
        name: &SubscriptionName,
        topic: &TopicName,
        offset: u64,
        message: Message,
    ) -> Result<()> {
        self.ask(name, Again::Always, |place| {
            let message = message.clone();
            Box::pin(async move { place.edit_dead_letter(name, topic, offset, message).await })
        })
        .await
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.ask(name, Again::Always, |place| Box::pin(async move { place.set_paused(name, paused).await }))
            .await
    }

    async fn seek(&self, name: &SubscriptionName, topic: Option<&TopicName>, to: StartAt) -> Result<()> {
        self.ask(name, Again::IfNothingWasDone, |place| {
            Box::pin(async move { place.seek(name, topic, to).await })
        })
        .await
    }

    async fn parked_keys(&self, name: &SubscriptionName, max: usize) -> Result<Vec<ParkedKey>> {
        self.ask(name, Again::Always, |place| Box::pin(async move { place.parked_keys(name, max).await }))
            .await
    }

    async fn release_key(&self, name: &SubscriptionName, key: &str, give_up: bool) -> Result<usize> {
        self.ask(name, Again::IfNothingWasDone, |place| {
            Box::pin(async move { place.release_key(name, key, give_up).await })
        })
        .await
    }

    async fn explain(&self, topic: &TopicName, offset: u64) -> Result<Explanation> {
        match &self.routes {
            None => self.here.explain(topic, offset).await,
            Some(routes) => routes.explain(topic, offset).await,
        }
    }
}
