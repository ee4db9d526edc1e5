//! Where a subscription is: what concerns it is asked of the engine that owns it, and asked again of the next one when that
//! one has gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{
    ConsumerId, Delivery, Error, ErrorCode, Expect, Explanation, Fetch, Result, Revision, Shutdown,
    Subscription, SubscriptionInfo, SubscriptionName, Subscriptions, TopicName,
};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::hub::Hub;
use super::owned::moved;
use super::seats::{Place, Seats};
use super::{Here, balance, handing};
use crate::delivery::LONGEST_WAIT;
use crate::jetstream::JetStream;
use crate::jetstream::peers::Peers;

/// How long an engine that has gone may stand in the way: longer than its lease lasts.
const PATIENCE: Duration = Duration::from_secs(15);
/// What is waited for longer than this is told in the log, once in a while.
const LONG: Duration = Duration::from_secs(2);
const ONCE: Duration = Duration::from_secs(30);
/// How long to wait before looking again where a subscription is.
const AGAIN: Duration = Duration::from_millis(20);
/// So many subscriptions are asked after at once.
const AT_ONCE: usize = 32;

/// Whether something is asked again after `Unavailable`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Doing it twice does no harm.
    Always,
    /// Only if it is sure that it was not done.
    IfNothingWasDone,
}

impl Again {
    pub(super) fn after(self, error: &Error) -> bool {
        error.code == ErrorCode::Unavailable && (self == Self::Always || error.retry_after.is_some())
    }
}

/// The ways to all subscriptions of the cluster.
pub(in crate::jetstream) struct Routes {
    hub: Arc<Hub>,
    here: Arc<Here>,
    peers: Peers,
    seats: Seats,
    told: Mutex<HashMap<SubscriptionName, Instant>>,
}

impl JetStream {
    /// Asks the engine that owns a subscription.
    pub(super) async fn ask<'a, T>(
        &self,
        name: &SubscriptionName,
        again: Again,
        ask: impl Fn(Arc<dyn Subscriptions>) -> BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        match &self.routes {
            Some(routes) => routes.ask(name, again, ask).await,
            None => ask(self.here.clone()).await,
        }
    }
}

impl Routes {
    /// Finds the ways, and sees to it that each engine owns its part, until shutdown.
    pub(in crate::jetstream) fn new(
        hub: &Arc<Hub>,
        here: &Arc<Here>,
        peers: Peers,
        shutdown: &Shutdown,
    ) -> Self {
        shutdown.tasks().spawn(balance::run(hub.clone(), peers.clone(), shutdown.clone()));
        Self { hub: hub.clone(), here: here.clone(), peers, seats: Seats::default(), told: Mutex::default() }
    }

    /// Leaves the cluster: nothing more is asked here, what consumers of this engine hold is given back, and what it owns is
    /// handed over to those who stay, if there is somebody. Whoever calls bounds the time.
    pub(in crate::jetstream) async fn go(&self) {
        self.hub.leave();
        self.seats.clear();
        handing::hand_over_all(&self.hub, &self.peers).await;
    }

    /// Whether a subscription is this engine's.
    pub(super) fn is_here(&self, name: &SubscriptionName) -> bool {
        self.hub.at_work(name).is_some()
    }

    /// Where a subscription is. What nobody owns is this engine's from now on.
    async fn place(&self, name: &SubscriptionName, until: Instant) -> Result<Place> {
        let began = Instant::now();
        loop {
            self.hub.check_staying()?;
            if let Some(owned) = self.hub.at_work(name) {
                return Ok(Place::Here(owned));
            }
            let id = self.hub.definitions.number(name).await?;
            let found = match self.hub.owners.of(id) {
                None => match self.hub.owners.claim(id, name).await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
                Some(owner) if self.hub.owners.is_me(&owner) => self.hub.owned(name).await.map(Place::Here),
                Some(owner) => self.peers.get(&owner, until).await.map(Place::There),
            };
            match found {
                Err(error) if error.code == ErrorCode::Unavailable && Instant::now() < until => {
                    self.look_again(name, began, &error).await;
                }
                done => return done,
            }
        }
    }

