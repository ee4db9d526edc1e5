//! Subscriptions, as [`Subscriptions`] has them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use crossdock_topics::{
    Batch, ConsumerId, DeadLetter, Delivery, DeliveryId, Error, Expect, Explanation, Fetch, Message, Outcome,
    ParkedKey, Record, Redrive, Result, Revision, Selection, Settled, Settlement, StartAt, Subscription,
    SubscriptionInfo, SubscriptionName, Subscriptions, Timestamp, TopicName,
};
use tokio::time::Instant;

use super::block::Block;
use super::log::{READ_BYTES, TopicLog};
use super::sieve::Sieve;
use super::subscription::SubscriptionState;
use super::take::{Again, Taken};
use super::writer::{Command, Operation};
use super::{Embedded, LONGEST_WAIT, Shared, sift};

/// How often a waiting fetch looks at the clock at least.
const LOOK: Duration = Duration::from_secs(10);

impl Shared {
    /// Takes messages now, reading the disk where it must; empty when there are none.
    async fn take(self: &Arc<Self>, state: &Arc<SubscriptionState>, fetch: &Fetch) -> Result<Taken> {
        loop {
            let mut taken = state.take(fetch, self.clock.now());
            let forgotten = self.look_up_again(state, &mut taken).await?;
            if taken.changed && !state.persist_asked.swap(true, Ordering::AcqRel) {
                self.command(Command::Persist(state.clone()))?;
            }
            if let Some(unjudged) = taken.unjudged.take() {
                let judged = sift::judge(state, unjudged);
                // What has been taken already is not kept waiting, nor lost with whoever gives up waiting.
                if taken.deliveries.is_empty() {
                    let _ = tokio::time::timeout(sift::PATIENCE, judged?).await;
                    continue;
                }
            }
            if !taken.deliveries.is_empty() {
                return Ok(taken);
            }
            if let Some((log, offset)) = taken.missing.take() {
                let blocks = self.blocks(&log, offset.max(log.head()), READ_BYTES).await?;
                // Whatever has become of that topic, it is not waited for here.
                if !state.supply(&log, offset, blocks)? {
                    return Ok(taken);
                }
            } else if taken.unfinished {
                // However much is passed over, others have their turn in between.
                tokio::task::yield_now().await;
            } else if !forgotten {
                return Ok(taken);
            }
        }
    }

    /// Looks up the records of what is delivered and was looked at before; gives whether some of it cannot be
    /// delivered any more.
    async fn look_up_again(
        self: &Arc<Self>,
        state: &Arc<SubscriptionState>,
        taken: &mut Taken,
    ) -> Result<bool> {
        if taken.again.is_empty() {
            return Ok(false);
        }
        // Whoever asks may go away while the disk is read, and the disk may fail.
        let held = taken.deliveries.iter().map(|delivery| delivery.id);
        let held = held.chain(taken.again.iter().map(|again| again.id)).collect();
        let mut unread = Unread { shared: self, state, deliveries: held };
        // What is delivered again often lies close together, if not in order.
        let again = std::mem::take(&mut taken.again);
        let mut by_place: Vec<usize> = (0..again.len()).collect();
        by_place.sort_unstable_by_key(|index| (again[*index].id.log, again[*index].id.offset));
        let mut found: Vec<Option<(Timestamp, Record)>> = vec![None; again.len()];
        let mut near: Option<(u32, Arc<Block>)> = None;
        for index in by_place {
            let Again { log, id, .. } = &again[index];
            if near.as_ref().is_none_or(|(of, block)| *of != log.id || !block.range().contains(&id.offset)) {
                near = self.block(log, id.offset).await?.map(|block| (log.id, block));
            }
            let message = near.as_ref().and_then(|(_, block)| block.find(id.offset));
            let message = message.map(|found| (found.time, found.record));
            found[index] = match self.mended(state, log, id.offset)? {
                Some(mended) => message.map(|(time, _)| (time, mended)),
                None => message,
            };
        }
        let now = self.clock.now();
        let mut forgotten = false;
        let mut others = std::mem::take(&mut taken.deliveries).into_iter().enumerate().peekable();
        for (Again { log, id, attempt, deliveries, after }, found) in again.into_iter().zip(found) {
            while let Some((_, delivery)) = others.next_if(|(index, _)| *index < after) {
                taken.deliveries.push(delivery);
            }
            let is_current = |record: &Record| record.expires_at().is_none_or(|expiry| expiry > now);
            let Some((time, record)) = found.filter(|(_, record)| is_current(record)) else {
                state.forget(id, now);
                (forgotten, taken.changed) = (true, true);
                continue;
            };
            let (topic, offset) = (log.name.clone(), id.offset);
            taken.deliveries.push(Delivery { id, topic, offset, time, attempt, deliveries, record });
        }
        taken.deliveries.extend(others.map(|(_, delivery)| delivery));
        unread.deliveries.clear();
        Ok(forgotten)
    }

