//! Fetching: what is taken is looked up, and waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossdock_topics::{Delivery, DeliveryId, Error, Fetch, Outcome, Record, Result, Settlement, Timestamp};
use tokio::time::Instant;

use super::block::Block;
use super::feed::{Feed, READ_BYTES};
use super::subscription::SubscriptionState;
use super::take::{Again, Taken};
use super::{Blocks, Engine, LONGEST_WAIT, sift};

/// How often a waiting fetch looks at the clock at least.
const LOOK: Duration = Duration::from_secs(10);

impl SubscriptionState {
    /// Takes messages, waiting for the first one as long as the fetch says. Dropped before it resolves, it has taken
    /// none.
    pub(crate) async fn fetch(self: &Arc<Self>, engine: &impl Engine, fetch: Fetch) -> Result<Vec<Delivery>> {
        let deadline = Instant::now() + fetch.wait.min(LONGEST_WAIT);
        let fetch = Fetch { max: fetch.max.max(1), max_bytes: fetch.max_bytes.max(1), ..fetch };
        // Waiting is announced before looking, so that nothing that comes in between is missed; and whoever ends it,
        // with messages or without, lets the next one look for what it may have been woken for.
        let _waiting = self.wait();
        loop {
            let available = self.available();
            tokio::pin!(available);
            available.as_mut().enable();
            engine.check_open()?;
            if self.is_deleted() {
                return Err(Error::not_found("subscription", &self.name));
            }
            let taken = self.take_now(engine, &fetch).await?;
            if let Some(consumer) = fetch.consumer.filter(|_| taken.has_left) {
                return Err(Error::not_found("consumer", consumer.0)
                    .hint("join first; whoever has left gets nothing"));
            }
            if taken.must_join {
                let message =
                    format!("subscription {} is not shared: whoever fetches must have joined", self.name);
                return Err(Error::invalid(message).hint("join first, and name the consumer"));
            }
            if !taken.deliveries.is_empty() {
                return Ok(taken.deliveries);
            }
            let now = engine.now();
            let sleep =
                taken.wakes_at.map_or(LOOK, |at| at.since(now).max(Duration::from_millis(1)).min(LOOK));
            let until = deadline.min(Instant::now() + sleep);
            let woken = tokio::time::timeout_at(until, available).await.is_ok();
            if !woken && Instant::now() >= deadline {
                return Ok(Vec::new());
            }
        }
    }

    /// Takes messages now, reading the disk where it must; empty when there are none.
    async fn take_now(self: &Arc<Self>, engine: &impl Engine, fetch: &Fetch) -> Result<Taken> {
        loop {
            let mut taken = self.take(fetch, engine.now());
            let forgotten = self.look_up_again(engine, &mut taken).await?;
            if taken.changed && !self.persist_asked.swap(true, Ordering::AcqRel) {
                engine.persist_soon(self)?;
            }
            if let Some(unjudged) = taken.unjudged.take() {
                let judged = sift::judge(self, unjudged);
                // What has been taken already is not kept waiting, nor lost with whoever gives up waiting.
                if taken.deliveries.is_empty() {
                    let _ = tokio::time::timeout(sift::PATIENCE, judged?).await;
                    continue;
                }
            }
            if !taken.deliveries.is_empty() {
                return Ok(taken);
            }
            if let Some(missing) = taken.missing.take() {
                let from = missing.offset.max(missing.log.head());
                let blocks = engine.blocks(&missing.log, from, READ_BYTES).await?;
                // Whatever has become of that topic, it is not waited for here.
                if !self.supply(&missing, blocks)? {
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
    async fn look_up_again(&self, engine: &impl Engine, taken: &mut Taken) -> Result<bool> {
        if taken.again.is_empty() {
            return Ok(false);
        }
        // Whoever asks may go away while the disk is read, and the disk may fail.
        let held = taken.deliveries.iter().map(|delivery| delivery.id);
        let held = held.chain(taken.again.iter().map(|again| again.id)).collect();
        let mut unread = Unread { engine, state: self, deliveries: held };
        // What is delivered again often lies close together, if not in order.
        let again = std::mem::take(&mut taken.again);
        let mut by_place: Vec<usize> = (0..again.len()).collect();
        by_place.sort_unstable_by_key(|index| (again[*index].id.log, again[*index].id.offset));
        let mut found: Vec<Option<(Timestamp, Record)>> = vec![None; again.len()];
        let mut near: Option<(u32, Arc<Block>)> = None;
        for index in by_place {
            let Again { log, id, .. } = &again[index];
            if near.as_ref().is_none_or(|(of, block)| *of != log.id || !block.range().contains(&id.offset)) {
                near = block(engine, log, id.offset).await?.map(|block| (log.id, block));
            }
            let message = near.as_ref().and_then(|(_, block)| block.find(id.offset));
            let message = message.map(|found| (found.time, found.record));
            found[index] = match self.mended(engine, log, id.offset)? {
                Some(mended) => message.map(|(time, _)| (time, mended)),
                None => message,
            };
        }
        let now = engine.now();
        let mut forgotten = false;
        let mut others = std::mem::take(&mut taken.deliveries).into_iter().enumerate().peekable();
        for (Again { log, id, attempt, deliveries, after }, found) in again.into_iter().zip(found) {
            while let Some((_, delivery)) = others.next_if(|(index, _)| *index < after) {
                taken.deliveries.push(delivery);
            }
            let is_current = |record: &Record| record.expires_at().is_none_or(|expiry| expiry > now);
            let Some((time, record)) = found.filter(|(_, record)| is_current(record)) else {
                self.forget(id, now);
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
}

/// One message of a topic, wherever it is.
pub(crate) async fn look_up(
    engine: &impl Blocks,
    log: &Arc<Feed>,
    offset: u64,
) -> Result<Option<(Timestamp, Record)>> {
    let block = block(engine, log, offset).await?;
    let found = block.and_then(|block| block.find(offset));
    Ok(found.map(|found| (found.time, found.record)))
}

/// The block that holds a message, wherever it is.
async fn block(engine: &impl Blocks, log: &Arc<Feed>, offset: u64) -> Result<Option<Arc<Block>>> {
    let blocks = engine.blocks(log, offset, 0).await?;
    Ok(blocks.into_iter().next().filter(|block| block.range().contains(&offset)))
}

/// Deliveries that were taken and have not reached anybody. Dropping it gives them back.
struct Unread<'a, E: Engine> {
    engine: &'a E,
    state: &'a SubscriptionState,
    deliveries: Vec<DeliveryId>,
}

impl<E: Engine> Drop for Unread<'_, E> {
    fn drop(&mut self) {
        if !self.deliveries.is_empty() {
            let outcomes = self.deliveries.drain(..).map(|id| (id, Outcome::Release)).collect();
            let settlement = Settlement { outcomes, ..Settlement::default() };
            self.state.settle(&settlement, false, self.engine.now());
        }
    }
}