    /// Waits a moment before something is asked again, of which nothing came since `began`.
    async fn look_again(&self, name: &SubscriptionName, began: Instant, error: &Error) {
        tracing::debug!(subscription = %name, %error, "it is looked for again");
        if began.elapsed() > LONG {
            let mut told = self.told.lock();
            told.retain(|_, when| when.elapsed() < ONCE);
            if told.insert(name.clone(), Instant::now()).is_none() {
                tracing::warn!(subscription = %name, %error, "the server that owns it is waited for, or the next one");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }

    fn at(&self, place: &Place) -> Arc<dyn Subscriptions> {
        match place {
            Place::Here(_) => self.here.clone(),
            Place::There(remote) => remote.clone(),
        }
    }

    async fn ask<'a, T>(
        &self,
        name: &SubscriptionName,
        again: Again,
        ask: impl Fn(Arc<dyn Subscriptions>) -> BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        let began = Instant::now();
        let until = began + PATIENCE;
        loop {
            let place = self.place(name, until).await?;
            match ask(self.at(&place)).await {
                Err(error) if again.after(&error) && Instant::now() < until => {
                    self.look_again(name, began, &error).await;
                }
                done => return done,
            }
        }
    }

    /// As [`Subscriptions::put_subscription`]. A new one is this engine's, one that is there is changed where it is.
    pub(super) async fn put(&self, subscription: Subscription, expect: Expect) -> Result<Revision> {
        let again = if expect == Expect::Any { Again::Always } else { Again::IfNothingWasDone };
        while self.hub.definitions.still_has(&subscription.name).await? {
            let put = self.ask(&subscription.name, again, |place| {
                let subscription = subscription.clone();
                Box::pin(async move { place.put_subscription(subscription, expect).await })
            });
            match put.await {
                // It was deleted meanwhile, unless it is a topic that is not there.
                Err(error)
                    if error.code == ErrorCode::NotFound
                        && !self.hub.definitions.still_has(&subscription.name).await? => {}
                done => return done,
            }
        }
        self.here.put_subscription(subscription, expect).await
    }

    /// As [`Subscriptions::subscriptions`].
    pub(super) async fn all(&self) -> Result<Vec<SubscriptionInfo>> {
        self.hub.check_staying()?;
        let all = self.hub.definitions.all().await?;
        let infos = futures::stream::iter(all).map(|subscription| async move {
            let name = &subscription.name;
            let info = self.ask(name, Again::Always, |place| {
                let name = name.clone();
                Box::pin(async move { place.subscription(&name).await })
            });
            match info.await {
                Ok(info) => Ok(Some(info)),
                // It was deleted meanwhile.
                Err(error) if error.code == ErrorCode::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        });
        let infos: Vec<_> = infos.buffer_unordered(AT_ONCE).try_collect().await?;
        let mut infos: Vec<SubscriptionInfo> = infos.into_iter().flatten().collect();
        infos.sort_by(|a, b| a.subscription.name.cmp(&b.subscription.name));
        Ok(infos)
    }

    /// As [`Subscriptions::join`].
    pub(super) async fn join(&self, name: &SubscriptionName) -> Result<ConsumerId> {
        let began = Instant::now();
        let until = began + PATIENCE;
        loop {
            let place = self.place(name, until).await?;
            match self.at(&place).join(name).await {
                Ok(called) => return Ok(self.seats.add(name, place, called, || self.hub.number())),
                Err(error) if Again::Always.after(&error) && Instant::now() < until => {
                    self.look_again(name, began, &error).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`Subscriptions::leave`].
    pub(super) fn leave(&self, consumer: ConsumerId) {
        self.seats.remove(consumer);
    }

    /// As [`Subscriptions::fetch`]. Where the owner goes away, the next one is waited for, also beyond the fetch's own wait:
    /// nobody can say before that whether there is something.
    pub(super) async fn fetch(&self, name: &SubscriptionName, fetch: Fetch) -> Result<Vec<Delivery>> {
        let mut began = Instant::now();
        let deadline = began + fetch.wait.min(LONGEST_WAIT);
        let mut until = None;
        loop {
            let asked = Instant::now();
            let place = self.place(name, until.unwrap_or(asked + PATIENCE)).await?;
            let at = self.at(&place);
            let fetching = async {
                let consumer = match fetch.consumer {
                    None => None,
                    Some(consumer) => Some(self.seats.sit(consumer, &place, at.clone()).await?),
                };
                let wait = deadline.saturating_duration_since(Instant::now());
                at.fetch(name, Fetch { consumer, wait, ..fetch.clone() }).await
            };
            let error = match fetching.await {
                Ok(deliveries) => return Ok(deliveries),
                Err(error) => error,
            };
            self.hub.check_staying()?;
            let error = match error.code {
                ErrorCode::Unavailable => error,
                // It may be the consumer who is not known there (any more): it joins again.
                ErrorCode::NotFound
                    if fetch.consumer.is_some_and(|consumer| self.seats.stands(consumer, &place))
                        && self.hub.definitions.has(name).await? =>
                {
                    moved(name)
                }
                _ => return Err(error),
            };
            let now = Instant::now();
            if until.is_none() || (now < deadline && now - asked > LONG) {
                // It has waited for messages until now.
                (began, until) = (now, Some(now + PATIENCE));
            }
            if until.is_some_and(|until| now >= until.max(deadline)) {
                return Err(error);
            }
            self.look_again(name, began, &error).await;
        }
    }

    /// As [`Subscriptions::explain`].
    pub(super) async fn explain(&self, topic: &TopicName, offset: u64) -> Result<Explanation> {
        let until = Instant::now() + PATIENCE;
        let mut explanation = self.here.explain(topic, offset).await?;
        let mut all = self.hub.definitions.all().await?;
        all.retain(|subscription| subscription.topics.iter().any(|p| p.matches(topic.as_str())));
        let mut places: Vec<Place> = Vec::new();
        for subscription in &all {
            match self.place(&subscription.name, until).await {
                Ok(place) if !places.iter().any(|known| known.asks_the_same_as(&place)) => places.push(place),
                Ok(_) => {}
                Err(error) if error.code == ErrorCode::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        explanation.subscriptions.clear();
        for place in places {
            let there = self.at(&place).explain(topic, offset).await?;
            for mut situation in there.subscriptions {
                situation.consumer =
                    situation.consumer.map(|called| self.seats.known(called, &situation.subscription));
                explanation.subscriptions.push(situation);
            }
        }
        explanation.subscriptions.sort_by(|a, b| a.subscription.cmp(&b.subscription));
        Ok(explanation)
    }
}