    /// One message of a topic, wherever it is.
    pub(super) async fn look_up(
        self: &Arc<Self>,
        log: &Arc<TopicLog>,
        offset: u64,
    ) -> Result<Option<(Timestamp, Record)>> {
        let block = self.block(log, offset).await?;
        let found = block.and_then(|block| block.find(offset));
        Ok(found.map(|found| (found.time, found.record)))
    }

    /// The block that holds a message, wherever it is.
    async fn block(self: &Arc<Self>, log: &Arc<TopicLog>, offset: u64) -> Result<Option<Arc<Block>>> {
        let blocks = self.blocks(log, offset, 0).await?;
        Ok(blocks.into_iter().next().filter(|block| block.range().contains(&offset)))
    }

    /// Has an operation carried out; gives how much there was to do it to.
    pub(super) async fn operate(&self, name: &SubscriptionName, operation: Operation) -> Result<usize> {
        self.check_open()?;
        let subscription = self.subscription(name)?;
        self.ask(|answer| Command::Operate { subscription, operation, answer }).await
    }

    /// Finds the topics that outputs go to, and checks that they may.
    fn outputs(&self, outputs: Vec<(TopicName, Batch)>) -> Result<Vec<(Arc<TopicLog>, Batch)>> {
        outputs
            .into_iter()
            .map(|(topic, batch)| {
                let log = self.topic(&topic)?;
                self.admit(&log, &batch)?;
                Ok((log, batch))
            })
            .collect()
    }
}

/// Deliveries that were taken and have not reached anybody. Dropping it gives them back.
struct Unread<'a> {
    shared: &'a Shared,
    state: &'a SubscriptionState,
    deliveries: Vec<DeliveryId>,
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        if !self.deliveries.is_empty() {
            let outcomes = self.deliveries.drain(..).map(|id| (id, Outcome::Release)).collect();
            let settlement = Settlement { outcomes, ..Settlement::default() };
            self.state.settle(&settlement, false, self.shared.clock.now());
        }
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
        let state = self.shared.subscription(name)?;
        let deadline = Instant::now() + fetch.wait.min(LONGEST_WAIT);
        let fetch = Fetch { max: fetch.max.max(1), max_bytes: fetch.max_bytes.max(1), ..fetch };
        // Waiting is announced before looking, so that nothing that comes in between is missed; and whoever ends it,
        // with messages or without, lets the next one look for what it may have been woken for.
        let _waiting = state.wait();
        loop {
            let available = state.available();
            tokio::pin!(available);
            available.as_mut().enable();
            self.shared.check_open()?;
            if state.is_deleted() {
                return Err(Error::not_found("subscription", name));
            }
            let taken = self.shared.take(&state, &fetch).await?;
            if let Some(consumer) = fetch.consumer.filter(|_| taken.has_left) {
                return Err(Error::not_found("consumer", consumer.0)
                    .hint("join first; whoever has left gets nothing"));
            }
            if taken.must_join {
                let message = format!("subscription {name} is not shared: whoever fetches must have joined");
                return Err(Error::invalid(message).hint("join first, and name the consumer"));
            }
            if !taken.deliveries.is_empty() {
                return Ok(taken.deliveries);
            }
            let now = self.shared.clock.now();
            let sleep =
                taken.wakes_at.map_or(LOOK, |at| at.since(now).max(Duration::from_millis(1)).min(LOOK));
            let until = deadline.min(Instant::now() + sleep);
            let woken = tokio::time::timeout_at(until, available).await.is_ok();
            if !woken && Instant::now() >= deadline {
                return Ok(Vec::new());
            }
        }
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
        let state = self.shared.subscription(name)?;
        self.shared.dead_letters(&state, after.as_ref(), max).await
    }

    async fn redrive(&self, name: &SubscriptionName, redrive: Redrive) -> Result<usize> {
        self.shared.redrive(name, redrive).await
    }

    async fn discard(&self, name: &SubscriptionName, selection: Selection, dry_run: bool) -> Result<usize> {
        self.shared.discard(name, selection, dry_run).await
    }

    async fn edit_dead_letter(
        &self,
        name: &SubscriptionName,
        topic: &TopicName,
        offset: u64,
        message: Message,
    ) -> Result<()> {
        self.shared.mend(name, topic, offset, &message).await
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.shared.operate(name, Operation::Pause(paused)).await.map(drop)
    }

    async fn seek(&self, name: &SubscriptionName, topic: Option<&TopicName>, to: StartAt) -> Result<()> {
        self.shared.operate(name, Operation::Seek { topic: topic.cloned(), to }).await.map(drop)
    }

    async fn parked_keys(&self, name: &SubscriptionName, max: usize) -> Result<Vec<ParkedKey>> {
        let state = self.shared.subscription(name)?;
        self.shared.parked_keys(&state, max).await
    }

    async fn release_key(&self, name: &SubscriptionName, key: &str, give_up: bool) -> Result<usize> {
        let state = self.shared.subscription(name)?;
        let parked = self.shared.where_parked(&state, key).await?;
        self.shared.operate(name, Operation::ReleaseKeys { parked, give_up }).await
    }

    async fn explain(&self, topic: &TopicName, offset: u64) -> Result<Explanation> {
        self.shared.explain(topic, offset).await
    }
}
