//! From a subscription to the processes, and back as settlements.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{
    Backoff, Broker, ConsumerId, DeliveryId, Error, ErrorCode, Fetch, Outcome, Settlement, SubscriptionName,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::call::{Call, Finished, Held, Work};
use crate::dispatch::Dispatch;
use crate::failures::Failures;
use crate::pool::Standing;

/// How long one fetch waits for a message.
const WAIT: Duration = Duration::from_secs(20);
/// How often to look whether a subscription that was deleted is back.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The most outcomes in one settlement.
const SETTLE_AT_ONCE: usize = 1024;
/// How often a settlement that fails is tried; then its leases run out, and the messages come again.
const TRIES: u32 = 5;

/// One handler's part in its subscription: fetches as much as its pool has room for, hands it out, keeps the
/// leases of what is held, and settles in batches what has ended.
pub(crate) struct Consumer {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) subscription: SubscriptionName,
    pub(crate) handler: u32,
    pub(crate) timeout: Duration,
    /// How many messages may be held at once, if fixed; otherwise twice what the processes could have.
    pub(crate) credit: Option<usize>,
    /// Where what fails is told.
    pub(crate) failures: Failures,
    /// Where it is told whether the subscription is there.
    pub(crate) standing: watch::Sender<Standing>,
    /// Who settles.
    pub(crate) by: String,
    /// Cancelled when nothing more is to be fetched.
    pub(crate) stop: CancellationToken,
}

#[derive(Default)]
struct Holding {
    deliveries: Mutex<HashSet<DeliveryId>>,
    settled: Notify,
}

impl Consumer {
    /// Runs until it is stopped and all that it held is settled.
    pub(crate) async fn run(self) {
        let holding = Holding::default();
        let mut failures = 0;
        while !self.stop.is_cancelled() {
            let joined = self.broker.join(&self.subscription).await;
            let error = match joined {
                Ok(consumer) => {
                    self.is_missing(false);
                    let (settler, finished) = mpsc::unbounded_channel();
                    let lease = self.lease().await;
                    let (error, ()) = tokio::join!(
                        self.fetch(consumer, settler, &holding, &mut failures),
                        self.settle(finished, &holding, lease)
                    );
                    self.broker.leave(&self.subscription, consumer);
                    error
                }
                Err(error) => Some(error),
            };
            let Some(error) = error else { return };
            failures += 1;
            let missing = error.code == ErrorCode::NotFound;
            if missing {
                self.is_missing(true);
            }
            tracing::warn!(subscription = %self.subscription, %error, "cannot consume, will try again");
            let max = if missing { LOOK_AGAIN } else { Duration::from_secs(10) };
            let wait = Backoff { max, ..Backoff::default() }.wait(failures, rand::random::<u64>());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Says whether the subscription is there, when that has changed.
    fn is_missing(&self, missing: bool) {
        let name = &self.subscription;
        let changed = self.standing.send_if_modified(|standing| {
            if missing { standing.missing.insert(name.clone()) } else { standing.missing.remove(name) }
        });
        if changed {
            self.failures.tell_missing(name, missing);
        }
    }

    /// How long a message may be held before the lease has to be renewed.
    async fn lease(&self) -> Duration {
        let info = self.broker.subscription(&self.subscription).await;
        info.map_or(Duration::from_secs(30), |info| info.subscription.lease)
    }

    /// Fetches until it is stopped, or cannot.
    async fn fetch(
        &self,
        consumer: ConsumerId,
        settler: mpsc::UnboundedSender<Finished>,
        holding: &Holding,
        failures: &mut u32,
    ) -> Option<Error> {
        loop {
            let max = tokio::select! {
                max = self.free(holding) => max,
                () = self.stop.cancelled() => return None,
            };
            let fetch = Fetch::new(Some(consumer), max, WAIT);
            let fetched = tokio::select! {
                fetched = self.broker.fetch(&self.subscription, fetch) => fetched,
                // What a fetch that is given up may have been handed is given back by leaving.
                () = self.stop.cancelled() => return None,
            };
            let deliveries = match fetched {
                Ok(deliveries) => deliveries,
                Err(error) => return Some(error),
            };
            *failures = 0;
            holding.deliveries.lock().extend(deliveries.iter().map(|delivery| delivery.id));
            for delivery in deliveries {
                let held = Held::new(&delivery, settler.clone());
                self.dispatch.submit(Call {
                    handler: self.handler,
                    timeout: self.timeout,
                    work: Work::Message { delivery: Box::new(delivery), held },
                });
            }
        }
    }

    /// How many messages there is room for; waits until there is room for one.
    async fn free(&self, holding: &Holding) -> usize {
        loop {
            let settled = holding.settled.notified();
            let limit = self.credit.unwrap_or_else(|| 2 * self.dispatch.capacity());
            let held = holding.deliveries.lock().len();
            // Not for every single one: fetching a few together costs the broker less.
            if held < limit && (limit - held) * 2 >= limit {
                return limit - held;
            }
            tokio::select! {
                () = settled => {}
                // The processes may have changed.
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
    }

    /// Settles what has ended and renews leases, until nothing is held and nothing more can come.
    async fn settle(
        &self,
        mut finished: mpsc::UnboundedReceiver<Finished>,
        holding: &Holding,
        lease: Duration,
    ) {
        let mut renew = tokio::time::interval(lease / 3);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        renew.reset();
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                count = finished.recv_many(&mut batch, SETTLE_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    let settled = batch.iter().map(|f: &Finished| f.delivery).collect::<Vec<_>>();
                    // While it takes long, the leases of the others must not run out.
                    let settling = self.settle_all(std::mem::take(&mut batch));
                    tokio::pin!(settling);
                    loop {
                        tokio::select! {
                            () = &mut settling => break,
                            _ = renew.tick() => self.renew(holding, lease).await,
                        }
                    }
                    let mut held = holding.deliveries.lock();
                    for delivery in settled {
                        held.remove(&delivery);
                    }
                    drop(held);
                    holding.settled.notify_waiters();
                }
                _ = renew.tick() => self.renew(holding, lease).await,
            }
        }
    }

    async fn renew(&self, holding: &Holding, lease: Duration) {
        let held: Vec<_> = holding.deliveries.lock().iter().copied().collect();
        if !held.is_empty()
            && let Err(error) = self.broker.extend(&self.subscription, &held, lease).await
        {
            tracing::warn!(subscription = %self.subscription, %error, "leases could not be renewed");
        }
    }

    /// Settles those from which nothing came out in one piece, and the others each on their own, beside each other: what
    /// comes out of a message must not depend on which others end at the same moment, so that an engine that stores
    /// outputs first knows them again when the message comes again.
    async fn settle_all(&self, finished: Vec<Finished>) {
        let (quiet, others): (Vec<_>, Vec<_>) = finished.into_iter().partition(|one| one.outputs.is_empty());
        let others = futures::future::join_all(others.into_iter().map(|one| self.settle_alone(one)));
        futures::future::join(others, self.settle_together(quiet)).await;
    }

    /// Settles in one piece, or where one of them stands in the way one by one.
    async fn settle_together(&self, finished: Vec<Finished>) {
        if finished.is_empty() {
            return;
        }
        let outcomes = finished.iter().map(|one| (one.delivery, one.outcome.clone())).collect();
        let together = Settlement { outcomes, outputs: Vec::new(), by: Some(self.by.clone()) };
        match self.settle_one(together).await {
            Ok(()) => self.tell(&finished).await,
            Err(error) if finished.len() == 1 => self.refused(&finished[0], error).await,
            Err(_) => {
                for one in finished {
                    self.settle_alone(one).await;
                }
            }
        }
    }

    async fn settle_alone(&self, one: Finished) {
        let settlement = Settlement {
            outcomes: vec![(one.delivery, one.outcome.clone())],
            outputs: one.outputs.clone(),
            by: Some(self.by.clone()),
        };
        match self.settle_one(settlement).await {
            Ok(()) => self.tell(std::slice::from_ref(&one)).await,
            Err(error) => self.refused(&one, error).await,
        }
    }

    /// A settlement that takes no effect as it is: a stale delivery is delivered again, or has been settled by
    /// another; outputs that cannot be stored fail the message that caused them.
    async fn refused(&self, finished: &Finished, error: Error) {
        if matches!(error.code, ErrorCode::Conflict | ErrorCode::Unavailable) || finished.outputs.is_empty() {
            tracing::warn!(subscription = %self.subscription, %error, "a message could not be settled");
            return;
        }
        let reason = format!("what it published is refused: {error}");
        let failed = Finished {
            delivery: finished.delivery,
            place: finished.place.clone(),
            outcome: Outcome::Retry { after: None, reason },
            outputs: Vec::new(),
        };
        let mut settlement = Settlement::one(failed.delivery, failed.outcome.clone());
        settlement.by = Some(self.by.clone());
        match self.settle_one(settlement).await {
            Ok(()) => self.tell(&[failed]).await,
            Err(error) => {
                tracing::warn!(subscription = %self.subscription, %error, "a message could not be settled");
            }
        }
    }

    /// Tells of those that failed in the service's log.
    async fn tell(&self, settled: &[Finished]) {
        let failed = |one: &Finished| matches!(one.outcome, Outcome::Retry { .. } | Outcome::Reject { .. });
        if settled.iter().any(failed) {
            let definition = self.broker.subscription(&self.subscription).await.ok();
            let definition = definition.map(|info| info.subscription);
            for Finished { place, outcome, .. } in settled {
                self.failures.tell(&self.subscription, definition.as_ref(), place, outcome);
            }
        }
    }

    /// Tries again for a while when the broker has no room.
    async fn settle_one(&self, settlement: Settlement) -> Result<(), Error> {
        let backoff = Backoff { first: Duration::from_millis(50), ..Backoff::default() };
        let mut tries = 0;
        loop {
            match self.broker.settle(&self.subscription, settlement.clone()).await {
                Err(error) if error.code == ErrorCode::Overloaded && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(backoff.wait(tries, rand::random::<u64>())).await;
                }
                settled => return settled.map(|_| ()),
            }
        }
    }
}
